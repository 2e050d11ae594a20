"""From requests to replies: every operation, every refusal, and what is lent when something goes wrong."""

import errno
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
import trio

from iov.copy_iter import copy_to_iter
from iov.extract import extract_segments
from iov.iov_iter import IovIter
from iov.probe import Probe
from servers.dispatch import Dispatcher
from servers.stores.base import RECORD_MAX, Lent, Store
from servers.stores.memory import MemoryStore
from tests.conformance.store_words import KINDS, opened
from transport.base import Landing, Limits, Reply
from transport.codec import encode_reply
from transport.env import Env, system_env
from transport.messages import (
    Ack,
    Attr,
    AttrReply,
    AuxRead,
    AuxWrite,
    Commit,
    Compound,
    CompoundReply,
    CompoundStep,
    Create,
    DirEntry,
    EntryReply,
    Getattr,
    Handle,
    Lookup,
    Mkdir,
    Mount,
    Open,
    Ping,
    Read,
    Readdir,
    ReaddirReply,
    ReadReply,
    RecordGet,
    RecordReply,
    Rename,
    Request,
    Rmdir,
    Setattr,
    Step,
    StepKind,
    Transact,
    TransactReply,
    Truncate,
    Unlink,
    Write,
    WriteReply,
)

T = TypeVar("T")


class Slow(MemoryStore):
    """A memory store that says it sleeps."""

    blocking = True


class Broken(MemoryStore):
    """A store with a defect."""

    def getattr(self, handle: Handle) -> Attr:
        raise KeyError(handle)

    def read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False, ranges: bool = True) -> Lent:
        raise ZeroDivisionError

    def write_landing(self, handle: Handle, pos: int, length: int, *, aux: bool = False, apart: bool = False) -> Landing:
        raise AssertionError


@pytest.fixture(params=[*KINDS, "slow"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "slow":
        slow = Slow(Probe())
        yield slow
        slow.close()
    else:
        with opened(request.param, Probe()) as made:
            yield made


class Side:
    """A client without a wire: what a transport does, asserting its half of the contract."""

    def __init__(self, store: Store, limits: Limits = Limits(), env: Env | None = None) -> None:  # noqa: B008
        self.dispatcher = Dispatcher(store, env or system_env(), Probe(), limits)

    async def reply(self, request: Request, payload: bytes | None = None) -> Reply:
        landing = None
        if payload is not None:
            admitted = self.dispatcher.admit(request, len(payload))
            if isinstance(admitted, int):
                return Reply(admitted)
            landing = admitted
            assert copy_to_iter(payload, landing.iter) == len(payload)
        answer = self.dispatcher.handle(request, landing)
        return answer if isinstance(answer, Reply) else await answer

    async def ask(self, request: Request, kind: type[T], payload: bytes | None = None) -> T:
        reply = await self.reply(request, payload)
        assert reply.status == 0, errno.errorcode[reply.status]
        assert isinstance(reply.body, kind)
        assert encode_reply(reply.body)  # type: ignore[arg-type]
        return reply.body

    async def read(self, request: Read | AuxRead) -> tuple[bytes, bool]:
        reply = await self.reply(request)
        assert reply.status == 0 and isinstance(reply.body, ReadReply)
        data = b""
        if reply.source is not None:
            assert isinstance(reply.source, IovIter)
            data = b"".join(bytes(view) for view in extract_segments(reply.source, reply.source.count))
        if reply.release is not None:
            reply.release()
        return data, reply.body.eof

    async def status(self, request: Request, payload: bytes | None = None) -> int:
        reply = await self.reply(request, payload)
        assert reply.body is None and reply.source is None and reply.release is None
        return reply.status


async def test_every_operation(store: Store) -> None:
    side = Side(store)
    await side.ask(Ping(), Ack)
    root = (await side.ask(Mount(), EntryReply)).handle
    file = (await side.ask(Create(root, "f", 0o600, exclusive=True), EntryReply)).handle
    assert (await side.ask(Write(file, 3), WriteReply, b"data")) == WriteReply(4, store.verifier)
    assert (await side.ask(Write(file, 0, stable=True), WriteReply, b"abc")).count == 3
    assert (await side.ask(Commit(file), WriteReply)) == WriteReply(0, store.verifier)
    assert await side.read(Read(file, 0, 100)) == (b"abcdata", True)
    assert await side.read(Read(file, 1, 3)) == (b"bcd", False)
    assert (await side.ask(Truncate(file, 5), AttrReply)).attr.size == 5
    assert (await side.ask(Setattr(file, mode=0o640), AttrReply)).attr.mode == 0o640
    assert (await side.ask(Getattr(file), AttrReply)).attr.size == 5
    assert (await side.ask(Open(file, write=True), AttrReply)).attr.mode == 0o640
    assert (await side.ask(AuxWrite(file, 2), WriteReply, b"aux")).count == 3
    assert await side.read(AuxRead(file, 0, 100)) == (b"\0\0aux", True)
    steps = [Step(StepKind.AUX_WRITE, file, 0, 2), Step(StepKind.RECORD_PUT, file, record=b"r")]
    assert (await side.ask(Transact([(file, 0)], store.verifier, steps), TransactReply, b"AB")).generations == [1]
    assert await side.ask(RecordGet(file), RecordReply) == RecordReply(b"r", 1)
    assert await side.read(AuxRead(file, 0, 100)) == (b"ABaux", True)
    directory = (await side.ask(Mkdir(root, "d"), EntryReply)).handle
    await side.ask(Rename(root, "f", directory, "g"), Ack)
    listing = await side.ask(Readdir(directory), ReaddirReply)
    assert [(entry.name, entry.record) for entry in listing.entries] == [("g", b"r")]
    assert (await side.ask(Lookup(directory, "g"), EntryReply)).handle == file
    await side.ask(Unlink(directory, "g"), Ack)
    await side.ask(Rmdir(root, "d"), Ack)
    assert await side.status(Getattr(file)) == errno.ESTALE
    side.dispatcher.closed()


async def test_refusals(store: Store) -> None:
    side = Side(store)
    root = (await side.ask(Mount(), EntryReply)).handle
    nobody = Handle(b"nobody")
    for request, payload, code in (
        (Lookup(root, "x"), None, errno.ENOENT),
        (Lookup(root, ".."), None, errno.EINVAL),
        (Lookup(nobody, "x"), None, errno.ESTALE),
        (Read(root, 0, 1), None, errno.EISDIR),
        (Read(nobody, 0, 1), None, errno.ESTALE),
        (Write(nobody, 0), b"x", errno.ESTALE),
        (Write(root, 0), b"x", errno.EISDIR),
        (Write(root, 0), None, errno.EISDIR),
        (AuxWrite(nobody, 0), b"x", errno.ESTALE),
        (Readdir(root, 0, 0), None, errno.EINVAL),
        (Ping(), b"payload", errno.EINVAL),
        (Read(root, 0, 1), b"payload", errno.EINVAL),
        (Transact([(nobody, 0)], 0, []), None, errno.ESTALE),
        (Transact([], 0, []), b"payload", errno.EINVAL),
        (Transact([], store.verifier + 1, []), None, errno.ESTALE),
    ):
        assert await side.status(request, payload) == code, request
    side.dispatcher.closed()


async def test_a_write_that_brings_its_intent(store: Store) -> None:
    """The intent is there before the payload is content, and only where the write may be done."""
    side = Side(store)
    root = (await side.ask(Mount(), EntryReply)).handle
    file = (await side.ask(Create(root, "f"), EntryReply)).handle
    await side.ask(Write(file, 0), WriteReply, b"old content")
    claim = Transact([], 0, [Step(StepKind.INTENT_PUT, file, 0, 100)])
    (key,) = (await side.ask(claim, TransactReply)).intents
    admitted = side.dispatcher.admit(Write(file, 0, intent=key, record=b"word"), 3)
    assert isinstance(admitted, Landing)
    assert copy_to_iter(b"NEW", admitted.iter.copy()) == 3
    assert await side.read(Read(file, 0, 100)) == (b"old content", True), "what is coming is not seen before"
    assert len((await side.ask(RecordGet(file), RecordReply)).intents) == 1
    answer = side.dispatcher.handle(Write(file, 0, intent=key, record=b"word"), admitted)
    reply = answer if isinstance(answer, Reply) else await answer
    rows = (await side.ask(RecordGet(file), RecordReply)).intents
    assert (rows[1].pos, rows[1].length, rows[1].mine, rows[1].record) == (0, 3, True, b"word")
    assert reply.body == WriteReply(3, store.verifier, rows[1].key)
    assert await side.read(Read(file, 0, 100)) == (b"NEW content", True)
    run = Compound([CompoundStep(Write(file, 4, intent=key, record=b"more"), 3)])
    (result,) = (await side.ask(run, CompoundReply, b"NEW")).results
    rows = (await side.ask(RecordGet(file), RecordReply)).intents
    assert (rows[2].pos, rows[2].record) == (4, b"more")
    assert result.body == WriteReply(3, store.verifier, rows[2].key)
    assert await side.read(Read(file, 0, 100)) == (b"NEW NEWtent", True)
    for request, payload, code in (
        (Write(file, 0, intent=key + 99, record=b"word"), b"BAD", errno.EAGAIN),
        (Write(file, 99, intent=key, record=b"word"), b"BAD", errno.EAGAIN),
        (Write(file, 0, intent=key, record=b"w" * 70_000), b"BAD", errno.EFBIG),
        (Write(file, 0, intent=key, record=b"word"), None, errno.EINVAL),
        (Write(file, 0, intent=key, record=b"word"), b"", errno.EINVAL),
    ):
        assert await side.status(request, payload) == code
    late = Write(file, 0, intent=key, record=b"word")
    landing = side.dispatcher.admit(late, 3)
    assert isinstance(landing, Landing)
    await side.ask(Transact([], 0, [Step(StepKind.INTENT_DROP, file, key)]), TransactReply)
    answer = side.dispatcher.handle(late, landing)  # what it names has gone while the payload came
    assert (answer if isinstance(answer, Reply) else await answer).status == errno.EAGAIN
    assert len((await side.ask(RecordGet(file), RecordReply)).intents) == 2
    assert await side.read(Read(file, 0, 100)) == (b"NEW NEWtent", True)
    side.dispatcher.closed()


async def test_long_reads_are_answered_short(store: Store) -> None:
    side = Side(store, Limits(max_payload=8192))
    root = (await side.ask(Mount(), EntryReply)).handle
    file = (await side.ask(Create(root, "f"), EntryReply)).handle
    await side.ask(Write(file, 0), WriteReply, b"x" * 20_000)
    assert await side.read(Read(file, 0, (1 << 63) - 1)) == (b"x" * 8192, False)
    assert await side.read(Read(file, 16384, 1 << 40)) == (b"x" * 3616, True)
    assert await side.status(Transact([], 0, []), b"x" * 8193) == errno.EMSGSIZE


async def test_empty_writes(store: Store) -> None:
    side = Side(store)
    root = (await side.ask(Mount(), EntryReply)).handle
    file = (await side.ask(Create(root, "f"), EntryReply)).handle
    for payload in (None, b""):
        assert (await side.ask(Write(file, 1000), WriteReply, payload)).count == 0
    assert (await side.ask(Getattr(file), AttrReply)).attr.size == 0
    assert (await side.ask(Transact([(file, 0)], 0, []), TransactReply, b"")).generations == [0]
    side.dispatcher.closed()


async def test_listing_fits_its_message(store: Store) -> None:
    limits = Limits(max_body=8192)
    side = Side(store, limits)
    root = (await side.ask(Mount(), EntryReply)).handle
    wanted = [f"{number:03}" + "x" * (number % 250) for number in range(120)]
    for name in wanted:
        await side.ask(Create(root, name), EntryReply)
    seen: list[str] = []
    cookie, eof = 0, False
    while not eof:
        listing = await side.ask(Readdir(root, cookie, 10_000), ReaddirReply)
        assert len(encode_reply(listing)) <= limits.max_body
        assert listing.entries
        seen += [entry.name for entry in listing.entries]
        cookie, eof = listing.entries[-1].cookie, listing.eof
    assert sorted(seen) == wanted
    big = (await side.ask(Lookup(root, wanted[0]), EntryReply)).handle
    await side.ask(Transact([], 0, [Step(StepKind.RECORD_PUT, big, record=bytes(RECORD_MAX))]), TransactReply)
    everything = await Side(store).ask(Readdir(root, 0, 10_000), ReaddirReply)
    assert len(encode_reply(everything)) <= Limits().max_body


class Counting(MemoryStore):
    """A memory store that counts what it lists."""

    listed = 0

    def readdir(self, handle: Handle, cookie: int, count: int) -> tuple[list[DirEntry], bool]:
        entries, eof = super().readdir(handle, cookie, count)
        self.listed += len(entries)
        return entries, eof


async def test_what_is_listed_is_sent() -> None:
    """The work of a listing grows with its names: large entries, as those of an encrypted volume, are not looked up in vain."""
    store = Counting(Probe())
    side = Side(store)
    root = (await side.ask(Mount(), EntryReply)).handle
    for number in range(1000):
        file = (await side.ask(Create(root, f"{number}"), EntryReply)).handle
        await side.ask(Transact([], 0, [Step(StepKind.RECORD_PUT, file, record=bytes(600))]), TransactReply)
    seen, pages, cookie, eof = 0, 0, 0, False
    while not eof:
        listing = await side.ask(Readdir(root, cookie, 10_000), ReaddirReply)
        seen, pages, cookie, eof = seen + len(listing.entries), pages + 1, listing.entries[-1].cookie, listing.eof
    assert seen == 1000 and pages > 2
    assert store.listed < 1100
    store.close()


async def test_defect_is_an_answer_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    side = Side(Broken(Probe()))
    for request, payload in ((Getattr(Handle(b"")), None), (Read(Handle(b""), 0, 1), None), (Write(Handle(b""), 0), b"x")):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert await side.status(request, payload) == errno.EIO
        assert type(request).__name__ in caplog.text
    await side.ask(Ping(), Ack)


def test_quick_store_answers_without_a_task() -> None:
    store = MemoryStore(Probe())
    dispatcher = Dispatcher(store, system_env(), Probe())
    reply = dispatcher.handle(Mount(), None)
    assert isinstance(reply, Reply) and isinstance(reply.body, EntryReply)
    assert isinstance(dispatcher.handle(Create(reply.body.handle, "f"), None), Reply)


def counting_env(ran: list[object]) -> Env:
    real = system_env()

    async def run(fn: Callable[[], T], /) -> T:
        await trio.lowlevel.checkpoint()
        ran.append(fn)
        return fn()

    return Env(now=real.now, rng=random.Random(0), nonces=real.nonces, run_blocking=run)


async def test_slow_store_works_in_threads_but_reads_what_is_at_hand() -> None:
    ran: list[object] = []
    store = Slow(Probe())
    side = Side(store, env=counting_env(ran))
    root = (await side.ask(Mount(), EntryReply)).handle
    await side.ask(Create(root, "f"), EntryReply)
    assert len(ran) == 2
    await side.ask(Ping(), Ack)
    assert len(ran) == 2


@pytest.mark.parametrize("request_of", [
    lambda file: (Write(file, 0), b"data"),
    lambda file: (AuxWrite(file, 0), b"data"),
    lambda file: (Transact([], 0, [Step(StepKind.AUX_WRITE, file, 0, 4)]), b"data"),
    lambda file: (Open(file), None),
], ids=["write", "aux", "transact", "open"])  # fmt: skip
@pytest.mark.parametrize("late", [False, True])
async def test_cancelled_before_or_after_its_work_leaks_nothing(
    request_of: Callable[[Handle], tuple[Request, bytes | None]], late: bool
) -> None:
    async def run(fn: Callable[[], T], /) -> T:
        if late:
            fn()
        await trio.sleep_forever()
        raise AssertionError

    store = Slow(Probe())
    root = store.root().handle
    file = store.create(root, "f", 0o600, exclusive=True).handle
    landing = store.write_landing(file, 0, 4)
    store.write(file, 0, landing, stable=False)
    real = system_env()
    side = Side(store, env=Env(now=real.now, rng=real.rng, nonces=real.nonces, run_blocking=run))
    with trio.CancelScope() as scope:
        scope.cancel()
        await side.reply(*request_of(file))
    assert scope.cancelled_caught
    assert store.lent == 0
    side.dispatcher.closed()
    store.close()


def test_awaitable_is_all_a_slow_answer_costs() -> None:
    store = Slow(Probe())
    answer = Dispatcher(store, system_env(), Probe()).handle(Mount(), None)
    assert isinstance(answer, Awaitable)
    answer.close()  # type: ignore[attr-defined]


async def test_trouble_of_the_machine_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryStore):
        def mkdir(self, parent: Handle, name: str, mode: int) -> EntryReply:
            raise OSError(errno.ENOSPC, "No space left on device")

    side = Side(Full(Probe()))
    assert await side.status(Mkdir(Handle(b""), "d")) == errno.ENOSPC
    assert [record.getMessage() for record in caplog.records] == ["trouble operation=Mkdir error=No space left on device"]
