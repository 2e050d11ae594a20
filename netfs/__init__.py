"""The client: the filesystem API, the request library, the caches and the front ends."""

from typing import TYPE_CHECKING

from transport.on_demand import on_demand

if TYPE_CHECKING:
    from netfs.errors import NotReachable
    from netfs.fs.client import Client, Entry, open_client
    from netfs.fs.file import File
    from netfs.fs.url import Url, parse_url
else:
    __getattr__ = on_demand(
        __name__,
        {
            "Client": "netfs.fs.client",
            "Entry": "netfs.fs.client",
            "File": "netfs.fs.file",
            "NotReachable": "netfs.errors",
            "Url": "netfs.fs.url",
            "open_client": "netfs.fs.client",
            "parse_url": "netfs.fs.url",
        },
    )

__all__ = ["Client", "Entry", "File", "NotReachable", "Url", "open_client", "parse_url"]
