"""A session over links that break: at every byte, both ways; several channels; servers that stop, come back or forget."""

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from servers.server import Server
from servers.stores.memory import MemoryStore
from transport.base import Reply, Transport
from transport.env import system_env
from transport.errors import TransportError
from transport.link import LinkShape, MemoryStream, memory_link
from transport.messages import (
    Create,
    EntryReply,
    Getattr,
    Handle,
    Mkdir,
    Mount,
    Ping,
    Read,
    Readdir,
    ReaddirReply,
    Rename,
    Request,
    Unlink,
    Write,
    WriteReply,
)
from transport.reconnect import Recovery, SessionTransport, connect_session
from transport.stream import connect_stream

Shapes = Callable[[int], tuple[LinkShape, LinkShape]]


class Net:
    """Links to a server. shapes: of the n-th link; down: no link can be made."""

    def __init__(self, nursery: trio.Nursery, shapes: Shapes | None = None) -> None:
        self.store = MemoryStore(Probe())
        self.server = Server(self.store, system_env(), Probe())
        self.links: list[tuple[MemoryStream, MemoryStream]] = []
        self.down = False
        self._nursery = nursery
        self._shapes = shapes or (lambda _: (LinkShape(), LinkShape()))

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Transport]:
        await trio.lowlevel.checkpoint()
        if self.down:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
        ours, theirs = memory_link(*self._shapes(len(self.links)))
        self.links.append((ours, theirs))
        self._nursery.start_soon(self.server.serve_connection, theirs)
        async with connect_stream(ours, system_env(), Probe()) as transport:
            yield transport

    def cut(self, index: int = -1) -> None:
        self.links[index][0].reset()

    def restart(self) -> None:
        """Put another server in the place of this one; it remembers no session."""
        self.server = Server(self.store, system_env(), Probe())
        for ours, _ in self.links:
            ours.reset()


@asynccontextmanager
async def session(
    shapes: Shapes | None = None, recovery: Recovery | None = None
) -> AsyncIterator[tuple[SessionTransport, Net, Handle]]:
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(manager.__aexit__, None, None, None)
        stack.callback(nursery.cancel_scope.cancel)
        net = Net(nursery, shapes)
        transport = await stack.enter_async_context(connect_session(net.dial, system_env(), Probe(), recovery or Recovery()))
        yield transport, net, body(await transport.call(Mount())).handle
    net.store.close()


def body(reply: Reply) -> EntryReply:
    assert isinstance(reply.body, EntryReply), reply
    return reply.body


async def names(transport: Transport, root: Handle) -> list[str]:
    reply = await transport.call(Readdir(root))
    assert isinstance(reply.body, ReaddirReply)
    return sorted(entry.name for entry in reply.body.entries)


def cut_after(there: int | None, back: int | None, reset: bool) -> Shapes:
    """The first link ends after so many bytes; the next ones perhaps within their hello or BIND, then later and later."""

    def shapes(number: int) -> tuple[LinkShape, LinkShape]:
        def shape(length: int | None) -> LinkShape:
            at = None if length is None else length if number == 0 else length % 200 + 31 * number
            return LinkShape(reset_at=at) if reset else LinkShape(cut_at=at)

        return shape(there), shape(back)

    return shapes


async def work(transport: Transport, root: Handle) -> None:
    """Make, fill piece by piece, rename and remove; every status tells whether it was done once."""
    file = body(await transport.call(Create(root, "file", exclusive=True))).handle
    for number in range(4):
        data = memoryview(bytearray(bytes([65 + number]) * 10))
        reply = await transport.call(Write(file, 10 * number), IovIter.ubuf(Direction.SOURCE, data))
        assert reply.status == 0
    assert (await transport.call(Mkdir(root, "folder"))).status == 0
    assert (await transport.call(Rename(root, "file", root, "moved"))).status == 0
    assert (await transport.call(Create(root, "gone", exclusive=True))).status == 0
    assert (await transport.call(Unlink(root, "gone"))).status == 0
    found = memoryview(bytearray(100))
    reply = await transport.call(Read(file, 0, 100), dest=IovIter.ubuf(Direction.DEST, found))
    assert bytes(found[: reply.received]) == b"A" * 10 + b"B" * 10 + b"C" * 10 + b"D" * 10
    assert await names(transport, root) == ["folder", "moved"]


STEPS = range(160, 760, 31)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("there", [True, False])
async def test_a_connection_that_ends_after_every_so_many_bytes(
    there: bool, reset: bool, autojump_clock: trio.testing.MockClock
) -> None:
    replays = 0
    for length in STEPS:
        async with session(cut_after(length if there else None, None if there else length, reset)) as (transport, net, root):
            await work(transport, root)
            replays += net.server.sessions.replays
    assert there or replays > 3, "the answers, too, are lost in some of these"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_ends_after_many_a_byte_both_ways(reset: bool, autojump_clock: trio.testing.MockClock) -> None:
    for length in range(160, 900, 3):
        async with session(cut_after(length, length + 13, reset)) as (transport, _, root):
            await work(transport, root)


async def test_everything_in_flight_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    async with session() as (transport, net, root):
        replies: list[Reply] = []

        async def one(number: int) -> None:
            request = Create(root, f"n{number}", exclusive=True) if number % 2 else Getattr(root)
            replies.append(await transport.call(request))

        for _ in range(20):
            replies.clear()
            async with trio.open_nursery() as nursery:
                for number in range(64):
                    nursery.start_soon(one, number)
                await trio.testing.wait_all_tasks_blocked()
                net.cut()
            assert [reply.status for reply in replies] == [0] * 64
            for name in await names(transport, root):
                assert (await transport.call(Unlink(root, name))).status == 0


async def written(transport: Transport, file: Handle, data: bytes) -> None:
    reply = await transport.call(Write(file, 0), IovIter.ubuf(Direction.SOURCE, memoryview(bytearray(data))))
    assert isinstance(reply.body, WriteReply) and reply.body.count == len(data), reply


@pytest.mark.parametrize("length", [3, 300_000])
async def test_a_write_whose_answer_is_lost_does_not_undo_a_newer_one(
    length: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        session() as (transport, net, root),
        connect_session(net.dial, system_env(), Probe()) as other,
        trio.open_nursery() as nursery,
    ):
        file = body(await transport.call(Create(root, "file"))).handle
        net.links[0][1]._out.shape = LinkShape(delay_s=1e9)  # the answer does not come
        nursery.start_soon(written, transport, file, b"a" * length)
        await trio.testing.wait_all_tasks_blocked()
        await written(other, file, b"b" * length)
        net.cut(0)
        await trio.testing.wait_all_tasks_blocked()
        await written(transport, file, b"")  # the first one has been answered, too: it was sent again before
        found = memoryview(bytearray(length))
        await other.call(Read(file, 0, length), dest=IovIter.ubuf(Direction.DEST, found))
        assert found == b"b" * length
        assert net.server.sessions.replays == 1


async def test_a_write_under_way_goes_on_in_a_new_session(autojump_clock: trio.testing.MockClock) -> None:
    async with session() as (transport, net, root), trio.open_nursery() as nursery:
        file = body(await transport.call(Create(root, "file"))).handle
        net.links[0][1]._out.shape = LinkShape(delay_s=1e9)
        nursery.start_soon(written, transport, file, b"abc")
        await trio.testing.wait_all_tasks_blocked()
        net.restart()  # that server knows the session no more; what is not committed is the client's to write again


async def test_an_idle_connection_is_made_anew(autojump_clock: trio.testing.MockClock) -> None:
    async with session() as (transport, net, root):
        net.cut()
        await trio.sleep(1)
        assert transport.connects == 2
        assert len(net.server.sessions) == 1
        assert (await transport.call(Getattr(root))).status == 0


async def test_a_link_that_swallows_everything_is_noticed(autojump_clock: trio.testing.MockClock) -> None:
    async with session() as (transport, net, root):
        ours, _ = net.links[0]
        ours._out.shape = LinkShape(delay_s=1e9)
        began = trio.current_time()
        assert (await transport.call(Getattr(root))).status == 0
        assert 10 <= trio.current_time() - began <= 25
        assert transport.connects == 2


async def test_a_connection_that_ends_right_behind_its_first_answer(autojump_clock: trio.testing.MockClock) -> None:
    """The end may be noticed before the task that joins the session runs again: such a channel must not be used."""
    async with session() as (transport, net, root):
        dial = net.dial

        @asynccontextmanager
        async def short() -> AsyncIterator[Transport]:
            transport._dial = dial
            async with dial() as channel:
                call = channel.call

                async def answered(request: Request) -> Reply:
                    reply = await call(request)
                    await channel.aclose()
                    return reply

                channel.call = answered  # type: ignore[assignment, method-assign]
                yield channel

        transport._dial = short
        net.cut()
        with trio.fail_after(60):
            for _ in range(8):
                assert (await transport.call(Getattr(root))).status == 0
        assert transport.connects == 3


async def test_soft_gives_up_in_time_and_hard_does_not(autojump_clock: trio.testing.MockClock) -> None:
    async with session(recovery=Recovery(timeout_s=5)) as (transport, net, root):
        net.down = True
        net.cut()
        began = trio.current_time()
        with pytest.raises(TransportError) as caught:
            await transport.call(Getattr(root))
        assert caught.value.errno == errno.ETIMEDOUT
        assert "nobody listens" in str(caught.value)
        assert 5 <= trio.current_time() - began <= 6
        net.down = False
        assert (await transport.call(Getattr(root))).status == 0
    async with session(recovery=Recovery(hard=True, timeout_s=5)) as (transport, net, root):
        net.down = True
        net.cut()
        with trio.move_on_after(3600) as scope:
            await transport.call(Getattr(root))
        assert scope.cancelled_caught
        net.down = False
        assert (await transport.call(Getattr(root))).status == 0


async def test_the_first_connection_fails_at_once() -> None:
    async with trio.open_nursery() as nursery:
        net = Net(nursery)
        net.down = True
        with pytest.raises(ConnectionRefusedError):
            async with connect_session(net.dial, system_env(), Probe()):
                raise AssertionError
        net.store.close()


async def test_a_server_that_forgot_the_session(autojump_clock: trio.testing.MockClock) -> None:
    async with session() as (transport, net, root):
        net.restart()
        with pytest.raises(TransportError) as caught:  # it went out before the end of the connection was noticed
            await transport.call(Create(root, "unknown", exclusive=True))
        assert caught.value.errno == errno.ESTALE
        assert (await transport.call(Create(root, "after", exclusive=True))).status == 0
        assert transport.connects == 2
        assert len(net.server.sessions) == 1
        assert await names(transport, root) == ["after"], "it is never done by guess"


async def test_several_channels_take_over_from_one_another(autojump_clock: trio.testing.MockClock) -> None:
    async with session(recovery=Recovery(channels=3)) as (transport, net, root):
        await trio.sleep(1)
        assert len(net.server.sessions) == 1 and transport.connects == 3
        done = 0

        async def work(worker: int) -> None:
            nonlocal done
            for number in range(50):
                assert (await transport.call(Create(root, f"{worker}-{number}", exclusive=True))).status == 0
                done += 1

        async with trio.open_nursery() as nursery:
            for worker in range(8):
                nursery.start_soon(work, worker)
            for index in range(20):
                await trio.testing.wait_all_tasks_blocked()
                net.cut(-1 - index % 3)
        assert done == 400
        await trio.sleep(1)
        net.down = True
        for ours in [ours for ours, _ in net.links if not ours._in.reset][1:]:
            ours.reset()
        assert (await transport.call(Ping())).status == 0, "one channel is enough"


async def test_the_session_ends_with_the_client() -> None:
    async with session() as (transport, net, root):
        assert len(net.server.sessions) == 1
        await transport.aclose()
        assert len(net.server.sessions) == 0
        with pytest.raises(TransportError) as caught:
            await transport.call(Getattr(root))
        assert caught.value.errno == errno.ECONNABORTED


async def test_cancelled_while_there_is_no_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with session() as (transport, net, root):
        net.down = True
        net.cut()
        memory = memoryview(bytearray(10))
        with trio.move_on_after(1) as scope:
            await transport.call(Write(root, 0), IovIter.ubuf(Direction.SOURCE, memory))
        assert scope.cancelled_caught
        memory.release()


@pytest.mark.parametrize(
    "bad", [{"timeout_s": 0}, {"keepalive_s": -1}, {"first_s": 2, "most_s": 1}, {"channels": 0}, {"channels": 17}]
)
def test_recoveries_that_make_no_sense(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Recovery(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("hundredths", range(0, 30, 2))
async def test_cancelled_while_the_first_connection_is_made(autojump_clock: trio.testing.MockClock, hundredths: int) -> None:
    slow = LinkShape(delay_s=0.05)
    async with trio.open_nursery() as nursery:
        net = Net(nursery, lambda _: (slow, slow))
        began = trio.current_time()
        opened = False
        with trio.move_on_after(hundredths / 100) as scope:
            async with connect_session(net.dial, system_env(), Probe()):
                opened = True
                await trio.sleep(10)
        assert scope.cancelled_caught
        assert opened == (hundredths > 20), "two round trips, which this test cuts off at every place"
        assert trio.current_time() - began < 5, "with a word of goodbye to a server that knows it"
        nursery.cancel_scope.cancel()
