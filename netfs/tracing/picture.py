"""Sans-IO. A picture of a Perfetto trace: slices on their tracks and the arrows between them, as SVG.

It shows what ui.perfetto.dev shows of a short run, for a page that cannot open it: what it reads are the packets of a `.pftrace`
and nothing else. A trace longer than `MAX_SLICES` is drawn up to there, and says so. Owns the whole trace in memory.
"""

import io
import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from iov.probe import EventSink
from netfs.tracing.packets import Writable
from netfs.tracing.perfetto import PerfettoTrace

__all__ = ["MAX_SLICES", "PictureTrace", "draw"]

MAX_SLICES: Final = 400
LEFT: Final = 20
"""Beside the longest label."""
WIDTH: Final = 1000
ROW: Final = 22
BAR: Final = 16
LETTER: Final = 6.2
COLOURS: Final = {
    "API calls": "#3d6b5c",
    "requests": "#4878a8",
    "subrequests": "#6aa84f",
    "calls": "#c27ba0",
    "calls served": "#e69138",
    "send queue": "#8e7cc3",
}
OTHER: Final = "#888888"


@dataclass(slots=True)
class _Bar:
    track: int
    name: str
    start: int
    end: int
    flows: list[int] = field(default_factory=list)


class PictureTrace:
    """A trace file that is drawn when it is closed."""

    def __init__(self, output: Writable, now: Callable[[], float]) -> None:
        self._output = output
        self._packets = io.BytesIO()
        self._trace = PerfettoTrace(self._packets, now)

    def sink(self, actor: str) -> EventSink:
        """Return the sink for the probe of `actor`."""
        return self._trace.sink(actor)

    def close(self) -> None:
        """Draw what was recorded."""
        self._trace.close()
        self._output.write(draw(self._packets.getvalue()).encode())


def draw(trace: bytes) -> str:
    """Return the picture of a `.pftrace`."""
    tracks, bars = _parse(trace)
    left_out = len(bars) - MAX_SLICES
    bars = sorted(bars, key=lambda bar: bar.start)[:MAX_SLICES]
    used = {bar.track for bar in bars}
    order = sorted((track for track in tracks if track in used), key=lambda track: tracks[track][2])
    rows = {track: row for row, track in enumerate(order)}
    labels = {track: f"{tracks[track][0]}: {tracks[track][1]}" for track in order}
    left = LEFT + round(LETTER * max(map(len, labels.values()), default=0))
    began = min((bar.start for bar in bars), default=0)
    span = max(1, max((bar.end for bar in bars), default=1) - began)

    def x_of(time_ns: int) -> float:
        return left + (time_ns - began) / span * (WIDTH - left - 10)

    height = (len(rows) + 2) * ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for track, row in rows.items():
        lines.append(f'<text x="6" y="{row * ROW + 15}" fill="#333">{escape(labels[track])}</text>')
        lines.append(f'<line x1="{left}" x2="{WIDTH}" y1="{(row + 1) * ROW}" y2="{(row + 1) * ROW}" stroke="#eee"/>')
    flows: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for bar in bars:
        x, y = x_of(bar.start), rows[bar.track] * ROW + 3
        width = max(1.5, x_of(bar.end) - x)
        colour = COLOURS.get(tracks[bar.track][1], OTHER)
        title = f"{escape(bar.name)}: {(bar.end - bar.start) / 1000:.1f} µs"
        lines.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"><title>{title}</title></rect>'
        )
        if len(bar.name) * LETTER < width:
            lines.append(f'<text x="{x + 3:.1f}" y="{y + 12}" fill="white">{escape(bar.name)}</text>')
        for flow in bar.flows:
            flows[flow].append((x, y + BAR / 2))
    for ends in flows.values():
        for (x1, y1), (x2, y2) in itertools.pairwise(ends):
            bend = (x1 + x2) / 2
            path = f"M{x1:.1f} {y1} C{bend:.1f} {y1} {bend:.1f} {y2} {x2:.1f} {y2}"
            lines.append(f'<path d="{path}" fill="none" stroke="#555" stroke-width="0.6"/>')
    foot = f"{span / 1000:,.0f} µs" + (f"; {left_out} later slices are left out" if left_out > 0 else "")
    lines.append(f'<text x="{left}" y="{height - ROW // 2}" fill="#333">{foot}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _parse(trace: bytes) -> tuple[dict[int, tuple[str, str, tuple[int, int, int]]], list[_Bar]]:
    """Return the tracks, each with its actor, family and place, and the slices."""
    tracks: dict[int, tuple[str, str, tuple[int, int, int]]] = {}
    open_on: dict[int, _Bar] = {}
    bars: list[_Bar] = []
    for packet in Trace.FromString(trace).packet:
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            if track.parent_uuid:
                actor, _, (place, _, _) = tracks[track.parent_uuid]
                tracks[track.uuid] = (actor, track.name, (place, 1 + track.sibling_order_rank, track.uuid))
            else:
                tracks[track.uuid] = (track.name, "", (track.uuid, 0, 0))
            continue
        event = packet.track_event
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            bar = _Bar(event.track_uuid, event.name, packet.timestamp, packet.timestamp, list(event.flow_ids))
            open_on[event.track_uuid] = bar
            bars.append(bar)
        elif event.type == TrackEvent.TYPE_SLICE_END:
            open_on.pop(event.track_uuid).end = packet.timestamp
    return tracks, bars
