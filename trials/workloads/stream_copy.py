"""Trio shell. Scenario `stream-copy`: files are copied from beginning to end, through the client or on the server.

The source is full of self-naming cells, so a copy holds the same cells at the same places. A copy whose every call succeeded
must be the source, to the byte, also to another client; of one that failed each cell is the source's or missing. Owns no
memory.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from iov.iov_iter import Direction, IovIter
from netfs.fs.client import Client
from trials.cells import CELL, HOLE, Cause
from trials.history import Failure, History, Op
from trials.workloads.actor import Actor, Fd
from trials.workloads.base import Do, Scenario

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["StreamCopy"]

LENGTH: Final = 80_000 // CELL * CELL
CHUNKS: Final = (3008, 8192, 20_000, LENGTH)


class StreamCopy(Scenario):
    """See the module. An operation is a whole copy, so there are fewer of them."""

    source = "/source"

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.copies: dict[str, bool] = {}
        """Copies, and whether all of their calls succeeded."""

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw copies: by the client or by the server, buffered or direct, in pieces of some size."""
        self.case = case
        return [
            Do(
                client,
                rng.choice(("copy", "copy", "server-copy")),
                rng.randrange(4),
                0,
                rng.choice(CHUNKS),
                at,
                rng.getrandbits(32),
            )
            for at in range(-(-case.operations // 6))
            for client in range(case.clients)
        ]

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make the source."""
        fd = await self.actor(clients, 0, history).open(self.source, "w")
        assert fd is not None
        self.written = (await fd.write(0, LENGTH, random.Random(1))).id
        await fd.close()

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """Make the copies of one client."""
        for one in operations:
            path = f"/copy-{actor.name}-{one.to % 3}"
            self.copies[path] = False
            source = await actor.open(self.source, "r", direct=bool(one.fd & 1))
            if source is None:
                continue
            target = await actor.open(path, "w+", direct=bool(one.fd & 2))
            if target is not None:
                done = await (self._through if one.kind == "copy" else self._beside)(source, target, one)
                synced = await target.fsync()
                closed = await target.close()
                self.copies[path] = done and synced.ok and closed.ok
            await source.close()

    async def _through(self, source: Fd, target: Fd, one: Do) -> bool:
        """Read and write, piece by piece. Returns: whether all succeeded."""
        pos = 0
        while True:
            read, data = await source.read(pos, one.length, one.rng)
            if data is None:
                return False
            if not data:
                return pos == LENGTH
            view = memoryview(data)

            async def put(view: memoryview = view, at: int = pos) -> int:
                done = 0
                while done < len(view):
                    done += await target.file.write_iter(IovIter.ubuf(Direction.SOURCE, view[done:]), at + done)
                return done

            if not (await target.call("put", put, pos, read.done)).ok:
                return False
            pos += len(data)

    async def _beside(self, source: Fd, target: Fd, one: Do) -> bool:
        """Let the server copy. Returns: whether all succeeded."""
        pos = 0
        while pos < LENGTH:
            length = min(one.length, LENGTH - pos)
            at = pos

            async def copied(at: int = at, length: int = length) -> int:
                return await target.file.copy_from(source.file, at, at, length)

            op = await target.call("copy", copied, pos, length)
            if not op.ok or not op.result:
                return False
            pos += int(str(op.result))
        return True

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Read each copy by another client than the one that made it; where the server lies, by that one."""
        for path in self.copies:
            index = int(path.split("-")[1].removeprefix("client"))
            auditor = self.auditor(clients, history, index - self.is_honest)
            auditor.is_of[path] = history.is_of(self.source)
            fd = await auditor.open(path, "r")
            if fd is not None:
                await fd.read(0, LENGTH + CELL, random.Random(1))
                await fd.close()

    def judge(self, history: History) -> Iterator[Failure]:
        """Reads of the source found the source; copies are it."""
        for op in history.of("read"):
            failure = self._judge(op)
            if failure is not None:
                yield failure

    def _judge(self, op: Op) -> Failure | None:
        if not op.ok or op.pos % CELL or (op.file != self.source and op.file not in self.copies):
            return None
        runs = ", ".join(f"{run.count} cells of #{run.op} ({run.cause.value})" for run in op.seen)
        whole = self.copies.get(op.file, True)
        fine = all(run.cause is Cause.GOOD and run.op in {HOLE, self.written} for run in op.seen)
        if not fine or (whole and any(not run.op for run in op.seen)):
            return Failure("U1 wrong copy", f"{op} found {runs}")
        want = min(op.length, max(0, LENGTH - op.pos))
        if whole and op.done != want:
            return Failure("U1 short copy", f"{op} found {op.done} bytes where {want} are")
        return None
