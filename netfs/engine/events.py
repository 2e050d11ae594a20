"""Sans-IO. What the request library tells the probe's sink, and the table of requests that have begun and not ended.

Names and words are those of netfslib's tracepoints (`netfs_read`, `netfs_write`, `netfs_rreq`, `netfs_sreq`, `netfs_failure`,
`netfs_folio`, `netfs_collect*`, `netfs_copy2cache`), so that one who reads kernel traces can read ours. Callers on the hot path
test the sink before they call a function here; those that run once for a request test it themselves.

    sreq   PREP  cut, memory chosen        SUBMT  issued        TERM   an issue has ended         RETRY  goes again
           RDOWN the cache failed: download   CANCL  not cached after all
           SHORT fewer bytes than asked    EOF    at the file's end     FAIL   for good           SPLIT  a retry in two
           CONSM counts for the result     DSCRD  does not
    rreq   PAUSE, UNPAUSE  issuing         RESUBMT  a retry begins       S-ABNDN  the caller was cancelled
           COMPLET  nothing in flight or left to do

The collector tells of each time it takes something: `netfs_collect`, what may be taken; `netfs_collect_sreq`, a subrequest that
is; `netfs_collect_folio`, a folio that is let go with it; `netfs_collect_gap`, what a stream has nothing for; and when it stops
`netfs_collect_stream`, how far the stream is, and `netfs_collect_state`, how far the request. `netfs_copy2cache` names the
request that takes to a local cache what another one has read.

Owns no memory.
"""

import errno
from contextvars import ContextVar
from typing import Final

from iov.probe import Probe
from netfs.cache.folio import Folio
from netfs.engine.inode import NO_REQUESTS, NetfsInode
from netfs.engine.request import IoRequest, IoSubrequest, Origin
from transport.base import ClientCall

__all__ = [
    "CALLING", "begin", "ended", "errno_of", "number", "request_flags", "subrequest_flags", "trace_call", "trace_caller",
    "trace_collected", "trace_collecting", "trace_failure", "trace_folio", "trace_gap", "trace_let_go", "trace_rreq",
    "trace_sreq", "trace_taken",
]  # fmt: skip

CALLING: Final[ContextVar[tuple[Probe, int] | None]] = ContextVar("netfs call", default=None)
"""The call of the public interface that this task is in, by its probe and number; set while somebody listens."""
READS: Final = {
    Origin.READAHEAD: "READAHEAD",
    Origin.READ_FOLIO: "READPAGE",
    Origin.READ_GAPS: "READ-GAPS",
    Origin.READ_SINGLE: "READ-SINGLE",
    Origin.READ_FOR_WRITE: "READ-FOR-WRITE",
    Origin.UNBUFFERED_READ: "UNBUFFERED-READ",
    Origin.DIO_READ: "DIO-READ",
}
WRITES: Final = {
    Origin.WRITEBACK: "WRITEBACK",
    Origin.WRITETHROUGH: "WRITETHROUGH",
    Origin.UNBUFFERED_WRITE: "UNBUFFERED-WRITE",
    Origin.DIO_WRITE: "DIO-WRITE",
    Origin.COPY_TO_CACHE: "COPY-TO-CACHE",
}


def number(rreq: IoRequest) -> None:
    """Number a new request and note that it lives."""
    inode = rreq.inode
    probe = inode.probe
    probe.requests += 1
    probe.request_ids = rreq.debug_id = probe.request_ids + 1
    if inode.requests is NO_REQUESTS:
        inode.requests = {}
    inode.requests[rreq.debug_id] = rreq
    sink = probe.sink
    if sink is not None:
        what = READS.get(rreq.origin)
        if what is not None:
            sink("netfs_read", (rreq.debug_id, what, inode.debug_id, rreq.start, rreq.length, rreq.i_size))
        else:
            what = WRITES[rreq.origin]
            sink("netfs_write", (rreq.debug_id, what, inode.debug_id, rreq.start, rreq.start + rreq.length))
        trace_caller(probe, rreq.debug_id)


def trace_caller(probe: Probe, request: int) -> None:
    """Tell which call of the program a new request serves, if it is one's."""
    call = CALLING.get()
    if call is not None and call[0] is probe:
        probe.emit("api_request", call[1], request)


async def begin(rreq: IoRequest) -> None:
    """Number a new request, note that it lives, and let the filesystem prepare for it.

    Raises: the error of `init_request`; the request has ended then. Cancellation: the same.
    """
    number(rreq)
    try:
        await rreq.inode.ops.init_request(rreq)
    except BaseException as error:
        if isinstance(error, Exception):
            rreq.error = error
        else:
            rreq.abandoned = True
        ended(rreq)
        raise


def ended(rreq: IoRequest) -> None:
    """Note that a request lives no longer."""
    rreq.done = True
    # One that never passed `begin` is not in the table.
    requests = rreq.inode.requests
    requests.pop(rreq.debug_id, None)
    rreq.inode.ops.end_request(rreq)
    if not requests and rreq.origin in WRITES:
        rreq.inode.requests = NO_REQUESTS  # a dictionary keeps the room it once had, and many files may stay open
    if rreq.inode.probe.sink is not None:
        trace_rreq(rreq, "COMPLET")


def trace_rreq(rreq: IoRequest, what: str) -> None:
    """Tell what happens to a request."""
    sink = rreq.inode.probe.sink
    if sink is not None:
        fields = (
            rreq.debug_id, rreq.origin.value, what, request_flags(rreq), rreq.transferred, rreq.length, errno_of(rreq.error),
        )  # fmt: skip
        sink("netfs_rreq", fields)


def trace_sreq(subreq: IoSubrequest, what: str) -> None:
    """Tell what happens to a subrequest."""
    rreq = subreq.request
    sink = rreq.inode.probe.sink
    if sink is not None:
        fields = (
            rreq.debug_id, subreq.index, subreq.source.value, what, subrequest_flags(subreq), subreq.start, subreq.transferred,
            subreq.length, errno_of(subreq.error),
        )  # fmt: skip
        sink("netfs_sreq", fields)


def trace_failure(subreq: IoSubrequest, what: str) -> None:
    """Tell that a subrequest has failed for good; its error says why."""
    rreq = subreq.request
    sink = rreq.inode.probe.sink
    if sink is not None:
        fields = (
            rreq.debug_id, subreq.index, subreq.source.value, subrequest_flags(subreq), subreq.start, subreq.transferred,
            subreq.length, what, errno_of(subreq.error),
        )  # fmt: skip
        sink("netfs_failure", fields)


def trace_call(subreq: IoSubrequest, op: str, call: ClientCall) -> None:
    """Tell by which call a subrequest's bytes move."""
    sink = subreq.request.inode.probe.sink
    if sink is not None:
        sink("netfs_call", (subreq.request.debug_id, subreq.index, op, call.xid))


def trace_folio(inode: NetfsInode, folio: Folio, what: str) -> None:
    """Tell what happens to a folio."""
    sink = inode.probe.sink
    if sink is not None:
        sink("netfs_folio", (inode.debug_id, folio.pos // folio.mapping.unit, what, folio.size))


def trace_let_go(rreq: IoRequest, folio: Folio, what: str) -> None:
    """Tell that the collector is past a folio, and what has become of it."""
    inode = rreq.inode
    sink = inode.probe.sink
    if sink is not None:
        index = folio.pos // folio.mapping.unit
        sink("netfs_collect_folio", (rreq.debug_id, index, folio.pos, folio.pos + folio.size, rreq.start + rreq.transferred))
        sink("netfs_folio", (inode.debug_id, index, what, folio.size))


def trace_collecting(rreq: IoRequest, start: int) -> None:
    """Tell that the collector has something to take, from `start` on."""
    sink = rreq.inode.probe.sink
    if sink is not None:
        sink("netfs_collect", (rreq.debug_id, start, rreq.start + rreq.length))


def trace_taken(subreq: IoSubrequest, stream: int, what: str) -> None:
    """Tell that the collector takes a subrequest, and whether it counts."""
    sink = subreq.request.inode.probe.sink
    if sink is not None:
        fields = (subreq.request.debug_id, stream, subreq.index, subreq.start, subreq.transferred, subreq.length)
        sink("netfs_collect_sreq", fields)
        trace_sreq(subreq, what)


def trace_gap(rreq: IoRequest, stream: int, start: int, end: int) -> None:
    """Tell that a stream has nothing for [start, end)."""
    sink = rreq.inode.probe.sink
    if sink is not None:
        sink("netfs_collect_gap", (rreq.debug_id, stream, start, end))


def trace_collected(rreq: IoRequest, stream: int, collected_to: int, left: int) -> None:
    """Tell how far the collector has come: in a stream, of which `left` subrequests are queued, and in the request."""
    sink = rreq.inode.probe.sink
    if sink is not None:
        sink("netfs_collect_stream", (rreq.debug_id, stream, collected_to, left))
        cleaned_to = rreq.folios[0].pos if rreq.folios else collected_to
        sink("netfs_collect_state", (rreq.debug_id, rreq.start + rreq.transferred, cleaned_to, request_flags(rreq)))


def request_flags(rreq: IoRequest) -> int:
    """Return bits: 1 in progress, 2 all queued, 4 paused, 8 failed, 10 short transfer, 20 abandoned."""
    return (
        (not rreq.done)
        | rreq.all_queued << 1
        | rreq.paused << 2
        | (rreq.error is not None) << 3
        | rreq.short_transfer << 4
        | rreq.abandoned << 5
    )


def subrequest_flags(subreq: IoSubrequest) -> int:
    """Return bits: 1 in progress, 2 made progress, 4 hit the end of the file, 8 needs a retry, 10 failed."""
    return subreq.in_progress | subreq.made_progress << 1 | subreq.hit_eof << 2 | subreq.need_retry << 3 | subreq.failed << 4


def errno_of(error: Exception | None) -> int:
    """Return the errno of an error, EIO for one that has none, 0 for none."""
    if error is None:
        return 0
    number = getattr(error, "errno", None)
    return number if isinstance(number, int) else errno.EIO
