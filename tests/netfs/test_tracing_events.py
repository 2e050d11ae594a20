"""What layers tell the sink: names, fields and kinds as `iov/events.py` has them, nothing left out, in order."""

import errno
import random
from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing

from iov.events import EVENTS
from iov.probe import Field, Probe
from netfs.cache.pagecache import PageCache
from netfs.engine.events import request_flags
from netfs.fs.client import Client
from netfs.fs.plain import PlainVolume
from netfs.tracing import Stats
from netfs.tracing.text import LINES
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopTransport
from tests.netfs.memory_cookie import MemoryCookie
from tests.netfs.mount import DATA, mounted, put
from tests.netfs.scripted import FULL, Answer, Run, ScriptedOps
from transport.base import Reply
from transport.env import system_env
from transport.messages import Read
from trials.pairs import TransportName, pair
from trials.world import RealWorld

PART = 100
CUT_OFF = Answer(0, error=OSError(errno.EIO, "broken"))


class Seen:
    """A sink that remembers, and holds each event to the tables."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[Field, ...]]] = []

    def sink(self, event: str, fields: tuple[Field, ...]) -> None:
        assert len(fields) == len(EVENTS[event]), event
        assert all(type(field) in {int, str, bytes} or isinstance(field, bool) for field in fields), (event, fields)
        assert LINES[event].format(*fields)
        self.events.append((event, fields))

    def happened(self, event: str, field: str) -> list[Field]:
        at = EVENTS[event].index(field)
        return [fields[at] for name, fields in self.events if name == event]

    def subrequests(self) -> list[str]:
        """Return what happened to subrequests, as `index what`."""
        return [f"{fields[1]!s} {fields[3]!s}" for name, fields in self.events if name == "netfs_sreq"]


class SeenWorld(RealWorld):
    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def probe(self, node: str) -> Probe:
        del node
        return Probe(self.seen.sink)


def test_every_event_has_a_line() -> None:
    assert LINES.keys() == EVENTS.keys()


async def work(client: Client) -> None:
    """Use a file in all the ways that are told of."""
    async with await client.open("/f", "w") as file:
        await file.write(b"x" * 400_000)
    client.drop_caches()
    async with await client.open("/f", "r+") as file:
        await file.write(b"y" * 10, 50)
        await file.write(b"z" * 10, 200)  # leaves a gap in a folio that is not read yet
        assert len(await file.read(1000, 0)) == 1000
    async with await client.open("/f", "r+", direct=True) as file:
        await file.write(b"y" * 10, 5000)
        assert len(await file.read(100_000, 0)) == 100_000


@pytest.mark.parametrize("encrypt", [False, True])
@pytest.mark.parametrize("transport", ["stream", "rdma-memory"])
async def test_events_are_what_the_table_says(transport: TransportName, encrypt: bool) -> None:
    seen = Seen()
    async with pair(transport, encrypt=encrypt, world=SeenWorld(seen), rsize=1 << 16, wsize=1 << 16) as p:
        await work(p.client)
    expected = EVENTS.keys() - {"netfs_failure", "netfs_wb_lock", "audit", "netfs_copy2cache", "netfs_collect_gap"}
    if not encrypt:
        expected -= {"crypto_seal", "crypto_open"}
    if transport == "stream":
        expected -= {"wr_posted", "wr_completed"}
    assert {name for name, _ in seen.events} == expected
    # Every call is answered, and every one that a subrequest made was sent.
    sent = seen.happened("call_sent", "xid")
    assert sorted(sent, key=str) == sorted(seen.happened("reply_received", "xid"), key=str)
    assert set(seen.happened("netfs_call", "xid")) <= set(sent)
    assert set(seen.happened("server_op", "status")) == {0}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, "0 PREP|0 SUBMT|1 PREP|1 SUBMT|0 TERM|0 CONSM|1 TERM|1 CONSM"),
        (
            {(0, 0): Answer(40)},
            "0 PREP|0 SUBMT|1 PREP|1 SUBMT|0 TERM|0 SHORT|1 TERM|0 RETRY|0 SUBMT|0 TERM|0 CONSM|1 CONSM",
        ),
        ({(0, 0): CUT_OFF}, "0 PREP|0 SUBMT|1 PREP|1 SUBMT|0 TERM|0 FAIL|0 CONSM|1 TERM|1 DSCRD"),
        ({(0, 0): Answer(40, eof=True)}, "0 PREP|0 SUBMT|1 PREP|1 SUBMT|0 TERM|0 EOF|0 CONSM|1 TERM|1 DSCRD"),
    ],
    ids=["full", "short", "failed", "eof"],
)
def test_the_life_of_subrequests(answers: dict[tuple[int, int], Answer], expected: str) -> None:
    seen = Seen()
    run = Run(ScriptedOps(PART, random.Random(3).randbytes(2 * PART), answers), parts=2, probe=Probe(seen.sink))
    run.start()
    while run.ops.pending:
        run.ops.end(0, write=False)
    assert "|".join(seen.subrequests()) == expected
    assert seen.happened("netfs_rreq", "what")[-1] == "COMPLET"


@pytest.mark.parametrize(
    ("write", "answer", "what", "code"),
    [
        (False, CUT_OFF, "read", errno.EIO),
        (False, Answer(0), "short-read", errno.ENODATA),
        (False, Answer(PART + 1), "long-read", errno.EIO),
        (True, Answer(0, error=OSError(errno.ENOSPC, "full")), "write", errno.ENOSPC),
        (True, Answer(0), "short-write", errno.EIO),
    ],
)
def test_failures_are_told(write: bool, answer: Answer, what: str, code: int) -> None:
    seen = Seen()
    answers = {(0, count): answer for count in range(20)}
    run = Run(ScriptedOps(PART, bytes(PART), answers), write=write, probe=Probe(seen.sink))
    run.start()
    run.finish(random.Random(1))
    assert [fields[-2:] for name, fields in seen.events if name == "netfs_failure"] == [(what, code)]
    assert seen.happened("netfs_rreq", "error")[-1] == code


def test_a_probe_without_a_sink_is_asked_and_nothing_else() -> None:
    run = Run(ScriptedOps(PART, bytes(PART), {(0, 0): FULL}))
    run.start()
    run.finish(random.Random(1))
    assert run.rreq.transferred == PART


# ---- statistics


async def test_statistics_of_known_work() -> None:
    stats = Stats()
    world = RealWorld()
    world.probe = lambda node: Probe(stats.sink if node != "server" else None)  # type: ignore[method-assign]
    async with pair("stream", world=world, rsize=1 << 16, wsize=1 << 16) as p:
        await work(p.client)
        counts = stats.counts
        assert (counts["Writes.BW"], counts["Writes.DW"], counts["Reads.DR"]) == (3, 1, 1)
        assert (counts["Reads.RF"], counts["Reads.WB"], counts["Writes.WP"]) == (2, 0, 2)
        assert counts["DownOps.DL"] == counts["DownOps.ds"] and counts["UpldOps.UL"] == counts["UpldOps.us"]
        # 400,000 bytes in parts of 64 KiB; then a folio; then 10 bytes.
        assert counts["UpldOps.UL"] == 7 + 1 + 1
        quiet = ("DownOps.df", "UpldOps.uf", "Objs.rr", "Objs.sr", "Objs.foq")
        assert all(count == 0 for name, count in counts.items() if name in quiet or name.startswith(("Retries", "Ca")))
    text = str(stats).splitlines()
    assert text[0] == f"Reads  : DR=1 RA={counts['Reads.RA']} RF=2 RS=0 WB=0 WBZ={counts['Reads.WBZ']} UR=0"
    assert [line.split(":")[0].rstrip() for line in text] == [
        "Reads", "Writes", "ZeroOps", "DownOps", "CaRdOps", "UpldOps", "CaWrOps", "Retries", "Objs", "WbLock",
    ]  # fmt: skip


async def test_statistics_of_a_local_cache() -> None:
    stats = Stats()
    cookie = MemoryCookie(4096)
    async with mounted(folio=4096, rsize=1 << 20, wsize=1 << 20, probe=Probe(stats.sink)) as (client, _):
        await put(client, "/f", DATA)
        for _ in range(2):
            client.drop_caches()
            async with await client.open("/f", "r+") as file:
                file._inode.cookie = cookie
                await file.read(len(DATA), 0)
                await trio.testing.wait_all_tasks_blocked()
        cookie.fails = [(0, OSError(5, "a bad disk"))]
        client.drop_caches()
        async with await client.open("/f", "r+") as file:
            file._inode.cookie = cookie
            await file.read(len(DATA), 0)
            cookie.fails = [(0, OSError(28, "full"))]
            await file.pwritev([bytes(4096)], 0)
            await file.fsync()
    counts = stats.counts
    assert counts["Writes.2C"] >= 1
    assert counts["CaRdOps.RD"] == counts["CaRdOps.rs"] + counts["CaRdOps.rf"]
    assert (counts["CaRdOps.rf"], counts["DownOps.di"]) == (1, 1)
    assert (counts["CaWrOps.wf"], counts["Objs.wsc"]) == (1, 1)
    assert (counts["Objs.rr"], counts["Objs.sr"], counts["Objs.foq"]) == (0, 0, 0)


async def test_folios_in_requests_are_counted_while_they_are() -> None:
    stats = Stats()
    async with mounted(folio=4096, probe=Probe(stats.sink)) as (client, transport):
        await put(client, "/f", DATA[:8192])
        client.drop_caches()
        async with await client.open("/f", "r+") as file, trio.open_nursery() as nursery:
            transport.hold = lambda request: isinstance(request, Read)
            nursery.start_soon(file.read, 8192, 0)
            await trio.testing.wait_all_tasks_blocked()
            assert stats.counts["Objs.foq"] == 2
            transport.let_go()
    assert stats.counts["Objs.foq"] == 0


# ---- the collector


class FullCookie(MemoryCookie):
    """A cache that has no room for the granule at `full`."""

    full = -1

    def prepare_write(self, start: int, end: int) -> tuple[int, int] | None:
        return None if start == self.full else super().prepare_write(start, end)


def collected(seen: Seen) -> list[tuple[str, tuple[Field, ...]]]:
    return [(name.removeprefix("netfs_"), fields) for name, fields in seen.events if name.startswith("netfs_collect")]


def test_the_collector_tells_what_it_takes() -> None:
    """The second part ends first, and is taken with the first, which is short at the end of the file."""
    seen = Seen()
    answers = {(0, 0): Answer(40, eof=True)}
    run = Run(ScriptedOps(PART, bytes(2 * PART), answers), parts=2, probe=Probe(seen.sink))
    run.start()
    run.ops.end(1, write=False)
    assert collected(seen) == []
    run.ops.end(0, write=False)
    rreq, start = run.rreq.debug_id, run.rreq.start
    assert collected(seen) == [
        ("collect", (rreq, start, start + 2 * PART)),
        ("collect_sreq", (rreq, 0, 0, start, 40, PART)),
        ("collect_sreq", (rreq, 0, 1, start + PART, PART, PART)),
        ("collect_stream", (rreq, 0, start + 2 * PART, 0)),
        ("collect_state", (rreq, start + 40, start + 2 * PART, request_flags(run.rreq) | 1)),
    ]


async def test_the_collector_tells_of_folios_holes_and_copies() -> None:
    seen = Seen()
    cookie = FullCookie(4096)
    async with mounted(folio=4096, rsize=1 << 20, wsize=1 << 20, probe=Probe(seen.sink)) as (client, _):
        await put(client, "/f", DATA[: 4 * 4096])
        client.drop_caches()
        seen.events.clear()
        async with await client.open("/f", "r+") as file:
            file._inode.cookie = cookie
            await file.read(4 * 4096, 0)
            await trio.testing.wait_all_tasks_blocked()
            reads = [fields[0] for name, fields in seen.events if name == "netfs_read"]
            copies = [fields[0] for name, fields in seen.events if name == "netfs_write"]
            assert [fields for name, fields in seen.events if name == "netfs_copy2cache"] == [(reads[-1], copies[0])]
            let_go = [fields[:3] for name, fields in seen.events if name == "netfs_collect_folio"]
            assert let_go == [(who, index, index * 4096) for who in (reads[-1], copies[0]) for index in range(4)]
            seen.events.clear()
            cookie.full = 4096
            await file.pwritev([DATA[: 4 * 4096]], 0)
            await file.fsync()
    gaps = [fields[1:] for name, fields in seen.events if name == "netfs_collect_gap"]
    assert gaps == [(1, 4096, 8192)]
    assert {fields[1] for name, fields in seen.events if name == "netfs_collect_stream"} == {0, 1}


@pytest.mark.parametrize(
    ("write", "answers", "expected"),
    [
        (
            False,
            {(0, 0): Answer(40), (1, 0): Answer(40)},
            {"DownOps.DL": 4, "DownOps.ds": 4, "Retries.rq": 1, "Retries.rs": 2, "ZeroOps.sh": 2},
        ),
        (False, {(0, 0): CUT_OFF}, {"DownOps.DL": 2, "DownOps.ds": 1, "DownOps.df": 1}),
        (True, {(0, 0): Answer(40)}, {"UpldOps.UL": 3, "UpldOps.us": 3, "Retries.wq": 1, "Retries.ws": 1}),
        (True, {(1, 0): CUT_OFF}, {"UpldOps.UL": 2, "UpldOps.us": 1, "UpldOps.uf": 1}),
    ],
)
def test_statistics_of_retries_and_failures(
    write: bool, answers: dict[tuple[int, int], Answer], expected: dict[str, int]
) -> None:
    stats = Stats()
    run = Run(ScriptedOps(PART, bytes(2 * PART), answers), parts=2, write=write, probe=Probe(stats.sink))
    run.start()
    run.finish(random.Random(2))
    found = {name: count for name, count in stats.counts.items() if count}
    # These requests are driven without `begin`, so that only their ends are seen.
    assert found.pop("Objs.rr") == -1
    assert found == expected


def test_statistics_hand_on_what_they_count() -> None:
    seen = Seen()
    Stats(seen.sink).sink("netfs_wb_lock", (1, "skip"))
    assert seen.events == [("netfs_wb_lock", (1, "skip"))]


# ---- live requests


async def held(do: Callable[[Client, LoopTransport], object]) -> None:
    store = MemoryStore(Probe())
    transport = LoopTransport(store)
    client = Client(transport, PlainVolume(transport, 1000, 1000), system_env(), Probe(), PageCache(1 << 20, 4096))
    try:
        async with await client.open("/f", "w") as file:
            await file.write(bytes(5000))
        await do(client, transport)  # type: ignore[misc]
    finally:
        transport.hold = None
        await client.aclose()
        store.close()


async def read_held(client: Client, transport: LoopTransport, *, cancel: bool) -> None:
    transport.hold = lambda request: isinstance(request, Read)
    transport.stubborn = True
    async with await client.open("/f", direct=True) as file:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.read, 5000, 0)
            await trio.testing.wait_all_tasks_blocked()
            (row,) = client.requests()
            assert str(row) == f"{row.request:08x} DR   6 03     0   5 @0 1388/1388"
            if cancel:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                assert client.requests()[0].flags & 0x20
            transport.let_go()
        assert client.requests() == []


@pytest.mark.parametrize("cancel", [False, True])
async def test_requests_under_way_are_listed(cancel: bool) -> None:
    await held(partial(read_held, cancel=cancel))


async def test_a_request_that_never_began_is_not_listed() -> None:
    async def cancelled(client: Client, _: LoopTransport) -> None:
        async with await client.open("/f", direct=True) as file:
            with trio.CancelScope() as scope:
                scope.cancel()
                await file.read(10, 0)
            assert scope.cancelled_caught
            assert client.requests() == []

    await held(cancelled)


async def test_a_request_the_filesystem_refuses_is_not_listed() -> None:
    async def refused(client: Client, transport: LoopTransport) -> None:
        transport.fault = lambda request: Reply(errno.EACCES) if isinstance(request, Read) else None
        async with await client.open("/f") as file:
            with pytest.raises(PermissionError):
                await file.read(10, 0)
            assert client.requests() == []

    await held(refused)
