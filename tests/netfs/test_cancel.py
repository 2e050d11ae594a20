"""Every file operation, cancelled at its first, second, … last checkpoint: nothing stays lent and the next operation works."""

import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from netfs.fs.client import Client
from netfs.fs.file import File
from tests.netfs.loop import LoopTransport
from tests.netfs.test_fsx import Setup, make

SIZE = 20_000
OLD = random.Random(1).randbytes(SIZE)
NEW = random.Random(2).randbytes(SIZE)
SETUPS = {
    "plain": Setup(2048, 2048, folio=1024, folios=16),
    "blocks": Setup(2048, 2048, folio=1024, folios=16, block=1024),
}
Op = Callable[[Client, File], Awaitable[object]]


async def write_twice(file: File, data: bytes) -> None:
    await file.pwritev([data[:5000]], 300)
    await file.pwritev([data[5000:]], 5300)


async def _write_fsync(_: Client, file: File) -> None:
    await file.pwritev([NEW[300:9000]], 300)
    await file.fsync()


async def _open_read(client: Client, file: File) -> None:
    async with await client.open("/file", direct=file.direct) as other:
        await other.read(3000, 500)


async def _write_close(_: Client, file: File) -> None:
    await file.pwritev([NEW[300:9000]], 300)
    await file.aclose()


async def _write_sync(client: Client, file: File) -> None:
    async with await client.open("/file", "r+", direct=file.direct, sync=True) as other:
        await other.pwritev([NEW[300:9000]], 300)


async def _barrier(_: Client, file: File) -> None:
    await file.pwritev([NEW[300:5000]], 300)
    await file.barrier()
    await file.pwritev([NEW[4000:9000]], 4000)
    await file.fsync()


async def _map_read(client: Client, file: File) -> None:
    async with await client.open("/file") as other:
        for pos in range(0, SIZE, 1000):
            async with other.mapped(pos, 1000) as view:
                assert view == OLD[pos : pos + len(view)]


async def _map_write(client: Client, file: File) -> None:
    async with await client.open("/file", "r+") as other, other.mapped(3000, 700, write=True) as view:
        view[:] = NEW[3000 : 3000 + len(view)]
        await trio.lowlevel.checkpoint()


OPS: dict[str, Op] = {
    "write sync": _write_sync,
    "barrier between writes": _barrier,
    "map and read": _map_read,
    "map and write": _map_write,
    "read": lambda _, f: f.preadv([bytearray(7000), bytearray(6000)], 100),
    "read all": lambda _, f: f.read(),
    "write": lambda _, f: f.pwritev([NEW[300:9000]], 300),
    "write blocks": lambda _, f: f.pwritev([NEW[2048:8192]], 2048),
    "write and fsync": _write_fsync,
    "write twice": lambda _, f: write_twice(f, NEW[300:10300]),
    "punch": lambda _, f: f.punch(300, 8700),
    "allocate": lambda _, f: f.allocate(0, SIZE),
    "copy within": lambda _, f: f.copy_from(f, 12_000, 300, 5000),
    "truncate": lambda _, f: f.truncate(3000),
    "open and read": _open_read,
    "close": _write_close,
}


COMES = {"punch": bytes(SIZE), "copy within": OLD[:300] + OLD[12_000:17_000] + OLD[5300:]}
"""What the file holds after operations that do not write NEW."""


class CancelAt(trio.abc.Instrument):
    """Cancels a scope after the task that runs it has taken `k` steps."""

    def __init__(self, k: int, scope: trio.CancelScope) -> None:
        self.left = k
        self.scope = scope
        self.task = trio.lowlevel.current_task()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def settle(transport: LoopTransport) -> None:
    while transport.in_flight:
        await trio.lowlevel.checkpoint()


async def run(setup: Setup, name: str, k: int, *, direct: bool, cold: bool, stubborn: bool) -> bool:
    """Run one operation, cancelled after `k` steps. Returns: whether it was."""
    store, new_client, transport = make(setup, 0)
    transport.stubborn = stubborn
    client = new_client()
    async with await client.open("/file", "w") as file:
        await file.write(OLD)
    if cold:
        client.drop_caches()
    file = await client.open("/file", "r+", direct=direct)
    with trio.CancelScope() as scope:
        instrument = CancelAt(k, scope)
        if not k:
            scope.cancel()
        trio.lowlevel.add_instrument(instrument)
        await OPS[name](client, file)
    trio.lowlevel.remove_instrument(instrument)
    if direct and name not in {"close", "truncate", "open and read", "write sync", "map and read", "map and write"}:
        assert transport.in_flight == 0, "a direct operation left something in flight"
    await settle(transport)
    assert client._pool.leased == 0
    for folio in client._inodes[file._inode.handle].mapping.folios.values():
        assert not (folio.pins or folio.locked or folio.writeback)
    lock = file._inode.lock
    assert not (lock.shared or lock.exclusive or lock.wanted or file._inode.wb_lock)

    async with await client.open("/file", "r+", direct=not direct) as other:
        data = await other.read()
        if not k:
            assert data == OLD
        if "truncate" in name:
            assert data in {OLD, OLD[:3000]}
        else:
            # A prefix of each write may have happened, nothing else.
            assert len(data) == SIZE
            then = COMES.get(name, NEW)
            assert all(got in (old, new) for got, old, new in zip(data, OLD, then, strict=True))
            assert data[:300] == OLD[:300] and data[10300:] == OLD[10300:]
        await other.pwritev([b"next"], 17)
        assert await other.read(6, 16) == data[16:17] + b"next" + data[21:22]
    await file.aclose()
    await client.aclose()
    store.close()
    return scope.cancelled_caught


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("setup", SETUPS)
def test_cancel_at_every_checkpoint(setup: str, name: str, direct: bool, cold: bool, stubborn: bool) -> None:
    async def main() -> None:
        k = 0
        while await run(SETUPS[setup], name, k, direct=direct, cold=cold, stubborn=stubborn):
            k += 1
            assert k < 1000
        assert k, "an operation without a checkpoint"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
