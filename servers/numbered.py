"""Sans-IO. The numbered requests of a connection: done unless they have been, waited for, or answered from memory.

What is to be done is a slot's to say (`place.py`, by the table of `transport/session.py`); how, the dispatcher's. Memory: a
landing is passed on with a request that is done, and given back with one that is not.
"""

import errno
from collections.abc import Awaitable, Callable

from servers.place import Noting, Place
from transport.base import Landing, Reply
from transport.messages import Request, Sequenced
from transport.session import SlotAction

__all__ = ["Answer", "Numbered", "release"]

Answer = Reply | Awaitable[Reply]


class Numbered:
    """The numbered requests of one connection. place: its place in a session; answer: does a request that is to be noted."""

    def __init__(self, place: Place, answer: Callable[[Request, Landing | None, Noting], Answer]) -> None:
        self._place = place
        self._answer = answer

    def __call__(self, request: Sequenced, landing: Landing | None) -> Answer:
        """Do a request, unless it has been done."""
        place = self._place
        action = place.begin(request)
        if action is SlotAction.EXECUTE:
            noting = place.running(request)
            answer = self._answer(request.request, landing, noting)
            if not isinstance(answer, Reply):
                return self._finish(request, noting, answer)
            noting.take(answer)
            place.ran(request, noting)
            return place.answer(request)
        if action is SlotAction.WAIT:
            return self._wait(request, landing)
        release(landing)
        return place.answer(request) if action is SlotAction.REPLAY else Reply(errno.EINVAL)

    async def _finish(self, request: Sequenced, noting: Noting, answer: Awaitable[Reply]) -> Reply:
        try:
            noting.take(await answer)
        finally:
            self._place.ran(request, noting)
        return self._place.answer(request)

    async def _wait(self, request: Sequenced, landing: Landing | None) -> Reply:
        """Ask again when the slot's earlier call has ended."""
        try:
            await self._place.until_free(request)
        except BaseException:
            release(landing)
            raise
        answer = self(request, landing)
        return answer if isinstance(answer, Reply) else await answer


def release(landing: Landing | None) -> None:
    """Give back the memory of a payload that is not wanted."""
    if landing is not None and landing.release is not None:
        landing.release()
