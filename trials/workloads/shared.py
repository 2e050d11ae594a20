"""Trio shell. Scenarios `racing` and `sharing`: several clients at one file at once.

`racing`: reads and writes of any ranges by direct descriptors, where each cell is an atomic register. `sharing`: buffered
sessions; each client writes only into a part of its own, everybody reads everything, and close-to-open holds. Owns no memory.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from netfs.fs.client import Client
from trials.cells import CELL
from trials.checkers.atomic import check_atomic
from trials.checkers.sessions import check_sessions
from trials.history import Failure, History
from trials.workloads.actor import Actor, Fd
from trials.workloads.base import Do, Scenario

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["Racing", "Sharing"]

PART: Final = 32 << 10
"""Bytes of the file for each client."""
LENGTHS: Final = (CELL, 64, 512, 4096, 8192, 16384)


class _OneFile(Scenario):
    """A file that is full of cells from the start."""

    path = "/shared"
    parts: int

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Fill the file."""
        actor = self.actor(clients, 0, history)
        fd = await actor.open(self.path, "w+")
        assert fd is not None
        await fd.write(0, PART * self.parts, random.Random(1))
        await fd.close()

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Read everything through two clients, from the cache and past it."""
        for index in (-1, 0):
            auditor = self.auditor(clients, history, index)
            for direct in (True, False):
                fd = await auditor.open(self.path, "r", direct=direct)
                if fd is not None:
                    await fd.read(0, PART * self.parts, random.Random(1))
                    await fd.close()


class Racing(_OneFile):
    """See the module."""

    path = "/racing"

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw reads and writes of overlapping ranges, many of them of a few popular places."""
        self.case = case
        self.parts = 2
        popular = [rng.randrange(PART * 2 // CELL) * CELL for _ in range(3)]
        drawn: list[Do] = []
        for _ in range(case.operations):
            for client in range(case.clients):
                length = rng.choice(LENGTHS)
                pos = rng.choice(popular) if rng.random() < 0.6 else rng.randrange(PART * 2 // CELL) * CELL
                pos = min(pos, PART * 2 - length)
                kind = rng.choices(("write", "read", "fsync"), (45, 45, 10))[0]
                drawn.append(Do(client, kind, rng.randrange(2), pos, length, 0, rng.getrandbits(32)))
        return drawn

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """Two descriptors; by the second, each write is durable when it returns."""
        fds: list[Fd | None] = [None, None]
        for one in operations:
            fd = fds[one.fd]
            if fd is None:
                fd = fds[one.fd] = await actor.open(self.path, "r+", direct=True, sync=bool(one.fd))
            if fd is None:
                continue
            if one.kind == "write":
                await fd.write(one.pos, one.length, one.rng)
            elif one.kind == "read":
                await fd.read(one.pos, one.length, one.rng)
            else:
                await fd.fsync()
        for fd in fds:
            if fd is not None:
                await fd.close()

    def judge(self, history: History) -> Iterator[Failure]:
        """Each cell is an atomic register; where things go wrong, a write may be done twice while it lasts."""
        yield from check_atomic(history, self.path, repeats=bool(self.case.plan), sealed=self.case.encrypt)


class Sharing(_OneFile):
    """See the module."""

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw writes to the client's own part and reads of all parts, with sessions of a few operations."""
        self.case = case
        self.parts = case.clients
        drawn: list[Do] = []
        for _ in range(case.operations):
            for client in range(case.clients):
                length = rng.choice(LENGTHS)
                kind = rng.choices(("write", "read", "fsync", "reopen"), (35, 40, 7, 18))[0]
                part = client if kind == "write" else rng.randrange(case.clients)
                pos = part * PART + rng.randrange((PART - length) // CELL + 1) * CELL
                drawn.append(Do(client, kind, 0, pos, length, 0, rng.getrandbits(32)))
        return drawn

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """One descriptor after another."""
        fd: Fd | None = None
        for one in operations:
            if fd is None:
                fd = await actor.open(self.path, "r+")
            if fd is None:
                continue
            if one.kind == "write":
                await fd.write(one.pos, one.length, one.rng)
            elif one.kind == "read":
                await fd.read(one.pos, one.length, one.rng)
            elif one.kind == "fsync":
                await fd.fsync()
            else:
                await fd.close()
                fd = None
        if fd is not None:
            await fd.close()

    def judge(self, history: History) -> Iterator[Failure]:
        """Close-to-open, and nothing that was safe is lost."""
        yield from check_sessions(history, self.path)
