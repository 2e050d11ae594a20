"""Sans-IO. The Terminate message: which layer complains, of what kind, about which segment. Follows RFC 5040 4.8, RFC 5044 8.

    | layer u4, type u4 | code u8 | M D R u8 | u8 | M: segment length u16 | D: its DDP header | R: its READ request |

It is the last message on a stream. Owns no memory.
"""

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from transport.rdma.enums import EventType

__all__ = ["Cause", "Refused", "Terminate"]

HEAD: Final = struct.Struct(">HBB")
LENGTH: Final = struct.Struct(">H")
HAS_LENGTH, HAS_HEADER, HAS_READ = 0x80, 0x40, 0x20
TAGGED_BIT: Final = 0x80
TAGGED_BYTES, UNTAGGED_BYTES, READ_BYTES = 14, 18, 28


class Cause(enum.IntEnum):
    """Layer, type and code in one number, as the first two bytes have them."""

    LOCAL_CATASTROPHIC = 0x0000
    PROTECTION_STAG = 0x0100
    PROTECTION_BOUNDS = 0x0101
    PROTECTION_ACCESS = 0x0102
    PROTECTION_STREAM = 0x0103
    PROTECTION_WRAP = 0x0104
    PROTECTION_INVALIDATE = 0x0109
    PROTECTION_UNSPECIFIED = 0x01FF
    OPERATION_VERSION = 0x0205
    OPERATION_OPCODE = 0x0206
    OPERATION_STREAM = 0x0207
    OPERATION_GLOBAL = 0x0208
    OPERATION_INVALIDATE = 0x0209
    OPERATION_UNSPECIFIED = 0x02FF
    DDP_LOCAL_CATASTROPHIC = 0x1000
    TAGGED_STAG = 0x1100
    TAGGED_BOUNDS = 0x1101
    TAGGED_STREAM = 0x1102
    TAGGED_WRAP = 0x1103
    TAGGED_VERSION = 0x1104
    UNTAGGED_QN = 0x1201
    UNTAGGED_NO_BUFFER = 0x1202
    UNTAGGED_MSN = 0x1203
    UNTAGGED_MO = 0x1204
    UNTAGGED_TOO_LONG = 0x1205
    UNTAGGED_VERSION = 0x1206
    LLP_LOST = 0x2001
    LLP_CRC = 0x2002
    LLP_LENGTH = 0x2003
    LLP_STARTUP = 0x2004
    LLP_LOCAL = 0x2005
    LLP_IRD = 0x2006
    LLP_RTR = 0x2007


TEXTS: Final[dict[int, str]] = {
    Cause.LOCAL_CATASTROPHIC: "it failed by itself",
    Cause.PROTECTION_STAG: "invalid STag",
    Cause.PROTECTION_BOUNDS: "outside the region",
    Cause.PROTECTION_ACCESS: "the region does not allow it",
    Cause.PROTECTION_STREAM: "the STag is not of this connection",
    Cause.PROTECTION_WRAP: "the offset wraps",
    Cause.PROTECTION_INVALIDATE: "the STag cannot be invalidated",
    Cause.PROTECTION_UNSPECIFIED: "not allowed",
    Cause.OPERATION_VERSION: "unknown RDMAP version",
    Cause.OPERATION_OPCODE: "unexpected opcode",
    Cause.OPERATION_STREAM: "catastrophic for the connection",
    Cause.OPERATION_GLOBAL: "catastrophic for the device",
    Cause.OPERATION_INVALIDATE: "the STag cannot be invalidated",
    Cause.OPERATION_UNSPECIFIED: "an operation that failed",
    Cause.DDP_LOCAL_CATASTROPHIC: "it failed by itself",
    Cause.TAGGED_STAG: "invalid STag",
    Cause.TAGGED_BOUNDS: "outside the region",
    Cause.TAGGED_STREAM: "the STag is not of this connection",
    Cause.TAGGED_WRAP: "the offset wraps",
    Cause.TAGGED_VERSION: "unknown DDP version",
    Cause.UNTAGGED_QN: "unknown queue",
    Cause.UNTAGGED_NO_BUFFER: "no receive was posted",
    Cause.UNTAGGED_MSN: "unexpected message number",
    Cause.UNTAGGED_MO: "unexpected offset in a message",
    Cause.UNTAGGED_TOO_LONG: "longer than the receive",
    Cause.UNTAGGED_VERSION: "unknown DDP version",
    Cause.LLP_LOST: "the stream was lost",
    Cause.LLP_CRC: "wrong checksum",
    Cause.LLP_LENGTH: "impossible length",
    Cause.LLP_STARTUP: "invalid start-up frame",
    Cause.LLP_LOCAL: "it failed by itself",
    Cause.LLP_IRD: "it answers too few READs at a time",
    Cause.LLP_RTR: "no common message to start with",
}
LAYERS: Final = ("RDMAP", "DDP", "MPA")


@dataclass(frozen=True, slots=True)
class Terminate:
    """cause: a `Cause`, or a peer's number that is none. length: of the offending segment, 0 when it is not told.

    header: its DDP header, read: its READ request, as far as they are told.
    """

    cause: int
    length: int = 0
    header: bytes = b""
    read: bytes = b""

    def __str__(self) -> str:
        layer = self.cause >> 12
        name = LAYERS[layer] if layer < len(LAYERS) else f"layer {layer}"
        return f"{name}: {TEXTS.get(self.cause, f'type {self.cause >> 8 & 15}, code {self.cause & 0xFF}')}"

    def pack(self) -> bytes:
        """Return the message's payload."""
        flags = HAS_HEADER * bool(self.header) | HAS_LENGTH * bool(self.header) | HAS_READ * bool(self.read)
        length = LENGTH.pack(self.length) if self.header else b""
        return HEAD.pack(self.cause, flags, 0) + length + self.header + self.read

    @classmethod
    def unpack(cls, data: bytes) -> "Terminate | None":
        """Read a payload, or return None when it is shorter than it says."""
        if len(data) < HEAD.size:
            return None
        cause, flags, _ = HEAD.unpack_from(data)
        off = HEAD.size
        length = 0
        header = read = b""
        if flags & HAS_LENGTH:
            if len(data) < off + LENGTH.size:
                return None
            (length,) = LENGTH.unpack_from(data, off)
            off += LENGTH.size
        if flags & HAS_HEADER:
            size = TAGGED_BYTES if len(data) > off and data[off] & TAGGED_BIT else UNTAGGED_BYTES
            header = data[off : off + size]
            off += size
        if flags & HAS_READ:
            read = data[off : off + READ_BYTES]
            off += READ_BYTES
        return cls(cause, length, header, read) if off <= len(data) else None


class Refused(Exception):
    """A segment that is not taken; the stream ends with a Terminate.

    event: what the queue pair's owner is told. culprit: completes the request to blame, which is not flushed like the others.
    """

    def __init__(self, cause: Cause, culprit: Callable[[], None] | None = None, event: EventType = EventType.QP_FATAL) -> None:
        super().__init__(cause)
        self.cause = cause
        self.culprit = culprit
        self.event = event
