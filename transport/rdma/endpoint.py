"""Trio shell. An RDMA connection inside one process: a client's transport and a server's handler over one memory fabric.

Memory moves once, from the client's registered bytes to the server's landing or back. The two ends have their own devices,
contexts and probes; only the fabric is shared. Ownership: `transport/base.py`.
"""

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

import trio

from iov.probe import Probe
from transport.base import HandlerFactory, Limits
from transport.env import Env
from transport.errors import TransportError
from transport.rdma.capture import Capture
from transport.rdma.capture_fabric import capture_fabric
from transport.rdma.client import ClientEnd, RdmaTransport
from transport.rdma.enums import Access
from transport.rdma.memory_fabric import MemoryFabric, connect_pair
from transport.rdma.profiles import RXE, DeviceProfile
from transport.rdma.server import ServerEnd

__all__ = ["client_block", "rdma_memory_connection"]

CLIENT_ACCESS = Access.REMOTE_READ | Access.REMOTE_WRITE
DEFAULT_LIMITS = Limits()


@asynccontextmanager
async def rdma_memory_connection(
    handler_factory: HandlerFactory,
    client_env: Env,
    client_probe: Probe,
    server_env: Env,
    server_probe: Probe,
    limits: Limits = DEFAULT_LIMITS,
    profile: DeviceProfile = RXE,
    peers: Collection[str] = (),
    capture: Capture | None = None,
) -> AsyncIterator[RdmaTransport]:
    """Connect a client to a handler. Args: peers: the devices whose memory the client's adapter may address. capture: shows what
    passes as packets.

    Cancellation: the connection is broken, memory is fenced and given back. Leaving the block closes the connection; handlers
    that still run are cancelled.
    """
    handler = handler_factory("rdma-memory", limits)
    fabric = MemoryFabric(client_env.now())
    if capture is not None:
        capture_fabric(fabric, capture)
    server = ServerEnd(fabric.add_device("server", profile), server_env, server_probe, limits, handler)
    client = ClientEnd(fabric.add_device("client", profile), client_env, client_probe, limits, peers)
    connect_pair(client.qp, server.qp, CLIENT_ACCESS, 0, rd_atomic=min(16, profile.max_rd_atom))
    client.peer, server.peer = server, client
    server.start()
    client.start()
    try:
        async with client_block(client, server.serve) as transport:
            yield transport
    finally:
        server.destroy()


@asynccontextmanager
async def client_block(client: ClientEnd, carry: Callable[[], Awaitable[None]]) -> AsyncIterator[RdmaTransport]:
    """Run a started client end, and `carry`, which moves its bytes, for the length of a block; the end is destroyed with it.

    Raises: what the block raised, as it is.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry)
            nursery.start_soon(client.run)
            try:
                await client.negotiated()
                yield RdmaTransport(client)
            except BaseException as error:  # noqa: BLE001 - raised again below, outside the nursery, which would wrap it in a group
                failure = error
            client.fail(TransportError(errno.ECONNABORTED, "the connection was closed"))
    finally:
        client.destroy()  # also of a cancelled one, which the nursery tells of
    if failure is not None:
        raise failure
