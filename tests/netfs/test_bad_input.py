"""Bad input from every side: a filesystem underneath that lies, positions at the ends, use after close, a file that changes
between a request and its reply. Each has its rule: a clear errno or a POSIX result, no hang, nothing left lent.
"""

import errno
import inspect
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from crypto.keys import VolumeKey
from iov.copy_iter import copy_to_iter
from iov.probe import Probe
from netfs.engine.request import IoSubrequest
from netfs.fs.client import Client, open_client
from netfs.fs.file import File
from netfs.fscache import LocalCache
from servers.stores.memory import MemoryStore
from tests.fscache.faulty_disk import inline_env
from tests.netfs.loop import LoopTransport
from tests.netfs.mount import DATA, FaultyTransport, mounted, put
from tests.netfs.scripted import Answer, Run, ScriptedOps
from transport.messages import Read, Write

MAX_POS = (1 << 63) - 1
EDGES = (0, 1, (1 << 31) - 1, 1 << 31, (1 << 62), MAX_POS - 1, MAX_POS)
KEY = VolumeKey(b"k" * 32)
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
DIRECT = pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])

# ---- a filesystem underneath that lies

Lie = Callable[[IoSubrequest], None]


def too_much(subreq: IoSubrequest) -> None:
    subreq.terminated(subreq.iter.count + 7)


def far_too_much(subreq: IoSubrequest) -> None:
    subreq.terminated(1 << 63)


def less_than_nothing(subreq: IoSubrequest) -> None:
    subreq.terminated(-5)


def nothing(subreq: IoSubrequest) -> None:
    subreq.terminated(0)


def nothing_again_and_again(subreq: IoSubrequest) -> None:
    subreq.terminated(0, retry=True)


def an_odd_error(subreq: IoSubrequest) -> None:
    subreq.terminated(0, KeyError("what?"))


def an_exception(subreq: IoSubrequest) -> None:
    del subreq
    raise ZeroDivisionError("oops")


def twice_with_another_word(subreq: IoSubrequest) -> None:
    subreq.terminated(0, OSError(errno.EIO, "first"))
    subreq.terminated(subreq.iter.count)


LIES: dict[Lie, tuple[int, int | None]] = {
    too_much: (errno.EIO, None),
    far_too_much: (errno.EIO, None),
    less_than_nothing: (errno.EIO, errno.EIO),
    nothing: (errno.EIO, errno.EIO),
    nothing_again_and_again: (errno.EIO, errno.EIO),
    twice_with_another_word: (errno.EIO, errno.EIO),
}


@DIRECT
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
async def test_reads_of_a_filesystem_that_lies(lie: Lie, direct: bool, autojump_clock: object) -> None:
    del autojump_clock
    async with mounted() as (client, _):
        await put(client, "/f", DATA[:10_000])
        client.drop_caches()
        async with await client.open("/f", direct=direct) as file:
            ops = file._inode.ops
            honest = ops.issue_read
            ops.issue_read = lie  # type: ignore[assignment, method-assign]
            with pytest.raises(OSError) as caught:
                await file.read(5000, 0)
            assert caught.value.errno == LIES[lie][0] and caught.value.filename == "/f"
            assert not file._inode.requests and not any(f.locked or f.pins for f in file._inode.mapping.every())
            ops.issue_read = honest  # type: ignore[method-assign]
            assert await file.read(5000, 0) == DATA[:5000]


@DIRECT
@pytest.mark.parametrize(("defect", "kind"), [(an_odd_error, KeyError), (an_exception, ZeroDivisionError)])
async def test_a_filesystem_with_a_defect(defect: Lie, kind: type[Exception], direct: bool) -> None:
    """An exception that is no operating error comes out as it is, once, and everything is given back."""
    async with mounted() as (client, _):
        await put(client, "/f", DATA[:10_000])
        client.drop_caches()
        file = await client.open("/f", "r+", direct=direct)
        ops = file._inode.ops
        honest = ops.issue_read, ops.issue_write
        ops.issue_read = ops.issue_write = defect  # type: ignore[method-assign, assignment]
        with pytest.raises(kind):
            await file.read(5000, 0)
        with pytest.raises(kind):
            await file.pwritev([b"x" * 4096], 0)
            await file.fsync()
        ops.issue_read, ops.issue_write = honest  # type: ignore[method-assign]
        assert not file._inode.requests and not any(f.locked or f.pins for f in file._inode.mapping.every())
        await file.fsync()
        assert await file.read(pos=0) == DATA[:10_000]
        await file.aclose()


@DIRECT
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
async def test_writes_to_a_filesystem_that_lies(lie: Lie, direct: bool, autojump_clock: object) -> None:
    """What it did not take is told, once; too much is what was asked for."""
    del autojump_clock
    async with mounted() as (client, _):
        await put(client, "/f", DATA[:10_000])
        file = await client.open("/f", "r+", direct=direct)
        ops = file._inode.ops
        honest = ops.issue_write
        ops.issue_write = lie  # type: ignore[assignment, method-assign]
        code = LIES[lie][1]
        if code is None:
            assert await file.pwritev([b"x" * 3000], 0) == 3000
            await file.fsync()
        else:
            with pytest.raises(OSError) as caught:
                await file.pwritev([b"x" * 3000], 0)
                await file.fsync()
            assert caught.value.errno == code and caught.value.filename == "/f"
        ops.issue_write = honest  # type: ignore[method-assign]
        await file.fsync()
        assert not file._inode.requests and not file._inode.mapping.writeback
        assert await file.pwritev([b"y" * 3000], 0) == 3000
        await file.aclose()


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("moved", [-1, -8, -(1 << 70), 9, 1 << 70])
def test_counts_that_cannot_be(moved: int, write: bool) -> None:
    """At every part of three, first or after a short one; what is said is no more than what was asked for."""
    for part, short in itertools.product(range(3), (False, True)):
        answers = {(part, 0): Answer(3 if short else moved), (part, 1): Answer(moved)}
        ops = ScriptedOps(8, bytes(range(40)), answers)
        run = Run(ops, write=write, parts=3)
        run.start()
        for _ in range(20):
            if not ops.pending:
                break
            subreq, answer = ops.pending[0]
            if answer.moved == moved:
                ops.pending.pop(0)
                subreq.terminated(moved)
            else:
                ops.end(0, write=write)
        assert run.woken == 1 and run.rreq.done
        if write and moved > 0:
            assert run.rreq.transferred == 24 and run.rreq.error is None
        else:
            # Of a read that brought too much nothing is believed, not even what came before in the same part.
            assert run.rreq.transferred == part * 8 + (3 if short and moved < 0 else 0)
            assert getattr(run.rreq.error, "errno", 0) == errno.EIO


@DIRECT
@KEYS
async def test_a_filesystem_that_never_answers(direct: bool, key: VolumeKey | None, autojump_clock: object) -> None:
    """One who gives up gets the memory back, and what the server says later is nobody's."""
    del autojump_clock
    async with client_of(key) as (client, transport):
        await put(client, "/f", DATA[:50_000])
        client.drop_caches()
        transport.hold = lambda request: isinstance(request, Read | Write)
        file = await client.open("/f", "r+", direct=direct)
        for action in (lambda: file.read(20_000, 0), lambda: file.pwritev([b"z" * 20_000], 100), file.fsync):
            with trio.move_on_after(5):
                await action()
        transport.let_go()
        while transport.in_flight:
            await trio.lowlevel.checkpoint()
        await file.fsync()
        await file.aclose()
        assert client._pool.leased == 0
        async with await client.open("/f") as again:
            got = await again.read()
        assert len(got) == 50_000 and got[20_100:] == DATA[20_100:50_000]
        assert all(new in (old, ord("z")) for new, old in zip(got, DATA, strict=False))


# ---- positions and lengths at the ends


@asynccontextmanager
async def client_of(key: VolumeKey | None, cache: Path | None = None) -> AsyncIterator[tuple[Client, FaultyTransport]]:
    store = MemoryStore(Probe())
    transport = FaultyTransport(store)
    local = None if cache is None else LocalCache(cache, server="x")
    async with open_client(
        transport, keys=key, env=inline_env(), cache=local, cache_bytes=1 << 20, freshness="session"
    ) as client:
        yield client, transport
    store.close()


@pytest.mark.parametrize("cached", [False, True], ids=["", "cached"])
@KEYS
@DIRECT
async def test_positions_and_lengths_at_the_ends(direct: bool, key: VolumeKey | None, cached: bool, tmp_path: Path) -> None:
    async with client_of(key, tmp_path if cached else None) as (client, _):
        await put(client, "/f", DATA[:1000])
        model = bytearray(DATA[:1000])
        async with await client.open("/f", "r+", direct=direct) as file, await client.open("/g", "w+", direct=direct) as other:
            for pos in reversed(EDGES):
                for length in (0, 1, (1 << 31) - 1, 1 << 31, MAX_POS):
                    assert await file.read(length, pos) == model[min(pos, 1000) : min(pos + length, 1000)]
                await within_reason(file.punch(pos, 0), file.punch(pos, MAX_POS - pos))
                model[min(pos, 1000) :] = bytes(1000 - min(pos, 1000))
                assert file.size == 1000
                await within_reason(other.copy_from(file, pos, 0, MAX_POS), other.copy_from(file, 0, pos, 0))
                await within_reason(file.seek_data(pos), file.seek_hole(pos))
            assert await file.read() == model
            for size in (1 << 62, MAX_POS, 0):
                await within_reason(file.truncate(size), file.allocate(size, 1), file.allocate(size, MAX_POS))
            await file.truncate(0)
            assert file.size == 0 and await file.read(10, 0) == b""


async def within_reason(*attempts: Awaitable[object]) -> None:
    """Do each; it works, or there is a clear errno."""
    for attempt in attempts:
        code: int | None = None
        with trio.fail_after(20):
            try:
                await attempt
            except OSError as error:
                code = error.errno
        assert code is None or code in REASONS, code


REASONS = {errno.EINVAL, errno.EFBIG, errno.ENXIO, errno.ENOSPC, errno.EOPNOTSUPP}

# ---- use after close


async def test_everything_is_refused_after_the_close() -> None:
    async with mounted() as (client, _):
        file = await client.open("/f", "w+")
        other = await client.open("/f", "r+")
        await file.aclose()
        given: dict[str, tuple[object, ...]] = {
            "read": (1,), "write": (b"x",), "preadv": ([bytearray(1)], 0), "pwritev": ([b"x"], 0), "punch": (0, 1),
            "allocate": (0, 1), "copy_from": (other, 0, 0, 1), "seek_data": (0,), "seek_hole": (0,), "truncate": (0,),
        }  # fmt: skip
        names = [name for name, value in inspect.getmembers(File) if inspect.iscoroutinefunction(value) and name[0] != "_"]
        tried = 0
        for name in names:
            call = getattr(file, name)
            needed = [p for p in inspect.signature(call).parameters.values() if p.default is p.empty]
            if name == "aclose" or (needed and name not in given):
                continue
            with pytest.raises(OSError, match="closed") as caught:
                await call(*given.get(name, ()))
                pytest.fail(f"{name} works")
            assert (caught.value.errno, caught.value.filename) == (errno.EBADF, "/f"), name
            tried += 1
        assert tried >= len(given)
        await other.aclose()


# ---- a file that changes between the request and the reply


@pytest.mark.parametrize("becomes", [0, 1, 9000, 60_000])
@DIRECT
async def test_a_file_that_shrinks_or_grows_before_the_reply(direct: bool, becomes: int) -> None:
    """Fewer bytes come, or what the server has by now; never what was not there."""
    async with mounted(rsize=4096, folio=4096, folios=64) as (client, transport):
        await put(client, "/f", DATA[:20_000])
        client.drop_caches()
        async with await client.open("/f", direct=direct) as file:
            transport.hold = lambda request: isinstance(request, Read)
            got: list[bytes] = []

            async def read() -> None:
                got.append(await file.read(20_000, 0))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                await resized(transport, file, becomes)
                transport.let_go()
            now = DATA[:20_000][:becomes]
            # Without a lease the size of the open is the one a buffered read goes by: what is gone is zero.
            assert got[0] in {now, now.ljust(20_000, b"\0")}


async def resized(transport: FaultyTransport, file: File, size: int) -> None:
    from transport.messages import Truncate

    transport.serve(Truncate(file._inode.handle, size), None, None, None)


@DIRECT
async def test_a_file_that_vanishes_before_the_reply(direct: bool) -> None:
    async with mounted(rsize=4096, folio=4096, folios=64) as (client, transport):
        await put(client, "/f", DATA[:20_000])
        client.drop_caches()
        file = await client.open("/f", "r+", direct=direct)
        transport.hold = lambda request: isinstance(request, Read)
        codes: list[int | None] = []

        async def read() -> None:
            with pytest.raises(OSError) as caught:
                await file.read(20_000, 0)
            codes.append(caught.value.errno)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            transport.store.unlink(transport.store.root().handle, "f")
            transport.let_go()
        assert codes == [errno.ESTALE]
        assert not any(folio.locked or folio.pins for folio in file._inode.mapping.every())
        with pytest.raises(OSError) as caught:
            await file.pwritev([b"x" * 100], 0)
            await file.fsync()
        assert caught.value.errno == errno.ESTALE
        await file.aclose()


@KEYS
async def test_a_server_whose_replies_are_noise(key: VolumeKey | None) -> None:
    """The payload is not what was stored. Plain files have no defence of their own; encrypted ones tell."""
    rng = random.Random(3)

    class Noise(LoopTransport):
        def outcome(self, call):  # type: ignore[no-untyped-def]
            dest = None if call.dest is None else call.dest.copy()
            outcome = super().outcome(call)
            if isinstance(call.request, Read) and dest is not None and armed:
                copy_to_iter(rng.randbytes(dest.count), dest)
            return outcome

    armed: list[bool] = []
    store = MemoryStore(Probe())
    async with open_client(Noise(store), keys=key, env=inline_env(), freshness="session") as client:
        await put(client, "/f", DATA[:50_000])
        client.drop_caches()
        armed.append(True)
        for direct in (False, True):
            async with await client.open("/f", direct=direct) as file:
                if key is None:
                    assert len(await file.read()) == 50_000
                else:
                    with pytest.raises(OSError) as caught:
                        await file.read()
                    assert caught.value.errno == errno.EBADMSG
    store.close()
