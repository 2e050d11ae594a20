"""Sans-IO. A call of a session: it waits, is on a connection, is lost with it and waits again, until it has an outcome.

The states are the table below. Ownership: as in `base.py`; a call's memory stays lent while it waits for a connection.
"""

import errno
from enum import IntEnum
from typing import Final, Protocol

from iov.iov_iter import IovIter
from transport.base import ClientCall, Done, Outcome, Reply, Transport
from transport.errors import TransportError
from transport.messages import Request, SequencedReply

__all__ = ["CALL_STATES", "CallEvent", "CallState", "SessionCall"]

_OF_THE_CALL: Final = frozenset({errno.EMSGSIZE, errno.ECANCELED})
"""What a connection says of one call without being over."""


class CallState(IntEnum):
    """Where a call of a session is."""

    WAITING = 0
    SENT = 1
    ENDING = 2
    DONE = 3


class CallEvent(IntEnum):
    """What happens to a call of a session."""

    SEND = 0
    ANSWER = 1
    LOSE = 2
    ABANDON = 3
    GIVE_UP = 4


_S, _E = CallState, CallEvent
CALL_STATES: Final[dict[tuple[CallState, CallEvent], tuple[CallState, bool]]] = {
    # state, event: next state, whether `done` is due
    (_S.WAITING, _E.SEND): (_S.SENT, False),
    (_S.WAITING, _E.ABANDON): (_S.DONE, True),
    (_S.WAITING, _E.GIVE_UP): (_S.DONE, True),
    (_S.SENT, _E.ANSWER): (_S.DONE, True),
    (_S.SENT, _E.LOSE): (_S.WAITING, False),
    (_S.SENT, _E.ABANDON): (_S.ENDING, False),
    (_S.ENDING, _E.ANSWER): (_S.DONE, True),
    (_S.ENDING, _E.LOSE): (_S.DONE, True),
    (_S.ENDING, _E.ABANDON): (_S.ENDING, False),
    (_S.DONE, _E.ABANDON): (_S.DONE, False),
}
_NEXT: Final = tuple(tuple(CALL_STATES.get((state, event)) for event in CallEvent) for state in CallState)
_SEND, _ANSWER, _LOSE, _ABANDON, _GIVE_UP = CallEvent
_WAITING, _SENT, _DONE = CallState.WAITING, CallState.SENT, CallState.DONE


class Keeper(Protocol):
    """The session, as its calls see it."""

    def answered(self, call: "SessionCall") -> None:
        """Take back the slot of a call that is over."""

    def lost(self, call: "SessionCall", error: TransportError) -> None:
        """Keep a call whose connection ended until it may be sent again."""

    def forget(self, call: "SessionCall") -> None:
        """Take a call that ends now out of what waits."""


class Trouble:
    """What a call went through. seq: its number in its slot; since: when it was lost; breaches: how often to a broken server.

    maybe: it may have happened.
    """

    __slots__ = ("breaches", "maybe", "seq", "since")

    def __init__(self) -> None:
        self.seq = 0
        self.since = 0.0
        self.breaches = 0
        self.maybe = False


class SessionCall:
    """A call of a session; it is the `done` of the calls that a connection makes for it."""

    __slots__ = ("_done", "_session", "channel", "dest", "inner", "request", "slot", "source", "state", "trouble")

    def __init__(self, session: "Keeper", request: Request, done: Done, source: IovIter | None, dest: IovIter | None) -> None:
        self._session = session
        self._done: Done | None = done
        self.inner: ClientCall | None = None
        self.request = request
        self.source = source
        self.dest = dest
        self.state = _WAITING
        self.channel: Transport | None = None
        self.slot = -1
        self.trouble: Trouble | None = None

    @property
    def xid(self) -> int:
        """The number of its present or last frame, 0 before it was sent."""
        return self.inner.xid if self.inner is not None else 0

    @property
    def waited(self) -> "Trouble":
        """What is only known of a call that did not go straight out and come back."""
        if self.trouble is None:
            self.trouble = Trouble()
        return self.trouble

    def abandon(self) -> None:
        """Ask that the call end soon, as the transport's contract says."""
        before = self.state
        if self.step(_ABANDON):
            self._session.forget(self)
            self.finish(_cancelled())
        elif before is _SENT and self.inner is not None:
            self.inner.abandon()

    def step(self, event: CallEvent) -> bool:
        """Move by the table. Returns: whether `done` is due."""
        step = _NEXT[self.state][event]
        assert step is not None, f"{event.name} of a call that is {self.state.name}"
        self.state, due = step
        return due

    def send(self, channel: Transport, request: Request) -> None:
        """Send it by a channel."""
        self.step(_SEND)
        self.channel = channel
        inner = channel.submit(request, self, self.source, self.dest)
        if self.state is not _DONE:
            self.inner = inner
            if self.state is CallState.ENDING:
                inner.abandon()

    def __call__(self, outcome: Outcome) -> None:
        """Take what a connection says became of it."""
        if self.slot < 0 and type(outcome) is Reply:  # what nearly always happens, by the table, without looking it up
            self.state = _DONE
            done, self._done = self._done, None
            self.source = self.dest = self.inner = self.channel = None
            assert done is not None, "a call ends once"
            done(outcome)
        elif isinstance(outcome, Reply) or outcome.errno in _OF_THE_CALL:
            self.step(_ANSWER)
            if self.slot >= 0:
                self._session.answered(self)
                if isinstance(outcome, Reply) and isinstance(outcome.body, SequencedReply):
                    outcome.body = outcome.body.body
            self.finish(outcome)
        elif self.step(_LOSE):
            self._session.forget(self)
            self.finish(_cancelled())
        else:
            self._session.lost(self, outcome)

    def finish(self, outcome: Outcome) -> None:
        """Tell the caller, whose memory it is again."""
        done, self._done = self._done, None
        assert done is not None, "a call ends once"
        self.source = self.dest = self.inner = self.channel = None
        done(outcome)


def _cancelled() -> TransportError:
    return TransportError(errno.ECANCELED, "the call was abandoned")
