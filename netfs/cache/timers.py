"""Sans-IO. Timers: what the request library has to do later, in the order it is due.

A client's background task serves them (`netfs.engine.background`); where none does, as in a program that drives the library
itself, `after` has no delay: what was to wait is done at once. Owns no memory.
"""

import heapq
from collections.abc import Callable

from netfs.cache.waiters import WakeList

__all__ = ["Timer", "Timers"]


class Timer:
    """Something to be done once: when it is due, or earlier by `fire`, or never after `cancel`."""

    __slots__ = ("_run", "due")

    def __init__(self, due: float, run: Callable[[], None]) -> None:
        self.due = due
        self._run: Callable[[], None] | None = run

    @property
    def pending(self) -> bool:
        """It was neither done nor cancelled."""
        return self._run is not None

    def fire(self) -> None:
        """Do it now; no effect when it was done or cancelled."""
        run, self._run = self._run, None
        if run is not None:
            run()

    def cancel(self) -> None:
        """Do not do it."""
        self._run = None


class Timers:
    """A heap of timers. served: a task waits for them. changed: woken when an earlier one is added."""

    __slots__ = ("_count", "_heap", "_now", "changed", "served")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._now: Callable[[], float] = float
        self.changed = WakeList()
        self.served = False

    def serve(self, now: Callable[[], float]) -> None:
        """From here on a task waits for what is due by this clock."""
        self.served = True
        self._now = now

    def stop(self) -> None:
        """Nobody waits any longer: do everything that is left now."""
        self.served = False
        while self._heap:
            heapq.heappop(self._heap)[2].fire()

    def now(self) -> float:
        """Return the time in seconds, 0 where nobody serves the timers."""
        return self._now()

    def after(self, delay_s: float, run: Callable[[], None]) -> Timer:
        """Run something after a delay; at once where nobody serves the timers."""
        timer = Timer(self._now() + delay_s, run)
        if not self.served:
            timer.fire()
            return timer
        self._count += 1
        heapq.heappush(self._heap, (timer.due, self._count, timer))
        if self._heap[0][2] is timer:
            self.changed.wake_all()
        return timer

    def next_due(self) -> float | None:
        """Return when the next is due, None when nothing is."""
        while self._heap and not self._heap[0][2].pending:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run_due(self) -> None:
        """Do what is due."""
        now = self._now()
        while (due := self.next_due()) is not None and due <= now:
            heapq.heappop(self._heap)[2].fire()
