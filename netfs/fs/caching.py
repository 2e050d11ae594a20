"""Trio shell. Which cookie of the local cache belongs to which file of a client, and what the cache is told of it.

A plain file is known by its server and handle, and what was cached is believed while the server says of the file what it said
then. An encrypted one is known by its volume's key and its own number, and its blocks answer for themselves. Owns no memory.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from iov.probe import Probe
from netfs.engine.park import park
from netfs.fs.inode import Inode
from netfs.fs.leases import Leases
from netfs.fscache.service import LocalCache, disk_granule
from transport.env import Env
from transport.errors import TransportError
from transport.messages import Attr

if TYPE_CHECKING:
    from netfs.fscache.cookie import DiskCookie
    from netfs.fscache.service import RunningCache

__all__ = ["FileCaching", "run_caching"]


class FileCaching:
    """The local cache of one client. server: names the server, or is None when only encrypted files can be told apart."""

    def __init__(self, cache: "RunningCache", server: str | None) -> None:
        self.cache = cache
        self._server = server
        self._volumes: dict[str, str] = {}
        self._cookies: dict[Inode, DiskCookie] = {}

    async def opened(self, inode: Inode, attr: Attr, size: int, modified: int) -> None:
        """Look the file up in the cache, after the server has told of it. modified: the inode's, from before it was asked.

        Cancellation: it may be used all the same.
        """
        ops = inode.file_ops
        identity = ops.cache_identity(attr, size)
        server = identity.volume or self._server
        if server is None:
            return
        cookie = self._cookies.get(inode)
        if cookie is None:
            if server not in self._volumes:
                self._volumes[server] = self.cache.volume(server)
            granule = disk_granule(inode.mapping.unit, ops.block_size)
            cookie = self.cache.cookie(self._volumes[server], identity.key, granule, sealed=ops.seals)
            self._cookies[inode] = inode.cookie = cookie
        if not cookie.users:
            cookie.users = 1
        cookie.modified = lambda: inode.modified != modified
        cookie.use(identity.coherency, identity.size)
        while cookie.busy:
            await park(cookie.settled)

    async def written(self, inode: Inode, leases: Leases) -> None:
        """Keep what was written to a file whose last descriptor is being closed, if nobody else can have changed it meanwhile.

        Without a write lease all that time the server's word of now may be about another client's write, and is not taken.
        Cancellation: nothing is kept for the next open.
        """
        cookie, modified = self._cookies.get(inode), inode.modified

        def is_over() -> bool:
            return cookie is not None and cookie.keeps and inode.settled and inode.opens == 1 and inode.modified == modified

        if cookie is None or not cookie.modified() or not is_over():
            return
        try:
            attr = await leases.vouched(inode.handle, inode.change)
        except (OSError, TransportError):
            return  # the file goes on without
        if attr is None or attr.size != inode.sizes.i_size or not is_over():
            return
        cookie.keep(inode.file_ops.cache_identity(attr, attr.size).coherency)
        cookie.modified = lambda: inode.modified != modified

    def closed(self, inode: Inode) -> None:
        """The last descriptor of a file was closed; what is cached of it stays."""
        cookie = self._cookies.get(inode)
        if cookie is not None:
            cookie.users = 0

    def forgotten(self, inode: Inode) -> None:
        """The client keeps nothing of the file any more."""
        inode.cookie = None
        cookie = self._cookies.pop(inode, None)
        if cookie is not None:
            self.cache.relinquish(cookie)


@asynccontextmanager
async def run_caching(
    cache: LocalCache | str | os.PathLike[str], server: str | None, env: Env, probe: Probe
) -> AsyncIterator[FileCaching]:  # fmt: skip
    """Run a local cache for the length of a block. Cancellation: as `LocalCache.run`."""
    local = cache if isinstance(cache, LocalCache) else LocalCache(cache)
    async with local.run(env, probe) as running:
        yield FileCaching(running, local.server or server)
