"""Trio shell. Scenario `rename-swap`: new versions of a file are written aside, made safe and renamed over the old one.

Whoever opens the file finds one whole version, never an empty or a mixed one, and none that is older than the last one whose
rename had returned. After renames whose outcome is unknown either version may be there. Owns no memory.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netfs.fs.client import Client
from trials.cells import CELL
from trials.history import Failure, History, Op
from trials.workloads.actor import Actor
from trials.workloads.base import Do, Scenario

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["RenameSwap"]

LENGTHS: Final = (CELL, 1024, 8192, 20_000 // CELL * CELL)
MOST: Final = 40_000


@dataclass(slots=True)
class _Version:
    """A version: its write, its size, and the rename that put it there."""

    write: Op
    rename: Op


class RenameSwap(Scenario):
    """See the module. The first client writes versions, the others read; a client alone does both."""

    path = "/swap"

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[_Version] = []
        self.reads: list[tuple[Op, Op]] = []

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw swaps by one client and looks by all."""
        self.case = case
        return [
            Do(
                client, "swap" if client == 0 and rng.random() < 0.6 else "look", rng.randrange(2), 0, rng.choice(LENGTHS), 0,
                rng.getrandbits(32),
            )
            for _ in range(case.operations)
            for client in range(case.clients)
        ]  # fmt: skip

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make the first version."""
        await self._swap(self.actor(clients, 0, history), Do(0, "swap", 0, 0, LENGTHS[1]))

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """Do the operations of one client."""
        for one in operations:
            await (self._swap if one.kind == "swap" else self._look)(actor, one)

    async def _swap(self, actor: Actor, one: Do) -> None:
        """Write a version aside and put it in place; a version that could not be made safe is not."""
        aside = f"{self.path}.new"
        fd = await actor.open(aside, "w", direct=bool(one.fd))
        if fd is None:
            return
        write = await fd.write(0, one.length, one.rng)
        synced = await fd.fsync()
        closed = await fd.close()
        if write.ok and synced.ok and closed.ok:
            rename = await actor.names("rename", "/", aside[1:], self.path[1:])
            self.versions.append(_Version(write, rename))

    async def _look(self, actor: Actor, one: Do) -> None:
        """Open the file and read all of it."""
        fd = await actor.open(self.path, "r", direct=bool(one.fd))
        if fd is None:
            return
        opened = next(op for op in reversed(actor.history.ops) if op.kind == "open" and op.fd == fd.number)
        actor.is_of[self.path] = actor.history.is_of(f"{self.path}.new")
        read, _ = await fd.read(0, MOST, one.rng)
        await fd.close()
        if read.ok:
            self.reads.append((opened, read))

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Look once more, by everybody."""
        for index in range(len(clients)):
            await self._look(self.auditor(clients, history, index), Do(index, "look"))

    def judge(self, history: History) -> Iterator[Failure]:
        """Each look found one whole version that was current at some moment of the open."""
        del history
        for opened, read in self.reads:
            failure = self._judge(opened, read)
            if failure is not None:
                yield failure

    def _judge(self, opened: Op, read: Op) -> Failure | None:
        if len(read.seen) != 1 or read.seen[0].first != 0:
            runs = ", ".join(f"{run.count} cells of #{run.op} ({run.cause.value})" for run in read.seen) or "nothing"
            return Failure("U1 mixed version", f"{read} found {runs}")
        run = read.seen[0]
        found = next((version for version in self.versions if version.write.id == run.op), None)
        if found is None or run.cause.value != "good":
            return Failure("U1 no version", f"{read} found {run.count} cells of #{run.op} ({run.cause.value})")
        if read.done != found.write.length:
            return Failure("U1 part of a version", f"{read} found {read.done} bytes of the {found.write.length} of {found.write}")
        if found.rename.call > read.ret:
            return Failure("U1 read from the future", f"{read} found {found.write}, which was not yet in place")
        last = max((v.rename.call for v in self.versions if v.rename.ok and v.rename.ret < opened.call), default=-1)
        if found.rename.end < last:
            newer = next(version for version in self.versions if version.rename.call == last)
            return Failure(
                "U1 old version", f"{opened} found {found.write}, though {newer.rename} had put {newer.write} in place"
            )
        return None
