"""Sans-IO. Frames on a byte stream: the header, an incremental reader, and a writer of buffer lists.

    | header, 24 bytes | body, body_length bytes | payload, payload_length bytes |

`FrameReader` owns one receive window. Bytes are received into what `buffers()` offers and reported by `received()`; `next()`
then gives each frame whose header and body are whole, and the consumer says with `land()` where the payload goes. What of it is
in the window already is copied (and counted); the rest is received straight into the landing. So that a large payload is hardly
ever found in the window, the window is small while large payloads come and grows while small messages fill it. Lengths are
checked against the limits when the header is whole, before anything is allocated or awaited.

`FrameWriter` keeps the frames on their way out as one list of pieces and tells which frames a number of sent bytes completes.

Ownership: the window is the reader's; landing views and payload pieces are lent until the frame is landed or sent.
"""

import mmap
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Generic, TypeVar

from iov.bvec import PAGE_SIZE
from iov.probe import Probe
from transport.base import FileRange, Limits
from transport.errors import ProtocolError
from transport.messages import REPLY_PAYLOAD, REQUEST_PAYLOAD, Op

__all__ = [
    "BIG_PAYLOAD",
    "CHECK",
    "HEADER",
    "MAX_STATUS",
    "Frame",
    "FrameKind",
    "FrameReader",
    "FrameWriter",
    "Piece",
    "pack_header",
]

HEADER: Final = struct.Struct("<IIQHHBBH")
HEADER_LENGTH: Final = HEADER.size
CHECK: Final = 0x464E
MAX_STATUS: Final = 4095
BIG_PAYLOAD: Final = 64 << 10
"""A payload of this many bytes goes straight to its landing, but for a sixteenth."""
SMALL_WINDOW: Final = 4 << 10
LARGE_WINDOW: Final = 256 << 10
FEW_RECEIVES: Final = 4
"""So many receives that fill the window widen it; so many in a row that hardly use it narrow it."""
MAX_PIECES: Final = 1024

Piece = bytes | memoryview | FileRange
Owner = TypeVar("Owner")
_unpack_header: Final = HEADER.unpack_from
_pack_header: Final = HEADER.pack
_OPS: Final = {int(op): op for op in Op}


class FrameKind(IntEnum):
    """Who sends a frame."""

    REQUEST = 1
    REPLY = 2


_PAYLOAD_OPS: Final = {FrameKind.REQUEST: REQUEST_PAYLOAD, FrameKind.REPLY: REPLY_PAYLOAD}


@dataclass(slots=True)
class Frame:
    """A frame received; `body` is valid until the next `buffers()`, `landed` tells that the payload is in its place."""

    op: Op
    xid: int
    status: int
    payload_length: int
    body: memoryview
    landed: bool = False


def pack_header(kind: FrameKind, op: Op, xid: int, status: int, body_length: int, payload_length: int) -> bytes:
    """Return the 24 bytes in front of a body."""
    return _pack_header(body_length, xid, payload_length, op, status, kind, 0, CHECK)


class FrameReader:
    """Take frames of one kind apart as their bytes come.

    floor: the size of the window at first and after a large payload. ceiling: the most it may grow to; a consumer that knows when
    large payloads come uses a large floor and lowers the ceiling to SMALL_WINDOW meanwhile.
    """

    __slots__ = (
        "_discard", "_end", "_floor", "_frame", "_kind", "_limits", "_lull", "_memory", "_need", "_offered", "_payload_ops",
        "_probe", "_rest", "_rest_length", "_rush", "_start", "_window", "ceiling",
    )  # fmt: skip

    def __init__(self, kind: FrameKind, limits: Limits, probe: Probe, floor: int, ceiling: int) -> None:
        self._kind = int(kind)
        self._payload_ops = _PAYLOAD_OPS[kind]
        self._limits = limits
        self._probe = probe
        capacity = max(LARGE_WINDOW, -(-(limits.max_body + HEADER_LENGTH) // PAGE_SIZE) * PAGE_SIZE)
        self._memory = memoryview(mmap.mmap(-1, capacity))
        self._start = self._end = 0
        self._window = self._offered = self._floor = floor
        self._rush = self._lull = 0
        self._need = HEADER_LENGTH
        self._rest: list[memoryview] = []
        self._rest_length = 0
        self._discard = 0
        self._frame: Frame | None = None
        self.ceiling = ceiling

    @property
    def midway(self) -> bool:
        """Whether the bytes so far end inside a frame."""
        return self._end > self._start or self._frame is not None

    def buffers(self) -> list[memoryview]:
        """Return where to receive next: what is left of a payload, then the window. `next()` has returned None before."""
        if self._discard:
            return [self._memory[: self._discard]]
        start, end = self._start, self._end
        if start:
            left = end - start
            if left:
                self._memory[:left] = self._memory[start:end]
            self._start, self._end = 0, left
            end = left
        limit = self._window
        if limit > self.ceiling:
            limit = self.ceiling
        if limit < self._need:
            limit = self._need
        self._offered = limit
        if self._rest:
            return [*self._rest, self._memory[end:limit]]
        return [self._memory[end:limit]]

    def received(self, length: int) -> None:
        """Note that the first `length` bytes of what `buffers()` offered have been filled."""
        if self._discard:
            self._discard -= length
            return
        if self._rest_length:
            if length < self._rest_length:
                self._rest_length -= length
                _drop(self._rest, length)
                return
            length -= self._rest_length
            self._rest.clear()
            self._rest_length = 0
        self._end += length
        if self._end == self._offered:
            self._lull = 0
            self._rush += 1
            if self._rush == FEW_RECEIVES:
                self._rush = 0
                self._window = min(4 * self._window, self.ceiling)
        elif self._end > SMALL_WINDOW:
            self._lull = 0
        else:
            self._lull += 1
            if self._lull == FEW_RECEIVES:
                self._lull = self._rush = 0
                self._window = self._floor

    def next(self) -> Frame | None:
        """Return the next frame with a whole body, or once more the one whose payload has landed just now, or None.

        Raises: ProtocolError for a header that cannot be; the reader is of no use afterwards.
        """
        frame = self._frame
        if frame is not None:
            if self._rest_length or self._discard:
                return None
            self._frame = None
            frame.landed = True
            return frame
        start = self._start
        body_start = start + HEADER_LENGTH
        if body_start > self._end:
            self._need = HEADER_LENGTH
            return None
        body_length, xid, payload_length, number, status, kind, flags, check = _unpack_header(self._memory, start)
        op = _OPS.get(number)
        limits = self._limits
        if (
            op is None or check != CHECK or kind != self._kind or flags
            or body_length > limits.max_body or payload_length > limits.max_payload
            or (status and (kind == 1 or status > MAX_STATUS or body_length or payload_length))
            or (payload_length and op not in self._payload_ops)
        ):  # fmt: skip
            raise self._refusal(body_length, payload_length, number, status, kind, flags, check)
        body_end = body_start + body_length
        if body_end > self._end:
            self._need = HEADER_LENGTH + body_length
            return None
        self._start = body_end
        if payload_length >= BIG_PAYLOAD:
            self._window = self._floor
            self._rush = 0
        return Frame(op, xid, status, payload_length, self._memory[body_start:body_end])

    def land(self, frame: Frame, views: list[memoryview] | None) -> bool:
        """Say where the payload of the frame just returned goes: exactly its length in views, or None to drop it.

        Returns: True when it is all there; else `next()` returns the frame again when it is.
        Ownership: the views are lent until then, or until `redirect()`.
        """
        length = frame.payload_length
        start = self._start
        have = self._end - start
        if have > length:
            have = length
        self._start = start + have
        left = length - have
        if views is None:
            self._discard = left
        elif have:
            self._probe.copied(have)
            if len(views) == 1 and not left:
                views[0][:] = self._memory[start : start + have]
                return True
            self._copy(views, start, have)
        if not left:
            return True
        if views is not None:
            self._rest = views
            self._rest_length = left
        self._frame = frame
        # The window is used up: a landing in progress starts behind its last byte.
        self._start = self._end = 0
        self._need = HEADER_LENGTH
        return False

    def redirect(self) -> None:
        """Drop what is still to come of the payload now landing; its views are the owner's again."""
        self._discard += self._rest_length
        self._rest_length = 0
        self._rest = []

    def _copy(self, views: list[memoryview], start: int, length: int) -> None:
        """Copy the front of the window into `views` and leave in it what is not filled."""
        done = 0
        for index, view in enumerate(views):
            size = len(view)
            if size > length - done:
                view[: length - done] = self._memory[start + done : start + length]
                views[:index] = []
                views[0] = view[length - done :]
                return
            view[:] = self._memory[start + done : start + done + size]
            done += size
        views.clear()

    def _refusal(self, body: int, payload: int, number: int, status: int, kind: int, flags: int, check: int) -> ProtocolError:
        """Say what is wrong with a header, in the order a reader of it would notice."""
        limits = self._limits
        if check != CHECK or flags:
            return ProtocolError("bad frame: not a frame header; the stream is out of step")
        if kind != self._kind:
            return ProtocolError(f"bad frame: kind {kind} where {self._kind} is due")
        if number not in _OPS:
            return ProtocolError(f"bad frame: unknown operation {number}")
        if body > limits.max_body:
            return ProtocolError(f"bad frame: a body of {body} bytes, at most {limits.max_body} were agreed")
        if payload > limits.max_payload:
            return ProtocolError(f"bad frame: a payload of {payload} bytes, at most {limits.max_payload} were agreed")
        if status:
            return ProtocolError(f"bad frame: status {status} with {body} bytes of body and {payload} of payload")
        return ProtocolError(f"bad frame: {_OPS[number].name} carries no payload here")


def _drop(pieces: list[memoryview], length: int) -> None:
    """Remove the first `length` bytes, fewer than there are, from a list of views."""
    index = 0
    while length >= len(pieces[index]):
        length -= len(pieces[index])
        index += 1
    pieces[:index] = []
    if length:
        pieces[0] = pieces[0][length:]


class FrameWriter(Generic[Owner]):
    """Frames on their way out, each with an owner that is told when its last byte has gone.

    pending: bytes not yet sent.
    """

    __slots__ = ("_added", "_ends", "_files", "_pieces", "pending")

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._ends: deque[tuple[int, Owner]] = deque()
        self._added = 0
        self._files = 0
        self.pending = 0

    def add(self, head: bytes, payload: Sequence[memoryview] | FileRange | None, payload_length: int, owner: Owner) -> None:
        """Queue a frame: header and body, then payload. Ownership: the payload is lent until `sent` returns the owner."""
        self._pieces.append(head)
        if payload is not None:
            if isinstance(payload, FileRange):
                self._pieces.append(payload)
                self._files += 1
            else:
                self._pieces.extend(payload)
        length = len(head) + payload_length
        self.pending += length
        self._added += length
        self._ends.append((self._added, owner))

    def batch(self) -> tuple[list[bytes | memoryview], bool]:
        """Return what to send next, at most MAX_PIECES pieces, and whether more follows at once.

        An empty list means nothing to send, or that `file()` is next.
        """
        pieces = self._pieces
        if not self._files:
            if len(pieces) <= MAX_PIECES:
                return pieces, False  # type: ignore[return-value]
            return pieces[:MAX_PIECES], True  # type: ignore[return-value]
        views: list[bytes | memoryview] = []
        for piece in pieces[:MAX_PIECES]:
            if isinstance(piece, FileRange):
                break
            views.append(piece)
        return views, True

    def file(self) -> FileRange | None:
        """Return the file range that is to be sent next, if that is what is next."""
        if self._files:
            piece = self._pieces[0]
            if isinstance(piece, FileRange):
                return piece
        return None

    def substitute(self, view: memoryview) -> Owner:
        """Put memory with the same bytes in the place of the file range that is next; return the owner of its frame."""
        piece = self._pieces[0]
        assert isinstance(piece, FileRange) and len(view) == piece.length
        self._pieces[0] = view
        self._files -= 1
        return self._ends[0][1]

    def sent(self, length: int) -> list[Owner]:
        """Note that `length` bytes went out, and return the owners of the frames this completes, in order."""
        self.pending -= length
        ends = self._ends
        if not self.pending:
            self._pieces = []
            self._files = 0
            owners = [owner for _, owner in ends]
            ends.clear()
            return owners
        self._trim(length)
        gone = self._added - self.pending
        owners = []
        while ends and ends[0][0] <= gone:
            owners.append(ends.popleft()[1])
        return owners

    def lost(self) -> list[Owner]:
        """Forget everything and return the owners of what was not sent, in order."""
        self.pending = self._files = 0
        self._pieces = []
        owners = [owner for _, owner in self._ends]
        self._ends.clear()
        return owners

    def _trim(self, length: int) -> None:
        pieces = self._pieces
        index = 0
        while length:
            piece = pieces[index]
            is_file = isinstance(piece, FileRange)
            size = piece.length if isinstance(piece, FileRange) else len(piece)
            if length < size:
                if isinstance(piece, FileRange):
                    pieces[index] = FileRange(piece.fd, piece.pos + length, size - length)
                else:
                    pieces[index] = memoryview(piece)[length:]
                break
            self._files -= is_file
            length -= size
            index += 1
        pieces[:index] = []
