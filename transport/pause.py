"""Sans-IO. How long to wait between two attempts to connect. Owns no memory."""

from typing import Final

__all__ = ["STEADY_S", "STORM", "Pause"]

STEADY_S: Final = 0.1
STORM: Final = 200


class Pause:
    """How long to wait before dialling again: not at all after a connection that lasted, longer each time after one that failed.

    One that was bound and lost soon is dialled again after `first_s`, so that a link that breaks all the time still carries
    something; after STORM of them in a row the pause grows as if they had failed.
    """

    __slots__ = ("_first_s", "_most_s", "_pause_s", "_short")

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._pause_s = 0.0
        self._short = 0

    def after(self, lived_s: float | None) -> float:
        """Return the pause, in seconds, after a connection that lived so long, None: it could not be made."""
        if lived_s is not None and lived_s >= STEADY_S:
            self._pause_s, self._short = 0.0, 0
            return 0.0
        if lived_s is not None and self._short < STORM:
            self._short += 1
            self._pause_s = 0.0
            return self._first_s
        self._pause_s = min(self._most_s, max(self._first_s, 2 * self._pause_s))
        return self._pause_s
