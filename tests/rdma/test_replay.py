"""RDMA connections that break under a session: calls are sent again on a new one, with new keys, and each is done once.

And servers among strangers: whatever one client sends, the others go on.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from servers.server import Server
from servers.stores.memory import MemoryStore
from tests.rdma.test_stream_endpoint import framed, take, take_start
from tests.servers.test_reconnect import Net, body, names
from transport.base import Limits, Transport
from transport.env import system_env
from transport.hello import encode_hello
from transport.link import LinkShape, memory_link
from transport.messages import Create, Handle, Mount, Read, Rename, Write
from transport.pump import send_all
from transport.rdma.client import RdmaTransport
from transport.rdma.iwarp.mpa import StartFrame
from transport.rdma.profiles import IWARP, RXE, DeviceProfile
from transport.rdma.smbd import Offer, request
from transport.rdma.stream_endpoint import connect_rdma_stream
from transport.reconnect import Recovery, connect_session

PIECE = 20_000


class RdmaNet(Net):
    """A `Net` whose links carry RDMA; `ends` are the client's sides of them."""

    profile: DeviceProfile = IWARP

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Transport]:
        ours, theirs = memory_link(*self._shapes(len(self.links)))
        self.links.append((ours, theirs))
        self._nursery.start_soon(self.server.serve_connection, theirs, True)
        async with connect_rdma_stream(ours, system_env(), Probe(), profile=self.profile) as transport:
            self.ends.append(transport)
            yield transport

    @property
    def ends(self) -> list[RdmaTransport]:
        found: list[RdmaTransport] = self.__dict__.setdefault("_ends", [])
        return found


async def work(transport: Transport, root: Handle) -> None:
    """Fill a file by chunks, rename it, read it back; every status tells whether it was done once."""
    file = body(await transport.call(Create(root, "file", exclusive=True))).handle
    for number in range(3):
        data = memoryview(bytes([65 + number]) * PIECE)
        assert (await transport.call(Write(file, PIECE * number), IovIter.ubuf(Direction.SOURCE, data))).status == 0
    assert (await transport.call(Rename(root, "file", root, "moved"))).status == 0
    found = memoryview(bytearray(4 * PIECE))
    reply = await transport.call(Read(file, 0, 4 * PIECE), dest=IovIter.ubuf(Direction.DEST, found))
    assert reply.received == 3 * PIECE
    assert bytes(found) == b"A" * PIECE + b"B" * PIECE + b"C" * PIECE + bytes(PIECE)
    assert await names(transport, root) == ["moved"]


@pytest.mark.parametrize("profile", [IWARP, RXE], ids=["iwarp", "roce"])
@pytest.mark.parametrize("there", [True, False])
async def test_a_connection_that_ends_after_every_so_many_bytes(
    there: bool, profile: DeviceProfile, autojump_clock: MockClock
) -> None:
    broken = 0
    for length in [*range(500, 1400, 125), 5000, 30_000, 61_000]:
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(manager.__aexit__, None, None, None)
            stack.callback(nursery.cancel_scope.cancel)

            def shapes(number: int, length: int = length) -> tuple[LinkShape, LinkShape]:
                ends = LinkShape(reset_at=length // (number + 1)) if number < 2 else LinkShape()
                return (ends, LinkShape()) if there else (LinkShape(), ends)

            net = RdmaNet(nursery, shapes)
            net.profile = profile
            transport = await stack.enter_async_context(connect_session(net.dial, system_env(), Probe(), Recovery()))
            await work(transport, body(await transport.call(Mount())).handle)
            broken += len(net.links) > 1
            # What was registered on a connection that is over is gone with it: each has a device of its own.
            devices = {id(end.end.pd.device) for end in net.ends}
            assert len(devices) == len(net.ends)
            assert all(not end.end.mrs.made for end in net.ends[:-1])
            stack.callback(net.store.close)
    assert broken >= 5
    assert autojump_clock.rate == 0


# ---- one among many


def hostile() -> list[bytes]:
    hello = StartFrame(False, ird=4, ord=4, private=encode_hello(Limits())).pack()
    send = b"\x41\x43" + bytes(4) + bytes(4) + b"\0\0\0\1" + bytes(4)
    return [
        b"GET / HTTP/1.0\r\n\r\n",
        hello[:30],
        hello,
        hello + framed(b"\xc1\x40" + os.urandom(12) + b"spray"),
        hello + framed(send + request(Offer(4))),
        hello + framed(send + request(Offer(0))),
        hello + framed(send + b"no negotiation"),
        hello + framed(send + request(Offer(4))) + framed(send[:10] + b"\0\0\0\2" + send[14:] + b"\xff" * 40),
        hello + b"\xff\xff" + os.urandom(200),
        StartFrame(False, markers=True, private=encode_hello(Limits())).pack(),
        StartFrame(False, private=encode_hello(Limits(), 7, 9)).pack(),
    ]


async def test_whatever_a_client_sends_the_others_go_on(autojump_clock: MockClock) -> None:
    """Each hostile client is shut out, or is left waiting, while an honest one is served; nothing is left behind."""
    store = MemoryStore(Probe())
    server = Server(store, system_env(), Probe())
    async with trio.open_nursery() as nursery:
        ours, theirs = memory_link()
        nursery.start_soon(server.serve_connection, theirs, True)
        async with connect_rdma_stream(ours, system_env(), Probe()) as honest:
            root = body(await honest.call(Mount())).handle
            file = body(await honest.call(Create(root, "file"))).handle
            for number, said in enumerate(hostile()):
                near, far = memory_link()
                nursery.start_soon(server.serve_connection, far, True)
                await send_all(near, said)
                data = memoryview(bytes([number]) * 9000)
                assert (await honest.call(Write(file, 0), IovIter.ubuf(Direction.SOURCE, data))).status == 0
                target = bytearray(9000)
                assert (await honest.call(Read(file, 0, 9000), dest=IovIter.ubuf(Direction.DEST, target))).received == 9000
                assert target == data
                with trio.move_on_after(200):
                    await take(near, 1 << 20)
                near.close()
            assert server.connections == 1
    assert server.connections == 0
    store.close()
    assert autojump_clock.rate == 0


async def test_a_client_that_falls_silent_is_given_up(autojump_clock: MockClock) -> None:
    """Its network has gone without a word: the server asks, waits, and drops it."""
    store = MemoryStore(Probe())
    server = Server(store, system_env(), Probe())
    near, far = memory_link()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, far, True)
        await send_all(near, StartFrame(False, ird=4, ord=4, private=encode_hello(Limits())).pack())
        await take_start(near, True)
        send = b"\x41\x43" + bytes(8) + b"\0\0\0\1" + bytes(4)
        await send_all(near, framed(send + request(Offer(4))))
        started = trio.current_time()
        rest = await take(near, 1 << 20)  # until the server closes
        assert len(rest) > 50
        assert 100 < trio.current_time() - started < 200
    assert server.connections == 0
    store.close()
    assert autojump_clock.rate == 0
