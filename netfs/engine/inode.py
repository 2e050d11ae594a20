"""Sans-IO. NetfsInode: what the request library keeps for one file.

After `netfs_inode` of Linux netfslib. Owns no memory; the folios belong to the page cache.
"""

import errno
from typing import Final

from iov.pool import BufferPool
from iov.probe import Probe
from netfs.cache.base import Cookie
from netfs.cache.pagecache import Mapping, PageCache
from netfs.cache.waiters import WakeList
from netfs.engine.locking import IoLock
from netfs.engine.ops import NetfsOps
from netfs.engine.request import IoRequest
from netfs.engine.sizes import FileSizes

__all__ = ["NO_REQUESTS", "ErrorSequence", "NetfsInode"]

NO_REQUESTS: Final[dict[int, IoRequest]] = {}
"""Of files that have none under way: many may be open. Never written to."""


class ErrorSequence:
    """The last error of a write nobody waited for; each descriptor is told once. After errseq_t of Linux."""

    __slots__ = ("count", "error", "told")

    def __init__(self) -> None:
        self.count = 0
        self.told = 0
        self.error: Exception | None = None

    def record(self, error: Exception) -> None:
        """Remember an error."""
        self.count += 1
        self.error = error

    def sample(self) -> int:
        """Return the mark of a new descriptor: an error that nobody has been told yet lies before it."""
        return self.count if self.told == self.count else self.count - 1

    def check(self, mark: int) -> tuple[Exception | None, int]:
        """Return the error behind a descriptor's mark, if any, and its new mark."""
        if mark == self.count:
            return None, mark
        self.told = self.count
        return self.error, self.count


class NetfsInode:
    """One file: its table, sizes, lock, folios, and what of its data the server has not made durable.

    ops is set once, by the filesystem, before any I/O. uncommitted: something was written since the last commit.
    direct_verifier: of the boot that took unstable direct writes since then, 0 for none. debug_id: its number in events.
    group: of what is written now; a barrier begins the next. others: grows when it turns out that another client has changed the
    file, so that what was read before may be outdated; only told of files with blocks. doubtful: a change that went past the page
    cache has failed or was cancelled, and may have happened, or yet happen.
    requests: those that have begun and not ended, in the order they began. cookie: what a local cache has of the file, None
    without one; the filesystem sets it when the file is opened.
    """

    __slots__ = (
        "cache", "cookie", "debug_id", "direct_verifier", "doubtful", "group", "lock", "mapping", "modified", "ops", "others",
        "pool", "probe", "requests", "sizes", "uncommitted", "wb_error", "wb_lock", "wb_waiters",
    )  # fmt: skip

    ops: NetfsOps
    mapping: Mapping

    def __init__(self, cache: PageCache, pool: BufferPool, probe: Probe) -> None:
        self.cache = cache
        self.pool = pool
        self.probe = probe
        self.sizes = FileSizes()
        self.lock = IoLock()
        self.cookie: Cookie | None = None
        self.wb_error = ErrorSequence()
        self.wb_lock = False
        self.wb_waiters = WakeList()
        self.uncommitted = False
        self.direct_verifier = 0
        self.group = 0
        self.modified = 0
        self.others = 0
        self.doubtful = False
        probe.inode_ids += 1
        self.debug_id = probe.inode_ids
        self.requests = NO_REQUESTS

    def set_ops(self, ops: NetfsOps) -> None:
        """Plug the filesystem in."""
        self.ops = ops
        self.mapping = self.cache.mapping(self, ops.block_size)

    @property
    def settled(self) -> bool:
        """All changes are over and durable, and none of them has ever failed: the server has what they have made, and no less."""
        mapping = self.mapping
        if mapping.dirty or mapping.writeback or mapping.unstable or self.uncommitted or self.lock.busy:
            return False
        return not (self.doubtful or self.wb_error.count)

    def wrote_direct(self, verifier: int) -> None:
        """Note direct writes, or changes of the size or of holes, taken by the boot `verifier`. They are not kept here: an
        earlier boot's may be lost, which is an error.
        """
        self.uncommitted = True
        self.modified += 1
        if verifier and self.direct_verifier and verifier != self.direct_verifier:
            self.wb_error.record(OSError(errno.EIO, "the server restarted and may have lost what was not yet durable"))
        if verifier:
            self.direct_verifier = verifier
