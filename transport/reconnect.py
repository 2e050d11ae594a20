"""Trio shell. A transport that outlives its connections: it dials again, joins its session again, and sends again what was lost.

`connect_session(dial, …)` keeps one or more channels of a session (`session.py`, where everything is decided) for the length of a
block. Each channel has a task: dial, bind, watch, and when the connection is over begin anew, at first at once and then after
pauses that double, with jitter. A channel on which nothing comes back although it was asked to (PING) is taken for lost. When
one of several is lost, another fences it off and takes over what was under way.

How long a call waits for a connection is the `Recovery`: *soft*, it ends with ETIMEDOUT after a while; *hard*, it waits for ever.
A server that answers but takes its time for a call is waited for. Ownership: as in `base.py`; memory of a call that waits for a
connection stays lent.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final

import trio

from iov.iov_iter import IovIter
from iov.probe import Probe
from transport.base import Done, Feature, Reply, Transport
from transport.env import Env
from transport.errors import TransportError
from transport.messages import Bind, BindReply, EndSession, Fence, Ping, Request
from transport.pause import Pause
from transport.pump import Answer
from transport.session import ClientSession
from transport.session_call import SessionCall

__all__ = ["Dial", "Recovery", "SessionTransport", "connect_session"]

Dial = Callable[[], contextlib.AbstractAsyncContextManager[Transport]]
"""Opens one connection for the length of a block. Raises: OSError or TransportError when it cannot."""

SLOTS: Final = 64
BIND_TIMEOUT_S: Final = 30.0
ABANDON_TIMEOUT_S: Final = 10.0
GOODBYE_S: Final = 1.0
LOOKS: Final = 20
"""How often, in the time a call may wait, it is looked whether it has waited too long."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How to deal with lost connections.

    hard: wait for a connection for ever; else a call that has none for `timeout_s` ends with ETIMEDOUT. channels: connections at
    the same time. keepalive_s: after so long a quiet channel is asked for a sign of life, and given as long again for it.
    first_s, most_s: the shortest and longest pause between two attempts to connect.
    """

    hard: bool = False
    timeout_s: float = 60.0
    channels: int = 1
    keepalive_s: float = 10.0
    first_s: float = 0.01
    most_s: float = 5.0

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.keepalive_s <= 0 or not 0 < self.first_s <= self.most_s:
            raise ValueError("times of a recovery are positive")
        if not 1 <= self.channels <= 16:
            raise ValueError(f"{self.channels} channels; from 1 to 16 are possible")


_RECOVERY: Final = Recovery()


class SessionTransport(Transport):
    """Calls of a session; made by `connect_session`. connects: how many connections have joined it."""

    def __init__(self, dial: Dial, env: Env, probe: Probe, recovery: Recovery) -> None:
        self.connects = 0
        self._dial = dial
        self._env = env
        self._probe = probe
        self._recovery = recovery
        self._session = ClientSession(env.now, self._broken)
        self._over: dict[Transport, trio.Event] = {}
        self._numbers: dict[Transport, int] = {}
        self._dead: dict[int, Transport | None] = {}
        self._number = 0
        self._last_error: Exception | None = None
        self._nursery: trio.Nursery | None = None
        self._scopes: list[trio.CancelScope] = []
        self._joining = trio.Lock()
        self.submit = self._session.submit  # type: ignore[method-assign]  # one call less on the way of every request

    def submit(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> SessionCall:
        return self._session.submit(request, done, source, dest)

    async def call(self, request: Request, source: IovIter | None = None, dest: IovIter | None = None) -> Reply:
        await trio.lowlevel.checkpoint_if_cancelled()
        answer = Answer()
        call = self.submit(request, answer, source, dest)
        if answer.outcome is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            try:
                await answer.park()
            except trio.Cancelled:
                channel = call.channel
                call.abandon()
                await self._outlast(answer, channel)
                raise
        outcome = answer.outcome
        if isinstance(outcome, TransportError):
            raise outcome
        assert outcome is not None
        return outcome

    async def _outlast(self, answer: Answer, channel: Transport | None) -> None:
        """Wait for the outcome of an abandoned call, whose frame is half sent. A server that takes no more loses the channel."""
        if answer.outcome is None:
            with trio.CancelScope(deadline=self._env.now() + ABANDON_TIMEOUT_S, shield=True):
                await answer.park()
        if answer.outcome is None and channel is not None:
            with trio.CancelScope(deadline=self._env.now() + ABANDON_TIMEOUT_S, shield=True):
                await channel.aclose()

    async def aclose(self) -> None:
        """End the session on the server, if it can be reached at once, and close; idempotent."""
        session = self._session
        if session.error is None and session.live and session.resumable:
            with trio.move_on_after(GOODBYE_S), contextlib.suppress(TransportError):
                await session.live[0].call(EndSession())
        session.close(TransportError(errno.ECONNABORTED, "the connection was closed here"))
        for scope in self._scopes:
            scope.cancel()
        for channel in tuple(self._over):
            await channel.aclose()
        await trio.lowlevel.checkpoint()

    # ---- channels

    async def start(self, nursery: trio.Nursery) -> None:
        """Open the first channel and set the others going. Raises: what the first one failed with."""
        self._nursery = nursery
        error = await nursery.start(self._keep_channel, True)
        if error is not None:
            raise error
        for _ in range(self._recovery.channels - 1):
            nursery.start_soon(self._keep_channel, False)
        if not self._recovery.hard:
            nursery.start_soon(self._keep_time)

    async def _keep_channel(
        self, awaited: bool, *, task_status: "trio.TaskStatus[Exception | None]" = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep one channel up until the session is over. awaited: somebody waits for the first connection, and for its error."""
        pause = Pause(self._recovery.first_s, self._recovery.most_s)
        # Until who opens the session has it, this is cancelled with them; only then does it have to outlast the block.
        with trio.CancelScope(shield=not awaited) as scope:
            self._scopes.append(scope)
            while self._session.error is None:
                began: float | None = None
                try:
                    async with self._dial() as channel:
                        self._over[channel] = over = trio.Event()
                        channel.on_lost = partial(self._broken, channel)
                        try:
                            await self._bind(channel)
                            began = self._env.now()
                            if awaited:
                                awaited = False
                                await trio.lowlevel.checkpoint_if_cancelled()  # else Trio would not hand it over, and wait for it
                                task_status.started(None)
                                scope.shield = True
                            await self._watch(channel, over)
                        finally:
                            self._retire(channel)
                except (OSError, TransportError) as error:
                    self._last_error = error
                    self._probe.emit("connection", "failed", "session", getattr(error, "errno", 0) or 0)
                    if awaited:
                        task_status.started(error)
                        return
                pause_s = pause.after(None if began is None else self._env.now() - began)
                if pause_s:
                    await trio.sleep(pause_s * (0.5 + self._env.rng.random() / 2))

    async def _bind(self, channel: Transport) -> None:
        """Join the session, or begin one; one channel at a time. Raises: TransportError when the server refuses."""
        session = self._session
        self._number += 1
        number = self._numbers[channel] = self._number
        if Feature.SESSION not in channel.limits.features:
            self.limits = channel.limits
            session.attach(channel)
            return
        with trio.CancelScope(deadline=self._env.now() + BIND_TIMEOUT_S) as scope:
            async with self._joining:
                fence = sorted(self._dead)
                reply = await channel.call(Bind(session.session, number, fence, SLOTS))
                fresh = not session.session
                if reply.status == errno.ESTALE and not fresh:
                    fresh, fence = True, sorted(self._dead)
                    for other in tuple(session.live):
                        await other.aclose()
                    reply = await channel.call(Bind(b"", number, [], SLOTS))
                if reply.status or not isinstance(reply.body, BindReply):
                    raise TransportError(
                        reply.status or errno.EPROTO, f"the server takes no session: {os.strerror(reply.status)}"
                    )
                session.bound(reply.body, fresh=fresh)
                self.boot = session.boot
                self.connects += 1
                self.limits = channel.limits
                self._probe.emit("connection", "bound", "session", 0)
                for dead in fence:
                    lost = self._dead.pop(dead, None)
                    if lost is not None:
                        session.fenced(lost)
                if self._over[channel].is_set():  # lost behind the reply: what is attached now would never be detached
                    raise self._last_error or TransportError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                session.attach(channel)
        if scope.cancelled_caught:
            raise TransportError(errno.ETIMEDOUT, "the server did not answer in time")

    async def _watch(self, channel: Transport, over: trio.Event) -> None:
        """Wait until a channel is over; ask for a sign of life now and then. Raises: TransportError when there is none."""
        quiet = self._recovery.keepalive_s
        while True:
            with trio.CancelScope(deadline=self._env.now() + quiet):
                await over.wait()
                return
            with trio.CancelScope(deadline=self._env.now() + quiet) as scope:
                await channel.call(Ping())
            if scope.cancelled_caught:
                raise TransportError(errno.ETIMEDOUT, f"the server gave no sign of life for {quiet:g} s")

    def _broken(self, channel: Transport, error: TransportError) -> None:
        """Note that a channel is over; called by whoever notices first."""
        over = self._over.get(channel)
        if over is None or over.is_set():
            return
        over.set()
        self._last_error = error
        self._probe.emit("connection", "lost", "session", error.errno or errno.EIO)
        self._session.detach(channel)
        number = self._numbers.get(channel)
        if self._session.live and self._nursery is not None and number is not None:
            self._nursery.start_soon(self._fence, channel, number)

    def _retire(self, channel: Transport) -> None:
        """Leave a channel for good; what was under way on it waits to be fenced off."""
        self._broken(channel, TransportError(errno.ECONNABORTED, "the connection was closed here"))
        del self._over[channel]
        number = self._numbers.pop(channel, None)
        if number is not None:
            self._dead[number] = channel

    async def _fence(self, lost: Transport, number: int) -> None:
        """Have another channel fence off one that was lost, so that its calls go on by the others."""
        session = self._session
        if not session.live or not session.resumable:
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope(deadline=self._env.now() + BIND_TIMEOUT_S), contextlib.suppress(TransportError):
            reply = await session.live[0].call(Fence([number]))
            if not reply.status:
                self._dead.pop(number, None)
                session.fenced(lost)

    async def _keep_time(self) -> None:
        """End calls that have waited for a connection for too long."""
        timeout_s = self._recovery.timeout_s
        with trio.CancelScope(shield=True) as scope:
            self._scopes.append(scope)
            while True:
                await trio.sleep(timeout_s / LOOKS)
                why = str(self._last_error or "no connection")
                self._session.expire(timeout_s, TransportError(errno.ETIMEDOUT, f"no connection for {timeout_s:g} s: {why}"))


class _Connecting(contextlib.AbstractAsyncContextManager[SessionTransport]):
    """The block in which the session lives; its tasks end with it."""

    def __init__(self, transport: SessionTransport) -> None:
        self._transport = transport
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> SessionTransport:
        nursery = await self._manager.__aenter__()
        try:
            await self._transport.start(nursery)
        except BaseException:
            await self._end()
            raise
        return self._transport

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end()

    async def _end(self) -> None:
        try:
            with trio.CancelScope(deadline=trio.current_time() + ABANDON_TIMEOUT_S, shield=True):
                await self._transport.aclose()
        finally:
            # The block's own exception passes by the nursery, which would wrap it in a group.
            await self._manager.__aexit__(None, None, None)


def connect_session(
    dial: Dial, env: Env, probe: Probe, recovery: Recovery = _RECOVERY
) -> contextlib.AbstractAsyncContextManager[SessionTransport]:
    """Open a session for the length of a block: `async with connect_session(dial, env, probe) as transport`.

    Raises: what `dial` raises when the first connection cannot be made; TransportError when the server takes no session.
    Ownership: every connection is closed with the block, or when this fails.
    """
    return _Connecting(SessionTransport(dial, env, probe, recovery))
