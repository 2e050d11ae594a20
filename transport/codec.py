"""Sans-IO. Message bodies as msgpack arrays: encoding, and decoding that checks every type, range, length and count.

A body is an array of its fields in the order of the dataclass. Each field has a kind (`Kind`): how it goes out, and the check
it must pass to come in. What does not pass is a `ProtocolError`. An array or string is believed only as far as the body is
long, so a lying length allocates nothing. READ, WRITE and their replies, which carry most of the traffic, have their own
functions. Names travel as byte strings and are UTF-8 here, undecodable bytes kept as surrogates. Owns no memory: what is
decoded is a copy of the body.
"""

from typing import Any, Final

import msgpack

from transport import messages as m
from transport.base import Limits
from transport.errors import ProtocolError
from transport.fields import (
    END_U63,
    END_U64,
    FILE_TYPE,
    FLAG,
    HANDLE,
    LEASE_KINDS,
    LOCK_KIND,
    MAX_HANDLE,
    NAME,
    RECORD,
    RENAME_FLAGS,
    STEP_KIND,
    TIME,
    U32,
    U63,
    U64,
    WHENCE,
    XATTR_MODE,
    Kind,
    Layout,
    array,
    bad,
    check_handle,
    integer,
    optional,
)  # fmt: skip
from transport.messages import Body, Handle, Op, Request

__all__ = [
    "MAX_ASSERTS",
    "MAX_COMPOUND",
    "MAX_ENTRIES",
    "MAX_HANDLE",
    "MAX_STEPS",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]

MAX_ASSERTS: Final = 256
MAX_STEPS: Final = 1024
MAX_ENTRIES: Final = 16384
MAX_COMPOUND: Final = 64

_pack: Final = msgpack.Packer().pack
_unpackb: Final = msgpack.unpackb


_ATTR: Final = Layout(
    m.Attr, ino=U64, type=FILE_TYPE, mode=U32, nlink=U32, uid=U32, gid=U32, size=U63,
    atime_ns=TIME, mtime_ns=TIME, ctime_ns=TIME, change=U63, sealed=FLAG,
)  # fmt: skip
_NUMBERS: Final = frozenset({int})
_END_U32: Final = 1 << 32


def _check_attr(value: Any) -> m.Attr:
    """Check attributes, of which there are more than of all else, at once; what does not pass is looked at field by field."""
    if type(value) is tuple and len(value) == 12 and frozenset(map(type, value[:11])) == _NUMBERS and type(value[11]) is bool:
        ino, kind, mode, nlink, uid, gid, size, atime, mtime, ctime, change, sealed = value
        if (
            0 <= ino < END_U64 and 1 <= kind <= 4
            and 0 <= mode < _END_U32 and 0 <= nlink < _END_U32 and 0 <= uid < _END_U32 and 0 <= gid < _END_U32
            and 0 <= size < END_U63 and 0 <= change < END_U63
            and min(atime, mtime, ctime) >= -END_U63 and max(atime, mtime, ctime) < END_U63
        ):  # fmt: skip
            return m.Attr(ino, _FILE_TYPES[kind], mode, nlink, uid, gid, size, atime, mtime, ctime, change, sealed)
    attr: m.Attr = _ATTR.check(value)
    return attr


def _encode_attr(attr: m.Attr) -> object:
    return (
        attr.ino, attr.type, attr.mode, attr.nlink, attr.uid, attr.gid, attr.size, attr.atime_ns, attr.mtime_ns, attr.ctime_ns,
        attr.change, attr.sealed,
    )  # fmt: skip


_FILE_TYPES: Final = {int(kind): kind for kind in m.FileType}
assert sorted(_FILE_TYPES) == [1, 2, 3, 4]
ATTR: Final = Kind(_check_attr, _encode_attr)
_ENTRY: Final = Layout(m.DirEntry, name=NAME, cookie=U63, handle=HANDLE, attr=ATTR, record=optional(RECORD), certificate=RECORD)


def _check_entry(value: Any) -> m.DirEntry:
    """Check an entry as most are; what does not pass is looked at field by field."""
    if type(value) is tuple and len(value) == 6:
        name, cookie, handle, attr, record, certificate = value
        if (
            type(name) is bytes and type(cookie) is int and 0 <= cookie < END_U63
            and type(handle) is bytes and len(handle) <= MAX_HANDLE and record is None and certificate == b""
        ):  # fmt: skip
            return m.DirEntry(name.decode("utf-8", "surrogateescape"), cookie, Handle(handle), _check_attr(attr))
    entry: m.DirEntry = _ENTRY.check(value)
    return entry


def _encode_entry(entry: m.DirEntry) -> object:
    name = entry.name.encode("utf-8", "surrogateescape")
    return name, entry.cookie, entry.handle, _encode_attr(entry.attr), entry.record, entry.certificate


_STEP: Final = Layout(
    m.Step, kind=STEP_KIND, handle=HANDLE, pos=U63, length=U63, record=RECORD, name=NAME, other=HANDLE, new_name=NAME
)  # fmt: skip
_INTENT: Final = Layout(m.IntentRow, key=U63, pos=U63, length=U63, live=FLAG, mine=FLAG, record=RECORD)


def _check_assert(value: Any) -> tuple[Handle, int]:
    if type(value) is not tuple or len(value) != 2:
        raise bad("a handle and its generation", value)
    return check_handle(value[0]), U63.check(value[1])


_EVENTS: Final[dict[int, Layout]] = {
    int(m.EventKind.RECALL): Layout(m.Recall, handle=HANDLE, kinds=LEASE_KINDS, epoch=U63),
    int(m.EventKind.REVOKE): Layout(m.Revoke, handle=HANDLE, epoch=U63),
    int(m.EventKind.LOCK_FREE): Layout(m.LockFree, handle=HANDLE, owner=U64),
}


def _check_event(value: Any) -> m.Event:
    if type(value) is not tuple or len(value) != 2 or type(value[0]) is not int or value[0] not in _EVENTS:
        raise bad("an event", value)
    event: m.Event = _EVENTS[value[0]].check(value[1])
    return event


def _encode_event(event: m.Event) -> object:
    return int(event.kind), _EVENTS[event.kind].encode(event)


_REQUESTS: Final[dict[Op, Layout]] = {
    Op.PING: Layout(m.Ping),
    Op.MOUNT: Layout(m.Mount),
    Op.LOOKUP: Layout(m.Lookup, parent=HANDLE, name=NAME),
    Op.GETATTR: Layout(m.Getattr, handle=HANDLE),
    Op.SETATTR: Layout(
        m.Setattr, handle=HANDLE, mode=optional(U32), uid=optional(U32), gid=optional(U32),
        atime_ns=optional(TIME), mtime_ns=optional(TIME), size=optional(U63),
    ),
    Op.CREATE: Layout(m.Create, parent=HANDLE, name=NAME, mode=U32, exclusive=FLAG),
    Op.OPEN: Layout(m.Open, handle=HANDLE, write=FLAG),
    Op.READ: Layout(m.Read, handle=HANDLE, pos=U63, length=U63),
    Op.WRITE: Layout(m.Write, handle=HANDLE, pos=U63, stable=FLAG, intent=U63, record=RECORD),
    Op.COMMIT: Layout(m.Commit, handle=HANDLE),
    Op.TRUNCATE: Layout(m.Truncate, handle=HANDLE, size=U63),
    Op.MKDIR: Layout(m.Mkdir, parent=HANDLE, name=NAME, mode=U32),
    Op.READDIR: Layout(m.Readdir, handle=HANDLE, cookie=U63, count=U32),
    Op.UNLINK: Layout(m.Unlink, parent=HANDLE, name=NAME),
    Op.RMDIR: Layout(m.Rmdir, parent=HANDLE, name=NAME),
    Op.RENAME: Layout(m.Rename, parent=HANDLE, name=NAME, new_parent=HANDLE, new_name=NAME, flags=RENAME_FLAGS),
    Op.AUX_READ: Layout(m.AuxRead, handle=HANDLE, pos=U63, length=U63),
    Op.AUX_WRITE: Layout(m.AuxWrite, handle=HANDLE, pos=U63),
    Op.RECORD_GET: Layout(m.RecordGet, handle=HANDLE),
    Op.TRANSACT: Layout(
        m.Transact, asserts=array(_check_assert, MAX_ASSERTS), verifier=U64, steps=array(_STEP.check, MAX_STEPS, _STEP.encode)
    ),
    Op.LINK: Layout(m.Link, handle=HANDLE, parent=HANDLE, name=NAME),
    Op.SYMLINK: Layout(m.Symlink, parent=HANDLE, name=NAME, target=RECORD),
    Op.READLINK: Layout(m.Readlink, handle=HANDLE),
    Op.ALLOCATE: Layout(m.Allocate, handle=HANDLE, pos=U63, length=U63, keep_size=FLAG),
    Op.PUNCH: Layout(m.Punch, handle=HANDLE, pos=U63, length=U63),
    Op.SEEK: Layout(m.Seek, handle=HANDLE, pos=U63, whence=WHENCE),
    Op.COPY_RANGE: Layout(m.CopyRange, handle=HANDLE, pos=U63, target=HANDLE, target_pos=U63, length=U63),
    Op.XATTR_GET: Layout(m.XattrGet, handle=HANDLE, name=NAME),
    Op.XATTR_SET: Layout(m.XattrSet, handle=HANDLE, name=NAME, value=RECORD, mode=XATTR_MODE),
    Op.XATTR_LIST: Layout(m.XattrList, handle=HANDLE),
    Op.XATTR_REMOVE: Layout(m.XattrRemove, handle=HANDLE, name=NAME),
    Op.STATFS: Layout(m.Statfs, handle=HANDLE),
    Op.LOCK_TEST: Layout(m.LockTest, handle=HANDLE, owner=U64, kind=LOCK_KIND, pos=U63, length=U63),
    Op.LOCK: Layout(m.Lock, handle=HANDLE, owner=U64, kind=LOCK_KIND, pos=U63, length=U63, wait=FLAG, reclaim=FLAG),
    Op.UNLOCK: Layout(m.Unlock, handle=HANDLE, owner=U64, pos=U63, length=U63),
    Op.LEASE: Layout(m.Lease, handle=HANDLE, kinds=LEASE_KINDS, reclaim=FLAG),
    Op.LEASE_RETURN: Layout(m.LeaseReturn, handle=HANDLE, kinds=LEASE_KINDS, epoch=U63),
    Op.AWAIT: Layout(m.Await, seen=U63),
    Op.BLOB_GET: Layout(m.BlobGet, handle=HANDLE, slot=U32),
}  # fmt: skip

_ACK: Final = Layout(m.Ack)
_ENTRY_REPLY: Final = Layout(m.EntryReply, handle=HANDLE, attr=ATTR, record=RECORD, generation=U63, certificate=RECORD)
_ATTR_REPLY: Final = Layout(m.AttrReply, attr=ATTR)
_READ_REPLY: Final = Layout(m.ReadReply, eof=FLAG)
_WRITE_REPLY: Final = Layout(m.WriteReply, count=U63, verifier=Kind(integer(1, END_U64)), intent=U63)
_READDIR_REPLY: Final = Layout(m.ReaddirReply, entries=array(_check_entry, MAX_ENTRIES, _encode_entry), eof=FLAG)
_RECORD_REPLY: Final = Layout(
    m.RecordReply, record=RECORD, generation=U63, intents=array(_INTENT.check, MAX_STEPS, _INTENT.encode)
)  # fmt: skip
_TRANSACT_REPLY: Final = Layout(
    m.TransactReply,
    generations=array(U63.check, MAX_ASSERTS),
    made=array(_ENTRY_REPLY.check, MAX_STEPS, _ENTRY_REPLY.encode),
    intents=array(U63.check, MAX_STEPS),
)
_REPLIES: Final[dict[Op, Layout]] = {
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
    Op.LINK: _ENTRY_REPLY,
    Op.SYMLINK: _ENTRY_REPLY,
    Op.READLINK: Layout(m.TargetReply, target=RECORD),
    Op.ALLOCATE: _ATTR_REPLY,
    Op.PUNCH: _ATTR_REPLY,
    Op.SEEK: Layout(m.SeekReply, pos=U63),
    Op.COPY_RANGE: _WRITE_REPLY,
    Op.XATTR_GET: Layout(m.XattrReply, value=RECORD),
    Op.XATTR_SET: _ATTR_REPLY,
    Op.XATTR_LIST: Layout(m.XattrListReply, names=array(NAME.check, MAX_STEPS, NAME.encode)),
    Op.XATTR_REMOVE: _ATTR_REPLY,
    Op.STATFS: Layout(
        m.StatfsReply,
        block_size=U32,
        blocks=U63,
        free=U63,
        available=U63,
        files=U63,
        files_free=U63,
        name_max=U32,
        read_only=FLAG,
    ),
    Op.LOCK_TEST: Layout(m.LockReply, kind=optional(LOCK_KIND), pos=U63, length=U63, owner=U64),
    Op.LOCK: _ACK,
    Op.UNLOCK: _ACK,
    Op.LEASE: Layout(m.LeaseReply, kinds=LEASE_KINDS, epoch=U63, change=U63),
    Op.LEASE_RETURN: _ACK,
    Op.AWAIT: Layout(m.EventsReply, first=U63, events=array(_check_event, MAX_STEPS, _encode_event)),
    Op.BLOB_GET: Layout(m.XattrReply, value=RECORD),
}


# ---- compounds


def _op_of_step(number: Any) -> Op:
    op = _STEP_OPS.get(number) if type(number) is int else None
    if op is None:
        raise bad("the operation of a step", number)
    return op


def _check_compound_step(value: Any) -> m.CompoundStep:
    if type(value) is not tuple or len(value) != 3:
        raise bad("operation, length and body of a step", value)
    op = _op_of_step(value[0])
    length = U63.check(value[1])
    if length and op not in m.REQUEST_PAYLOAD:
        raise ProtocolError(f"bad message: a step {op.name} with payload")
    return m.CompoundStep(_REQUESTS[op].check(value[2]), length)


def _encode_compound_step(step: m.CompoundStep) -> object:
    op = step.request.op
    assert op in _STEP_OPS, f"{op.name} cannot be a step"
    return int(op), step.payload_length, _REQUESTS[op].encode(step.request)


def _check_result(value: Any) -> m.Result:
    if type(value) is not tuple or len(value) != 4:
        raise bad("operation, status, length and body of a result", value)
    op = _op_of_step(value[0])
    status, length = _STATUS(value[1]), U63.check(value[2])
    if (length and op not in m.REPLY_PAYLOAD) or (status and (length or value[3] is not None)):
        raise ProtocolError(f"bad message: a result of {op.name} with more than belongs there")
    return m.Result(op, status, length, None if status else _REPLIES[op].check(value[3]))


def _encode_result(result: m.Result) -> object:
    body = result.body
    return int(result.op), result.status, result.payload_length, None if body is None else _REPLY_OF[type(body)].encode(body)


# ---- sessions


def _check_inner(value: Any) -> Request:
    if type(value) is not tuple or len(value) != 2 or type(value[0]) is not int or value[0] not in _INNER_OPS:
        raise bad("an operation and its body", value)
    request: Request = _REQUESTS[_INNER_OPS[value[0]]].check(value[1])
    return request


def _encode_inner(request: Request) -> object:
    assert int(request.op) in _INNER_OPS, f"{request.op.name} cannot be numbered"
    return int(request.op), _REQUESTS[request.op].encode(request)


class _InnerReply(Layout):
    """The reply to a numbered request: whose it is, and its fields."""

    def encode(self, item: m.SequencedReply) -> list[object]:
        return [int(item.of), _REPLIES[item.of].encode(item.body)]

    def check(self, value: Any) -> m.SequencedReply:
        if type(value) is not tuple or len(value) != 2 or type(value[0]) is not int or value[0] not in _INNER_OPS:
            raise bad("an operation and its reply", value)
        op = _INNER_OPS[value[0]]
        return m.SequencedReply(op, _REPLIES[op].check(value[1]))


_STATUS: Final = integer(0, 4096)
_SESSION_OPS: Final = frozenset({Op.BIND, Op.FENCE, Op.END_SESSION, Op.SEQUENCED})
_STEP_OPS: Final = {int(op): op for op in Op if op not in _SESSION_OPS and op not in {Op.COMPOUND, Op.AWAIT}}
_REQUESTS[Op.COMPOUND] = Layout(m.Compound, steps=array(_check_compound_step, MAX_COMPOUND, _encode_compound_step))
_REPLIES[Op.COMPOUND] = Layout(m.CompoundReply, results=array(_check_result, MAX_COMPOUND, _encode_result))
_INNER_OPS: Final = {int(op): op for op in Op if op not in _SESSION_OPS and op is not Op.AWAIT}
_CHANNELS: Final = array(U32.check, MAX_STEPS)
_REQUESTS[Op.BIND] = Layout(m.Bind, session=RECORD, channel=U32, fence=_CHANNELS, slots=U32)
_REQUESTS[Op.FENCE] = Layout(m.Fence, channels=_CHANNELS)
_REQUESTS[Op.END_SESSION] = Layout(m.EndSession)
_REQUESTS[Op.SEQUENCED] = Layout(m.Sequenced, slot=U32, seq=U63, request=Kind(_check_inner, _encode_inner))
_REPLIES[Op.BIND] = Layout(m.BindReply, session=RECORD, slots=U32, boot=U64, expires_ms=U63, grace_ms=U63)
_REPLIES[Op.FENCE] = _REPLIES[Op.END_SESSION] = _ACK
_REPLIES[Op.SEQUENCED] = _InnerReply(m.SequencedReply, of=U32, body=RECORD)
_REPLY_OF: Final[dict[type[Any], Layout]] = {layout.build: layout for layout in _REPLIES.values()}

_NOT_AT_EOF: Final = _pack((False,))
_AT_EOF: Final = _pack((True,))

# ---- both ways


def encode_request(body: Request) -> bytes:
    """Encode a request's body."""
    kind = type(body)
    if kind is m.Read or kind is m.AuxRead:
        return _pack((body.handle, body.pos, body.length))  # type: ignore[union-attr]
    if kind is m.Write:
        return _pack((body.handle, body.pos, body.stable, body.intent, body.record))  # type: ignore[union-attr]
    return _pack(_REQUESTS[body.op].encode(body))


def encode_reply(body: Body) -> bytes:
    """Encode a reply's body."""
    kind = type(body)
    if kind is m.ReadReply:
        return _AT_EOF if body.eof else _NOT_AT_EOF  # type: ignore[union-attr]
    if kind is m.WriteReply:
        return _pack((body.count, body.verifier, body.intent))  # type: ignore[union-attr]
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
            and type(pos) is int and 0 <= pos < END_U63
            and type(length) is int and 0 <= length < END_U63
        ):  # fmt: skip
            return m.Read(Handle(handle), pos, length) if op is Op.READ else m.AuxRead(Handle(handle), pos, length)
    elif op is Op.WRITE and type(values) is tuple and len(values) == 5:
        handle, pos, stable, intent, record = values
        if (
            type(handle) is bytes and len(handle) <= MAX_HANDLE
            and type(pos) is int and 0 <= pos < END_U63 and type(stable) is bool
            and type(intent) is int and 0 <= intent < END_U63 and type(record) is bytes
        ):  # fmt: skip
            return m.Write(Handle(handle), pos, stable, intent, record)
    request: Request = _REQUESTS[op].check(values)
    return request


def decode_reply(op: Op, view: memoryview, limits: Limits) -> Body:
    """Decode and check the body of the reply to a request of this operation.

    Raises: ProtocolError as for a request.
    """
    if op is Op.READ and len(view) == 2:
        if view == _NOT_AT_EOF:
            return m.ReadReply(False)
        if view == _AT_EOF:
            return m.ReadReply(True)
    values = _unpack(view, limits.max_body, MAX_ENTRIES)
    if op is Op.WRITE and type(values) is tuple and len(values) == 3:
        count, verifier, intent = values
        if (
            type(count) is int and type(verifier) is int and type(intent) is int
            and 0 <= count < END_U63 and 0 < verifier < END_U64 and 0 <= intent < END_U63
        ):  # fmt: skip
            return m.WriteReply(count, verifier, intent)
    reply: Body = _REPLIES[op].check(values)
    return reply
