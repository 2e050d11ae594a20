"""Trio shell. From a URL to a connected transport.

This version has no channel security, so it connects to UNIX sockets and to loopback addresses only. The transport owns its
socket.
"""

import errno
import ipaddress
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from iov.probe import Probe
from netfs.errors import NotReachable, translate
from netfs.fs.url import Url
from transport.base import Transport
from transport.env import Env
from transport.errors import TransportError

__all__ = ["connect"]


@asynccontextmanager
async def connect(url: Url, env: Env, probe: Probe) -> AsyncIterator[Transport]:
    """Connect and agree on limits, for the length of a block.

    Raises: NotReachable with the peer in one line. Cancellation: nothing is left open.
    """
    # The stream transport brings msgpack with it, which a client that is handed a transport may not need.
    from transport.link import SocketStream  # noqa: PLC0415
    from transport.stream import connect_stream  # noqa: PLC0415

    async with AsyncExitStack() as stack:
        try:
            sock = await (_connect_unix(url.socket) if url.socket else _connect_loopback(url))
            stream = SocketStream(socket.socket(fileno=sock.detach()))
            transport = await stack.enter_async_context(connect_stream(stream, env, probe))
        except OSError as error:
            raise NotReachable(error.errno, error.strerror or str(error), url.peer) from error
        except TransportError as error:
            raise translate(error, url.peer) from error
        yield transport


async def _connect_unix(path: str) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_loopback(url: Url) -> trio.socket.SocketType:
    found = await trio.socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    last: OSError | None = None
    for family, kind, protocol, _, address in found:
        if not ipaddress.ip_address(address[0]).is_loopback:
            raise OSError(errno.EPERM, "only loopback addresses are connected to, as connections are not yet encrypted")
        sock = trio.socket.socket(family, kind, protocol)
        try:
            await sock.connect(address)
        except OSError as error:
            sock.close()
            # Trio adds the address, which the caller names too.
            last = OSError(error.errno, os.strerror(error.errno or errno.ECONNREFUSED))
            continue
        except BaseException:
            sock.close()
            raise
        return sock
    raise last or OSError(errno.EHOSTUNREACH, "no address")
