"""Trio shell. Buffered writes: into folios of the page cache, which go to the server by writeback.

For each folio the first strategy that fits (after netfs_perform_write of Linux):

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
from netfs.cache.folio import Folio
from netfs.engine.buffered_read import fill_gaps
from netfs.engine.events import trace_folio
from netfs.engine.inode import NetfsInode
from netfs.engine.park import acquire_exclusive
from netfs.engine.writeback import balance_dirty, make_room, start_writeback, wait_for_folio

__all__ = ["WRITEBACK_BATCH", "buffered_write"]

WRITEBACK_BATCH = 1 << 22


async def buffered_write(inode: NetfsInode, it: IovIter, pos: int, *, append: bool = False) -> int:
    """Write `it` at `pos`, or at the end of the file, into the page cache; `it` is moved by what was taken.

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
        mapping = inode.mapping
        unsent = (len(mapping.dirty) - mapping.writeback) * mapping.folio_size
        if unsent >= min(WRITEBACK_BATCH, inode.cache.dirty_limit // 4):
            if inode.wb_lock:
                inode.probe.emit("netfs_wb_lock", inode.debug_id, "skip")
            else:
                # The folio a sequential writer is in goes with the next batch.
                await start_writeback(inode, 0, pos - pos % mapping.folio_size)
    finally:
        inode.lock.release_exclusive()
    return pos - start


async def _write_folio(inode: NetfsInode, it: IovIter, pos: int) -> int:
    size = inode.mapping.folio_size
    index, off = divmod(pos, size)
    end = min(off + it.count, size)
    folio = await _folio_for_write(inode, index, off, end)
    copied = copy_from_iter(folio.memory[off:end], it)
    assert copied == end - off
    inode.probe.copied(copied)
    folio.wrote(off, end)
    inode.cache.update(folio)
    inode.cache.touch(folio)
    inode.modified += 1
    inode.sizes.wrote_cache(pos + copied)
    return copied


async def _folio_for_write(inode: NetfsInode, index: int, off: int, end: int) -> Folio:
    """Return the folio, ready for the bytes [off, end) to be copied in without a further wait."""
    mapping = inode.mapping
    while True:
        folio = mapping.folios.get(index)
        if folio is None:
            folio = inode.cache.add(mapping, index)
            if folio is None:
                await make_room(inode.cache)
                continue
        if folio.locked or folio.writeback:
            await wait_for_folio(folio)
        elif folio.uptodate or (off == 0 and end == folio.size):
            trace_folio(inode, folio, "mod-uptodate" if folio.uptodate else "mod-whole-f")
            return folio
        elif folio.pos >= inode.sizes.zero_point:
            folio.zero_rest()
            trace_folio(inode, folio, "mod-n-clear")
            return folio
        elif inode.ops.block_size == 1 and folio.touches(off, end):
            trace_folio(inode, folio, "mod-streamw+" if folio.dirty else "mod-streamw")
            return folio
        else:
            await fill_gaps(inode, folio)
