"""Trio shell. The connection manager: queue pairs that find each other over TCP, as programs of rdma_cm know it.

    async with open_cm(env) as cm, cm.listen("127.0.0.1", 7471) as listener:
        request = await listener.get_request()
        qp.post_recv(...)
        connection = await request.accept(qp, access, CmParam(b"welcome"))
        await connection.disconnected()

    async with open_cm(env) as cm:
        route = await cm.resolve("127.0.0.1", 7471)
        connection = await cm.connect(route, qp, access)
        ...
        await connection.disconnect()

What rdma_cm tells by events is here what a call returns or raises: `connect` returns when the connection is ESTABLISHED, raises
`Rejected` with the peer's private data, or TransportError (ADDR_ERROR, UNREACHABLE, CONNECT_ERROR). The states are those of
`cm_id.py`. A receive that is posted before `accept` or `connect` may complete before either returns. One task accepts for each
listener, one runs each connection; they live as long as the manager's block.
Ownership: streams are the manager's, queue pairs the program's, which destroys them when the connection is over.
"""

import errno
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from iov.probe import Probe
from transport.env import Env
from transport.errors import TransportError
from transport.link import ByteStream, SocketStream
from transport.pump import error_of, send_all
from transport.rdma.capture import Capture
from transport.rdma.capture_stream import CapturedStream
from transport.rdma.cm_id import CmId, CmParam, CmState
from transport.rdma.errors import VerbsError
from transport.rdma.qp import QP
from transport.rdma.stream_fabric import StreamLink

__all__ = ["ConnectRequest", "Connection", "ConnectionManager", "Listener", "Rejected", "Route", "open_cm"]

RESOLVE_TIMEOUT_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 10.0
BACKLOG: Final = 128
BREATH_S: Final = 0.01
WAITING: Final = 128
"""Requests that wait for `get_request`; further clients wait in their sockets."""
ONE_SIDED: Final = CmParam()


class Rejected(TransportError):
    """The peer does not want the connection; `private` is what it said."""

    def __init__(self, peer: str, private: bytes) -> None:
        super().__init__(errno.ECONNREFUSED, f"{peer}: rejected the connection")
        self.private = private


@dataclass(frozen=True, slots=True)
class Route:
    """Where a peer is reached: an address that was resolved."""

    family: int
    address: tuple[str | int, ...]

    def __str__(self) -> str:
        host, port = self.address[0], self.address[1]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


class Connection:
    """An established connection. private: what the peer said; ird, ord: READs we answer, and READs we have open, at a time."""

    def __init__(self, ident: CmId, link: StreamLink, private: bytes) -> None:
        assert ident.settled is not None
        self.ident = ident
        self.link = link
        self.peer = link.stream.peer
        self.private = private
        self.ird, self.ord = ident.settled.ird, ident.settled.ord
        self.reason = ""
        self._over = trio.Event()
        self._closed = trio.Event()
        link.engine.on_end = self._on_end

    def _on_end(self, reason: str) -> None:
        self.reason = reason
        self.ident.ended()
        self._over.set()

    async def run(self) -> None:
        """Move bytes until the connection is over (the manager's side)."""
        try:
            await self.link.run()
        finally:
            self._closed.set()

    async def disconnect(self) -> None:
        """End the connection: the queue pair goes to ERR and is flushed, the stream is closed. Done twice it is nothing.

        What has completed before reaches the peer. Cancellation: the connection ends all the same.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.ident.state is not CmState.DISCONNECTED:
            self.ident.disconnect()
        self.link.engine.lose("disconnected here")
        await self._closed.wait()

    async def disconnected(self) -> str:
        """Wait until either side has ended the connection; return why, in words. Cancellation: no effect."""
        await self._over.wait()
        return self.reason


class ConnectRequest:
    """A peer that wants to connect. private: what it said; ird, ord: READs it will have open, and READs it answers."""

    def __init__(self, manager: "ConnectionManager", ident: CmId, stream: ByteStream) -> None:
        assert ident.request is not None
        self._manager = manager
        self._ident = ident
        self._stream = stream
        self.peer = stream.peer
        self.private = ident.request.private
        self.ird, self.ord = ident.request.ord, ident.request.ird

    async def accept(self, qp: QP, access: int, param: CmParam = ONE_SIDED) -> Connection:
        """Accept: the queue pair, in INIT or RESET, goes to RTS. access: what the peer may do, a set of `Access`.

        Raises: MpaError when what the peer asked for cannot be given; TransportError when it has gone; VerbsError when the queue
        pair cannot be connected, EINVAL when the request was answered before.
        Cancellation: the peer is not answered, the connection is dropped.
        """
        if self._ident.state is not CmState.REQUESTED:
            raise VerbsError(errno.EINVAL, "the request was answered before")
        try:
            param = _by_rules_of(qp, param)
            reply = self._ident.accept(param)
            return await self._manager.start(self._ident, self._stream, qp, access, self.private, reply, param.rnr_retry)
        except BaseException:
            self._stream.close()
            raise

    async def reject(self, private: bytes = b"") -> None:
        """Refuse, and say why in at most 256 bytes of private data. Cancellation: the peer may not learn why."""
        reply = self._ident.reject(private)
        try:
            await send_all(self._stream, reply)
        except TransportError:
            pass  # it has gone, which is as good
        finally:
            self._stream.close()
        await trio.lowlevel.checkpoint()


class Listener:
    """A socket that takes connect requests. host, port: where it really is."""

    def __init__(self, sock: trio.socket.SocketType, requests: trio.MemoryReceiveChannel[ConnectRequest]) -> None:
        self.host, self.port = sock.getsockname()[:2]
        self._requests = requests

    async def get_request(self) -> ConnectRequest:
        """Wait for a peer that wants to connect. Cancellation: none is lost."""
        return await self._requests.receive()


class ConnectionManager:
    """Connections of one program; made by `open_cm`."""

    def __init__(self, env: Env, probe: Probe, capture: Capture | None, nursery: trio.Nursery) -> None:
        self._env = env
        self._probe = probe
        self._capture = capture
        self._nursery = nursery

    # ---- the active end

    async def resolve(self, host: str, port: int, timeout_s: float = RESOLVE_TIMEOUT_S) -> Route:
        """Find a peer's address.

        Raises: TransportError EADDRNOTAVAIL when there is none, ETIMEDOUT.
        """
        found: Sequence[tuple[int, int, int, str, tuple[Any, ...]]] = []
        with trio.move_on_after(timeout_s) as scope:
            try:
                found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise TransportError(errno.EADDRNOTAVAIL, f"{host}: no such address: {error.strerror}") from error
        if scope.cancelled_caught:
            raise TransportError(errno.ETIMEDOUT, f"{host}: its address was not found in {timeout_s:g} s", retryable=True)
        family, _, _, _, address = found[0]
        return Route(family, tuple(address))

    async def connect(
        self, route: Route, qp: QP, access: int, param: CmParam = ONE_SIDED, timeout_s: float = CONNECT_TIMEOUT_S
    ) -> Connection:
        """Connect a queue pair, in INIT or RESET, which goes to RTS. access: what the peer may do, a set of `Access`.

        Raises: Rejected, with private data; TransportError ETIMEDOUT, or as the stream fails; MpaError for a peer that speaks
        something else. Cancellation: nothing is left open.
        """
        sock = trio.socket.socket(route.family, socket.SOCK_STREAM)
        with trio.move_on_after(timeout_s) as scope:
            try:
                await sock.connect(route.address)
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError):
                    raise
                number = error.errno or errno.EHOSTUNREACH
                raise TransportError(number, f"{route}: {os.strerror(number)}", retryable=True) from error
            stream = SocketStream(socket.socket(fileno=sock.detach()))
            return await self.connect_over(stream, qp, access, param, timeout_s)
        assert scope.cancelled_caught
        raise TransportError(errno.ETIMEDOUT, f"{route}: no answer in {timeout_s:g} s", retryable=True)

    async def connect_over(
        self, stream: ByteStream, qp: QP, access: int, param: CmParam = ONE_SIDED, timeout_s: float = CONNECT_TIMEOUT_S
    ) -> Connection:
        """Connect as `connect` over a stream that is there, which is the manager's from here on."""
        ident = CmId()
        ident.resolve_addr()
        ident.addr_found()
        ident.resolve_route()
        try:
            stream = self._seen(stream, active=True)
            request = ident.connect(_by_rules_of(qp, param))
            with trio.move_on_after(timeout_s):
                await send_all(stream, request)
                await _exchange(stream, ident)
            if ident.state is CmState.CONNECTING:
                ident.unreached(errno.ETIMEDOUT)
                raise TransportError(errno.ETIMEDOUT, f"{stream.peer}: no answer in {timeout_s:g} s", retryable=True)
            assert ident.reply is not None
            if ident.state is CmState.REJECTED:
                raise Rejected(stream.peer, ident.reply.private)
            return await self.start(ident, stream, qp, access, ident.reply.private, None, param.rnr_retry)
        except BaseException:
            stream.close()
            raise

    # ---- the passive end

    @asynccontextmanager
    async def listen(self, host: str, port: int = 0) -> AsyncIterator[Listener]:
        """Take connect requests for the length of a block; port 0 takes a free one.

        Raises: TransportError as the socket fails.
        """
        route = await self.resolve(host, port)
        sock = trio.socket.socket(route.family, socket.SOCK_STREAM)
        with sock:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                await sock.bind(route.address)
                sock.listen(BACKLOG)
            except OSError as error:
                number = error.errno or errno.EADDRNOTAVAIL
                raise TransportError(number, f"{route}: {os.strerror(number)}") from error
            sender, receiver = trio.open_memory_channel[ConnectRequest](WAITING)
            scope = trio.CancelScope()
            self._nursery.start_soon(self._accept, sock, sender, scope)
            try:
                yield Listener(sock, receiver)
            finally:
                scope.cancel()
                while True:
                    try:
                        receiver.receive_nowait()._stream.close()
                    except (trio.WouldBlock, trio.EndOfChannel):
                        break

    async def _accept(
        self, sock: trio.socket.SocketType, sender: trio.MemorySendChannel[ConnectRequest], scope: trio.CancelScope
    ) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        client, _ = await sock.accept()
                        stream = SocketStream(socket.socket(fileno=client.detach()))
                    except OSError:
                        await trio.sleep(BREATH_S)  # the client has gone again, or there are no descriptors left
                        continue
                    nursery.start_soon(self.offer, stream, sender)

    async def offer(self, stream: ByteStream, sender: trio.MemorySendChannel[ConnectRequest]) -> None:
        """Wait for the request of a client and pass it on; one that says nothing, or nothing of use, is dropped."""
        ident = CmId()
        try:
            stream = self._seen(stream, active=False)
            with trio.move_on_after(CONNECT_TIMEOUT_S):
                await _exchange(stream, ident)
            if ident.state is CmState.REQUESTED:
                await sender.send(ConnectRequest(self, ident, stream))
                return
        except TransportError:
            pass
        except BaseException:
            stream.close()
            raise
        stream.close()

    # ---- both

    def _seen(self, stream: ByteStream, *, active: bool) -> ByteStream:
        return stream if self._capture is None else CapturedStream(stream, self._capture, active=active)

    async def start(
        self, ident: CmId, stream: ByteStream, qp: QP, access: int, private: bytes, reply: bytes | None, rnr_retry: int
    ) -> Connection:
        """Put a queue pair on the stream, send the reply that there may be, and run (both ends' last step)."""
        assert ident.settled is not None
        link = StreamLink(stream, qp, self._probe, ident.settled, access, reply is not None, rnr_retry)
        connection = Connection(ident, link, private)
        try:
            if reply is not None:
                await send_all(stream, reply)
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            link.engine.lose("the connection was not made")
            raise
        self._nursery.start_soon(connection.run)
        return connection


def _by_rules_of(qp: QP, param: CmParam) -> CmParam:
    """Return what is offered with the rules of the queue pair's device, where they were left open."""
    return param if param.roce is not None else replace(param, roce=not qp.device.profile.iwarp)


async def _exchange(stream: ByteStream, ident: CmId) -> None:
    """Receive the frame that is due, and not a byte more.

    Raises: TransportError for a stream that ends or says something else.
    """
    buffer = memoryview(bytearray(512))
    await trio.lowlevel.checkpoint()
    try:
        while ident.need and ident.state is not CmState.FAILED:
            count = stream.recv_nowait([buffer[: ident.need]])
            if count is None:
                await stream.wait_readable()
            elif not count:
                ident.broken("it closed the connection")
            else:
                ident.feed(buffer[:count])
    except OSError as error:
        ident.broken(os.strerror(error.errno or errno.EIO))
        raise error_of(error, stream.peer) from error
    if ident.state is CmState.FAILED:
        if ident.parting:
            await send_all(stream, ident.parting)
        raise TransportError(errno.EPROTO, f"{stream.peer}: {ident.error}")


@asynccontextmanager
async def open_cm(env: Env, probe: Probe | None = None, capture: Capture | None = None) -> AsyncIterator[ConnectionManager]:
    """Manage connections for the length of a block. capture: sees what passes.

    Cancellation, and the end of the block: connections are dropped, their queue pairs go to ERR.
    """
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    try:
        yield ConnectionManager(env, probe or Probe(), capture, nursery)
    finally:
        nursery.cancel_scope.cancel()
        # The block's own exception passes by the nursery, which would wrap it in a group.
        await manager.__aexit__(None, None, None)
