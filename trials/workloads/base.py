"""Trio shell. What a scenario is: operations drawn beforehand, who does them, and what must be true of what was seen.

Operations are drawn up front from the seed, so that a trial can be repeated with some of them left out. Owns no memory.
"""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from netfs.fs.client import Client

if TYPE_CHECKING:
    from trials.case import Case, Failure

__all__ = ["Operation", "Recorder", "Workload"]


class Operation(Protocol):
    """One thing a client does."""

    @property
    def client(self) -> int:
        """The number of the client that does it."""


class Recorder:
    """Takes what was done and seen, in the order of happening. now: virtual time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.rows: list[object] = []

    def mark(self, kind: str, node: str = "") -> None:
        """Note something that happened to the world: a crash, a heal."""
        self.rows.append((kind, node, self.now()))


class Workload(Protocol):
    """A scenario, made anew for each trial."""

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Operation]:
        """Draw what is to be done: `case.operations` for each client."""

    async def prepare(self, clients: Sequence[Client], recorder: Recorder) -> None:
        """Make what the operations need, while nothing goes wrong yet."""

    async def run(self, clients: Sequence[Client], operations: Sequence[Operation], recorder: Recorder) -> None:
        """Do the operations, each client its own in order, while things go wrong: an OSError is an outcome like others."""

    async def verify(self, clients: Sequence[Client], recorder: Recorder) -> None:
        """Look at everything again, after all has healed."""

    def check(self, recorder: Recorder) -> "Failure | None":
        """Judge what was done and seen."""
