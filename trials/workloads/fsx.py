"""Trio shell. Scenario `fsx`: random operations on one file by several clients in turn, each with several descriptors.

After the fsx of BSD and Linux: whatever is read must be what the oracle holds (`bytes_model.py`), to the byte, at any size and
alignment. A client that takes its turn opens the file when the one before has closed it: close-to-open. Scenario `own-files`:
each client does the same to a file of its own, all at once. Owns no memory.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from netfs.fs.client import Client
from trials.cells import content, parse
from trials.faults.catalogue import row_of
from trials.history import Failure, History
from trials.workloads.actor import Actor, Fd
from trials.workloads.base import Do, Operation, Scenario
from trials.workloads.bytes_model import BytesModel

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["Fsx", "OwnFiles"]

MOST: Final = 96 << 10
"""Bytes of the file."""
SIZES: Final = (1, 100, 1000, 4096, 4097, 9000, 16384, 30_000)
KINDS: Final[dict[str, int]] = {
    "read": 26, "write": 26, "append": 5, "truncate": 6, "punch": 4, "allocate": 2, "copy": 4, "fsync": 8, "reopen": 5, "drop": 4,
    "race": 6,
}  # fmt: skip
MODES: Final = (("r+", False), ("r+", False), ("r+", True), ("a+", False))
"""How the descriptors are open: mode, direct."""
TRIES: Final = 6
PAUSE_S: Final = 10.0
STICKY: Final = 0.85


def draw(rng: random.Random, client: int) -> Do:
    """Draw one operation."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    length = rng.choice(SIZES)
    pos = rng.randrange(MOST - length)
    if rng.random() < 0.3:
        pos = pos // 4096 * 4096
    return Do(client, kind, rng.randrange(3), pos, length, rng.randrange(MOST - length), rng.getrandbits(32))


class SharedFile:
    """One file with its oracle, and the descriptors of the client whose turn it is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.model = BytesModel()
        self.fds: list[Fd | None] = [None] * len(MODES)
        self.actor: Actor | None = None
        self.blind = False
        self.crashes = 0
        self.failing = False
        self.honest = True

    async def turn(self, actor: Actor) -> None:
        """Let an actor have its turn: the one before closes its descriptors."""
        if self.actor is not None and self.actor is not actor:
            await self.leave()
            self.blind = self.blind or not self.honest
        self.actor = actor

    async def leave(self) -> None:
        """Close all, and have what is dirty safe, for another client is next. What cannot be made safe ends the comparing."""
        for index, fd in enumerate(self.fds):
            if fd is not None:
                self.fds[index] = None
                await self.settle(await fd.close())
        for _ in range(TRIES):
            if not self.model.unsafe or self.actor is None:
                return
            # An error was told, so the data may be lost; what is left of it must not come later, into what the next one writes.
            fd = await self.actor.open(self.path, "r+")
            if fd is not None:
                synced = await fd.fsync()
                closed = await fd.close()
                if synced.ok and closed.ok:
                    self.model.made_safe()
                    return
            await trio.sleep(PAUSE_S)
        self.blind = True

    async def settle(self, op: object) -> None:
        """Take what an fsync or a close has said."""
        await trio.lowlevel.checkpoint()
        if getattr(op, "ok", False):
            self.model.made_safe()
        else:
            self.model.may_have_lost()

    async def fd(self, index: int) -> Fd | None:
        """Return a descriptor, opened if need be."""
        assert self.actor is not None
        found = self.fds[index]
        if found is None:
            mode, direct = MODES[index]
            found = self.fds[index] = await self.actor.open(self.path, mode, direct=direct)
            if found is not None:
                self.compare_size(found)
        return found

    def look(self) -> None:
        """Notice that the server has crashed: until the next good fsync, what was not safe may not be there.

        Where storage fails, that may be so at any time: a writeback that failed is told by the next fsync or close.
        """
        assert self.actor is not None
        crashes = sum(mark.kind == "crash" for mark in self.actor.history.marks)
        if crashes != self.crashes or (self.failing and self.model.unsafe):
            self.crashes = crashes
            self.model.may_have_lost()

    def compare_size(self, fd: Fd) -> None:
        """Compare the size a descriptor tells."""
        self.look()
        least, most = self.model.sizes
        if not self.blind and not least <= fd.file.size <= most:
            self.wrong(f"opened with {fd.file.size} bytes, not {least}" + (f" to {most}" if most > least else ""))

    def wrong(self, what: str) -> None:
        """Note that the file is not as it should be."""
        assert self.actor is not None
        self.actor.history.wrong("U1 wrong bytes", f"{self.path}, {self.actor.name} @{self.actor.history.now():.6f}: {what}")

    async def do(self, one: Do) -> None:
        """Do one operation and compare."""
        self.look()
        fd = await self.fd(one.fd)
        if fd is not None:
            await getattr(self, f"do_{one.kind}")(one, fd)

    async def do_read(self, one: Do, fd: Fd) -> None:
        """Read and compare."""
        op, got = await fd.read(one.pos, one.length, one.rng, named=False)
        if got is not None and not self.blind:
            self.differs(one.pos, one.length, got, str(op))

    def differs(self, pos: int, length: int, got: bytearray, what: str) -> None:
        """Complain if a read gave what it must not."""
        self.look()
        # A part of a read that fails ends it there; the next read is told why.
        found = self.model.check(pos, len(got) if self.failing else length, got)
        if isinstance(found, int):
            cell = found // 16 * 16
            here = bytes(got[max(0, cell - pos) :][:16])
            told = (
                f"byte {found:#x} is {got[found - pos]:#04x}, not {(bytes(self.model.data[found : found + 1]) or b'?')[0]:#04x}"
            )
            assert self.actor is not None
            names = [run for run in parse(here, cell // 16) if cell >= pos and run.op >= 0]
            if names:
                told += f"; it is of {self.actor.history.op(names[0].op)}" if names[0].op else "; it is in a hole"
            self.wrong(f"{what}: {told}")
        elif found is not None:
            self.wrong(f"{what}: {found}")

    async def do_write(self, one: Do, fd: Fd) -> None:
        """Write."""
        op = await fd.write(one.pos, one.length, one.rng)
        data = bytes(content(op.id, one.pos, one.length))
        if op.ok:
            self.model.put(one.pos, data)
        else:
            self.model.may_have_put(one.pos, data)
            self.model.may_have_lost()

    async def do_append(self, one: Do, fd: Fd) -> None:
        """Append, where the end is known."""
        if not await self.know_size(fd) or len(self.model.data) + one.length > MOST:
            return
        appender = await self.fd(3)
        if appender is None or not self.model.sure:
            return  # a crash beside the open: the end is where the server says
        op = await appender.append(one.length, one.rng)
        data = bytes(content(op.id, 0, one.length))
        if op.ok:
            self.model.put(len(self.model.data), data)
        else:
            self.model.may_have_put(len(self.model.data), data)
            self.model.may_have_lost()

    async def know_size(self, fd: Fd) -> bool:
        """Say whether the size is known; if it is not, try to make it so."""
        if not self.model.sure and not self.blind:
            await self.resize(fd, len(self.model.data))
        return self.model.sure

    async def do_truncate(self, one: Do, fd: Fd) -> None:
        """Cut or extend."""
        await self.resize(fd, one.to)

    async def resize(self, fd: Fd, size: int) -> None:
        """Truncate and note it."""
        if await self.change(fd, "truncate", lambda: fd.file.truncate(size), size, 0):
            self.model.resize(size)
        else:
            self.model.may_have_resized(size)
            self.model.may_have_lost()

    async def change(self, fd: Fd, kind: str, act: Callable[[], Awaitable[object]], pos: int, length: int) -> bool:
        """Do something that changes the file. Returns: whether it succeeded."""
        return (await fd.call(kind, act, pos, length)).ok

    async def do_punch(self, one: Do, fd: Fd) -> None:
        """Punch a hole."""
        end = min(one.pos + one.length, len(self.model.data))
        if not await self.know_size(fd) or end <= one.pos:
            return
        if await self.change(fd, "punch", lambda: fd.file.punch(one.pos, one.length), one.pos, one.length):
            self.model.put(one.pos, bytes(end - one.pos))
        else:
            self.model.may_have_put(one.pos, bytes(end - one.pos))
            self.model.may_have_lost()

    async def do_allocate(self, one: Do, fd: Fd) -> None:
        """Allocate space, which extends the file at most."""
        end = one.pos + one.length
        ok = await self.change(fd, "allocate", lambda: fd.file.allocate(one.pos, one.length), one.pos, one.length)
        if ok and end > len(self.model.data):
            self.model.resize(end)
        elif not ok:
            self.model.may_have_resized(max(end, len(self.model.data)))

    async def do_copy(self, one: Do, fd: Fd) -> None:
        """Copy a range on the server to another place of the file."""
        data = bytes(self.model.data[one.pos : one.pos + one.length])
        if self.model.doubts or not data or abs(one.pos - one.to) < one.length:
            return
        act = lambda: fd.file.copy_from(fd.file, one.pos, one.to, one.length)  # noqa: E731
        if await self.change(fd, "copy", act, one.to, one.length):
            self.model.put(one.to, data)
        else:
            self.model.may_have_put(one.to, data)
            self.model.may_have_lost()

    async def do_fsync(self, one: Do, fd: Fd) -> None:
        """Make it safe."""
        del one
        await self.settle(await fd.fsync())

    async def do_reopen(self, one: Do, fd: Fd) -> None:
        """Close and open again, at the next use."""
        self.fds[one.fd] = None
        await self.settle(await fd.close())

    async def do_drop(self, one: Do, fd: Fd) -> None:
        """Forget what is cached."""
        del one
        fd.actor.client.drop_caches()
        await trio.lowlevel.checkpoint()

    async def do_race(self, one: Do, fd: Fd) -> None:
        """Read by another descriptor while this one writes: each byte is the old or the new one."""
        other = await self.fd((one.fd + 1) % 3)
        if other is None or not await self.know_size(fd):
            return
        before = bytes(self.model.data)
        found: list[bytearray | None] = []

        async def read() -> None:
            found.append((await other.read(one.pos, one.length, one.rng, named=False))[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await self.do_write(one, fd)
        got = found[0]
        if got is None or self.blind:
            return
        self.look()  # the server may have crashed meanwhile
        least = min(len(before), self.model.least)
        both = BytesModel(bytearray(self.model.data), doubts=[*self.model.doubts, (0, before)], least=least)
        both.doubts.append((len(before), bytes(max(0, len(both.data) - len(before)))))
        both.most = self.model.most
        wrong = both.check(one.pos, len(got) if self.failing else one.length, got)
        if wrong is not None:
            self.wrong(f"a read beside a write of [{one.pos:#x}, {one.pos + one.length:#x}) found {wrong}, neither old nor new")

    async def audit(self, auditors: Sequence[Actor]) -> None:
        """Compare the whole file through other descriptors."""
        if self.blind:
            return
        for auditor in auditors:
            for direct in (False, True):
                self.actor = auditor
                fd = await auditor.open(self.path, "r", direct=direct)
                if fd is None:
                    continue
                self.compare_size(fd)
                op, got = await fd.read(0, MOST + 5, random.Random(1), named=False)
                await fd.close()
                if got is not None:
                    self.differs(0, MOST + 5, got, str(op))


class Fsx(Scenario):
    """One file, the clients in turn. See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[int, SharedFile] = {}

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw runs of operations of one client and then of another."""
        self.case = case
        drawn: list[Do] = []
        client = 0
        for _ in range(case.operations * case.clients):
            if rng.random() > STICKY:
                client = rng.randrange(case.clients)
            drawn.append(draw(rng, client))
        return drawn

    def file(self, client: int) -> SharedFile:
        """Return the file a client works on."""
        del client
        return self.files.setdefault(0, SharedFile("/fsx"))

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make the files, with something in them."""
        for index in range(len(clients)):
            file = self.file(index)
            if file.model.data:
                continue
            assert self.case.plan is not None
            file.honest = self.is_honest
            file.failing = any(row_of(fault.id).site in {"store", "tamper", "nonces"} for fault in self.case.plan)
            actor = self.actor(clients, index, history)
            fd = await actor.open(file.path, "w+")
            assert fd is not None
            op = await fd.write(0, 20_000, random.Random(1))
            file.model.put(0, bytes(content(op.id, 0, 20_000)))
            await file.settle(await fd.close())

    async def run(self, clients: Sequence[Client], operations: Sequence[Operation], history: History) -> None:
        """Do the operations one after another, whoever's they are."""
        file = self.file(0)
        for one in operations:
            assert isinstance(one, Do)
            await file.turn(self.actor(clients, one.client, history))
            await file.do(one)
        await file.leave()

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Compare the files through two clients; where the server lies, through the one that wrote."""
        for file in self.files.values():
            writer = [client for client, actor in self._actors.items() if actor is file.actor]
            await file.audit([self.auditor(clients, history, index) for index in ([-1, 0] if self.is_honest else writer)])

    def check(self, history: History) -> Failure | None:
        """Judge; reads were compared on the spot."""
        return history.failures[0] if history.failures else self.zones.check()


class OwnFiles(Fsx):
    """A file for each client, all at once. See the module."""

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw the operations of each client."""
        self.case = case
        return [draw(rng, client) for _ in range(case.operations) for client in range(case.clients)]

    def file(self, client: int) -> SharedFile:
        """Return the file a client works on."""
        return self.files.setdefault(client, SharedFile(f"/own-{client}"))

    async def run(self, clients: Sequence[Client], operations: Sequence[Operation], history: History) -> None:
        """Let each client do its operations, all clients at once."""
        await Scenario.run(self, clients, operations, history)

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """Do the operations of one client."""
        if not operations:
            return
        file = self.file(operations[0].client)
        await file.turn(actor)
        for one in operations:
            await file.do(one)
        await file.leave()
