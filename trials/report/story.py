"""Trio shell. A trial told in lines for a terminal: who did what when, faults and crashes between, the guilty operations marked.

    0.021403   client0  ▶ write #3 data 0+4096 … 0.022100
    0.021500 ⚑          T14 nth(send, 4) @client0
    0.022100   server   ■ down until 0.030000
    0.031337   client1  ▶ read #9 data 0+4096 … 0.032001     ◀ guilty

Owns no memory.
"""

from trials.case import Outcome
from trials.report.spans import timeline_of
from trials.report.timeline import Timeline

__all__ = ["around", "story"]

MOST = 400


def around(lines: list[str], at_s: float, width_s: float) -> list[str]:
    """Return the lines of a trace from `width_s` before a moment to as long after it."""
    return [line for line in lines if abs(float(line.partition(" ")[0]) - at_s) <= width_s]


def story(outcome: Outcome) -> list[str]:
    """Return what happened, in order; of a long trial the part that ends with the last guilty operation, or with its end."""
    run = timeline_of(outcome)
    told = sorted(_told(run))
    if len(told) > MOST:
        last = max((span.end_s or run.end_s for span in run.spans if span.guilty), default=run.end_s)
        until = next((number for number, (time_s, *_) in enumerate(told) if time_s > last), len(told))
        told = told[max(0, until - MOST) : max(until, MOST)]
    width = max((len(node) for _, _, node, _ in told), default=0)
    return [f"{time_s:10.6f} {sign} {node:<{width}}  {text}" for time_s, sign, node, text in told]


def _told(run: Timeline) -> list[tuple[float, str, str, str]]:
    rows: list[tuple[float, str, str, str]] = []
    for span in run.spans:
        if span.number:
            until = "never ended" if span.end_s is None else f"until {span.end_s:.6f}"
            failed = " and failed" if span.failed else ""
            rows.append((span.start_s, "▶" if span.guilty else " ", span.node, f"{span.label}, {until}{failed}"))
    rows += [(flag.time_s, "⚑", "", flag.text) for flag in run.flags]
    rows += [(band.start_s, "■", band.node, f"down until {band.end_s:.6f}") for band in run.bands]
    rows += [(one.time_s, "!", one.node, one.label) for one in run.instants if one.failed]
    rows += [
        (one.sent_s, "✗", one.near, f"{one.label} to {one.far or 'nobody'} never arrived")
        for one in run.messages
        if one.arrived_s is None
    ]
    if run.healed_s is not None:
        rows.append((run.healed_s, "✓", "", "from here on nothing goes wrong any more"))
    return rows
