"""How each transport is set up for the conformance suite. A new one is a new entry in TRANSPORTS."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from iov.probe import Probe
from tests.conformance.transport_suite import Opened, Opener
from tests.transport.secure import client_side, server_side, shaken
from transport.base import HandlerFactory, Limits
from transport.env import system_env
from transport.errors import TransportError
from transport.link import ByteStream, LinkShape, SocketStream, memory_link
from transport.rdma.endpoint import rdma_memory_connection
from transport.rdma.profiles import PROFILES
from transport.rdma.stream_endpoint import connect_rdma_stream, serve_rdma_stream
from transport.stream import connect_stream, serve_stream

__all__ = ["JOINING", "SLOW", "TRANSPORTS"]


@asynccontextmanager
async def over_streams(
    ours: ByteStream,
    theirs: ByteStream,
    handler_factory: HandlerFactory,
    limits: Limits,
    cut: Callable[[], None],
    probes: tuple[Probe, Probe] | None = None,
) -> AsyncIterator[Opened]:
    """Serve on one end and connect from the other; both are over when the block is."""
    client_probe, server_probe = probes or (Probe(), Probe())
    env = system_env()

    async def serve() -> None:
        with contextlib.suppress(TransportError):  # the tests look at what the client sees of it
            await serve_stream(theirs, handler_factory, env, server_probe, limits)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with connect_stream(ours, env, client_probe, limits) as transport:
            yield Opened(transport, cut, client_probe, server_probe)


@asynccontextmanager
async def memory(handler_factory: HandlerFactory, limits: Limits, shape: LinkShape | None = None) -> AsyncIterator[Opened]:
    ours, theirs = memory_link(shape, shape)
    async with over_streams(ours, theirs, handler_factory, limits, ours.reset) as opened:
        yield opened


@asynccontextmanager
async def memory_bytewise(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    async with memory(handler_factory, limits, LinkShape(slice_length=1)) as opened:
        yield opened


@asynccontextmanager
async def memory_narrow(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    async with memory(handler_factory, limits, LinkShape(slice_length=1500, capacity=4000)) as opened:
        yield opened


def shut(sock: socket.socket) -> Callable[[], None]:
    def cut() -> None:
        with contextlib.suppress(OSError):  # it may be gone already
            sock.shutdown(socket.SHUT_RDWR)

    return cut


@asynccontextmanager
async def socketpair(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    ours, theirs = socket.socketpair()
    async with over_streams(SocketStream(ours), SocketStream(theirs), handler_factory, limits, shut(ours)) as opened:
        yield opened


@asynccontextmanager
async def tcp(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    async with over_streams(SocketStream(ours), SocketStream(theirs), handler_factory, limits, shut(ours)) as opened:
        yield opened


@asynccontextmanager
async def tls(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    probes = Probe(), Probe()
    near, far = socket.socketpair()
    breaker = near.dup()
    ours, theirs = client_side(near, probes[0]), server_side(far, probes[1])
    await shaken(ours, theirs)
    with breaker:
        async with over_streams(ours, theirs, handler_factory, limits, shut(breaker), probes) as opened:
            yield opened


def rdma(profile: str) -> Opener:
    """Return the opener of the RDMA transport over devices of a named profile."""

    @asynccontextmanager
    async def open_rdma(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
        env, client_probe, server_probe = system_env(), Probe(), Probe()
        async with rdma_memory_connection(
            handler_factory, env, client_probe, env, server_probe, limits, PROFILES[profile]
        ) as transport:
            yield Opened(transport, transport.end.qp.enter_error, client_probe, server_probe)

    return open_rdma


@asynccontextmanager
async def over_iwarp(
    ours: ByteStream,
    theirs: ByteStream,
    handler_factory: HandlerFactory,
    limits: Limits,
    cut: Callable[[], None],
    profile: str = "iwarp",
    crc: bool = False,
) -> AsyncIterator[Opened]:
    """Serve RDMA on one end of a stream and connect from the other."""
    client_probe, server_probe = Probe(), Probe()
    env = system_env()

    async def serve() -> None:
        with contextlib.suppress(TransportError):  # as above
            mine = PROFILES[profile]
            iwarp = mine if mine.iwarp else PROFILES["iwarp"]
            await serve_rdma_stream(theirs, handler_factory, env, server_probe, limits, iwarp, roce_profile=mine)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with connect_rdma_stream(ours, env, client_probe, limits, PROFILES[profile], crc) as transport:
            yield Opened(transport, cut, client_probe, server_probe)


@asynccontextmanager
async def rdma_stream_memory(
    handler_factory: HandlerFactory, limits: Limits, shape: LinkShape | None = None
) -> AsyncIterator[Opened]:
    ours, theirs = memory_link(shape, shape)
    async with over_iwarp(ours, theirs, handler_factory, limits, ours.reset) as opened:
        yield opened


@asynccontextmanager
async def rdma_stream_bytewise(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    async with rdma_stream_memory(handler_factory, limits, LinkShape(slice_length=1)) as opened:
        yield opened


@asynccontextmanager
async def rdma_stream_narrow(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    async with rdma_stream_memory(handler_factory, limits, LinkShape(slice_length=1500, capacity=4000)) as opened:
        yield opened


@asynccontextmanager
async def rdma_stream_siw_crc(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    ours, theirs = memory_link()
    async with over_iwarp(ours, theirs, handler_factory, limits, ours.reset, "siw", crc=True) as opened:
        yield opened


@asynccontextmanager
async def rdma_stream_socketpair(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    ours, theirs = socket.socketpair()
    async with over_iwarp(SocketStream(ours), SocketStream(theirs), handler_factory, limits, shut(ours)) as opened:
        yield opened


@asynccontextmanager
async def rdma_stream_tls(handler_factory: HandlerFactory, limits: Limits, profile: str = "iwarp") -> AsyncIterator[Opened]:
    probes = Probe(), Probe()
    near, far = socket.socketpair()
    breaker = near.dup()
    ours, theirs = client_side(near, probes[0]), server_side(far, probes[1])
    await shaken(ours, theirs)
    with breaker:
        async with over_iwarp(ours, theirs, handler_factory, limits, shut(breaker), profile) as opened:
            yield opened


@asynccontextmanager
async def rdma_stream_roce(
    handler_factory: HandlerFactory, limits: Limits, profile: str = "rxe", shape: LinkShape | None = None
) -> AsyncIterator[Opened]:
    ours, theirs = memory_link(shape, shape)
    async with over_iwarp(ours, theirs, handler_factory, limits, ours.reset, profile) as opened:
        yield opened


@asynccontextmanager
async def rdma_stream_roce_narrow(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    async with rdma_stream_roce(handler_factory, limits, "connectx", LinkShape(slice_length=1500, capacity=4000)) as opened:
        yield opened


@asynccontextmanager
async def rdma_stream_roce_tls(handler_factory: HandlerFactory, limits: Limits) -> AsyncIterator[Opened]:
    async with rdma_stream_tls(handler_factory, limits, "rxe") as opened:
        yield opened


TRANSPORTS: Final[dict[str, Opener]] = {
    "memory": memory,
    "memory-bytewise": memory_bytewise,
    "memory-narrow": memory_narrow,
    "socketpair": socketpair,
    "tcp": tcp,
    "tls": tls,
    "rdma-roce": rdma("rxe"),
    "rdma-iwarp": rdma("siw"),
    "rdma-stream": rdma_stream_memory,
    "rdma-stream-bytewise": rdma_stream_bytewise,
    "rdma-stream-narrow": rdma_stream_narrow,
    "rdma-stream-siw-crc": rdma_stream_siw_crc,
    "rdma-stream-socketpair": rdma_stream_socketpair,
    "rdma-stream-tls": rdma_stream_tls,
    "rdma-stream-roce": rdma_stream_roce,
    "rdma-stream-roce-narrow": rdma_stream_roce_narrow,
    "rdma-stream-roce-tls": rdma_stream_roce_tls,
}
SLOW: Final = frozenset({"memory-bytewise", "rdma-stream-bytewise"})
"""Where large payloads would take too long."""
JOINING: Final = frozenset({"tls", "rdma-stream-tls", "rdma-stream-roce-tls"})
"""Where pieces shorter than a record are joined before they are sent, which copies them once more."""
