"""The local cache: a directory that keeps what was read from servers, across runs."""

from netfs.fscache.limits import CacheLimits
from netfs.fscache.service import LocalCache

__all__ = ["CacheLimits", "LocalCache"]
