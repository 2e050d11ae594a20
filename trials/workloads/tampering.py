"""Trio shell. Scenario `tamper`: the server lies in one of its ways (`trials/faults/tamper*.py`) while clients read and write.

Whatever it does, a read of an encrypted file fails or gives what a client wrote there: no byte of another place or file, none
that nobody wrote; and to the client that wrote the file no hole and no end where data was. One that sees a file for the first
time may be shown an older version of it: that is a known limit. On a plain volume the server is honest. Owns no memory.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from netfs.fs.client import Client
from trials.cells import CELL, HOLE
from trials.checkers.segments import damaged
from trials.faults.tamper import Tamper, load_attacks
from trials.history import Failure, History, Op
from trials.workloads.actor import Actor
from trials.workloads.base import Do, Operation, Scenario

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["Tampering"]

BLOCK: Final = 1 << 14
LENGTH: Final = 3 * BLOCK + 1600
SIZES: Final = (CELL, 1600, BLOCK, 2 * BLOCK)


class Tampering(Scenario):
    """See the module. Each client writes a file of its own, and reads everybody's.

    bears_stale: an old version is nothing that it holds against the server, so that plans may have faults that show one.
    """

    bears_stale: Final = True

    def __init__(self) -> None:
        super().__init__()
        self.tamper: Tamper | None = None

    def attacks(self, rng: random.Random, case: "Case") -> list[Tamper]:
        """Draw the lie."""
        if not case.encrypt:
            return []
        table = load_attacks()
        name = rng.choice(sorted(table))
        self.tamper = Tamper(name, rng.choice(table[name].VARIANTS), block_size=BLOCK, armed=False)
        return [self.tamper]

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw reads, overwrites and looks at names."""
        self.case = case
        drawn: list[Do] = []
        for _ in range(case.operations):
            for client in range(case.clients):
                kind = rng.choices(("read", "write", "stat", "list"), (55, 30, 10, 5))[0]
                length = rng.choice(SIZES)
                pos = rng.randrange((LENGTH - length) // CELL + 1) * CELL
                drawn.append(Do(client, kind, rng.randrange(2), pos, length, rng.randrange(case.clients), rng.getrandbits(32)))
        return drawn

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make the files."""
        for index in range(len(clients)):
            fd = await self.actor(clients, index, history).open(f"/told-{index}", "w", direct=True)
            assert fd is not None
            await fd.write(0, LENGTH, random.Random(1))
            await fd.close()

    async def run(self, clients: Sequence[Client], operations: Sequence[Operation], history: History) -> None:
        """Lie from now on."""
        if self.tamper is not None:
            self.tamper.attack.armed = True
            history.mark("attack", f"{self.tamper.attack.ID}:{self.tamper.attack.variant}")
        await super().run(clients, operations, history)

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """Do the operations of one client, each with a descriptor of its own."""
        for one in operations:
            path = f"/told-{one.to if one.kind == 'read' else one.client}"
            if one.kind == "stat":
                await actor.names("stat", "/", path[1:])
            elif one.kind == "list":
                await actor.names("readdir", "/")
            else:
                fd = await actor.open(path, "r+" if one.kind == "write" else "r", direct=bool(one.fd))
                if fd is None:
                    continue
                if one.kind == "write":
                    await fd.write(one.pos, one.length, one.rng)
                else:
                    await fd.read(one.pos, one.length, one.rng)
                await fd.close()

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Read everything once more, when nobody lies."""
        for index in range(len(clients)):
            auditor = self.auditor(clients, history, index)
            fd = await auditor.open(f"/told-{index}", "r", direct=True)
            if fd is not None:
                await fd.read(0, LENGTH, random.Random(1))
                await fd.close()

    def judge(self, history: History) -> Iterator[Failure]:
        """No read is of anything but what was written there."""
        what = f" (attack {self.tamper.attack.ID}:{self.tamper.attack.variant})" if self.tamper is not None else ""
        for path in history.files():
            for failure in damaged(history, path, {}):
                yield Failure(failure.kind, failure.message + what)
        for op in history.of("read"):
            failed = self._judge(op)
            if failed is not None:
                yield Failure(failed.kind, failed.message + what)

    def _judge(self, op: Op) -> Failure | None:
        if not op.ok or op.client.removeprefix("client") != op.file.rpartition("-")[2]:
            return None
        holes = [run for run in op.seen if run.op == HOLE]
        if holes:
            return Failure("U1 hole where data was", f"{op} found a hole at cell {holes[0].first:#x}")
        if op.done < min(op.length, LENGTH - op.pos):
            return Failure("U1 hidden tail", f"{op} found {op.done} bytes")
        return None
