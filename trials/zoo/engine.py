"""Trio shell. Bugs of the request library and the page cache. Owns no memory."""

from collections.abc import Callable
from typing import Any

from iov.iov_iter import IovIter
from netfs.cache.folio import Folio
from netfs.cache.waiters import WakeList
from netfs.engine import buffered_write, collect, direct, read_collect, write_collect, writeback
from netfs.engine.inode import ErrorSequence, NetfsInode
from netfs.engine.request import IoRequest, IoSubrequest
from netfs.engine.sizes import FileSizes
from netfs.fs import file as files
from netfs.fs.file import File
from netfs.fs.inode import Inode
from netfs.fs.plain import PlainOps
from trials.sim.patches import Patches
from trials.zoo.bug import bug

__all__: list[str] = []

Verdict = read_collect.Verdict


def _never_short(judge: Callable[[IoSubrequest], Verdict]) -> Callable[[IoSubrequest], Verdict]:
    """Take what moved less than asked, without an error, for done."""

    def judged(subreq: IoSubrequest) -> Verdict:
        verdict = judge(subreq)
        return Verdict.DONE if verdict is Verdict.RETRY and subreq.error is None else verdict

    return judged


@bug("short-read-is-the-end", "netfs", "fsx", kinds=("S1",))
def _short_read(patches: Patches) -> None:
    """A read that brings less than asked is taken for the end of the file: the rest is not asked for."""
    patches.set(read_collect, "judge_read", _never_short(read_collect.judge_read))


@bug("short-write-is-all", "netfs", "fsx", kinds=("N2", "S1"))
def _short_write(patches: Patches) -> None:
    """A write of which the server took only the first part counts as done: the rest is not sent again."""
    patches.set(write_collect, "judge_write", _never_short(write_collect.judge_write))


@bug("wrong-prefix", "netfs", "racing", kinds=("S6",), rsize=4096)
def _wrong_prefix(patches: Patches) -> None:
    """A part in the middle that failed is counted as if it had come, so that the count says more than was moved."""
    take = collect._take_front

    def taken(rreq: IoRequest) -> None:
        front = rreq.subrequests[0]
        if front.failed and rreq.progress is None:
            front.failed, front.error, front.transferred = False, None, front.length
        take(rreq)

    patches.set(collect, "_take_front", taken)


@bug("fsync-forgets-errors", "netfs", "sharing", kinds=("S4", "S6"))
def _lost_error(patches: Patches) -> None:
    """A failed writeback is not remembered: fsync and close say that all is well."""

    def record(self: ErrorSequence, error: Exception) -> None:
        del self, error

    patches.set(ErrorSequence, "record", record)


@bug("errors-are-told-again", "netfs", "sharing", kinds=("S4", "S6"))
def _told_again(patches: Patches) -> None:
    """What a descriptor has been told by one fsync the next one says again, though nothing else was lost."""
    check = ErrorSequence.check

    def checked(self: ErrorSequence, mark: int) -> tuple[Exception | None, int]:
        return check(self, mark)[0], mark

    patches.set(ErrorSequence, "check", checked)


@bug("no-write-verifier", "netfs", "sharing", first=12, kinds=("S11", "S13", "S20"))
def _no_verifier(patches: Patches) -> None:
    """A commit is believed whatever boot of the server answers it: what a crash took is not written again."""
    commit = PlainOps.commit

    async def committed(self: PlainOps, verifier: int) -> int:
        answered = await commit(self, verifier)
        return verifier or answered

    patches.set(PlainOps, "commit", committed)


@bug("fsync-does-not-commit", "netfs", "database", kinds=("S13", "S20"))
def _no_commit(patches: Patches) -> None:
    """Fsync sends what is dirty, but does not ask the server to make it durable."""

    async def commit(inode: NetfsInode) -> bool:
        inode.uncommitted, inode.direct_verifier = False, 0
        for folio in list(inode.mapping.unstable.values()):
            folio.committed()
            inode.cache.update(folio)
        return True

    patches.set(writeback, "_commit", commit)


@bug("stale-after-open", "netfs", "sharing")
def _stale_open(patches: Patches) -> None:
    """What another client has changed is not noticed at an open: folios stay."""
    opened = Inode.opened

    def believed(self: Inode, *args: Any) -> bool:
        opened(self, *args)
        return False

    patches.set(Inode, "opened", believed)


@bug("truncate-keeps-the-tail", "netfs", "fsx")
def _tail(patches: Patches) -> None:
    """Folios behind a new end stay as they are, and are there again when the file grows."""

    async def cut(inode: NetfsInode, size: int) -> None:
        del inode, size

    patches.set(writeback, "_cut_folios", cut)


@bug("direct-read-does-not-flush", "netfs", "fsx")
def _no_flush(patches: Patches) -> None:
    """A direct read does not wait for what is dirty in the cache."""

    async def flush(inode: NetfsInode, start: int, end: int) -> None:
        del inode, start, end

    patches.set(direct, "flush_range", flush)


@bug("direct-write-leaves-the-cache", "netfs", "fsx")
def _no_drop(patches: Patches) -> None:
    """A direct write leaves older bytes in the cache."""

    async def drop(inode: NetfsInode, start: int, end: int) -> None:
        del inode, start, end

    patches.set(direct, "drop_range", drop)


@bug("append-at-an-old-end", "netfs", "append-log")
def _append(patches: Patches) -> None:
    """Where an append goes is decided before it has the file for itself."""
    buffered, straight = buffered_write.buffered_write, direct.direct_write

    async def buffered_append(inode: NetfsInode, it: IovIter, pos: int, *, append: bool = False, through: bool = False) -> int:
        return await buffered(inode, it, inode.sizes.i_size if append else pos, through=through)

    async def direct_append(inode: NetfsInode, it: IovIter, pos: int, *, append: bool = False, **rest: Any) -> int:
        return await straight(inode, it, inode.sizes.i_size if append else pos, **rest)

    patches.set(files, "buffered_write", buffered_append)
    patches.set(files, "direct_write", direct_append)


@bug("dirty-folios-are-evicted", "netfs", "fsx")
def _evict(patches: Patches) -> None:
    """A folio with bytes that only the client has may be taken for others."""

    def evictable(self: Folio) -> bool:
        return not (self.locked or self.writeback or self.pins)

    patches.set(Folio, "evictable", property(evictable))


@bug("zero-point-too-low", "netfs", "fsx")
def _zero_point(patches: Patches) -> None:
    """What was written behind the old end of the file counts as a hole, and reads do not ask for it."""
    wrote = FileSizes.wrote_server

    def noted(self: FileSizes, end: int) -> None:
        before = self.zero_point
        wrote(self, end)
        self.zero_point = before

    patches.set(FileSizes, "wrote_server", noted)


@bug("one-waiter-is-woken", "netfs", "append-log")
def _missed_wake_up(patches: Patches) -> None:
    """Of several who wait for a folio only the first is woken."""

    def wake_one(self: WakeList) -> None:
        if self._waiting:
            self._waiting.pop(0)()

    patches.set(WakeList, "wake_all", wake_one)


@bug("closed-without-fsync", "netfs", "sharing")
def _close(patches: Patches) -> None:
    """Closing a descriptor does not send what was written through it."""
    close = File.aclose

    async def closed(self: File) -> None:
        mode = self._mode
        self._mode = files.parse_mode("r")
        try:
            await close(self)
        finally:
            self._mode = mode

    patches.set(File, "aclose", closed)
