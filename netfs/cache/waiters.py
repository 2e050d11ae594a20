"""Sans-IO. WakeList: who is to be woken when a state changes; the waiting itself is in `netfs.engine.park`.

Owns no memory.
"""

from collections.abc import Callable

__all__ = ["WakeList"]


class WakeList:
    """Callbacks to run once, in the order they came."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        # Most of these are never waited at, and there are some for each file and folio.
        self._waiting: list[Callable[[], None]] | None = None

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, wake: Callable[[], None]) -> None:
        """Run `wake` at the next `wake_all`."""
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(wake)

    def discard(self, wake: Callable[[], None]) -> None:
        """Forget `wake` if it is still waiting."""
        if self._waiting and wake in self._waiting:
            self._waiting.remove(wake)

    def wake_all(self) -> None:
        """Run and forget all."""
        if self._waiting:
            waiting, self._waiting = self._waiting, None
            for wake in waiting:
                wake()
