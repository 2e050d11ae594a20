"""Sans-IO. Is one cell an atomic register? Linearizability in O(n log n) for data that names its write.

With the write of each read known, the operations on a value form a cluster, and it is enough to look at each cluster's zone
(Gibbons and Korach, "Testing shared memories", 1997): between f, the earliest return of the write or one of its reads, and s,
the latest call of one of them.

    f < s   a forward zone: the value was current at least from f to s
    s < f   a backward zone: one moment in [s, f] is enough

        write A |-----|f                                     two forward zones overlap        each was current after the other
              write B |----|f                                a backward zone inside           it was replaced and came back
                    read A |-----|    s: A was current here  a forward zone
                            read B |-----|

The history is linearizable if and only if no read returns before its write is called, no two forward zones overlap and no
backward zone lies inside a forward one. Ticks never tie. A write with unknown outcome returns at NEVER; one that nobody
read is left out. Owns no memory.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trials.history import NEVER

__all__ = ["INITIAL", "Interval", "Violation", "check_register"]

INITIAL = 0
"""The id of the value that was there before the first write."""
Interval = tuple[int, int, int]
"""An operation on a cell: the id of the write (that it is, or that a read saw), the tick of its call, and of its return."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Why there is no order. first, second: ids of writes."""

    kind: str
    first: int
    second: int

    def __str__(self) -> str:
        return self.kind


BACK = "each of two values was seen after the other is known complete"
LOST = "a write happened entirely while another one was provably current"
EARLY = "a read returned a value before its write was called"
NOBODY = "a read returned a value that nobody wrote"


def check_register(
    writes: Iterable[Interval], reads: Iterable[Interval], initial: bool = True, *,
    excused: Callable[[int, int], bool] | None = None,
) -> Violation | None:  # fmt: skip
    """Check the operations on one cell. initial: there was a value before, with the id INITIAL.

    excused: says of two writes that they may come in any order, more than once.

    Returns: the first reason found why they cannot be put into one order, or None when they can.
    """
    called: dict[int, int] = {}
    earliest: dict[int, int] = {}
    latest: dict[int, int] = {}
    if initial:
        called[INITIAL] = earliest[INITIAL] = latest[INITIAL] = -1
    for number, call, ret in writes:
        called[number] = latest[number] = call
        earliest[number] = ret
    for number, call, ret in reads:
        begun = called.get(number)
        if begun is None:
            return Violation(NOBODY, number, number)
        if ret < begun:
            return Violation(EARLY, number, number)
        if ret < earliest[number]:
            earliest[number] = ret
        if call > latest[number]:
            latest[number] = call
    forward: list[Interval] = []
    backward: list[Interval] = []
    for number, f in earliest.items():
        s = latest[number]
        if f < s:
            forward.append((f, s, number))
        elif f != NEVER:
            backward.append((s, f, number))
    forward.sort()
    end = -2
    before = INITIAL
    for f, s, number in forward:
        if f < end and (excused is None or not excused(before, number)):
            return Violation(BACK, before, number)
        if s > end:
            end, before = s, number
    starts = [f for f, _, _ in forward]
    for s, f, number in backward:
        at = bisect_left(starts, s) - 1
        if at >= 0 and f < forward[at][1] and (excused is None or not excused(forward[at][2], number)):
            return Violation(LOST, forward[at][2], number)
    return None
