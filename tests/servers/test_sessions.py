"""Sessions while they are made, taken up again and ended, with others coming and calls on their way."""

import errno
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing

from iov.probe import Probe
from servers.dispatch import Dispatcher
from servers.sessions import EXPIRES_S, GRACE_S, Channel, Keeper, Kept, Sessions
from servers.state import ServerState
from servers.stores.memory import MemoryStore
from servers.workers import Workers
from transport.base import Reply
from transport.env import Env, system_env
from transport.messages import (
    Ack,
    Await,
    Bind,
    BindReply,
    Create,
    EndSession,
    EntryReply,
    EventsReply,
    Handle,
    Lease,
    LeaseKind,
    LeaseReply,
    LeaseReturn,
    Lock,
    LockKind,
    Mkdir,
    Op,
    Recall,
    RecordGet,
    RecordReply,
    Request,
    Sequenced,
    SequencedReply,
    Step,
    StepKind,
    Transact,
    Unlink,
)
from transport.session import SlotAction

R = TypeVar("R")
NAME = b"n" * 16


class World:
    """Sessions of a store, at a time that the test says."""

    def __init__(self, keeper: Keeper | None = None, run_blocking: Callable[[], Awaitable[None]] | None = None) -> None:
        self.now = trio.current_time()
        env = replace(system_env(), now=lambda: self.now)
        if run_blocking is not None:
            env = replace(env, run_blocking=partial(_slowly, run_blocking))
        self.env: Env = env
        self.store = MemoryStore(Probe())
        self.sessions = Sessions(self.store, env, keeper)
        self.root = self.store.root().handle

    def channel(self) -> Channel:
        return Channel(self.sessions, "somebody", lambda: None)

    def dispatcher(self, channel: Channel | None = None) -> Dispatcher:
        return Dispatcher(self.store, self.env, Probe(), place=channel or self.channel(), sharing=self.sessions.sharing)


async def _slowly(wait: Callable[[], Awaitable[None]], work: Callable[[], R], /) -> R:
    await wait()
    return work()


async def ask(dispatcher: Dispatcher, request: Request) -> Reply:
    answer = dispatcher.handle(request, None)
    return answer if isinstance(answer, Reply) else await answer


async def bound(dispatcher: Dispatcher, number: int, name: bytes = b"") -> bytes:
    reply = await ask(dispatcher, Bind(name, number, [], 4))
    assert isinstance(reply.body, BindReply), reply
    return reply.body.session


class Told:
    """A keeper that says what it is asked to forget, and may be unable to."""

    def __init__(self, error: OSError | None = None) -> None:
        self.dropped: list[bytes] = []
        self.error = error

    killed = False

    def load(self) -> list[Kept]:
        return []

    def add(self, name: bytes, principal: str, slots: int) -> None:
        if self.error is not None:
            raise self.error

    def find(self, name: bytes) -> None:
        return None

    def drop(self, name: bytes) -> None:
        self.dropped.append(name)
        if self.error is not None:
            raise self.error


async def test_those_who_come_together_do_not_expire_each_other() -> None:
    world = World()
    channels = [world.channel() for _ in range(8)]
    async with trio.open_nursery() as nursery:
        for channel in channels:
            nursery.start_soon(channel.bind, Bind(b"", 1, [], 4))
    assert len(world.sessions) == 8
    for channel in channels:
        assert channel.begin(Sequenced(0, 1, Mkdir(world.root, "d"))) is SlotAction.EXECUTE


@pytest.mark.parametrize("_", range(16))  # in which order Trio goes on is chance
async def test_a_session_that_is_taken_up_again_at_the_last_moment_stays(_: int) -> None:
    world = World()
    first, again, other = world.channel(), world.channel(), world.channel()
    reply = await first.bind(Bind(b"", 1, [], 4))
    assert isinstance(reply.body, BindReply)
    first.left()
    world.now += EXPIRES_S

    async def come_later() -> None:
        world.now += 1  # now it would be too old
        await other.bind(Bind(b"", 1, [], 4))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_later)
        assert (await again.bind(Bind(reply.body.session, 2, [], 4))).status == 0
    assert again.begin(Sequenced(0, 1, Mkdir(world.root, "d"))) is SlotAction.EXECUTE


async def test_a_session_that_ends_while_one_comes_back_to_it_is_lost() -> None:
    world = World()
    first, slow, again = world.channel(), world.channel(), world.channel()
    reply = await first.bind(Bind(b"", 1, [], 4))
    assert isinstance(reply.body, BindReply)
    name = reply.body.session
    replies: list[Reply] = []

    async def come_back() -> None:
        replies.append(await again.bind(Bind(name, 3, [2], 4)))

    await slow.bind(Bind(name, 2, [], 4))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_back)
        await trio.testing.wait_all_tasks_blocked()
        await first.end(EndSession())
        slow.left()
    assert [one.status for one in replies] == [errno.ESTALE]
    assert again.session is None


async def test_a_connection_that_ends_while_its_session_is_made_leaves_nothing() -> None:
    keeper, wait = Told(), trio.Event()
    world = World(keeper, wait.wait)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.channel().bind, Bind(b"", 1, [], 4))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    wait.set()
    world.now += EXPIRES_S + 1
    await world.sessions.expire()
    assert len(world.sessions) == 0
    assert len(keeper.dropped) == 1


async def test_a_disk_that_takes_no_note_is_told_and_survived() -> None:
    world = World(Told(OSError(errno.EIO, "broken")))
    assert (await world.channel().bind(Bind(b"", 1, [], 4))).status == errno.EIO
    assert len(world.sessions) == 0
    keeper = Told()
    world = World(keeper)
    channel = world.channel()
    assert (await channel.bind(Bind(b"", 1, [], 4))).status == 0
    channel.left()
    keeper.error = OSError(errno.EIO, "broken")
    world.now += EXPIRES_S + 1
    await world.sessions.expire()
    assert len(world.sessions) == 0


# ---- the end, with calls on their way


def test_a_call_that_outlives_its_session_notes_in_vain(tmp_path: Path) -> None:
    state = ServerState(tmp_path, "boot")
    notes = state.add(NAME, "somebody", 2)
    long = [b"x" * 24] * 100
    notes.intend(0, 1, Mkdir(Handle(b"root"), "d"), long)
    state.drop(NAME)
    notes.intend(1, 1, Mkdir(Handle(b"root"), "e"), long)
    notes.intend(0, 2, Mkdir(Handle(b"root"), "f"), [])
    notes.answer(0, 2, Reply(0, Ack()))
    assert state._db.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    assert list((tmp_path / "slots").iterdir()) == []
    state.close()
    state = ServerState(tmp_path, "boot")
    assert state.load() == []
    state.close()


async def test_what_is_taken_after_the_end_of_a_session_ends_with_the_connection() -> None:
    world = World()
    dispatcher, other = world.dispatcher(), world.dispatcher()
    await bound(dispatcher, 1)
    made = (await ask(dispatcher, Create(world.root, "file"))).body
    assert isinstance(made, EntryReply)
    lock = Lock(made.handle, 1, LockKind.WRITE, 0, 0)
    assert (await ask(dispatcher, EndSession())).status == 0
    assert (await ask(dispatcher, lock)).status == 0
    put = Transact([], 0, [Step(StepKind.INTENT_PUT, made.handle, 0, 10)])
    assert (await ask(dispatcher, put)).status == 0
    assert (await ask(other, lock)).status == errno.EAGAIN
    assert (await ask(other, put)).status == errno.EAGAIN
    dispatcher.closed()
    assert (await ask(other, lock)).status == 0
    assert (await ask(other, put)).status == 0
    other.closed()


async def test_what_was_done_and_could_not_be_made_durable_is_not_told_as_done() -> None:
    world = World()
    world.store.blocking = True

    async def batch_that_fails(work: Callable[[], R], /) -> R:
        await trio.lowlevel.checkpoint()
        work()
        raise OSError(errno.EIO, "broken")

    dispatcher = world.dispatcher()
    await bound(dispatcher, 1)
    dispatcher._env = replace(world.env, run_blocking=batch_that_fails)
    made = Sequenced(0, 1, Mkdir(world.root, "d"))
    assert (await ask(dispatcher, made)).status == errno.EIO
    assert (await ask(dispatcher, made)).status == errno.EIO, "from memory"
    dispatcher.closed()


async def test_nor_does_a_server_that_is_killed_then_find_that_it_was_done(tmp_path: Path) -> None:
    @contextmanager
    def batch() -> Iterator[None]:
        yield
        if broken:
            raise OSError(errno.EIO, "broken")

    state, broken = ServerState(tmp_path, "boot"), False
    with Workers(batch, threads=1) as workers:
        world = World(state)
        world.env = replace(world.env, run_blocking=workers.run)
        world.store.blocking = True
        dispatcher = world.dispatcher()
        await bound(dispatcher, 1)
        assert (await ask(dispatcher, Sequenced(0, 1, Mkdir(world.root, "safe")))).status == 0
        broken = True
        assert (await ask(dispatcher, Sequenced(1, 1, Mkdir(world.root, "d")))).status == errno.EIO
        dispatcher.closed()
    state._db.close()  # as kill -9 leaves it
    (kept,) = ServerState(tmp_path, "boot").load()
    statuses = [answer.status if isinstance(answer, Reply) else None for _, answer in kept.slots[:3]]
    assert statuses == [0, errno.EIO, None]


async def test_a_killed_servers_promises_are_made_durable_before_anybody_is_told_of_them(tmp_path: Path) -> None:
    await trio.lowlevel.checkpoint()
    world = World()
    for error, left in ((None, 1), (OSError(errno.EIO, "broken"), 0)):
        home = tmp_path / str(left)
        home.mkdir()
        state = ServerState(home, "boot")
        state.add(NAME, "somebody", 2).answer(0, 1, Reply(0, SequencedReply(Op.UNLINK, Ack())))
        state._db.close()
        state = ServerState(home, "boot")
        synced: list[bool] = []

        def sync(error: OSError | None = error, synced: list[bool] = synced) -> None:
            synced.append(True)
            if error is not None:
                raise error

        world.store.sync = sync  # type: ignore[method-assign]
        assert state.killed
        assert len(Sessions(world.store, world.env, state)) == left
        assert synced == [True]
        state.close()
        state = ServerState(home, "boot")
        assert (len(Sessions(world.store, world.env, state)), synced) == (left, [True]), "it was stopped in order"
        state.close()


async def test_a_file_that_is_removed_before_it_is_claimed_stays_until_everybody_has_had_time(tmp_path: Path) -> None:
    state = ServerState(tmp_path, "boot")
    state.add(NAME, "somebody", 2)
    world = World(state)
    one, other = world.dispatcher(), world.dispatcher()
    await bound(one, 1, NAME)
    claimed, unclaimed = (world.store.create(world.root, name, 0o644, exclusive=True).handle for name in "fg")
    for name in "fg":
        assert (await ask(other, Unlink(world.root, name))).status == 0  # sent again by who had asked the server before this one
    reply = await ask(one, Lease(claimed, LeaseKind.HANDLE, reclaim=True))
    assert isinstance(reply.body, LeaseReply) and reply.body.kinds is LeaseKind.HANDLE
    again = await ask(one, Lease(unclaimed, LeaseKind.HANDLE, reclaim=True))
    assert isinstance(again.body, LeaseReply)
    await ask(one, LeaseReturn(unclaimed, LeaseKind.NONE, again.body.epoch))
    await world.sessions.tidy()
    assert set(world.store.unnamed()) == {claimed, unclaimed}, "another client may claim it yet"
    told = await ask(one, Await(0))
    assert isinstance(told.body, EventsReply)
    world.now += GRACE_S + 1
    await world.sessions.tidy()
    assert world.store.unnamed() == [claimed]
    told = await ask(one, Await(told.body.first - 1))
    assert isinstance(told.body, EventsReply)
    assert Recall(claimed, LeaseKind.NONE, reply.body.epoch) in told.body.events, "that it is to say when it closes it"
    await ask(one, LeaseReturn(claimed, LeaseKind.NONE, reply.body.epoch))
    assert not world.store.unnamed()
    state.close()


# ---- whose intents they are


async def test_write_intents_are_the_sessions_over_its_connections() -> None:
    world = World()
    first, second, stranger = world.dispatcher(), world.dispatcher(), world.dispatcher()
    name = await bound(first, 1)
    await bound(stranger, 1)
    made = (await ask(first, Create(world.root, "file"))).body
    assert isinstance(made, EntryReply)
    file = made.handle
    put = await ask(first, Sequenced(0, 1, Transact([], 0, [Step(StepKind.INTENT_PUT, file, 0, 10, record=b"word")])))
    assert put.status == 0
    first.closed()
    await bound(second, 2, name)
    for asker, mine in ((second, True), (stranger, False)):
        rows = (await ask(asker, RecordGet(file))).body
        assert isinstance(rows, RecordReply)
        (row,) = rows.intents
        assert (row.live, row.mine) == (True, mine)
        key = row.key
    drop = Transact([], 0, [Step(StepKind.INTENT_DROP, file, key)])
    assert (await ask(stranger, drop)).status == errno.EINVAL
    assert (await ask(second, Sequenced(0, 2, drop))).status == 0
    second.closed()
    stranger.closed()
