"""Trio shell. From a URL to a transport that connects, and connects again when the connection is lost.

`netfs` with an identity is TLS, to any address: the server must have a key that known_hosts has for it, and is shown ours.
`netfs+rdmas` is iWARP over the same TLS. Without an identity, and with `netfs+tcp` and `netfs+rdma`, the connection is plain,
and goes to loopback addresses only; to a UNIX socket it is plain always, as the socket's mode says who may connect. Every
connection is made alike, the first and those that take the place of a lost one, and joins one session
(`transport/reconnect.py`). The transport owns its sockets.
"""

import errno
import ipaddress
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from iov.probe import Probe
from netfs.errors import NotReachable, translate
from netfs.fs.url import Url
from transport.base import Transport
from transport.env import Env
from transport.errors import NotTrusted, TransportError
from transport.user_files import user_file

if TYPE_CHECKING:
    from transport.link import ByteStream
    from transport.rdma.capture import Capture
    from transport.reconnect import Recovery
    from transport.tls import TlsStream
    from transport.trust import Fingerprint

__all__ = ["Credentials", "connect", "recovery_of", "server_fingerprint"]

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files: the client's identity, and the keys of the servers it knows (None: `~/.config/netfs/known_hosts`).

    authority: certificates of who vouches for servers, by their names; then the identity is a PEM file with key and certificate.
    """

    identity: StrPath
    known_hosts: StrPath | None = None
    authority: StrPath | None = None


def recovery_of(url: Url, hard: bool, timeout_s: float, channels: int) -> "Recovery":
    """Return how to deal with lost connections: as the URL says, else as given. Raises: ValueError."""
    from transport.reconnect import Recovery  # noqa: PLC0415 - loaded by those who connect

    return Recovery(
        url.hard if url.hard is not None else hard,
        url.timeout_s if url.timeout_s is not None else timeout_s,
        url.channels if url.channels is not None else channels,
    )


@asynccontextmanager
async def connect(
    url: Url,
    env: Env,
    probe: Probe,
    credentials: Credentials | None = None,
    recovery: "Recovery | None" = None,
    capture: "Capture | None" = None,
) -> AsyncIterator[Transport]:
    """Open a session with a server, for the length of a block.

    recovery: how to deal with lost connections. capture: takes what passes, above TLS.

    Raises: NotReachable with the peer in one line, also for a server whose key is not the one known; OSError with the path for a
    file of the credentials. Cancellation: nothing is left open.
    """
    from transport.reconnect import Recovery, connect_session  # noqa: PLC0415 - as in `dial`

    session = connect_session(partial(dial, url, env, probe, credentials, capture), env, probe, recovery or Recovery())
    async with AsyncExitStack() as stack:
        try:
            transport = await stack.enter_async_context(session)
        except TransportError as error:
            raise translate(error, url.peer) from error
        yield transport


@asynccontextmanager
async def dial(
    url: Url, env: Env, probe: Probe, credentials: Credentials | None = None, capture: "Capture | None" = None
) -> AsyncIterator[Transport]:
    """Connect once and agree on limits, for the length of a block. Raises, cancellation: as `connect`."""
    # The stream transport brings msgpack with it, which a client that is handed a transport may not need.
    from transport.link import SocketStream  # noqa: PLC0415
    from transport.stream import connect_stream  # noqa: PLC0415

    plain = credentials is None or url.plain or bool(url.socket)
    if url.rdma and plain and not url.plain:
        raise NotReachable(errno.EACCES, "RDMA over TLS needs an identity, see netfs keygen --identity", url.peer)
    async with AsyncExitStack() as stack:
        secure: TlsStream | None = None
        try:
            if credentials is None or plain:
                sock = await _dial(url, plain=True)
                try:
                    stream: ByteStream = SocketStream(sock)
                except OSError as error:
                    sock.close()
                    raise _not_reachable(error, url) from error
            else:
                stream = secure = await _known_server(url, env, probe, credentials)
            if capture is not None:
                from transport.rdma.capture_stream import CapturedStream  # noqa: PLC0415 - loaded by those who capture

                stream = CapturedStream(stream, capture, active=True)
            if url.rdma:
                from transport.rdma.profiles import IWARP, RXE  # noqa: PLC0415 - the verbs device is large
                from transport.rdma.stream_endpoint import connect_rdma_stream  # noqa: PLC0415

                opened: AbstractAsyncContextManager[Transport] = connect_rdma_stream(
                    stream, env, probe, profile=RXE if url.roce else IWARP
                )
            else:
                opened = connect_stream(stream, env, probe)
            transport = await stack.enter_async_context(opened)
        except TransportError as error:
            told = error
            if secure is not None and secure.silent:
                told = NotTrusted(f"{url.peer}: it ended the connection; perhaps it does not know this key, {secure.own}")
            raise translate(told, url.peer) from error
        yield transport


async def server_fingerprint(url: Url, identity: StrPath, env: Env) -> "Fingerprint":
    """Return the fingerprint of the key of whoever answers at a URL, trusted or not.

    Raises: as `connect`.
    """
    try:
        stream = await _handshake(url, env, Probe(), identity)
    except TransportError as error:
        raise translate(error, url.peer) from error
    await stream.aclose()
    assert stream.fingerprint is not None
    return stream.fingerprint


async def _known_server(url: Url, env: Env, probe: Probe, credentials: Credentials) -> "TlsStream":
    """Return TLS with a server that has the key we know. Raises: NotTrusted if it has another one."""
    from transport.security import KnownHosts  # noqa: PLC0415 - cryptography takes a while to load

    if credentials.authority is not None:
        return await _vouched_server(url, env, probe, credentials.identity, credentials.authority)
    hosts = KnownHosts(credentials.known_hosts or user_file("known_hosts"))
    known = hosts.fingerprints(url.peer)
    stream = await _handshake(url, env, probe, credentials.identity)
    if stream.fingerprint in known:
        return stream
    await stream.aclose()
    if known:
        said = f"its key is {stream.fingerprint}, not the one in {hosts.path}: it is another server, or somebody is in between"
    else:
        said = f"its key {stream.fingerprint} is not known; if it is the right one, say netfs trust {url.base}"
    raise NotTrusted(f"{url.peer}: {said}")


async def _vouched_server(url: Url, env: Env, probe: Probe, identity: StrPath, authority: StrPath) -> "TlsStream":
    """Return TLS with a server for whose name an authority vouches."""
    from transport.security import authority_context  # noqa: PLC0415 - as above
    from transport.tls import TlsStream  # noqa: PLC0415

    context = authority_context(identity, authority, server_side=False)
    sock = await _dial(url, plain=False)
    try:
        stream = TlsStream(sock, context, probe, server_side=False, vouched=True, name=url.host)
    except OSError as error:
        sock.close()
        raise _not_reachable(error, url) from error
    await stream.handshake(env)
    return stream


async def _handshake(url: Url, env: Env, probe: Probe, identity: StrPath) -> "TlsStream":
    from transport.security import client_context, load_identity  # noqa: PLC0415 - as above
    from transport.tls import TlsStream  # noqa: PLC0415

    mine = load_identity(identity)
    sock = await _dial(url, plain=False)
    try:
        stream = TlsStream(sock, client_context(mine), probe, server_side=False, own=mine.fingerprint)
    except OSError as error:
        sock.close()
        raise _not_reachable(error, url) from error
    await stream.handshake(env)
    return stream


async def _dial(url: Url, *, plain: bool) -> socket.socket:
    """Connect. Raises: NotReachable, also for an address beyond loopback where the connection is to be plain."""
    try:
        if url.socket:
            return await _dialled(socket.AF_UNIX, url.socket)
        found = await trio.socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        last: OSError | None = None
        for family, _, _, _, address in found:
            if plain and not ipaddress.ip_address(address[0]).is_loopback:
                raise OSError(errno.EPERM, "beyond loopback only with TLS, for which see netfs keygen --identity")
            try:
                return await _dialled(family, address)
            except OSError as error:
                # Trio adds the address, which the caller names too.
                last = OSError(error.errno, os.strerror(error.errno or errno.ECONNREFUSED))
        raise last or OSError(errno.EHOSTUNREACH, "no address")
    except OSError as error:
        raise _not_reachable(error, url) from error


async def _dialled(family: int, address: object) -> socket.socket:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return socket.socket(fileno=sock.detach())


def _not_reachable(error: OSError, url: Url) -> NotReachable:
    return NotReachable(error.errno, error.strerror or str(error), url.peer)
