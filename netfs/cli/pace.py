"""Trio shell. A bound on bytes a second: who takes bytes waits until they are due, by the clock of the run.

A bucket that holds a second's worth: short bursts go through, the average stays below the rate. Owns no memory.
"""

import trio

__all__ = ["Pace"]


class Pace:
    """At most `rate` bytes a second. None: no bound."""

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self._due = -1.0

    async def take(self, count: int) -> None:
        """Wait until `count` bytes may go. Cancellation: they are counted all the same."""
        if self.rate is None:
            return
        now = trio.current_time()
        # What was not used is lost but for a second's worth.
        self._due = max(self._due, now - 1.0 if self._due >= 0 else now) + count / self.rate
        await trio.sleep_until(self._due)
