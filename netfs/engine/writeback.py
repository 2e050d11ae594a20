"""Trio shell. Writeback: dirty folios to the server, unstable data to its disk, and writers held back while too much is held.

Requests are issued here and end by callback: a folio is *writeback* until its bytes are on the server, then *unstable* until a
commit answers with the boot verifier that took them, and never dropped before. If the verifier has changed, the server may have
lost what it took: the folios are dirty again and are written once more. Direct writes are not kept, so for them a changed
verifier is EIO, told once to each descriptor. A failed write drops its folios and is recorded the same way. A writer sends what
fills a batch and goes on; only above the cache's dirty limit does it wait. One task at a time starts writeback of an inode. After
fs/netfs/write_issue.c of Linux; the folios are the page cache's and are lent to the requests.
"""

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from netfs.cache.folio import Folio
from netfs.cache.pagecache import PageCache
from netfs.engine.events import trace_folio
from netfs.engine.inode import NetfsInode
from netfs.engine.park import park, park_at
from netfs.engine.read_gaps import fill_gaps
from netfs.engine.request import Origin
from netfs.engine.write_issue import send_dirty

__all__ = [
    "END_OF_TIME", "SETTLE_TIMEOUT_S", "balance_dirty", "behind", "drop_idle", "drop_range", "flush_range", "fsync", "make_room",
    "resize", "settle_range", "start_writeback", "writeback_held",
]  # fmt: skip

END_OF_TIME = 1 << 63
COMMIT_TRIES = 10
"""How often data is sent to a server that restarts before it is safe; what brings it down each time must end in an error."""
SETTLE_TIMEOUT_S = 10
"""How long a cancelled task waits for reads that are under way, so that what they bring is not kept."""


async def start_writeback(inode: NetfsInode, start: int, end: int, origin: Origin = Origin.WRITEBACK) -> None:
    """Send the dirty folios that overlap [start, end); does not wait for them.

    Checkpoints only when another task is starting writeback of the inode, or the filesystem's `init_request` waits.
    """
    await _wb_begin(inode)
    try:
        await send_dirty(inode, start, end, origin)
    finally:
        _wb_end(inode)


async def flush_range(inode: NetfsInode, start: int, end: int) -> None:
    """Send the dirty folios that overlap [start, end) and wait until all of them are on the server or have failed."""
    while True:
        await start_writeback(inode, start, end)
        await _wait_writeback(inode, start, end)
        stale = [folio for folio in inode.mapping.dirty.values() if folio.stale]
        if not stale:
            return
        # Another client was faster: what is around our bytes is read again, and they are sent once more.
        for folio in stale:
            while (folio.locked or folio.writeback) and not folio.dropped:
                await park_at(folio)
            if folio.stale and folio.dirty and not folio.dropped:
                await _refill(inode, folio)


async def _refill(inode: NetfsInode, folio: Folio) -> None:
    try:
        await fill_gaps(inode, folio)
    except Exception as error:  # noqa: BLE001 (it is recorded, for the write, fsync or close that follows)
        inode.wb_error.record(error)
        if not (folio.dropped or folio.locked or folio.writeback):
            inode.cache.drop(folio)


async def settle_range(inode: NetfsInode, start: int, end: int, *, alone: bool = True) -> None:
    """Have what overlaps [start, end) on the server's disk, so that nothing of it is sent again over what comes there next.

    Args: alone: the caller keeps writers out, so that what is still held afterwards is what the server does not keep.
    Raises: the commit's error; OSError(EIO) when the server does not keep the data.
    """
    await flush_range(inode, start, end)
    if inode.mapping.unstable and _held(inode, start, end):
        await fsync(inode)
        if alone and _held(inode, start, end):
            raise OSError(errno.EIO, "the server restarts faster than it takes the data")


def _held(inode: NetfsInode, start: int, end: int) -> bool:
    return any(folio.dirty or folio.unstable for folio in inode.mapping.range(start, end))


async def drop_range(inode: NetfsInode, start: int, end: int) -> None:
    """Forget what is cached of the folios that overlap [start, end); waits for those in use.

    Bytes that the server does not have, or has not on its disk, are kept: they may have to be sent again.
    """
    for folio in inode.mapping.range(start, end):
        while folio.locked or folio.writeback:
            await park_at(folio)
        if folio.dropped:
            continue
        if not (folio.dirty or folio.unstable):
            inode.cache.drop(folio)
        elif inode.ops.block_size == 1:
            folio.keep_ours()


def drop_idle(inode: NetfsInode) -> None:
    """Forget the folios that nobody uses and that are as the server has them safe."""
    for folio in inode.mapping.range(0, END_OF_TIME):
        if not (folio.dropped or folio.dirty or folio.unstable or folio.locked or folio.writeback):
            inode.cache.drop(folio)


async def fsync(inode: NetfsInode) -> None:
    """Make everything written so far durable; what failed on the way is in `inode.wb_error`.

    Raises: the error of the commit itself; what it covers stays uncommitted.
    Cancellation: may have happened; nothing is forgotten.
    """
    for _ in range(COMMIT_TRIES):
        await flush_range(inode, 0, END_OF_TIME)
        waited = False
        while inode.wb_lock and not inode.uncommitted:
            await park(inode.wb_waiters)  # somebody else's commit may be under way, and may fail
            waited = True
        if waited:
            await flush_range(inode, 0, END_OF_TIME)  # what that one has found lost is dirty again
        if not inode.uncommitted or await _commit(inode):
            return
    inode.wb_error.record(OSError(errno.EIO, "the server restarts faster than it takes the data"))


async def balance_dirty(inode: NetfsInode) -> None:
    """Hold a writer back while more than the dirty limit is held."""
    cache = inode.cache
    while cache.held_bytes > cache.dirty_limit:
        await _relieve(cache)


async def make_room(cache: PageCache) -> None:
    """Wait until a folio may have become free; called when the cache could evict none."""
    if cache.holders:
        await _relieve(cache)
    elif (busy := cache.busy_folio()) is not None:
        await park_at(busy)
    else:
        # All are pinned by tasks that are about to run.
        await trio.lowlevel.checkpoint()


async def resize(inode: NetfsInode, size: int) -> None:
    """Set the file's size here and on the server; the caller holds the inode's lock exclusively.

    Raises: the server's error; nothing changed then. Cancellation: may have happened on the server.
    """
    await _wb_begin(inode)
    try:
        await send_dirty(inode, 0, size)
        await _wait_writeback(inode, 0, END_OF_TIME)
        for folio in inode.mapping.range(size, END_OF_TIME):
            while folio.locked:
                await park_at(folio)
        try:
            await inode.ops.resize(size)
        except BaseException:
            inode.doubtful = True
            raise
        inode.wrote_direct(inode.ops.boot)
        inode.sizes.resized(size)
        if inode.cookie is not None and not inode.ops.seals:
            inode.cookie.resize(size)
        try:
            await _cut_folios(inode, size)
        except trio.Cancelled:
            with trio.move_on_after(SETTLE_TIMEOUT_S, shield=True):
                await _cut_folios(inode, size)
            raise
    finally:
        _wb_end(inode)


async def _cut_folios(inode: NetfsInode, size: int) -> None:
    """Forget what is cached behind the new end; what a reader asked for before the cut is waited for, as it may be old.

    So is a copy of what was read to the local cache: writeback is held, but such a copy begins all the same.
    """
    for folio in inode.mapping.range(size, END_OF_TIME):
        while folio.locked or folio.writeback:
            await park_at(folio)
        if folio.dropped:
            continue
        if folio.pos >= size:
            inode.cache.drop(folio)
        else:
            folio.cut(size - folio.pos)
            inode.cache.update(folio)


@asynccontextmanager
async def writeback_held(inode: NetfsInode) -> AsyncIterator[None]:
    """Keep writeback of the file from starting for the length of a block; what is under way goes on."""
    await _wb_begin(inode)
    try:
        yield
    finally:
        _wb_end(inode)


async def behind(inode: NetfsInode, first: Callable[[], None], then: Callable[[], Awaitable[None]] | None = None) -> None:
    """Send all that is dirty, and do something when it is on the server and nothing more is on its way.

    Args: first: called before anything is sent. Raises: what `then` does. Cancellation: that of `then`, if it has begun.
    """
    async with writeback_held(inode):
        await _wait_writeback(inode, 0, END_OF_TIME)
        first()
        await send_dirty(inode, 0, END_OF_TIME)
        await _wait_writeback(inode, 0, END_OF_TIME)
        if then is not None:
            await then()


async def _wb_begin(inode: NetfsInode) -> None:
    if inode.wb_lock:
        inode.probe.emit("netfs_wb_lock", inode.debug_id, "wait")
    while inode.wb_lock:
        await park(inode.wb_waiters)
    inode.wb_lock = True


def _wb_end(inode: NetfsInode) -> None:
    inode.wb_lock = False
    inode.wb_waiters.wake_all()


async def _wait_writeback(inode: NetfsInode, start: int, end: int) -> None:
    if inode.mapping.writeback:
        for folio in inode.mapping.range(start, end):
            while folio.writeback:
                await park_at(folio)


async def _commit(inode: NetfsInode) -> bool:
    """Commit what is on the server. Returns: false when some of it has to be written again."""
    await _wb_begin(inode)
    try:
        # Nothing is on its way during the commit, so that what is unstable now is what the answer is about.
        await _wait_writeback(inode, 0, END_OF_TIME)
        direct, inode.direct_verifier = inode.direct_verifier, 0
        unstable = list(inode.mapping.unstable.values())
        inode.uncommitted = False
        try:
            verifier = await inode.ops.commit(direct or (unstable[0].verifier if unstable else 0))
        except BaseException:
            inode.uncommitted = True
            inode.direct_verifier = inode.direct_verifier or direct
            raise
        if direct and direct != verifier:
            inode.wb_error.record(OSError(errno.EIO, "the server restarted and may have lost what was not yet durable"))
        return _settle(inode, verifier)
    finally:
        _wb_end(inode)


def _settle(inode: NetfsInode, verifier: int) -> bool:
    kept = True
    for folio in list(inode.mapping.unstable.values()):
        if folio.verifier != verifier:
            folio.make_dirty(folio.unstable_from, folio.unstable_to)
            trace_folio(inode, folio, "redirtied")
            kept = False
        folio.committed()
        inode.cache.update(folio)
    return kept


async def _relieve(cache: PageCache) -> None:
    """Write back and commit the file that has been holding memory for longest."""
    inode = next(iter(cache.holders)).host
    try:
        await fsync(inode)
    except Exception as error:  # noqa: BLE001 (whoever needs the room is not the one to be told)
        inode.wb_error.record(error)
        for folio in list(inode.mapping.unstable.values()):
            folio.committed()
            inode.cache.update(folio)
