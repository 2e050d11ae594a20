"""Compound requests: steps in order, what one names for the next, payload both ways, and where they end."""

import errno
from collections.abc import Iterator

import pytest
import trio

from iov.extract import extract_segments
from iov.iov_iter import IovIter
from iov.probe import Probe
from servers.stores.base import Store
from tests.conformance.store_words import KINDS, get, names, new, opened, top
from tests.servers.test_dispatch import Side, Slow
from transport.base import FileRange, Limits
from transport.codec import encode_reply
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
    EntryReply,
    Getattr,
    Handle,
    Lease,
    LeaseKind,
    LeaseReply,
    Lock,
    LockKind,
    Lookup,
    Mkdir,
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
    Result,
    Setattr,
    Step,
    StepKind,
    Transact,
    TransactReply,
    Unlink,
    Write,
    WriteReply,
)  # fmt: skip


def ref(number: int) -> Handle:
    return Handle(bytes([number]))


@pytest.fixture(params=[*KINDS, "slow"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "slow":
        slow = Slow(Probe())
        yield slow
        slow.close()
    else:
        with opened(request.param, Probe()) as made:
            yield made


def compound(*requests: Request | tuple[Request, int]) -> Compound:
    return Compound([CompoundStep(*item) if isinstance(item, tuple) else CompoundStep(item) for item in requests])


async def done(side: Side, request: Compound, payload: bytes | None = None) -> tuple[list[Result], bytes]:
    """Return results and payload, as a client sees them."""
    reply = await side.reply(request, payload)
    assert reply.status == 0, errno.errorcode[reply.status]
    body = reply.body
    assert isinstance(body, CompoundReply)
    assert encode_reply(body)
    data = b""
    if isinstance(reply.source, IovIter):
        data = b"".join(bytes(view) for view in extract_segments(reply.source, reply.source.count))
    else:
        assert reply.source is None
    if reply.release is not None:
        reply.release()
    assert len(data) == sum(result.payload_length for result in body.results)
    return body.results, data


def statuses(results: list[Result]) -> list[int]:
    return [result.status for result in results]


async def test_a_small_file_in_one_request(store: Store) -> None:
    side, root = Side(store), top(store)
    results, _ = await done(
        side, compound(Create(root, "f", 0o640, True), (Write(ref(0), 0), 5), Commit(ref(0)), Getattr(ref(0))), b"hello"
    )
    made, written, committed, seen = (result.body for result in results)
    assert isinstance(made, EntryReply) and isinstance(seen, AttrReply)
    assert (written, committed) == (WriteReply(5, store.verifier), WriteReply(0, store.verifier))
    assert seen.attr.size == 5
    assert get(store, made.handle) == b"hello"
    side.dispatcher.closed()


async def test_a_walk_and_a_read(store: Store) -> None:
    side, root = Side(store), top(store)
    directory = store.mkdir(root, "a", 0o755).handle
    inner = store.mkdir(directory, "b", 0o755).handle
    file = new(store, "f", b"content", inner)
    results, data = await done(
        side, compound(Lookup(root, "a"), Lookup(ref(0), "b"), Lookup(ref(1), "f"), Open(ref(2)), Read(ref(3), 2, 100))
    )
    assert data == b"ntent"
    assert results[-1] == Result(results[-1].op, 0, 5, ReadReply(True))
    assert isinstance(results[2].body, EntryReply) and results[2].body.handle == file
    assert isinstance(results[3].body, AttrReply) and isinstance(results[3].body.attr, Attr)


async def test_it_ends_with_the_first_failure(store: Store) -> None:
    side, root = Side(store), top(store)
    new(store, "f", b"x")
    results, data = await done(
        side, compound(Lookup(root, "f"), Read(ref(0), 0, 1), Lookup(root, "gone"), Unlink(root, "f"), Read(ref(0), 0, 1))
    )
    assert statuses(results) == [0, 0, errno.ENOENT]
    assert data == b"x"
    assert names(store, root) == ["f"]


async def test_what_a_reference_cannot_be(store: Store) -> None:
    side, root = Side(store), top(store)
    for request in (Getattr(ref(0)), Getattr(ref(1)), Getattr(ref(255))):
        assert statuses((await done(side, compound(request)))[0]) == [errno.EINVAL]
    assert statuses((await done(side, compound(Mkdir(root, "d"), Rename(root, "d", ref(2), "e"))))[0]) == [0, errno.EINVAL]
    assert statuses((await done(side, compound(Ping(), Getattr(ref(0)))))[0]) == [0, errno.ESTALE]
    assert await side.status(Getattr(ref(0))) == errno.ESTALE


async def test_several_payloads(store: Store) -> None:
    side, root = Side(store), top(store)
    steps = [Step(StepKind.AUX_WRITE, ref(0), 0, 2), Step(StepKind.RECORD_PUT, ref(0), record=b"r")]
    results, _ = await done(
        side,
        compound(
            Create(root, "f"),
            (Write(ref(0), 0), 4),
            (AuxWrite(ref(0), 2), 3),
            (Transact([(ref(0), 0)], 0, steps), 2),
            Setattr(ref(0), mode=0o600),
        ),
        b"dataauxTT",
    )
    assert statuses(results) == [0] * 5
    assert results[3].body == TransactReply([1])
    file = store.lookup(root, "f").handle
    results, data = await done(side, compound(Read(file, 0, 9), AuxRead(file, 0, 9), RecordGet(file), Read(file, 2, 1)))
    assert data == b"dataTTauxt"
    assert [result.payload_length for result in results] == [4, 5, 0, 1]
    assert results[2].body == RecordReply(b"r", 1)


async def test_payload_has_to_be_as_long_as_said(store: Store) -> None:
    side, root = Side(store), top(store)
    file = new(store)
    request = compound((Write(file, 0), 4))
    assert await side.status(request, b"abc") == errno.EINVAL
    assert await side.status(request, b"abcde") == errno.EINVAL
    assert await side.status(request) == errno.EINVAL
    assert store.getattr(file).size == 0
    results, _ = await done(side, compound(Write(file, 7), Create(root, "g")))
    assert results[0].body == WriteReply(0, store.verifier)


async def test_long_reads_come_whole_or_short(store: Store) -> None:
    limits = Limits(max_payload=300_000)
    side = Side(store, limits)
    file = new(store, "f", bytes(range(256)) * 1000)
    reply = await side.reply(compound(Read(file, 0, 256_000)))
    assert isinstance(reply.body, CompoundReply) and reply.body.results[0].payload_length == 256_000
    if isinstance(reply.source, FileRange):
        assert reply.source.length == 256_000
    assert reply.release is not None
    reply.release()
    results, data = await done(side, compound(Read(file, 0, 200_000), Read(file, 0, 200_000), Read(file, 0, 5)))
    assert [result.payload_length for result in results] == [200_000, 100_000, 0]
    assert data[200_000:] == data[:100_000]


async def test_what_does_not_fit_into_one_reply(store: Store) -> None:
    side, root = Side(store, Limits(max_body=4096)), top(store)
    for number in range(40):
        new(store, f"file{number}")
    results, _ = await done(side, compound(Getattr(root), Readdir(root), Mkdir(root, "d")))
    listed = results[1].body
    assert isinstance(listed, ReaddirReply) and 1 <= len(listed.entries) < 40 and not listed.eof
    assert statuses(results)[2:] == [errno.EMSGSIZE]
    assert "d" not in names(store, root)
    file = store.lookup(root, "file0").handle
    store.transact([], 0, [Step(StepKind.RECORD_PUT, file, record=bytes(4000))], None)
    assert statuses((await done(side, compound(RecordGet(file))))[0]) == [errno.EMSGSIZE]


async def test_no_step_is_a_defect(store: Store) -> None:
    side = Side(store)
    assert (await done(side, compound()))[0] == []
    assert (await done(side, compound(Ping())))[0][0].body == Ack()


async def test_what_clients_share_is_a_step_too(store: Store) -> None:
    side, root = Side(store), top(store)
    new(store, "f", b"data")
    results, data = await done(
        side,
        compound(Lookup(root, "f"), Lease(ref(0), LeaseKind.READ), Lock(ref(0), 1, LockKind.WRITE, 0, 0), Read(ref(0), 0, 9)),
    )
    leased = results[1].body
    assert isinstance(leased, LeaseReply) and leased.kinds == LeaseKind.READ
    assert (statuses(results), data) == ([0, 0, 0, 0], b"data")
    results, _ = await done(side, compound(Lookup(root, "f"), Lock(ref(0), 2, LockKind.READ, 5, 1), Ping()))
    assert statuses(results) == [0, errno.EAGAIN]
    side.dispatcher.closed()


async def test_cancelled_before_it_began(store: Store) -> None:
    if not store.blocking:
        return
    side, root = Side(store), top(store)
    request = compound(Create(root, "f"), (Write(ref(0), 0), 5))
    with trio.CancelScope() as scope:
        scope.cancel()
        await side.reply(request, b"hello")
    side.dispatcher.closed()
    assert (await side.reply(compound(Getattr(root)))).status == 0
