"""Sans-IO. A connection's place in a session, as the dispatcher sees it. `sessions.py` has the places there are.

Owns no memory.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from transport.base import Reply
from transport.messages import Bind, Body, EndSession, Fence, Sequenced
from transport.session import SlotAction

__all__ = ["Noting", "Place"]


class Noting(Protocol):
    """A numbered request while it is done; called with the work, in whatever thread the work is for, it notes what becomes of it.

    done: the steps of a compound that a server before this one did, with their answers.
    """

    @property
    def done(self) -> dict[int, Body]: ...

    def __call__(self, work: Callable[[], Reply]) -> Reply:
        """Do the work. Returns: its reply, as that to the numbered request."""

    def not_durable(self, error: OSError) -> None:
        """Note, in the thread that tried, that what was done could not be made durable: the answer is the error."""

    def take(self, reply: Reply) -> None:
        """Take an answer that needed no work, such as a refusal, or that what was done could not be made durable."""


class Place(Protocol):
    """Where a connection is in a session, or may join one. owner: the session's number among those who have write intents."""

    @property
    def owner(self) -> int | None: ...

    def bind(self, request: Bind) -> Awaitable[Reply]:
        """Join a session. Cancellation: not joined."""

    def fence(self, request: Fence) -> Awaitable[Reply]:
        """Cut other connections of the session."""

    def end(self, request: EndSession) -> Awaitable[Reply]:
        """Forget the session; the connection stays."""

    def is_over(self, request: Sequenced) -> bool:
        """Say whether a numbered request is not going to be done, so that its payload is not wanted."""

    def begin(self, request: Sequenced) -> SlotAction:
        """Say what is to be done with a numbered request."""

    def running(self, request: Sequenced) -> Noting:
        """Return what notes the doing of a request that is to be executed."""

    def ran(self, request: Sequenced, noting: Noting) -> None:
        """Note that it has ended, done or not."""

    def answer(self, request: Sequenced) -> Reply:
        """Return the answer that is remembered."""

    def until_free(self, request: Sequenced) -> Awaitable[None]:
        """Wait for what runs in a request's slot."""

    def left(self) -> None:
        """Note that the connection and everything it had begun has ended."""
