"""Sans-IO. Outgoing FPDUs: messages in order, cut as they come up, each with its memory lent until its bytes are taken.

A message is an iterator of segments and what to call when the stream has the last byte. Segments are made a batch ahead. A READ
response names memory a peer was allowed to read; its segments carry a check that is repeated before every send, so that memory
whose registration has ended is not read again. When the stream is to end, what was not begun is dropped, and the rest of a
segment half sent is copied first: its memory goes back at once.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from transport.rdma.iwarp.ddp import (
    FRAME_TAGGED,
    FRAME_UNTAGGED,
    LAST,
    MAX_ULPDU,
    MSN_MASK,
    TAGGED,
    TAGGED_BYTES,
    UNTAGGED_BYTES,
    VERSION,
    cut,
    tagged_room,
    trailer,
    untagged_room,
)  # fmt: skip
from transport.rdma.iwarp.mpa import Crc
from transport.rdma.iwarp.rdmap import QUEUES, RV

__all__ = ["Frame", "Sender", "untagged_frame"]

AHEAD_BYTES: Final = 512 << 10
AHEAD_VIEWS: Final = 512
Check = Callable[[], bool]


@dataclass(slots=True)
class Frame:
    """An FPDU on its way: what is left of it, a check of its memory, and what follows its last byte."""

    views: list[memoryview]
    left: int
    begun: bool = False
    check: Check | None = None
    done: Callable[[], None] | None = None


def untagged_frame(crc: Crc | None, op: int, last: bool, ulp: int, msn: int, mo: int, views: Sequence[memoryview]) -> Frame:
    """Return one untagged segment."""
    length = UNTAGGED_BYTES + sum(map(len, views))
    ctrl = VERSION | LAST if last else VERSION
    head = FRAME_UNTAGGED.pack(length, ctrl, RV | op, ulp, QUEUES[op], msn, mo)
    tail = trailer(crc, length, head, views)
    return Frame([memoryview(head), *views, memoryview(tail)], len(head) + length - UNTAGGED_BYTES + len(tail))


class Sender:
    """The outgoing half of a stream. crc: the checksum, or None. `blocked` until a server may speak."""

    __slots__ = (
        "blocked", "closed", "crc", "frames", "messages", "msns", "room_tagged", "room_untagged", "views", "waiting", "wake",
    )  # fmt: skip

    def __init__(self, crc: Crc | None, wake: Callable[[], None], mulpdu: int = MAX_ULPDU) -> None:
        self.crc = crc
        self.wake = wake
        self.room_tagged = tagged_room(mulpdu)
        self.room_untagged = untagged_room(mulpdu)
        self.messages: deque[tuple[Iterator[Frame], Callable[[], None] | None]] = deque()
        self.frames: deque[Frame] = deque()
        self.waiting = 0
        self.views = 0
        self.msns = [itertools.count(1) for _ in range(4)]
        self.blocked = False
        self.closed = False

    # ---- messages in

    def put(self, frames: Iterator[Frame], done: Callable[[], None] | None = None) -> None:
        """Queue a message; `done` is called when its last byte is taken."""
        if not self.closed:
            self.messages.append((frames, done))
            self.wake()

    def untagged(self, op: int, views: Sequence[memoryview], ulp: int = 0, done: Callable[[], None] | None = None) -> None:
        """Queue an untagged message under the next number of its queue."""
        msn = next(self.msns[QUEUES[op]]) & MSN_MASK
        crc = self.crc
        frames = (untagged_frame(crc, op, last, ulp, msn, off, pieces) for off, _, pieces, last in cut(views, self.room_untagged))
        self.put(frames, done)

    def tagged(self, op: int, views: Sequence[memoryview], stag: int, to: int, done: Callable[[], None] | None = None) -> None:
        """Queue a tagged message."""
        frames = (
            self.tagged_frame(op, last, stag, to + off, pieces, length)
            for off, length, pieces, last in cut(views, self.room_tagged)
        )
        self.put(frames, done)

    def tagged_frame(self, op: int, last: bool, stag: int, to: int, views: Sequence[memoryview], length: int) -> Frame:
        """Return one tagged segment."""
        ctrl = TAGGED | VERSION | LAST if last else TAGGED | VERSION
        length += TAGGED_BYTES
        head = FRAME_TAGGED.pack(length, ctrl, RV | op, stag, to)
        tail = trailer(self.crc, length, head, views)
        return Frame([memoryview(head), *views, memoryview(tail)], len(head) + length - TAGGED_BYTES + len(tail))

    # ---- bytes out

    @property
    def busy(self) -> bool:
        """Whether there is something to send now."""
        return bool(self.frames or (self.messages and not self.blocked))

    def batch(self) -> list[memoryview] | None:
        """Return what to send next, or None when memory of a segment half sent may not be read any more: the stream is over."""
        messages = self.messages
        frames = self.frames
        while messages and not self.blocked and self.waiting < AHEAD_BYTES and self.views < AHEAD_VIEWS:
            iterator, done = messages[0]
            frame = next(iterator, None)
            if frame is None:
                messages.popleft()
                if done is not None:
                    # The last segment was made before; if it is gone, the message is complete.
                    if frames:
                        frames[-1].done = done
                    else:
                        done()
                continue
            frames.append(frame)
            self.waiting += frame.left
            self.views += len(frame.views)
        out: list[memoryview] = []
        for frame in frames:
            if frame.check is not None and not frame.check():
                return None
            out += frame.views
        return out

    def sent(self, count: int) -> None:
        """Account for bytes that the stream has taken from the front of the last batch."""
        frames = self.frames
        finished: list[Callable[[], None]] = []
        self.waiting -= count
        while count:
            frame = frames[0]
            if count >= frame.left:
                count -= frame.left
                frames.popleft()
                self.views -= len(frame.views)
                if frame.done is not None:
                    finished.append(frame.done)
                continue
            frame.begun = True
            frame.left -= count
            views = frame.views
            while count >= len(views[0]):
                count -= len(views.pop(0))
                self.views -= 1
            if count:
                views[0] = views[0][count:]
            break
        for done in finished:  # last, for one of them may end the stream
            done()

    def close(self, last: Frame | None = None) -> None:
        """Drop all but a segment half sent, which is copied; put `last` behind it. Memory is the owners' when this returns."""
        if self.closed:
            return
        self.closed = True
        self.messages.clear()
        kept = self.frames[0] if self.frames and self.frames[0].begun else None
        if kept is not None and kept.check is not None and not kept.check():
            kept = last = None
        self.frames.clear()
        for frame in (kept, last):
            if frame is not None:
                rest = bytearray()
                for view in frame.views:
                    rest += view
                self.frames.append(Frame([memoryview(rest)], len(rest)))
        self.blocked = False
        self.waiting = sum(frame.left for frame in self.frames)
        self.views = len(self.frames)
        self.wake()
