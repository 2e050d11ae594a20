"""Sans-IO. Judge how the issue of a read subrequest ended.

`VERDICTS` is the termination table of Linux netfslib (netfs_read_subreq_terminated); the first row that holds wins. Owns no
memory.
"""

import enum
import errno
from collections.abc import Callable
from typing import Final

from netfs.engine.collect import advance
from netfs.engine.events import trace_failure, trace_rreq, trace_sreq
from netfs.engine.request import IoSubrequest, Source

__all__ = ["IDLE_RETRIES", "VERDICTS", "Verdict", "judge_read", "read_terminated"]

IDLE_RETRIES: Final = 8
"""How often in a row a subrequest that moves nothing is issued again because its filesystem asks for it."""


class Verdict(enum.Enum):
    """What becomes of a subrequest whose issue has ended."""

    DONE = "done"
    RETRY = "retry"
    DOWNLOAD = "download"
    TOO_MUCH = "too much"
    NO_PROGRESS = "no progress"
    FAILED = "failed"


def _short(s: IoSubrequest) -> bool:
    return s.error is None and s.transferred < s.length


VERDICTS: Final[tuple[tuple[Callable[[IoSubrequest], bool], Verdict], ...]] = (
    (lambda s: s.transferred > s.length, Verdict.TOO_MUCH),
    (lambda s: _short(s) and s.hit_eof, Verdict.DONE),
    (lambda s: s.source is Source.READ_FROM_CACHE and s.transferred < s.length and not s.request.abandoned, Verdict.DOWNLOAD),
    (lambda s: s.request.abandoned and s.transferred < s.length, Verdict.FAILED),
    (lambda s: s.need_retry and (s.made_progress or s.retry_count < IDLE_RETRIES), Verdict.RETRY),
    (lambda s: _short(s) and s.made_progress, Verdict.RETRY),
    (_short, Verdict.NO_PROGRESS),
    (lambda s: s.error is not None, Verdict.FAILED),
    (lambda _: True, Verdict.DONE),
)


def judge_read(subreq: IoSubrequest) -> Verdict:
    """Look the ended issue up in the table."""
    return next(verdict for holds, verdict in VERDICTS if holds(subreq))


def read_terminated(subreq: IoSubrequest) -> None:
    """Take the end of an issue: judge it and move the request on."""
    if subreq.request.inode.probe.sink is not None:
        trace_sreq(subreq, "TERM")
    if subreq.error is not None or subreq.transferred != subreq.length:
        _apply(subreq, judge_read(subreq))
    else:
        subreq.need_retry = False
    advance(subreq.request)


_FAILURES: Final = {Verdict.TOO_MUCH: "long-read", Verdict.NO_PROGRESS: "short-read", Verdict.FAILED: "read"}


def _apply(subreq: IoSubrequest, verdict: Verdict) -> None:
    subreq.need_retry = verdict in {Verdict.RETRY, Verdict.DOWNLOAD}
    match verdict:
        case Verdict.DONE:
            trace_sreq(subreq, "EOF")
            return
        case Verdict.RETRY:
            subreq.error = None
            trace_sreq(subreq, "SHORT")
        case Verdict.DOWNLOAD:
            # What the cache did not give the server has.
            subreq.source = Source.DOWNLOAD
            subreq.error = None
            trace_sreq(subreq, "RDOWN")
        case Verdict.TOO_MUCH:
            subreq.transferred = 0
            subreq.error = OSError(errno.EIO, "more was read than asked for")
        case Verdict.NO_PROGRESS:
            subreq.error = OSError(errno.ENODATA, "a read ended without data before the end of the file")
        case Verdict.FAILED:
            subreq.error = subreq.error or OSError(errno.ECANCELED, "abandoned")
    subreq.failed = not subreq.need_retry
    if subreq.failed:
        trace_sreq(subreq, "FAIL")
        trace_failure(subreq, _FAILURES[verdict])
    subreq.request.paused = True
    trace_rreq(subreq.request, "PAUSE")
