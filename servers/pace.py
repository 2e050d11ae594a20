"""Trio shell. A handler that keeps its client to a pace: what comes too fast is done later, in its order among the late.

The client's credits bound how much of it waits. Owns no memory; a landing that waits is the handler's meanwhile.
"""

from collections.abc import Awaitable, Callable

import trio

from transport.base import Handler, Landing, Reply
from transport.messages import Read, Request

__all__ = ["Paced", "TokenBucket"]


class TokenBucket:
    """So much a second on average, a second's worth at once. rate: 0 for any."""

    __slots__ = ("_at", "_now", "_rate", "_room")

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._room = rate
        self._at = now()

    def take(self, amount: float) -> float:
        """Take something out, now or on credit. Returns: seconds after which it is paid for, 0 for at once."""
        if not self._rate:
            return 0.0
        now = self._now()
        self._room = min(self._rate, self._room + (now - self._at) * self._rate) - amount
        self._at = now
        return max(0.0, -self._room / self._rate)


class Paced:
    """Let requests through at most at the pace of two buckets."""

    def __init__(self, handler: Handler, requests: TokenBucket, payload: TokenBucket) -> None:
        self._handler = handler
        self._requests = requests
        self._payload = payload

    def admit(self, request: Request, length: int) -> Landing | int:
        """Ask the handler."""
        return self._handler.admit(request, length)

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        """Do the request, now or when its time has come."""
        length = request.length if isinstance(request, Read) else 0 if landing is None else landing.iter.count
        late_s = max(self._requests.take(1), self._payload.take(length))
        return self._later(late_s, request, landing) if late_s else self._handler.handle(request, landing)

    async def _later(self, late_s: float, request: Request, landing: Landing | None) -> Reply:
        try:
            await trio.sleep(late_s)
        except BaseException:
            if landing is not None and landing.release is not None:
                landing.release()
            raise
        answer = self._handler.handle(request, landing)
        return answer if isinstance(answer, Reply) else await answer

    def closed(self) -> None:
        """Tell the handler."""
        self._handler.closed()
