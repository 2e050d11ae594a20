"""Sans-IO. Message bodies as msgpack arrays: encoding, and decoding that checks every type, range, length and count.

A body is an array of its fields in the order of the dataclass. Each field has a kind (`Kind`): how it goes out, and the check
it must pass to come in. What does not pass is a `ProtocolError`. An array or string is believed only as far as the body is
long, so a lying length allocates nothing. READ, WRITE and their replies, which carry most of the traffic, have their own
functions. Names travel as byte strings and are UTF-8 here, undecodable bytes kept as surrogates. Owns no memory: what is
decoded is a copy of the body.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final

import msgpack

from transport.base import Limits
from transport.errors import ProtocolError
from transport.messages import (
    Ack,
    Attr,
    AttrReply,
    AuxRead,
    AuxWrite,
    Body,
    Commit,
    Create,
    DirEntry,
    EntryReply,
    FileType,
    Getattr,
    Handle,
    Lookup,
    Mkdir,
    Mount,
    Op,
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

__all__ = [
    "MAX_ASSERTS",
    "MAX_ENTRIES",
    "MAX_HANDLE",
    "MAX_STEPS",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]

MAX_HANDLE: Final = 64
MAX_ASSERTS: Final = 256
MAX_STEPS: Final = 1024
MAX_ENTRIES: Final = 16384
_END_U63: Final = 1 << 63
_END_U64: Final = 1 << 64

_pack: Final = msgpack.Packer().pack
_unpackb: Final = msgpack.unpackb


def _bad(what: str, value: object) -> ProtocolError:
    """Build the error for a field; the value is the peer's, so only its type is told."""
    return ProtocolError(f"bad message: {what} expected, got {type(value).__name__}")


# ---- the kinds of field


@dataclass(frozen=True, slots=True)
class Kind:
    """How one field is encoded (None: as it is) and checked when decoded."""

    check: Callable[[Any], Any]
    encode: Callable[[Any], object] | None = None


def _check_handle(value: Any) -> Handle:
    if type(value) is not bytes or len(value) > MAX_HANDLE:
        raise _bad("a handle", value)
    return Handle(value)


def _check_name(value: Any) -> str:
    if type(value) is not bytes:
        raise _bad("a name", value)
    return value.decode("utf-8", "surrogateescape")


def _encode_name(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _check_record(value: Any) -> bytes:
    if type(value) is not bytes:
        raise _bad("a record", value)
    return value


def _check_flag(value: Any) -> bool:
    if value is not True and value is not False:
        raise _bad("a truth value", value)
    return bool(value)


def _integer(low: int, end: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value < end:
            raise _bad(f"an integer from {low} to {end - 1}", value)
        return value

    return check


def _optional(kind: Kind) -> Kind:
    assert kind.encode is None
    return Kind(lambda value: None if value is None else kind.check(value))


def _array(check: Callable[[Any], Any], most: int, encode: Callable[[Any], object] | None = None) -> Kind:
    def check_array(value: Any) -> list[Any]:
        if type(value) is not tuple or len(value) > most:
            raise _bad(f"an array of at most {most}", value)
        return [check(item) for item in value]

    def encode_array(value: list[Any]) -> object:
        return value if encode is None else [encode(item) for item in value]

    return Kind(check_array, encode_array)


def _member(enumeration: type[FileType] | type[StepKind]) -> Callable[[Any], FileType | StepKind]:
    members: dict[int, FileType | StepKind] = {int(member): member for member in enumeration}

    def check(value: Any) -> FileType | StepKind:
        if type(value) is not int or value not in members:
            raise _bad(f"a {enumeration.__name__}", value)
        return members[value]

    return check


HANDLE: Final = Kind(_check_handle)
NAME: Final = Kind(_check_name, _encode_name)
RECORD: Final = Kind(_check_record)
FLAG: Final = Kind(_check_flag)
U32: Final = Kind(_integer(0, 1 << 32))
U63: Final = Kind(_integer(0, _END_U63))
U64: Final = Kind(_integer(0, _END_U64))
TIME: Final = Kind(_integer(-_END_U63, _END_U63))
FILE_TYPE: Final = Kind(_member(FileType), int)
STEP_KIND: Final = Kind(_member(StepKind), int)


# ---- a record of fields


class _Layout:
    """The fields of one dataclass on the wire."""

    __slots__ = ("build", "checks", "encoders", "get", "kinds", "name")

    def __init__(self, build: type[Any], **kinds: Kind) -> None:
        assert tuple(field.name for field in fields(build)) == tuple(kinds), (
            f"{build.__name__}: the fields and their kinds differ"
        )
        self.build = build
        self.name = build.__name__
        self.kinds = kinds
        self.checks = tuple(kind.check for kind in kinds.values())
        self.encoders = tuple((index, kind.encode) for index, kind in enumerate(kinds.values()) if kind.encode is not None)
        self.get = attrgetter(*kinds) if len(kinds) > 1 else None

    def encode(self, item: Any) -> list[object]:
        if self.get is not None:
            values = list(self.get(item))
        else:
            values = [getattr(item, name) for name in self.kinds]
        for index, encode in self.encoders:
            values[index] = encode(values[index])
        return values

    def check(self, value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(self.checks):
            raise _bad(f"the {len(self.checks)} fields of {self.name}", value)
        return self.build(*[check(field) for check, field in zip(self.checks, value, strict=True)])


_ATTR: Final = _Layout(
    Attr, ino=U64, type=FILE_TYPE, mode=U32, nlink=U32, uid=U32, gid=U32, size=U63,
    atime_ns=TIME, mtime_ns=TIME, ctime_ns=TIME, change=U63, sealed=FLAG,
)  # fmt: skip
ATTR: Final = Kind(_ATTR.check, _ATTR.encode)
_ENTRY: Final = _Layout(DirEntry, name=NAME, cookie=U63, handle=HANDLE, attr=ATTR, record=_optional(RECORD))
_STEP: Final = _Layout(Step, kind=STEP_KIND, handle=HANDLE, pos=U63, length=U63, record=RECORD)


def _check_assert(value: Any) -> tuple[Handle, int]:
    if type(value) is not tuple or len(value) != 2:
        raise _bad("a handle and its generation", value)
    return _check_handle(value[0]), U63.check(value[1])


_REQUESTS: Final[dict[Op, _Layout]] = {
    Op.PING: _Layout(Ping),
    Op.MOUNT: _Layout(Mount),
    Op.LOOKUP: _Layout(Lookup, parent=HANDLE, name=NAME),
    Op.GETATTR: _Layout(Getattr, handle=HANDLE),
    Op.SETATTR: _Layout(
        Setattr, handle=HANDLE, mode=_optional(U32), uid=_optional(U32), gid=_optional(U32),
        atime_ns=_optional(TIME), mtime_ns=_optional(TIME),
    ),
    Op.CREATE: _Layout(Create, parent=HANDLE, name=NAME, mode=U32, exclusive=FLAG),
    Op.OPEN: _Layout(Open, handle=HANDLE, write=FLAG),
    Op.READ: _Layout(Read, handle=HANDLE, pos=U63, length=U63),
    Op.WRITE: _Layout(Write, handle=HANDLE, pos=U63, stable=FLAG),
    Op.COMMIT: _Layout(Commit, handle=HANDLE),
    Op.TRUNCATE: _Layout(Truncate, handle=HANDLE, size=U63),
    Op.MKDIR: _Layout(Mkdir, parent=HANDLE, name=NAME, mode=U32),
    Op.READDIR: _Layout(Readdir, handle=HANDLE, cookie=U63, count=U32),
    Op.UNLINK: _Layout(Unlink, parent=HANDLE, name=NAME),
    Op.RMDIR: _Layout(Rmdir, parent=HANDLE, name=NAME),
    Op.RENAME: _Layout(Rename, parent=HANDLE, name=NAME, new_parent=HANDLE, new_name=NAME),
    Op.AUX_READ: _Layout(AuxRead, handle=HANDLE, pos=U63, length=U63),
    Op.AUX_WRITE: _Layout(AuxWrite, handle=HANDLE, pos=U63),
    Op.RECORD_GET: _Layout(RecordGet, handle=HANDLE),
    Op.TRANSACT: _Layout(
        Transact, asserts=_array(_check_assert, MAX_ASSERTS), verifier=U64, steps=_array(_STEP.check, MAX_STEPS, _STEP.encode)
    ),
}  # fmt: skip

_ACK: Final = _Layout(Ack)
_ENTRY_REPLY: Final = _Layout(EntryReply, handle=HANDLE, attr=ATTR)
_ATTR_REPLY: Final = _Layout(AttrReply, attr=ATTR)
_READ_REPLY: Final = _Layout(ReadReply, eof=FLAG)
_WRITE_REPLY: Final = _Layout(WriteReply, count=U63, verifier=Kind(_integer(1, _END_U64)))
_READDIR_REPLY: Final = _Layout(ReaddirReply, entries=_array(_ENTRY.check, MAX_ENTRIES, _ENTRY.encode), eof=FLAG)
_RECORD_REPLY: Final = _Layout(RecordReply, record=RECORD, generation=U63)
_TRANSACT_REPLY: Final = _Layout(TransactReply, generations=_array(U63.check, MAX_ASSERTS))
_REPLIES: Final[dict[Op, _Layout]] = {
    Op.PING: _ACK,
    Op.MOUNT: _ENTRY_REPLY,
    Op.LOOKUP: _ENTRY_REPLY,
    Op.GETATTR: _ATTR_REPLY,
    Op.SETATTR: _ATTR_REPLY,
    Op.CREATE: _ENTRY_REPLY,
    Op.OPEN: _ATTR_REPLY,
    Op.READ: _READ_REPLY,
    Op.WRITE: _WRITE_REPLY,
    Op.COMMIT: _WRITE_REPLY,
    Op.TRUNCATE: _ATTR_REPLY,
    Op.MKDIR: _ENTRY_REPLY,
    Op.READDIR: _READDIR_REPLY,
    Op.UNLINK: _ACK,
    Op.RMDIR: _ACK,
    Op.RENAME: _ACK,
    Op.AUX_READ: _READ_REPLY,
    Op.AUX_WRITE: _WRITE_REPLY,
    Op.RECORD_GET: _RECORD_REPLY,
    Op.TRANSACT: _TRANSACT_REPLY,
}
_REPLY_OF: Final[dict[type[Any], _Layout]] = {layout.build: layout for layout in _REPLIES.values()}

_NOT_AT_EOF: Final = _pack((False,))
_AT_EOF: Final = _pack((True,))

# ---- both ways


def encode_request(body: Request) -> bytes:
    """Encode a request's body."""
    kind = type(body)
    if kind is Read or kind is AuxRead:
        return _pack((body.handle, body.pos, body.length))  # type: ignore[union-attr]
    if kind is Write:
        return _pack((body.handle, body.pos, body.stable))  # type: ignore[union-attr]
    return _pack(_REQUESTS[body.op].encode(body))


def encode_reply(body: Body) -> bytes:
    """Encode a reply's body."""
    kind = type(body)
    if kind is ReadReply:
        return _AT_EOF if body.eof else _NOT_AT_EOF  # type: ignore[union-attr]
    if kind is WriteReply:
        return _pack((body.count, body.verifier))  # type: ignore[union-attr]
    return _pack(_REPLY_OF[kind].encode(body))


def _unpack(view: memoryview, max_body: int, max_array: int) -> Any:
    if len(view) > max_body:
        raise ProtocolError(f"bad message: a body of {len(view)} bytes, at most {max_body} were agreed")
    try:
        return _unpackb(
            view, use_list=False, max_str_len=0, max_bin_len=max_body, max_array_len=max_array, max_map_len=0, max_ext_len=0
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"bad message: not msgpack as we speak it ({type(error).__name__})") from None


def decode_request(op: Op, view: memoryview, limits: Limits) -> Request:
    """Decode and check the body of a request.

    Raises: ProtocolError for anything that is not exactly a body of this operation.
    """
    values = _unpack(view, limits.max_body, MAX_STEPS)
    if (op is Op.READ or op is Op.AUX_READ) and type(values) is tuple and len(values) == 3:
        handle, pos, length = values
        if (
            type(handle) is bytes and len(handle) <= MAX_HANDLE
            and type(pos) is int and 0 <= pos < _END_U63
            and type(length) is int and 0 <= length < _END_U63
        ):  # fmt: skip
            return Read(Handle(handle), pos, length) if op is Op.READ else AuxRead(Handle(handle), pos, length)
    elif op is Op.WRITE and type(values) is tuple and len(values) == 3:
        handle, pos, stable = values
        if (
            type(handle) is bytes and len(handle) <= MAX_HANDLE
            and type(pos) is int and 0 <= pos < _END_U63 and type(stable) is bool
        ):  # fmt: skip
            return Write(Handle(handle), pos, stable)
    request: Request = _REQUESTS[op].check(values)
    return request


def decode_reply(op: Op, view: memoryview, limits: Limits) -> Body:
    """Decode and check the body of the reply to a request of this operation.

    Raises: ProtocolError as for a request.
    """
    if op is Op.READ and len(view) == 2:
        if view == _NOT_AT_EOF:
            return ReadReply(False)
        if view == _AT_EOF:
            return ReadReply(True)
    values = _unpack(view, limits.max_body, MAX_ENTRIES)
    if op is Op.WRITE and type(values) is tuple and len(values) == 2:
        count, verifier = values
        if type(count) is int and type(verifier) is int and 0 <= count < _END_U63 and 0 < verifier < _END_U64:
            return WriteReply(count, verifier)
    reply: Body = _REPLIES[op].check(values)
    return reply
