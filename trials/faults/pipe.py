"""Trio shell. One direction of a simulated link: bytes with times of arrival, and what a fault may do to them.

    held       nothing arrives: a clog, a partition; what was sent arrives when it ends
    delay, jitter, rate, slice, short     each for a while
    flip       the next bytes are changed under way
    dead       what is sent is lost for ever, and nobody is told
    ended, broken     a FIN; a reset

Ownership: views are lent for the call alone; a pipe copies, as a kernel's socket buffer does.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

__all__ = ["Pipe"]

FLIP_BYTES: Final = 24
"""What is flipped is in the first bytes that are sent together."""


class Pipe:
    """Bytes under way. now: virtual time. delay_s: of every byte. capacity: bytes that fit before they are read."""

    def __init__(self, now: Callable[[], float], delay_s: float, capacity: int, slice_length: int | None) -> None:
        self.delay_s = delay_s
        self.ended = self.broken = self.dead = False
        self.sent = 0
        self.flip: Callable[[bytearray], None] | None = None
        self._now = now
        self._capacity = capacity
        self._slice = slice_length
        self._queue: deque[tuple[float, memoryview]] = deque()
        self._size = 0
        self._last = 0.0
        self._conditions: dict[str, tuple[float, float]] = {}
        self._rng: random.Random | None = None
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self._arriving: trio.CancelScope | None = None
        """In which the reader waits; its deadline is when the next bytes arrive, so that nobody runs before that."""

    # ---- conditions

    def condition(self, kind: str, value: float, for_s: float, rng: random.Random | None = None) -> None:
        """Let a condition hold for a while: held, delay, jitter, rate, slice or short."""
        self._conditions[kind] = (value, self._now() + for_s)
        self._rng = rng or self._rng
        self.wake()

    def _value(self, kind: str) -> float:
        found = self._conditions.get(kind)
        if found is None:
            return 0
        if found[1] <= self._now():
            del self._conditions[kind]
            return 0
        return found[0]

    def heal(self) -> None:
        """End all conditions."""
        self._conditions.clear()
        self.flip = None
        self.wake()

    # ---- bytes

    def room(self) -> int:
        """Return how many bytes may be sent now."""
        room = self._capacity - self._size
        if self._slice is not None:
            room = min(room, self._slice)
        if self._conditions:
            bound = int(self._value("slice"))
            short = self._conditions.pop("short", None)
            room = min(room, bound or room, int(short[0]) if short is not None and room else room)
        return room

    def send(self, views: Sequence[bytes | memoryview]) -> int:
        """Take bytes in, as many as there is room for."""
        left = self.room()
        if left <= 0:
            return 0
        taken = bytearray()
        for view in views:
            taken += memoryview(view)[:left]
            left -= min(left, len(view))
            if not left:
                break
        self.sent += len(taken)
        if self.dead or not taken:
            return len(taken)
        if self.flip is not None and len(taken) >= FLIP_BYTES:
            flip, self.flip = self.flip, None
            flip(taken)
        arrival = self._now() + self.delay_s
        if self._conditions:
            arrival += self._value("delay")
            jitter, rate = self._value("jitter"), self._value("rate")
            if jitter and self._rng is not None:
                arrival += self._rng.uniform(0, jitter)
            if rate:
                arrival = max(arrival, self._last) + len(taken) / rate
        self._last = arrival = max(arrival, self._last)
        self._queue.append((arrival, memoryview(taken)))
        self._size += len(taken)
        if self._arriving is not None and len(self._queue) == 1:
            self._arriving.deadline = self.next_arrival()
        return len(taken)

    def next_arrival(self) -> float:
        """Return when the next bytes arrive, or the end of the stream is seen; infinity for not as things stand."""
        if self.broken:
            return 0.0
        at = self._queue[0][0] if self._queue else (0.0 if self.ended else math.inf)
        held = self._conditions.get("held")
        return max(at, held[1]) if held is not None and held[1] > self._now() else at

    def receive(self, views: Sequence[memoryview]) -> int | None:
        """Give bytes that have arrived. Returns: 0 at the end of the stream, None when there are none yet."""
        now = self._now()
        if self.next_arrival() > now:
            return None
        bound = (int(self._value("slice")) if self._conditions else 0) or self._slice or 1 << 30
        total = 0
        for view in views:
            done = 0
            while done < len(view) and total < bound and self._queue and self._queue[0][0] <= now:
                at, chunk = self._queue.popleft()
                count = min(len(view) - done, len(chunk), bound - total)
                view[done : done + count] = chunk[:count]
                if count < len(chunk):
                    self._queue.appendleft((at, chunk[count:]))
                done += count
                total += count
            if done < len(view):
                break
        self._size -= total
        if total:
            self._writers.unpark_all()
        return total

    # ---- waiting

    def wake(self) -> None:
        """Have everybody look again."""
        self._readers.unpark_all()
        self._writers.unpark_all()

    async def until_readable(self, closed: Callable[[], bool]) -> None:
        """Wait until there is something to be received. One task at a time may."""
        assert self._arriving is None, "two tasks receive from one link"
        if closed() or self.next_arrival() <= self._now():
            await trio.lowlevel.checkpoint()
        while not closed() and (at := self.next_arrival()) > self._now():
            with trio.CancelScope(deadline=at) as self._arriving:
                try:
                    await self._readers.park()
                finally:
                    self._arriving = None

    async def until_writable(self, closed: Callable[[], bool]) -> None:
        """Wait until there is room."""
        if closed() or not self._full():
            await trio.lowlevel.checkpoint()
        while not closed() and self._full():
            await self._writers.park()

    def _full(self) -> bool:
        return self._size >= self._capacity and not self.broken and not self.ended
