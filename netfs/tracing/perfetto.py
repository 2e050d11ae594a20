"""Sans-IO. Events as a Perfetto trace (TrackEvent protobuf), to be opened in ui.perfetto.dev.

    client0                                             one group per actor
      requests       |------------ DIO-READ -------------|           tracks in this order; of each kind as many
      subrequests      |- DOWN 0 -|  |- DOWN 1 -|                    as there are slices at a time
      calls             |- READ -|
    server                 :  ▲
      calls served         |--|                                      arrows: request, subrequest, call, call served
      …                                                              instants: cipher, work requests, folios, the rest

A slice is written when it ends, since only then all arrows that touch it are known; what has not ended is written when the trace
is closed, named so. A call and its serving are joined by number and operation: with several clients of one server whose calls
coincide in both, the one sent first. Memory: what is open; everything else is in the file.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from iov.events import EVENTS
from iov.probe import EventSink, Field

try:
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackDescriptor, TrackEvent
    from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder
except ImportError as error:
    raise ImportError("a .pftrace needs the perfetto package: pip install 'netfs[trace]'") from error

__all__ = ["PerfettoTrace"]

FAMILIES: Final = (
    "requests", "subrequests", "calls", "calls served", "store", "cipher", "work requests", "collector", "folios", "other",
)  # fmt: skip
INSTANTS: Final[dict[str, tuple[str, str]]] = {
    # event: family, name
    "netfs_write_iter": ("other", "buffered write"),
    "netfs_failure": ("other", "failure"),
    "netfs_wb_lock": ("other", "wb lock"),
    "netfs_folio": ("folios", "{2}"),
    "netfs_collect": ("collector", "collect"),
    "netfs_collect_sreq": ("collector", "take {1}:{2}"),
    "netfs_collect_folio": ("collector", "folio {1}"),
    "netfs_collect_gap": ("collector", "gap {1}:"),
    "netfs_collect_stream": ("collector", "stream {1}:"),
    "netfs_collect_state": ("collector", "state"),
    "netfs_copy2cache": ("collector", "copy to cache"),
    "crypto_seal": ("cipher", "seal"),
    "crypto_open": ("cipher", "open"),
    "connection": ("other", "connection {0}"),
    "wr_posted": ("work requests", "post {2}"),
    "wr_completed": ("work requests", "done {2}"),
    "server_op": ("store", "{0}"),
}
SEQUENCE: Final = 1
Key = tuple[Field, ...]
Notes = Mapping[str, Field]
_NO_NOTES: Final[Notes] = {}


class Writable(Protocol):
    """What a trace is written to."""

    def write(self, data: bytes, /) -> object: ...


class Slice:
    """Something with a beginning and an end on a lane of a family."""

    __slots__ = ("began_ns", "family", "flows", "lane", "name", "notes")

    def __init__(self, family: str, lane: int, name: str, began_ns: int, notes: Notes) -> None:
        self.family = family
        self.lane = lane
        self.name = name
        self.began_ns = began_ns
        self.notes = dict(notes)
        self.flows: list[int] = []


class PerfettoTrace:
    """Write slices, instants and arrows. now: the clock, in seconds."""

    def __init__(self, output: Writable, now: Callable[[], float]) -> None:
        self._builder = StreamingTraceProtoBuilder(output)
        self._now = now
        self._actors: list[_Actor] = []
        self._uuids = 0
        self._flows = 0
        self._last_ns = 0
        self._began = False
        self.sent: dict[Key, deque[Slice]] = {}

    def sink(self, actor: str) -> EventSink:
        """Return the sink for the probe of `actor`."""
        self._actors.append(_Actor(self, actor, len(self._actors) + 1))
        return self._actors[-1].record

    def close(self) -> None:
        """Write what has not ended."""
        for actor in self._actors:
            actor.finish()

    def now_ns(self) -> int:
        """Return the time of an event; also remembered, for a close after the clock's run has ended."""
        self._last_ns = round(self._now() * 1e9)
        return self._last_ns

    @property
    def last_ns(self) -> int:
        """The time of the last event."""
        return self._last_ns

    def link(self, near: Slice, far: Slice) -> None:
        """Draw an arrow between two open slices."""
        self._flows += 1
        near.flows.append(self._flows)
        far.flows.append(self._flows)

    def new_track(self, name: str, rank: int, parent: int = 0) -> int:
        """Describe a track. Returns: its uuid."""
        self._uuids += 1
        packet = self._packet()
        track: TrackDescriptor = packet.track_descriptor
        track.uuid = self._uuids
        track.name = name
        track.sibling_order_rank = rank
        if parent:
            track.parent_uuid = parent
        else:
            # Not a process: what is below one the UI orders by name.
            track.child_ordering = TrackDescriptor.EXPLICIT
        self._builder.write_packet(packet)
        return self._uuids

    def event(
        self, kind: int, track: int, time_ns: int, name: str = "", notes: Notes = _NO_NOTES, flows: Sequence[int] = ()
    ) -> None:
        """Write one event."""
        packet = self._packet()
        packet.timestamp = time_ns
        event: TrackEvent = packet.track_event
        event.type = kind
        event.track_uuid = track
        if name:
            event.name = name
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


class _Actor:
    """One probe's part of the trace. open: slices that have not ended, by what they are about."""

    def __init__(self, trace: PerfettoTrace, name: str, number: int) -> None:
        self._trace = trace
        self._uuid = trace.new_track(name, number)
        self._lanes: dict[str, list[bool]] = {}
        self._tracks: dict[tuple[str, int], int] = {}
        self._open: dict[Key, deque[Slice]] = {}
        self._calls_of: dict[Key, Slice] = {}

    def record(self, event: str, fields: tuple[Field, ...]) -> None:
        """Take an event."""
        instant = INSTANTS.get(event)
        notes = dict(zip(EVENTS.get(event, ()), fields, strict=False))
        if instant is not None:
            family, name = instant
            self._instant(family, name.format(*fields), notes)
            return
        match event, fields:
            case ("netfs_read" | "netfs_write", (request, str(what), *_)):
                self._begin("requests", ("R", request), what, notes)
            case "netfs_rreq", (request, _, "COMPLET", *_):
                self._end(("R", request), notes)
            case "netfs_rreq", (_, _, str(what), *_):
                self._instant("other", what, notes)
            case "netfs_sreq", (request, index, source, "SUBMT", *_):
                part = self._begin("subrequests", ("S", request, index), f"{source!s} {index!s}", notes)
                self._link(("R", request), part)
            case "netfs_sreq", (request, index, _, "TERM", *_):
                self._end(("S", request, index), notes)
            case "netfs_sreq", (_, _, _, "RETRY" | "SPLIT" | "DSCRD" as what, *_):
                self._instant("other", str(what), notes)
            case "netfs_call", (request, index, op, xid):
                self._named(("S", request, index), ("C", xid, op))
            case _:
                self._call(event, fields, notes)

    def _call(self, event: str, fields: tuple[Field, ...], notes: Notes) -> None:
        sent = self._trace.sent
        match event, fields:
            case "call_sent", (xid, str(op), *_):
                call = self._begin("calls", ("C", xid, op), op, notes)
                caller = self._calls_of.pop(("C", xid, op), None)
                if caller is not None:
                    self._trace.link(caller, call)
                sent.setdefault((xid, op), deque()).append(call)
            case "reply_received", (xid, op, *_):
                ended = self._end(("C", xid, op), notes)
                waiting = sent.get((xid, op))
                if ended is not None and waiting is not None and ended in waiting:
                    waiting.remove(ended)  # whoever served it is not traced here
                if not waiting:
                    sent.pop((xid, op), None)
            case "call_received", (xid, str(op), *_):
                served = self._begin("calls served", ("V", xid, op), op, notes)
                waiting = sent.get((xid, op))
                if waiting:
                    self._trace.link(waiting.popleft(), served)
            case "reply_sent", (xid, op, *_):
                self._end(("V", xid, op), notes)
            case _:
                self._instant("other", event, notes)

    def _named(self, part: Key, call: Key) -> None:
        """Join a subrequest with its call, which may be on its way already or still wait."""
        parts, calls = self._open.get(part), self._open.get(call)
        if parts and calls:
            self._trace.link(parts[-1], calls[-1])
        elif parts:
            self._calls_of[call] = parts[-1]

    def _link(self, near: Key, far: Slice) -> None:
        slices = self._open.get(near)
        if slices:
            self._trace.link(slices[-1], far)

    def _begin(self, family: str, key: Key, name: str, notes: Notes) -> Slice:
        lanes = self._lanes.setdefault(family, [])
        lane = lanes.index(False) if False in lanes else len(lanes)
        lanes[lane : lane + 1] = [True]
        begun = Slice(family, lane, name, self._trace.now_ns(), notes)
        self._open.setdefault(key, deque()).append(begun)
        return begun

    def _end(self, key: Key, notes: Notes) -> Slice | None:
        slices = self._open.get(key)
        if not slices:
            return None
        ended = slices.popleft()
        if not slices:
            del self._open[key]
        ended.notes.update(notes)
        self._write(ended, self._trace.now_ns())
        return ended

    def _write(self, ended: Slice, end_ns: int) -> None:
        self._lanes[ended.family][ended.lane] = False
        track = self._track(ended.family, ended.lane)
        self._trace.event(TrackEvent.TYPE_SLICE_BEGIN, track, ended.began_ns, ended.name, ended.notes, ended.flows)
        self._trace.event(TrackEvent.TYPE_SLICE_END, track, end_ns)

    def _instant(self, family: str, name: str, notes: Notes) -> None:
        self._trace.event(TrackEvent.TYPE_INSTANT, self._track(family, 0), self._trace.now_ns(), name, notes)

    def _track(self, family: str, lane: int) -> int:
        track = self._tracks.get((family, lane))
        if track is None:
            rank = FAMILIES.index(family) * 1000 + lane
            track = self._tracks[family, lane] = self._trace.new_track(family, rank, self._uuid)
        return track

    def finish(self) -> None:
        """Write the slices that have not ended, as long as the trace."""
        for slices in self._open.values():
            for left in slices:
                left.name += " (unfinished)"
                self._write(left, self._trace.last_ns)
        self._open.clear()
