"""Sans-IO. Issue again what may succeed the second time.

Runs when nothing of the request is in flight. Each subrequest that asked for it, up to the first that failed, goes again with its
memory at the rest; the prepare hook is asked anew, and where it allows less than before the subrequest is cut and the rest
becomes one of its own. The memory is taken from the request's unmoved iterator, so nothing depends on how far a transport moved
its own. After read_retry.c and write_retry.c of Linux netfslib. Owns no memory.
"""

from netfs.engine.events import trace_rreq, trace_sreq
from netfs.engine.request import IoRequest, IoSubrequest
from netfs.engine.split import allowed, cut_memory, launch

__all__ = ["reissue"]


def reissue(rreq: IoRequest) -> None:
    """Issue every subrequest that wants a retry; terminations inside only leave their verdict."""
    assert rreq.advancing and not rreq.in_flight
    rreq.paused = False
    trace_rreq(rreq, "RESUBMT")
    subreqs = rreq.subrequests
    index = 0
    while index < len(subreqs) and not rreq.paused:
        subreq = subreqs[index]
        if subreq.failed:
            rreq.paused = True
        elif subreq.need_retry:
            subreqs[index : index + 1] = _tile(subreq)
            trace_sreq(subreqs[index], "RETRY")
            rreq.inode.probe.retries += 1
            launch(subreqs[index])
            if rreq.sequential:
                return
        index += 1


def _tile(subreq: IoSubrequest) -> list[IoSubrequest]:
    """Return what takes the place of a subrequest: one for what may go now, and one for the rest of it, if any.

    They are new objects, so that a second termination of the old issue, which would be a defect below, finds nobody.
    """
    rreq = subreq.request
    pos = subreq.start + subreq.transferred
    left = subreq.length - subreq.transferred
    cursor = rreq.iter.copy()
    cursor.advance(pos - rreq.start)
    cursor.truncate(left)
    again = IoSubrequest(rreq, subreq.index, subreq.source, subreq.start, subreq.length, cursor, left)
    again.transferred = subreq.transferred
    again.retry_count = 0 if subreq.made_progress else subreq.retry_count + 1
    again.iter = cut_memory(rreq, cursor, allowed(again, left))
    length = again.iter.count
    if length == left:
        return [again]
    again.length = subreq.transferred + length
    rest = IoSubrequest(rreq, rreq.nr_subrequests, subreq.source, pos + length, left - length, cursor, left - length)
    rest.need_retry = True
    rreq.nr_subrequests += 1
    trace_sreq(rest, "SPLIT")
    return [again, rest]
