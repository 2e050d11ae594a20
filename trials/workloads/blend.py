"""Trio shell. Scenario `mixed`: several other scenarios at once, by the same clients, on files of their own.

Each trial draws a few of the others and gives every client's operations out among them, so that data, names, logs, copies and
swaps meet in one client's caches, connections and sessions. Each part keeps its oracle. Owns no memory.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from netfs.fs.client import Client
from trials.history import Failure, History
from trials.workloads.append_log import AppendLog
from trials.workloads.base import Do, Operation, Scenario
from trials.workloads.database import Database
from trials.workloads.fsx import Fsx, OwnFiles
from trials.workloads.metadata import Metadata
from trials.workloads.rename_swap import RenameSwap
from trials.workloads.shared import Racing, Sharing
from trials.workloads.stream_copy import StreamCopy

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["Blend", "Part"]

PARTS: Final[dict[str, Callable[[], Scenario]]] = {
    "append-log": AppendLog, "database": Database, "fsx": Fsx, "metadata": Metadata, "own-files": OwnFiles, "racing": Racing,
    "rename-swap": RenameSwap, "sharing": Sharing, "stream-copy": StreamCopy,
}  # fmt: skip
MOST: Final = 4


@dataclass(frozen=True, slots=True)
class Part:
    """An operation of one of the scenarios."""

    scenario: str
    do: Do

    @property
    def client(self) -> int:
        """The number of the client that does it."""
        return self.do.client

    def __str__(self) -> str:
        return f"{self.scenario}: {self.do}"


class Blend(Scenario):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Scenario] = {}

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Operation]:
        """Draw up to four scenarios, and from each its share of the operations."""
        self.case = case
        names = rng.sample(sorted(PARTS), rng.randint(2, MOST))
        share = replace(case, operations=max(1, case.operations // len(names)))
        drawn: list[Part] = []
        for name in names:
            self.parts[name] = PARTS[name]()
            drawn += [Part(name, one) for one in self.parts[name].plan(rng, share) if isinstance(one, Do)]
        return drawn

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Prepare every part."""
        for part in self.parts.values():
            await part.prepare(clients, history)

    async def run(self, clients: Sequence[Client], operations: Sequence[Operation], history: History) -> None:
        """Run all parts at once."""
        async with trio.open_nursery() as nursery:
            for name, part in self.parts.items():
                mine = [one.do for one in operations if isinstance(one, Part) and one.scenario == name]
                nursery.start_soon(partial(part.run, clients, mine, history))

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Let every part look again."""
        for part in self.parts.values():
            await part.verify(clients, history)

    def check(self, history: History) -> Failure | None:
        """Let every part judge."""
        for name, part in self.parts.items():
            failure = part.check(history)
            if failure is not None:
                return Failure(failure.kind, f"{name}: {failure.message}")
        return None
