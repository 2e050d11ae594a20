"""Sans-IO. MPA: the two start-up frames, what they settle, and the checksum of FPDUs. Follows RFC 5044 and RFC 6581.

    | key, 16 | flags and revision u16 | length u16 | revision 2: IRD u16, ORD u16 | private data |

Each side states its own read depths; the other clamps its own by them, seen from the other side: my ORD by your IRD. Markers are
not made and not asked for; a peer that wants them is refused. A checksum is used when either side asks. Integers are big-endian.
Owns no memory.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from iov.checksum import HAVE_FAST_CRC, crc32c
from transport.errors import HelloMismatch
from transport.rdma.iwarp.terminate import Cause

__all__ = [
    "MAX_PRIVATE", "MpaError", "Rtr", "Settled", "StartFrame", "StartReader", "answer", "find_crc", "settle",
]  # fmt: skip

REQUEST_KEY: Final = b"MPA ID Req Frame"
REPLY_KEY: Final = b"MPA ID Rep Frame"
HEAD: Final = struct.Struct(">16sHH")
DEPTHS: Final = struct.Struct(">HH")
MARKERS, CRC, REJECT, ENHANCED = 0x8000, 0x4000, 0x2000, 0x1000
RESERVED: Final = 0x0700
TOP, NEXT = 0x8000, 0x4000
NO_DEPTH: Final = 0x3FFF
MAX_LENGTH: Final = 512
ROCE_MARK: Final = b"NETFSROC"
"""In front of the private data of a side that knows RoCE's rules."""
MAX_PRIVATE: Final = 256
"""Bytes of private data that every peer takes (Linux siw does not take more)."""
Crc = Callable[[bytes | bytearray | memoryview, int], int]


class MpaError(HelloMismatch):
    """The peer speaks no MPA, or wants what we do not do. private: what it said when it rejected the connection, else None.

    cause: what a Terminate may tell it, for who is not content with its reply.
    """

    def __init__(self, text: str, private: bytes | None = None, cause: Cause | None = None) -> None:
        super().__init__(text)
        self.private = private
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Rtr:
    """Peer-to-peer start-up: which messages may say "ready to receive": an empty FPDU, WRITE or READ."""

    empty: bool = False
    write: bool = False
    read: bool = False


@dataclass(frozen=True, slots=True)
class StartFrame:
    """A start-up frame. ird, ord: the sender's own read depths (revision 2). rtr: None where the client will speak first.

    roce: RoCE's rules are asked for, or agreed to (`roce.py`).
    """

    reply: bool
    revision: int = 2
    crc: bool = False
    markers: bool = False
    reject: bool = False
    ird: int = 0
    ord: int = 0
    rtr: Rtr | None = None
    private: bytes = b""
    roce: bool = False

    def pack(self) -> bytes:
        """Return the frame. Raises: ValueError for more private data than every peer takes."""
        private = ROCE_MARK + self.private if self.roce else self.private
        if len(private) > MAX_PRIVATE:
            raise ValueError(f"{len(private)} bytes of private data, {MAX_PRIVATE} at most")
        flags = self.revision | MARKERS * self.markers | CRC * self.crc | REJECT * self.reject
        depths = b""
        if self.revision > 1:
            flags |= ENHANCED
            ird, ord_ = min(self.ird, NO_DEPTH - 1), min(self.ord, NO_DEPTH - 1)
            if self.rtr is not None:
                ird |= TOP | NEXT * self.rtr.empty
                ord_ |= TOP * self.rtr.write | NEXT * self.rtr.read
            depths = DEPTHS.pack(ird, ord_)
        key = REPLY_KEY if self.reply else REQUEST_KEY
        return HEAD.pack(key, flags, len(depths) + len(private)) + depths + private


class StartReader:
    """Take a start-up frame as its bytes come, and not a byte more: FPDUs may follow a reply in the same receive.

    reply: whether a reply is expected, or a request.
    """

    __slots__ = ("_data", "_length", "_reply")

    def __init__(self, reply: bool) -> None:
        self._reply = reply
        self._data = bytearray()
        self._length = HEAD.size

    @property
    def need(self) -> int:
        """Bytes to receive next; 0 when the frame is whole."""
        return self._length - len(self._data)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add at most `need` bytes.

        Raises: MpaError as soon as they cannot be the beginning of the frame.
        """
        self._data += data
        key = REPLY_KEY if self._reply else REQUEST_KEY
        known = min(len(self._data), len(key))
        if self._data[:known] != key[:known]:
            raise MpaError(f"not an iWARP peer: it began with {bytes(self._data[:known])!r}")  # header: a stranger's first bytes
        if len(self._data) == HEAD.size:
            _, flags, length = HEAD.unpack(self._data)
            least = DEPTHS.size if flags & ENHANCED else 0
            if flags & 0xFF not in (1, 2) or (flags & ENHANCED and flags & 0xFF == 1):
                raise MpaError(f"the peer speaks MPA revision {flags & 0xFF}, we speak 1 and 2")
            if not least <= length <= MAX_LENGTH:
                raise MpaError(f"an MPA frame that announces {length} bytes")
            self._length += length

    def frame(self) -> StartFrame:
        """Return the whole frame."""
        _, flags, _ = HEAD.unpack_from(self._data)
        start = HEAD.size
        ird = ord_ = NO_DEPTH
        rtr: Rtr | None = None
        if flags & ENHANCED:
            ird, ord_ = DEPTHS.unpack_from(self._data, start)
            start += DEPTHS.size
            if ird & TOP:
                rtr = Rtr(bool(ird & NEXT), bool(ord_ & TOP), bool(ord_ & NEXT))
        private = bytes(self._data[start:])  # header: at most 512 bytes
        roce = private.startswith(ROCE_MARK)
        return StartFrame(
            self._reply, flags & 0xFF, bool(flags & CRC), bool(flags & MARKERS), bool(flags & REJECT),
            ird & NO_DEPTH, ord_ & NO_DEPTH, rtr, private.removeprefix(ROCE_MARK), roce,
        )  # fmt: skip

    def ended(self) -> MpaError:
        """Return the error for a peer that closed the connection now."""
        return MpaError(f"not an iWARP peer: it closed the connection after {len(self._data)} bytes")


@dataclass(frozen=True, slots=True)
class Settled:
    """What both keep to.

    ird: READs we answer at a time; ord: READs we have open. rtr: the client opens with such a message.
    roce: by RoCE's rules.
    """

    crc: bool
    ird: int
    ord: int
    rtr: Rtr | None = None
    roce: bool = False


def _clamp(mine: int, theirs: int) -> int:
    return mine if theirs == NO_DEPTH else min(mine, theirs)


def _no_markers(frame: StartFrame) -> None:
    if frame.markers:
        raise MpaError("the peer wants MPA markers in the stream, which are not supported", cause=Cause.LLP_STARTUP)


def answer(
    request: StartFrame, ird: int, ord_: int, crc: bool, private: bytes = b"", roce: bool = False
) -> tuple[StartFrame, Settled]:
    """Return the reply to a request, in its revision, and what is settled by it.

    Raises: MpaError for markers, and for a peer-to-peer start with nothing to start with.
    """
    _no_markers(request)
    settled = Settled(crc or request.crc, _clamp(ird, request.ord), _clamp(ord_, request.ird), roce=roce and request.roce)
    if request.rtr is not None:
        offered = request.rtr
        if not (offered.write or offered.read or offered.empty):
            raise MpaError("the peer asks for a peer-to-peer start without a message to start with")
        chosen = Rtr(write=True) if offered.write else Rtr(read=True) if offered.read else Rtr(empty=True)
        settled = replace(settled, rtr=chosen)
    reply = StartFrame(True, request.revision, settled.crc, ird=settled.ird, ord=settled.ord, rtr=settled.rtr, private=private,
        roce=settled.roce,
    )  # fmt: skip
    return reply, settled


def settle(request: StartFrame, reply: StartFrame) -> Settled:
    """Return what the reply to our own request settles.

    Raises: MpaError when the peer rejects, or answers what was not asked.
    """
    if reply.reject:
        raise MpaError("the peer rejected the connection", reply.private)
    _no_markers(reply)
    if reply.revision > request.revision:
        raise MpaError("the peer's MPA reply does not fit the request", cause=Cause.LLP_STARTUP)
    rtr = _opening(request, reply)
    if reply.roce and not request.roce:
        raise MpaError("the peer's MPA reply does not fit the request: it wants RoCE's rules", cause=Cause.LLP_STARTUP)
    return Settled(request.crc or reply.crc, _clamp(request.ird, reply.ord), _clamp(request.ord, reply.ird), rtr, reply.roce)


def _opening(request: StartFrame, reply: StartFrame) -> Rtr | None:
    """Return the message we start with where a peer-to-peer start was asked for and agreed to: a WRITE, an FPDU or a READ, empty.

    RoCE's rules number their messages, and have no use for a READ here.
    """
    asked, chosen = request.rtr, reply.rtr
    if chosen is None:
        return None
    if asked is None:
        raise MpaError("the peer's MPA reply does not fit the request: it chose a message to start with", cause=Cause.LLP_RTR)
    if asked.write and chosen.write:
        return Rtr(write=True)
    if asked.empty and chosen.empty:
        return Rtr(empty=True)
    if asked.read and chosen.read and not reply.roce and reply.ird:
        return Rtr(read=True)
    raise MpaError("the peer wants to be started by a message that was not offered", cause=Cause.LLP_RTR)


def find_crc() -> Crc:
    """Return CRC32C: the checksum of bytes, continued from that of earlier ones.

    Raises: MpaError when the package that computes it is not installed.
    """
    if not HAVE_FAST_CRC:
        raise MpaError("checksums on the stream need the package crc32c: pip install 'netfs[crc]'")
    return crc32c
