"""Sans-IO. Incoming FPDUs: headers are read in a window, payload goes straight to where its header says, after its checks.

    HEADER --tagged, SEND--> PAYLOAD --> TRAILER --> HEADER
       '--messages of RDMAP itself, whole in the window--'

`wanted` offers memory to receive into and `received` takes note of what came; between the two nothing else may run, and `paused`
says that something has run since. The memory of a segment half placed is looked up again before every receive then, so that no
byte lands where the registration has ended.
While a message goes on the window behind the payload is as long as trailer and next header, and nothing of it needs a copy;
behind a last segment it is longer, and what payload it catches is copied (`copied_bytes`).
Lengths are checked against the opcode before anything waits for them. The window is the receiver's.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from transport.rdma.iwarp.ddp import FRAME_TAGGED, FRAME_UNTAGGED, LAST, TAGGED, TAGGED_BYTES, UNTAGGED_BYTES, VERSION, pad_of
from transport.rdma.iwarp.mpa import Crc
from transport.rdma.iwarp.rdmap import BODY_BYTES, MAX_BODY, PRIVATE_OPS, QUEUES, RV, RV_MASK, SENDS, TAGGED_OPS, Op, Queue
from transport.rdma.iwarp.terminate import Cause, Refused

__all__ = ["Place", "Receiver", "Taker"]

WINDOW: Final = 32 << 10
SMALL_WINDOW: Final = 4 << 10
BIG: Final = 16 << 10
"""Segments that are longer make the window small, shorter ones make it large again."""
LENGTH: Final = struct.Struct(">HBB")
NEXT_HEADER: Final = FRAME_TAGGED.size
VERSION_BITS: Final = 0x03


@dataclass(slots=True)
class Place:
    """Where a segment's payload goes. views: its memory, just looked up; resolve: that from an offset on; finish: it is in."""

    length: int
    views: list[memoryview]
    resolve: Callable[[int], list[memoryview]]
    finish: Callable[[], None]


class Taker(Protocol):
    """Who takes segments; each method raises `Refused` to end the stream."""

    def tagged(self, op: int, last: bool, stag: int, to: int, length: int) -> Place:
        """Take a tagged segment."""

    def send(self, op: int, last: bool, ulp: int, msn: int, mo: int, length: int) -> Place:
        """Take a segment of a SEND."""

    def control(self, op: int, msn: int, body: bytes) -> None:
        """Take a message of one short segment."""

    def empty(self) -> None:
        """Take an FPDU without a segment."""


class Receiver:
    """The incoming half of a stream. `header`, `length`: the segment at hand, for a Terminate. private: take our own opcodes.

    asked: the body of a READ request at hand.
    """

    __slots__ = (
        "asked", "copied_bytes", "crc", "done", "end", "fresh", "header", "last", "length", "offer", "offered", "place",
        "private", "start", "sum", "taker", "trailer", "window",
    )  # fmt: skip

    def __init__(self, taker: Taker, crc: Crc | None) -> None:
        self.taker = taker
        self.crc = crc
        self.window = memoryview(bytearray(WINDOW))
        self.start = self.end = 0
        self.offer = WINDOW
        self.place: Place | None = None
        self.fresh: list[memoryview] | None = None
        self.done = 0
        self.last = True
        self.offered: list[memoryview] = []
        self.header = b""
        self.length = 0
        self.trailer = 0
        self.sum = 0
        self.copied_bytes = 0
        self.private = False
        self.asked = b""

    @property
    def midway(self) -> bool:
        """Whether the stream may not end here: a segment has begun."""
        return self.place is not None or self.start != self.end

    def paused(self) -> None:
        """Take note that others have run: memory looked up before may not be what it was."""
        self.fresh = None

    def wanted(self) -> list[memoryview]:
        """Return memory to receive into, at once. Raises: Refused when memory of the segment at hand is gone."""
        place = self.place
        if place is not None and self.done < place.length:
            self.start = self.end = 0
            ahead = self.offer if self.last else self.trailer + NEXT_HEADER
            fresh, self.fresh = self.fresh, None
            self.offered = fresh if fresh is not None else place.resolve(self.done)
            return [*self.offered, self.window[:ahead]]
        if self.start:
            rest = self.end - self.start
            self.window[:rest] = self.window[self.start : self.end]
            self.start, self.end = 0, rest
        return [self.window[self.end : max(self.offer, self.end + SMALL_WINDOW // 2)]]

    def received(self, count: int) -> None:
        """Take note of bytes received into what was wanted, and work through them. Raises: Refused."""
        place = self.place
        if place is not None and self.done < place.length:
            taken = min(count, place.length - self.done)
            if self.crc is not None:
                self._sum(self.offered, taken)
            self.done += taken
            count -= taken
        self.offered = []
        self.end += count
        while self._step():
            pass

    def _sum(self, views: list[memoryview], count: int) -> None:
        assert self.crc is not None
        for view in views:
            piece = view[:count]
            self.sum = self.crc(piece, self.sum)
            count -= len(piece)

    def _step(self) -> bool:
        """Make the next step with what is in the window; return False when more has to come."""
        place = self.place
        if place is None:
            return self._header()
        if self.done < place.length:
            length = min(place.length - self.done, self.end - self.start)
            if not length:
                return False
            self._from_window(place, length)
        if self.done < place.length or self.end - self.start < self.trailer:
            return False
        if self.crc is not None:
            self._check(self.window[self.start : self.start + self.trailer])
        self.start += self.trailer
        self.place = None
        place.finish()
        return True

    def _from_window(self, place: Place, length: int) -> None:
        source = self.window[self.start : self.start + length]
        off = 0
        fresh, self.fresh = self.fresh, None
        for view in fresh if fresh is not None else place.resolve(self.done):
            step = min(len(view), length - off)
            view[:step] = source[off : off + step]
            off += step
            if off == length:
                break
        if self.crc is not None:
            self.sum = self.crc(source, self.sum)
        self.copied_bytes += length
        self.done += length
        self.start += length

    def _check(self, trailer: memoryview) -> None:
        assert self.crc is not None
        if trailer[-4:] != self.crc(trailer[:-4], self.sum).to_bytes(4, "little"):
            raise Refused(Cause.LLP_CRC)

    def _header(self) -> bool:
        """Read a header, and the whole message when it is one of RDMAP itself."""
        window = self.window
        start = self.start
        have = self.end - start
        if have < LENGTH.size:
            return False
        length, ctrl, op = LENGTH.unpack_from(window, start)
        if not length:
            return self._empty(have)
        tagged = bool(ctrl & TAGGED)
        head = FRAME_TAGGED.size if tagged else FRAME_UNTAGGED.size
        self.length = length
        self.asked = b""
        self.header = bytes(window[start + 2 : start + min(have, head)])  # header: at most 18 bytes
        op = self._check_control(length, ctrl, op, tagged)
        body = 0 if tagged or op in SENDS else length - UNTAGGED_BYTES
        self.trailer = 4 + pad_of(length)
        if have < head or (body and have < head + body + self.trailer):
            return False
        self.last = bool(ctrl & LAST)
        if self.crc is not None:
            self.sum = self.crc(window[start : start + head], 0)
        if tagged:
            _, _, _, stag, to = FRAME_TAGGED.unpack_from(window, start)
            self._begin(self.taker.tagged(op, self.last, stag, to, length - TAGGED_BYTES), start + head)
            return True
        _, _, _, ulp, qn, msn, mo = FRAME_UNTAGGED.unpack_from(window, start)
        if qn != QUEUES[op]:
            raise Refused(Cause.UNTAGGED_QN if qn > Queue.ATOMIC + self.private else Cause.OPERATION_OPCODE)
        if op in SENDS:
            self._begin(self.taker.send(op, self.last, ulp, msn, mo, length - UNTAGGED_BYTES), start + head)
            return True
        return self._control(op, msn, mo, start + head, body)

    def _begin(self, place: Place, start: int) -> None:
        self.place = place
        self.fresh = place.views
        self.done = 0
        self.start = start
        self.offer = SMALL_WINDOW if place.length > BIG else WINDOW

    def _control(self, op: int, msn: int, mo: int, start: int, length: int) -> bool:
        if mo or not self.last:
            raise Refused(Cause.UNTAGGED_MO)
        body = bytes(self.window[start : start + length])  # header: at most 64 bytes
        self.asked = body if op == Op.READ_REQUEST else b""
        start += length
        if self.crc is not None:
            self.sum = self.crc(body, self.sum)
            self._check(self.window[start : start + self.trailer])
        self.start = start + self.trailer
        self.taker.control(op, msn, body)
        return True

    def _empty(self, have: int) -> bool:
        """Take an FPDU of length 0: two bytes, two of padding, the checksum."""
        size = 2 + pad_of(0) + 4
        if have < size:
            return False
        self.header, self.length = b"", 0
        frame = self.window[self.start : self.start + size]
        if self.crc is not None and frame[-4:] != self.crc(frame[:-4], 0).to_bytes(4, "little"):
            raise Refused(Cause.LLP_CRC)
        self.start += size
        self.taker.empty()
        return True

    def _check_control(self, length: int, ctrl: int, op: int, tagged: bool) -> int:
        """Check the two control bytes and the length; return the opcode."""
        if length < (TAGGED_BYTES if tagged else UNTAGGED_BYTES):
            raise Refused(Cause.LLP_LENGTH)
        if ctrl & VERSION_BITS != VERSION:
            raise Refused(Cause.TAGGED_VERSION if tagged else Cause.UNTAGGED_VERSION)
        if op & RV_MASK != RV:
            raise Refused(Cause.OPERATION_VERSION)
        op &= 0x0F
        if (op in TAGGED_OPS) != tagged or (not tagged and op not in QUEUES) or (op in PRIVATE_OPS and not self.private):
            raise Refused(Cause.OPERATION_OPCODE)
        body = BODY_BYTES.get(op)
        if body is not None and length != UNTAGGED_BYTES + body:
            raise Refused(Cause.LLP_LENGTH)
        if op == Op.TERMINATE and length > UNTAGGED_BYTES + MAX_BODY:
            raise Refused(Cause.LLP_LENGTH)
        return op
