"""Sans-IO. Issue again what may succeed the second time.

Runs when nothing of the request is in flight. Each subrequest that asked for it, up to the first that failed, goes again with its
memory at the rest; the prepare hook is asked anew, and where it allows less than before the subrequest is cut and the rest
becomes one of its own. The memory is taken from the request's unmoved iterator, so nothing depends on how far a transport moved
its own. After read_retry.c and write_retry.c of Linux netfslib. Owns no memory.
"""

from netfs.engine.request import IoRequest, IoSubrequest
from netfs.engine.split import allowed, cut_memory, launch

__all__ = ["reissue"]


def reissue(rreq: IoRequest) -> None:
    """Issue every subrequest that wants a retry; terminations inside only leave their verdict."""
    assert rreq.advancing and not rreq.in_flight
    rreq.paused = False
    subreqs = rreq.subrequests
    index = 0
    while index < len(subreqs) and not rreq.paused:
        subreq = subreqs[index]
        index += 1
        if subreq.failed:
            rreq.paused = True
        elif subreq.need_retry:
            rest = _tile(subreq)
            if rest is not None:
                subreqs.insert(index, rest)
            rreq.inode.probe.retries += 1
            launch(subreq)
            if rreq.sequential:
                return


def _tile(subreq: IoSubrequest) -> IoSubrequest | None:
    """Set a subrequest up for its rest, cut to what is allowed now. Returns: the rest of the rest."""
    rreq = subreq.request
    pos = subreq.start + subreq.transferred
    left = subreq.length - subreq.transferred
    cursor = rreq.iter.copy()
    cursor.advance(pos - rreq.start)
    cursor.truncate(left)
    subreq.iter = cut_memory(rreq, cursor, allowed(subreq, left))
    length = subreq.iter.count
    subreq.retry_count = 0 if subreq.made_progress else subreq.retry_count + 1
    subreq.need_retry = subreq.made_progress = subreq.hit_eof = False
    if length == left:
        return None
    subreq.length = subreq.transferred + length
    rest = IoSubrequest(rreq, rreq.nr_subrequests, subreq.source, pos + length, left - length, cursor, left - length)
    rest.need_retry = True
    rreq.nr_subrequests += 1
    return rest
