"""Trio shell. What may go wrong with requests on the server: lost, done twice, answered late or with an error, one after another.

A layer around what answers the requests of one connection, as `servers.server` takes it. Events are the names of requests,
`write`, `rename`, …, and `request` for each. Ownership: as `transport.base`; a payload that is not passed on is given back.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from transport.base import Handler, Landing, Reply
from transport.messages import Await, Compound, Request, Sequenced
from trials.faults.injector import Armed, Injector

__all__ = ["FaultyHandler", "event_of"]

_CAPITAL: Final = re.compile(r"(?<!^)(?=[A-Z])")
_NAMES: Final[dict[type, str]] = {}
NOT_TWICE: Final = frozenset({"bind", "fence", "end_session", "await", "lease", "lease_return", "lock", "unlock", "ping"})
"""Requests about connections; a session sends none of them twice on one."""


def event_of(request: Request) -> str:
    """Return the event of a request: its name in small letters, `transact`, `record_get`."""
    if isinstance(request, Sequenced):
        request = request.request
    kind = type(request)
    name = _NAMES.get(kind)
    if name is None:
        name = _NAMES[kind] = _CAPITAL.sub("_", kind.__name__).lower()
    return name


class FaultyHandler:
    """A handler to which a plan's faults happen. node: whose connection; reset: breaks it; crash: does what
    befalls the whole server; service: seconds that a request takes where nothing else does.
    """

    def __init__(
        self, inner: Handler, injector: Injector, node: str, reset: Callable[[], None], crash: Callable[[Armed], None],
        service: Callable[[], float] | None = None,
    ) -> None:  # fmt: skip
        self._inner = inner
        self._injector = injector
        self._node = node
        self._reset = reset
        self._crash = crash
        self._service = service

    def admit(self, request: Request, length: int) -> Landing | int:
        """Let payload in, or refuse it as a plan says."""
        for one in self._injector.due("admit", event_of(request), self._node):
            self._injector.fired(one)
            return int(one.fault.arg("errno", 5))
        return self._inner.admit(request, length)

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        """Do the request, and what goes wrong with it."""
        if isinstance(request, Await):
            return self._told(self._inner.handle(request, landing))
        if not self._injector.active:
            return self._inner.handle(request, landing)
        name = event_of(request)
        due = [*self._injector.due("handler", name, self._node), *self._injector.due("handler", "request", self._node)]
        for one in (*self._injector.due("crash", name), *self._injector.due("crash", "request")):
            self._crash(one)
        for one in self._injector.due("tamper", "request"):
            self._crash(one)
        for one in due:
            answer = self._strike(one, name, request, landing)
            if answer is not None:
                return answer
        answer = self._late(request, landing, self._service()) if self._service else self._inner.handle(request, landing)
        after = self._injector.due("crash", f"{name}.")
        if after and not isinstance(answer, Reply):
            return self._then(answer, after)
        for one in after:
            self._crash(one)
        return answer

    async def _then(self, answer: Awaitable[Reply], after: Sequence[Armed]) -> Reply:
        reply = await answer
        for one in after:
            self._crash(one)
        return reply

    def _strike(self, one: Armed, name: str, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply] | None:
        """Do a fault. Returns: the answer, None to do the request as ever."""
        fault = one.fault
        match fault.id:
            case "T10":
                if landing is None and name not in NOT_TWICE and not isinstance(request, Compound):
                    self._injector.fired(one, name)
                    return self._twice(request)
                return None
            case "T9" | "N7":
                self._injector.fired(one, name)
                return self._never(landing, fault.arg("after_s", 0.5))
            case "T11":
                self._injector.fired(one, name)
                return self._unheard(self._inner.handle(request, landing))
            case _:
                self._injector.fired(one, name)
                return self._late(request, landing, fault.arg("for_s", 0.1))

    async def _told(self, answer: Reply | Awaitable[Reply]) -> Reply:
        """Tell a client of others, perhaps late."""
        reply = await _of(answer)
        for one in self._injector.due("handler", "await", self._node):
            self._injector.fired(one)
            await trio.sleep(one.fault.arg("for_s", 0.1))
        return reply

    async def _twice(self, request: Request) -> Reply:
        first = await _of(self._inner.handle(request, None))
        second = await _of(self._inner.handle(request, None))
        if second.release is not None:
            second.release()
        return first

    async def _never(self, landing: Landing | None, after_s: float) -> Reply:
        if landing is not None and landing.release is not None:
            landing.release()
        await trio.sleep(after_s)
        self._reset()
        await trio.sleep_forever()
        raise AssertionError("the connection was reset")

    async def _unheard(self, answer: Reply | Awaitable[Reply]) -> Reply:
        reply = await _of(answer)
        if reply.release is not None:
            reply.release()
        self._reset()
        await trio.sleep_forever()
        raise AssertionError("the connection was reset")

    async def _late(self, request: Request, landing: Landing | None, for_s: float) -> Reply:
        try:
            await trio.sleep(for_s)
        except trio.Cancelled:
            if landing is not None and landing.release is not None:
                landing.release()
            raise
        return await _of(self._inner.handle(request, landing))

    def closed(self) -> None:
        """Tell the handler."""
        self._inner.closed()


async def _of(answer: Reply | Awaitable[Reply]) -> Reply:
    return answer if isinstance(answer, Reply) else await answer
