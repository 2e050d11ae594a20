"""Sans-IO. A timeline as SVG: a lane for each node and connection, messages as arrows between them, faults as flags on top.

Each thing drawn carries the number of its line in the trace (`data-n`), which the page shows when it is clicked. Owns no memory.
"""

from collections.abc import Iterator, Mapping
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from trials.report.scale import Scale
from trials.report.timeline import Message, Span, Timeline

__all__ = ["LEFT", "draw"]

LEFT: Final = 120
TOP: Final = 44
ROW: Final = 15
BAR: Final = 11
PAD: Final = 10
CHART: Final = 20
LETTER: Final = 5.6
ROWS: Final = 12
"""Rows of a lane at most; what would be in further ones is drawn over the last."""


def draw(run: Timeline, scale: Scale, *, diverged_s: float | None = None) -> tuple[str, str]:
    """Return the names of the lanes, and the lanes, as two pictures of one height. diverged_s: where another run left it."""
    tops, height = _layout(run)
    names = "".join(
        f'<text x="{LEFT - 8}" y="{tops[node] + 10:.0f}" text-anchor="end" class="{"node" if " " not in node else "sub"}">'
        f"{escape(node.partition(' ')[2] or node)}</text>"
        for node in run.nodes
    )
    width = scale.width + 40
    head = '<svg width="{:.0f}" height="{:.0f}" class="{}">'
    body = "".join(_parts(run, scale, tops, height, diverged_s))
    return (
        head.format(LEFT, height, "names") + names + "</svg>",
        head.format(width, height, "lanes") + f'<g transform="translate(8 0)">{body}</g></svg>',
    )


def _layout(run: Timeline) -> tuple[dict[str, float], float]:
    """Return the top of each lane, and the height of all."""
    charted = {level.label.partition(":")[0] for level in run.levels}
    tops: dict[str, float] = {}
    y = float(TOP)
    for node in run.nodes:
        tops[node] = y
        y += max(1, min(ROWS, run.rows_of(node))) * ROW + PAD + (CHART if node in charted else 0)
    return tops, y + 6


def _parts(run: Timeline, scale: Scale, tops: Mapping[str, float], height: float, diverged_s: float | None) -> Iterator[str]:
    yield from _ground(run, scale, tops, height)
    for message in run.messages:
        if message.near in tops and message.far in tops:
            yield _arrow(run, scale, tops, message)
    for span in sorted(run.spans, key=lambda span: span.guilty):
        yield _bar(span, scale, tops[span.node] + min(span.row, ROWS - 1) * ROW, run)
    for instant in run.instants:
        x, y = scale(instant.time_s), tops[instant.node] + ROW / 2
        kind = "bad" if instant.failed else "dot"
        if instant.node.endswith(" wire"):
            up = instant.label.startswith(instant.node.partition(" ")[0])
            shape = f'<path d="M{x:.1f} {y - 1:.0f}v{6 if up else -6}" class="wire {"there" if up else "back"}"'
        else:
            shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="{kind}"'
        yield f"{shape} data-n={quoteattr(str(instant.line))}><title>{_at(instant.time_s)} {escape(instant.label)}</title>" + (
            "</path>" if instant.node.endswith(" wire") else "</circle>"
        )
    for flag in run.flags:
        x = scale(flag.time_s)
        yield (
            f'<g class="flag" data-n="{flag.line}"><path d="M{x:.1f} 20V{height - 4:.0f}" class="pole"/>'
            f'<path d="M{x:.1f} 14h26l-4 6l4 6h-26z"/><text x="{x + 3:.1f}" y="24">{escape(flag.id)}</text>'
            f"<title>{_at(flag.time_s)} {escape(flag.text)}</title></g>"
        )
    for moment, kind, text, y in ((run.healed_s, "heal", "healed", 40), (diverged_s, "diverged", "from here on otherwise", 29)):
        if moment is not None:
            x = scale(moment)
            yield f'<path d="M{x:.1f} 12V{height - 4:.0f}" class="{kind}"/>'
            yield f'<text x="{x + 3:.1f}" y="{y}" class="{kind}">{text}</text>'


def _ground(run: Timeline, scale: Scale, tops: Mapping[str, float], height: float) -> Iterator[str]:
    """Draw what lies beneath: the axis, the lanes, what was down, how many credits were in use."""
    for x, time_s in scale.ticks(90):
        yield f'<path d="M{x:.1f} 12V{height - 4:.0f}" class="grid"/>'
        yield f'<text x="{x:.1f}" y="10" class="axis">{_at(time_s)}</text>'
    for x, gap in scale.cuts:
        title = f"<title>{gap * 1e3:.1f} ms in which nothing happened</title>"
        yield f'<text x="{x:.1f}" y="{height - 1:.0f}" class="cut">≈{title}</text>'
    for node in run.nodes:
        y = tops[node] + ROW / 2 - 1
        yield f'<path d="M0 {y:.0f}H{scale.width:.0f}" class="lane"/>'
    for band in run.bands:
        if band.node in tops:
            x, end = scale(band.start_s), scale(band.end_s)
            y, rows = tops[band.node] - 4, max(1, min(ROWS, run.rows_of(band.node)))
            yield (
                f'<rect x="{x:.1f}" y="{y:.0f}" width="{max(2.0, end - x):.1f}" height="{rows * ROW + 6}" class="down">'
                f"<title>{escape(band.node)} down from {_at(band.start_s)} to {_at(band.end_s)}</title></rect>"
            )
    for level in run.levels:
        node = level.label.partition(":")[0]
        base = tops[node] + max(1, min(ROWS, run.rows_of(node))) * ROW + CHART
        most = max((value for _, value in level.points), default=0)
        if most:
            path, last = f"M0 {base:.0f}", 0
            for time_s, value in level.points:
                path += f"H{scale(time_s):.1f}V{base - (CHART - 4) * value / most:.1f}"
                last = value
            yield f'<path d="{path}H{scale.width:.0f}V{base:.0f}z" class="level"/>'
            yield f'<text x="{scale.width + 3:.0f}" y="{base:.0f}" class="axis">{last} of {most}</text>'
            yield f'<text x="2" y="{base - 2:.0f}" class="axis">{escape(level.label.partition(": ")[2])}, at most {most}</text>'


def _bar(span: Span, scale: Scale, y: float, run: Timeline) -> str:
    x = scale(span.start_s)
    end = scale(run.end_s if span.end_s is None else span.end_s)
    width = max(7.0 if span.guilty else 2.0, end - x)  # a buffered write takes no time, and must be seen all the same
    kind = "span" + (" guilty" if span.guilty else " failed" if span.failed else "") + ("" if span.number else " inner")
    room = int((width - 4) / LETTER)
    label = span.label if len(span.label) <= room else span.label[: max(0, room - 1)] + "…" if room > 3 else ""
    text = f'<text x="{x + 2:.1f}" y="{y + 9:.0f}">{escape(label)}</text>' if label else ""
    until = "never ended" if span.end_s is None else f"until {_at(span.end_s)}"
    return (
        f'<g class="{kind}" data-t="{span.start_s:.9f}"><rect x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="{BAR}"/>{text}'
        f"<title>{escape(span.detail or span.label)}: {_at(span.start_s)} {until}</title></g>"
    )


def _arrow(run: Timeline, scale: Scale, tops: Mapping[str, float], message: Message) -> str:
    """Draw a message from the edge of one lane to that of another; one that was lost ends soon, with a cross."""
    near, far = message.near, message.far

    def edge(node: str, other: str) -> float:
        return tops[node] + (max(1, min(ROWS, run.rows_of(node))) * ROW - 2 if tops[other] > tops[node] else 0)

    x, y, top = scale(message.sent_s), edge(near, far), edge(far, near)
    if message.arrived_s is None:
        top = y + (16 if top > y else -16)
        end, kind, took = x + 6, "lost", "lost"
        cross = f"M{end - 3:.1f} {top - 3:.0f}l6 6m0 -6l-6 6"
    else:
        end, kind, cross = scale(message.arrived_s), "reply" if near == "server" else "call", ""
        took = f"{(message.arrived_s - message.sent_s) * 1e6:.0f} µs"
    title = f"{_at(message.sent_s)} {escape(message.label)}, {near} to {far}, {took}"
    line = f"M{x:.1f} {y:.0f}L{end:.1f} {top:.0f}{cross}"
    return f'<path d="{line}" class="{kind}" data-n="{message.line}"><title>{title}</title></path>'


def _at(time_s: float) -> str:
    return f"{time_s:.6f}"
