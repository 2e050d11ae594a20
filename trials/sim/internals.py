"""Trio shell. The private parts of Trio that decide order: what they are, that this Trio has them, and how they are pinned.

Trio is reproducible from a seed when its scheduler sorts each batch before a seeded policy orders it, when scopes with one
deadline are cancelled in the order of their making, and when the tasks and scopes under a cancelled one are told in the order
they came. The first is a switch of Trio's own; the other two replace a heap key and some sets that follow addresses.
A Trio without these names, or in which a small program does not run in the order pinned, is refused: nothing here degrades
silently. Owns no memory.
"""

import itertools
from collections.abc import Callable
from functools import cache
from heapq import heappush
from typing import Any, Final, NoReturn, TypeVar

import trio
import trio.testing
from trio._core import _run

from trials.sim.patches import Patches
from trials.sim.policy import Fifo, Policy, Task, hold_back

__all__ = ["OrderedSet", "UnknownTrio", "pin_order"]

T = TypeVar("T")
NAMES: Final = ("_ALLOW_DETERMINISTIC_SCHEDULING", "_r", "Deadlines", "CancelStatus", "Task", "GLOBAL_RUN_CONTEXT")


class UnknownTrio(Exception):
    """This Trio's inside is not the one the simulator knows, so it does not claim to be reproducible."""


class OrderedSet(dict[T, None]):
    """A set that remembers the order of insertion, with as much of a set's interface as Trio uses."""

    __slots__ = ()

    def add(self, value: T) -> None:
        """Add at the end, unless it is there."""
        self[value] = None

    def discard(self, value: T) -> None:
        """Remove if it is there."""
        self.pop(value, None)

    def remove(self, value: T) -> None:
        """Remove. Raises: KeyError."""
        del self[value]

    def __repr__(self) -> str:
        return f"OrderedSet({list(self)!r})"


def pin_order(patches: Patches, policy: Policy) -> None:
    """Make the order of everything in Trio a function of the policy, until the patches end.

    Raises: UnknownTrio.
    """
    _recognise()
    _try_out()
    _pin(patches, policy)


def _pin(patches: Patches, policy: Policy) -> None:
    patches.set(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    patches.set(_run, "_r", policy)
    counter = itertools.count()

    def add(deadlines: Any, deadline: float, scope: trio.CancelScope) -> None:
        heappush(deadlines._heap, (deadline, next(counter), scope))
        deadlines._active += 1

    patches.set(_run.Deadlines, "add", add)
    _order(patches, _run.CancelStatus, "_children", "_tasks")
    _order(patches, trio.Event, "_tasks")
    _order(patches, trio.MemorySendChannel, "_tasks")
    _order(patches, trio.MemoryReceiveChannel, "_tasks")


def _order(patches: Patches, cls: type[Any], *names: str) -> None:
    """Give new instances of `cls` ordered sets."""
    made: Callable[..., None] = cls.__init__

    def init(self: object, *args: object, **kwargs: object) -> None:
        made(self, *args, **kwargs)
        for name in names:
            items = getattr(self, name)
            setattr(self, name, OrderedSet.fromkeys(items) if items else OrderedSet())

    patches.set(cls, "__init__", init)


def _recognise() -> None:
    missing = [name for name in NAMES if not hasattr(_run, name)]
    if missing:
        raise UnknownTrio(f"trio {trio.__version__} has no {', '.join(missing)} in trio._core._run")
    if not callable(getattr(_run._r, "shuffle", None)) or "_counter" not in getattr(_run.Task, "__slots__", ()):
        raise UnknownTrio(f"trio {trio.__version__} orders tasks in a way not known here")
    deadlines: Any = _run.Deadlines()
    deadlines.add(1.0, trio.CancelScope())
    if [len(entry) for entry in deadlines._heap] != [3] or deadlines._active != 1:
        raise UnknownTrio(f"trio {trio.__version__} keeps deadlines in a way not known here")
    event: Any = trio.Event()
    if not isinstance(event._tasks, (set, OrderedSet)):
        raise UnknownTrio(f"trio {trio.__version__} keeps an event's tasks in a way not known here")


class _Youngest(Policy):
    """The order that no unpinned Trio would follow by chance, together with that of `Fifo`."""

    def choose(self, runnable: list[Task]) -> int:
        return len(runnable) - 1


class _FirstLater(Policy):
    """Hold one task back, at the first batch that is whole: the other half of what policies do."""

    def choose(self, runnable: list[Task]) -> int:
        return hold_back(0) if len(runnable) == TASKS and -1 not in self.choices else 0


TASKS: Final = 7


@cache
def _try_out() -> None:
    """Run a small program under three policies. Raises: UnknownTrio when the order is not the pinned one."""
    ascending, descending = list(range(TASKS)), list(range(TASKS))[::-1]
    first_later = [*ascending[1:], 0]
    for policy, steps in ((Fifo(), ascending), (_Youngest(), descending), (_FirstLater(), first_later)):
        with Patches() as patches:
            _pin(patches, policy)
            seen: dict[str, list[int]] = {"steps": [], "deadline": [], "nursery": []}
            trio.run(_small_program, seen, clock=trio.testing.MockClock(autojump_threshold=0))
        # Scopes with one deadline end in the order of their making, here that of the steps; a nursery's tasks in that of theirs.
        if seen != {"steps": steps * 2, "deadline": steps, "nursery": ascending}:
            raise UnknownTrio(f"trio {trio.__version__} runs tasks in an order not known here: {seen}")


async def _small_program(seen: dict[str, list[int]]) -> None:
    async def wait(index: int, where: str) -> None:
        def abort(_: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
            seen[where].append(index)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def work(index: int) -> None:
        for _ in range(2):
            seen["steps"].append(index)
            await trio.lowlevel.checkpoint()
        with trio.move_on_at(deadline):
            await wait(index, "deadline")

    deadline = trio.current_time() + 1
    async with trio.open_nursery() as nursery:
        for index in range(TASKS):
            nursery.start_soon(work, index)
    with trio.move_on_at(deadline + 1):
        async with trio.open_nursery() as nursery:
            for index in range(TASKS):
                nursery.start_soon(wait, index, "nursery")
