"""Sans-IO. SMB-Direct framing: the negotiation, the header of each message, fragments both ways, keepalive. Follows MS-SMBD 2.2.

    negotiate request    | min u16 | max u16 | 0 u16 | credits wanted u16 | send size u32 | receive size u32 | message size u32 |
    negotiate response   | min, max, chosen u16 | 0 u16 | credits wanted u16, granted u16 | status u32 | read and write size u32 |
                         | send size u32 | receive size u32 | message size u32 |
    data                 | credits wanted u16, granted u16 | flags u16 | 0 u16 | remaining u32 | offset u32 | length u32 | 0 u32 |

A message longer than the peer's receives goes in fragments, one message at a time, each with a header that says how many bytes
are still to come. A header without data, 20 bytes, only grants credits, or asks for a sign of life. All integers are
little-endian. A message taken lies in the receive it came in, or, put together from fragments, in memory of its own.
"""

import struct
from dataclasses import dataclass
from typing import Final

from transport.errors import HelloMismatch, ProtocolError
from transport.rdma.smbd_credits import Credits

__all__ = [
    "EMPTY_BYTES", "HEADER_BYTES", "IDLE_S", "MAX_SEND", "NEGOTIATE_S", "RESPONSE_S", "Offer", "Smbd", "Terms", "answer",
    "read_answer", "read_request", "request",
]  # fmt: skip

VERSION: Final = 0x0100
REQUEST: Final = struct.Struct("<HHHHIII")
RESPONSE: Final = struct.Struct("<HHHHHHIIIII")
FIXED: Final = struct.Struct("<HHHHIII")
DATA: Final = struct.Struct("<HHHHIIII")
HEADER_BYTES: Final = DATA.size
EMPTY_BYTES: Final = FIXED.size
RESPONSE_REQUESTED: Final = 1
NOT_SUPPORTED: Final = 0xC00000BB
MIN_SIZE: Final = 128
MIN_MESSAGE: Final = 128 << 10
MAX_SEND: Final = 8 << 10
"""Bytes of a receive: a header, ours, and an inline payload have room in one."""
NEGOTIATE_S: Final = 10.0
IDLE_S: Final = 120.0
RESPONSE_S: Final = 5.0
"""How long a peer may say nothing before it is asked for a sign of life, and how long it may take to give one."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a side says of itself. Sizes in bytes: of what it sends and receives at once, of a whole message."""

    credits: int
    max_send: int = MAX_SEND
    max_receive: int = MAX_SEND
    max_message: int = MIN_MESSAGE
    max_read_write: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Terms:
    """What is settled. max_send: bytes of one fragment with its header; max_message: of a whole message to the peer."""

    target: int
    granted: int
    max_send: int
    max_message: int


def request(offer: Offer) -> bytes:
    """Return the client's first message."""
    return REQUEST.pack(VERSION, VERSION, 0, offer.credits, offer.max_send, offer.max_receive, offer.max_message)


def read_request(view: memoryview, offer: Offer) -> Terms | None:
    """Return what a client's first message settles, or None when no version is common.

    Raises: HelloMismatch for anything else that is no request one could work with.
    """
    if len(view) != REQUEST.size:
        raise HelloMismatch(f"not a netfs client: no SMB-Direct negotiation, but a message of {len(view)} bytes")
    low, high, _, wanted, _, receive, message = REQUEST.unpack(view)
    if not low <= VERSION <= high:
        return None
    _check(wanted, receive, message)
    return Terms(min(wanted, offer.credits), 0, min(offer.max_send, receive), message)


def answer(offer: Offer, terms: Terms | None, granted: int = 0) -> bytes:
    """Return the server's answer, a refusal when there are no terms; the receives behind `granted` are posted by then."""
    chosen, status = (VERSION, 0) if terms is not None else (0, NOT_SUPPORTED)
    max_send = offer.max_send if terms is None else terms.max_send
    return RESPONSE.pack(
        VERSION, VERSION, chosen, 0, offer.credits, granted, status,
        offer.max_read_write, max_send, offer.max_receive, offer.max_message,
    )  # fmt: skip


def read_answer(view: memoryview, offer: Offer) -> Terms:
    """Return what the server's answer settles. Raises: HelloMismatch for a refusal, or no answer."""
    if len(view) != RESPONSE.size:
        raise HelloMismatch(f"not a netfs server: no SMB-Direct negotiation, but a message of {len(view)} bytes")
    low, high, chosen, _, wanted, granted, status, _, _, receive, message = RESPONSE.unpack(view)
    if status or chosen != VERSION:
        raise HelloMismatch(f"the server speaks SMB-Direct {low:#06x}–{high:#06x}, we speak {VERSION:#06x} (status {status:#x})")
    _check(wanted, receive, message)
    if not granted:
        raise HelloMismatch("the server grants no credits")
    return Terms(min(wanted, offer.credits), granted, min(offer.max_send, receive), message)


def _check(wanted: int, receive: int, message: int) -> None:
    if not wanted or receive < MIN_SIZE or message < MIN_MESSAGE:
        raise HelloMismatch(f"the peer's SMB-Direct terms make no sense: {wanted} credits, {receive} and {message} bytes")


class Smbd:
    """One side of a connection after the negotiation. room: bytes of a message that fit one fragment.

    asked: the peer wants a sign of life, which every message is.
    """

    __slots__ = ("_arrived", "_due", "_whole", "asked", "asking", "credits", "offer", "room", "terms")

    def __init__(self, offer: Offer, terms: Terms, posted: int, now: float) -> None:
        self.offer = offer
        self.terms = terms
        self.credits = Credits(terms.target)
        self.credits.posted = posted
        self.credits.gain(terms.granted)
        self.room = terms.max_send - HEADER_BYTES
        self.asked = False
        self.asking = False
        self._whole: memoryview | None = None
        self._arrived = 0
        self._due = now + IDLE_S

    # ---- out

    def pack_into(self, head: memoryview | bytearray, length: int, remaining: int) -> None:
        """Put a header in front of `length` bytes of data; `remaining` follow in other fragments. It uses a credit."""
        DATA.pack_into(head, 0, self.offer.credits, self.credits.take(), 0, 0, remaining, HEADER_BYTES, length, 0)
        self.asked = False

    def empty(self) -> bytes:
        """Return a message without data; it uses a credit."""
        self.asked = False
        return FIXED.pack(self.offer.credits, self.credits.take(), RESPONSE_REQUESTED if self.asking else 0, 0, 0, 0, 0)

    @property
    def empty_due(self) -> bool:
        """Whether an empty message is to go if nothing else does."""
        counts = self.credits
        return (self.asked and counts.may_send) or counts.starving

    # ---- in

    def received(self, view: memoryview) -> memoryview | None:
        """Take what came in one receive; return the message that is whole with it.

        Raises: ProtocolError for anything a peer that keeps the rules would not send.
        """
        size = len(view)
        if size < EMPTY_BYTES:
            raise ProtocolError(f"bad message: {size} bytes are less than an SMB-Direct header")
        wanted, granted, flags, reserved, remaining, off, length = FIXED.unpack_from(view)
        counts = self.credits
        counts.received(granted)
        if not wanted or flags & ~RESPONSE_REQUESTED or reserved:
            raise ProtocolError("bad message: not an SMB-Direct header")
        counts.target = min(wanted, self.offer.credits)
        if flags:
            self.asked = True
        if not length:
            if remaining:
                raise ProtocolError("bad message: a fragment without data")
            return None
        if off & 7 or off < HEADER_BYTES or off + length > size:
            raise ProtocolError(f"bad message: {length} bytes at {off} of a message of {size}")
        if not remaining and self._whole is None:
            return view[off : off + length]
        return self._join(view[off : off + length], remaining)

    def _join(self, piece: memoryview, remaining: int) -> memoryview | None:
        """Add a fragment to its message."""
        whole = self._whole
        if whole is None:
            total = len(piece) + remaining
            if total > self.offer.max_message:
                raise ProtocolError(f"bad message: {total} bytes, at most {self.offer.max_message} were agreed")
            whole = self._whole = memoryview(bytearray(total))
            self._arrived = 0
        end = self._arrived + len(piece)
        if end + remaining != len(whole):
            raise ProtocolError("bad message: the fragments are not one message")
        whole[self._arrived : end] = piece
        self._arrived = end
        if remaining:
            return None
        self._whole = None
        return whole

    @property
    def midway(self) -> bool:
        """Whether a message is not whole yet."""
        return self._whole is not None

    # ---- signs of life

    def heard(self, now: float) -> None:
        """Take note that something came."""
        self.asking = False
        self._due = now + IDLE_S

    @property
    def due(self) -> float:
        """When `overdue` is to be asked."""
        return self._due

    def overdue(self, now: float) -> bool:
        """Act on a silent peer: return False when it is to be asked for a sign of life, True when it gave none."""
        if self.asking:
            return True
        self.asking = True
        self._due = now + RESPONSE_S
        return False
