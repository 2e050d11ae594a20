"""Sans-IO. The cells of a file, grouped: neighbours that every operation treats alike are one register.

A megabyte has 65,536 cells, and a trial a few dozen operations on it; cut at the edges of these, the file falls into a few
hundred segments, each of which is checked once. What is wrong with a read whatever else was done (a cell of another place or
file, one torn or rotten) is told here. Owns no memory.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from trials.cells import CELL, HOLE, Cause, Run, explain
from trials.history import NEVER, Failure, History, Op, Outcome

__all__ = ["Seen", "Segment", "damaged", "pedigree", "segments", "settled", "settled_by"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a read found in a segment: a write's number, 0 for a hole."""

    read: Op
    write: int


@dataclass(slots=True)
class Segment:
    """Cells [first, end) of a file, the writes over them and what reads found there."""

    file: str
    first: int
    end: int
    writes: list[Op] = field(default_factory=list)
    reads: list[Seen] = field(default_factory=list)

    def __str__(self) -> str:
        cells = f"cell {self.first:#x}" if self.end - self.first == 1 else f"cells {self.first:#x}-{self.end - 1:#x}"
        return f"{self.file} {cells} (bytes {self.first * CELL:#x}-{self.end * CELL - 1:#x})"


def segments(history: History, file: str) -> Iterator[Segment]:
    """Yield the segments of a file that some read has looked at."""
    writes = [op for op in history.of("write", "append") if op.file == file and op.length]
    reads = [op for op in history.of("read") if op.file == file and op.ok]
    edges: set[int] = set()
    for op in writes:
        edges.update((op.first_cell, op.end_cell))
    for op in reads:
        for run in op.seen:
            edges.update((run.first, run.end))
    cuts = sorted(edges)
    found = [Segment(file, first, end) for first, end in pairwise(cuts)]
    for op in writes:
        for segment in found[bisect_left(cuts, op.first_cell) : bisect_right(cuts, op.end_cell) - 1]:
            segment.writes.append(op)
    for op in reads:
        for run in op.seen:
            if run.cause is Cause.GOOD:
                for segment in found[bisect_left(cuts, run.first) : bisect_right(cuts, run.end) - 1]:
                    segment.reads.append(Seen(op, run.op))
    yield from (segment for segment in found if segment.reads)


def damaged(history: History, file: str, stands: dict[int, int]) -> Iterator[Failure]:
    """Tell of reads that found what no order of operations explains. stands: as of `settled_by`.

    A read beside a write may find the two sides of a byte's edge, and two writes that overlap in time may leave one, as their
    payloads land piece by piece: that is torn, but it is nobody's fault.
    """
    opened = {op.fd: op.call for op in history.of("open")}
    for op in history.of("read"):
        if op.file != file:
            continue
        since = op.call if op.direct else opened.get(op.fd, op.call)
        for run in op.seen:
            failure = _damage(history, op, run, since, stands)
            if failure is not None:
                yield failure


def _damage(history: History, read: Op, run: Run, since: int, stands: dict[int, int]) -> Failure | None:
    what = f"{read} found cell {run.first:#x} ({run.count} cells)"
    if run.cause is Cause.GOOD:
        if run.op == HOLE or _covers(history.op(run.op), run.first, run.end):
            return None
        return Failure("U1 data out of place", f"{what} of {history.op(run.op)}")
    if run.cause is Cause.MISDIRECTED:
        where = f"written for cell {run.first + run.shift:#x} by {_named(history, run.op)}"
        return Failure("U1 misdirected data", f"{what} {where}")
    if run.cause is Cause.FOREIGN:
        return Failure("U1 foreign data", f"{what} of {_named(history, run.op)}")
    near = [op for op in history.of("write", "append") if op.file == read.file and _covers(op, run.first, run.end)]
    cause, why, whose = explain(run.data, run.first, [HOLE, *(op.id for op in near)])
    if cause is Cause.TORN:
        torn = [op for op in near if op.id in whose and op.call < read.ret]
        if any(stands.get(op.id, NEVER) > since for op in torn):
            return None
        if len(torn) == 2 and max(op.call for op in torn) < min(stands.get(op.id, NEVER) for op in torn):
            return None
        return Failure("U1 torn data", f"{what}: {why}")
    return Failure("U1 rotten data", f"{what}: {why}")


def _covers(op: Op, first: int, end: int) -> bool:
    return op.first_cell <= first and end <= op.end_cell


def _named(history: History, number: int) -> str:
    return str(history.op(number)) if 0 < number <= len(history.ops) else f"write #{number} of another world"


def settled(history: History) -> dict[int, int]:
    """Return, for each write that is known to be safe from crashes, the tick by which it is.

    That is the first fsync or close of the file by the same client that was called after the write had returned and succeeded,
    unless an error was told between: then nobody knows. A write through a descriptor open for sync is safe when it returns.
    The close of a descriptor that only reads makes nothing safe.
    """
    reading = {op.fd for op in history.of("open") if op.args == ("r",)}
    found: dict[int, int] = {}
    waiting: dict[tuple[str, str], list[Op]] = {}
    events = sorted(
        [(op.ret, op) for op in history.of("write", "append", "fsync", "close", "truncate") if op.outcome is not Outcome.PENDING],
        key=lambda event: event[0],
    )
    for ret, op in events:
        key = (op.client, op.file)
        if not op.ok:
            # What an error was about cannot be told: it takes all that was not yet safe.
            waiting.pop(key, None)
        elif op.kind == "fsync" or (op.kind == "close" and op.fd not in reading):
            rest = []
            for write in waiting.pop(key, []):
                if write.ret < op.call:
                    found[write.id] = ret
                else:
                    rest.append(write)
            if rest:
                waiting[key] = rest
        elif op.kind in {"write", "append"}:
            if op.args == ("sync",):
                found[op.id] = ret
            else:
                waiting.setdefault(key, []).append(op)
    return found


def given_up(history: History, file: str, safe: dict[int, int]) -> dict[int, int]:
    """Return, for each direct write of a file that an fsync or close failed for, the tick by which that was told.

    Of an encrypted file it may be gone then: the server has the bytes, and no record tells of them.
    """
    found: dict[int, int] = {}
    direct = [op for op in history.of("write") if op.file == file and op.ok and op.direct and op.id not in safe]
    for told in history.of("fsync", "close"):
        if told.file == file and told.outcome is Outcome.UNKNOWN:
            for op in direct:
                if op.client == told.client and op.ret < told.call:
                    found[op.id] = max(found.get(op.id, 0), told.ret)
    return found


def settled_by(history: History, safe: dict[int, int]) -> dict[int, int]:
    """Return the tick by which each write stands where others see it: NEVER for one that may come at any later time, or vanish.

    A buffered write stands when it is safe. A direct one stands when it returns, unless the server crashed before it was safe.
    """
    crashes = [mark.tick for mark in history.marks if mark.kind == "crash"]
    found: dict[int, int] = {}
    for op in history.of("write", "append"):
        if not op.ok:
            found[op.id] = NEVER
            continue
        stands = safe.get(op.id, NEVER)
        if op.direct and not any(op.call < crash < stands for crash in crashes):
            stands = op.ret
        found[op.id] = stands
    return found


def pedigree(history: History, number: int) -> str:
    """Name a value: the write it is from, with its times."""
    return "the hole before the first write" if number == HOLE else str(history.op(number))
