"""Sans-IO. Is a history linearizable against any sequential model? The search of Wing and Gong, with the memory of Lowe.

For small histories and models without a short cut: names in a directory, and the reference that `zones.py` is tested against.
It is exponential in how many operations overlap, so it has a budget and may answer that it does not know. Two savings: a
configuration is visited once, and an operation that changes nothing and fits now is taken at once, which no order needs to
undo. Owns no memory.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from trials.history import NEVER

__all__ = ["Call", "Verdict", "search"]

S = TypeVar("S", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One operation. ret: NEVER when its outcome is unknown: it may be placed anywhere after its call, or nowhere."""

    what: T
    call: int
    ret: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """linearizable: None when the budget ran out. stuck: index of an operation at which the longest order found ends."""

    linearizable: bool | None
    stuck: int = -1
    visited: int = 0


def search(calls: Sequence[Call[T]], state: S, step: Callable[[S, T], Sequence[S]], budget: int = 200_000) -> Verdict:
    """Look for an order. step: the states there may be after an operation that answered as it did; none where it cannot."""
    order = sorted(range(len(calls)), key=lambda at: calls[at].call)
    calls = [calls[at] for at in order]
    must = 0
    for at, call in enumerate(calls):
        if call.ret != NEVER:
            must |= 1 << at
    seen: set[tuple[int, S]] = set()
    todo: list[tuple[int, S]] = [(0, state)]
    best, stuck = -1, -1
    while todo:
        done, now = todo.pop()
        done, ready = _settle(calls, done, now, step)
        if must & ~done == 0:
            return Verdict(True, visited=len(seen))
        if (done, now) in seen:
            continue
        seen.add((done, now))
        if len(seen) > budget:
            return Verdict(None, visited=len(seen))
        if done.bit_count() > best:
            best, stuck = done.bit_count(), min((at for at in ready if must >> at & 1), key=lambda at: calls[at].ret, default=-1)
        for at in reversed(ready):
            todo.extend((done | 1 << at, after) for after in step(now, calls[at].what))
    return Verdict(False, order[stuck] if stuck >= 0 else -1, len(seen))


def _settle(calls: Sequence[Call[T]], done: int, now: S, step: Callable[[S, T], Sequence[S]]) -> tuple[int, list[int]]:
    """Take what fits and changes nothing. Returns: what is done then, and the operations that may come next."""
    while True:
        ready = _ready(calls, done)
        taken = done
        for at in ready:
            if calls[at].ret != NEVER and tuple(step(now, calls[at].what)) == (now,):
                taken |= 1 << at
        if taken == done:
            return done, ready
        done = taken


def _ready(calls: Sequence[Call[T]], done: int) -> list[int]:
    """Return the operations that are not done and before which no other must come, in the order of their calls."""
    ready: list[int] = []
    first_return = NEVER
    for at, call in enumerate(calls):
        if call.call > first_return:
            break
        if not done >> at & 1:
            ready.append(at)
            first_return = min(first_return, call.ret)
    return ready
