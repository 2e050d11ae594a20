"""Sans-IO. Cut a request into subrequests and issue one.

        rreq  |<------------------------------ length ------------------------------->|
              |  subreq 0  |  subreq 1  |  subreq 2  |    cursor: memory not cut yet   |
                                                     ^ start + submitted

A part is what the prepare hook allows, rounded down to whole blocks, and at most `max_segs` segments of memory where it is sent
from there (with blocks it goes through the cipher's own memory). Reads into the page cache do not ask the server for what a local
cache has, nor for what lies behind the zero point. After the slicing loop of Linux netfslib. Owns no memory.
"""

from iov.copy_iter import zero_iter
from iov.iov_iter import IovIter
from netfs.cache.base import ExtentKind
from netfs.engine.events import trace_sreq
from netfs.engine.request import IoRequest, IoSubrequest, Origin, Source

__all__ = ["allowed", "cut_memory", "launch", "next_part"]

MAX_CACHE_READ = 1 << 20
"""Bytes of one read of a local cache, so that what it reads first can be used before the last has come."""

_WRITES = frozenset({Origin.DIO_WRITE, Origin.UNBUFFERED_WRITE, Origin.WRITEBACK, Origin.WRITETHROUGH})
_DIRECT_READS = frozenset({Origin.DIO_READ, Origin.UNBUFFERED_READ})
_UPLOAD = Source.UPLOAD
_DOWNLOAD = Source.DOWNLOAD
_CACHED = Source.READ_FROM_CACHE
_ZERO = Source.FILL_WITH_ZEROES


def next_part(rreq: IoRequest) -> IoSubrequest:
    """Cut off the next subrequest and queue it; the last one sets `all_queued`."""
    start = rreq.start + rreq.submitted
    left = rreq.length - rreq.submitted
    source = _DOWNLOAD
    if rreq.origin in _WRITES:
        source = _UPLOAD
    elif rreq.origin not in _DIRECT_READS:
        source, left = _where_from(rreq, start, left)
    cursor = rreq.cursor
    if cursor is None:
        cursor = rreq.cursor = rreq.iter.copy()
    subreq = IoSubrequest(rreq, rreq.nr_subrequests, source, start, 0, cursor, left)
    try:
        subreq.iter = cut_memory(rreq, cursor, allowed(subreq, left))
    except Exception as error:  # noqa: BLE001 (what is in flight holds the caller's memory and is waited for)
        subreq.error, subreq.failed = error, True
    subreq.length = length = subreq.iter.count
    assert length, "a subrequest without bytes"
    rreq.nr_subrequests += 1
    rreq.subrequests.append(subreq)
    rreq.submitted += length
    rreq.all_queued = rreq.submitted == rreq.length
    if rreq.inode.probe.sink is not None:
        trace_sreq(subreq, "PREP")
    return subreq


def launch(subreq: IoSubrequest) -> None:
    """Issue a queued subrequest; it may terminate before this returns. One that cannot be issued has failed."""
    if subreq.failed:
        return  # its prepare hook has
    rreq = subreq.request
    inode = rreq.inode
    subreq.in_progress = True
    rreq.in_flight += 1
    probe = inode.probe
    probe.subrequests += 1
    if probe.sink is not None:
        trace_sreq(subreq, "SUBMT")
    try:
        if subreq.source is _DOWNLOAD:
            inode.ops.issue_read(subreq)
        elif subreq.source is _UPLOAD:
            inode.ops.issue_write(subreq)
        elif subreq.source is _CACHED:
            inode.ops.issue_cache_read(subreq)
        else:
            subreq.terminated(zero_iter(subreq.iter.count, subreq.iter))
    except Exception as error:  # noqa: BLE001 (the parts in flight hold the caller's memory and are waited for)
        subreq.terminated(0, error)


def allowed(subreq: IoSubrequest, left: int) -> int:
    """Ask the prepare hook how many of `left` bytes may go in one issue; whole blocks, at least one."""
    if subreq.source is _ZERO:
        return left
    ops = subreq.request.inode.ops
    subreq.max_len = left
    if subreq.source is _UPLOAD:
        ops.prepare_write(subreq)
    elif subreq.source is _CACHED and not ops.seals:
        subreq.max_len = min(left, MAX_CACHE_READ)
    else:
        ops.prepare_read(subreq)
    length = subreq.max_len
    if length >= left:
        return left
    block = ops.block_size
    return max(length - length % block, block) if block > 1 else length


def cut_memory(rreq: IoRequest, cursor: IovIter, length: int) -> IovIter:
    """Take `length` bytes, or fewer when they lie in too many segments, off the cursor; the last piece is the cursor itself."""
    ops = rreq.inode.ops
    if cursor.mem is None and ops.block_size == 1 and cursor.nr_segs > ops.max_segs:
        return cursor.slice(length, ops.max_segs)
    return cursor if length == cursor.count else cursor.slice(length)


def _where_from(rreq: IoRequest, start: int, left: int) -> tuple[Source, int]:
    """Choose the source of what comes next, and how much of it comes from there at most.

    What the cache has is taken from it, to the end of its granule; what nobody can have is zero; the rest is downloaded, up to
    the next that the cache has.
    """
    inode = rreq.inode
    block = inode.ops.block_size
    limit = min(inode.sizes.zero_point, rreq.i_size)
    limit += -limit % block
    cookie = inode.cookie
    extent = None
    if cookie is not None and start < limit and cookie.usable:
        extent = cookie.next_extent(start, min(start + left, limit))
        if extent is not None and extent.start <= start:
            # Rounded down: a block that is cached in part is not cached.
            known = extent.end - extent.end % block if extent.end < limit else limit
            if known > start:
                return _ZERO if extent.kind is ExtentKind.ZERO else _CACHED, min(left, known - start)
            extent = None
    if start >= limit:
        return _ZERO, left
    if extent is not None:
        limit = max(extent.start - extent.start % block, start + block)
    return _DOWNLOAD, min(left, limit - start)
