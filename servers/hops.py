"""Sans-IO. Work on its way to a thread: whether it began, what came of it, and who notes what became of it.

Owns no memory.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from servers.place import Noting
from transport.base import Reply

__all__ = ["Hop", "Noted"]

R = TypeVar("R", Reply, Reply | None)


class Noted:
    """The work of a numbered request, with the notes that make it happen once."""

    __slots__ = ("_noting", "_work")

    def __init__(self, noting: Noting, work: Callable[[], Reply]) -> None:
        self._noting = noting
        self._work = work

    def __call__(self) -> Reply:
        return self._noting(self._work)

    def not_durable(self, error: OSError) -> None:
        """Note that what was done could not be made durable; in the thread that tried."""
        self._noting.not_durable(error)


class Hop(Generic[R]):
    """Work for a thread. began: it may have happened; replies: what came of it, one when it has ended."""

    __slots__ = ("_work", "began", "replies")

    def __init__(self, work: Callable[[], R]) -> None:
        self._work: Callable[[], R] = work
        self.began = False
        self.replies: list[R] = []

    def __call__(self) -> None:
        self.began = True
        self.replies.append(self._work())

    def not_durable(self, error: OSError) -> None:
        """See `workers.Durable`."""
        if isinstance(self._work, Noted):
            self._work.not_durable(error)
