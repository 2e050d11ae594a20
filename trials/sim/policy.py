"""Trio shell. Which runnable task runs next: Trio's generator replaced by an object that decides.

With deterministic scheduling allowed, Trio hands each batch of runnable tasks, oldest first, to the `shuffle` of its
module-level generator and then takes tasks from the end. A policy is such an object. Owns no memory.
"""

import random
from abc import ABC, abstractmethod

import trio

__all__ = ["Fifo", "Policy", "Uniform"]

Task = trio.lowlevel.Task


class Policy(ABC):
    """Order each batch of runnable tasks; `choose` picks the next one by its index."""

    def shuffle(self, batch: list[Task]) -> None:
        """Put the batch, oldest first, into the order in which Trio pops it from the end."""
        if len(batch) < 2:
            return
        rest = list(batch)
        order: list[Task] = []
        while len(rest) > 1:
            order.append(rest.pop(self.choose(rest)))
        order.append(rest[0])
        batch[:] = order[::-1]

    @abstractmethod
    def choose(self, runnable: list[Task]) -> int:
        """Return the index of the task to run next out of two or more, oldest first."""

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
        self._rng = rng

    def choose(self, runnable: list[Task]) -> int:
        """Pick one at random."""
        return self._rng.randrange(len(runnable))
