"""Sans-IO. The messages of the RDMA transport: a frame header, the chunks the client offers, the body, an inline payload.

    | frame header, 24 | nr_source u16 | nr_dest u16 | inline u32 | chunks, 16 each | body | inline payload |

A chunk is (address u64, length u32, rkey u32). `source` chunks hold the request's payload, which the server fetches by READ;
`dest` chunks are where the reply's payload is to go, which it stores by WRITE. A payload without chunks travels inline. A CANCEL
is a bare header: the server answers the call it names at once if it has not yet. Owns no memory.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from transport.base import Limits
from transport.errors import ProtocolError
from transport.framing import CHECK, HEADER, MAX_STATUS
from transport.messages import Op
from transport.rdma.smbd import HEADER_BYTES

__all__ = ["CANCEL", "HEAD_BYTES", "INLINE_MAX", "Chunk", "Message", "message_size", "pack", "unpack"]

CANCEL: Final = 3
"""The kind of a message that takes a call back; requests and replies are `FrameKind`."""
INLINE_MAX: Final = 4096
"""Payloads up to this many bytes go inline, if the peer's receives hold them: registering and fencing cost more than the copy."""
_COUNTS: Final = struct.Struct("<HHI")
_CHUNK: Final = struct.Struct("<QII")
_FIXED: Final = HEADER.size + _COUNTS.size
_HEAD: Final = struct.Struct(f"<{HEADER_BYTES}x{HEADER.format[1:]}{_COUNTS.format[1:]}")
HEAD_BYTES: Final = _HEAD.size
"""Bytes of a message without body, chunks and payload, with the SMB-Direct header in front."""
_OPS: Final = {int(op): op for op in Op}


@dataclass(slots=True)
class Chunk:
    """`length` bytes of the client's memory at `addr`, reachable by `rkey`."""

    addr: int
    length: int
    rkey: int


@dataclass(slots=True)
class Message:
    """A message taken apart; `body` and `inline` lie in the receive buffer and are valid until it is posted again."""

    kind: int
    op: Op
    xid: int
    status: int
    payload_length: int
    source: list[Chunk]
    dest: list[Chunk]
    body: memoryview
    inline: memoryview


def message_size(limits: Limits, max_chunks: int) -> int:
    """Return the bytes of the largest message."""
    return _FIXED + max_chunks * _CHUNK.size + limits.max_body + INLINE_MAX


def pack(
    kind: int,
    op: Op,
    xid: int,
    status: int,
    body: bytes,
    payload_length: int = 0,
    inline: int = 0,
    source: Sequence[Chunk] = (),
    dest: Sequence[Chunk] = (),
) -> bytearray:
    """Return a message up to the end of its body, with room for an SMB-Direct header in front."""
    out = bytearray(_HEAD.pack(len(body), xid, payload_length, op, status, kind, 0, CHECK, len(source), len(dest), inline))
    for chunk in source:
        out += _CHUNK.pack(chunk.addr, chunk.length, chunk.rkey)
    for chunk in dest:
        out += _CHUNK.pack(chunk.addr, chunk.length, chunk.rkey)
    out += body
    return out


def unpack(view: memoryview, kinds: Sequence[int], limits: Limits, max_chunks: int) -> Message:
    """Take a received message apart.

    Raises: ProtocolError for anything a peer of ours would not send; the connection is of no use afterwards.
    """
    if len(view) < _FIXED:
        raise ProtocolError(f"bad message: {len(view)} bytes are less than a header")
    body_length, xid, payload_length, number, status, kind, flags, check = HEADER.unpack_from(view)
    nr_source, nr_dest, inline_length = _COUNTS.unpack_from(view, HEADER.size)
    if check != CHECK or flags or kind not in kinds:
        raise ProtocolError("bad message: not a header that is due here")
    op = _OPS.get(number)
    if op is None:
        raise ProtocolError(f"bad message: unknown operation {number}")
    if nr_source + nr_dest > max_chunks:
        raise ProtocolError(f"bad message: {nr_source + nr_dest} chunks, at most {max_chunks} were agreed")
    body_start = _FIXED + _CHUNK.size * (nr_source + nr_dest)
    body_end = body_start + body_length
    if body_length > limits.max_body or inline_length > INLINE_MAX or body_end + inline_length != len(view):
        raise ProtocolError(f"bad message: {body_length} + {inline_length} bytes announced in one of {len(view)}")
    if payload_length > limits.max_payload or status > MAX_STATUS:
        raise ProtocolError(f"bad message: payload {payload_length}, status {status}")
    chunks = [Chunk(*_CHUNK.unpack_from(view, _FIXED + _CHUNK.size * index)) for index in range(nr_source + nr_dest)]
    source, dest = chunks[:nr_source], chunks[nr_source:]
    if any(not chunk.length for chunk in chunks):
        raise ProtocolError("bad message: an empty chunk")
    if source and (inline_length or sum(chunk.length for chunk in source) != payload_length):
        raise ProtocolError("bad message: the chunks are not the payload")
    if sum(chunk.length for chunk in dest) > limits.max_payload:
        raise ProtocolError("bad message: chunks for more than the largest payload")
    return Message(
        kind, op, xid, status, payload_length, source, dest, view[body_start:body_end], view[body_end : body_end + inline_length]
    )
