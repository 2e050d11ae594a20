"""Sans-IO. Packets of a Perfetto trace (TrackEvent protobuf): tracks, slices, instants, counters, arrows.

What they mean is the business of `perfetto.py`. Memory: nothing is kept; everything is in the file.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from iov.probe import Field

try:
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackDescriptor, TrackEvent
    from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder
except ImportError as error:
    raise ImportError("a .pftrace needs the perfetto package: pip install 'netfs[trace]'") from error

__all__ = ["NO_NOTES", "Notes", "Packets", "Writable"]

SEQUENCE: Final = 1
Notes = Mapping[str, Field]
NO_NOTES: Final[Notes] = {}


class Writable(Protocol):
    """What a trace is written to."""

    def write(self, data: bytes, /) -> object: ...


class Packets:
    """Write packets, each as soon as it is known."""

    def __init__(self, output: Writable) -> None:
        self._builder = StreamingTraceProtoBuilder(output)
        self._uuids = 0
        self._flows = 0
        self._began = False

    def new_flow(self) -> int:
        """Return a new arrow's number: it joins all slices and instants that carry it, in the order of time."""
        self._flows += 1
        return self._flows

    def new_track(self, name: str, rank: int, parent: int = 0, unit: str | None = None) -> int:
        """Describe a track, of a counter if it has a unit, which is "" for a plain number. Returns: its uuid."""
        self._uuids += 1
        packet = self._packet()
        track: TrackDescriptor = packet.track_descriptor
        track.uuid = self._uuids
        track.name = name
        track.sibling_order_rank = rank
        if unit is not None:
            track.counter.unit_name = unit
        if parent:
            track.parent_uuid = parent
        else:
            # Not a process: what is below one the UI orders by name.
            track.child_ordering = TrackDescriptor.EXPLICIT
        self._builder.write_packet(packet)
        return self._uuids

    def slice(
        self, track: int, times_ns: tuple[int, int], name: str, category: str, notes: Notes, flows: Sequence[int]
    ) -> None:  # fmt: skip
        """Write something with a beginning and an end."""
        self._event(TrackEvent.TYPE_SLICE_BEGIN, track, times_ns[0], name, category, notes, flows)
        self._event(TrackEvent.TYPE_SLICE_END, track, times_ns[1])

    def instant(
        self, track: int, time_ns: int, name: str, category: str, notes: Notes, flows: Sequence[int] = ()
    ) -> None:  # fmt: skip
        """Write something that happens at once."""
        self._event(TrackEvent.TYPE_INSTANT, track, time_ns, name, category, notes, flows)

    def count(self, track: int, time_ns: int, value: int) -> None:
        """Write what a counter is from now on."""
        packet = self._packet()
        packet.timestamp = time_ns
        event: TrackEvent = packet.track_event
        event.type = TrackEvent.TYPE_COUNTER
        event.track_uuid = track
        event.counter_value = value
        self._builder.write_packet(packet)

    def _event(
        self, kind: int, track: int, time_ns: int, name: str = "", category: str = "", notes: Notes = NO_NOTES,
        flows: Sequence[int] = (),
    ) -> None:  # fmt: skip
        packet = self._packet()
        packet.timestamp = time_ns
        event: TrackEvent = packet.track_event
        event.type = kind
        event.track_uuid = track
        if name:
            event.name = name
            event.categories.append(category)
        event.flow_ids.extend(flows)
        for key, value in notes.items():
            note = event.debug_annotations.add()
            note.name = key
            if isinstance(value, int):
                note.int_value = value
            else:
                note.string_value = value if isinstance(value, str) else value.hex()
        self._builder.write_packet(packet)

    def _packet(self) -> TracePacket:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = SEQUENCE
        if not self._began:
            self._began = True
            packet.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        return packet
