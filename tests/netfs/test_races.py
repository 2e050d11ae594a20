"""Two tasks on one file at the moments that matter."""

import errno
import random

import pytest
import trio
import trio.testing

from iov.iov_iter import Direction, IovIter
from netfs.engine.locking import IoLock
from netfs.engine.park import acquire_exclusive, acquire_shared
from netfs.engine.writeback import drop_range, flush_range, start_writeback
from netfs.fs.file import File
from tests.netfs.mount import DATA, FaultyTransport, get, mounted, put
from tests.netfs.test_fsx import Setup, make
from transport.messages import Commit, Open, Read, Truncate, Write


async def test_a_buffered_read_during_a_direct_write_leaves_nothing_old_behind() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:8000])
        client.drop_caches()
        buffered = await client.open("/f")
        direct = await client.open("/f", "r+", direct=True)
        transport.hold = lambda request: isinstance(request, Write)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(direct.pwritev, [DATA[50000:54000]], 2000)
            await trio.testing.wait_all_tasks_blocked()
            assert await buffered.read(-1, 0) == DATA[:8000]
            transport.let_go()
        assert await buffered.read(-1, 0) == DATA[:2000] + DATA[50000:54000] + DATA[6000:8000]
        await buffered.aclose()
        await direct.aclose()


async def test_a_read_ahead_during_a_direct_write_is_not_kept() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:8000])
        client.drop_caches()
        buffered = await client.open("/f")
        direct = await client.open("/f", "r+", direct=True)
        async with trio.open_nursery() as nursery:
            transport.hold = lambda request: isinstance(request, Read)
            nursery.start_soon(buffered.read, 100, 0)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(direct.pwritev, [DATA[50000:54000]], 2000)
            await trio.testing.wait_all_tasks_blocked()
            transport.let_go()
        assert await buffered.read(-1, 0) == DATA[:2000] + DATA[50000:54000] + DATA[6000:8000]
        await buffered.aclose()
        await direct.aclose()


@pytest.mark.parametrize("seed", range(10))
def test_direct_writers_of_parts_of_one_block(seed: int) -> None:
    async def main() -> None:
        store, new_client, _ = make(Setup(4096, 4096, block=1024), seed)
        client = new_client()
        piece = 200
        async with await client.open("/f", "w", direct=True) as file:
            await file.write(bytes(40 * piece))

        async def writer(k: int) -> None:
            async with await client.open("/f", "r+", direct=True) as file:
                for n in range(k, 40, 8):
                    await file.pwritev([DATA[n * piece : (n + 1) * piece]], n * piece)

        async with trio.open_nursery() as nursery:
            for k in range(8):
                nursery.start_soon(writer, k)
        async with await client.open("/f", direct=True) as file:
            assert await file.read() == DATA[: 40 * piece]
        await client.aclose()
        store.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_direct_read_of_a_hole_before_dirty_data() -> None:
    async with mounted() as (client, _):
        async with await client.open("/f", "w+") as file, await client.open("/f", direct=True) as direct:
            await file.pwritev([b"end"], 30000)
            assert await direct.read(1000, 100) == bytes(1000)
            assert await direct.read(1000, 29999) == b"\0end"


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1500, 4096, 5000])
async def test_what_was_cut_off_does_not_come_back(size: int) -> None:
    async with mounted() as (client, _):
        async with await client.open("/f", "w+") as file:
            await file.write(DATA[:9000])
            await file.truncate(size)
            await file.truncate(9000)
            assert await file.read(-1, 0) == DATA[:size] + bytes(9000 - size)
            await file.truncate(size)
            await file.pwritev([b"x"], 8999)
            assert await file.read(-1, 0) == DATA[:size] + bytes(8999 - size) + b"x"
        assert await get(client, "/f") == DATA[:size] + bytes(8999 - size) + b"x"


async def test_after_a_failed_writeback_the_server_is_believed() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:3000])
        async with await client.open("/f", "r+") as file:
            assert await file.read() == DATA[:3000]
            await file.pwritev([b"lost"], 100)
            transport.refuse = {Write: [errno.EIO]}
            with pytest.raises(OSError):
                await file.fsync()
            assert await file.read(-1, 0) == DATA[:3000]


async def test_what_a_direct_write_overtakes_is_safe_first_and_not_sent_again_over_it() -> None:
    async with mounted() as (client, transport):
        async with await client.open("/f", "w+") as file, await client.open("/f", "r+", direct=True) as direct:
            await file.write(DATA[:2000])
            await flush_range(file._inode, 0, 2000)
            transport.restart()
            await direct.pwritev([b"new boot"], 0)
            assert not file._inode.mapping.unstable
            await file.fsync()
            await direct.fsync()
        assert await get(client, "/f") == b"new boot" + DATA[8:2000]


async def test_what_is_copied_on_the_server_is_safe_first() -> None:
    """Else a restart between the write and the copy would have it copy what was there before."""
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:4000])
        await put(client, "/g", DATA[:4000])
        async with await client.open("/f", "r+") as file, await client.open("/g", "r+") as other:
            await file.pwritev([b"new"], 100)
            await flush_range(file._inode, 0, 4000)
            transport.restart()
            assert await other.copy_from(file, 0, 0, 1000) == 1000
            await other.fsync()
            await file.fsync()
        expected = DATA[:100] + b"new" + DATA[103:4000]
        assert (await get(client, "/f"), await get(client, "/g")) == (expected, expected)


@pytest.mark.parametrize("on_its_way", [False, True])
async def test_a_copy_beside_dirty_folios_and_folios_on_their_way(on_its_way: bool) -> None:
    """Of the source all goes along; of the destination what is around the copy stays, and what the copy covers is gone."""
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:8000])
        await put(client, "/g", bytes(8000))
        async with await client.open("/f", "r+") as file, await client.open("/g", "r+") as other, trio.open_nursery() as nursery:
            assert await other.read(-1, 0) == bytes(8000)
            await file.pwritev([b"f" * 3000], 500)
            await other.pwritev([b"g" * 3000], 500)
            if on_its_way:
                transport.hold = lambda request: isinstance(request, Write)
                nursery.start_soon(file.fsync)
                nursery.start_soon(other.fsync)
                await trio.testing.wait_all_tasks_blocked()
                assert file._inode.mapping.writeback and other._inode.mapping.writeback
                nursery.start_soon(_let_go, transport)
            assert await other.copy_from(file, 1000, 1000, 2000) == 2000
            assert await other.read(-1, 0) == bytes(500) + b"g" * 500 + b"f" * 2000 + b"g" * 500 + bytes(4500)
            await other.fsync()
        want = bytes(500) + b"g" * 500 + b"f" * 2000 + b"g" * 500 + bytes(4500)
        assert await get(client, "/g") == want
        assert await get(client, "/f") == DATA[:500] + b"f" * 3000 + DATA[3500:8000]


async def _let_go(transport: FaultyTransport) -> None:
    await trio.testing.wait_all_tasks_blocked()
    transport.let_go()


async def test_a_hole_is_not_filled_by_what_a_restart_has_made_dirty_again() -> None:
    async with mounted() as (client, transport):
        async with await client.open("/f", "w+") as file:
            await file.write(DATA[:4000])
            await flush_range(file._inode, 0, 4000)
            transport.restart()
            await file.punch(1000, 2000)
            await file.fsync()
            assert await file.read(-1, 0) == DATA[:1000] + bytes(2000) + DATA[3000:4000]
        assert await get(client, "/f") == DATA[:1000] + bytes(2000) + DATA[3000:4000]


async def test_a_lease_that_is_lost_during_a_commit_drops_nothing_the_server_may_still_lose() -> None:
    async with mounted() as (client, transport):
        file = await client.open("/f", "w+")
        await file.write(b"old")
        await file.fsync()
        await file.pwritev([DATA[:3000]], 0)
        transport.hold = lambda request: isinstance(request, Commit)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.fsync)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(client._forget, file.handle)  # as when leases are lost with a server that is killed
            await trio.testing.wait_all_tasks_blocked()
            transport.restart()
            transport.let_go()
        assert transport.committed[file.handle] == DATA[:3000]
        assert not file._inode.mapping.folios, "in the end it is forgotten"
        await file.aclose()


async def test_an_fsync_beside_a_commit_that_found_data_lost_waits_until_it_is_there() -> None:
    async with mounted() as (client, transport):
        first, second = await client.open("/f", "w+"), await client.open("/f", "r+")
        await first.write(b"old")
        await first.fsync()
        await first.pwritev([DATA[:3000]], 0)
        transport.hold = lambda request: isinstance(request, Write)
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            def answer_held() -> None:
                calls, transport.queue = transport.queue, []
                for call in calls:
                    call.end(transport.outcome(call))

            async def gives_up() -> None:
                with scope:
                    await first.fsync()

            nursery.start_soon(gives_up)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(second.fsync)
            await trio.testing.wait_all_tasks_blocked()
            transport.hold = lambda request: isinstance(request, Commit)
            answer_held()
            await trio.testing.wait_all_tasks_blocked()
            transport.hold = lambda request: isinstance(request, Write)
            transport.restart()
            answer_held()
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()  # while what was lost is sent again
            await trio.testing.wait_all_tasks_blocked()
            transport.let_go()
        assert transport.committed[first.handle] == DATA[:3000]
        await first.aclose()
        await second.aclose()


async def test_what_others_have_changed_around_unsent_bytes_is_read_again() -> None:
    async with mounted(folio=4096) as (client, transport):
        await put(client, "/f", DATA[:4000])
        async with await client.open("/f", "r+") as file:
            assert await file.read() == DATA[:4000]
            await file.pwritev([b"ours"], 1000)
            transport.serve(Write(file.handle, 0), IovIter.ubuf(Direction.SOURCE, b"theirs"), None, None)
            await drop_range(file._inode, 0, 4096)
            assert await file.read(-1, 0) == b"theirs" + DATA[6:1000] + b"ours" + DATA[1004:4000]


async def test_an_open_that_was_overtaken_by_a_write_does_not_shrink_the_file() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:1000])
        async with await client.open("/f", "r+", direct=True) as file:
            transport.hold = lambda request: isinstance(request, Write)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.pwritev, [DATA[1000:9000]], 1000)
                await trio.testing.wait_all_tasks_blocked()

                async def reopen() -> None:
                    async with await client.open("/f") as other:
                        assert other.size in {1000, 9000}

                transport.hold = lambda request: isinstance(request, (Write, Open))
                nursery.start_soon(reopen)
                await trio.testing.wait_all_tasks_blocked()
                # The open is answered first, its answer is taken last.
                call = next(call for call in transport.queue if isinstance(call.request, Open))
                transport.queue.remove(call)
                outcome = transport.outcome(call)
                transport.let_go()
                await trio.testing.wait_all_tasks_blocked()
                assert file.size == 9000
                call.end(outcome)
            assert file.size == 9000


@pytest.mark.parametrize("mode", ["r", "r+"])
async def test_a_file_that_is_replaced_between_its_lookup_and_its_open_is_looked_up_again(mode: str) -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", b"old")
        await put(client, "/new", b"newer")
        opened: list[File] = []

        async def reopen() -> None:
            opened.append(await client.open("/f", mode))

        transport.hold = lambda request: isinstance(request, Open)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reopen)
            await trio.testing.wait_all_tasks_blocked()
            await client.rename("/new", "/f")
            transport.let_go()
        assert opened[0].size == 5
        await opened[0].aclose()
        assert client._inodes[opened[0].handle].opens == 0
        await put(client, "/f", b"")
        transport.refuse = {Open: [errno.ESTALE, errno.ESTALE]}
        with pytest.raises(OSError) as caught:
            await client.open("/f", mode)
        assert caught.value.errno == errno.ESTALE, "not for ever"
        transport.refuse = {Open: [errno.ESTALE]}
        with pytest.raises(OSError) as caught:
            await client.open("/f", "w")
        assert caught.value.errno == errno.ESTALE, "nothing is made twice"


async def test_a_commit_speaks_of_what_had_arrived_only() -> None:
    async with mounted() as (client, transport):
        file = await client.open("/f", "w+")
        await file.write(DATA[:1000])
        transport.hold = lambda request: isinstance(request, Write)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.fsync)
            await trio.testing.wait_all_tasks_blocked()
            await file.pwritev([DATA[2000:3000]], 2048)
            await start_writeback(file._inode, 2048, 4096)
            # The first write arrives, so that the commit could be sent; the second is still under way.
            first = transport.queue.pop(0)
            first.end(transport.outcome(first))
            await trio.testing.wait_all_tasks_blocked()
            assert not any(isinstance(request, Commit) for request in transport.log)
            transport.let_go()
        await file.aclose()
        assert await get(client, "/f") == DATA[:1000] + bytes(1048) + DATA[2000:3000]


async def test_one_who_wants_a_lock_alone_gets_it() -> None:
    lock = IoLock()
    got: list[str] = []

    async def sharer() -> None:
        for _ in range(50):
            await acquire_shared(lock)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            lock.release_shared()
            got.append("shared")

    async def alone() -> None:
        await trio.lowlevel.checkpoint()
        await acquire_exclusive(lock)
        assert not lock.shared
        got.append("alone")
        lock.release_exclusive()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(sharer)
        nursery.start_soon(alone)
    assert got.index("alone") < 20
    assert lock.try_exclusive()


@pytest.mark.parametrize("seed", range(20))
def test_readers_and_writers_of_all_kinds(seed: int) -> None:
    """Every task owns a region of whole folios and blocks; another truncates behind them all."""

    async def main() -> None:
        rng = random.Random(seed)
        block = rng.choice([1, 1024])
        setup = Setup(rng.choice([1024, 4096]), rng.choice([1024, 4096]), folio=1024, folios=rng.choice([16, 64]), block=block)
        store, new_client, _ = make(setup, seed)
        client = new_client()
        region, tasks = 4096, 8
        async with await client.open("/f", "w") as file:
            await file.truncate(region * tasks)

        async def work(k: int) -> None:
            mine = random.Random(seed * 100 + k)
            base, data = k * region, bytearray(region)
            async with await client.open("/f", "r+", direct=k % 2 == 0) as file:
                for _ in range(12):
                    pos, length = mine.randrange(region), mine.randrange(1, 1500)
                    length = min(length, region - pos)
                    if mine.random() < 0.5:
                        new = mine.randbytes(length)
                        await file.pwritev([new], base + pos)
                        data[pos : pos + length] = new
                    else:
                        assert await file.read(length, base + pos) == data[pos : pos + length]
                    if mine.random() < 0.1:
                        await file.fsync()

        async def resize() -> None:
            async with await client.open("/f", "r+") as file:
                for n in range(6):
                    await file.truncate(region * tasks + (n % 3) * 700)

        async with trio.open_nursery() as nursery:
            for k in range(tasks):
                nursery.start_soon(work, k)
            nursery.start_soon(resize)
        await client.aclose()
        store.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_read_on_its_way_while_the_file_is_cut() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:8000])
        client.drop_caches()
        async with await client.open("/f", "r+") as file, await client.open("/f") as reader:
            transport.hold = lambda request: isinstance(request, Truncate)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.truncate, 1500)
                await trio.testing.wait_all_tasks_blocked()
                # As the file is still long here, these ask for what is about to be cut off.
                transport.hold = lambda request: isinstance(request, (Truncate, Read))
                nursery.start_soon(reader.read, 100, 1200)
                nursery.start_soon(reader.read, 100, 5000)
                await trio.testing.wait_all_tasks_blocked()
                reads = [call for call in transport.queue if isinstance(call.request, Read)]
                transport.queue[:] = [call for call in transport.queue if call not in reads]
                answered = [(call, transport.outcome(call)) for call in reads]  # from before the cut
                transport.let_go()
                await trio.testing.wait_all_tasks_blocked()
                for call, outcome in answered:
                    call.end(outcome)
            assert await reader.read(-1, 0) == DATA[:1500]
            await file.truncate(8000)
            assert await reader.read(-1, 0) == DATA[:1500] + bytes(6500)


async def test_a_cancelled_direct_write_leaves_nothing_old_behind() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:8000])
        client.drop_caches()
        async with await client.open("/f") as buffered, await client.open("/f", "r+", direct=True) as direct:
            transport.stubborn = True
            transport.hold = lambda request: isinstance(request, Write)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(direct.pwritev, [DATA[50000:58000]], 0)
                    await trio.testing.wait_all_tasks_blocked()
                    assert await buffered.read(-1, 0) == DATA[:8000]
                    scope.cancel()
                    trio.lowlevel.current_trio_token().run_sync_soon(transport.let_go)
            assert scope.cancelled_caught
            assert await buffered.read(-1, 0) == DATA[50000:54096] + DATA[4096:8000]
