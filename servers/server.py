"""Trio shell. A store behind listening sockets and in-process streams: accepts, serves each client alone, survives all of them.

With a gate, a client on TCP does a TLS handshake first and is let in by its key (`gate.py`); a UNIX socket has its mode instead.

Each connection has a dispatcher of its own; what goes wrong on one is a line in the log and ends that one. Log lines are an
event and `key=value` fields, at the logger `servers.server`. Owns no payload memory.
"""

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import trio

from iov.probe import Probe
from servers.dispatch import Dispatcher
from servers.listen import Listener, open_listener
from servers.readonly import ReadOnly
from servers.sessions import Channel, Keeper, Sessions
from servers.sharing import Sharing
from servers.stores.base import Store
from servers.stores.handles import Places
from transport.address import parse_address
from transport.base import Handler, Limits
from transport.env import Env, system_env
from transport.errors import HelloMismatch, NotTrusted, TransportError
from transport.link import ByteStream, SocketStream
from transport.stream import serve_stream

if TYPE_CHECKING:
    from servers.gate import Gate
    from servers.state import ServerState
    from transport.rdma.capture import Capture
    from transport.trust import Grant

__all__ = ["Server", "Serving", "serve"]


@runtime_checkable
class Remembering(Protocol):
    """A store whose handles can outlive the server."""

    def remember_in(self, places: Places) -> None:
        """Have them do so."""


log: Final = logging.getLogger(__name__)
Around = Callable[[Handler], Handler]
MAX_CONNECTIONS: Final = 1024
_LIMITS: Final = Limits()
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BREATH_S: Final = 0.1


class Server:
    """Serve one store.

    max_connections: further clients are turned away. gate: lets in clients on TCP; None: plain, for all. around: wraps what
    answers the requests of each connection.
    """

    def __init__(
        self,
        store: Store,
        env: Env,
        probe: Probe,
        limits: Limits = _LIMITS,
        *,
        max_connections: int = MAX_CONNECTIONS,
        gate: "Gate | None" = None,
        rdma_crc: bool = False,
        capture: "Capture | None" = None,
        around: Around | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.connections = 0
        self._around = around
        self._store = store
        self._env = env
        self._sharing = Sharing(env)
        self._probe = probe
        self._limits = limits
        self._max_connections = max_connections
        self._gate = gate
        self._rdma_crc = rdma_crc
        self._capture = capture
        self.sessions = Sessions(store, env, keeper, over=self._sharing.end)

    def handler(self, peer: str, limits: Limits, channel: Channel | None = None) -> Handler:
        """Return the handler of one connection; transports take this as their factory. channel: its place in a session."""
        log.info("connected peer=%s", peer)
        handler = Dispatcher(self._store, self._env, self._probe, limits, place=channel, sharing=self._sharing)
        return handler if self._around is None else self._around(handler)

    def _handler_for(self, channel: Channel, grant: "Grant | None", peer: str, limits: Limits) -> Handler:
        handler = self.handler(peer if grant is None else f"{peer} name={grant.name}", limits, channel)
        return ReadOnly(handler) if grant is not None and grant.read_only else handler

    async def serve_connection(self, stream: ByteStream, rdma: bool = False) -> None:
        """Serve one client until it leaves; raises nothing but Cancelled. A stream of the gate's is let in by it first.

        rdma: it speaks iWARP.

        Cancellation: the connection is dropped; what it had begun in a worker thread is finished.
        """
        if self.connections >= self._max_connections:
            log.warning("refused peer=%s connections=%d", stream.peer, self.connections)
            await stream.aclose()
            return
        self.connections += 1
        try:
            with trio.CancelScope() as scope:
                await self._serve_peer(stream, rdma, scope)
            if scope.cancelled_caught:
                log.info("fenced peer=%s", stream.peer)
        except NotTrusted as error:
            log.warning("refused error=%s", error)
        except HelloMismatch as error:
            log.warning("stranger error=%s", error)
        except TransportError as error:
            log.warning("broken error=%s", error)
        except Exception:
            log.exception("failed peer=%s", stream.peer)
        finally:
            stream.close()
            self.connections -= 1

    async def _serve_peer(self, stream: ByteStream, rdma: bool, scope: trio.CancelScope) -> None:
        """Let a client in and serve it until it leaves. scope: what ends the connection when its session fences it off."""
        grant = None if self._gate is None else await self._gate.admit(stream, self._env)
        if self._capture is not None:
            from transport.rdma.capture_stream import CapturedStream  # noqa: PLC0415 - loaded by those who capture

            stream = CapturedStream(stream, self._capture, active=False)
        channel = Channel(self.sessions, "" if grant is None else grant.name, scope.cancel)
        factory = partial(self._handler_for, channel, grant)
        if rdma:
            from transport.rdma.stream_endpoint import serve_rdma_stream  # noqa: PLC0415 - the verbs device is large

            await serve_rdma_stream(stream, factory, self._env, self._probe, self._limits, crc=self._rdma_crc)
        else:
            await serve_stream(stream, factory, self._env, self._probe, self._limits)
        log.info("left peer=%s", stream.peer)

    async def serve(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept clients until cancelled.

        Ownership: the listeners are closed when this ends.
        """
        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                task_status.started()
        finally:
            for listener in listeners:
                listener.close()

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener.sock)
            try:
                sock, _ = listener.sock.accept()
                stream = self._stream_of(sock, listener)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    log.error("cannot accept address=%s error=%s", listener.address, error.strerror)
                    await trio.sleep(_BREATH_S)
                continue
            nursery.start_soon(self.serve_connection, stream, listener.rdma)

    def _stream_of(self, sock: socket.socket, listener: Listener) -> ByteStream:
        if self._gate is None or listener.address.socket:
            return SocketStream(sock)
        return self._gate.stream(sock, self._probe)


class Serving:
    """A server that runs. address: `host:port` or `unix:/path`; url: of the export's root; fingerprint: of its key, or None.

    rdma_url: of the export's root by RDMA, or None.
    """

    def __init__(self, server: Server, listener: Listener, gate: "Gate | None", rdma: Listener | None = None) -> None:
        self.server = server
        self.address = str(listener.address)
        self.rdma_url = None if rdma is None else rdma.address.url(plain=gate is None, rdma=True)
        self.url = listener.address.url(plain=gate is None)
        self.fingerprint = None if gate is None else gate.fingerprint


@asynccontextmanager
async def serve(
    store: Store,
    listen: str = "127.0.0.1:0",
    *,
    env: Env | None = None,
    probe: Probe | None = None,
    limits: Limits = _LIMITS,
    identity: str | os.PathLike[str] | None = None,
    authorized_keys: str | os.PathLike[str] | None = None,
    insecure: bool = False,
    rdma: str | None = None,
    rdma_crc: bool = False,
    capture: "Capture | None" = None,
    around: Around | None = None,
) -> AsyncIterator[Serving]:
    """Serve a store for the length of a block; port 0 takes a free one.

    Args: identity, authorized_keys: files, both or none; with them TCP is TLS, for clients whose keys are listed, each as its
    line says. Without, it is plain, for loopback or whoever says `insecure`.
    rdma: where to listen for iWARP as well, over TLS if there are keys; rdma_crc: with checksums. capture: takes what
    passes over every connection, above TLS. around: wraps what answers requests.
    Raises: ValueError for no address or half a pair of files; OSError as `open_listener`, and for the files.
    Ownership: the store stays the caller's, who closes it after the block; connections are dropped at the block's end.
    """
    gate = _gate(identity, authorized_keys)
    listener = open_listener(parse_address(listen), insecure=insecure or gate is not None)
    listeners = [listener]
    state = None
    try:
        state = _open_state(store)
        server = Server(
            store, env or system_env(), probe or Probe(), limits, gate=gate, rdma_crc=rdma_crc, capture=capture, around=around,
            keeper=state,
        )  # fmt: skip
        if rdma is not None:
            listeners.append(_rdma_listener(rdma, insecure or gate is not None, rdma_crc))
    except BaseException:
        listener.close()
        if state is not None:
            state.close()
        raise
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    try:
        nursery.start_soon(server.serve, listeners)
        yield Serving(server, listener, gate, listeners[-1] if rdma is not None else None)
    finally:
        nursery.cancel_scope.cancel()
        # The block's own exception passes by the nursery, which would wrap it in a group.
        await manager.__aexit__(None, None, None)
        if state is not None:
            state.close()


def _open_state(store: Store) -> "ServerState | None":
    folder = store.state_folder()
    if folder is None:
        return None
    from servers.state import ServerState  # noqa: PLC0415 - loads SQLite

    state = ServerState(folder)
    if isinstance(store, Remembering):
        store.remember_in(state)
    return state


def _rdma_listener(where: str, insecure: bool, crc: bool) -> Listener:
    address = parse_address(where)
    if address.socket:
        raise ValueError("RDMA is served on host:port")
    if crc:
        from transport.rdma.iwarp.mpa import find_crc  # noqa: PLC0415 - as above

        find_crc()
    return open_listener(address, insecure=insecure, rdma=True)


def _gate(identity: str | os.PathLike[str] | None, authorized_keys: str | os.PathLike[str] | None) -> "Gate | None":
    if identity is None and authorized_keys is None:
        return None
    if identity is None or authorized_keys is None:
        raise ValueError("an identity and authorized keys go together")
    from servers.gate import Gate  # noqa: PLC0415 - cryptography takes a while to load

    return Gate(identity, authorized_keys)
