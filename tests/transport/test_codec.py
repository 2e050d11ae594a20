"""Every message goes through the codec unchanged, and nothing else comes out of it."""

import contextlib
import dataclasses
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.base import Limits
from transport.codec import (
    MAX_ASSERTS,
    MAX_COMPOUND,
    MAX_HANDLE,
    MAX_STEPS,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from transport.errors import ProtocolError
from transport.messages import (
    Ack,
    Allocate,
    Attr,
    AttrReply,
    AuxRead,
    AuxWrite,
    Await,
    Bind,
    BindReply,
    BlobGet,
    Body,
    Commit,
    Compound,
    CompoundReply,
    CompoundStep,
    CopyRange,
    Create,
    DirEntry,
    EndSession,
    EntryReply,
    EventsReply,
    Fence,
    FileType,
    Getattr,
    Handle,
    IntentRow,
    Lease,
    LeaseKind,
    LeaseReply,
    LeaseReturn,
    Link,
    Lock,
    LockFree,
    LockKind,
    LockReply,
    LockTest,
    Lookup,
    Mkdir,
    Mount,
    Op,
    Open,
    Ping,
    Punch,
    Read,
    Readdir,
    ReaddirReply,
    Readlink,
    ReadReply,
    Recall,
    RecordGet,
    RecordReply,
    Rename,
    RenameFlag,
    Request,
    Result,
    Revoke,
    Rmdir,
    Seek,
    SeekReply,
    Sequenced,
    SequencedReply,
    Setattr,
    Statfs,
    StatfsReply,
    Step,
    StepKind,
    Symlink,
    TargetReply,
    Transact,
    TransactReply,
    Truncate,
    Unlink,
    Unlock,
    Whence,
    Write,
    WriteReply,
    XattrGet,
    XattrList,
    XattrListReply,
    XattrMode,
    XattrRemove,
    XattrReply,
    XattrSet,
)  # fmt: skip

LIMITS = Limits()
H = Handle(b"\x00handle\xff")
LONG = Handle(b"h" * MAX_HANDLE)
TOP = (1 << 63) - 1
ATTR = Attr((1 << 64) - 1, FileType.DIRECTORY, 0o40755, 2, 1000, 1000, TOP, -5, 1 << 62, 0, 7)
ODD_NAME = b"caf\xe9 \xc3\xa9".decode("utf-8", "surrogateescape")

REQUESTS: list[Request] = [
    Ping(),
    Mount(),
    Lookup(H, ODD_NAME),
    Getattr(LONG),
    Setattr(H),
    Setattr(H, 0o600, 1, 2, -3, 4),
    Create(H, "a", 0o640, True),
    Open(H, True),
    Open(H),
    Read(H, 0, 0),
    Read(LONG, TOP, TOP),
    Write(H, TOP, True),
    Write(H, 0),
    Write(H, 0, False, TOP, b"record"),
    Commit(H),
    Truncate(H, TOP),
    Mkdir(H, "d"),
    Readdir(H, 5, 100),
    Unlink(H, "x" * 300),
    Rmdir(H, ""),
    Rename(H, "a", LONG, ODD_NAME),
    AuxRead(H, 1, 2),
    AuxWrite(H, 9),
    RecordGet(H),
    Setattr(H, size=TOP),
    Rename(H, "a", LONG, ODD_NAME, RenameFlag.EXCHANGE),
    Link(H, LONG, ODD_NAME),
    Symlink(H, "l", b"../\xff"),
    Readlink(H),
    Allocate(H, 1, TOP, True),
    Punch(H, TOP, 1),
    Seek(H, 9, Whence.HOLE),
    CopyRange(H, 1, LONG, 2, 3),
    XattrGet(H, "user.a"),
    XattrSet(H, ODD_NAME, b"\0value", XattrMode.REPLACE),
    XattrList(H),
    XattrRemove(LONG, "user.a"),
    Statfs(H),
    LockTest(H, (1 << 64) - 1, LockKind.WRITE, 0, TOP),
    Lock(H, 1, LockKind.READ, 5, 0, True, True),
    Unlock(H, 1, 0, 0),
    Lease(H, LeaseKind.READ | LeaseKind.HANDLE, True),
    LeaseReturn(H, LeaseKind.NONE, 7),
    Await(),
    Await(TOP),
    Bind(b"\0" * 16, (1 << 32) - 1, [1, 2], 64),
    Bind(b"", 1, [], 1),
    Fence([3]),
    EndSession(),
    Sequenced(63, TOP, Create(H, ODD_NAME, 0o600, True)),
    Sequenced(0, 1, Compound([CompoundStep(Unlink(H, "a"))])),
    Compound([]),
    BlobGet(H, 1),
    Transact(
        [], 0, [Step(StepKind.MOVE, H, name=ODD_NAME, other=LONG, new_name="n"), Step(StepKind.CREATE, H, 0o600, 1, name="x")]
    ),
    Compound([CompoundStep(Lookup(H, ODD_NAME)), CompoundStep(Write(Handle(b"\0"), 0), 1024), CompoundStep(Ping())]),
    Transact([], 0, []),
    Transact(
        [(H, 1), (LONG, TOP)], (1 << 64) - 1, [Step(StepKind.RECORD_PUT, H, record=b"r" * 999), Step(StepKind.AUX_WRITE, H, 3, 4)]
    ),
]
REPLIES: list[tuple[Op, Body]] = [
    (Op.PING, Ack()),
    (Op.UNLINK, Ack()),
    (Op.RMDIR, Ack()),
    (Op.RENAME, Ack()),
    (Op.MOUNT, EntryReply(H, ATTR)),
    (Op.LOOKUP, EntryReply(H, ATTR)),
    (Op.CREATE, EntryReply(H, ATTR)),
    (Op.MKDIR, EntryReply(H, ATTR)),
    (Op.GETATTR, AttrReply(ATTR)),
    (Op.SETATTR, AttrReply(ATTR)),
    (Op.OPEN, AttrReply(ATTR)),
    (Op.TRUNCATE, AttrReply(ATTR)),
    (Op.READ, ReadReply(True)),
    (Op.AUX_READ, ReadReply(False)),
    (Op.WRITE, WriteReply(TOP, (1 << 64) - 1)),
    (Op.WRITE, WriteReply(0, 1, TOP)),
    (Op.COMMIT, WriteReply(0, 1)),
    (Op.AUX_WRITE, WriteReply(5, 9)),
    (Op.READDIR, ReaddirReply([], False)),
    (Op.READDIR, ReaddirReply([DirEntry(ODD_NAME, 1, H, ATTR), DirEntry("b", 2, LONG, ATTR, b"rec")], True)),
    (Op.RECORD_GET, RecordReply(b"", 0)),
    (Op.RECORD_GET, RecordReply(b"r", 7, [IntentRow(1, 0, TOP, True, False, b"j" * 999)])),
    (Op.BLOB_GET, XattrReply(b"b" * 99)),
    (Op.LOOKUP, EntryReply(H, ATTR, b"r" * 448, 3, b"c" * 60)),
    (Op.TRANSACT, TransactReply([1], [EntryReply(H, ATTR, b"r", 1, b"c")], [TOP, 4])),
    (Op.TRANSACT, TransactReply([1, TOP])),
    (Op.LINK, EntryReply(H, ATTR)),
    (Op.SYMLINK, EntryReply(H, ATTR)),
    (Op.READLINK, TargetReply(b"\xff")),
    (Op.ALLOCATE, AttrReply(ATTR)),
    (Op.PUNCH, AttrReply(ATTR)),
    (Op.SEEK, SeekReply(TOP)),
    (Op.COPY_RANGE, WriteReply(1, 2)),
    (Op.XATTR_GET, XattrReply(b"\0")),
    (Op.XATTR_SET, AttrReply(ATTR)),
    (Op.XATTR_LIST, XattrListReply([ODD_NAME, "user.a"])),
    (Op.XATTR_REMOVE, AttrReply(ATTR)),
    (Op.STATFS, StatfsReply(4096, TOP, 2, 1, 9, 8, 255, True)),
    (Op.LOCK_TEST, LockReply(None)),
    (Op.LOCK_TEST, LockReply(LockKind.WRITE, 1, 2, 3)),
    (Op.LOCK, Ack()),
    (Op.UNLOCK, Ack()),
    (Op.LEASE, LeaseReply(LeaseKind.READ | LeaseKind.WRITE, 1, TOP)),
    (Op.LEASE_RETURN, Ack()),
    (Op.AWAIT, EventsReply(1, [])),
    (Op.AWAIT, EventsReply(7, [Recall(H, LeaseKind.READ, 7), Revoke(LONG, 8), LockFree(H, (1 << 64) - 1)])),
    (Op.BIND, BindReply(b"\xff" * 16, 64, TOP, 90_000, 0)),
    (Op.FENCE, Ack()),
    (Op.END_SESSION, Ack()),
    (Op.SEQUENCED, SequencedReply(Op.CREATE, EntryReply(H, ATTR))),
    (Op.SEQUENCED, SequencedReply(Op.UNLINK, Ack())),
    (Op.COMPOUND, CompoundReply([])),
    (
        Op.COMPOUND,
        CompoundReply(
            [Result(Op.LOOKUP, 0, 0, EntryReply(H, ATTR)), Result(Op.READ, 0, 9, ReadReply(True)), Result(Op.OPEN, 116)]
        ),
    ),
]


def decode(op: Op, body: bytes) -> Request:
    return decode_request(op, memoryview(body), LIMITS)


@pytest.mark.parametrize("request_", REQUESTS)
def test_request_round_trip(request_: Request) -> None:
    assert decode(request_.op, encode_request(request_)) == request_


def test_every_operation_is_covered() -> None:
    assert {request.op for request in REQUESTS} == set(Op) == {op for op, _ in REPLIES}


@pytest.mark.parametrize(("op", "reply"), REPLIES)
def test_reply_round_trip(op: Op, reply: Body) -> None:
    assert decode_reply(op, memoryview(encode_reply(reply)), LIMITS) == reply


def fields_of(message: Request | Body) -> list[Any]:
    body = encode_request(message) if hasattr(message, "op") else encode_reply(message)  # type: ignore[arg-type]
    values = msgpack.unpackb(body, use_list=False)
    assert isinstance(values, tuple)
    return list(values)


WRONG: list[object] = [None, -1, 1 << 63, (1 << 64) - 1, True, 1.5, b"\xff" * (MAX_HANDLE + 1), b"", "text", (), {}, (1,), 5]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_changed_field_is_decoded_as_meant_or_refused(request_: Request) -> None:
    """Whatever a field is replaced with, decoding gives a message that encodes to the very same bytes, or a ProtocolError."""
    original = fields_of(request_)
    for index in range(len(original)):
        for wrong in WRONG:
            changed = [*original[:index], wrong, *original[index + 1 :]]
            body = msgpack.packb(changed)
            try:
                decoded = decode(request_.op, body)
            except ProtocolError:
                continue
            assert encode_request(decoded) == body


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        (Op.READ, (b"h", True, 1)),
        (Op.READ, (b"h", 1, -1)),
        (Op.READ, (b"h", 1 << 63, 1)),
        (Op.READ, (b"h" * 65, 1, 1)),
        (Op.READ, ("h", 1, 1)),
        (Op.WRITE, (b"h", 1, 1, 0, b"")),
        (Op.WRITE, (b"h", 1, None, 0, b"")),
        (Op.WRITE, (b"h", 1.0, False, 0, b"")),
        (Op.WRITE, (b"h", 1, False, 0)),
        (Op.WRITE, (b"h", 1, False, 1 << 63, b"")),
        (Op.WRITE, (b"h", 1, False, 0, "record")),
        (Op.LOOKUP, (b"h", "str")),
        (Op.READ, (b"h", 1)),
        (Op.READ, (b"h", 1, 1, 1)),
        (Op.READ, 5),
        (Op.PING, (1,)),
        (Op.PING, None),
        (Op.SETATTR, (b"h", 1 << 32, None, None, None, None, None)),
        (Op.RENAME, (b"h", b"a", b"h", b"b", 4)),
        (Op.LEASE, (b"h", 8, False)),
        (Op.SEEK, (b"h", 0, 0)),
        (Op.COMPOUND, (((37, 0, ()),),)),
        (Op.COMPOUND, (((48, 0, (0,)),),)),
        (Op.COMPOUND, (((0, 5, ()),),)),
        (Op.COMPOUND, (((8, 5),),)),
        (Op.COMPOUND, (((0, 0, ()),) * (MAX_COMPOUND + 1),)),
        (Op.TRANSACT, ([(b"h",)], 0, [])),
        (Op.TRANSACT, ([], 0, [(9, b"h", 0, 0, b"")])),
        (Op.TRANSACT, ([], 1 << 63, 0)),
        (Op.TRANSACT, ([(b"h", 1)] * (MAX_ASSERTS + 1), 0, [])),
        (Op.TRANSACT, ([], 0, [(1, b"h", 0, 0, b"")] * (MAX_STEPS + 1))),
    ],
)
def test_bad_request_is_refused(op: Op, fields: object) -> None:
    with pytest.raises(ProtocolError):
        decode(op, msgpack.packb(fields))


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        (Op.READ, (1,)),
        (Op.READ, ()),
        (Op.WRITE, (1, 0, 0)),
        (Op.WRITE, (True, 1, 0)),
        (Op.WRITE, (1, -1, 0)),
        (Op.WRITE, (1, 1, 1 << 63)),
        (Op.WRITE, (1, 1)),
        (Op.COMMIT, (0, 0)),
        (Op.GETATTR, ((1, 9, 0),)),
        (Op.AWAIT, (1, ((4, (b"h", 1)),))),
        (Op.AWAIT, (1, ((1, (b"h", 1)),))),
        (Op.AWAIT, (1, (b"h",))),
        (Op.COMPOUND, (((0, 0, 0, None),),)),
        (Op.COMPOUND, (((0, 5, 0, ()),),)),
        (Op.COMPOUND, (((7, 5, 9, None),),)),
        (Op.COMPOUND, (((0, 4096, 0, None),),)),
        (Op.COMPOUND, (((0, 0, 3, ()),),)),
    ],
)
def test_bad_reply_is_refused(op: Op, fields: object) -> None:
    with pytest.raises(ProtocolError):
        decode_reply(op, memoryview(msgpack.packb(fields)), LIMITS)


BOMBS = [
    b"",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 3000,
    b"\xc1",
    b"\xc7\x05\x01",
    b"\x93\xc4\x01h\x00\x00\x00",
]


@pytest.mark.parametrize("body", BOMBS)
def test_what_is_not_msgpack_is_refused(body: bytes) -> None:
    for op in Op:
        with pytest.raises(ProtocolError):
            decode(op, body)


def test_a_body_over_the_limit_is_refused() -> None:
    body = encode_request(Lookup(H, "n" * 5000))
    with pytest.raises(ProtocolError, match="at most 4096"):
        decode_request(Op.LOOKUP, memoryview(body), dataclasses.replace(LIMITS, max_body=4096))


@given(st.sampled_from(Op), st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(op: Op, body: bytes) -> None:
    for decoder in (decode_request, decode_reply):
        with contextlib.suppress(ProtocolError):
            decoder(op, memoryview(body), LIMITS)


@given(st.binary(max_size=300))
def test_any_name_keeps_its_bytes(raw: bytes) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    assert decode(Op.LOOKUP, encode_request(Lookup(H, name))) == Lookup(H, name)
