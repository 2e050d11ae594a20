r"""Sans-IO. What a run's trace shows, as things to be drawn: lanes, spans, messages, flags, bands, levels over virtual time.

    client0   |--- write #3 ---|      |-- read #4 --|        spans: what the workload did
              \   ^                                           messages: sent here, received there; a stub was lost
    server     v /                                            instants: what the server did
    disk                                                      what reached the store
              ⚑ T14                                           flags: faults; bands: from a crash to the restart

The lines are those of `trials/sim/trace.py`. Owns no memory.
"""

import ast
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Band", "Event", "Flag", "Instant", "Level", "Message", "Span", "Timeline", "read_line", "timeline"]

LINE: Final = re.compile(r"(\d+\.\d+) (\S+) (.*)", re.DOTALL)
NUMBERED: Final = re.compile(r"#(\d+)\b")
DOWN: Final = frozenset({"crash", "kill", "power cut"})
DISK: Final = "disk"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace, taken apart. what: `wire`, `fault`, or the event a node told; fields: of that."""

    time_s: float
    task: str
    node: str
    what: str
    fields: tuple[Any, ...]
    text: str


@dataclass(slots=True)
class Span:
    """Something a node did for a while. end_s: None when it never ended. row: of the node's lane, so that none overlap."""

    node: str
    label: str
    start_s: float
    end_s: float | None
    number: int = 0
    failed: bool = False
    guilty: bool = False
    row: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """Something that went from one node to another. arrived_s: None when it was lost. line: of its sending."""

    near: str
    far: str
    sent_s: float
    arrived_s: float | None
    label: str
    line: int


@dataclass(frozen=True, slots=True)
class Instant:
    """Something a node did at one moment."""

    node: str
    time_s: float
    label: str
    line: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Flag:
    """A fault that took effect."""

    time_s: float
    id: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Band:
    """A while in which a node was down."""

    node: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class Level:
    """A number over time: from each moment on it is the value beside it."""

    label: str
    points: list[tuple[float, int]] = field(default_factory=list)


@dataclass(slots=True)
class Timeline:
    """All of a run. nodes: lanes from top to bottom. lines: the trace's."""

    lines: Sequence[str]
    events: list[Event] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    instants: list[Instant] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    healed_s: float | None = None

    @property
    def end_s(self) -> float:
        """The moment of the last event."""
        return max([self.events[-1].time_s if self.events else 0.0, *(span.end_s or 0.0 for span in self.spans)])

    def rows_of(self, node: str) -> int:
        """Return how many rows a node's spans need."""
        return max((span.row + 1 for span in self.spans if span.node == node), default=0)


def read_line(text: str) -> Event:
    """Take a line of a trace apart."""
    found = LINE.fullmatch(text)
    if found is None:
        return Event(0.0, "", "", "other", (), text)
    time_s, task, rest = float(found[1]), found[2], found[3]
    first, _, more = rest.partition(" ")
    if first in {"wire", "fault", "step"} or not more:
        return Event(time_s, task, "", first, tuple(more.split(" ")) if more else (), text)
    what, _, fields = more.partition(" ")
    try:
        values = ast.literal_eval(fields)
    except (ValueError, SyntaxError):
        values = (fields,)
    return Event(time_s, task, first, what, values if isinstance(values, tuple) else (values,), text)


def timeline(
    lines: Sequence[str], spans: Iterable[Span] = (), marks: Iterable[tuple[str, str, float]] = (), complaint: str = ""
) -> Timeline:  # fmt: skip
    """Return what a trace shows. spans: the workload's operations. marks: kind, node and time of crashes and restarts.

    complaint: the failure's message; the operations whose numbers it names are the guilty ones.
    """
    found = Timeline(lines)
    drawing = _Drawing(found)
    for number, text in enumerate(lines):
        event = read_line(text)
        found.events.append(event)
        drawing.take(event, number)
    drawing.finish()
    named = {int(number) for number in NUMBERED.findall(complaint)}
    found.spans = sorted([*found.spans, *spans], key=lambda span: span.start_s)
    for span in found.spans:
        span.guilty = bool(span.number) and span.number in named
    _stack(found.spans)
    found.bands = list(_bands(marks, found.end_s))
    nodes = {span.node for span in found.spans} | {instant.node for instant in found.instants}
    nodes |= {event.node for event in found.events if event.node} | {"server"}
    found.nodes = sorted(nodes, key=_place)
    return found


def _place(node: str) -> tuple[int, str]:
    """Return where a lane belongs: clients on top, each with its connections beneath, then the server, its disk last."""
    first = node.partition(" ")[0]
    return (0 if first.startswith("client") else 3 if first == DISK else 2 if first == "server" else 1, node)


def _stack(spans: Sequence[Span]) -> None:
    """Give spans of one node that overlap rows of their own."""
    free: dict[str, list[float]] = {}
    for span in spans:
        rows = free.setdefault(span.node, [])
        end = float("inf") if span.end_s is None else span.end_s
        row = next((index for index, until in enumerate(rows) if until <= span.start_s), len(rows))
        rows[row : row + 1] = [end]
        span.row = row


def _bands(marks: Iterable[tuple[str, str, float]], end_s: float) -> Iterable[Band]:
    down: dict[str, float] = {}
    for kind, node, time_s in marks:
        node = node or "server"
        if kind in DOWN:
            down.setdefault(node, time_s)
        elif node in down and kind in {"restart", "start"}:
            yield Band(node, down.pop(node), time_s)
    for node, since in down.items():
        yield Band(node, since, end_s)


class _Drawing:
    """Joins what was sent with what was received; what is left over at the end was lost."""

    def __init__(self, found: Timeline) -> None:
        self._found = found
        self._calls: dict[tuple[Any, ...], deque[tuple[str, float, int, str]]] = {}
        self._replies: dict[tuple[Any, ...], deque[tuple[str, float, int, str]]] = {}
        self._served: dict[tuple[Any, ...], deque[tuple[str, Span]]] = {}
        self._posted: dict[tuple[Any, ...], Span] = {}
        self._wire: dict[str, tuple[float, int, int]] = {}
        self._flight: dict[str, int] = {}
        self._levels: dict[str, Level] = {}

    def take(self, event: Event, line: int) -> None:
        """Take the next event."""
        found, at = self._found, event.time_s
        match event.what, event.fields:
            case "fault", fields:
                found.flags.append(Flag(at, str(fields[0]) if fields else "?", " ".join(map(str, fields)), line))
            case "heal", _:
                found.healed_s = at
            case "call_sent", (xid, op, *_):
                self._calls.setdefault((xid, op), deque()).append((event.node, at, line, str(op)))
                self._level(event.node, at, 1)
            case "call_received", (xid, op, *_):
                sent = self._calls.get((xid, op))
                if sent:
                    near, since, number, label = sent.popleft()
                    serving = Span(event.node, str(op), at, None)
                    found.spans.append(serving)
                    self._served.setdefault((xid, op), deque()).append((near, serving))
                    found.messages.append(Message(near, event.node, since, at, label, number))
            case "reply_sent", (xid, op, status, *_):
                waiting = self._served.get((xid, op))
                far = ""
                if waiting:
                    far, served = waiting.popleft()
                    served.end_s, served.failed = at, bool(status)
                label = f"{op} reply" + (f" errno {status}" if status else "")
                self._replies.setdefault((far, xid, op), deque()).append((event.node, at, line, label))
            case "reply_received", (xid, op, *_):
                replies = self._replies.get((event.node, xid, op))
                if replies:
                    near, since, number, label = replies.popleft()
                    found.messages.append(Message(near, event.node, since, at, label, number))
                self._level(event.node, at, -1)
            case "wr_posted", (qp, wr_id, opcode, length, *_):
                key = (event.node, qp, wr_id, opcode)
                self._posted[key] = Span(f"{event.node} qp {qp}", f"{opcode} {length}", at, at)
                found.spans.append(self._posted[key])  # most are unsignaled, and are never told of again
            case "wr_completed", (qp, wr_id, opcode, _, status):
                posted = self._posted.pop((event.node, qp, wr_id, opcode), None)
                if posted is not None:
                    posted.end_s, posted.failed = at, bool(status)
                if status:
                    found.instants.append(Instant(f"{event.node} qp {qp}", at, f"{opcode} status {status}", line, True))
            case "wire", (link, length, *_):
                self._passed(str(link), at, int(length), line)
            case "connection", (what, _, error, *_):
                why = f" errno {error}" if error else ""
                found.instants.append(Instant(event.node, at, f"connection {what}{why}", line, bool(error)))
            case _ if event.node == DISK:
                found.instants.append(Instant(DISK, at, event.what, line))

    def finish(self) -> None:
        """Draw what never arrived."""
        for link in list(self._wire):
            self._show(link)
        for sent in self._calls.values():
            for near, since, number, label in sent:
                self._found.messages.append(Message(near, "server", since, None, label, number))
        for (far, *_), sent in self._replies.items():
            for near, since, number, label in sent:
                self._found.messages.append(Message(near, far, since, None, label, number))
        self._found.messages.sort(key=lambda message: message.sent_s)
        self._found.levels = list(self._levels.values())

    def _passed(self, link: str, at: float, length: int, line: int) -> None:
        """Note bytes on a wire; what goes the same way at one moment is drawn once."""
        since, before, first = self._wire.get(link, (-1.0, 0, line))
        if since != at:
            self._show(link)
            before, first = 0, line
        self._wire[link] = (at, before + length, first)

    def _show(self, link: str) -> None:
        if link in self._wire:
            at, length, line = self._wire.pop(link)
            near, _, far = link.partition(">")
            lane = f"{far if near == 'server' else near} wire"
            self._found.instants.append(Instant(lane, at, f"{link} {length} bytes", line))

    def _level(self, node: str, at: float, step: int) -> None:
        level = self._levels.setdefault(node, Level(f"{node}: credits in use"))
        self._flight[node] = max(0, self._flight.get(node, 0) + step)
        level.points.append((at, self._flight[node]))
