"""Sans-IO. Outgoing FPDUs: messages in order, cut as they come up, each with its memory lent until its bytes are taken.

A message is an iterator of segments and what to call when the stream has the last byte. Segments are made a batch ahead. Answers
to the peer's READs and atomics have a queue of their own: our requests do not wait behind them, but go between their segments,
as far as two tagged messages are not mixed. A READ response names memory a peer was allowed to read; its segments carry a check
that is repeated before every send, so that memory whose registration has ended is not read again. When the stream is to end,
what was not begun is dropped, and the rest of a segment half sent is copied first: its memory goes back at once.
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
from transport.rdma.iwarp.rdmap import QUEUES, RV, Queue

__all__ = ["Frame", "Sender", "empty_frame", "untagged_frame"]

AHEAD_BYTES: Final = 256 << 10
AHEAD_VIEWS: Final = 512
Check = Callable[[], bool]


@dataclass(slots=True)
class Frame:
    """An FPDU on its way: what is left of it, a check of its memory, and what follows its last byte. last: of its message."""

    views: list[memoryview]
    left: int
    last: bool = True
    begun: bool = False
    check: Check | None = None
    done: Callable[[], None] | None = None


def empty_frame(crc: Crc | None) -> Frame:
    """Return an FPDU without a segment."""
    head = bytes(2)
    tail = trailer(crc, 0, head, ())
    return Frame([memoryview(head + tail)], len(head) + len(tail))


def untagged_frame(crc: Crc | None, op: int, last: bool, ulp: int, msn: int, mo: int, views: Sequence[memoryview]) -> Frame:
    """Return one untagged segment."""
    length = UNTAGGED_BYTES + sum(map(len, views))
    ctrl = VERSION | LAST if last else VERSION
    head = FRAME_UNTAGGED.pack(length, ctrl, RV | op, ulp, QUEUES[op], msn, mo)
    tail = trailer(crc, length, head, views)
    return Frame([memoryview(head), *views, memoryview(tail)], len(head) + length - UNTAGGED_BYTES + len(tail), last)


@dataclass(slots=True)
class _Message:
    """A message to be cut; tagged: of that kind. begun: it has segments on their way."""

    frames: Iterator[Frame]
    done: Callable[[], None] | None
    tagged: bool
    begun: bool = False


class Sender:
    """The outgoing half of a stream. crc: the checksum, or None. `blocked` until a server may speak."""

    __slots__ = (
        "answers", "blocked", "closed", "crc", "frames", "messages", "msns", "room_tagged", "room_untagged", "turn", "views",
        "waiting", "wake",
    )  # fmt: skip

    def __init__(self, crc: Crc | None, wake: Callable[[], None], mulpdu: int = MAX_ULPDU) -> None:
        self.crc = crc
        self.wake = wake
        self.room_tagged = tagged_room(mulpdu)
        self.room_untagged = untagged_room(mulpdu)
        self.messages: deque[_Message] = deque()
        self.answers: deque[_Message] = deque()
        self.turn = False
        self.frames: deque[Frame] = deque()
        self.waiting = 0
        self.views = 0
        self.msns = [itertools.count(1) for _ in Queue]
        self.blocked = False
        self.closed = False

    # ---- messages in

    def put(
        self, frames: Iterator[Frame], done: Callable[[], None] | None = None, *, tagged: bool = False, answer: bool = False
    ) -> None:
        """Queue a message; `done` is called when its last byte is taken. answer: of a request of the peer's."""
        if not self.closed:
            (self.answers if answer else self.messages).append(_Message(frames, done, tagged))
            self.wake()

    def next_msn(self, queue: int) -> int:
        """Return the number of the next message of an untagged queue."""
        return next(self.msns[queue]) & MSN_MASK

    def untagged(
        self,
        op: int,
        views: Sequence[memoryview],
        ulp: int = 0,
        done: Callable[[], None] | None = None,
        *,
        answer: bool = False,
    ) -> None:
        """Queue an untagged message under the next number of its queue."""
        msn = self.next_msn(QUEUES[op])
        crc = self.crc
        length = len(views[0]) if len(views) == 1 else sum(map(len, views))
        if length <= self.room_untagged:
            if self.closed:
                return
            frame = untagged_frame(crc, op, True, ulp, msn, 0, views if length else ())
            if self.messages or self.answers or self.blocked or self.waiting >= AHEAD_BYTES:
                self.put(iter((frame,)), done, answer=answer)
                return
            frame.done = done
            self._add(frame)
            self.wake()
            return
        frames = (untagged_frame(crc, op, last, ulp, msn, off, pieces) for off, _, pieces, last in cut(views, self.room_untagged))
        self.put(frames, done, answer=answer)

    def tagged(self, op: int, views: Sequence[memoryview], stag: int, to: int, done: Callable[[], None] | None = None) -> None:
        """Queue a tagged message."""
        frames = (
            self.tagged_frame(op, last, stag, to + off, pieces, length)
            for off, length, pieces, last in cut(views, self.room_tagged)
        )
        self.put(frames, done, tagged=True)

    def tagged_frame(self, op: int, last: bool, stag: int, to: int, views: Sequence[memoryview], length: int) -> Frame:
        """Return one tagged segment."""
        ctrl = TAGGED | VERSION | LAST if last else TAGGED | VERSION
        length += TAGGED_BYTES
        head = FRAME_TAGGED.pack(length, ctrl, RV | op, stag, to)
        tail = trailer(self.crc, length, head, views)
        return Frame([memoryview(head), *views, memoryview(tail)], len(head) + length - TAGGED_BYTES + len(tail), last)

    # ---- bytes out

    @property
    def busy(self) -> bool:
        """Whether there is something to send now."""
        return bool(self.frames or ((self.messages or self.answers) and not self.blocked))

    def _next(self) -> deque[_Message]:
        """Return the queue whose head is to be cut further; it may be empty."""
        mine, answers = self.messages, self.answers
        if not answers or (mine and mine[0].begun):
            return mine
        if not mine or (answers[0].begun and mine[0].tagged):
            return answers
        self.turn = not self.turn
        return mine if self.turn else answers

    def _add(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.waiting += frame.left
        self.views += len(frame.views)

    def drain(self) -> Iterator[Frame]:
        """Yield all that is queued, and forget it, for whoever only wants to see it."""
        frames = [*self.frames]
        self.frames.clear()
        self.waiting = self.views = 0
        yield from frames
        while queue := self._next():
            yield from queue.popleft().frames

    def batch(self) -> list[memoryview] | None:
        """Return what to send next, or None when memory of a segment half sent may not be read any more: the stream is over."""
        while not self.blocked and self.waiting < AHEAD_BYTES and self.views < AHEAD_VIEWS and (queue := self._next()):
            message = queue[0]
            frame = next(message.frames)
            message.begun = True
            if frame.last:
                queue.popleft()
                frame.done = message.done
            self._add(frame)
        out: list[memoryview] = []
        checked: Check | None = None
        for frame in self.frames:
            check = frame.check
            if check is not None and check is not checked:
                if not check():
                    return None
                checked = check
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
        self.answers.clear()
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
