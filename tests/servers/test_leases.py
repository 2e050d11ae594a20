"""Leases: who is given what, who is asked for it, what happens to who does not answer; and what waits meanwhile."""

import errno

import pytest
import trio
import trio.testing

from iov.probe import Probe
from servers import leases
from servers.dispatch import Dispatcher
from servers.leases import LEASE_TIMEOUT_S, LeaseTable
from servers.sharing import Sharing, accesses
from servers.stores.base import Store
from servers.stores.memory import MemoryStore
from tests.conformance.store_words import new, put, refused, top
from tests.servers.test_dispatch import Side
from transport.base import Limits, Reply
from transport.env import system_env
from transport.messages import (
    Ack,
    Allocate,
    Await,
    Commit,
    Compound,
    CompoundReply,
    CompoundStep,
    CopyRange,
    Create,
    EventsReply,
    Getattr,
    Handle,
    Lease,
    LeaseKind,
    LeaseReply,
    LeaseReturn,
    Link,
    Lock,
    LockFree,
    LockKind,
    LockReply,
    LockTest,
    Lookup,
    Open,
    Punch,
    Read,
    Recall,
    Rename,
    Revoke,
    Setattr,
    Step,
    StepKind,
    Transact,
    Truncate,
    Unlink,
    Unlock,
    Write,
    XattrRemove,
)  # fmt: skip

START = 1 << 32
"""Where the numbers of events begin, in the first boot."""
H, G = Handle(b"file one"), Handle(b"file two")
NONE = LeaseKind.NONE
READ, WRITE, HANDLE = LeaseKind
ALL = READ | WRITE | HANDLE


# ---- the table


def test_who_comes_second_is_given_less() -> None:
    table = LeaseTable()
    assert not table
    assert table.grant(1, H, ALL) == (ALL, 1)
    assert table
    assert table.grant(1, H, READ) == (ALL, 1)
    assert table.grant(2, H, READ | WRITE) == (NONE, 0)
    assert table.grant(2, H, ALL) == (HANDLE, 2)
    assert table.grant(3, G, READ) == (READ, 3)
    assert table.grant(4, G, ALL) == (READ | HANDLE, 4)
    assert table.grant(3, G, WRITE) == (READ, 3)
    table.give_back(4, G, NONE, 4)
    assert table.grant(3, G, WRITE) == (READ | WRITE, 5)


@pytest.mark.parametrize(("held", "writes", "in_the_way", "left"), [
    (READ, False, False, None), (READ, True, True, NONE), (ALL, False, True, READ | HANDLE), (ALL, True, True, HANDLE),
    (HANDLE, True, False, None), (READ | WRITE, False, True, READ),
])  # fmt: skip
def test_what_is_asked_for(held: LeaseKind, writes: bool, in_the_way: bool, left: LeaseKind | None) -> None:
    table = LeaseTable()
    table.grant(1, H, held)
    assert not table.in_the_way(1, H, writes=writes)
    assert table.in_the_way(2, H, writes=writes) is in_the_way
    assert table.recall(2, H, 0.0, writes=writes) == ([] if left is None else [(1, Recall(H, left, 1))])
    assert table.recall(3, H, 0.0, writes=writes) == [], "asked once"
    if left is not None:
        table.give_back(1, H, left, 1)
        assert table.held(1, H) == left
        assert table.deadline(H) is None
    assert not table.in_the_way(2, H, writes=writes)


def test_asked_for_more_while_asked_already() -> None:
    table = LeaseTable()
    table.grant(1, H, ALL)
    assert table.recall(2, H, 0.0, writes=False) == [(1, Recall(H, READ | HANDLE, 1))]
    assert table.recall(2, H, 5.0, writes=True) == [(1, Recall(H, HANDLE, 1))]
    assert table.deadline(H) == LEASE_TIMEOUT_S, "the time is not prolonged"
    assert table.grant(1, H, ALL) == (HANDLE, 1), "nothing is given while something is asked for"
    table.give_back(1, H, READ | HANDLE, 1)
    assert table.in_the_way(2, H, writes=True)
    table.give_back(1, H, HANDLE, 1)
    assert not table.in_the_way(2, H, writes=True)


def test_too_late_is_revoked() -> None:
    table = LeaseTable()
    table.grant(1, H, ALL)
    table.grant(2, G, ALL)
    table.recall(3, H, 1.0, writes=True)
    assert table.expire(H, 1.0 + LEASE_TIMEOUT_S - 0.1) == []
    assert table.expire(H, 1.0 + LEASE_TIMEOUT_S) == [(1, Revoke(H, 1))]
    assert table.held(1, H) == NONE
    assert table.held(2, G) == ALL
    table.give_back(1, H, ALL, 1)
    assert table.held(1, H) == NONE


def test_an_answer_to_a_recall_takes_nothing_that_was_given_after_it_was_revoked() -> None:
    table = LeaseTable()
    table.grant(1, H, READ)
    ((_, recall),) = table.recall(2, H, 0.0, writes=True)
    assert isinstance(recall, Recall)
    table.expire(H, LEASE_TIMEOUT_S)
    assert table.grant(1, H, READ)[0] == READ
    table.give_back(1, H, NONE, recall.epoch)
    assert table.held(1, H) == READ, "else the client believes in what it does not have"


def test_an_answer_that_crossed_a_grant_takes_nothing() -> None:
    table = LeaseTable()
    table.grant(1, H, READ)
    table.grant(1, H, WRITE)
    table.give_back(1, H, NONE, 1)
    assert table.held(1, H) == READ | WRITE


def test_the_end_of_a_session_is_the_end_of_its_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_LEASES", 2)
    table = LeaseTable()
    table.grant(1, H, ALL)
    table.grant(1, G, ALL)
    with refused(errno.ENOLCK):
        table.grant(1, Handle(b"third"), READ)
    assert table.end(1) == [H, G]
    assert table.end(1) == []
    assert not table
    assert table.grant(1, Handle(b"third"), READ) == (READ, 3), "no epoch comes twice"


def test_what_requests_touch() -> None:
    step = Step(StepKind.TRUNCATE, H, 0)
    for request, touched in (
        (Open(H), [(H, False)]), (Read(H, 0, 1), [(H, False)]), (Write(H, 0), [(H, True)]), (Truncate(H, 0), [(H, True)]),
        (Allocate(H, 0, 1), [(H, True)]), (Punch(H, 0, 1), [(H, True)]), (Setattr(H, size=1), [(H, True)]),
        (Setattr(H, mode=1), [(H, True)]), (XattrRemove(H, "user.a"), [(H, True)]),
        (Create(G, "n"), [(G, True)]), (Unlink(G, "n"), [(G, True)]), (Link(H, G, "n"), [(H, True), (G, True)]),
        (Rename(G, "n", H, "m"), [(G, True), (H, True)]), (Rename(G, "n", G, "m"), [(G, True)]), (Lookup(G, "n"), []),
        (CopyRange(H, 0, G, 0, 1), [(H, False), (G, True)]), (Transact([], 0, [step, step]), [(H, True)]), (Getattr(H), []),
        (Commit(H), []),
    ):  # fmt: skip
        assert list(accesses(request)) == touched


# ---- two clients of one server


class Slow(MemoryStore):
    blocking = True


class Two:
    """Two clients of one store, and a third without leases."""

    def __init__(self, store: Store) -> None:
        env = system_env()
        self.sharing = Sharing(env)
        self.one, self.two, self.three = (Side(store) for _ in range(3))
        for side in (self.one, self.two, self.three):
            side.dispatcher = Dispatcher(store, env, Probe(), Limits(), sharing=self.sharing)
        self.store = store
        self.file = new(store, "f", b"content")

    def close(self) -> None:
        for side in (self.one, self.two, self.three):
            side.dispatcher.closed()
        assert not self.sharing.leases


@pytest.fixture(params=[MemoryStore, Slow])
def two(request: pytest.FixtureRequest) -> Two:
    return Two(request.param(Probe()))


async def test_alone_a_client_has_all_of_it(two: Two, autojump_clock: trio.testing.MockClock) -> None:
    assert (await two.one.ask(Lease(two.file, ALL), LeaseReply)).kinds == ALL
    assert (await two.one.ask(Lease(two.file, ALL), LeaseReply)).epoch == START + 1
    assert await two.one.status(Lease(Handle(b"nothing like it"), ALL)) == errno.ESTALE
    assert (await two.one.reply(Read(two.file, 0, 3))).status == 0
    two.close()


@pytest.mark.parametrize("compound", [False, True])
async def test_a_second_client_waits_for_the_first(two: Two, autojump_clock: trio.testing.MockClock, compound: bool) -> None:
    await two.one.ask(Lease(two.file, ALL), LeaseReply)
    order: list[str] = []

    async def holder() -> None:
        told = await two.one.ask(Await(START), EventsReply)
        assert told == EventsReply(START + 1, [Recall(two.file, HANDLE, START + 1)])
        await trio.sleep(3)
        put(two.store, two.file, 0, b"CONTENT")  # what it had kept back
        order.append("given back")
        await two.one.ask(LeaseReturn(two.file, HANDLE, 1), Ack)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder)
        await trio.testing.wait_all_tasks_blocked()
        if compound:
            steps = [
                CompoundStep(Getattr(two.file)),
                CompoundStep(Truncate(Handle(b"\0"), 3)),
                CompoundStep(Read(two.file, 0, 9)),
            ]
            reply = await two.two.reply(Compound(steps))
            assert isinstance(reply.body, CompoundReply)
            assert [result.status for result in reply.body.results] == [0, 0, 0]
            assert reply.body.results[2].payload_length == 3
            assert reply.release is not None
            reply.release()
        else:
            assert (await two.two.reply(Truncate(two.file, 3))).status == 0
        order.append("done")
    assert order == ["given back", "done"]
    assert two.store.getattr(two.file).size == 3
    two.close()


async def test_who_does_not_answer_loses_it(two: Two, autojump_clock: trio.testing.MockClock) -> None:
    await two.one.ask(Lease(two.file, READ | WRITE), LeaseReply)
    started = trio.current_time()
    assert (await two.two.reply(Open(two.file))).status == 0
    assert trio.current_time() - started == pytest.approx(LEASE_TIMEOUT_S)
    told = await two.one.ask(Await(START), EventsReply)
    assert told.events == [Recall(two.file, READ, START + 1), Revoke(two.file, START + 1)]
    started = trio.current_time()
    assert (await two.two.reply(Open(two.file))).status == 0
    assert trio.current_time() == started
    two.close()


async def test_what_was_not_seen_is_told_again(two: Two, autojump_clock: trio.testing.MockClock) -> None:
    other = new(two.store, "g")
    for file in (two.file, other):
        await two.one.ask(Lease(file, READ), LeaseReply)
        two.sharing.leases.recall(99, file, 0.0, writes=True)
    two.sharing._tell([(two.one.dispatcher._session, Recall(file, NONE, 1)) for file in (two.file, other)])
    first = await two.one.ask(Await(START), EventsReply)
    assert (first.first, len(first.events)) == (START + 1, 2)
    assert await two.one.ask(Await(START), EventsReply) == first
    assert await two.one.ask(Await(START + 1), EventsReply) == EventsReply(START + 2, first.events[1:])
    with trio.move_on_after(5) as scope:
        await two.one.ask(Await(START + 2), EventsReply)
    assert scope.cancelled_caught
    two.close()


async def test_who_has_seen_the_events_of_another_boot(two: Two, autojump_clock: trio.testing.MockClock) -> None:
    assert await two.one.ask(Await(), EventsReply) == EventsReply(START + 1, [])
    for seen in (1, START - 1, START + 1, 2 * START):
        assert await two.one.status(Await(seen)) == errno.ESTALE
    two.close()


async def test_after_a_restart_only_what_was_held_is_given(autojump_clock: trio.testing.MockClock) -> None:
    env = system_env()
    ends = env.now() + 30
    sharing = Sharing(env, 2, lambda: max(0.0, ends - env.now()))
    lock, lease = Lock(H, 1, LockKind.WRITE, 0, 0), Lease(H, READ)
    with refused(errno.EAGAIN):
        sharing.lock(1, lock)
    assert sharing.lease(1, lease, 5).kinds == NONE
    sharing.lock(1, Lock(H, 1, LockKind.WRITE, 0, 0, reclaim=True))
    assert sharing.lease(2, Lease(H, READ, reclaim=True), 5).kinds == READ
    await trio.sleep(31)
    sharing.lock(1, lock)
    assert sharing.lease(1, lease, 5).kinds == READ


async def test_a_newer_callback_takes_the_place_of_one_lent_before(two: Two, autojump_clock: trio.testing.MockClock) -> None:
    got: list[EventsReply] = []

    async def wait() -> None:
        got.append(await two.one.ask(Await(START), EventsReply))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert got == [EventsReply(START + 1, [])]
        await two.one.ask(Lease(two.file, READ), LeaseReply)
        nursery.start_soon(two.two.reply, Truncate(two.file, 1))
        await trio.testing.wait_all_tasks_blocked()
        assert got[1:] == [EventsReply(START + 1, [Recall(two.file, NONE, START + 1)])]
        two.one.dispatcher.closed()
    assert two.store.getattr(two.file).size == 1
    two.one.dispatcher = two.two.dispatcher


async def test_a_client_that_goes_is_waited_for_no_longer(two: Two, autojump_clock: trio.testing.MockClock) -> None:
    await two.one.ask(Lease(two.file, READ | WRITE), LeaseReply)
    replies: list[Reply] = []

    async def read() -> None:
        replies.append(await two.two.reply(Open(two.file)))

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert not replies
        two.one.dispatcher.closed()
    assert replies[0].status == 0
    assert trio.current_time() == started


async def test_cancelled_while_it_waits(two: Two, autojump_clock: trio.testing.MockClock) -> None:
    await two.one.ask(Lease(two.file, ALL), LeaseReply)
    for request, payload in ((Write(two.file, 0), b"x"), (Compound([CompoundStep(Write(two.file, 0), 1)]), b"x")):
        with trio.move_on_after(1) as scope:
            await two.two.reply(request, payload)
        assert scope.cancelled_caught
    two.close()  # asserts that no landing is out
    assert two.store.getattr(two.file).size == 7
    two.store.close()


async def test_locks_between_clients(two: Two, autojump_clock: trio.testing.MockClock) -> None:
    file = two.file
    await two.one.ask(Lock(file, 7, LockKind.WRITE, 0, 10), Ack)
    assert await two.two.status(Lock(file, 7, LockKind.READ, 9, 1)) == errno.EAGAIN
    assert await two.two.ask(LockTest(file, 7, LockKind.READ, 9, 1), LockReply) == LockReply(LockKind.WRITE, 0, 10, 0)
    assert await two.one.ask(LockTest(file, 8, LockKind.READ, 9, 0), LockReply) == LockReply(LockKind.WRITE, 0, 10, 7)
    assert await two.one.ask(LockTest(file, 7, LockKind.READ, 9, 0), LockReply) == LockReply(None)
    assert await two.two.status(Lock(file, 3, LockKind.WRITE, 5, 0, wait=True)) == errno.EAGAIN
    await two.one.ask(Unlock(file, 7, 0, 0), Ack)
    assert await two.two.ask(Await(START), EventsReply) == EventsReply(START + 1, [LockFree(file, 3)])
    await two.two.ask(Lock(file, 3, LockKind.WRITE, 5, 0, wait=True), Ack)
    assert (await two.one.ask(LockTest(file, 1, LockKind.READ, 0, 0), LockReply)).length == 0
    assert await two.one.status(Lock(Handle(b"no such thing"), 1, LockKind.READ, 0, 0)) == errno.ESTALE
    two.two.dispatcher.closed()
    await two.one.ask(Lock(file, 7, LockKind.WRITE, 0, 0), Ack)
    assert top(two.store)
