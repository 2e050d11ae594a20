"""Defects netfslib once had, second part: those that need an order of events, and a watch over the sizes at every step.

The list of all, with the tests that hold them, is in `test_trap_list.py`.
"""

import errno
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing

from netfs.engine.inode import NetfsInode
from netfs.engine.writeback import flush_range
from netfs.fs.client import Client
from netfs.fs.file import File
from tests.netfs.fsx.model import run_ops
from tests.netfs.fsx.ops import parse
from tests.netfs.fsx.worlds import Setting
from tests.netfs.memory_cookie import MemoryCookie
from tests.netfs.mount import DATA, FaultyTransport, get, mounted, put
from tests.netfs.scripted import FULL, Answer, Run, ScriptedOps
from tests.netfs.sealed_world import World, in_world
from tests.netfs.sealed_world import get as get_sealed
from tests.netfs.sealed_world import put as put_sealed
from transport.base import Reply
from transport.messages import Commit, Read, Request, Write

PART = 8
FILE = bytes(range(1, 41))

REPORT = """
write 0 0x0 0x82864 82864
truncate 0 0x1bbae
write 0 0x3ef2e 0xf9c8 1
write 0 0x67e05 0xcb5a 2
mapread 0 0x57781 0x85b6
copy 1 0x5d3d 0x10329 0 0x54fac
write 0 0x64710 0x1c2b 3
mapread 1 0x64000 0x1000
"""


@pytest.mark.parametrize("cache", ["off", "active"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("transport", ["stream", "rdma-memory"])
def test_trap_1_the_operations_of_the_zero_point_report(transport: str, encrypted: bool, cache: str) -> None:
    """Truncate, writes behind holes, a read, a copied range, a write, a read of the gap: word for word."""
    ops = [parse(line) for line in REPORT.split("\n") if line]
    for budget in (1 << 16, 1 << 20):
        setting = Setting.parse(
            f"transport={transport} encrypted={encrypted:d} cache={cache} rsize={1 << 16} wsize={1 << 16} budget={budget}"
        )
        trio.run(run_ops, setting, ops)


class Watch(trio.abc.Instrument):
    """Looks, after every step of any task, whether the sizes of a file can be true: the server's is never ahead of what the user
    sees, and while nothing is on its way what lies at the zero point and behind it is zero on the server.
    """

    def __init__(self, transport: FaultyTransport, inode: NetfsInode) -> None:
        self.transport = transport
        self.inode = inode
        self.looked = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        sizes = self.inode.sizes
        assert sizes.remote_i_size <= sizes.i_size
        lock = self.inode.lock
        if not (self.inode.requests or lock.shared or lock.exclusive):
            content = self.transport.content(self.inode.handle)  # type: ignore[attr-defined]
            assert not any(content[sizes.zero_point :]), "data on the server behind the zero point"
            self.looked += 1


@contextmanager
def watched(transport: FaultyTransport, file: File) -> Iterator[Watch]:
    watch = Watch(transport, file._inode)
    trio.lowlevel.add_instrument(watch)
    try:
        yield watch
    finally:
        trio.lowlevel.remove_instrument(watch)


@pytest.mark.parametrize("seed", range(4))
async def test_trap_11_the_sizes_are_true_at_every_step(seed: int) -> None:
    rng = random.Random(seed)
    async with mounted(rsize=2000, wsize=1500, folio=1024, folios=16) as (client, transport):
        await put(client, "/f", DATA[:5000])
        async with await client.open("/f", "r+") as file, await client.open("/f", "r+", direct=True) as direct:
            with watched(transport, file) as watch:
                for _ in range(90):
                    one = rng.choice([file, direct])
                    pos, length = rng.randrange(20_000), rng.randrange(1, 4000)
                    match rng.randrange(5):
                        case 0:
                            await one.truncate(pos)
                        case 1:
                            await one.read(length, pos)
                        case 2:
                            await file.fsync()
                        case _:
                            await one.pwritev([b"x" * length], pos)
            assert watch.looked > 30


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_trap_6_every_mixture_of_ends_inside_the_issue_and_later(write: bool) -> None:
    """Each of five parts ends inside its issue, or later in every order: none is collected early, no wake-up is lost."""
    for inside in itertools.product([False, True], repeat=5):
        later = [part for part in range(5) if not inside[part]]
        for order in itertools.permutations(later) if not write else [tuple(later)]:
            ops = ScriptedOps(PART, FILE, {})

            def at_issue(_: object, ops: ScriptedOps = ops, inside: tuple[bool, ...] = inside) -> None:
                if inside[ops.pending[-1][0].start // PART]:
                    ops.end(len(ops.pending) - 1, write=write)

            ops.on_issue = at_issue
            run = Run(ops, write=write, parts=5)
            run.start()
            for part in order:
                assert not run.woken
                ops.end([subreq.start // PART for subreq, _ in ops.pending].index(part), write=write)
            assert run.woken == 1 and run.rreq.transferred == 5 * PART and not run.rreq.in_flight


@pytest.mark.parametrize("in_flight", [1, 2, 3, 5])
def test_trap_7_nothing_is_issued_after_a_failure_anywhere(in_flight: int) -> None:
    """Whichever part fails, and in whatever order they end: from then on no part is issued."""
    for failing, seed in itertools.product(range(5), range(10)):
        ops = ScriptedOps(PART, FILE, {(failing, 0): Answer(0, error=OSError(errno.EIO, "broken"))}, in_flight=in_flight)
        run = Run(ops, parts=5)
        run.start()
        rng = random.Random(seed)
        issued: dict[int, int] | None = None
        while ops.pending:
            index = rng.randrange(len(ops.pending))
            fails = ops.pending[index][0].start // PART == failing
            ops.end(index, write=False)
            issued = dict(ops.issues) if fails else issued
            assert issued is None or ops.issues == issued
        assert issued is not None and run.rreq.transferred == failing * PART


@pytest.mark.parametrize("kind", ["front", "middle", "tail", "all", "none"])
async def test_trap_9_a_cut_through_a_streaming_write(kind: str) -> None:
    """The dirty record is the dirty bytes less what was cut off; without any the folio is clean."""
    size = {"front": 4300, "middle": 4700, "tail": 4990, "all": 4100, "none": 6000}[kind]
    async with mounted(folio=4096, folios=32) as (client, _):
        await put(client, "/f", DATA[:9000])
        client.drop_caches()
        async with await client.open("/f", "r+") as file:
            await file.pwritev([b"s" * 500], 4500)
            inode = file._inode
            # Between the write and the cut: nothing of it is sent.
            folio = inode.mapping.folios[4096 // inode.mapping.unit]
            assert (folio.pos, folio.dirty_from, folio.dirty_to) == (4096, 404, 904) and not folio.uptodate
            folio.cut(size - 4096)
            left = max(0, min(904, size - 4096) - 404)
            assert folio.dirty_to - folio.dirty_from == left and folio.dirty is bool(left)
            assert not any(folio.memory[max(0, size - 4096) : 4096])
            inode.cache.update(folio)
            await file.truncate(size)
            model = bytearray(DATA[:9000])
            model[4500:5000] = b"s" * 500
            assert await file.read(pos=0) == model[:size]


@pytest.mark.parametrize("pos", [4096, 4400, 4600, 5000, 8000])
async def test_trap_10_a_read_of_what_is_being_written(pos: int) -> None:
    """While a streaming write is on its way the gaps around it are read, and the bytes themselves at once."""
    async with mounted(folio=4096, folios=32) as (client, transport):
        await put(client, "/f", DATA[:9000])
        client.drop_caches()
        async with await client.open("/f", "r+") as file:
            await file.pwritev([b"s" * 500], 4500)
            model = bytearray(DATA[:9000])
            model[4500:5000] = b"s" * 500
            transport.hold = lambda request: isinstance(request, Write)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flush_range, file._inode, 0, 9000)
                await trio.testing.wait_all_tasks_blocked()
                assert file._inode.mapping.writeback
                got: list[bytes] = []

                async def read() -> None:
                    got.append(await file.read(300, pos))

                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                if pos >= 4500 and pos + 300 <= 5000:
                    assert got
                transport.let_go()
            assert got == [model[pos : pos + 300]]
            assert await file.read(pos=0) == model


async def credits_are_back(client: Client, transport: FaultyTransport, request: type, code: int) -> None:
    """Have one kind of request fail, at each of its first occurrences, in reads and writes of both kinds."""
    for nth, direct in itertools.product(range(3), (False, True)):
        left = [nth]

        def fault(asked: Request, left: list[int] = left) -> Reply | None:
            if isinstance(asked, request):
                left[0] -= 1
                if left[0] == -1:
                    return Reply(code)
            return None

        transport.fault = fault
        file = await client.open("/f", "r+", direct=direct)
        for action in (partial(file.read, 9000, 0), partial(file.pwritev, [DATA[:9000]], 0), file.fsync, file.aclose):
            with suppress(OSError):
                await action()
            client.drop_caches()
        transport.fault = None
        while transport.in_flight:
            await trio.lowlevel.checkpoint()
        inode = file._inode
        assert not inode.requests and not inode.wb_lock
        assert not (inode.lock.shared or inode.lock.exclusive)
        assert client._pool.leased == 0


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EAGAIN])
@pytest.mark.parametrize("request_type", [Read, Write, Commit])
async def test_trap_15_nothing_is_held_after_any_error(request_type: type, code: int, autojump_clock: object) -> None:
    """Calls in flight are those of subrequests in flight: none when idle, on every path of an error."""
    del autojump_clock
    async with mounted(rsize=2000, wsize=2000, folio=1024, folios=64) as (client, transport):
        await put(client, "/f", DATA[:20_000])
        await credits_are_back(client, transport, request_type, code)
        await put(client, "/f", DATA[:20_000])
        assert await get(client, "/f") == DATA[:20_000]


# ---- runners-up


async def test_a_sync_waits_for_writeback_that_another_task_has_begun() -> None:
    """One who needs the data safe never skips because somebody else has the turn."""
    async with mounted(wsize=1000) as (client, transport):
        async with await client.open("/f", "w+") as file:
            await file.pwritev([DATA[:9000]], 0)
            transport.hold = lambda request: isinstance(request, Write)
            synced: list[bool] = []

            async def sync() -> None:
                await file.fsync()
                synced.append(True)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flush_range, file._inode, 0, 1 << 62)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(sync)
                await trio.testing.wait_all_tasks_blocked()
                assert not synced
                transport.let_go()
            assert synced and transport.content(file._inode.handle) == DATA[:9000]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
async def test_folios_of_a_readahead_that_never_began_are_not_kept(code: int) -> None:
    """The filesystem cannot prepare for the request: no folio stays locked, and the next read works."""
    async with mounted(folio=4096, folios=32) as (client, _):
        await put(client, "/f", DATA[:50_000])
        client.drop_caches()
        async with await client.open("/f") as file:
            ops = file._inode.ops
            init = ops.init_request

            async def refuse(_: object) -> None:
                raise OSError(code, "not now")

            ops.init_request = refuse  # type: ignore[assignment, method-assign]
            with pytest.raises(OSError) as caught:
                await file.read(20_000, 0)
            assert caught.value.errno == code
            assert not any(folio.locked or folio.pins for folio in file._inode.mapping.folios.values())
            assert not file._inode.requests
            ops.init_request = init  # type: ignore[method-assign]
            assert await file.read(pos=0) == DATA[:50_000]


async def test_abandoned_folios_are_unlocked_and_not_uptodate() -> None:
    async with mounted(rsize=4096, folio=4096, folios=32) as (client, transport):
        await put(client, "/f", DATA[:60_000])
        client.drop_caches()
        transport.fault = lambda request: Reply(errno.EIO) if isinstance(request, Read) and request.pos == 8192 else None
        async with await client.open("/f") as file:
            assert await file.read(30_000, 0) == DATA[:8192]
            for folio in file._inode.mapping.every():
                assert (not folio.locked and folio.pos != 8192) or not folio.uptodate
            transport.fault = None
            assert await file.read(pos=0) == DATA[:60_000]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_request_with_nothing_left_for_the_server_still_ends(fails: bool) -> None:
    """The server's stream is over before the cache's, which then fails or does not: the folios are let go, the sync returns."""
    async with mounted() as (client, _):
        await put(client, "/f", DATA[:20_000])
        cookie = MemoryCookie(1024)
        async with await client.open("/f", "r+") as file:
            file._inode.cookie = cookie
            cookie.hold = True
            if fails:
                cookie.fails = [(0, OSError(errno.EIO, "the cache's"))] * 3
            await file.pwritev([DATA[:9216]], 0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.fsync)
                await trio.testing.wait_all_tasks_blocked()
                assert cookie.held and file._inode.mapping.writeback
                cookie.let_go()
            assert not file._inode.mapping.writeback and not file._inode.requests
        assert await get(client, "/f") == DATA[:20_000]


def test_blocks_of_one_folio_are_sealed_by_their_place() -> None:
    """The same bytes at two places of a folio are different on the server, and each opens only where it belongs."""

    async def main(world: World) -> None:
        client = world.client()
        await put_sealed(client, "/f", b"same" * 4096, direct=False)
        stored = world.read(await world.handle("f"))
        blocks = [stored[at : at + 4096] for at in range(0, len(stored), 4096)]
        assert len(blocks) == 4 and len(set(blocks)) == 4
        client.drop_caches()
        assert await get_sealed(client, "/f", direct=False) == b"same" * 4096
        handle = await world.handle("f")
        world.write(handle, 0, blocks[1])
        world.write(handle, 4096, blocks[0])
        with pytest.raises(OSError) as caught:
            await get_sealed(world.client(), "/f", direct=True)
        assert caught.value.errno == errno.EBADMSG

    in_world(main)


def test_said_twice_by_a_filesystem_underneath() -> None:
    for first, second in itertools.product([FULL, Answer(3), Answer(0)], repeat=2):
        ops = ScriptedOps(PART, FILE, {(1, 0): Answer(first.moved, twice=True), (2, 0): second})
        run = Run(ops, parts=3)
        run.start()
        run.finish(random.Random(1))
        assert run.rreq.transferred <= 3 * PART and run.memory[: run.rreq.transferred] == FILE[: run.rreq.transferred]
