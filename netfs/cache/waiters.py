"""Sans-IO. WakeList: who is to be woken when a state changes; the waiting itself is in `netfs.engine.park`.

Owns no memory.
"""

from collections.abc import Callable

__all__ = ["WakeList"]


class WakeList:
    """Callbacks to run once, in the order they came."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, wake: Callable[[], None]) -> None:
        """Run `wake` at the next `wake_all`."""
        self._waiting.append(wake)

    def discard(self, wake: Callable[[], None]) -> None:
        """Forget `wake` if it is still waiting."""
        if wake in self._waiting:
            self._waiting.remove(wake)

    def wake_all(self) -> None:
        """Run and forget all."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for wake in waiting:
                wake()
