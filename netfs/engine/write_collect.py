"""Sans-IO. Judge how the issue of a write subrequest ended.

`VERDICTS` is the termination rule of Linux netfslib (netfs_write_subrequest_terminated): EAGAIN and short writes are issued again
at the rest, anything else fails the request. EAGAIN without progress is believed `IDLE_RETRIES` times. Boot verifiers of unstable
writes are kept by the request: a mixture is remembered as `MIXED`, which no commit ever answers. Owns no memory.
"""

import errno
from collections.abc import Callable
from typing import Final

from netfs.engine.collect import advance
from netfs.engine.events import trace_failure, trace_rreq, trace_sreq
from netfs.engine.read_collect import IDLE_RETRIES, Verdict
from netfs.engine.request import FileChanged, IoSubrequest

__all__ = ["MIXED", "VERDICTS", "judge_write", "write_terminated"]

MIXED: Final = -1


def _again(s: IoSubrequest) -> bool:
    if isinstance(s.error, FileChanged):
        return False  # the same bytes again would undo the other client's
    return s.need_retry or (isinstance(s.error, OSError) and s.error.errno == errno.EAGAIN)


VERDICTS: Final[tuple[tuple[Callable[[IoSubrequest], bool], Verdict], ...]] = (
    (lambda s: s.transferred >= s.length, Verdict.DONE),
    (lambda s: s.request.abandoned, Verdict.FAILED),
    (lambda s: _again(s) and (s.made_progress or s.retry_count < IDLE_RETRIES), Verdict.RETRY),
    (lambda s: s.error is None and s.made_progress, Verdict.RETRY),
    (lambda s: s.error is None, Verdict.NO_PROGRESS),
    (lambda _: True, Verdict.FAILED),
)


def judge_write(subreq: IoSubrequest) -> Verdict:
    """Look the ended issue up in the table."""
    return next(verdict for holds, verdict in VERDICTS if holds(subreq))


def write_terminated(subreq: IoSubrequest) -> None:
    """Take the end of an issue: judge it and move the request on."""
    wreq = subreq.request
    if wreq.inode.probe.sink is not None:
        trace_sreq(subreq, "TERM")
    if subreq.error is not None or subreq.transferred != subreq.length:
        _apply(subreq, judge_write(subreq))
    else:
        subreq.need_retry = False
    verifier = subreq.verifier
    if verifier and verifier != wreq.verifier:
        wreq.verifier = MIXED if wreq.verifier else verifier
    advance(wreq)


def _apply(subreq: IoSubrequest, verdict: Verdict) -> None:
    subreq.need_retry = verdict is Verdict.RETRY
    if verdict is Verdict.DONE:
        # More than asked for: what was asked for is among it, so it is clamped, as the kernel does.
        subreq.transferred = subreq.length
        subreq.error = None
        return
    if verdict is Verdict.RETRY:
        subreq.error = None
        trace_sreq(subreq, "SHORT")
    elif verdict is Verdict.NO_PROGRESS:
        subreq.error = OSError(errno.EIO, "a write made no progress")
    elif subreq.error is None:
        subreq.error = OSError(errno.ECANCELED, "abandoned")
    subreq.failed = not subreq.need_retry
    if subreq.failed:
        trace_sreq(subreq, "FAIL")
        trace_failure(subreq, "short-write" if verdict is Verdict.NO_PROGRESS else "write")
    subreq.request.paused = True
    trace_rreq(subreq.request, "PAUSE")
