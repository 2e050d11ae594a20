"""Trio shell. From the outcome of a trial to its timeline: the workload's operations as spans, crashes as marks.

Owns no memory.
"""

from typing import Final

from trials.case import Outcome
from trials.history import NEVER, Op
from trials.report.timeline import Span, Timeline, timeline

__all__ = ["MOST_LINES", "timeline_of"]

MOST_LINES: Final = 2500
"""Lines of a trace that are drawn; of a longer one the last so many."""


def timeline_of(outcome: Outcome) -> Timeline:
    """Return the timeline of an outcome whose trace was kept."""
    assert outcome.lines is not None, "the trial was run without keep_trace"
    history = outcome.history
    lines = outcome.lines[-MOST_LINES:]
    since = float(lines[0].partition(" ")[0]) if len(lines) < len(outcome.lines) else 0.0
    complaint = f"{outcome.failure.kind}: {outcome.failure.message}" if outcome.failure else ""
    marks = [] if history is None else [(mark.kind, mark.node, mark.time_s) for mark in history.marks]
    spans = [] if history is None else [span for span in map(_span, history.ops) if span.end_s is None or span.end_s >= since]
    return timeline(lines, spans, marks, complaint)


def _span(op: Op) -> Span:
    where = f" {op.pos}+{op.length}" if op.length or op.kind in {"read", "write"} else ""
    label = f"{op.kind} #{op.id} {' '.join((op.file, *op.args))}{where}"
    end_s = None if op.ret == NEVER else op.ret_s
    return Span(op.client, label, op.call_s, end_s, op.id, failed=bool(op.error), detail=str(op))
