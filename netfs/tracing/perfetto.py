"""Sans-IO. Events as a Perfetto trace (TrackEvent protobuf), to be opened in ui.perfetto.dev.

    client0                                                     one group per actor
      API calls      |------------- preadv ---------------|           tracks in this order; of each kind as many
      requests        |------------ DIO-READ -------------|           as there are slices at a time
      subrequests       |- DOWN 0 -|  |- DOWN 1 -|
      calls              |- READ -|
      cipher                     ▲                                    instants
      send queue          |SEND|                                      work requests, from their post to their completion
      completions              ▲
      bytes in flight ▁▁▃▃▅▅▃▃▁                                       counters
    server
      calls served          |--|                                      arrows: API call, request, subrequest, call, work
      store                   ▲                                       request, call served, work request, completion
      send queue               |WRITE|
    faults                 ▲                                          what a trial did to them, where there are any

A slice is written when it ends, since only then all arrows that touch it are known; what has not ended is written when the trace
is closed, named so. A call and its serving are joined by number and operation: with several clients of one server whose calls
coincide in both, the one sent first. A work request ends with its completion, or, unsignaled, with the next of its queue pair.
Memory: what is open; everything else is in the file.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from iov.events import EVENTS
from iov.probe import EventSink, Field
from netfs.tracing.packets import NO_NOTES, Notes, Packets, Writable

__all__ = ["PerfettoTrace"]

FAMILIES: Final = (
    "API calls", "requests", "subrequests", "calls", "calls served", "store", "cipher", "collector", "folios", "send queue",
    "receive queue", "completions", "faults", "other", "bytes in flight", "dirty bytes", "registered bytes", "send credits",
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
    "connection": ("other", "connection {0}"),
    "server_op": ("store", "{0}"),
    "fault": ("faults", "{0}"),
}
MAX_SERVING: Final = 1024
"""Calls that are remembered for the work requests posted for them, also after they were served."""
CIPHER: Final = {"crypto_seal": "seal", "crypto_open": "open"}
Key = tuple[Field, ...]


class Slice:
    """Something with a beginning and an end on a lane of a family. chain: the arrow from it to what is done for it."""

    __slots__ = ("began_ns", "chain", "family", "flows", "lane", "name", "notes")

    def __init__(self, family: str, lane: int, name: str, began_ns: int, notes: Notes) -> None:
        self.family = family
        self.lane = lane
        self.name = name
        self.began_ns = began_ns
        self.notes = dict(notes)
        self.flows: list[int] = []
        self.chain = 0


class PerfettoTrace:
    """Write slices, instants, counters and arrows. now: the clock, in seconds."""

    def __init__(self, output: Writable, now: Callable[[], float]) -> None:
        self.packets = Packets(output)
        self._now = now
        self._actors: list[_Actor] = []
        self.last_ns = 0
        """The time of the last event."""
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
        self.last_ns = round(self._now() * 1e9)
        return self.last_ns

    def link(self, near: Slice, far: Slice) -> None:
        """Draw an arrow between two open slices."""
        flow = self.packets.new_flow()
        near.flows.append(flow)
        far.flows.append(flow)

    def follow(self, near: Slice | None, far: Slice) -> None:
        """Put an open slice at the end of another one's chain; the other one may have ended."""
        if near is not None:
            far.flows.append(near.chain)


class _Actor:
    """One probe's part of the trace.

    open: slices that have not ended, by what they are about; serving: calls, sent or served, by number; posted: work requests of
    each queue pair, in order; in_flight: bytes of subrequests under way.
    """

    def __init__(self, trace: PerfettoTrace, name: str, number: int) -> None:
        self._trace = trace
        self._packets = trace.packets
        self._uuid = self._packets.new_track(name, number)
        self._lanes: dict[str, list[bool]] = {}
        self._tracks: dict[tuple[str, int], int] = {}
        self._open: dict[Key, deque[Slice]] = {}
        self._calls_of: dict[Key, Slice] = {}
        self._serving: dict[Field, Slice] = {}
        self._posted: dict[Field, deque[tuple[Field, Key]]] = {}
        self._requests = 0
        self._in_flight: dict[Key, int] = {}

    def record(self, event: str, fields: tuple[Field, ...]) -> None:
        """Take an event."""
        notes = dict(zip(EVENTS.get(event, ()), fields, strict=False))
        instant = INSTANTS.get(event)
        if instant is not None:
            family, name = instant
            if event == "fault":
                notes = {"what": " ".join(map(str, fields[1:]))}
            self._instant(family, name.format(*fields), notes)
            return
        match event, fields:
            case "api_call", (call, str(what), *_):
                self._begin("API calls", ("A", call), what, notes)
            case "api_request", (call, request):
                self._link(("A", call), ("R", request))
                self._note(("R", request), "call", call)
            case "api_done", (call, *_):
                self._end(("A", call), notes)
            case ("netfs_read" | "netfs_write", (request, str(what), *_)):
                self._begin("requests", ("R", request), what, notes)
            case "netfs_rreq", (request, _, "COMPLET", *_):
                self._end(("R", request), notes)
            case "netfs_rreq", (_, _, str(what), *_):
                self._instant("other", what, notes)
            case "netfs_sreq", (request, index, source, "SUBMT", _, _, int(done), int(length), _):
                self._begin("subrequests", ("S", request, index), f"{source!s} {index!s}", notes)
                self._link(("R", request), ("S", request, index))
                self._fly((request, index), length - done)
            case "netfs_sreq", (request, index, _, "TERM", *_):
                self._end(("S", request, index), notes)
                self._fly((request, index), 0)
            case "netfs_sreq", (_, _, _, str(what), *_):
                self._instant("other", what, notes)
            case "netfs_call", (request, index, op, xid):
                self._named(("S", request, index), ("C", xid, op))
                self._note(("S", request, index), "xid", xid)
            case ("crypto_seal" | "crypto_open", (request, index, *_)):
                self._instant("cipher", CIPHER[event], notes, self._open_slice(("S", request, index)))
            case "level", (str(what), int(value)):
                self._level(what, value)
            case _:
                self._call(event, fields, notes)

    def _call(self, event: str, fields: tuple[Field, ...], notes: Notes) -> None:
        sent = self._trace.sent
        match event, fields:
            case "call_sent", (xid, str(op), *_):
                call = self._serves(xid, self._begin("calls", ("C", xid, op), op, notes))
                caller = self._calls_of.pop(("C", xid, op), None)
                if caller is not None:
                    self._trace.link(caller, call)
                sent.setdefault((xid, op), deque()).append(call)
            case "reply_received", (xid, op, *_):
                ended = self._end(("C", xid, op), notes)
                self._serving.pop(xid, None)
                waiting = sent.get((xid, op))
                if ended is not None and waiting is not None and ended in waiting:
                    waiting.remove(ended)  # whoever served it is not traced here
                if not waiting:
                    sent.pop((xid, op), None)
            case "call_received", (xid, str(op), *_):
                served = self._serves(xid, self._begin("calls served", ("V", xid, op), op, notes))
                waiting = sent.get((xid, op))
                self._trace.follow(waiting.popleft() if waiting else None, served)
            case "reply_sent", (xid, op, *_):
                self._end(("V", xid, op), notes)
            case "wr_posted", (qp, wr_id, str(opcode), *_, xid):
                self._requests += 1
                key = ("W", qp, self._requests)
                posted = self._begin("send queue", key, opcode, notes)
                self._trace.follow(self._serving.get(xid), posted)
                self._posted.setdefault(qp, deque()).append((wr_id, key))
            case "wr_completed", (qp, wr_id, str(opcode), *_):
                self._completed(qp, wr_id, opcode, notes)
            case _:
                self._instant("other", event, notes)

    def _serves(self, xid: Field, call: Slice) -> Slice:
        """Have what is done for a call, by number, follow it: the work requests, and, of one that is sent, its serving."""
        call.chain = self._packets.new_flow()
        call.flows.append(call.chain)
        self._serving[xid] = call
        if len(self._serving) > MAX_SERVING:
            del self._serving[next(iter(self._serving))]
        return call

    def _completed(self, qp: Field, wr_id: Field, opcode: str, notes: Notes) -> None:
        """End a work request, and those before it on its queue pair."""
        if opcode.startswith("RECV"):
            self._instant("receive queue", opcode, notes)
            return
        posted = self._posted.get(qp)
        if posted is None or wr_id not in (each for each, _ in posted):
            self._instant("completions", opcode, notes)
            return
        while posted:
            each, key = posted.popleft()
            if each == wr_id:
                self._instant("completions", opcode, notes, self._open_slice(key))
                self._end(key, {"status": notes["status"]})
                return
            self._end(key, NO_NOTES)

    def _named(self, part: Key, call: Key) -> None:
        """Join a subrequest with its call, which may be on its way already or still wait."""
        near, far = self._open_slice(part), self._open_slice(call)
        if near is not None and far is not None:
            self._trace.link(near, far)
        elif near is not None:
            self._calls_of[call] = near

    def _link(self, near: Key, far: Key) -> None:
        first, second = self._open_slice(near), self._open_slice(far)
        if first is not None and second is not None:
            self._trace.link(first, second)

    def _note(self, key: Key, name: str, value: Field) -> None:
        noted = self._open_slice(key)
        if noted is not None:
            noted.notes[name] = value

    def _open_slice(self, key: Key) -> Slice | None:
        slices = self._open.get(key)
        return slices[-1] if slices else None

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
        self._packets.slice(track, (ended.began_ns, end_ns), ended.name, ended.family, ended.notes, ended.flows)

    def _instant(self, family: str, name: str, notes: Notes, cause: Slice | None = None) -> None:
        """Write an instant, with an arrow from the open slice that it comes of, if there is one."""
        flows = []
        if cause is not None:
            flows.append(self._packets.new_flow())
            cause.flows += flows
        self._packets.instant(self._track(family, 0), self._trace.now_ns(), name, family, notes, flows)

    def _fly(self, part: Key, length: int) -> None:
        """Note the bytes of a subrequest that are under way from now on."""
        self._in_flight.pop(part, None)
        if length:
            self._in_flight[part] = length
        self._level("bytes in flight", sum(self._in_flight.values()))

    def _level(self, what: str, value: int) -> None:
        track = self._tracks.get((what, 0))
        if track is None:
            unit = "bytes" if what.endswith("bytes") or what.startswith("bytes") else ""
            rank = (FAMILIES.index(what) if what in FAMILIES else len(FAMILIES)) * 1000
            track = self._tracks[what, 0] = self._packets.new_track(what, rank, self._uuid, unit)
        self._packets.count(track, self._trace.now_ns(), value)

    def _track(self, family: str, lane: int) -> int:
        track = self._tracks.get((family, lane))
        if track is None:
            rank = FAMILIES.index(family) * 1000 + lane
            track = self._tracks[family, lane] = self._packets.new_track(family, rank, self._uuid)
        return track

    def finish(self) -> None:
        """Write the slices that have not ended, as long as the trace."""
        for slices in self._open.values():
            for left in slices:
                left.name += " (unfinished)"
                self._write(left, self._trace.last_ns)
        self._open.clear()
