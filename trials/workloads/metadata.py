"""Trio shell. Scenario `metadata`: names come and go in two folders, by all clients at once.

Creating, removing, renaming, linking, looking up and listing, on few names, so that clients get into each other's way. What they
are told must fit one order of all operations (`trials/checkers/namespace.py`). Owns no memory.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from netfs.fs.client import Client
from trials.checkers.namespace import check_namespace
from trials.history import Failure, History
from trials.workloads.actor import Actor
from trials.workloads.base import Do, Scenario

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["Metadata"]

FOLDER: Final = "/names"
NAMES: Final = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")
WEIGHTS: Final = {"create": 28, "unlink": 18, "rename": 16, "link": 10, "stat": 22, "readdir": 6}
PAIRED: Final = ("rename", "link")


class Metadata(Scenario):
    """See the module."""

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw operations; names meet in pairs only, so that the search for an order stays small."""
        self.case = case
        drawn: list[Do] = []
        for _ in range(case.operations):
            for client in range(case.clients):
                kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                name = rng.randrange(len(NAMES))
                drawn.append(Do(client, kind, 0, name, 0, name ^ 1))
        return drawn

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make the folder."""
        del history
        await clients[0].mkdir(FOLDER)

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """Do the operations of one client."""
        for one in operations:
            if one.kind == "readdir":
                names: list[str] = []
            elif one.kind in PAIRED:
                names = [NAMES[one.pos], NAMES[one.to]]
            else:
                names = [NAMES[one.pos]]
            await actor.names(one.kind, FOLDER, *names)

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Look each name up, and list them."""
        for index in (0, -1):
            auditor = self.auditor(clients, history, index)
            await auditor.names("readdir", FOLDER)
            for name in NAMES:
                await auditor.names("stat", FOLDER, name)

    def judge(self, history: History) -> Iterator[Failure]:
        """There is one order that explains every answer."""
        yield from check_namespace(history, FOLDER)
