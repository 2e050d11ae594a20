"""Trio shell. Which runnable task runs next: Trio's generator replaced by an object that decides.

With deterministic scheduling allowed, Trio hands each batch of runnable tasks, oldest first, to the `shuffle` of its
module-level generator and then takes tasks from the end. A policy is such an object. A decision is taken wherever two or more
tasks can run; its choice is the index of the one that runs next, oldest first, or `-1 - index` for one that is held back until
the next batch. Choice 0 everywhere is FIFO, so a schedule is told by the few decisions that differ from it. Owns no memory.
"""

import random
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable

import trio
from trio._core import _run

__all__ = ["Fifo", "Pct", "Policy", "Replay", "Reseeding", "Schedule", "Starve", "Uniform", "hold_back", "index_of", "sparse"]

Task = trio.lowlevel.Task
Schedule = tuple[tuple[int, int], ...]
"""Decision number and choice, for the decisions that differ from FIFO, ascending."""


def hold_back(index: int) -> int:
    """Return the choice that holds a task back until the next batch."""
    return -1 - index


def index_of(choice: int) -> int:
    """Return which task a choice is about."""
    return choice if choice >= 0 else -1 - choice


def sparse(choices: Iterable[int]) -> Schedule:
    """Return the decisions that differ from FIFO."""
    return tuple((number, choice) for number, choice in enumerate(choices) if choice)


class Policy(ABC):
    """Order each batch of runnable tasks; `choose` decides, and what it decided is kept.

    choices: of each decision. sizes: between how many tasks each was taken. look: is called for each batch.
    """

    look: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self) -> None:
        self.choices = array("i")
        self.sizes = array("i")

    def shuffle(self, batch: list[Task]) -> None:
        """Put the batch, oldest first, into the order in which Trio pops it from the end."""
        self.look()
        if len(batch) < 2:
            return
        rest = list(batch)
        order: list[Task] = []
        while len(rest) > 1:
            choice = self.choose(rest)
            self.choices.append(choice)
            self.sizes.append(len(rest))
            if choice >= 0:
                order.append(rest.pop(choice))
            else:
                _run.GLOBAL_RUN_CONTEXT.runner.runq.append(rest.pop(-1 - choice))
        order.append(rest[0])
        batch[:] = order[::-1]

    @abstractmethod
    def choose(self, runnable: list[Task]) -> int:
        """Return the choice between two or more tasks, oldest first."""

    def random(self) -> float:
        """Answer Trio's own draw outside deterministic scheduling: never reverse."""
        return 1.0

    def uniform(self, low: float, high: float) -> float:
        """Answer Trio's draw of a clock offset: the middle."""
        return (low + high) / 2


class Fifo(Policy):
    """Run tasks in the order of their creation: the schedule to compare others with."""

    def choose(self, runnable: list[Task]) -> int:
        """Pick the oldest."""
        return 0


class Uniform(Policy):
    """Run any runnable task next, all with equal chance."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def choose(self, runnable: list[Task]) -> int:
        """Pick one at random."""
        return self._rng.randrange(len(runnable))


class Pct(Policy):
    """Run the task of the highest priority first; priorities are drawn, and lowered at `depth - 1` decisions.

    An error that needs `depth` things to come in one order is found with a chance that depends on the number of tasks and
    decisions, not on that of schedules (Burckhardt and others, ASPLOS 2010). How many decisions there will be is not known
    beforehand, so the places of the changes are drawn over scales from tens to tens of thousands.
    """

    def __init__(self, rng: random.Random, depth: int) -> None:
        super().__init__()
        self._rng = rng
        self._priority: dict[Task, float] = {}
        self._changes = frozenset(int(10 ** rng.uniform(0, 4.5)) for _ in range(depth - 1))
        self._lowest = 0

    def choose(self, runnable: list[Task]) -> int:
        """Pick the task of the highest priority."""
        known = self._priority
        for task in runnable:
            if task not in known:
                known[task] = self._rng.random()
        best = max(range(len(runnable)), key=lambda index: known[runnable[index]])
        if len(self.choices) in self._changes:
            self._lowest -= 1
            known[runnable[best]] = self._lowest
            best = max(range(len(runnable)), key=lambda index: known[runnable[index]])
        return best


class Starve(Policy):
    """Hold one task after another back for up to `ticks` batches while the others run on; these in random order.

    Trio runs each runnable task once in each batch, whatever their order, so without this nobody is ever more than one batch
    late. A task that alone can run is not held: time would stand still with it.
    """

    def __init__(self, rng: random.Random, ticks: int) -> None:
        super().__init__()
        self._rng = rng
        self._ticks = ticks
        self._victim: Task | None = None
        self._left = 0
        self._pause = rng.randrange(2 * ticks)

    def shuffle(self, batch: list[Task]) -> None:
        """Begin and end the holding back, once in each batch."""
        if self._victim is not None:
            self._left -= 1
            if self._left < 0:
                self._victim, self._pause = None, self._rng.randrange(2 * self._ticks)
        elif len(batch) > 1:
            self._pause -= 1
            if self._pause < 0:
                self._victim, self._left = self._rng.choice(batch), self._rng.randrange(self._ticks)
        super().shuffle(batch)

    def choose(self, runnable: list[Task]) -> int:
        """Hold the victim back, or pick one at random."""
        if self._victim is not None and self._victim in runnable:
            return hold_back(runnable.index(self._victim))
        return self._rng.randrange(len(runnable))


class Replay(Policy):
    """Repeat a schedule; a choice that the run no longer offers becomes the nearest one it does. diverged: whether one did."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._choice = dict(schedule)
        self.diverged = False

    def choose(self, runnable: list[Task]) -> int:
        """Pick what the schedule says, and the oldest where it says nothing."""
        choice = self._choice.get(len(self.choices), 0)
        index = index_of(choice)
        if index >= len(runnable):
            self.diverged = True
            index = len(runnable) - 1
        return index if choice >= 0 else hold_back(index)


class Reseeding(Policy):
    """Do as another policy does up to a moment, and choose at random after it. then: is told of the moment, says when it is over.

    What is chosen is not kept.
    """

    def __init__(self, first: Policy, at_s: float, rng: random.Random, then: Callable[[], bool]) -> None:
        super().__init__()
        self._policy = first
        self._at_s = at_s
        self._rng = rng
        self._then = then
        self._over = False

    def shuffle(self, batch: list[Task]) -> None:
        """Look at the time, once in each batch."""
        self.look()
        if not self._over and trio.current_time() >= self._at_s and self._then():
            self._over, self._policy = True, Uniform(self._rng)
        self._policy.shuffle(batch)

    def choose(self, runnable: list[Task]) -> int:
        """Pick what the other policy would."""
        return self._policy.choose(runnable)
