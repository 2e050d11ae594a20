"""Trio shell. Direct reads and writes: between the caller's memory and the transport, past the page cache.

Reads go in parts side by side, writes one part after another, so that a failed write leaves nothing behind the count it returns.
Overlapping folios are flushed before, and dropped before and after a write. A file with blocks reads and writes whole ones:
what the caller did not ask for is a gap in the iterator of a read; a partly written block is staged, once, in pool memory, and
read first where it holds data. The caller's memory is lent from the call to its return; stages are leased from the inode's
pool. After netfs_unbuffered_read_iter and netfs_unbuffered_write_iter of Linux netfslib.
"""

from collections.abc import Sequence

import trio

from iov.bvec import BioVec, BvecQueue
from iov.copy_iter import copy_from_iter, zero_iter
from iov.extract import extract_segments
from iov.iov_iter import Direction, IovIter
from iov.pool import Lease
from netfs.engine.events import begin
from netfs.engine.inode import NetfsInode
from netfs.engine.park import acquire_exclusive, acquire_shared, run_request
from netfs.engine.read_collect import read_terminated
from netfs.engine.request import FileChanged, IoRequest, Origin
from netfs.engine.write_collect import write_terminated
from netfs.engine.write_issue import MAX_CHANGES
from netfs.engine.writeback import END_OF_TIME, SETTLE_TIMEOUT_S, drop_range, flush_range, settle_range

__all__ = ["direct_read", "direct_write"]


async def direct_read(inode: NetfsInode, it: IovIter, pos: int, origin: Origin = Origin.DIO_READ) -> int:
    """Read at `pos` into `it`, which is moved by what came.

    Returns: bytes, 0 at the end of the file; fewer than asked only there or where a later part failed.
    Raises: the first part's error. Cancellation: the memory is back; it may hold some of the data.
    """
    if not it.count:
        await trio.lowlevel.checkpoint()
        return 0
    lock = inode.lock
    if not lock.try_shared():
        await acquire_shared(lock)
    try:
        if inode.mapping.dirty:
            end = pos + it.count
            # Behind its own end the server would say so, although dirty data further on makes this a hole.
            await flush_range(inode, pos, end if end <= inode.sizes.remote_i_size else END_OF_TIME)
        if inode.ops.block_size == 1:
            done = await _read(inode, it, pos, origin)
        else:
            done = await _read_blocks(inode, it, pos, origin)
    finally:
        lock.release_shared()
    it.advance(done)
    return done


async def _read(inode: NetfsInode, it: IovIter, pos: int, origin: Origin) -> int:
    rreq = IoRequest(origin, inode, pos, it.count, it, inode.sizes.i_size, read_terminated)
    await begin(rreq)
    await run_request(rreq)
    if rreq.error is not None and not rreq.transferred:
        raise rreq.error
    return rreq.transferred


async def _read_blocks(inode: NetfsInode, it: IovIter, pos: int, origin: Origin) -> int:
    block = inode.ops.block_size
    end = min(pos + it.count, inode.sizes.i_size)
    if end <= pos:
        await trio.lowlevel.checkpoint()
        return 0
    head, tail = pos % block, -end % block
    part = it.copy()
    part.truncate(end - pos)
    if head or tail:
        chain = BvecQueue()
        chain.append_gap(head)
        chain.append(_bvecs(part))
        chain.append_gap(tail)
        part = IovIter.bvecq(Direction.DEST, chain)
    done = await _read(inode, part, pos - head, origin)
    return max(0, min(done - head, end - pos))


async def direct_write(
    inode: NetfsInode, it: IovIter, pos: int, *, append: bool = False, origin: Origin = Origin.DIO_WRITE
) -> int:
    """Write `it` at `pos`, or at the end of the file; `it` is moved by what was written.

    Returns: bytes; exactly these have reached the server, fewer than asked only where a later part failed.
    Raises: the first part's error. Cancellation: a prefix may have been written; the memory is back.
    """
    length = it.count
    if not length:
        await trio.lowlevel.checkpoint()
        return 0
    block = inode.ops.block_size
    lock = inode.lock
    # Two writers of one block would undo each other's read-modify-write; two who append would choose the same place.
    alone = append or (block > 1 and bool(pos % block or (pos + length) % block))
    if alone:
        await acquire_exclusive(lock)
    elif not lock.try_shared():
        await acquire_shared(lock)
    try:
        if append:
            pos = inode.sizes.i_size
        if inode.mapping.folios:
            await settle_range(inode, pos, pos + length)
            await drop_range(inode, pos, pos + length)
        _forget_cached(inode, pos, length)
        try:
            if block > 1:
                done = await _write_blocks(inode, it, pos, origin)
            else:
                done = await _write(inode, it, pos, origin)
        except BaseException:
            inode.doubtful = True
            # The server may have taken some of it all the same; what was cached meanwhile may be older.
            with trio.move_on_after(SETTLE_TIMEOUT_S, shield=True):
                await drop_range(inode, pos, pos + length)
            _forget_cached(inode, pos, length)
            raise
        if inode.mapping.folios:
            await drop_range(inode, pos, pos + length)
        # Again: a reader may have copied there what it had read before the server took this.
        _forget_cached(inode, pos, length)
    finally:
        if alone:
            lock.release_exclusive()
        else:
            lock.release_shared()
    it.advance(done)
    return done


def _forget_cached(inode: NetfsInode, pos: int, length: int) -> None:
    """Tell a local cache that these bytes go past it."""
    if inode.cookie is not None and not inode.ops.seals:
        inode.cookie.forget(pos, pos + length)


async def _write(
    inode: NetfsInode, it: IovIter, pos: int, origin: Origin, user_end: int | None = None,
    *, changed: Sequence[tuple[int, int]] = (), basis: int = 0, failed: list[Exception] | None = None,
) -> int:  # fmt: skip
    # failed: takes the error of a later part.
    length = it.count
    wreq = IoRequest(origin, inode, pos, length, it, inode.sizes.i_size, write_terminated, sequential=True)
    wreq.changed, wreq.basis = changed, basis
    await begin(wreq)
    try:
        await run_request(wreq)
    finally:
        # Also when cancelled: what was written before is on the server.
        if wreq.transferred:
            inode.wrote_direct(wreq.verifier)
            end = pos + wreq.transferred
            inode.sizes.wrote_server(end if user_end is None else min(end, user_end))
    if wreq.error is not None:
        inode.doubtful = True
        if not wreq.transferred:
            raise wreq.error
        if failed is not None:
            failed.append(wreq.error)
    return wreq.transferred


async def _write_blocks(inode: NetfsInode, it: IovIter, pos: int, origin: Origin) -> int:
    rest, done, changes = it.copy(), 0, 0
    while True:
        failed: list[Exception] = []
        try:
            count = await _write_staged(inode, rest, pos + done, origin, failed)
        except OSError as error:
            if not isinstance(error, FileChanged) or changes == MAX_CHANGES:
                if done:
                    return done
                raise
            count, failed = 0, [error]
        done += count
        if not failed or not isinstance(failed[0], FileChanged) or changes == MAX_CHANGES:
            return done
        # Another client was faster: what it wrote around our bytes is read, and ours are laid over it.
        rest.advance(count)
        changes += 1
        inode.probe.retries += 1


async def _write_staged(inode: NetfsInode, it: IovIter, pos: int, origin: Origin, failed: list[Exception]) -> int:
    block = inode.ops.block_size
    basis = inode.others
    changed = [(pos, pos + it.count)]
    if not (pos % block or it.count % block):
        return await _write(inode, it, pos, origin, changed=changed, basis=basis, failed=failed)
    end = pos + it.count
    start = pos - pos % block
    leases: list[Lease] = []
    chain = BvecQueue()
    source = it.copy()
    try:
        if pos > start:
            chain.append(await _stage(inode, start, leases, source, pos))
        middle = end - end % block - (pos + -pos % block)
        if middle > 0:
            chain.append(_bvecs(source.slice(middle)))
        if source.count:
            chain.append(await _stage(inode, end - end % block, leases, source, end - end % block))
        whole = IovIter.bvecq(Direction.SOURCE, chain)
        done = await _write(
            inode, whole, start, origin, max(end, inode.sizes.i_size), changed=changed, basis=basis, failed=failed
        )
    finally:
        for lease in leases:
            lease.release()
    return max(0, min(done - (pos - start), end - pos))


async def _stage(inode: NetfsInode, start: int, leases: list[Lease], source: IovIter, pos: int) -> memoryview:
    """Stage the block at `start`: what the server has, with the caller's bytes from `pos` on laid over it."""
    block = inode.ops.block_size
    lease = inode.pool.get(block)
    leases.append(lease)
    view = lease.view
    i_size = inode.sizes.i_size
    held = min(max(i_size - start, 0), block)
    if held:
        held = min(held, await _read(inode, IovIter.ubuf(Direction.DEST, view), start, Origin.READ_FOR_WRITE))
    zero_iter(block - held, IovIter.ubuf(Direction.DEST, view[held:]))
    copied = copy_from_iter(view[pos - start :], source)
    inode.probe.copied(copied)
    return view


def _bvecs(it: IovIter) -> list[BioVec]:
    return [BioVec(view, 0, len(view)) for view in extract_segments(it, it.count)]
