"""Sans-IO. What was asked of a filesystem and what came of it: calls, returns, errors, in one order, with virtual times.

Every call and every return gets the next number of one counter, its tick: "before" is a matter of ticks, which never tie; times
are for people. An operation that ended in an error or never ended may or may not have taken effect, in each of its cells, and
at any later moment: its outcome is UNKNOWN and its end is NEVER. Reads keep what they saw as runs of cells (`trials/cells.py`),
never the bytes. Owns no payload memory.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from trials.cells import CELL, Run

__all__ = ["NEVER", "Failure", "History", "Mark", "Op", "Outcome"]

NEVER: Final = 1 << 62
"""The tick of what did not return."""


class Outcome(Enum):
    """How an operation ended."""

    PENDING = "pending"
    OK = "ok"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Failure:
    """What a trial found to be wrong. kind: the class, such as "U1 stale read": a shrunk case must fail in the same one."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(slots=True)
class Op:
    """One operation. fd: number of the descriptor, -1 for none; file: what it is about, a name of the workload's own.

    pos, length: bytes; done: bytes that were moved. args: what a namespace operation was given; result: what it answered.
    """

    id: int
    client: str
    kind: str
    file: str
    fd: int = -1
    pos: int = 0
    length: int = 0
    direct: bool = False
    args: tuple[str, ...] = ()
    call: int = 0
    ret: int = NEVER
    call_s: float = 0.0
    ret_s: float = float("inf")
    outcome: Outcome = Outcome.PENDING
    error: int = 0
    done: int = 0
    result: object = None
    seen: tuple[Run, ...] = ()

    @property
    def ok(self) -> bool:
        """It is known to have taken effect, at a moment between call and return."""
        return self.outcome is Outcome.OK

    @property
    def end(self) -> int:
        """The tick by which it has taken effect if it ever does."""
        return self.ret if self.outcome is Outcome.OK else NEVER

    @property
    def first_cell(self) -> int:
        """The first cell it touches."""
        return self.pos // CELL

    @property
    def end_cell(self) -> int:
        """The cell behind the last one it touches."""
        return (self.pos + self.length + CELL - 1) // CELL

    def __str__(self) -> str:
        where = f" [{self.pos:#x}, {self.pos + self.length:#x})" if self.length or self.kind in {"read", "write"} else ""
        name = " ".join((self.file, *self.args))
        times = f"@{self.call_s:.6f}-{self.ret_s:.6f}" if self.ret != NEVER else f"@{self.call_s:.6f}-?"
        ended = {Outcome.OK: "", Outcome.PENDING: " (never returned)", Outcome.UNKNOWN: f" (errno {self.error})"}[self.outcome]
        return f"{self.kind} #{self.id} of {name}{where} by {self.client} {times}{ended}"


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened to the world: a crash, a heal."""

    kind: str
    node: str
    tick: int
    time_s: float


@dataclass
class History:
    """All operations of one run. now: virtual time."""

    now: Callable[[], float] = lambda: 0.0
    ops: list[Op] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    ticks: int = 0
    descriptors: int = 0
    faults: list[int] = field(default_factory=list)
    """The ticks at which a fault took effect."""

    def begin(
        self, client: str, kind: str, file: str, *, fd: int = -1, pos: int = 0, length: int = 0, direct: bool = False,
        args: tuple[str, ...] = (),
    ) -> Op:  # fmt: skip
        """Note a call."""
        self.ticks += 1
        op = Op(len(self.ops) + 1, client, kind, file, fd, pos, length, direct, args, self.ticks, call_s=self.now())
        self.ops.append(op)
        return op

    def end(self, op: Op, done: int = 0, *, result: object = None, seen: Iterable[Run] = ()) -> None:
        """Note that a call has returned as it should."""
        self._returned(op, Outcome.OK)
        op.done, op.result, op.seen = done, result, tuple(seen)

    def fail(self, op: Op, error: int) -> None:
        """Note that a call has returned with an error: whether it has taken effect is unknown."""
        self._returned(op, Outcome.UNKNOWN)
        op.error = error

    def _returned(self, op: Op, outcome: Outcome) -> None:
        assert op.outcome is Outcome.PENDING, f"{op} returned twice"
        self.ticks += 1
        op.ret, op.ret_s, op.outcome = self.ticks, self.now(), outcome

    def new_fd(self) -> int:
        """Return the number of one more descriptor."""
        self.descriptors += 1
        return self.descriptors

    def mark(self, kind: str, node: str = "") -> None:
        """Note something that happened to the world."""
        self.ticks += 1
        self.marks.append(Mark(kind, node, self.ticks, self.now()))

    def struck(self) -> None:
        """Note that a fault took effect."""
        self.ticks += 1
        self.faults.append(self.ticks)

    def wrong(self, kind: str, message: str) -> None:
        """Note a failure that was seen on the spot."""
        self.failures.append(Failure(kind, message))

    def op(self, number: int) -> Op:
        """Return an operation by its number."""
        return self.ops[number - 1]

    def of(self, *kinds: str) -> Iterator[Op]:
        """Yield the operations of some kinds, in the order of their calls."""
        return (op for op in self.ops if op.kind in kinds)

    def files(self) -> list[str]:
        """Return what reads and writes were about, in order."""
        return sorted({op.file for op in self.of("read", "write")})

    def is_of(self, file: str) -> Callable[[int], bool]:
        """Return what tells whether an op id belongs to a write of a file."""

        def told(number: int) -> bool:
            return number <= len(self.ops) and self.op(number).kind in {"write", "append"} and self.op(number).file == file

        return told

    def lines(self) -> Iterator[str]:
        """Yield the history as JSON, one operation or mark a line, in the order of ticks."""
        events: list[tuple[int, dict[str, object]]] = [
            (mark.tick, {"mark": mark.kind, "node": mark.node, "tick": mark.tick, "time": mark.time_s}) for mark in self.marks
        ]
        events += [(op.call, _row(op)) for op in self.ops]
        for _, row in sorted(events, key=lambda event: event[0]):
            yield json.dumps(row, separators=(",", ":"))


def _row(op: Op) -> dict[str, object]:
    row: dict[str, object] = {
        "op": op.id, "client": op.client, "kind": op.kind, "file": op.file, "fd": op.fd, "call": op.call, "time": op.call_s,
        "outcome": op.outcome.value,
    }  # fmt: skip
    if op.ret != NEVER:
        row |= {"ret": op.ret, "until": op.ret_s}
    if op.args:
        row["args"] = list(op.args)
    if op.length or op.kind in {"read", "write"}:
        row |= {"pos": op.pos, "length": op.length, "done": op.done, "direct": op.direct}
    if op.error:
        row["errno"] = op.error
    if op.result is not None:
        row["result"] = op.result if isinstance(op.result, (int, str)) else str(op.result)
    if op.seen:
        row["seen"] = [[run.first, run.count, run.op, run.cause.value] for run in op.seen]
    return row
