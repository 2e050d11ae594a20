"""Sans-IO. A Perfetto trace as lines of text: when, how long, on which track, what, and what is noted with it.

        time µs   length µs  track                      name
          123.4        56.7  client: requests           DIO-READ  request=R=00000001 …

For a terminal, and for grep. Owns the whole trace in memory.
"""

from collections.abc import Iterator
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

__all__ = ["listed"]


def listed(content: bytes) -> list[str]:
    """Return the lines of a `.pftrace`, in order of time. Raises: ValueError for something else."""
    try:
        trace = Trace.FromString(content)
    except Exception as error:
        raise ValueError("this is no Perfetto trace") from error
    names: dict[int, str] = {}
    parents: dict[int, int] = {}
    rows: list[tuple[int, int | None, int, str, str]] = []
    open_: dict[int, list[int]] = {}
    for packet in trace.packet:
        if packet.HasField("track_descriptor"):
            described = packet.track_descriptor
            names[described.uuid] = described.process.process_name or described.name
            parents[described.uuid] = described.parent_uuid
        elif packet.HasField("track_event"):
            event = packet.track_event
            if event.type == TrackEvent.TYPE_COUNTER:
                continue
            if event.type == TrackEvent.TYPE_SLICE_END:
                at = open_[event.track_uuid].pop()
                start, _, track, name, notes = rows[at]
                rows[at] = (start, packet.timestamp - start, track, name, notes)
                continue
            if event.type == TrackEvent.TYPE_SLICE_BEGIN:
                open_.setdefault(event.track_uuid, []).append(len(rows))
            rows.append((packet.timestamp, None, event.track_uuid, event.name, " ".join(_notes(event))))
    began = min((row[0] for row in rows), default=0)
    lines = [f"{'time µs':>12} {'length µs':>11}  {'track':<28} what"] if rows else []
    for start, length, track, name, notes in sorted(rows, key=lambda row: row[0]):
        where = f"{names.get(parents.get(track, 0), '')}: {names.get(track, '')}".removeprefix(": ")
        took = "" if length is None else f"{length / 1000:,.1f}"
        lines.append(f"{(start - began) / 1000:>12,.1f} {took:>11}  {where:<28} {name}  {notes}".rstrip())
    return lines


def _notes(event: Any) -> Iterator[str]:
    for note in event.debug_annotations:
        kind = note.WhichOneof("value")
        if kind is not None:
            yield f"{note.name}={getattr(note, kind)}"
