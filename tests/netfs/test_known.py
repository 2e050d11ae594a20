"""Attributes that leases vouch for: nothing is asked for twice, and whatever changes, here or elsewhere, is seen at once."""

import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from iov.probe import Probe
from netfs.fs.client import Client
from netfs.fs.known import FRESH_S, KnownAttributes
from netfs.fs.leases import RECLAIMED_AT_ONCE, Leases
from tests.netfs.test_leases import two_clients
from transport.base import Limits, Reply, Transport
from transport.messages import (
    Attr,
    Await,
    Compound,
    CompoundReply,
    EntryReply,
    EventsReply,
    FileType,
    Handle,
    Lease,
    LeaseKind,
    LeaseReply,
    Op,
    Recall,
    Result,
)

D, F, G = Handle(b"d"), Handle(b"f"), Handle(b"g")


def attr(size: int = 0, nlink: int = 1, kind: FileType = FileType.FILE) -> Attr:
    return Attr(1, kind, 0o644, nlink, 0, 0, size, 0, 0, 0, 0)


class World:
    """Leases and a clock that the test says."""

    def __init__(self, limit: int = 10) -> None:
        self.held: dict[Handle, object] = {D: object(), F: object(), G: object()}
        self.now = 0.0
        self.known = KnownAttributes(limit, self.held.get, lambda: self.now)

    def put(self, name: str = "f", handle: Handle = F, *, changes: int | None = None, nlink: int = 1) -> None:
        self.known.put(D, name, EntryReply(handle, attr(nlink=nlink)), self.known.changes if changes is None else changes)

    def sure(self, name: str = "f") -> bool:
        return self.known.get(D, name) is not None


def test_both_leases_vouch_for_it_and_only_those_that_did() -> None:
    world = World()
    world.put()
    assert world.sure() and world.known.handle(D, "f") == F and world.known.handle(D, "g") is None
    for handle in (D, F):
        world.put()
        world.held[handle] = object()  # it was lost, and given again
        assert not world.sure() and not world.sure()
        assert world.known.handle(D, "f") == F
    del world.held[F]
    world.put()
    assert not world.sure()


def test_what_is_given_out_is_the_callers() -> None:
    world = World()
    world.put()
    given = world.known.get(D, "f")
    assert given is not None
    given.attr.size = 7
    again = world.known.get(D, "f")
    assert again is not None and again.attr.size == 0


def test_what_is_changed_from_here_is_not_certain_while_it_is_nor_what_was_seen_meanwhile() -> None:
    world = World()
    world.put()
    before = world.known.changes
    with world.known.changing(F):
        assert not world.sure()
        world.put(changes=before)
        assert not world.sure(), "it was asked for before the change"
        world.put()
        assert world.sure(), "as it is until the change is known to have happened"
    assert not world.sure()
    world.put()
    with pytest.raises(OSError, match="lost"), world.known.changing(names=((D, "f"),)):
        raise OSError(5, "lost")
    assert not world.sure() and world.known.handle(D, "f") is None
    world.known.put(G, "d", EntryReply(D, attr(kind=FileType.DIRECTORY, nlink=5)), world.known.changes)
    assert world.known.get(G, "d") is not None
    with world.known.changing(names=((D, "f"),)):
        assert world.known.get(G, "d") is None, "a directory's times change with its names"


def test_a_file_of_several_names_and_what_is_old_are_asked_for() -> None:
    world = World()
    world.put(nlink=2)
    assert not world.sure()
    world.put()
    world.now += FRESH_S + 1
    assert not world.sure()


def test_as_many_as_it_is_told() -> None:
    world = World(limit=2)
    for name, handle in (("f", F), ("g", G), ("d", D)):
        world.put(name, handle)
    assert [world.sure(name) for name in ("f", "g", "d")] == [False, True, True]
    world.known.forget(F)  # it is known by no name any more
    world.known.clear()
    assert not world.sure("g")


async def test_a_lease_that_was_asked_back_before_the_reply_that_gave_it_came_is_not_held() -> None:
    await trio.lowlevel.checkpoint()

    async def forget(_: Handle, wait: bool) -> None:
        await trio.lowlevel.checkpoint()

    leases = Leases(Restarted({}), forget)
    leases.running = True
    given = [Result(Op.LEASE, 0, 0, LeaseReply(LeaseKind.READ, 1, 0))]
    sent = leases._told
    leases._heard(Recall(F, LeaseKind.NONE, 1))
    leases._take(given, 0, F, sent)
    assert leases.holding(F) is None
    leases._take(given, 0, G, sent)
    leases._take(given, 0, F, leases._told)
    first, other = leases.holding(F), leases.holding(G)
    assert first is not None and other is not None and first is not other
    leases._take(given, 0, F, leases._told)
    assert leases.holding(F) is first, "more of the same lease"
    leases.drop(F)
    leases._take(given, 0, F, leases._told)
    assert leases.holding(F) is not first


class Restarted(Transport):
    """A server that was started again: it has told once where its events begin, and then knows of nothing."""

    def __init__(self, change: dict[Handle, int | None]) -> None:
        self.limits = Limits()
        self.change = change
        self.awaited: list[int] = []
        self.claimed: list[Lease] = []

    def submit(self, request: Any, done: Any, source: Any = None, dest: Any = None) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def call(self, request: Any, source: Any = None, dest: Any = None) -> Reply:
        await trio.lowlevel.checkpoint()
        if isinstance(request, Await):
            self.awaited.append(request.seen)
            if len(self.awaited) == 1:
                return Reply(0, EventsReply(10, []))
            if len(self.awaited) > 2:
                await trio.sleep_forever()
            return Reply(errno.ESTALE)
        assert isinstance(request, Compound)
        results = []
        for step in request.steps:
            assert isinstance(step.request, Lease) and step.request.reclaim
            self.claimed.append(step.request)
            change = self.change[step.request.handle]
            if change is None:
                results.append(Result(Op.LEASE, errno.ESTALE))
                break
            results.append(Result(Op.LEASE, 0, 0, LeaseReply(step.request.kinds, 1, change)))
        return Reply(0, CompoundReply(results))


async def test_a_server_that_was_started_again_is_asked_for_the_leases_there_were() -> None:
    many = [Handle(b"%d" % number) for number in range(RECLAIMED_AT_ONCE)]
    transport = Restarted({F: 5, D: None, G: 6, **dict.fromkeys(many, 5)})
    forgotten: list[Handle] = []

    async def forget(handle: Handle, wait: bool) -> None:
        await trio.lowlevel.checkpoint()
        forgotten.append(handle)

    leases = Leases(transport, forget, lambda _, change: change == 5)
    leases.running = True
    for handle in (F, D, G, *many):
        leases._take([Result(Op.LEASE, 0, 0, LeaseReply(LeaseKind.READ, 1, 0))], 0, handle, 0)
    leases.want()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leases.run)
        await trio.testing.wait_all_tasks_blocked()
        assert transport.awaited == [0, 9, 0]
        assert [lease.handle for lease in transport.claimed] == [F, D, G, *many]
        assert forgotten == [D, G], "it is gone, and it was changed"
        assert [leases.covers(handle, write=False) for handle in (F, D, G, *many)] == [True, False, True] + [True] * len(many)
        nursery.cancel_scope.cancel()


# ---- with a server


async def asked(probe: Probe, action: Callable[[], Awaitable[Any]]) -> int:
    before = probe.snapshot()["messages"]
    await action()
    return int(probe.snapshot()["messages"] - before)


async def test_the_third_look_asks_nobody_and_an_open_asks_once() -> None:
    async with two_clients("url") as (one, _, probes):
        await one.mkdir("/d")
        await one.write_bytes("/d/f", b"12345")
        looks = []
        for _ in range(5):
            looks.append(await asked(probes[0], lambda: one.stat("/d/f")))
            await trio.testing.wait_all_tasks_blocked()
        assert looks[0] and looks[1] and looks[3:] == [0, 0]
        assert (await one.stat("/d/f")).size == 5

        async def opened() -> None:
            async with await one.open("/d/f") as file:
                assert await file.read() == b"12345"

        assert await asked(probes[0], opened) == 4, "LOOKUP, OPEN and LEASE at once, then READ"


async def test_without_leases_each_look_asks() -> None:
    async with two_clients("url", leases=False) as (one, _, probes):
        await one.write_bytes("/f", b"12345")
        assert [await asked(probes[0], lambda: one.stat("/f")) for _ in range(4)] == [2] * 4


async def sure(client: Client, path: str) -> int:
    """Look until it would not be asked for again."""
    for _ in range(3):
        size = (await client.stat(path)).size
        await trio.testing.wait_all_tasks_blocked()
    return size


async def _append(client: Client) -> None:
    async with await client.open("/d/f", "a") as file:
        await file.write(b"678")


CHANGES: dict[str, tuple[Callable[[Client], Awaitable[Any]], Callable[[Attr], bool]]] = {
    "chmod": (lambda c: c.chmod("/d/f", 0o600), lambda a: a.mode & 0o777 == 0o600),
    "utime": (lambda c: c.utime("/d/f", (1, 2)), lambda a: a.mtime_ns == 2),
    "append": (_append, lambda a: a.size == 8),
    "truncate": (lambda c: c.truncate("/d/f", 1), lambda a: a.size == 1),
    "write_bytes": (lambda c: c.write_bytes("/d/f", b"1234567"), lambda a: a.size == 7),
    "link": (lambda c: c.link("/d/f", "/d/g"), lambda a: a.nlink == 2),
    "rename over it": (lambda c: c.rename("/d/other", "/d/f"), lambda a: a.size == 2),
    "exchange": (lambda c: c.rename("/d/other", "/d/f", exchange=True), lambda a: a.size == 2),
}


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_is_seen_at_once(name: str, here: bool) -> None:
    change, so = CHANGES[name]
    async with two_clients("url") as (one, two, probes):
        await one.mkdir("/d")
        await one.write_bytes("/d/f", b"12345")
        await one.write_bytes("/d/other", b"12")
        assert await sure(one, "/d/f") == 5
        assert await asked(probes[0], lambda: one.stat("/d/f")) == 0
        with trio.fail_after(5):
            await change(one if here else two)
        assert so(await one.stat("/d/f"))


@pytest.mark.parametrize("here", [True, False])
async def test_names_that_come_and_go(here: bool) -> None:
    async with two_clients("url") as (one, two, _):
        other = one if here else two
        await one.mkdir("/d")
        await one.write_bytes("/d/f", b"12345")
        with trio.fail_after(5):
            for number in range(3):
                assert await sure(one, "/d/f") == 5
                await other.write_bytes(f"/d/new{number}", b"1", exclusive=True)
                assert (await one.stat(f"/d/new{number}")).size == 1
                assert await sure(one, "/d/f") == 5
                async with await other.open(f"/d/made{number}", "x") as file:
                    await file.write(b"12")
                assert (await one.stat(f"/d/made{number}")).size == 2
            await other.unlink("/d/f")
            with pytest.raises(FileNotFoundError):
                await one.stat("/d/f")
            assert (await one.stat("/d")).type is FileType.DIRECTORY
