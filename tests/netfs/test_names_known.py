"""Names that are not there, and directories something was made in: a lease answers for them, and others are seen at once."""

import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from netfs.fs.client import Client
from netfs.fs.known import FRESH_S, MAX_COMPLETE, MAX_NAMES
from netfs.fs.leases import Leases
from tests.netfs.test_known import D, F, G, World, asked, attr, sure
from tests.netfs.test_leases import two_clients
from transport.base import Limits, Reply, Transport
from transport.messages import Compound, CompoundReply, EntryReply, FileType, Handle, Lease, LeaseKind, LeaseReply, Op, Result

# ---- what is certain


def listed(world: World, *names: str) -> None:
    world.known.listed(D, set(names), world.held.get(D), world.known.changes)


def test_a_directory_that_was_listed_has_no_other_names() -> None:
    world = World()
    assert not world.known.absent(D, "x")
    listed(world, "f")
    assert world.known.absent(D, "x") and not world.known.absent(D, "f") and not world.known.absent(G, "x")
    with world.known.changing(names=((D, "x"),)):
        assert not world.known.absent(D, "x"), "it is being made"
        assert world.known.absent(D, "y")
    assert not world.known.absent(D, "x") and world.known.absent(D, "y")


def test_that_nothing_else_is_there_is_certain_only_with_one_lease_and_for_a_while() -> None:
    world = World()
    listed(world)
    world.held[D] = object()  # it was lost, and given again
    assert not world.known.absent(D, "x")
    lease = world.held[D]
    world.known.listed(D, set(), object(), world.known.changes)
    assert not world.known.absent(D, "x"), "the lease was another one when the look began"
    world.known.listed(D, set(), None, world.known.changes)
    assert not world.known.absent(D, "x"), "there was none"
    world.known.listed(D, set(), lease, world.known.changes - 1)
    assert not world.known.absent(D, "x"), "something was changed meanwhile"
    with world.known.changing(F):
        world.known.listed(D, set(), lease, world.known.changes)
        assert not world.known.absent(D, "x"), "something is being changed"
    listed(world)
    assert world.known.absent(D, "x")
    world.now += FRESH_S + 1
    assert not world.known.absent(D, "x")
    listed(world)
    world.known.clear()
    assert not world.known.absent(D, "x")


def test_no_more_names_and_directories_are_kept_than_there_is_room_for() -> None:
    world = World()
    listed(world, *map(str, range(MAX_NAMES)))
    assert world.known.absent(D, "x")
    with world.known.changing(names=((D, "one more"),)):
        pass
    assert not world.known.absent(D, "x")
    listed(world, *map(str, range(MAX_NAMES + 1)))
    assert not world.known.absent(D, "x")
    listed(world)
    for number in range(MAX_COMPLETE):
        handle = Handle(b"%d" % number)
        world.held[handle] = object()
        world.known.listed(handle, set(), world.held[handle], world.known.changes)
    assert not world.known.absent(D, "x") and world.known.absent(handle, "x")


def directory(size: int) -> EntryReply:
    return EntryReply(D, attr(size, kind=FileType.DIRECTORY))


def test_what_the_answer_says_of_the_directory_is_believed() -> None:
    world = World()
    world.known.put(G, "d", directory(1), world.known.changes)
    with world.known.changing(names=((D, "f"),)) as change:
        assert world.known.get(G, "d") is None
        change.noted(D, attr(2, kind=FileType.DIRECTORY))
        change.noted(D, None)
    known = world.known.get(G, "d")
    assert known is not None and known.attr.size == 2 and world.known.directory(G, "d") == D
    with world.known.changing(names=((D, "f"),)) as change, world.known.changing(names=((D, "g"),)):
        change.noted(D, attr(3, kind=FileType.DIRECTORY))
    assert world.known.get(G, "d") is None, "the answer of one of two says nothing of the other"
    for lost in (D, G):
        world.known.put(G, "d", directory(1), world.known.changes)
        with world.known.changing(names=((D, "f"),)) as change:
            del world.held[lost]
            change.noted(D, attr(4, kind=FileType.DIRECTORY))
        assert world.known.get(G, "d") is None
        world.held[lost] = object()
    assert world.known.directory(D, "f") is None


class Answering(Transport):
    """A server that makes what it is asked for, which another client has changed before the lease is given."""

    def __init__(self, change: int) -> None:
        self.limits = Limits()
        self.change = change

    def submit(self, request: Any, done: Any, source: Any = None, dest: Any = None) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def call(self, request: Any, source: Any = None, dest: Any = None) -> Reply:
        await trio.lowlevel.checkpoint()
        assert isinstance(request, Compound) and isinstance(request.steps[1].request, Lease)
        lease = LeaseReply(LeaseKind.READ, 1, self.change)
        return Reply(0, CompoundReply([Result(Op.MKDIR, 0, 0, directory(0)), Result(Op.LEASE, 0, 0, lease)]))


@pytest.mark.parametrize("change", [0, 1])
async def test_a_lease_on_what_somebody_changed_since_it_was_made_vouches_for_nothing(change: int) -> None:
    async def forget(_: Handle, wait: bool) -> None:
        await trio.lowlevel.checkpoint()

    leases = Leases(Answering(change), forget)
    leases.running = True
    entry, above = await leases.mkdir(G, "d", 0o755)
    assert entry.handle == D and above is None
    assert (leases.holding(D) is None) == bool(change)


# ---- with a server


async def missing(client: Client, path: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await client.stat(path)
    assert caught.value.errno == errno.ENOENT and caught.value.filename == path


async def made(client: Client, path: str) -> None:
    async with await client.open(path, "x") as file:
        await file.write(b"12")


async def test_in_a_new_directory_nobody_is_asked_for_what_is_not_there() -> None:
    async with two_clients("url") as (one, two, probes):
        await one.mkdir("/d")
        assert await sure(one, "/d") >= 0
        assert await asked(probes[0], lambda: missing(one, "/d/f")) == 0
        await made(one, "/d/f")
        assert await asked(probes[0], lambda: missing(one, "/d/g")) == 0
        mine: list[Any] = []

        async def looked() -> None:
            mine.append(await one.stat("/d"))

        assert await asked(probes[0], looked) == 0, "what the directory is like came with the file"
        assert mine == [await two.stat("/d")]
        assert (await one.stat("/d/f")).size == 2


MAKES: dict[str, Callable[[Client, str], Awaitable[Any]]] = {
    "open": made,
    "mkdir": Client.mkdir,
    "write_bytes": lambda client, path: client.write_bytes(path, b"12"),
    "symlink": lambda client, path: client.symlink("x", path),
}


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("how", ["made", "listed"])
async def test_what_another_client_makes_there_is_seen_at_once(make: str, how: str) -> None:
    async with two_clients("url") as (one, two, probes):
        await one.mkdir("/d")
        if how == "listed":
            await made(two, "/d/first")
            await sure(one, "/d/first")
            assert await one.listdir("/d") == ["first"]
        await sure(one, "/d")
        assert await asked(probes[0], lambda: missing(one, "/d/f")) == 0
        with trio.fail_after(30):
            await MAKES[make](two, "/d/f")
        await one.stat("/d/f")
        await missing(one, "/d/g")
        with pytest.raises(FileExistsError):
            await made(one, "/d/f")


async def test_what_is_removed_renamed_and_made_again_from_here() -> None:
    async with two_clients("url") as (one, _, __):
        await one.mkdir("/d")
        await made(one, "/d/f")
        await one.unlink("/d/f")
        await missing(one, "/d/f")
        await made(one, "/d/f")
        await one.rename("/d/f", "/d/g")
        await missing(one, "/d/f")
        assert (await one.stat("/d/g")).size == 2
        await one.link("/d/g", "/d/h")
        assert (await one.stat("/d/h")).nlink == 2
        await one.rmtree("/d")
        await missing(one, "/d/g")
        await one.mkdir("/d")
        await missing(one, "/d/g")
        assert (await one.stat("/d")).type is FileType.DIRECTORY
