"""Trio shell. Issue writeback: dirty folios as requests, each with a stream to the server and one to a local cache.

A folio is *writeback* from here until both streams are past it; nobody changes it meanwhile. What the server gets are the dirty
bytes, rounded out to blocks. What the cache gets are whole granules of folios that are uptodate, also around the dirty bytes; a
streaming write leaves a hole in that stream. Folios that were read and only lack in the cache are sent on that stream alone. A
failed write drops its folios and records the error. The folios are the page cache's, lent to the request. After
fs/netfs/write_issue.c and write_collect.c of Linux.
"""

import errno
from typing import Final

from iov.bvec import BioVec
from iov.iov_iter import Direction, IovIter
from netfs.cache.folio import Folio
from netfs.engine.cache_stream import END, CacheStream
from netfs.engine.collect import advance
from netfs.engine.events import begin, number, trace_folio, trace_let_go
from netfs.engine.inode import NetfsInode
from netfs.engine.park import park_at
from netfs.engine.request import FileChanged, IoRequest, IoSubrequest, Origin
from netfs.engine.write_collect import write_terminated

__all__ = ["MAX_CHANGES", "copy_to_cache", "send_dirty"]

MAX_CHANGES: Final = 64
"""How often a folio is read again and sent once more because another client was faster."""


async def send_dirty(inode: NetfsInode, start: int, end: int, origin: Origin = Origin.WRITEBACK) -> None:
    """Issue the dirty folios that overlap [start, end), each group of them behind the groups before it, wherever those lie."""
    mapping = inode.mapping
    if len(mapping.dirty) == mapping.writeback:
        return
    inside = [folio for folio in mapping.dirty.values() if folio.pos < end and folio.pos + folio.size > start]
    newest = max((folio.group for folio in inside), default=0)
    groups = sorted({folio.group for folio in mapping.dirty.values() if folio.group < newest})
    for group in groups:
        await _send(inode, [folio for folio in mapping.dirty.values() if folio.group == group], origin)
        if not await _reached(inode, group):
            return  # they are read again first (flush_range), and what is behind them waits
    await _send(inode, [folio for folio in inside if folio.group >= newest or not groups], origin)


async def _reached(inode: NetfsInode, group: int) -> bool:
    """Wait until nothing of a group is on its way. Returns: false when another client was faster somewhere."""
    for folio in list(inode.mapping.dirty.values()):
        while folio.writeback and folio.group <= group:
            await park_at(folio)
    return not any(folio.stale and folio.dirty and folio.group <= group for folio in inode.mapping.dirty.values())


async def _send(inode: NetfsInode, folios: list[Folio], origin: Origin) -> None:
    mapping = inode.mapping
    run: list[Folio] = []
    for folio in sorted(folios, key=_pos):
        if folio.writeback or folio.dropped or not folio.dirty or folio.stale:
            continue  # a stale one is read again first (flush_range)
        if run and not _continues(run[-1], folio):
            await _send_run(inode, run, origin)
            run = []
        # Marked at once: the next init_request may wait, and nobody may change the folio from here on.
        mapping.begin_writeback(folio)
        trace_folio(inode, folio, "store+" if run else "store")
        run.append(folio)
    if run:
        await _send_run(inode, run, origin)


def _pos(folio: Folio) -> int:
    return folio.pos


def _continues(before: Folio, folio: Folio) -> bool:
    return before.dirty_to == before.size and not folio.dirty_from and folio.pos == before.pos + before.size


async def _send_run(inode: NetfsInode, run: list[Folio], origin: Origin) -> None:
    """Make one request of folios whose dirty ranges lie end to end, whole blocks of them, and let it go."""
    block = inode.ops.block_size
    first, last = run[0], run[-1]
    head = first.dirty_from - first.dirty_from % block
    tail = last.dirty_to + -last.dirty_to % block
    bvecs = [BioVec(folio.memory, 0, folio.size) for folio in run]
    bvecs[-1].length = tail
    bvecs[0].off = head
    bvecs[0].length -= head
    it = IovIter.bvec(Direction.SOURCE, bvecs)
    wreq = IoRequest(origin, inode, first.pos + head, it.count, it, inode.sizes.i_size, write_terminated, _folios_written)
    wreq.folios = run
    if block > 1:
        wreq.changed = [(folio.pos + start, folio.pos + end) for folio in run for start, end in folio.parts]
        wreq.basis = min(folio.basis for folio in run)
    wreq.wake = lambda: _run_ended(wreq)
    try:
        await begin(wreq)
    except Exception as error:  # noqa: BLE001 (it is recorded, for the write, fsync or close that follows)
        wreq.error = error
        wreq.wake()
        return
    except BaseException:
        for folio in run:
            trace_folio(inode, folio, "cancel-store")
            folio.mapping.end_writeback(folio)
        raise
    wreq.basis_sent = inode.others
    _go(wreq, _cache_pieces(inode, run))


def copy_to_cache(rreq: IoRequest, folios: list[Folio]) -> None:
    """Give the local cache what a request has read for it, as far as nobody has changed, dropped or sent it since."""
    inode = rreq.inode
    mapping = inode.mapping
    run: list[Folio] = []
    for folio in folios:
        if not folio.to_cache:
            continue
        folio.to_cache = False
        if folio.uptodate and not (folio.locked or folio.writeback or folio.dirty) and mapping.holds(folio):
            run.append(folio)
    pieces = _cache_pieces(inode, run, whole=True)
    if not pieces or inode.cache.held_bytes > inode.cache.dirty_limit // 2:
        # Readers come first: a cache that does not keep up gets less.
        for folio in run:
            trace_folio(inode, folio, "copy-skip")
        return
    for folio in run:
        mapping.begin_writeback(folio)
        trace_folio(inode, folio, "store-copy")
    first, last = run[0], run[-1]
    wreq = IoRequest(
        Origin.COPY_TO_CACHE, inode, first.pos, last.pos + last.size - first.pos, IovIter.discard(0), inode.sizes.i_size,
        write_terminated, _folios_copied,
    )  # fmt: skip
    wreq.all_queued = True
    wreq.folios = run
    wreq.wake = lambda: _copy_ended(wreq)
    number(wreq)
    inode.probe.emit("netfs_copy2cache", rreq.debug_id, wreq.debug_id)
    _go(wreq, pieces)


def _go(wreq: IoRequest, pieces: list[tuple[int, IovIter]]) -> None:
    if pieces:
        wreq.cache = CacheStream(wreq, pieces)
        wreq.cache.run()
    advance(wreq)


def _cache_pieces(inode: NetfsInode, run: list[Folio], *, whole: bool = False) -> list[tuple[int, IovIter]]:
    """Return what the local cache is to have of these folios: whole granules around what is dirty, or all."""
    cookie = inode.cookie
    if cookie is None or inode.ops.seals:
        return []
    for folio in run:
        if folio.dirty:
            cookie.forget(folio.pos + folio.dirty_from, folio.pos + folio.dirty_to)
    if not cookie.usable:
        return []
    grain = cookie.granularity
    i_size = inode.sizes.i_size
    spans: list[tuple[int, int, list[BioVec]]] = []
    for folio in run:
        if not folio.uptodate or folio.size % grain:
            continue
        start, end = folio.pos, folio.pos + folio.size
        if not (whole or folio.to_cache):
            start += folio.dirty_from - folio.dirty_from % grain
            end = folio.pos + folio.dirty_to + -folio.dirty_to % grain
        folio.to_cache = False
        allowed = cookie.prepare_write(start, min(end, i_size)) if start < i_size else None
        if allowed is None:
            continue
        start, end = allowed
        piece = BioVec(folio.memory, start - folio.pos, end - start)
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end, [*spans[-1][2], piece])
        else:
            spans.append((start, end, [piece]))
    return [(start, IovIter.bvec(Direction.SOURCE, pieces)) for start, _, pieces in spans]


def _folios_written(wreq: IoRequest, front: IoSubrequest) -> None:
    """Clean the folios whose dirty bytes are all on the server and out of the cache stream's hands."""
    good = wreq.start + wreq.transferred
    done_to = END if wreq.cache is None else wreq.cache.done_to
    inode = wreq.inode
    while wreq.folios:
        folio = wreq.folios[0]
        end = folio.pos + folio.dirty_to
        if end > good or folio.pos + folio.size > done_to:
            return
        del wreq.folios[0]
        inode.uncommitted = True
        inode.modified += 1
        if wreq.verifier:
            folio.make_unstable(folio.dirty_from, folio.dirty_to, wreq.verifier)
        folio.cleaned()
        folio.basis = min(folio.basis, wreq.basis_sent)
        trace_let_go(wreq, folio, "clear")
        inode.sizes.wrote_server(end)
        folio.mapping.end_writeback(folio)


def _run_ended(wreq: IoRequest) -> None:
    """Drop the folios that did not get there; their error is told at the next write, fsync or close."""
    if not wreq.folios:
        return
    if isinstance(wreq.error, FileChanged) and all(folio.changes < MAX_CHANGES for folio in wreq.folios):
        for folio in wreq.folios:
            folio.changes += 1
            if folio.unstable:
                # It cannot be told from what is read again, so it is not kept: a restart of the server is an error from now on.
                wreq.inode.wrote_direct(folio.verifier)
            folio.forget_rest()
            trace_folio(wreq.inode, folio, "store-again")
            folio.mapping.end_writeback(folio)
        wreq.folios.clear()
        return
    wreq.inode.wb_error.record(wreq.error or OSError(errno.EIO, "writeback ended early"))
    if wreq.cache is not None:
        wreq.cache.server_failed()
    for folio in wreq.folios:
        trace_folio(wreq.inode, folio, "kill")
        folio.cleaned()
        folio.mapping.end_writeback(folio)
        wreq.inode.cache.drop(folio)


def _folios_copied(wreq: IoRequest, front: IoSubrequest) -> None:
    """Let the folios go that the cache has, or will not have."""
    assert wreq.cache is not None
    wreq.transferred = front.start + front.length - wreq.start
    while wreq.folios and wreq.folios[0].pos + wreq.folios[0].size <= wreq.cache.done_to:
        folio = wreq.folios.pop(0)
        trace_let_go(wreq, folio, "clear-cc")
        folio.mapping.end_writeback(folio)


def _copy_ended(wreq: IoRequest) -> None:
    for folio in wreq.folios:
        trace_folio(wreq.inode, folio, "cancel-copy")
        folio.mapping.end_writeback(folio)
    wreq.folios.clear()
