"""Trio shell. The RDMA transport between two processes: a client's or a server's end over a byte stream, by iWARP.

The hellos of the two sides travel as private data of the MPA start-up, so that versions and limits are settled before the first
message; a server that cannot agree rejects the connection and says in its own hello why. Each end has a device of its own.
Ownership: `transport/base.py`; the stream is the connection's.
"""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from iov.probe import Probe
from transport.base import HandlerFactory, Limits
from transport.env import Env
from transport.errors import HelloMismatch, TransportError
from transport.hello import Hello, HelloReader, agree, encode_hello
from transport.link import ByteStream
from transport.rdma.client import ClientEnd, RdmaTransport
from transport.rdma.device import Device
from transport.rdma.endpoint import client_block
from transport.rdma.enums import Access
from transport.rdma.iwarp.mpa import MpaError, StartFrame, answer, find_crc, settle
from transport.rdma.memory_fabric import MemoryFabric
from transport.rdma.profiles import IWARP, RXE, DeviceProfile
from transport.rdma.pump import End
from transport.rdma.server import ServerEnd
from transport.rdma.stream_fabric import StreamLink, receive_request, send_reply, start_mpa

__all__ = ["connect_rdma_stream", "serve_rdma_stream"]

CLIENT_ACCESS: Final = int(Access.REMOTE_READ | Access.REMOTE_WRITE)
READ_DEPTH: Final = 16
DEFAULT_LIMITS: Final = Limits()


def _hello_of(private: bytes, role: str) -> Hello:
    reader = HelloReader(role)
    view = memoryview(private)
    while reader.need:
        piece = view[: reader.need]
        if not piece:
            raise HelloMismatch(f"not a netfs {role}: an iWARP peer without our hello")
        reader.feed(piece)
        view = view[len(piece) :]
    return reader.hello()


def _device(name: str, env: Env, profile: DeviceProfile) -> Device:
    return MemoryFabric(env.now()).add_device(name, profile)


def _link(end: End, stream: ByteStream, link: StreamLink) -> None:
    """Have the end of the connection end the calls."""
    peer = stream.peer
    link.engine.on_end = lambda reason: end.fail(TransportError(errno.ECONNRESET, f"{peer}: {reason}"))


@asynccontextmanager
async def connect_rdma_stream(
    stream: ByteStream, env: Env, probe: Probe, limits: Limits = DEFAULT_LIMITS, profile: DeviceProfile = IWARP, crc: bool = False
) -> AsyncIterator[RdmaTransport]:
    """Start a connection as its client and open a transport for the length of a block.

    profile: of our device; one with RoCE's rules asks the server for them. crc: ask for checksums.

    Raises: HelloMismatch when the peer is not a server of ours; TransportError when the stream breaks.
    Cancellation: the connection is broken, memory is fenced and given back.
    Ownership: the stream is closed with the block, or when this fails.
    """
    try:
        if crc:
            find_crc()
        request = StartFrame(False, crc=crc, ird=READ_DEPTH, ord=READ_DEPTH, private=encode_hello(limits), roce=not profile.iwarp)
        reply = await start_mpa(stream, env, request)
        try:
            settled = settle(request, reply)
        except MpaError as error:
            if error.private is not None:
                agree(limits, _hello_of(error.private, "server"), "server")
            raise MpaError(f"{stream.peer}: {error}") from None
        if not settled.roce and not profile.iwarp:
            raise MpaError(f"{stream.peer}: the server does not know RoCE's rules on a stream")
        agreed = agree(limits, _hello_of(reply.private, "server"), "server")
        client = ClientEnd(_device("client", env, profile), env, probe, agreed)
        link = StreamLink(stream, client.qp, probe, settled, CLIENT_ACCESS, is_server=False)
    except BaseException:
        stream.close()
        raise
    _link(client, stream, link)
    client.start()
    async with client_block(client, link.run) as transport:
        yield transport


async def serve_rdma_stream(
    stream: ByteStream,
    handler_factory: HandlerFactory,
    env: Env,
    probe: Probe,
    limits: Limits = DEFAULT_LIMITS,
    profile: DeviceProfile = IWARP,
    crc: bool = False,
    roce_profile: DeviceProfile = RXE,
) -> None:
    """Answer a client's start-up and serve it until it leaves. roce_profile: of the device for a client that wants RoCE's rules.

    Raises: HelloMismatch for a stranger; TransportError when the client broke off or broke the protocol; what the handler raised.
    Cancellation: the connection is dropped, handlers are cancelled.
    """
    try:
        request = await receive_request(stream, env)
        try:
            reply, settled = answer(request, READ_DEPTH, READ_DEPTH, crc, encode_hello(limits), roce=True)
            if settled.crc:
                find_crc()
            agreed = agree(limits, _hello_of(request.private, "client"), "client")
        except HelloMismatch as error:
            refusal = StartFrame(True, request.revision, reject=True, private=encode_hello(limits))
            await send_reply(stream, refusal)
            raise HelloMismatch(f"{stream.peer}: {error}") from None
        handler = handler_factory(stream.peer, agreed)
    except BaseException:
        stream.close()
        raise
    device = _device("server", env, roce_profile if settled.roce else profile)
    server = ServerEnd(device, env, probe, agreed, handler)
    link = StreamLink(stream, server.qp, probe, settled, 0, is_server=True)
    _link(server, stream, link)
    server.start()
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_reply_and_run, server, stream, reply, link)
        try:
            await server.serve()
        except BaseException as error:  # noqa: BLE001 - as above
            failure = error
    server.destroy()
    if failure is None and not link.engine.clean:
        failure = server.error
    if failure is not None:
        raise failure


async def _reply_and_run(server: ServerEnd, stream: ByteStream, reply: StartFrame, link: StreamLink) -> None:
    try:
        await send_reply(stream, reply)
    except TransportError as error:
        server.fail(error)
        stream.close()
        return
    await link.run()
