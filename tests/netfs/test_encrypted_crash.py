"""Power cuts and deaths at every step of a commit, with every subset of the writes that survive; a rename between directories.

The script is run again and again, each time cut off one request earlier or later: before the server has done it, or after, and
nobody learned. Of what no transaction has made durable each page is kept or lost, in all combinations.
"""

import contextlib
import errno
import random
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import pytest
import trio
import trio.testing

from iov.probe import Probe
from netfs.fs.client import Client
from netfs.fs.verify import verify
from servers.dispatch import Dispatcher
from servers.stores.memory import MemoryStore
from servers.stores.overlay import PAGE, Overlay
from tests.netfs.loop import LoopTransport
from tests.netfs.sealed_world import BLOCK, CONTENT, World, fails, get, in_world, put
from tests.netfs.test_intents import leave
from transport.base import Outcome, Reply
from transport.env import system_env
from transport.errors import TransportError
from transport.messages import Read, ReadReply, Request, Transact, Write

NEW = b"".join(bytes([n]) * BLOCK for n in range(101, 107))
AFTER = CONTENT[:BLOCK] + NEW[BLOCK : 4 * BLOCK] + NEW[:100] + CONTENT[4 * BLOCK + 100 :] + NEW[5 * BLOCK :]


@dataclass
class Cut:
    """The end of a server at one of its requests. at: which of those that change something.

    done: it is done all the same; or only the intent that comes with a WRITE is put, and its bytes are not written.
    """

    at: int
    done: bool | Literal["intent"]
    count: int = 0
    intents: int = 0
    client: Client = field(init=False)

    @property
    def over(self) -> bool:
        """The cut has come."""
        return self.count > self.at

    def fault(self, request: Request) -> Outcome | int | None:
        """See `LoopTransport`."""
        if self.over:
            return TransportError(errno.ECONNRESET, "the power is off", retryable=False)
        if not isinstance(request, Write | Transact):
            return None
        self.count += 1
        if self.done is True or self.count <= self.at:
            return None
        if self.done and isinstance(request, Write):
            self.intents += put_intent_of(self.client, request)
        return TransportError(errno.ECONNRESET, "the power is off", retryable=False)

    def begin(self, world: World) -> Client:
        """Return a client of the world whose server ends so."""
        self.client = world.client(fault=self.fault, rsize=BLOCK)
        self.count = 0
        return self.client


def put_intent_of(client: Client, request: Write) -> bool:
    """Do what a server does first of a WRITE of a block. Returns: whether there was something to do."""
    transport = client.transport
    assert isinstance(transport, LoopTransport)
    if not request.record:
        return False
    session = transport.handler._session
    transport.store.put_intent(request.handle, request.pos, BLOCK, session, request.intent, request.record)
    return True


def volatile(store: MemoryStore) -> list[bool]:
    """Return for each question of `crash` whether the answer makes a difference, in the order they are asked."""
    asked: list[bool] = []
    for file in store._files.values():
        for stream in (file.data, file.aux):
            assert isinstance(stream, Overlay)
            for index, kept in sorted(stream._kept.items()):
                chunk = stream.chunks.get(index)
                old = kept or bytes(1 << 20)
                now = bytes(chunk) if chunk is not None else bytes(1 << 20)
                asked += [now[at : at + PAGE] != old[at : at + PAGE] for at in range(0, 1 << 20, PAGE)]
            asked.append(stream.size != stream.durable_size)
    return asked


def power_cut(store: MemoryStore, survivors: tuple[bool, ...]) -> None:
    """Lose what is volatile, but for these of what makes a difference."""
    chosen = iter(survivors)
    answers = iter([matters and next(chosen, True) for matters in volatile(store)])
    store.crash(lambda: next(answers))


async def overwrite(client: Client, *, direct: bool = True) -> None:
    """Blocks in place, a part of one, a new one; made durable."""
    async with await client.open("/file", "r+", direct=direct) as file:
        async with trio.open_nursery() as nursery:  # all on their way at once
            for at in range(BLOCK, 4 * BLOCK, BLOCK):
                nursery.start_soon(file.write, NEW[at : at + BLOCK], at)
        await file.write(NEW[:100], 4 * BLOCK)
        await file.write(NEW[5 * BLOCK :], 5 * BLOCK)
        await file.fsync()


async def all_is_well(world: World) -> bytes:
    """Each block is old or new, nothing is damaged, and all can be written, as a whole and in part. Returns: what was there."""
    reader = world.client()
    got = await get(reader, "/file")
    assert len(got) in {len(CONTENT), len(AFTER)}
    for at in range(0, len(got), BLOCK):
        assert got[at : at + BLOCK] in {CONTENT[at : at + BLOCK], AFTER[at : at + BLOCK]}, f"block {at // BLOCK} is torn"
    writer = world.client()
    async with await writer.open("/file", "r+", direct=True) as file:
        await file.write(b"part", BLOCK + 7)
        await file.write(b"part", 2 * BLOCK + 7)
        # Behind the end may lie what was to be appended; fsck would name it until something is written there.
        await file.write(NEW[4 * BLOCK :], 4 * BLOCK)
    expected = bytearray(got[: 4 * BLOCK] + NEW[4 * BLOCK :])
    expected[BLOCK + 7 : BLOCK + 11] = expected[2 * BLOCK + 7 : 2 * BLOCK + 11] = b"part"
    assert await get(world.client(), "/file") == expected
    assert not (await verify(world.client(), "/")).damaged
    return got


async def cut_off(cut: Cut, survivors: tuple[bool, ...] | None) -> int | None:
    """Run the script on a store of its own and cut it off; None: keep all. Returns: how much was volatile, None: through."""
    world = World(store=MemoryStore(Probe(), crashable=True))
    await put(world.client(), "/file", CONTENT)
    client, safe = cut.begin(world), False
    with contextlib.suppress(OSError, ExceptionGroup):
        await overwrite(client)
        safe = True
    leave(world, client)
    count = sum(volatile(world.store))
    power_cut(world.store, survivors or (True,) * count)
    got = await all_is_well(world)
    assert got == AFTER or not safe, "what an fsync has said to be durable is there"
    await world.close()
    return count if cut.over else None


@pytest.mark.slow
@pytest.mark.parametrize("done", [False, "intent", True])
def test_a_power_cut_at_every_step_with_every_subset_of_surviving_writes(done: bool | Literal["intent"]) -> None:
    async def test() -> None:
        runs = most = intents = 0
        for at in range(40):
            cut = Cut(at, done)
            count = await cut_off(cut, None)
            intents += cut.intents
            if count is None:
                assert at > 6, "the script has steps"
                assert (runs > 20, most) == (True, 3), "and there is something to lose"
                assert (intents >= 4) == (done == "intent")
                return
            most = max(most, count)
            for survivors in product([False, True], repeat=count):
                assert await cut_off(Cut(at, done), survivors) == count
                runs += 1
        raise AssertionError("never through")

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


async def goes_on(at: int, survivors: tuple[bool, ...] | None, *, direct: bool, intent: bool = False) -> int | None:
    """The server loses power and comes back; the client goes on. Returns: how much was volatile, None where no cut came.

    intent: of the WRITE that comes again then, its intent was put before.
    """
    world = World(store=MemoryStore(Probe(), crashable=True))
    await put(world.client(), "/file", CONTENT)
    lost: list[int] = []
    steps = 0

    def fault(request: Request) -> None:
        nonlocal steps
        steps += isinstance(request, Write | Transact)
        if steps == at + 1 and not lost:
            if intent and isinstance(request, Write):
                put_intent_of(client, request)
            lost.append(sum(volatile(world.store)))
            power_cut(world.store, survivors or (True,) * lost[0])
            transport = client.transport
            assert isinstance(transport, LoopTransport)
            transport.handler = Dispatcher(world.store, system_env(), Probe(), transport.limits)

    client = world.client(fault=fault, rsize=BLOCK)
    steps = 0
    codes = [0]
    try:
        await overwrite(client, direct=direct)
    except OSError as error:
        codes.append(error.errno or errno.EIO)
    assert codes[-1] == 0 or (direct and codes[-1] == errno.EIO), "what went on the disk's way is told as that, or written again"
    if codes[-1]:
        await overwrite(client, direct=direct)
    assert await get(world.client(), "/file") == AFTER
    assert not (await verify(world.client(), "/")).damaged
    await world.close()
    return lost[0] if lost else None


@pytest.mark.slow
@pytest.mark.parametrize("direct", [False, True])
def test_a_client_goes_on_after_a_power_cut_of_the_server(direct: bool) -> None:
    async def test() -> None:
        for at in range(40):
            count = await goes_on(at, None, direct=direct)
            if count is None:
                assert at > 4
                return
            for survivors in product([False, True], repeat=count):
                await goes_on(at, survivors, direct=direct)
            await goes_on(at, None, direct=direct, intent=True)
        raise AssertionError("never through")

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_a_power_cut_left_is_looked_at_in_few_reads() -> None:
    """Of forty blocks written and not committed every third survives; each is as it was, or as it was to be."""
    reads = 0
    count = 40

    def fault(request: Request) -> None:
        nonlocal reads
        reads += isinstance(request, Read)

    async def test() -> None:
        nonlocal reads
        world = World(store=MemoryStore(Probe(), crashable=True))
        old, new = (bytes([byte]) * BLOCK * count for byte in (1, 2))
        await put(world.client(), "/file", old)
        client = world.client(fault=fault, rsize=4 * BLOCK)
        file = await client.open("/file", "r+", direct=True)
        await file.write(new, 0)
        lost = sum(volatile(world.store))
        assert lost == count
        power_cut(world.store, tuple(n % 3 == 0 for n in range(count)))
        transport = client.transport
        assert isinstance(transport, LoopTransport)
        transport.handler = Dispatcher(world.store, system_env(), Probe(), transport.limits)
        reads = 0
        with fails(errno.EIO):
            await file.fsync()
        assert reads == 1
        await file.aclose()
        expected = [(new if n % 3 == 0 else old)[:BLOCK] for n in range(count)]
        assert await get(world.client(), "/file") == b"".join(expected)
        assert not (await verify(world.client(), "/")).damaged
        await world.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


# ---- names


@pytest.mark.parametrize("then", ["fsync", "truncate", "write"])
def test_what_a_restart_left_unclaimed_is_not_laid_over_what_others_have_written_since(then: str) -> None:
    """Claims end with a start of the server; another client settles what was left, and goes on from there."""

    async def test() -> None:
        world = World(store=MemoryStore(Probe(), crashable=True))
        one = world.client(rsize=BLOCK)
        await put(one, "/file", CONTENT)
        async with await one.open("/file", "r+", direct=True) as mine:
            await mine.write(NEW[BLOCK : 3 * BLOCK], BLOCK)
            power_cut(world.store, (True,) * sum(volatile(world.store)))
            assert isinstance(one.transport, LoopTransport)
            one.transport.handler = Dispatcher(world.store, system_env(), Probe(), one.transport.limits)
            async with await world.client().open("/file", "r+", direct=True) as theirs:
                await theirs.write(b"t" * BLOCK, BLOCK)
            with contextlib.suppress(OSError):
                match then:
                    case "fsync":
                        await mine.fsync()
                    case "truncate":
                        await mine.truncate(4 * BLOCK)
                    case _:
                        await mine.write(b"m", 3 * BLOCK + 5)
            with contextlib.suppress(OSError):
                await mine.fsync()
        assert not (await verify(world.client(), "/")).damaged
        there = await get(world.client(), "/file")
        assert there[BLOCK : 3 * BLOCK] == b"t" * BLOCK + NEW[2 * BLOCK : 3 * BLOCK]
        await world.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_block_that_was_written_since_the_restart_is_not_taken_for_lost() -> None:
    """Only what a start of the server may have taken may be a hole again: a disk that misreads once takes nothing."""

    async def test() -> None:
        world = World(store=MemoryStore(Probe(), crashable=True))
        misread = False

        def fault(request: Request) -> Outcome | None:
            nonlocal misread
            if misread and isinstance(request, Read) and request.pos == 6 * BLOCK:
                return Reply(0, ReadReply(eof=False), received=request.length)  # and nothing arrives where it was to land
            return None

        one = world.client(rsize=BLOCK, fault=fault)
        await put(one, "/file", CONTENT)
        async with await one.open("/file", "r+", direct=True) as mine:
            await mine.write(NEW[:BLOCK], 5 * BLOCK)
            power_cut(world.store, (False,) * sum(volatile(world.store)))
            assert isinstance(one.transport, LoopTransport)
            one.transport.handler = Dispatcher(world.store, system_env(), Probe(), one.transport.limits)
            await mine.write(NEW[:BLOCK], 6 * BLOCK)
            misread = True
            with fails(errno.EBADMSG):
                await mine.read(BLOCK, 6 * BLOCK)
            with contextlib.suppress(OSError):  # of what the power cut took
                await mine.fsync()
            misread = False
            await mine.fsync()
            assert await mine.read(BLOCK, 6 * BLOCK) == NEW[:BLOCK]
        assert (await get(world.client(), "/file"))[6 * BLOCK :] == NEW[:BLOCK]
        await world.close()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


async def trees(client: Client) -> dict[str, list[str]]:
    """List both directories, which verifies them as a whole."""
    return {folder: await client.listdir(folder) for folder in ("/left", "/right")}


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("done", [False, True])
def test_a_rename_between_directories_that_ends_at_every_step(done: bool, replaced: bool) -> None:
    """The client dies, or the server loses power: the file has the one name or the other, and both listings verify."""

    async def attempt(at: int) -> bool:
        world = World(store=MemoryStore(Probe(), crashable=True))
        maker = world.client()
        for folder in ("/left", "/right"):
            await maker.mkdir(folder)
        await put(maker, "/left/it", CONTENT)
        if replaced:
            await put(maker, "/right/it", NEW)
        before = await trees(maker)
        steps, over, moved = 0, False, False

        def fault(request: Request) -> Outcome | None:
            nonlocal steps, over
            if over:
                return TransportError(errno.ECONNRESET, "the power is off", retryable=False)
            steps += 1  # every request, those that change nothing too
            over = steps == at + 1
            return TransportError(errno.ECONNRESET, "the power is off", retryable=False) if over and not done else None

        client = world.client(fault=fault)
        steps, over = 0, False
        with contextlib.suppress(OSError):
            await client.rename("/left/it", "/right/it")
            moved = True
        leave(world, client)
        world.store.crash()
        reader = world.client()
        after = await trees(reader)
        there = {"/left": [], "/right": ["it"]}
        assert after == there or (after == before and not moved)
        assert await get(reader, "/right/it" if after == there else "/left/it") == CONTENT
        if after == before and replaced:
            assert await get(reader, "/right/it") == NEW
        # And it can be moved on from there.
        writer = world.client()
        await writer.rename("/right/it" if after == there else "/left/it", "/left/other")
        assert await get(world.client(), "/left/other") == CONTENT
        assert not (await verify(world.client(), "/")).damaged
        await world.close()
        return over

    async def test() -> None:
        for at in range(30):
            if not await attempt(at):
                assert at >= 3, "a rename has steps"
                return
        raise AssertionError("never through")

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("seed", range(4))
def test_two_clients_rename_between_two_directories(seed: int) -> None:
    """Nothing is lost, nothing is there twice, and what both say of it in the end verifies."""

    async def test(world: World) -> None:
        clients = [world.client(late=True), world.client(late=True)]
        for folder in ("/left", "/right"):
            await clients[0].mkdir(folder)
        names = [f"n{n}" for n in range(4)]
        for name in names:
            await put(clients[0], f"/left/{name}", name.encode())

        async def move(client: Client, chance: random.Random) -> None:
            for _ in range(12):
                name, there = chance.choice(names), chance.choice(("/left", "/right"))
                back = "/right" if there == "/left" else "/left"
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    await client.rename(f"{there}/{name}", f"{back}/{name}", replace=False)

        async with trio.open_nursery() as nursery:
            for n, client in enumerate(clients):
                nursery.start_soon(move, client, random.Random(seed * 2 + n))
        found = await trees(world.client())
        assert sorted([*found["/left"], *found["/right"]]) == names
        for folder, inside in found.items():
            for name in inside:
                assert await get(world.client(), f"{folder}/{name}") == name.encode()
        assert not (await verify(world.client(), "/")).damaged

    in_world(test, seed)
