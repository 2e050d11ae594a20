"""Sans-IO. Both halves of a session: calls that outlive their connection, and the slots that make each of them happen once.

A session lies above connections, its *channels*. Calls that may be made twice (`_REPEATABLE`) travel as they are. Every other
gets a *slot* and a number in it that only grows, and the server remembers the last answer of each slot:

    client                                            server
    slot 3 free ── Sequenced(3, 8, Rename) ──► slot 3 last did 7: do it, remember the answer as 8
       connection lost, answer lost with it
    new connection, Bind ─────────────────────► the old connection is closed; what it had begun ends
    slot 3, 8 again ── Sequenced(3, 8, Rename) ──► slot 3 last did 8: the answer from memory

Whatever was sent and not answered is sent again when the server has said, by its answer to `Bind` or `Fence`, that nothing of
the lost connection goes on: else a delayed write of the old one could undo a later write of the new one. Numbers may be
skipped (a call that was given up may never have arrived) but never go back. A server that has lost its memory refuses the
session; calls that may have happened then end with ESTALE, and the others go on in a new session.

The states of slots are the table below, those of calls are in `session_call.py`. Ownership: as in `base.py`; a call's memory
stays lent while it waits for a connection.
"""

import errno
from collections import deque
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Final, Generic, TypeVar, get_args

from iov.iov_iter import IovIter
from transport.base import Done, Transport
from transport.errors import ProtocolError, SmallerLimits, TransportError
from transport.messages import (
    IDEMPOTENT,
    Allocate,
    AuxWrite,
    BindReply,
    Compound,
    Punch,
    Request,
    Sequenced,
    Setattr,
    Truncate,
    Write,
)
from transport.session_call import CallEvent, CallState, SessionCall

__all__ = ["SLOT_STATES", "ClientSession", "ServerSlots", "SlotAction", "SlotEvent", "SlotState"]

_SENT: Final = CallState.SENT
MAX_BREACHES: Final = 3
"""Connections a call may lose to a server that breaks the protocol; then it is the server that is broken."""
_UNDOING: Final = frozenset({Setattr, Truncate, Punch, Allocate, Write, AuxWrite})
"""Requests that a lone client could repeat, but that would undo what another wrote meanwhile."""
_REPEATABLE: Final = frozenset(kind for kind in get_args(Request) if kind.op in IDEMPOTENT and kind not in _UNDOING)
"""Requests without a number."""
_ANEW: Final = frozenset({Write, AuxWrite})
"""Requests that are made again in a new session too: until a commit it is the client that answers for what it wrote."""

# ---- the client's half


class ClientSession:
    """The client's half: which calls are under way, which wait, and which slot each has.

    session: its name, empty before the first `bound`. boot: the server's start. live: the channels that calls may go by.
    now: the time. broken: told, at once, of a channel on which a call was lost; it calls `detach`, now or later.
    resumable: false with a server that knows no sessions; what is lost with its connection then ends with the error.
    """

    __slots__ = (
        "_alone", "_broken", "_free", "_held", "_next", "_now", "_ready", "_slots", "_starved", "_turn", "boot",
        "down_since", "error", "live", "resumable", "session",
    )  # fmt: skip

    def __init__(self, now: Callable[[], float], broken: Callable[[Transport, TransportError], None]) -> None:
        self._now = now
        self._broken = broken
        self._ready: deque[SessionCall] = deque()
        self._starved: deque[SessionCall] = deque()
        self._held: dict[Transport, list[SessionCall]] = {}
        self._free: list[int] = []
        self._slots = 0
        self._next: list[int] = []
        self._turn = 0
        self._alone: Transport | None = None
        self.session = b""
        self.boot = 0
        self.live: list[Transport] = []
        self.resumable = False
        self.error: TransportError | None = None
        self.down_since = now()

    @property
    def waiting(self) -> int:
        """Calls that are not on a connection."""
        return len(self._ready) + len(self._starved) + sum(map(len, self._held.values()))

    def submit(
        self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None
    ) -> SessionCall:  # fmt: skip
        """Start a call, or have it wait for a channel or a slot. Raises: as the channel's `submit`, for what has no number."""
        call = SessionCall(self, request, done, source, dest)
        channel = self._alone
        if channel is not None and type(request) in _REPEATABLE:
            call.state = _SENT
            call.channel = channel
            inner = channel.submit(request, call, source, dest)
            if call.state is _SENT:
                call.inner = inner
        elif self.error is not None:
            call.step(CallEvent.GIVE_UP)
            call.finish(self.error)
        else:
            if not self.live:
                call.waited.since = self._now()
            self._ready.append(call)
            self.pump()
        return call

    def pump(self) -> None:
        """Send what waits, as far as there are channels and slots."""
        ready, live = self._ready, self.live
        while ready and live:
            call = ready.popleft()
            request = call.request
            if self.resumable and not _is_repeatable(request):
                if call.slot < 0:
                    if not self._free:
                        self._starved.append(call)
                        continue
                    slot = call.slot = self._free.pop()
                    self._next[slot] += 1
                    call.waited.seq = self._next[slot]
                call.waited.maybe = True
                request = Sequenced(call.slot, call.waited.seq, request)
            channel = live[0]
            if len(live) > 1:
                self._turn += 1
                channel = live[self._turn % len(live)]
            try:
                call.send(channel, request)
            except ValueError as error:  # its limits are smaller than those the call was made for
                call.step(CallEvent.LOSE)
                self._give_up(call, SmallerLimits(str(error)))
            except OSError as error:  # memory that it cannot send from
                call.step(CallEvent.LOSE)
                self._give_up(call, TransportError(error.errno or errno.EFAULT, str(error)))

    def answered(self, call: SessionCall) -> None:
        """Take back the slot of a call that is over."""
        if call.slot < self._slots:
            self._free.append(call.slot)
        call.slot = -1
        if self._starved:
            self._ready.appendleft(self._starved.popleft())
            self.pump()

    def forget(self, call: SessionCall) -> None:
        """Take a call that ends now out of what waits; its slot goes on with the next number."""
        self._take_out(call)
        if call.slot >= 0:
            self.answered(call)

    def lost(self, call: SessionCall, error: TransportError) -> None:
        """Keep a call whose connection ended until it may be sent again."""
        channel = call.channel
        assert channel is not None
        call.waited.since = self._now()
        waited = call.waited
        waited.breaches += isinstance(error, ProtocolError)
        if waited.maybe and error.retryable and call.slot >= 0:
            waited.maybe = False  # it never left
        if waited.breaches >= MAX_BREACHES or self.error is not None or not self.resumable:
            self._give_up(call, self.error or error)
        else:
            self._held.setdefault(channel, []).append(call)
        self._broken(channel, error)

    def _give_up(self, call: SessionCall, error: TransportError) -> None:
        call.step(CallEvent.GIVE_UP)
        if call.slot >= 0:
            self.answered(call)
        call.finish(error)

    # ---- channels

    def bound(self, reply: BindReply, *, fresh: bool) -> None:
        """Take the server's answer to `Bind`. fresh: it is another session than before, if there was one."""
        if fresh:
            waiting = self._all_waiting()
            self._slots = reply.slots
            self._next = [0] * reply.slots
            self._free = list(range(reply.slots - 1, -1, -1))
            for call in waiting:
                call.slot = -1
                if call.waited.maybe and type(call.request) not in _ANEW:
                    text = f"the server has lost the session; whether {type(call.request).__name__} happened is not known"
                    self._take_out(call)
                    self._give_up(call, TransportError(errno.ESTALE, text))
            for channel in self.orphans():
                self._ready += self._held.pop(channel)
        self.session = reply.session
        self.boot = reply.boot
        self.resumable = True

    def attach(self, channel: Transport, replaces: Transport | None = None) -> None:
        """Use a channel from now on. replaces: one that has ended on the server too; what was lost with it is sent again."""
        self.live.append(channel)
        self._alone = channel if len(self.live) == 1 else None
        if replaces is not None:
            self.fenced(replaces)
        self.pump()
        self._settle()

    def detach(self, channel: Transport) -> None:
        """Use a channel no more. Idempotent."""
        if channel in self.live:
            self.live.remove(channel)
            if not self.live:
                self.down_since = self._now()
        self._settle()

    def _settle(self) -> None:
        """Let calls pass by the queues when there is nothing in them and one channel."""
        self._alone = self.live[0] if len(self.live) == 1 and not self._ready else None

    def fenced(self, channel: Transport) -> None:
        """Send again what was lost with a channel that has ended on the server too."""
        calls = self._held.pop(channel, [])
        self._ready.extendleft(reversed(calls))
        self.pump()
        self._settle()

    def orphans(self) -> list[Transport]:
        """Return the channels that calls were lost with and that have not been fenced off."""
        return list(self._held)

    def expire(self, timeout_s: float, error: TransportError) -> float | None:
        """End what has waited for a connection for longer than is to be borne. Returns: when to look again, None for never."""
        if self.live:
            return None
        now, first = self._now(), None
        for call in self._all_waiting():
            until = max(call.waited.since, self.down_since) + timeout_s
            if until <= now:
                self._take_out(call)
                self._give_up(call, error)
            elif first is None or until < first:
                first = until
        return first

    def close(self, error: TransportError) -> None:
        """End every call that waits, and whatever is submitted later. Calls on a connection end with that. Idempotent."""
        self.error = self.error or error
        self._alone = None
        for call in self._all_waiting():
            self._take_out(call)
            self._give_up(call, error)

    def _all_waiting(self) -> list[SessionCall]:
        calls = [*self._ready, *self._starved]
        for held in self._held.values():
            calls += held
        return calls

    def _take_out(self, call: SessionCall) -> None:
        for queue in (self._ready, self._starved, *self._held.values()):
            if call in queue:
                queue.remove(call)


def _is_repeatable(request: Request) -> bool:
    if isinstance(request, Compound):
        return all(type(step.request) in _REPEATABLE for step in request.steps)
    return type(request) in _REPEATABLE


# ---- the server's half


class SlotState(IntEnum):
    """What a slot is at."""

    IDLE = 0
    RUNNING = 1
    ANSWERED = 2


class SlotEvent(IntEnum):
    """What happens to a slot: a number larger than the last, the last again, a smaller one; the end of what runs."""

    NEXT = 0
    AGAIN = 1
    OLD = 2
    FINISH = 3
    WITHDRAW = 4


class SlotAction(Enum):
    """What is to be done with a request that names a slot."""

    EXECUTE = "execute"
    WAIT = "wait"
    REPLAY = "replay"
    REFUSE = "refuse"
    NOTHING = "nothing"


_T, _V, _A = SlotState, SlotEvent, SlotAction
SLOT_STATES: Final[dict[tuple[SlotState, SlotEvent], tuple[SlotState, SlotAction]]] = {
    # state, event: next state, what is to be done
    (_T.IDLE, _V.NEXT): (_T.RUNNING, _A.EXECUTE),
    (_T.IDLE, _V.AGAIN): (_T.RUNNING, _A.EXECUTE),  # it was begun once and withdrawn before it had any effect
    (_T.IDLE, _V.OLD): (_T.IDLE, _A.REFUSE),
    (_T.RUNNING, _V.NEXT): (_T.RUNNING, _A.WAIT),  # the client has given the earlier one up
    (_T.RUNNING, _V.AGAIN): (_T.RUNNING, _A.WAIT),
    (_T.RUNNING, _V.OLD): (_T.RUNNING, _A.REFUSE),
    (_T.RUNNING, _V.FINISH): (_T.ANSWERED, _A.NOTHING),
    (_T.RUNNING, _V.WITHDRAW): (_T.IDLE, _A.NOTHING),
    (_T.ANSWERED, _V.NEXT): (_T.RUNNING, _A.EXECUTE),
    (_T.ANSWERED, _V.AGAIN): (_T.ANSWERED, _A.REPLAY),
    (_T.ANSWERED, _V.OLD): (_T.ANSWERED, _A.REFUSE),
}

Answer = TypeVar("Answer")


class _Slot(Generic[Answer]):
    __slots__ = ("answer", "last", "state", "waiters")

    def __init__(self) -> None:
        self.state = SlotState.IDLE
        self.last = 0
        self.answer: Answer | None = None
        self.waiters: list[Callable[[], None]] = []


class ServerSlots(Generic[Answer]):
    """The server's half: the last number and answer of each slot."""

    __slots__ = ("_slots",)

    def __init__(self, count: int) -> None:
        self._slots: list[_Slot[Answer]] = [_Slot() for _ in range(count)]

    def __len__(self) -> int:
        return len(self._slots)

    def begin(self, slot: int, seq: int) -> SlotAction:
        """Say what to do with a request: EXECUTE it and say `finish`; WAIT and ask again; REPLAY `answer`; or REFUSE it."""
        if not 0 <= slot < len(self._slots) or seq < 1:
            return SlotAction.REFUSE
        found = self._slots[slot]
        event = SlotEvent.NEXT if seq > found.last else SlotEvent.AGAIN if seq == found.last else SlotEvent.OLD
        found.state, action = SLOT_STATES[found.state, event]
        if action is SlotAction.EXECUTE:
            found.last = seq
            found.answer = None
        return action

    def is_over(self, slot: int, seq: int) -> bool:
        """Say whether a request is not going to be done, because it has been, or a later one of its slot."""
        if not 0 <= slot < len(self._slots):
            return True
        found = self._slots[slot]
        return seq < found.last or (seq == found.last and found.state is SlotState.ANSWERED)

    def answer(self, slot: int) -> Answer:
        """Return the answer that a slot remembers."""
        answer = self._slots[slot].answer
        assert answer is not None
        return answer

    def finish(self, slot: int, answer: Answer) -> None:
        """Remember the answer of what runs in a slot, and wake who waits."""
        found = self._slots[slot]
        found.state, _ = SLOT_STATES[found.state, SlotEvent.FINISH]
        found.answer = answer
        self._wake(found)

    def withdraw(self, slot: int) -> None:
        """Say that what runs in a slot ended without any effect, and may be asked for again."""
        found = self._slots[slot]
        found.state, _ = SLOT_STATES[found.state, SlotEvent.WITHDRAW]
        self._wake(found)

    def restore(self, slot: int, seq: int, answer: Answer | None) -> None:
        """Put back what was kept over a restart; no answer: it is not known to have been done, and may be asked for again."""
        found = self._slots[slot]
        found.last = seq
        found.answer = answer
        found.state = SlotState.IDLE if answer is None else SlotState.ANSWERED

    def when_free(self, slot: int, wake: Callable[[], None]) -> None:
        """Have `wake` called once, when what runs in a slot has ended."""
        self._slots[slot].waiters.append(wake)

    def _wake(self, slot: "_Slot[Answer]") -> None:
        waiters, slot.waiters = slot.waiters, []
        for wake in waiters:
            wake()
