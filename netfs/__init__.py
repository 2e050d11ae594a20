"""The client: the filesystem API, the request library, the caches and the front ends."""

from netfs.errors import NotReachable
from netfs.fs.client import Client, Entry, open_client
from netfs.fs.file import File
from netfs.fs.url import Url, parse_url

__all__ = ["Client", "Entry", "File", "NotReachable", "Url", "open_client", "parse_url"]
