"""The oracle: a bytearray that sees the same operations, and the run that compares."""

import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio

from netfs.fs.client import Client
from netfs.fs.file import File
from servers.stores.memory import MemoryStore
from tests.netfs.fsx.ops import DESCRIPTORS, Op, content, draw
from tests.netfs.fsx.worlds import Setting, Stage

__all__ = ["Difference", "NewStore", "run_ops", "run_random", "write_log"]

NewStore = Callable[[], MemoryStore]
PATH = "/model"
NO_CACHE = frozenset({"spoil", "fault"})


class Difference(AssertionError):
    """The file is not what the oracle says, or an operation failed that must not. ops: all up to the one that showed it."""

    def __init__(self, setting: Setting, ops: Sequence[Op], why: str) -> None:
        super().__init__(f"after {len(ops)} operations, {ops[-1] if ops else 'at the start'}: {why}")
        self.setting = setting
        self.ops = list(ops)


@dataclass
class Model:
    """A file, its oracle, and the client that has it open."""

    stage: Stage
    data: bytearray
    turn: int = 0
    files: list[File] = field(default_factory=list)

    @property
    def client(self) -> Client:
        return self.stage.clients[self.turn]

    async def open_all(self) -> None:
        for how in DESCRIPTORS:
            mode, _, direct = how.partition(" ")
            self.files.append(await self.client.open(PATH, mode, direct=bool(direct)))
            assert self.files[-1].size == len(self.data), f"opened with {self.files[-1].size} bytes, not {len(self.data)}"

    async def close_all(self) -> None:
        while self.files:
            await self.files.pop().aclose()

    async def do(self, op: Op) -> None:
        """Do one operation and compare."""
        await getattr(self, f"do_{op.kind}")(op)

    # ---- reading and writing

    def differs(self, got: bytes | bytearray | memoryview, pos: int, expected: bytes | bytearray) -> None:
        if got == expected:
            return
        assert len(got) == len(expected), f"{len(got)} bytes at {pos:#x}, not {len(expected)}"
        at = next(n for n, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b)
        raise AssertionError(f"byte {pos + at:#x} is {got[at]:#x}, not {expected[at]:#x}")

    async def do_read(self, op: Op) -> None:
        pos, length = op["pos"], op["length"]
        half = bytearray(length // 2), bytearray(length - length // 2)
        count = await self.files[op["fd"]].preadv(half, pos)
        self.differs(b"".join(half)[:count], pos, self.data[pos : pos + length])

    async def do_mapread(self, op: Op) -> None:
        """Read page by page, as one does who has the file mapped."""
        first, end = op["pos"] & ~0xFFF, op["pos"] + op["length"]
        for pos in range(first, end, 0x1000):
            self.differs(await self.files[op["fd"]].read(0x1000, pos), pos, self.data[pos : pos + 0x1000])

    def wrote(self, pos: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, pos - len(self.data))))
        self.data[pos : pos + len(data)] = data

    async def do_write(self, op: Op) -> None:
        data = content(op["tag"], op["length"])
        cut = op["tag"] % (len(data) + 1)
        assert await self.files[op["fd"]].pwritev([data[:cut], data[cut:]], op["pos"]) == len(data)
        self.wrote(op["pos"], data)

    async def do_append(self, op: Op) -> None:
        data = content(op["tag"], op["length"])
        assert await self.files[3].write(data) == len(data)
        self.wrote(len(self.data), data)

    async def do_race(self, op: Op) -> None:
        """Read while another descriptor writes: each byte is the old or the new one."""
        before = bytes(self.data)
        pos, length = op["other_pos"], op["other_length"]
        buffer = bytearray(length)
        counts: list[int] = []

        async def read() -> None:
            counts.append(await self.files[op["other"]].preadv([buffer], pos))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await self.do_write(op)
        count = counts[0]
        assert len(before[pos : pos + length]) <= count <= len(self.data[pos : pos + length]), f"{count} bytes at {pos:#x}"
        old = before[pos : pos + length].ljust(length, b"\0")
        for at in range(count):
            if buffer[at] not in (old[at], self.data[pos + at]):
                raise AssertionError(f"byte {pos + at:#x} is {buffer[at]:#x}, neither {old[at]:#x} nor {self.data[pos + at]:#x}")

    async def do_copy(self, op: Op) -> None:
        """Copy on the server, or through the client where the ranges overlap."""
        pos, length, to = op["pos"], op["length"], op["other_pos"]
        data = bytes(self.data[pos : pos + length])
        target = self.files[op["other"]]
        if abs(pos - to) < length:
            count = await target.pwritev([await self.files[op["fd"]].read(length, pos)], to)
        else:
            count = await target.copy_from(self.files[op["fd"]], pos, to, length)
        assert count == len(data), f"{count} bytes copied, not {len(data)}"
        if data:
            self.wrote(to, data)

    # ---- size and holes

    async def do_truncate(self, op: Op) -> None:
        size = op["size"]
        await self.files[op["fd"]].truncate(size)
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    async def do_punch(self, op: Op) -> None:
        pos, length = op["pos"], op["length"]
        await self.files[op["fd"]].punch(pos, length)
        end = min(pos + length, len(self.data))
        self.data[pos:end] = bytes(max(0, end - pos))

    async def do_allocate(self, op: Op) -> None:
        pos, length, keep_size = op["pos"], op["length"], op["tag"] % 2 == 0
        await self.files[op["fd"]].allocate(pos, length, keep_size=keep_size)
        if not keep_size:
            self.data.extend(bytes(max(0, pos + length - len(self.data))))

    # ---- what must change nothing

    async def do_fsync(self, op: Op) -> None:
        await self.files[op["fd"]].fsync()

    async def do_barrier(self, op: Op) -> None:
        await self.files[op["fd"]].barrier()

    async def do_reopen(self, op: Op) -> None:
        fd = op["fd"]
        mode, _, direct = DESCRIPTORS[fd].partition(" ")
        await self.files[fd].aclose()
        self.files[fd] = await self.client.open(PATH, mode, direct=bool(direct))
        assert self.files[fd].size == len(self.data)

    async def do_drop(self, op: Op) -> None:
        del op
        self.client.drop_caches()

    async def do_switch(self, op: Op) -> None:
        """Close-to-open: what one client closed is what the other opens."""
        del op
        await self.close_all()
        self.turn ^= 1
        await self.open_all()

    async def do_spoil(self, op: Op) -> None:
        self.stage.spoil(op["tag"])

    async def do_fault(self, op: Op) -> None:
        self.stage.fault(op["tag"])

    async def check(self) -> None:
        """Compare the whole file, as it was closed, through both clients."""
        await self.close_all()
        for client in self.stage.clients:
            for direct in (False, True):
                async with await client.open(PATH, direct=direct) as file:
                    self.differs(await file.read(), 0, self.data)
            cache = client.page_cache
            assert cache.used_bytes <= cache.budget, f"{cache.used_bytes} bytes in a page cache of {cache.budget}"
            assert cache.held_bytes == 0 and not cache.holders, "something is held after everything was closed"


async def run_random(setting: Setting, seed: int, count: int, new_store: NewStore = MemoryStore) -> None:
    """Draw and do operations. Raises: Difference."""
    rng = random.Random(f"{seed} {setting}")
    done: list[Op] = []

    def more(size: int) -> Op | None:
        if len(done) == count:
            return None
        left_out = NO_CACHE if setting.cache == "off" else frozenset[str]()
        return draw(rng, size, setting.most, setting.longest, left_out)

    await _run(setting, more, done, new_store())


async def run_ops(setting: Setting, ops: Sequence[Op], new_store: NewStore = MemoryStore) -> None:
    """Do operations that were kept. Raises: Difference."""
    rest = list(ops)
    await _run(setting, lambda _: rest.pop(0) if rest else None, [], new_store())


async def _run(setting: Setting, more: Callable[[int], Op | None], done: list[Op], store: MemoryStore) -> None:
    data = bytearray()
    with tempfile.TemporaryDirectory(prefix="netfs-model-") as folder:
        async with AsyncExitStack() as stack:
            model: Model | None = None
            try:
                while True:
                    if model is None:
                        stage = await stack.enter_async_context(Stage.set_up(setting, Path(folder), store))
                        if not done:
                            async with await stage.clients[0].open(PATH, "x"):
                                pass
                        model = Model(stage, data)
                        await model.open_all()
                    op = more(len(data))
                    if op is None:
                        break
                    done.append(op)
                    if op.kind == "restart":
                        await model.check()
                        model = None
                        await stack.aclose()
                    else:
                        await model.do(op)
                await model.check()
            except Exception as error:
                raise Difference(setting, done, f"{type(error).__name__}: {error}") from error
    store.close()


def write_log(difference: Difference, seed: int) -> Path:
    """Keep the operations of a difference. Returns: the file to replay."""
    with tempfile.NamedTemporaryFile("w", prefix=f"fsx-{seed}-", suffix=".ops", encoding="ascii", delete=False) as file:
        file.write(f"# {difference.setting}\n")
        file.writelines(f"{op}\n" for op in difference.ops)
        return Path(file.name)
