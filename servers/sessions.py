"""Trio shell. The sessions of one export: who has one, over which connections, and what became of each numbered call.

A session belongs to who made it (`principal`) and lives while it has a channel, and `EXPIRES_S` longer. A channel is a connection
that was bound to it; one that its client gave up is fenced off: it is cut, and all it had begun has ended before the answer.
What has to outlive the server's process is with a `Keeper` (`state.py`), which is asked before an answer leaves.
Owns no payload memory.
"""

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import trio

from servers.once import Doubt, Keeping, Names, Running, settle
from servers.place import Noting
from servers.sharing import Sharing
from servers.stores.base import Store
from transport.base import Reply
from transport.env import Env
from transport.messages import Ack, AuxWrite, Bind, BindReply, EndSession, Fence, Handle, Sequenced, Write
from transport.session import ServerSlots, SlotAction

__all__ = ["Channel", "Keeper", "Kept", "Session", "Sessions"]

log: Final = logging.getLogger(__name__)
EXPIRES_S: Final = 90.0
GRACE_S: Final = 30.0
MAX_SESSIONS: Final = 4096
MAX_OF_ONE: Final = 1024
MAX_CHANNELS: Final = 16
MAX_SLOTS: Final = 64
SESSION_BYTES: Final = 16
_NOT_KEPT: Final = frozenset({Write, AuxWrite})
FENCE_TIMEOUT_S: Final = 20.0


class Kept:
    """A session as a keeper found it: its name, whose it is, and for each slot the number, and the answer or what is in doubt."""

    def __init__(self, name: bytes, principal: str, slots: list[tuple[int, Reply | Doubt | None]]) -> None:
        self.name = name
        self.principal = principal
        self.slots = slots


class Keeper(Protocol):
    """Where sessions are kept over a restart of the server. killed: the one before did not stop in order."""

    killed: bool

    def load(self) -> list[Kept]:
        """Return the sessions there are."""

    def add(self, name: bytes, principal: str, slots: int) -> Keeping | None:
        """Keep a session from now on. Returns: where its answers go."""

    def find(self, name: bytes) -> Keeping | None:
        """Return where the answers of a session go."""

    def drop(self, name: bytes) -> None:
        """Forget a session."""


class Channel:
    """A connection's place in a session. drop: ends the connection, soon."""

    def __init__(self, sessions: "Sessions", principal: str, drop: Callable[[], None]) -> None:
        self.principal = principal
        self.drop = drop
        self.session: Session | None = None
        self.number = 0
        self.over = trio.Event()
        self._sessions = sessions

    @property
    def ended(self) -> bool:
        """Whether the session it was bound to is over: nobody can miss anything on this connection any more."""
        return self.session is not None and self.session.ended

    async def bind(self, request: Bind) -> Reply:
        """See `Place`."""
        return await self._sessions.bind(request, self)

    async def fence(self, request: Fence) -> Reply:
        """See `Place`."""
        return await self._sessions.fence(request, self)

    async def end(self, request: EndSession) -> Reply:
        """See `Place`."""
        del request
        return await self._sessions.end(self)

    def is_over(self, request: Sequenced) -> bool:
        """See `Place`."""
        return self.session is not None and self.session.slots.is_over(request.slot, request.seq)

    def begin(self, request: Sequenced) -> SlotAction:
        """See `Place`."""
        if self.session is None or self.session.ended:
            return SlotAction.REFUSE
        action = self.session.slots.begin(request.slot, request.seq)
        self._sessions.replays += action is SlotAction.REPLAY
        return action

    def running(self, request: Sequenced) -> Running:
        """See `Place`."""
        session = self._joined()
        doubt = session.doubts.pop(request.slot, None)
        if doubt is not None and doubt.request != request.request:
            doubt = None
        return self._sessions.running(session, request, doubt)

    def ran(self, request: Sequenced, noting: Noting) -> None:
        """See `Place`."""
        session = self._joined()
        assert isinstance(noting, Running)
        if noting.reply is not None:
            session.slots.finish(request.slot, noting.reply)
        elif noting.began:
            session.slots.finish(request.slot, Reply(errno.EIO))
        else:
            if noting.doubt is not None:
                session.doubts[request.slot] = noting.doubt
            session.slots.withdraw(request.slot)

    def answer(self, request: Sequenced) -> Reply:
        """See `Place`."""
        kept = self._joined().slots.answer(request.slot)
        return Reply(kept.status, kept.body)

    async def until_free(self, request: Sequenced) -> None:
        """See `Place`."""
        free = trio.Event()
        self._joined().slots.when_free(request.slot, free.set)
        await free.wait()

    def left(self) -> None:
        """See `Place`."""
        self._sessions.left(self)

    @property
    def store(self) -> Store:
        """The export's store."""
        return self._sessions.store

    @property
    def sharing(self) -> Sharing:
        """What the export's clients are told of each other."""
        return self._sessions.sharing

    @property
    def owner(self) -> int | None:
        """See `Place`."""
        return None if self.session is None else self.session.owner

    def _joined(self) -> "Session":
        assert self.session is not None
        return self.session


class Session:
    """A client's session. owner: its number among those who have write intents. ends: what else is to end with it."""

    def __init__(self, name: bytes, principal: str, slots: int, owner: int) -> None:
        self.name = name
        self.principal = principal
        self.owner = owner
        self.slots: ServerSlots[Reply] = ServerSlots(slots)
        self.channels: dict[int, Channel] = {}
        self.doubts: dict[int, Doubt] = {}
        self.keeping: Keeping | None = None
        self.idle_since = 0.0
        self.ended = False
        self.ends: list[Callable[[], None]] = []


class Sessions:
    """The sessions of one export.

    keeper: None when they end with the process. sharing: what their clients are told of each other. replays: answers from memory.
    """

    def __init__(
        self, store: Store, env: Env, keeper: Keeper | None = None, *, expires_s: float = EXPIRES_S, grace_s: float = GRACE_S,
        sharing: Sharing | None = None,
    ) -> None:  # fmt: skip
        self.store = store
        self.sharing = sharing or Sharing(env)
        self._claiming = False
        """What is open is not all known: since a restart, until the grace period is over and `tidy` has seen to that."""
        store.is_open, self.sharing.leases.closed = self._may_be_open, self._closed
        self._env = env
        self._names = Names()
        self._keeper = keeper
        self._expires_s = expires_s
        self._sessions: dict[bytes, Session] = {}
        self.replays = 0
        kept = [] if keeper is None else self._load(keeper)
        for one in kept:
            self._restore(one)
        self._claiming = bool(kept)
        self._grace_until = env.now() + grace_s if kept else 0.0

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def connected(self) -> int:
        """How many sessions have a connection; the others wait for their clients, until they expire."""
        return sum(bool(session.channels) for session in self._sessions.values())

    @property
    def grace_s(self) -> float:
        """Seconds in which only what was held before the restart may be claimed."""
        return max(0.0, self._grace_until - self._env.now())

    def _load(self, keeper: Keeper) -> list[Kept]:
        """Return the sessions there were, when what their answers promise is durable. If it cannot be, none of them goes on."""
        kept = keeper.load()
        if not kept or not keeper.killed:
            return kept
        try:
            self.store.sync()
        except OSError as error:
            log.error("dropped sessions=%d error=%s", len(kept), error.strerror)
            for one in kept:
                keeper.drop(one.name)
            return []
        return kept

    def _restore(self, kept: Kept) -> None:
        """Take a session over; what was begun and perhaps not done is looked into before anybody else can change it."""
        assert self._keeper is not None
        keeping = self._keeper.find(kept.name)
        session = Session(kept.name, kept.principal, len(kept.slots), self.store.intents.new_session())
        session.idle_since = self._env.now()
        session.keeping = keeping
        for slot, (seq, found) in enumerate(kept.slots):
            answer = settle(self.store, found) if isinstance(found, Doubt) else found
            if isinstance(found, Doubt):
                if answer is None:
                    session.doubts[slot] = found
                elif keeping is not None:
                    self.store.keep()  # what the answer names must outlive this server too
                    keeping.answer(slot, seq, answer)
            session.slots.restore(slot, seq, answer)
        self._sessions[kept.name] = session

    # ---- channels

    async def bind(self, request: Bind, channel: Channel) -> Reply:
        """Bind a connection to a session, old or new. Cancellation: it is not bound; what it fenced off is."""
        await self.expire()
        if channel.session is not None:
            return Reply(errno.EINVAL)
        session = self._sessions.get(request.session)
        if not request.session:
            try:
                session = await self._begin(channel, request.slots)
            except OSError as error:
                log.warning("trouble sessions error=%s", error.strerror)
                return Reply(error.errno or errno.EIO)
            if session is None:
                return Reply(errno.EBUSY)
        elif session is None:
            await trio.lowlevel.checkpoint()
            return Reply(errno.ESTALE)
        if session.principal != channel.principal:
            log.warning("refused session of=%s by=%s", session.principal, channel.principal)
            return Reply(errno.EACCES)
        session.idle_since = self._env.now()  # it has no channel yet, and is not to expire before it has
        if not await self._fence(session, request.fence):
            return Reply(errno.EAGAIN)
        if session.ended:
            return Reply(errno.ESTALE)
        if request.channel in session.channels or len(session.channels) >= MAX_CHANNELS:
            return Reply(errno.EBUSY)
        channel.session, channel.number = session, request.channel
        session.channels[request.channel] = channel
        grace_ms = int(self.grace_s * 1000)
        return Reply(0, BindReply(session.name, len(session.slots), self.store.verifier, int(self._expires_s * 1000), grace_ms))

    async def _begin(self, channel: Channel, slots: int) -> Session | None:
        mine = sum(session.principal == channel.principal for session in self._sessions.values())
        if len(self._sessions) >= MAX_SESSIONS or mine >= MAX_OF_ONE:
            log.warning("refused session by=%s sessions=%d", channel.principal, len(self._sessions))
            return None
        name = self._env.nonces(SESSION_BYTES)
        session = Session(name, channel.principal, max(1, min(slots, MAX_SLOTS)), self.store.intents.new_session())
        session.idle_since = self._env.now()
        self._sessions[name] = session  # before it is kept: should the connection end meanwhile, it expires like any other
        if self._keeper is not None:
            try:
                session.keeping = await self._env.run_blocking(
                    partial(self._keeper.add, name, session.principal, len(session.slots))
                )
            except OSError:
                await self._drop(session)
                raise
        return session

    async def fence(self, request: Fence, channel: Channel) -> Reply:
        """Cut other channels of a connection's session."""
        session = channel.session
        if session is None or channel.number in request.channels:
            return Reply(errno.EINVAL)
        return Reply(0, Ack()) if await self._fence(session, request.channels) else Reply(errno.EAGAIN)

    async def _fence(self, session: Session, numbers: list[int]) -> bool:
        """Cut channels and wait for their end. Returns: false when one of them does not end in time."""
        cut = [session.channels[number] for number in numbers if number in session.channels]
        for channel in cut:
            channel.drop()
        with trio.CancelScope(deadline=self._env.now() + FENCE_TIMEOUT_S) as scope:
            for channel in cut:
                await channel.over.wait()
        await trio.lowlevel.checkpoint()
        return not scope.cancelled_caught

    def left(self, channel: Channel) -> None:
        """Note that a connection and everything it had begun has ended."""
        session = channel.session
        if session is not None:
            session.channels.pop(channel.number, None)
            if not session.channels:
                session.idle_since = self._env.now()
            if session.ended:
                self._let_go(session)  # of what the connection has taken since
        channel.over.set()

    async def end(self, channel: Channel) -> Reply:
        """Forget the session of a connection, which stays."""
        session = channel.session
        if session is None or session.ended:
            await trio.lowlevel.checkpoint()
            return Reply(errno.EINVAL)
        for other in session.channels.values():
            if other is not channel:
                other.drop()
        await self._drop(session)
        return Reply(0, Ack())

    async def expire(self) -> None:
        """Forget the sessions that have had no channel for too long."""
        before = self._env.now() - self._expires_s
        for session in [one for one in self._sessions.values() if not one.channels and one.idle_since < before]:
            log.info("expired session of=%s", session.principal)
            await self._drop(session)

    async def tidy(self) -> None:
        """Have the files without a name go that nobody has claimed since a restart, and those that were closed."""
        store = self.store
        if self.grace_s:
            return
        claimed, self._claiming = self._claiming, False
        unnamed = store.unnamed()
        if not unnamed:
            return
        for handle in unnamed:
            if not store.is_open(handle):
                store.closed(handle)
            elif claimed:  # whoever claimed it has perhaps not heard that it was removed
                self.sharing.removed(handle)
        if store.blocking:
            try:
                await self._env.run_blocking(store.keep)
            except OSError as error:
                log.warning("trouble removed error=%s", error.strerror)

    def _may_be_open(self, handle: Handle) -> bool:
        """Tell whether a client may have a file open: all of them until who had them open has had time to say so."""
        return self._claiming or self.sharing.leases.is_open(handle)

    def _closed(self, handle: Handle) -> None:
        if not self._claiming:
            self.store.closed(handle)

    async def _drop(self, session: Session) -> None:
        if self._sessions.pop(session.name, None) is None:
            return
        session.ended = True
        self._let_go(session)
        for end in session.ends:
            end()
        if self._keeper is not None:
            try:
                await self._env.run_blocking(partial(self._keeper.drop, session.name))
            except OSError as error:  # then it is found at the next start of the server, and expires again
                log.warning("trouble sessions error=%s", error.strerror)

    def _let_go(self, session: Session) -> None:
        self.store.intents.end_session(session.owner)
        self.sharing.end(session.owner)

    def running(self, session: Session, request: Sequenced, doubt: Doubt | None) -> Running:
        """Return what notes the doing of a request; that a write was done is remembered for as long as this server lives."""
        keeping = None if type(request.request) in _NOT_KEPT else session.keeping
        return Running(request, self.store, self._names, keeping, doubt)
