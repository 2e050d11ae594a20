"""Ways to write: synchronous ones, ordered ones, past a cache that has no budget, in place, and against another client."""

import errno
import random

import pytest
import trio
import trio.testing

from iov.copy_iter import copy_to_iter
from iov.probe import Probe
from netfs.engine.request import FileChanged, IoSubrequest
from netfs.engine.writeback import start_writeback
from netfs.fs.client import Client, open_client
from servers.stores.memory import MemoryStore
from tests.netfs.blocks import BlockOps, BlockVolume
from tests.netfs.mount import DATA, FaultyTransport, get, mounted, put
from tests.netfs.test_fsx import Setup, make
from transport.messages import Commit, Write

# ---- sync


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("mode", ["r+", "a"])
async def test_a_synchronous_write_is_durable_when_it_returns(direct: bool, mode: str) -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:5000])
        async with await client.open("/f", mode, direct=direct, sync=True) as file:
            transport.log.clear()
            assert await file.write(b"x" * 3000, 0) == 3000
            transport.restart()
            want = DATA[:5000] + b"x" * 3000 if mode == "a" else b"x" * 3000 + DATA[3000:5000]
            assert transport.content(file._inode.handle) == want
            assert isinstance(transport.log[-1], Commit)
            assert not file._inode.mapping.unsent_bytes


async def test_a_synchronous_write_tells_its_own_error_once() -> None:
    async with mounted() as (client, transport):
        file = await client.open("/f", "w", sync=True)
        transport.refuse[Write] = [errno.EDQUOT]
        with pytest.raises(OSError) as caught:
            await file.write(b"abc")
        assert caught.value.errno == errno.EDQUOT
        assert await file.write(b"abc", 0) == 3
        await file.aclose()


# ---- barriers


async def test_what_is_before_a_barrier_reaches_the_server_before_what_is_behind() -> None:
    rng = random.Random(3)
    async with mounted(folios=256) as (client, transport):
        await put(client, "/f", bytes(60_000))
        async with await client.open("/f", "r+") as file:
            groups: list[tuple[int, int]] = []  # (position, group)
            group = 0
            transport.log.clear()
            for _ in range(40):
                pos = rng.randrange(58) * 1024
                await file.pwritev([rng.randbytes(1024)], pos)
                groups.append((pos, group))
                if rng.random() < 0.3:
                    await file.barrier()
                    group += 1
            await file.fsync()
            written = [pos for call in transport.log if isinstance(call, Write) for pos in range(call.pos, call.pos + 1, 1024)]
            assert written
            last = dict(groups)
            order = [last[pos] for pos in written if pos in last]
            # A place that was written in two groups went once for each; what is left is in the order of its last group.
            final = [last[pos] for index, pos in enumerate(written) if pos in last and pos not in written[index + 1 :]]
            assert final == sorted(final)
            assert max(order) > 0


async def test_a_range_that_is_synced_takes_the_groups_before_along() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", bytes(20_000))
        async with await client.open("/f", "r+") as file:
            transport.log.clear()
            await file.pwritev([b"1" * 1024], 10240)
            await file.barrier()
            await file.pwritev([b"2" * 1024], 0)
            async with await client.open("/f", direct=True) as direct:
                assert await direct.read(1024, 0) == b"2" * 1024
            assert [call.pos for call in transport.log if isinstance(call, Write)] == [10240, 0]


# ---- no cache at all


async def test_without_a_budget_nothing_is_kept() -> None:
    events: list[str] = []

    def sink(event: str, fields: tuple[int | str | bytes, ...]) -> None:
        if event in {"netfs_read", "netfs_write"}:
            events.append(str(fields[1]))

    store = MemoryStore(Probe())
    async with open_client(FaultyTransport(store), cache_bytes=0, probe=Probe(sink)) as client:
        await put(client, "/f", DATA[:5000])
        async with await client.open("/f") as file:
            assert await file.read() == DATA[:5000]
            assert not file._inode.mapping.folios
        assert await get(client, "/f") == DATA[:5000]
    store.close()
    assert events[:2] == ["UNBUFFERED-WRITE", "UNBUFFERED-READ"]
    assert "DIO-READ" in events


# ---- in place


async def test_bytes_in_place_are_the_files() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA[:5000])
        async with await client.open("/f", "r+") as file:
            async with file.mapped(1500, 1000) as view:
                assert view == DATA[1500:2048], "to the end of the folio"
                assert view.readonly
                copied = file._inode.probe.copied_bytes
            async with file.mapped(4900, 1000) as view:
                assert view == DATA[4900:5000], "to the end of the file"
            async with file.mapped(5000, 10) as view:
                assert len(view) == 0
            async with file.mapped(100, 50, write=True) as view:
                assert view == DATA[100:150]
                view[:] = b"z" * 50
            assert file._inode.probe.copied_bytes == copied
            await file.fsync()
            with pytest.raises(OSError, match="does not extend"):
                await file.mapped(5000, 10, write=True).__aenter__()
        assert await get(client, "/f") == DATA[:100] + b"z" * 50 + DATA[150:5000]


async def test_a_mapped_folio_survives_eviction_and_truncation() -> None:
    async with mounted(folios=16) as (client, _):
        await put(client, "/f", DATA[:40000])
        async with await client.open("/f", "r+") as file:
            async with file.mapped(0, 1000) as view:
                for pos in range(0, 40000, 1024):
                    await file.read(1024, pos)
                assert view == DATA[:1000]
                client.drop_caches()
                assert view == DATA[:1000]
                await file.truncate(0)
                assert len(view) == 1000
            assert client.page_cache.used_bytes == 0


async def test_nothing_is_sent_while_it_may_change() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:5000])
        async with await client.open("/f", "r+") as file, trio.open_nursery() as nursery:
            transport.log.clear()
            async with file.mapped(0, 100, write=True) as view:
                view[:50] = b"a" * 50
                nursery.start_soon(file.fsync)
                await trio.testing.wait_all_tasks_blocked()
                assert not any(isinstance(call, Write) for call in transport.log)
                view[50:] = b"b" * 50
        assert await get(client, "/f") == b"a" * 50 + b"b" * 50 + DATA[100:5000]


# ---- another client was faster


class ContestedOps(BlockOps):
    """The first `fights` writes fail because another client has just changed the file: it wrote `rival` at 0."""

    fights = 0
    rival = b""

    def issue_write(self, subreq: IoSubrequest) -> None:
        if type(self).fights:
            type(self).fights -= 1
            store = self.transport.store  # type: ignore[attr-defined]
            landing = store.write_landing(self.handle, 0, len(self.rival), aux=False)
            copy_to_iter(self.rival, landing.iter.copy())
            store.write(self.handle, 0, landing, stable=True, aux=False)
            subreq.terminated(0, FileChanged())
            return
        super().issue_write(subreq)


class ContestedVolume(BlockVolume):
    def file_ops(self, inode: object) -> ContestedOps:
        return ContestedOps(self, inode)  # type: ignore[arg-type]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("fights", [1, 3, 100])
def test_a_partly_written_block_is_read_again_when_another_client_changed_it(direct: bool, fights: int) -> None:
    async def test() -> None:
        store, new_client, transport = make(Setup(4096, 4096, block=1024), 0)
        client = new_client()
        client._volume = ContestedVolume(transport, 4096, 4096, 1024)
        await put(client, "/f", DATA[:4096])
        ContestedOps.rival = b"R" * 1024
        async with await client.open("/f", "r+", direct=direct) as file:
            ContestedOps.fights = fights
            if fights > 8:
                with pytest.raises(OSError, match="another client"):
                    await written(client, file)
                ContestedOps.fights = 0
            else:
                await written(client, file)
                want = b"R" * 500 + b"mine" + b"R" * 520 + DATA[1024:4096]
                client.drop_caches()
                assert await file.read() == want
        await client.aclose()
        store.close()

    async def written(_: Client, file: object) -> None:
        await file.pwritev([b"mine"], 500)  # type: ignore[attr-defined]
        await file.fsync()  # type: ignore[attr-defined]

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("same", [False, True])
def test_a_barrier_holds_when_another_client_was_faster_before_it(same: bool) -> None:
    """What is behind the barrier waits until what is before it has been read again and sent."""

    async def test() -> None:
        store, new_client, transport = make(Setup(4096, 4096, block=1024), 0)
        client = new_client()
        client._volume = ContestedVolume(transport, 4096, 4096, 1024)
        await put(client, "/f", DATA[:65536])
        client.drop_caches()
        ContestedOps.rival = b"R" * 1024
        async with await client.open("/f", "r+") as file:
            unit = file._inode.mapping.unit
            await file.pwritev([b"before"], 500)
            await file.barrier()
            ContestedOps.fights = 1
            await start_writeback(file._inode, 0, 1024)
            await trio.testing.wait_all_tasks_blocked()
            assert file._inode.mapping.folios[0].stale
            at = 700 if same else unit + 100
            with trio.fail_after(60):
                await file.pwritev([b"behind"], at)
                transport.log.clear()
                await start_writeback(file._inode, 0, 1 << 20)
                await file.fsync()
            sent = [call.pos // 1024 * 1024 for call in transport.log if isinstance(call, Write)]
            assert sent == ([0] if same else [0, unit])
            want = bytearray(b"R" * 1024 + DATA[1024:65536])
            want[500:506] = b"before"
            want[at : at + 6] = b"behind"
            client.drop_caches()
            assert await file.read(-1, 0) == want
        await client.aclose()
        store.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("busy", [False, True])
async def test_a_mapping_of_what_lies_before_a_barrier_is_changed_behind_it(busy: bool, autojump_clock: object) -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:5000])
        async with await client.open("/f", "r+") as file, trio.open_nursery() as nursery:
            await file.pwritev([b"before"], 0)
            await file.barrier()
            if busy:
                # Somebody has a sync under way when the mapping is asked for.
                transport.hold = lambda request: isinstance(request, Commit)
                nursery.start_soon(file.fsync)
                await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(60):
                nursery.start_soon(_let_go, transport)
                async with file.mapped(0, 100, write=True) as view:
                    assert bytes(view[:6]) == b"before"
                    view[:6] = b"behind"
                await file.fsync()
        assert await get(client, "/f") == b"behind" + DATA[6:5000]


async def _let_go(transport: FaultyTransport) -> None:
    await trio.testing.wait_all_tasks_blocked()
    transport.let_go()
