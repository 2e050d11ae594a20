"""Sans-IO. Move a request on: take finished subrequests, issue again what wants it, issue what is next, and see when all is done.

`advance` is entered at the start and at every termination, but never twice: a termination that comes while it runs only leaves
its verdict, which the running loop sees. Subrequests are taken from the front only, so what counts is a contiguous prefix:
after the first short one later data is not counted. A failure stops issuing; what is in flight is waited for and dropped. There
is no moment at which the last subrequest is queued but its collector could miss it (the ALL_QUEUED races of netfslib's
history). Owns no memory.
"""

from functools import partial

from netfs.engine.events import ended, trace_collected, trace_collecting, trace_taken
from netfs.engine.request import IoRequest, nobody
from netfs.engine.retry import delay_s, reissue
from netfs.engine.split import launch, next_part

__all__ = ["advance", "stage_next"]


def advance(rreq: IoRequest) -> None:
    """Do all that can be done now; wakes the owner, once, when nothing is in flight or left to do."""
    if rreq.advancing or rreq.done:
        return
    rreq.advancing = True
    subreqs = rreq.subrequests
    took = False
    while True:
        if subreqs and not subreqs[0].in_progress:
            if subreqs[0].need_retry and rreq.error is None and not rreq.abandoned:
                if rreq.in_flight or (rreq.timer is not None and rreq.timer.pending):
                    break  # a retry begins when all is quiet, and not too soon
                if rreq.timer is None and (delay := delay_s(rreq)):
                    rreq.timer = rreq.inode.cache.timers.after(delay, partial(advance, rreq))
                    continue
                rreq.timer = None
                reissue(rreq)
            else:
                if not took:
                    took = True
                    trace_collecting(rreq, subreqs[0].start)
                _take_front(rreq)
        elif (
            rreq.paused
            or (rreq.all_queued and rreq.ahead is None)
            or rreq.in_flight >= rreq.inode.ops.max_in_flight
            or (subreqs and rreq.sequential)
        ):
            break
        elif rreq.ahead is not None:
            part, rreq.ahead = rreq.ahead, None
            subreqs.append(part)
            launch(part)
            rreq.launched()
        else:
            launch(next_part(rreq))
            rreq.launched()
    rreq.advancing = False
    if took:
        collected_to = subreqs[0].start if subreqs else rreq.start + rreq.submitted
        trace_collected(rreq, 0, collected_to, len(subreqs))
    if not (rreq.in_flight or subreqs or (rreq.cache is not None and rreq.cache.subrequests)):
        if rreq.ahead is not None:
            rreq.inode.ops.drop_staged(rreq.ahead)
            rreq.ahead = None
        ended(rreq)
        # The one who waits and the request would keep each other, and with them the caller's memory, for the garbage collector.
        wake, rreq.wake, rreq.launched = rreq.wake, nobody, nobody
        wake()


def stage_next(rreq: IoRequest) -> None:
    """Prepare the next part of a sequential request while one is on its way, if the filesystem has something to prepare."""
    ops = rreq.inode.ops
    if not ops.stages_writes or rreq.ahead is not None or rreq.all_queued or rreq.paused or not rreq.in_flight:
        return
    part = next_part(rreq)
    rreq.subrequests.remove(part)
    rreq.ahead = part
    if not part.failed:
        try:
            ops.stage_write(part)
        except Exception as error:  # noqa: BLE001 (told when its turn comes, if it does)
            part.error, part.failed = error, True


def _take_front(rreq: IoRequest) -> None:
    front = rreq.subrequests.pop(0)
    if front.failed and rreq.error is None and not (rreq.short_transfer and rreq.progress is None):
        rreq.error = front.error  # behind the end of the file nothing can fail
    if rreq.inode.probe.sink is not None:
        trace_taken(front, 0, "DSCRD" if rreq.short_transfer else "CONSM")
    if not rreq.short_transfer:
        rreq.transferred += front.transferred
        if front.transferred < front.length:
            rreq.short_transfer = True
            if rreq.progress is None:
                rreq.all_queued = True  # direct I/O ends at the first gap
    if rreq.progress is not None:
        rreq.progress(rreq, front)
