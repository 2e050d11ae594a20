"""Both halves of a session as a pair: tables, and every place at which a call and its answer can be lost."""

import errno
import itertools
from dataclasses import dataclass, field

import pytest

from iov.iov_iter import Direction, IovIter
from transport.base import Done, Limits, Outcome, Reply, Transport
from transport.errors import ProtocolError, SmallerLimits, TransportError
from transport.messages import Ack, BindReply, Getattr, Handle, Ping, Request, Sequenced, SequencedReply, Unlink, Write
from transport.pause import STORM, Pause
from transport.session import SLOT_STATES, ClientSession, ServerSlots, SlotAction, SlotEvent, SlotState
from transport.session_call import CALL_STATES, CallEvent, CallState

H = Handle(b"hh")
A, T, V = SlotAction, SlotState, SlotEvent


@dataclass(eq=False)
class WireCall:
    """A call on a connection of the test's."""

    request: Request
    done: Done
    xid: int = 7
    abandoned: bool = False

    def abandon(self) -> None:
        self.abandoned = True
        self.done(TransportError(errno.ECANCELED, "abandoned"))


@dataclass(eq=False)
class Wire(Transport):
    """A connection whose other end is the test."""

    limits: Limits = field(default_factory=Limits)
    calls: list[WireCall] = field(default_factory=list)
    gone: bool = False
    refuses: OSError | None = None

    def submit(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> WireCall:
        call = WireCall(request, done)
        if self.gone:
            done(TransportError(errno.EPIPE, "gone", retryable=True))
        elif source is not None and source.count > self.limits.max_payload:
            raise ValueError("too long")
        elif self.refuses is not None:
            raise self.refuses
        else:
            self.calls.append(call)
        return call

    async def call(self, request: Request, source: IovIter | None = None, dest: IovIter | None = None) -> Reply:
        raise AssertionError

    async def aclose(self) -> None:
        raise AssertionError

    def lose(self, error: TransportError | None = None) -> None:
        self.gone = True
        calls, self.calls = self.calls, []
        for call in calls:
            if not call.abandoned:
                call.done(error or TransportError(errno.ECONNRESET, "reset"))


class World:
    """A client's session with a clock that the test moves."""

    def __init__(self, slots: int = 2) -> None:
        self.now = 0.0
        self.broken: list[Transport] = []
        self.session = ClientSession(lambda: self.now, self._broken)
        self.session.bound(BindReply(b"s", slots, 1, 1000, 0), fresh=True)
        self.outcomes: list[Outcome] = []

    def _broken(self, channel: Transport, error: TransportError) -> None:
        self.broken.append(channel)
        self.session.detach(channel)

    def attach(self, replaces: Transport | None = None) -> Wire:
        wire = Wire()
        self.session.attach(wire, replaces)
        return wire


# ---- tables


def test_a_call_ends_once_on_every_path() -> None:
    """Walk all paths of at most six events: `done` is due exactly on the way into DONE."""
    for events in itertools.product(CallEvent, repeat=6):
        state, due = CallState.WAITING, 0
        for event in events:
            step = CALL_STATES.get((state, event))
            if step is None:
                break
            assert (step[0] is CallState.DONE and state is not CallState.DONE) == step[1]
            state = step[0]
            due += step[1]
        assert due == (state is CallState.DONE)


def test_every_state_of_a_slot_knows_every_number() -> None:
    for state in SlotState:
        for event in (V.NEXT, V.AGAIN, V.OLD):
            assert (state, event) in SLOT_STATES
    begun = {state for (state, event), (_, action) in SLOT_STATES.items() if action is A.EXECUTE and event is V.AGAIN}
    assert begun == {T.IDLE}, "what was answered, or runs, is never executed again"


def test_a_slot() -> None:
    slots: ServerSlots[str] = ServerSlots(2)
    assert len(slots) == 2
    assert slots.begin(2, 1) is slots.begin(-1, 1) is slots.begin(0, 0) is A.REFUSE
    assert slots.begin(0, 1) is A.EXECUTE
    woken: list[int] = []
    for number in (1, 2):
        assert slots.begin(0, number) is A.WAIT
        slots.when_free(0, lambda number=number: woken.append(number))  # type: ignore[misc]
    slots.finish(0, "first")
    assert woken == [1, 2]
    assert slots.begin(0, 1) is A.REPLAY
    assert slots.answer(0) == "first"
    assert slots.begin(0, 5) is A.EXECUTE
    assert slots.begin(0, 4) is A.REFUSE
    slots.withdraw(0)
    assert slots.begin(0, 5) is A.EXECUTE
    slots.finish(0, "fifth")
    assert slots.begin(0, 1) is A.REFUSE
    assert slots.begin(0, 5) is A.REPLAY
    assert slots.begin(1, 1) is A.EXECUTE


def test_what_was_kept_over_a_restart() -> None:
    slots: ServerSlots[str] = ServerSlots(2)
    slots.restore(0, 7, "answer")
    slots.restore(1, 3, None)
    assert slots.begin(0, 7) is A.REPLAY
    assert slots.begin(0, 6) is A.REFUSE
    assert slots.begin(1, 3) is A.EXECUTE


# ---- the pair


@dataclass
class Server:
    """The other half, and what it did."""

    slots: ServerSlots[Reply] = field(default_factory=lambda: ServerSlots(2))
    did: list[str] = field(default_factory=list)

    def serve(self, call: WireCall) -> Reply:
        request = call.request
        if not isinstance(request, Sequenced):
            return Reply(0, Ack())
        action = self.slots.begin(request.slot, request.seq)
        if action is A.EXECUTE:
            assert isinstance(request.request, Unlink)
            self.did.append(request.request.name)
            self.slots.finish(request.slot, Reply(0, SequencedReply(request.request.op, Ack())))
        elif action is not A.REPLAY:
            return Reply(errno.EINVAL)
        kept = self.slots.answer(request.slot)
        return Reply(kept.status, kept.body)


@pytest.mark.parametrize("fates", list(itertools.product("dDr", repeat=4)))
def test_each_call_happens_once_whatever_is_lost(fates: tuple[str, ...]) -> None:
    """d: the connection is lost with the request, D: with the answer, r: it is answered."""
    world, server = World(), Server()
    wire = world.attach()
    world.session.submit(Unlink(H, "one"), world.outcomes.append, None, None)
    world.session.submit(Unlink(H, "two"), world.outcomes.append, None, None)
    world.session.submit(Unlink(H, "three"), world.outcomes.append, None, None)  # waits for a slot
    for fate in (*fates, *"rrrrrr"):
        if not wire.calls:
            break
        call = wire.calls[0]
        reply = server.serve(call) if fate != "d" else None
        if fate == "r":
            wire.calls.remove(call)
            assert reply is not None
            call.done(reply)
        else:
            wire.lose()
            wire = world.attach(wire)
    while wire.calls:
        call = wire.calls.pop(0)
        call.done(server.serve(call))
    assert sorted(server.did) == ["one", "three", "two"]
    assert [type(outcome.body) if isinstance(outcome, Reply) else outcome for outcome in world.outcomes] == [Ack] * 3
    assert world.session.waiting == 0


def test_nothing_is_sent_again_before_the_lost_channel_is_fenced_off() -> None:
    world = World()
    first, second = world.attach(), world.attach()
    for _ in range(4):
        world.session.submit(Getattr(H), world.outcomes.append, None, None)
    assert len(first.calls) == len(second.calls) == 2
    first.lose()
    assert world.broken == [first] * 2
    assert len(second.calls) == 2
    assert world.session.orphans() == [first]
    world.session.submit(Ping(), world.outcomes.append, None, None)
    assert len(second.calls) == 3, "what is new need not wait"
    world.session.fenced(first)
    assert len(second.calls) == 5
    for call in second.calls:
        call.done(Reply(0, Ack()))
    assert len(world.outcomes) == 5


def test_a_new_session_ends_what_may_have_happened_and_goes_on_with_the_rest() -> None:
    world = World()
    wire = world.attach()
    world.session.submit(Unlink(H, "sent"), world.outcomes.append, None, None)
    world.session.submit(Getattr(H), world.outcomes.append, None, None)
    wire.lose()
    world.session.submit(Unlink(H, "not sent"), world.outcomes.append, None, None)
    world.session.bound(BindReply(b"t", 2, 2, 1000, 0), fresh=True)
    wire = world.attach()
    (lost,) = world.outcomes
    assert isinstance(lost, TransportError) and lost.errno == errno.ESTALE and not lost.retryable
    asked = [call.request for call in wire.calls]
    assert Getattr(H) in asked and Sequenced(0, 1, Unlink(H, "not sent")) in asked and len(asked) == 2


def test_what_never_left_is_not_lost_with_the_session() -> None:
    world = World()
    wire = world.attach()
    world.session.submit(Unlink(H, "queued"), world.outcomes.append, None, None)
    wire.lose(TransportError(errno.ECONNRESET, "reset", retryable=True))
    world.session.bound(BindReply(b"t", 2, 2, 1000, 0), fresh=True)
    assert len(world.attach().calls) == 1
    assert not world.outcomes


def test_abandoning() -> None:
    world = World(slots=1)
    wire = world.attach()
    sent = world.session.submit(Unlink(H, "sent"), world.outcomes.append, None, None)
    starved = world.session.submit(Unlink(H, "starved"), world.outcomes.append, None, None)
    starved.abandon()
    assert len(world.outcomes) == 1
    sent.abandon()
    assert wire.calls[0].abandoned
    assert len(world.outcomes) == 2
    sent.abandon()
    world.session.submit(Unlink(H, "next"), world.outcomes.append, None, None)
    assert wire.calls[1].request == Sequenced(0, 2, Unlink(H, "next")), "its number is used up"
    wire.lose()
    for outcome in world.outcomes:
        assert isinstance(outcome, TransportError) and outcome.errno == errno.ECANCELED


def test_a_call_that_waits_for_a_connection_can_be_abandoned() -> None:
    world = World()
    wire = world.attach()
    call = world.session.submit(Unlink(H, "a"), world.outcomes.append, None, None)
    wire.lose()
    call.abandon()
    assert len(world.outcomes) == 1 and world.session.waiting == 0
    assert world.attach(wire).calls == []


def test_waiting_is_bounded() -> None:
    world = World()
    wire = world.attach()
    world.now = 5.0
    world.session.submit(Getattr(H), world.outcomes.append, None, None)
    wire.lose()
    world.now = 7.0
    world.session.submit(Ping(), world.outcomes.append, None, None)
    error = TransportError(errno.ETIMEDOUT, "no connection")
    assert world.session.expire(10.0, error) == 15.0
    world.now = 15.0
    assert world.session.expire(10.0, error) == 17.0
    assert world.outcomes == [error]
    world.attach(wire)
    world.now = 100.0
    assert world.session.expire(10.0, error) is None, "a server that is slow is waited for"
    assert world.outcomes == [error]


def test_a_server_that_breaks_the_protocol_again_and_again() -> None:
    world = World()
    wire = world.attach()
    world.session.submit(Getattr(H), world.outcomes.append, None, None)
    for _ in range(3):
        assert not world.outcomes
        wire.lose(ProtocolError("nonsense"))
        wire = world.attach(wire)
    (outcome,) = world.outcomes
    assert isinstance(outcome, ProtocolError)


def test_smaller_limits_after_a_reconnect() -> None:
    world = World()
    wire = world.attach()
    memory = IovIter.ubuf(Direction.SOURCE, memoryview(bytearray(100)))
    world.session.submit(Write(H, 0), world.outcomes.append, memory, None)
    wire.lose()
    smaller = Wire(Limits(max_payload=10))
    world.session.attach(smaller, wire)
    (outcome,) = world.outcomes
    assert isinstance(outcome, SmallerLimits) and outcome.errno == errno.EMSGSIZE and outcome.retryable


def test_a_call_that_was_made_for_larger_limits_than_there_are_by_now() -> None:
    world = World()
    world.session.attach(Wire(Limits(max_payload=10)))
    memory = IovIter.ubuf(Direction.SOURCE, memoryview(bytearray(100)))
    world.session.submit(Write(H, 0), world.outcomes.append, memory, None)
    (outcome,) = world.outcomes
    assert isinstance(outcome, SmallerLimits) and outcome.retryable


def test_memory_that_cannot_be_sent_ends_its_call_and_not_the_session() -> None:
    world = World(slots=1)
    wire = world.attach()
    wire.refuses = OSError(errno.EFAULT, "the memory of a device")
    world.session.submit(Write(H, 0), world.outcomes.append, None, None)
    (outcome,) = world.outcomes
    assert isinstance(outcome, TransportError) and outcome.errno == errno.EFAULT
    wire.refuses = None
    world.session.submit(Unlink(H, "n"), world.outcomes.append, None, None)
    assert len(wire.calls) == 1, "the slot is free again"


def test_closing_ends_everything() -> None:
    world = World()
    wire = world.attach()
    world.session.submit(Getattr(H), world.outcomes.append, None, None)
    wire.lose()
    error = TransportError(errno.ECONNABORTED, "closed")
    world.session.close(error)
    world.session.submit(Getattr(H), world.outcomes.append, None, None)
    assert world.outcomes == [error, error]


def test_without_sessions_what_was_lost_stays_lost() -> None:
    outcomes: list[Outcome] = []
    session = ClientSession(lambda: 0.0, lambda channel, _: session.detach(channel))
    wire = Wire()
    session.attach(wire)
    session.submit(Unlink(H, "a"), outcomes.append, None, None)
    assert wire.calls[0].request == Unlink(H, "a")
    wire.lose()
    assert isinstance(outcomes[0], TransportError)


# ---- pauses


def test_pauses_double_and_start_again() -> None:
    pause = Pause(0.01, 0.05)
    assert [pause.after(None) for _ in range(5)] == [0.01, 0.02, 0.04, 0.05, 0.05]
    assert pause.after(5.0) == 0.0
    assert pause.after(None) == 0.01


def test_a_storm_is_borne_for_a_while() -> None:
    pause = Pause(0.01, 5.0)
    assert {pause.after(0.001) for _ in range(STORM)} == {0.01}
    assert [pause.after(0.001) for _ in range(3)] == [0.01, 0.02, 0.04]
