"""Sans-IO. Inode: a file of the server as one client knows it, shared by all its descriptors.

Coherence is close-to-open: what another client wrote and closed is seen by whoever opens afterwards. At an open the server's
`change` attribute is compared; when it has moved, clean folios are dropped. After own writes the attribute has moved too and the
cache cannot tell why, so folios of a file written here are dropped at its next open as well; while a lease lasts, nothing is
asked, and nothing dropped. Owns no memory.
"""

from iov.pool import BufferPool
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.engine.inode import NetfsInode
from netfs.fs.own import Own
from netfs.fs.volume import FileOps
from transport.messages import Attr, Handle

__all__ = ["Inode"]


class Inode(NetfsInode):
    """A regular file of a client. opens: descriptors; change: of the last attributes seen at an open; own: it was made here."""

    __slots__ = ("change", "file_ops", "handle", "opens", "own", "path")

    file_ops: FileOps

    def __init__(self, handle: Handle, path: str, cache: PageCache, pool: BufferPool, probe: Probe) -> None:
        super().__init__(cache, pool, probe)
        self.handle = handle
        self.path = path
        self.opens = 0
        self.change = -1
        self.own: Own | None = None

    def plug(self, ops: FileOps) -> None:
        """Set the operations table."""
        self.file_ops = ops
        self.set_ops(ops)

    def outdated(self) -> None:
        """Somebody else is at the file: nothing is believed of it any more, nor of what a local cache has."""
        self.change = -1
        if self.cookie is not None:
            self.cookie.invalidate("another client is at the file")

    def opened(self, attr: Attr, size: int, modified: int) -> bool:
        """Take over what the server said at an open that began when `modified` was as given.

        Returns: true when the clean folios are outdated.
        """
        stale = attr.change != self.change
        self.change = attr.change
        if modified != self.modified or self.mapping.dirty:
            self.sizes.refreshed_behind(size)
        else:
            self.sizes.refreshed(size)
        return stale
