"""Trio shell. Scenario `append-log`: each client appends records to a log of its own, by two tasks with a descriptor each.

In the end another client reads the logs: each record that was made safe is there once, whole, and behind those of its descriptor
that came before (`trials/checkers/once.py`). Owns no memory but the logs as they were read.
"""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from netfs.fs.client import Client
from trials.cells import CELL
from trials.checkers.once import check_log
from trials.history import Failure, History
from trials.workloads.actor import Actor
from trials.workloads.base import Do, Scenario

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["AppendLog"]

LENGTHS: Final = (CELL, 5 * CELL, 1024, 5000 // CELL * CELL, 16384)
LONGEST: Final = 1 << 24


class AppendLog(Scenario):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, bytearray] = {}

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw appends with an fsync now and then; fd tells the task, of which the second is direct."""
        self.case = case
        return [
            Do(
                client,
                rng.choices(("append", "fsync"), (80, 20))[0],
                rng.randrange(2),
                0,
                rng.choice(LENGTHS),
                0,
                rng.getrandbits(32),
            )
            for _ in range(case.operations)
            for client in range(case.clients)
        ]

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make the logs."""
        del history
        for index, client in enumerate(clients):
            async with await client.open(f"/log-client{index}", "w"):
                pass

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """Let both tasks append."""
        async with trio.open_nursery() as nursery:
            for task in (0, 1):
                nursery.start_soon(partial(self._append, actor, [one for one in operations if one.fd == task]))

    async def _append(self, actor: Actor, operations: list[Do]) -> None:
        fd = None
        for one in operations:
            if fd is None:
                fd = await actor.open(f"/log-{actor.name}", "a", direct=bool(one.fd))
            if fd is None:
                continue
            op = await (fd.append(one.length, one.rng) if one.kind == "append" else fd.fsync())
            if not op.ok:
                # What failed may have left a part of a record behind; who keeps a log goes on with a new descriptor.
                await fd.close()
                fd = None
        if fd is not None:
            await fd.close()

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Read each log by another client."""
        for index in range(len(clients)):
            auditor = self.auditor(clients, history, index - 1)
            path = f"/log-client{index}"
            fd = await auditor.open(path, "r")
            if fd is None:
                continue
            op, got = await fd.read(0, fd.file.size + CELL, random.Random(1))
            op.seen = ()
            await fd.close()
            if got is not None:
                self.logs[path] = got

    def judge(self, history: History) -> Iterator[Failure]:
        """Each record is there once. A server that says it committed and did not is noticed by who knows the newer state."""
        for path, content in self.logs.items():
            yield from check_log(history, path, content, honest=self.is_honest)
