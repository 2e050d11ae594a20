"""Trio shell. Buffered reads: from the page cache, filled by readahead, or in the gaps of folios that are partly valid.

A reader that finds nothing starts a readahead request and waits for the first folio of it; folios become readable one by one as
the collector passes them, and nobody waits for the rest. A readahead failure is nobody's error: the reader that needs the folio
reads it alone and is told. One copy, folio to caller. Folios are lent to a request while `locked`. After fs/netfs/buffered_read.c
of Linux.
"""

import contextlib

import trio

from iov.bvec import BioVec
from iov.copy_iter import copy_to_iter
from iov.iov_iter import Direction, IovIter
from netfs.cache.folio import Folio
from netfs.engine.collect import advance
from netfs.engine.events import begin, trace_folio, trace_let_go
from netfs.engine.inode import NetfsInode
from netfs.engine.park import park_at
from netfs.engine.read_collect import read_terminated
from netfs.engine.read_gaps import clear_tail, fill_gaps
from netfs.engine.readahead import Readahead
from netfs.engine.request import IoRequest, IoSubrequest, Origin, Source
from netfs.engine.write_issue import copy_to_cache
from netfs.engine.writeback import make_room

__all__ = ["buffered_read", "cached_read", "cached_view", "lent_view", "readable_folio"]


def cached_view(inode: NetfsInode, pos: int, length: int, ahead: Readahead) -> memoryview | None:
    """Return the bytes at `pos`, clipped to the file, if one folio holds them all and no reading ahead is due.

    The view is good until the next checkpoint.
    """
    mapping = inode.mapping
    folio = mapping.folios.get(pos // mapping.unit)
    if folio is None or folio.locked:
        return None
    end = min(pos + length, inode.sizes.i_size)
    off = pos - folio.pos
    upto = end - folio.pos
    if off >= upto or off < folio.valid_from or upto > folio.valid_to or ahead.due(end):
        return None
    _used(folio, off, pos, ahead)
    ahead.next_pos = end
    return folio.memory[off:upto]


def _used(folio: Folio, off: int, pos: int, ahead: Readahead) -> None:
    """Count a use of a folio; going on in the one a reader is in is not another."""
    if pos != ahead.next_pos:
        folio.uses += 1
        ahead.hit(folio.uses)
    elif not off:
        folio.uses += 1


def cached_read(inode: NetfsInode, view: memoryview, pos: int, ahead: Readahead) -> int:
    """Read at `pos` into a whole buffer what one folio holds, if no reading ahead is due. Returns: bytes, 0 to read otherwise."""
    if pos + len(view) > inode.sizes.i_size:
        return 0
    held = cached_view(inode, pos, len(view), ahead)
    if held is None:
        return 0
    view[:] = held
    inode.probe.copied(len(view))
    return len(view)


async def lent_view(inode: NetfsInode, pos: int, length: int, ahead: Readahead) -> memoryview | None:
    """Return the bytes at `pos`, clipped to the file, reading what is missing; None when they are not all in one folio.

    The view is good until the next checkpoint. Checkpoints only when something has to be read.
    Raises: the read's error. Cancellation: no effect.
    """
    mapping = inode.mapping
    told = False
    while True:
        end = min(pos + length, inode.sizes.i_size)
        if end <= pos:
            return None
        folio = mapping.folios.get(pos // mapping.unit)
        if folio is not None:
            off, upto = pos - folio.pos, end - folio.pos
            if upto > folio.size:
                return None
            if not folio.locked and folio.valid_from <= off and upto <= folio.valid_to:
                if not told:
                    told = True
                    _used(folio, off, pos, ahead)
                    if ahead.due(end):
                        folio.pins += 1
                        try:
                            await _read_on(inode, end, ahead)
                        finally:
                            inode.cache.unpin(folio)
                        continue
                    ahead.next_pos = end
                return folio.memory[off:upto]
        await _fill(inode, folio, pos, end, ahead)


async def buffered_read(inode: NetfsInode, it: IovIter, pos: int, ahead: Readahead) -> int:
    """Read at `pos` into `it`, which is moved by what came.

    Returns: bytes, 0 at the end of the file; fewer than asked only there or where a later part failed.
    Raises: the error of the first part. Cancellation: no effect but that `it` may hold data.
    """
    await trio.lowlevel.checkpoint()
    mapping = inode.mapping
    start = pos
    try:
        while it.count:
            end = min(pos + it.count, inode.sizes.i_size)
            if end <= pos:
                break
            folio = mapping.folios.get(pos // mapping.unit)
            if folio is not None and not folio.locked:
                off = pos - folio.pos
                upto = min(folio.size, end - folio.pos)
                if folio.holds(off, upto):
                    _used(folio, off, pos, ahead)
                    inode.probe.copied(copy_to_iter(folio.memory[off:upto], it))
                    pos = folio.pos + upto
                    continue
            await _fill(inode, folio, pos, end, ahead)
    except Exception:
        if pos == start:
            raise
    await _read_on(inode, pos, ahead)
    return pos - start


async def _read_on(inode: NetfsInode, pos: int, ahead: Readahead) -> None:
    """A read has ended at `pos`: start reading on, if it is time. A failure is nobody's error."""
    wanted = ahead.consumed(pos)
    if wanted and ahead.ahead_to < inode.sizes.i_size:
        with contextlib.suppress(Exception):
            await _read_ahead(inode, ahead.ahead_to, wanted, ahead)


async def readable_folio(inode: NetfsInode, pos: int, end: int, ahead: Readahead) -> Folio:
    """Return the folio at `pos`, valid up to `end` or its own; it stays until the next checkpoint. Raises: the read's error."""
    await trio.lowlevel.checkpoint()
    mapping = inode.mapping
    while True:
        folio = mapping.folios.get(pos // mapping.unit)
        if folio is not None and not folio.locked and folio.holds(pos - folio.pos, min(folio.size, end - folio.pos)):
            return folio
        await _fill(inode, folio, pos, end, ahead)


async def _fill(inode: NetfsInode, folio: Folio | None, pos: int, end: int, ahead: Readahead) -> None:
    """Bring the folio at `pos` closer to being readable; the caller looks again."""
    if folio is None:
        upto = ahead.missed(pos, end)
        start = pos
        if ahead.spread and ahead.marker < 0:
            start, upto = _around(inode, pos, upto, ahead)
        first = await _read_ahead(inode, start, upto, ahead)
        if first is None:
            await make_room(inode.cache)
            return
        folio = first
        if folio.locked:
            await park_at(folio)
        if folio.valid_to or folio.locked or folio.dropped:
            return
    if folio.locked:
        await park_at(folio)
    elif folio.writeback:
        # Its gaps may be filled, but a folio is lent to one request at a time.
        await park_at(folio)
    elif ahead.spread and ahead.marker < 0 and folio.evictable and not folio.valid_to:
        # What cannot be read may be what lies around: what was asked for is read alone.
        ahead.spread = 0
        inode.cache.drop(folio)
    else:
        await fill_gaps(inode, folio)


def _around(inode: NetfsInode, pos: int, end: int, ahead: Readahead) -> tuple[int, int]:
    """Return what to read for a single read of [pos, end): more, where that is free and the cache has room for the whole file."""
    mapping = inode.mapping
    unit = mapping.unit
    size = ahead.around(unit)
    if inode.sizes.i_size <= inode.cache.budget:
        while size > unit:
            start = pos - pos % size
            if mapping.folios.keys().isdisjoint(range(start // unit, (start + size) // unit)):
                return start, max(end, start + size)
            size //= 2
    return pos, end


async def _read_ahead(inode: NetfsInode, pos: int, end: int, ahead: Readahead) -> Folio | None:
    """Start filling the folios from `pos` on that are not there, up to `end`, the first that is there or the end of the file.

    Returns: the first folio, None when there was no room for any.
    """
    mapping = inode.mapping
    unit = mapping.unit
    start = pos - pos % unit
    at = start
    end = min(end, inode.sizes.i_size)
    folios: list[Folio] = []
    while at < end and at // unit not in mapping.folios:
        folio = inode.cache.add(mapping, at, ahead.folio_size(at, end - at))
        if folio is None:
            break
        folio.locked = True
        folio.basis = min(folio.basis, inode.others)
        trace_folio(inode, folio, "read")
        folios.append(folio)
        at += folio.size
    ahead.reached(at)
    if not folios:
        return None
    it = IovIter.bvec(Direction.DEST, [BioVec(folio.memory, 0, folio.size) for folio in folios])
    rreq = IoRequest(Origin.READAHEAD, inode, folios[0].pos, it.count, it, inode.sizes.i_size, read_terminated, _folios_filled)
    rreq.folios = list(folios)
    if inode.cookie is not None and not inode.ops.seals:
        rreq.copy, rreq.inval_counter = [], inode.cookie.inval_counter
    rreq.wake = lambda: _unlock_rest(rreq)
    # The first is kept whatever happens, so that one who waits for it sees the failure and reads it alone.
    folios[0].pins += 1
    try:
        await begin(rreq)
    except BaseException:
        rreq.wake()
        raise
    else:
        advance(rreq)
    finally:
        inode.cache.unpin(folios[0])
    return folios[0]


def _folios_filled(rreq: IoRequest, front: IoSubrequest) -> None:
    """Unlock the folios the collector has passed; after a failure they stay as they are."""
    if rreq.error is not None or front.failed:
        return
    clear_tail(rreq, front)
    end = front.start + front.length
    if rreq.copy is not None and front.source is not Source.READ_FROM_CACHE and front.start < rreq.i_size:
        for folio in rreq.folios:
            if folio.pos >= end:
                break
            if not folio.to_cache:
                folio.to_cache = True
                rreq.copy.append(folio)
    while rreq.folios and rreq.folios[0].pos + rreq.folios[0].size <= end:
        folio = rreq.folios.pop(0)
        folio.filled()
        trace_let_go(rreq, folio, "read-unlock")
        folio.unlock()


def _unlock_rest(rreq: IoRequest) -> None:
    for folio in rreq.folios:
        trace_folio(rreq.inode, folio, "abandon")
        folio.unlock()
        if not folio.pins:
            rreq.inode.cache.drop(folio)
    rreq.folios.clear()
    cookie = rreq.inode.cookie
    if rreq.copy and cookie is not None and cookie.inval_counter == rreq.inval_counter:
        copy_to_cache(rreq, rreq.copy)
