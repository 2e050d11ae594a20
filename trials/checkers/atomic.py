"""Sans-IO. Level 1: each cell is an atomic register, for files that are only used directly, by any number of clients at once.

A write whose connection broke is sent again, and may be done again, over what another client wrote meanwhile: where connections
may break (`repeats`), writes that overlap in time are not held against each other.

A server that crashes may take what was not yet safe with it. What was read of such a write before the crash binds nobody, and the
write counts from when it was safe; everything else is as without crashes. The same goes for a write to an encrypted file whose
fsync or close failed. Owns no memory.
"""

from collections.abc import Iterator

from trials.cells import HOLE
from trials.checkers.segments import Segment, damaged, given_up, pedigree, segments, settled, settled_by
from trials.checkers.zones import BACK, EARLY, INITIAL, LOST, NOBODY, Interval, Violation, check_register
from trials.history import NEVER, Failure, History

__all__ = ["check_atomic"]

KINDS = {BACK: "U1 stale read", LOST: "U1 stale read", EARLY: "U1 read from the future", NOBODY: "U1 unwritten data"}


def check_atomic(history: History, file: str, *, repeats: bool = False, sealed: bool = False) -> Iterator[Failure]:
    """Yield what is wrong with a file's reads; one failure for a segment at most. sealed: the file is encrypted."""

    def overlap(first: int, second: int) -> bool:
        if INITIAL in (first, second):
            return False
        one, other = history.op(first), history.op(second)
        return one.call < other.end and other.call < one.end

    crashes = [mark.tick for mark in history.marks if mark.kind == "crash"]
    safe = settled(history)
    stands = settled_by(history, safe)
    lost = given_up(history, file, safe) if sealed else {}
    stands |= dict.fromkeys(lost, NEVER)
    yield from damaged(history, file, stands)
    for segment in segments(history, file):
        writes: list[Interval] = [(op.id, op.call, stands[op.id]) for op in segment.writes]
        # The last crash that may have taken a write, and so what was read of it before.
        taken = {
            op.id: max([lost.get(op.id, -1), *(crash for crash in crashes if op.call < crash < safe.get(op.id, NEVER))])
            for op in segment.writes
        }
        reads: list[Interval] = [
            (seen.write, seen.read.call, seen.read.ret) for seen in segment.reads if seen.read.call > taken.get(seen.write, -1)
        ]  # fmt: skip
        violation = check_register(writes, reads, excused=overlap if repeats else None)
        if violation is not None:
            yield Failure(KINDS[violation.kind], f"{segment}: {_told(history, segment, violation)}")


def _told(history: History, segment: Segment, violation: Violation) -> str:
    """Say which writes, and which reads show it."""
    first, second = pedigree(history, violation.first), pedigree(history, violation.second)
    shown = [str(seen.read) for seen in segment.reads if seen.write in {violation.first, violation.second}]
    if violation.kind == LOST:
        told = f"{second} happened entirely while {first} was provably current"
    elif violation.kind == BACK:
        told = f"{first} and {second} were each seen after the other is known complete"
    elif violation.kind == EARLY:
        told = f"{second} was read before it was called"
    else:
        told = f"write #{violation.first} was never made here" if violation.first != HOLE else "a hole where there was none"
    return f"{told}; read by {'; '.join(shown[-4:])}" if shown else told
