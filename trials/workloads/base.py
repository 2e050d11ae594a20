"""Trio shell. What a scenario is: operations drawn beforehand, who does them, and what must be true of what was seen.

Operations are drawn up front from the seed, so that a trial can be repeated with some of them left out. Owns no memory.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from netfs.fs.client import Client
from trials.checkers.isolation import RedZones
from trials.history import Failure, History
from trials.workloads.actor import Actor

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["Do", "Operation", "Scenario", "Workload"]


LIES: Final = frozenset({"S15"})
"""Faults with which a commit that is said to be done was not: a rollback, which only who knows the newer state can see."""
OLD_ANSWERS: Final = frozenset({"A34:older", "A34:record"})
"""Attacks that do the same to one client, which then builds on the old state, and so puts it in the place of the newer one."""
ROLLBACKS: Final = frozenset({
    "U1 lost after crash", "U1 old version", "U1 page before its record", "U1 stale after open", "U1 stale read",
    "U6 impossible namespace", "U7 lost without an error",
})  # fmt: skip
"""What another client sees of such a one."""


class Operation(Protocol):
    """One thing a client does."""

    @property
    def client(self) -> int:
        """The number of the client that does it."""


class Workload(Protocol):
    """A scenario, made anew for each trial."""

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Operation]:
        """Draw what is to be done: `case.operations` for each client."""

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make what the operations need, while nothing goes wrong yet."""

    async def run(self, clients: Sequence[Client], operations: Sequence[Operation], history: History) -> None:
        """Do the operations, each client its own in order, while things go wrong: an OSError is an outcome like others."""

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Look at everything again, after all has healed."""

    def check(self, history: History) -> Failure | None:
        """Judge what was done and seen."""


@dataclass(frozen=True, slots=True)
class Do:
    """One operation of the scenarios here. fd: which descriptor; to: a second place or number; seed: of what is drawn within."""

    client: int
    kind: str
    fd: int = 0
    pos: int = 0
    length: int = 0
    to: int = 0
    seed: int = 0

    @property
    def rng(self) -> random.Random:
        """Return a fresh source for what is drawn within."""
        return random.Random(self.seed)

    def __str__(self) -> str:
        values = ((each.name, getattr(self, each.name)) for each in fields(self)[2:])
        return " ".join([f"client{self.client}", self.kind, *(f"{name}={value}" for name, value in values if value)])


class Scenario:
    """What most scenarios share: actors, red zones, each client's operations in order, and a check that names the first failure.

    A subclass draws (`plan`), prepares, works (`work`), looks again (`verify`) and judges (`judge`).
    """

    def __init__(self) -> None:
        self.zones = RedZones()
        self.case: Case
        self._actors: dict[int, Actor] = {}

    @property
    def is_honest(self) -> bool:
        """Say whether the server has done what it said was done; else only who wrote something can say that it is gone."""
        assert self.case.plan is not None
        return all(fault.id not in LIES and fault.arg("attack", "") not in OLD_ANSWERS for fault in self.case.plan)

    def actor(self, clients: Sequence[Client], index: int, history: History) -> Actor:
        """Return the actor of a client."""
        if index not in self._actors:
            self._actors[index] = Actor(f"client{index}", clients[index], history, self.zones)
        return self._actors[index]

    def auditor(self, clients: Sequence[Client], history: History, index: int = -1) -> Actor:
        """Return who looks again in the end: by one of the clients, but under a name of its own."""
        return Actor("audit", clients[index], history, self.zones)

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Operation]:
        """Draw what is to be done."""
        raise NotImplementedError

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make nothing."""

    async def run(self, clients: Sequence[Client], operations: Sequence[Operation], history: History) -> None:
        """Let each client do its operations, all clients at once."""
        async with trio.open_nursery() as nursery:
            for index in range(len(clients)):
                mine = [one for one in operations if isinstance(one, Do) and one.client == index]
                nursery.start_soon(partial(self.work, self.actor(clients, index, history), mine))

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """Do the operations of one client."""
        raise NotImplementedError

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Look at nothing."""

    def judge(self, history: History) -> Iterator[Failure]:
        """Yield what is wrong; nothing by default."""
        yield from ()

    def check(self, history: History) -> Failure | None:
        """Judge what was seen on the spot, what the history says, and who touched what it had given back."""
        if history.failures:
            return history.failures[0]
        found = (failure for failure in self.judge(history) if failure.kind not in ROLLBACKS or self.is_honest)
        return next(found, None) or self.zones.check()
