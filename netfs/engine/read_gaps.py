"""Trio shell. Read what is missing of a folio that is partly valid: around a streaming write, or around bytes to be changed.

    folio   |<-- gap -->|==== valid, perhaps dirty ====|<-- gap -->|

The valid middle is not touched. The folio is lent to the request while `locked`. After netfs_read_gaps of Linux.
"""

from iov.bvec import BioVec, BvecQueue
from iov.copy_iter import zero_iter
from iov.iov_iter import Direction, IovIter
from netfs.cache.folio import Folio
from netfs.engine.events import begin, trace_folio
from netfs.engine.inode import NetfsInode
from netfs.engine.park import run_request
from netfs.engine.read_collect import read_terminated
from netfs.engine.request import IoRequest, IoSubrequest, Origin

__all__ = ["clear_tail", "fill_gaps"]


async def fill_gaps(inode: NetfsInode, folio: Folio) -> None:
    """Read what is not valid of a folio; it may be dirty between the gaps.

    Raises: the read's error; the folio is then as before. Cancellation: as before.
    """
    assert not (folio.locked or folio.writeback)
    folio.locked = True
    folio.pins += 1
    basis = min(folio.basis, inode.others)
    try:
        if folio.valid_from == folio.valid_to:
            folio.valid_from = folio.valid_to = 0
        if inode.ops.block_size > 1 and folio.valid_to:
            await _read_around(inode, folio)
        else:
            await _read_gap(inode, folio, 0, folio.valid_from)
            await _read_gap(inode, folio, folio.valid_to, folio.size)
        folio.filled()
        folio.basis = basis
        trace_folio(inode, folio, "filled-gaps")
    finally:
        folio.unlock()
        inode.cache.unpin(folio)


async def _read_gap(inode: NetfsInode, folio: Folio, off: int, end: int) -> None:
    if off == end:
        return
    await _read(inode, folio.pos + off, IovIter.bvec(Direction.DEST, [BioVec(folio.memory, off, end - off)]))


async def _read_around(inode: NetfsInode, folio: Folio) -> None:
    """Read whole blocks, those of the valid middle as well: what falls on it, or on what was written, is discarded."""
    chain = BvecQueue()
    at = 0
    for start, end in folio.parts if folio.stale else [(folio.valid_from, folio.valid_to)]:
        chain.append(folio.memory[at:start])
        chain.append_gap(end - start)
        at = end
    chain.append(folio.memory[at:])
    await _read(inode, folio.pos, IovIter.bvecq(Direction.DEST, chain))


async def _read(inode: NetfsInode, pos: int, it: IovIter) -> None:
    rreq = IoRequest(Origin.READ_GAPS, inode, pos, it.count, it, inode.sizes.i_size, read_terminated, clear_tail)
    await begin(rreq)
    await run_request(rreq)
    if rreq.error is not None:
        raise rreq.error


def clear_tail(rreq: IoRequest, front: IoSubrequest) -> None:
    """The file ended inside this part: what is behind its end is zero."""
    if front.failed or front.transferred == front.length:
        return
    it = rreq.iter.copy()
    it.advance(front.start + front.transferred - rreq.start)
    zero_iter(front.length - front.transferred, it)
