"""Trio shell. Buffered writes: into folios of the page cache, which go to the server by writeback.

For each folio the first strategy that fits (after netfs_perform_write of Linux):

    dirty since before a barrier                  send it first
    the folio is uptodate                         copy
    the write covers the folio                    copy, the folio is uptodate
    the server has no data from the folio on      zero what is around the bytes, copy, the folio is uptodate
    files with blocks                             read the folio, then copy
    the write touches what is valid, or nothing is    copy: a streaming write
    otherwise                                     read the gaps, then copy

One copy, caller to folio. Writers of a file take turns. A writer starts writeback of what fills a batch and does not wait for
it, except above the cache's dirty limit.
"""

import trio

from iov.copy_iter import copy_from_iter
from iov.iov_iter import IovIter
from netfs.cache.folio import PARTS_MAX, Folio
from netfs.engine.events import trace_folio
from netfs.engine.inode import NetfsInode
from netfs.engine.park import acquire_exclusive, park_at
from netfs.engine.read_gaps import fill_gaps
from netfs.engine.request import Origin
from netfs.engine.writeback import balance_dirty, flush_range, make_room, start_writeback

__all__ = ["WRITEBACK_BATCH", "barrier", "buffered_write", "writable_folio", "wrote_folio"]

WRITEBACK_BATCH = 1 << 22


async def buffered_write(inode: NetfsInode, it: IovIter, pos: int, *, append: bool = False, through: bool = False) -> int:
    """Write `it` at `pos`, or at the end of the file, into the page cache; `it` is moved by what was taken.

    Args: through: send it at once; whoever asks waits for it by `fsync`.

    Returns: bytes; fewer than asked when a later part failed. Raises: the first part's error, as when a folio cannot be read.
    Cancellation: a prefix may be written.
    """
    await trio.lowlevel.checkpoint()
    await acquire_exclusive(inode.lock)
    try:
        if append:
            pos = inode.sizes.i_size
        start = pos
        sink = inode.probe.sink
        if sink is not None:
            sink("netfs_write_iter", (inode.debug_id, pos, it.count))
        try:
            while it.count:
                pos += await _write_folio(inode, it, pos)
                if inode.cache.held_bytes > inode.cache.dirty_limit:
                    await balance_dirty(inode)
        except Exception:
            if pos == start:
                raise
        if through and pos > start:
            await start_writeback(inode, start, pos, Origin.WRITETHROUGH)
        mapping = inode.mapping
        cache = inode.cache
        if cache.much_held and not cache.flush_wanted:
            cache.flush_wanted = True
            cache.flusher.wake_all()
        if mapping.unsent_bytes >= min(WRITEBACK_BATCH, inode.cache.dirty_limit // 4):
            await _start_batch(inode, pos)
    finally:
        inode.lock.release_exclusive()
    return pos - start


async def _start_batch(inode: NetfsInode, pos: int) -> None:
    """Send what fills a batch; the folio a sequential writer is in goes with the next one."""
    mapping = inode.mapping
    if inode.wb_lock:
        inode.probe.emit("netfs_wb_lock", inode.debug_id, "skip")
        return
    current = mapping.folios.get(pos // mapping.unit)
    await start_writeback(inode, 0, current.pos if current is not None else pos)


async def _write_folio(inode: NetfsInode, it: IovIter, pos: int) -> int:
    folio = await writable_folio(inode, pos, it.count)
    off = pos - folio.pos
    end = min(off + it.count, folio.size)
    copied = copy_from_iter(folio.memory[off:end], it)
    assert copied == end - off
    inode.probe.copied(copied)
    wrote_folio(inode, folio, off, end)
    if not off:
        folio.uses += 1
    return copied


def wrote_folio(inode: NetfsInode, folio: Folio, off: int, end: int) -> None:
    """Note that bytes of a folio were changed."""
    folio.wrote(off, end)
    folio.group = inode.group
    inode.cache.update(folio)
    inode.modified += 1
    inode.sizes.wrote_cache(folio.pos + end)


async def writable_folio(inode: NetfsInode, pos: int, count: int, *, whole: bool = False) -> Folio:
    """Return the folio at `pos`, ready for as much of `count` bytes as fits to be changed without a further wait.

    Args: whole: the folio has to be uptodate, because the bytes may be read before they are changed.
    """
    mapping = inode.mapping
    while True:
        folio = mapping.folios.get(pos // mapping.unit)
        if folio is None:
            folio = inode.cache.add(mapping, pos - pos % mapping.unit, _size_for_write(inode, pos, count))
            if folio is None:
                await make_room(inode.cache)
                continue
        off = pos - folio.pos
        end = min(off + count, folio.size)
        if folio.locked or folio.writeback:
            await park_at(folio)
        elif folio.dirty and folio.group != inode.group:
            # What a barrier has put before this write goes first.
            trace_folio(inode, folio, "mod-group")
            if folio.stale:
                await flush_range(inode, folio.pos, folio.pos + folio.size)  # it is not sent before it was read again
            else:
                await start_writeback(inode, folio.pos, folio.pos + folio.size)
        elif len(folio.parts) >= PARTS_MAX and inode.ops.block_size > 1 and not folio.stale:
            await start_writeback(inode, folio.pos, folio.pos + folio.size)
        elif folio.uptodate or (off == 0 and end == folio.size and not whole):
            trace_folio(inode, folio, "mod-uptodate" if folio.uptodate else "mod-whole-f")
            return folio
        elif folio.pos >= inode.sizes.zero_point:
            folio.zero_rest()
            folio.basis = min(folio.basis, inode.others)
            trace_folio(inode, folio, "mod-n-clear")
            return folio
        elif inode.ops.block_size == 1 and folio.touches(off, end) and not whole:
            trace_folio(inode, folio, "mod-streamw+" if folio.dirty else "mod-streamw")
            return folio
        else:
            await fill_gaps(inode, folio)


def _size_for_write(inode: NetfsInode, pos: int, count: int) -> int:
    """Return the size of a new folio: what the write fills, or twice that of the folio a sequential writer has just filled."""
    mapping = inode.mapping
    before = mapping.folios.get(pos // mapping.unit - 1)
    if before is not None and before.dirty_to == before.size and before.pos + before.size == pos:
        return max(count, 2 * before.size)
    return count


async def barrier(inode: NetfsInode) -> None:
    """What was written so far reaches the server before anything that is written from here on. Cancellation: no barrier."""
    await acquire_exclusive(inode.lock)
    inode.group += 1
    inode.lock.release_exclusive()
