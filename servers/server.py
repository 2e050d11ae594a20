"""Trio shell. A store behind listening sockets and in-process streams: accepts, serves each client alone, survives all of them.

With a gate, a client on TCP does a TLS handshake first and is let in by its key (`gate.py`); a UNIX socket has its mode instead.

Each connection has a dispatcher of its own; what goes wrong on one is a line in the log and ends that one. Log lines are an
event and `key=value` fields, at the logger `servers.server`. Owns no payload memory.
"""

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import trio

from iov.probe import Probe
from servers.clients import Client, Clients
from servers.config import ServerLimits
from servers.dispatch import Dispatcher
from servers.listen import Listener, open_listener
from servers.pace import Paced, TokenBucket
from servers.readonly import ReadOnly
from servers.report import CONTROL, answer_reports
from servers.sessions import Channel, Keeper, Sessions
from servers.sharing import Sharing
from servers.stores.base import Store
from servers.stores.handles import Places
from servers.workers import Workers
from transport.address import Address, parse_address
from transport.base import Handler, Limits
from transport.env import Env, system_env
from transport.errors import HelloMismatch, LeftSilently, NotTrusted, TransportError
from transport.link import ByteStream, SocketStream
from transport.stream import serve_stream
from transport.trust import Fingerprint

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
_LIMITS: Final = Limits()
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BREATH_S: Final = 0.1
_DRAIN_LOOK_S: Final = 0.02
_SWEEP_S: Final = 10.0
_BOUNDS: Final = ServerLimits()


class Server:
    """Serve one store.

    bounds: what it allows; who comes beyond is turned away. exports: others than the default one, for keys that say so. gate:
    lets in clients on TCP; None: plain, for all. around: wraps what answers the requests of each connection.
    """

    def __init__(
        self,
        store: Store,
        env: Env,
        probe: Probe,
        limits: Limits = _LIMITS,
        *,
        gate: "Gate | None" = None,
        rdma_crc: bool = False,
        capture: "Capture | None" = None,
        around: Around | None = None,
        keeper: Keeper | None = None,
        exports: Mapping[str, tuple[Store, Keeper | None]] | None = None,
        bounds: ServerLimits = _BOUNDS,
    ) -> None:
        self.connections = 0
        self._around = around
        self._store = store
        self._env = env
        self._sharing = Sharing(env, store.verifier, lambda: self.sessions.grace_s)
        self._probe = probe
        self._limits = limits
        self._bounds = bounds
        self._gate = gate
        self._rdma_crc = rdma_crc
        self._capture = capture
        self.sessions = Sessions(store, env, keeper, sharing=self._sharing)
        self._exports = {name: _sessions_of(one, env, kept) for name, (one, kept) in (exports or {}).items()}
        self.clients = Clients()
        self.draining = trio.Event()
        self._began = env.now()
        self._accepted = self._refused = 0

    def handler(self, peer: str, limits: Limits, channel: Channel | None = None) -> Handler:
        """Return the handler of one connection; transports take this as their factory. channel: its place in a session."""
        log.info("connected peer=%s", peer)
        store = self._store if channel is None else channel.store
        sharing = self._sharing if channel is None else channel.sharing
        handler = Dispatcher(store, self._env, self._probe, limits, place=channel, sharing=sharing)
        return handler if self._around is None else self._around(handler)

    def _handler_for(self, channel: Channel, grant: "Grant | None", peer: str, limits: Limits) -> Handler:
        handler = self.handler(peer if grant is None else f"{peer} name={grant.name}", limits, channel)
        if grant is not None and grant.read_only:
            handler = ReadOnly(handler)
        bounds, now = self._bounds, self._env.now
        if bounds.requests_per_s or bounds.bytes_per_s:
            handler = Paced(handler, TokenBucket(bounds.requests_per_s, now), TokenBucket(bounds.bytes_per_s, now))
        return handler

    async def serve_connection(self, stream: ByteStream, rdma: bool = False) -> None:
        """Serve one client until it leaves; raises nothing but Cancelled. A stream of the gate's is let in by it first.

        rdma: it speaks iWARP.

        Cancellation: the connection is dropped; what it had begun in a worker thread is finished.
        """
        self._accepted += 1
        if self.connections >= self._bounds.connections or self.draining.is_set():
            self._refused += 1
            log.warning("refused peer=%s connections=%d", stream.peer, self.connections)
            await stream.aclose()
            return
        self.connections += 1
        try:
            with trio.CancelScope() as scope:
                await self._serve_peer(stream, rdma, scope)
            if scope.cancelled_caught:
                log.info("ended peer=%s", stream.peer)
        except NotTrusted as error:
            self._refused += 1
            log.warning("refused error=%s", error)
        except LeftSilently:
            log.info("looked peer=%s", stream.peer)
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
        principal = str(getattr(stream, "fingerprint", None) or "")
        sessions = self.sessions
        if grant is not None and grant.export:
            if grant.export not in self._exports:
                raise NotTrusted(f"{stream.peer}: {grant.name} may see the export {grant.export}, which is not served here")
            sessions = self._exports[grant.export]
        if self.clients.of(principal) >= self._bounds.per_client:
            who = "who comes without a key" if grant is None else grant.name
            raise NotTrusted(f"{stream.peer}: {who} has {self._bounds.per_client} connections already")
        client = Client(stream.peer, principal, grant, self._env.now(), scope)
        self.clients.add(client)
        channel = Channel(sessions, principal, scope.cancel)
        try:
            await self._serve_client(stream, rdma, channel, grant)
        except TransportError:
            if not channel.ended:  # a client that has said goodbye may close with bytes of ours unread, which resets the stream
                raise
        finally:
            self.clients.remove(client)
        log.info("left peer=%s", client.peer)

    async def _serve_client(self, stream: ByteStream, rdma: bool, channel: Channel, grant: "Grant | None") -> None:
        if self._capture is not None:
            from transport.rdma.capture_stream import CapturedStream  # noqa: PLC0415 - loaded by those who capture

            stream = CapturedStream(stream, self._capture, active=False)
        factory = partial(self._handler_for, channel, grant)
        if rdma:
            from transport.rdma.stream_endpoint import serve_rdma_stream  # noqa: PLC0415 - the verbs device is large

            await serve_rdma_stream(stream, factory, self._env, self._probe, self._limits, crc=self._rdma_crc)
        else:
            await serve_stream(stream, factory, self._env, self._probe, self._limits, self.draining)

    # ---- operation

    async def drain(self) -> None:
        """Take no more requests, answer those under way, and end every connection.

        Sessions stay: their clients find them again at the next server. Cancellation: what is under way is dropped.
        """
        self.draining.set()
        for sessions in (self.sessions, *self._exports.values()):
            sessions.sharing.drain()
        until = self._env.now() + self._bounds.drain_s
        while self.connections and self._env.now() < until:  # noqa: ASYNC110 - for as long as connections end by themselves
            await trio.sleep(_DRAIN_LOOK_S)
        if self.connections:
            log.warning("dropped connections=%d", self.connections)
        for client in self.clients:
            client.scope.cancel()

    def reload(self) -> None:
        """Read identity and keys again, and end the connections of keys that may do less than before.

        Raises: OSError for a file that is not right; the old keys go on counting then.
        """
        if self._gate is None:
            return
        self._gate.reload()
        for client in self.clients:
            if client.grant is not None and self._gate.grant(Fingerprint(client.principal), client.grant.name) != client.grant:
                log.warning("revoked peer=%s name=%s", client.peer, client.grant.name)
                client.scope.cancel()

    def disconnect(self, who: str) -> int:
        """End the connections of a client, told by its name, key or address. Returns: how many.

        Whoever has a key that still counts may come again.
        """
        ended = 0
        for client in self.clients:
            name = client.grant.name if client.grant is not None else None
            if who in {name, client.principal, client.peer}:
                log.warning("disconnected peer=%s", client.peer)
                client.scope.cancel()
                ended += 1
        return ended

    @property
    def fingerprint(self) -> str | None:
        """Of the server's key."""
        return None if self._gate is None else self._gate.fingerprint

    def numbers(self) -> dict[str, float]:
        """Return the counters for `--metrics`."""
        all_sessions = [self.sessions, *self._exports.values()]
        probe = self._probe
        return {
            "connections": self.connections,
            "sessions": sum(len(sessions) for sessions in all_sessions),
            "accepted_total": self._accepted,
            "refused_total": self._refused,
            "requests_total": probe.requests,
            "replays_total": sum(sessions.replays for sessions in all_sessions),
            "messages_total": probe.messages,
            "wire_bytes_total": probe.wire_bytes,
            "uptime_seconds": round(self._env.now() - self._began, 3),
        }

    def status(self) -> dict[str, object]:
        """Return what `netfs status` shows."""
        now = self._env.now()
        state = "draining" if self.draining.is_set() else "serving"
        clients = [client.told(now) for client in self.clients]
        return {"state": state, "pid": os.getpid(), "exports": ["", *self._exports], **self.numbers(), "clients": clients}

    async def _sweep(self) -> None:
        """Forget sessions that have been without a connection for too long."""
        while True:
            await trio.sleep(_SWEEP_S)
            for sessions in (self.sessions, *self._exports.values()):
                await sessions.expire()
                await sessions.tidy()

    async def serve(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept clients until cancelled.

        Ownership: the listeners are closed when this ends.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
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


def _sessions_of(store: Store, env: Env, keeper: Keeper | None) -> Sessions:
    sharing = Sharing(env, store.verifier, lambda: sessions.grace_s)
    sessions = Sessions(store, env, keeper, sharing=sharing)
    return sessions


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
    exports: Mapping[str, Store] | None = None,
    bounds: ServerLimits = _BOUNDS,
    reports: str | None = None,
    opened: Callable[[], object] | None = None,
    authority: str | os.PathLike[str] | None = None,
) -> AsyncIterator[Serving]:
    """Serve a store for the length of a block; port 0 takes a free one.

    Args: identity, authorized_keys: files, both or none; with them TCP is TLS, for clients whose keys are listed, each as its
    line says. Without, it is plain, for loopback or whoever says `insecure`.
    rdma: where to listen for iWARP as well, over TLS if there are keys; rdma_crc: with checksums. capture: takes what
    passes over every connection, above TLS. around: wraps what answers requests. exports: more stores, for keys that name one.
    bounds: what a client may ask for. reports: where to answer about itself, besides `.netfs/control` of the store's folder.
    opened: called when every file and socket is open, before the first client. authority: certificates of who vouches
    for clients.
    Raises: ValueError for no address or half a pair of files; OSError as `open_listener`, and for the files.
    Ownership: the store stays the caller's, who closes it after the block; connections are dropped at the block's end.
    """
    gate = _gate(identity, authorized_keys, authority)
    own_env, probe = env is None, probe or Probe()
    env = env or system_env()
    with ExitStack() as stack:
        sleeping = [one for one in (store, *(exports or {}).values()) if one.blocking]
        if own_env and sleeping:
            env = replace(env, run_blocking=stack.enter_context(Workers(partial(_batch_of, sleeping))).run)
        listeners = [_closing(stack, open_listener(parse_address(listen), insecure=insecure or gate is not None))]
        if rdma is not None:
            listeners.append(_closing(stack, _rdma_listener(rdma, insecure or gate is not None, rdma_crc)))
        kept = {name: (other, _kept(stack, other)) for name, other in (exports or {}).items()}
        server = Server(
            store, env, probe, limits, gate=gate, rdma_crc=rdma_crc, capture=capture, around=around,
            keeper=_kept(stack, store), exports=kept, bounds=bounds,
        )  # fmt: skip
        asked = [_closing(stack, open_listener(parse_address(reports)))] if reports is not None else []
        if (folder := store.state_folder()) is not None:
            asked.append(_closing(stack, open_listener(Address(socket=str(folder / CONTROL)))))
        if opened is not None:
            opened()
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        try:
            nursery.start_soon(server.serve, listeners)
            for number, listener in enumerate(asked):
                commands = number == len(asked) - 1 and folder is not None  # only the one in the folder takes them
                nursery.start_soon(partial(answer_reports, server, listener, commands=commands))
            yield Serving(server, listeners[0], gate, listeners[-1] if rdma is not None else None)
        finally:
            nursery.cancel_scope.cancel()
            # The block's own exception passes by the nursery, which would wrap it in a group.
            await manager.__aexit__(None, None, None)


@contextmanager
def _batch_of(stores: Sequence[Store]) -> Iterator[None]:
    with ExitStack() as stack:
        for store in stores:
            stack.enter_context(store.batch())
        yield


def _closing(stack: ExitStack, listener: Listener) -> Listener:
    stack.callback(listener.close)
    return listener


def _kept(stack: ExitStack, store: Store) -> "ServerState | None":
    """Open what a server keeps in the store's folder, until the stack ends."""
    folder = store.state_folder()
    if folder is None:
        return None
    from servers.state import ServerState  # noqa: PLC0415 - loads SQLite

    state = ServerState(folder)
    stack.callback(state.close)
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


def _gate(
    identity: str | os.PathLike[str] | None,
    authorized_keys: str | os.PathLike[str] | None,
    authority: str | os.PathLike[str] | None,
) -> "Gate | None":
    if identity is None and authorized_keys is None and authority is None:
        return None
    if identity is None or (authorized_keys is None and authority is None):
        raise ValueError("an identity and authorized keys go together, or an identity and an authority")
    from servers.gate import Gate  # noqa: PLC0415 - cryptography takes a while to load

    return Gate(identity, authorized_keys, authority)
