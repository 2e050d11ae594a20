"""The client: the filesystem API, the request library, the caches and the front ends."""

from typing import TYPE_CHECKING

from transport.on_demand import on_demand

if TYPE_CHECKING:
    from netfs.errors import NotReachable
    from netfs.fs.client import Client, Entry, open_client
    from netfs.fs.file import File
    from netfs.fs.url import Url, parse_url
    from netfs.fscache import CacheLimits, LocalCache
else:
    __getattr__ = on_demand(
        __name__,
        {
            "CacheLimits": "netfs.fscache.limits",
            "Client": "netfs.fs.client",
            "Entry": "netfs.fs.client",
            "File": "netfs.fs.file",
            "LocalCache": "netfs.fscache.service",
            "NotReachable": "netfs.errors",
            "Url": "netfs.fs.url",
            "open_client": "netfs.fs.client",
            "parse_url": "netfs.fs.url",
        },
    )

__all__ = ["CacheLimits", "Client", "Entry", "File", "LocalCache", "NotReachable", "Url", "open_client", "parse_url"]
