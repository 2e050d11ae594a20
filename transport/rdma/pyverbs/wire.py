"""Trio shell. Identifiers of other processes: sockets for the façade's programs, which know no event loop.

A program posts, polls and waits in its own threads, and may do none of that while its peer READs its memory, as with a real
adapter. So one daemon thread of the process waits for the sockets and moves what can be moved; the program's own calls do so too
on their way, without waiting. Both hold `driver.lock`. There is neither thread nor cost before the first socket, and a forked
child starts with none of its parent's. Trio is not used here. Ownership: sockets are this module's, memory is lent as ever.
"""

import contextlib
import errno
import math
import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from transport.env import monotonic
from transport.rdma.cm_id import CmEvent, CmId, CmParam, CmState
from transport.rdma.enums import QPState
from transport.rdma.iwarp.engine import Engine
from transport.rdma.iwarp.mpa import find_crc
from transport.rdma.iwarp.operations import bind
from transport.rdma.iwarp.roce import RoceEngine
from transport.rdma.iwarp.roce import bind as bind_roce
from transport.rdma.pyverbs import driver
from transport.rdma.qp import QP

__all__ = ["Door", "Wire", "answer", "dial", "listen"]

START_TIMEOUT_S: Final = 10.0
LINGER_S: Final = 1.0
IDLE_S: Final = 0.05
MAX_EAGER: Final = 16
BACKLOG: Final = 128
ALIVE: Final = (QPState.RTR, QPState.RTS, QPState.SQD)
Tell = Callable[["Wire", CmEvent], None]


class Wire:
    """A connection under an identifier. tell: called with each event of it."""

    def __init__(self, sock: socket.socket, ident: CmId, tell: Tell) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.ident = ident
        self.tell = tell
        self.qp: QP | None = None
        self.engine: Engine | None = None
        self.request = b""
        self.out = bytearray()
        self.dialing = False
        self.closing = False
        self.deadline = monotonic() + START_TIMEOUT_S
        self.blocked = False

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self.sock.fileno()

    def interest(self) -> int:
        """Return which of POLLIN and POLLOUT to wait for."""
        if self.dialing:
            return select.POLLOUT
        engine = self.engine
        sends = bool(self.out) or (engine is not None and engine.sender.busy)
        reads = self.closing or self.ident.need > 0 or (self._ready() and engine is not None and not engine.over)
        return (select.POLLIN if reads else 0) | (select.POLLOUT if sends else 0)

    def _ready(self) -> bool:
        """Whether messages can be taken: a program's own queue pair may not have been brought up yet."""
        return self.qp is not None and self.qp.state in ALIVE

    # ---- bytes

    def _recv(self, views: Sequence[memoryview]) -> int | None:
        try:
            return self.sock.recvmsg_into(views)[0]
        except BlockingIOError:
            return None

    def _send(self, views: Sequence[memoryview]) -> int:
        try:
            return self.sock.sendmsg(views[:1024])
        except BlockingIOError:
            return 0

    def step(self) -> None:
        """Do all that can be done without waiting."""
        try:
            if self.dialing:
                self._dialed()
            if self.closing:
                self._linger()
            elif not self.dialing:
                self._flush_out()
                self._exchange()
                self._move()
            self._pass_on()
            self._move()  # what came behind a reply, now that somebody may have attached a queue pair
        except OSError as error:
            self._broken(error)
        self._pass_on()

    def _broken(self, error: OSError) -> None:
        if self.engine is not None:
            self.engine.lose(os.strerror(error.errno or errno.EIO))
        self.ident.broken(os.strerror(error.errno or errno.EIO), error.errno or errno.EIO)
        self.close()

    def _pass_on(self) -> None:
        events = self.ident.events
        while events:
            self.tell(self, events.popleft())

    def _dialed(self) -> None:
        """See whether the connection is made; if it is, the request goes out."""
        _, writable, _ = select.select([], [self.sock], [], 0)
        if not writable:
            return
        self.dialing = False
        status = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            self.ident.unreached(status)
            self.close()
            return
        self.out += self.request

    def _flush_out(self) -> None:
        while self.out:
            count = self._send([memoryview(bytes(self.out))])  # header: a start-up frame
            if not count:
                return
            del self.out[:count]

    def _exchange(self) -> None:
        """Receive the frame that is due, and not a byte more."""
        buffer = memoryview(bytearray(512))
        ident = self.ident
        while ident.need and ident.state is not CmState.FAILED:
            count = self._recv([buffer[: ident.need]])
            if count is None:
                break
            if count:
                ident.feed(buffer[:count])
            else:
                ident.broken("it closed the connection")
        if ident.need and monotonic() > self.deadline:
            ident.unreached(errno.ETIMEDOUT)
            ident.broken("it said too little", errno.ETIMEDOUT)
        if ident.parting:
            self.out += ident.parting
            ident.parting = b""
            self._flush_out()
        if ident.state in (CmState.FAILED, CmState.REJECTED) and not self.out:
            self.close()

    def _move(self) -> None:
        engine = self.engine
        if engine is None or self.out or self.closing or self not in _wires:
            return
        for _ in range(MAX_EAGER if self._ready() else 0):
            views = engine.wanted()
            if views is None:
                break
            count = self._recv(views)
            if count is None:
                engine.paused()
                break
            engine.received(count)
        while batch := engine.batch():
            count = self._send(batch)
            if not count:
                return
            engine.sender.sent(count)
        if engine.over and not self.closing:
            self._end()

    # ---- the end

    def _end(self) -> None:
        """Close our direction; the peer gets a moment to read what is left and to close its own."""
        self.closing = True
        self.deadline = monotonic() + LINGER_S
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        self._linger()

    def _linger(self) -> None:
        scratch = [memoryview(bytearray(1 << 16))]
        while (count := self._recv(scratch)) is not None:
            if not count:
                break
        if count == 0 or monotonic() > self.deadline:
            self.close()

    def disconnect(self) -> None:
        """End the connection from here: what has completed reaches the peer, the rest is flushed."""
        if self.ident.state is not CmState.DISCONNECTED:
            self.ident.disconnect()
        if self.engine is not None:
            self.engine.lose("disconnected here")
        self.step()
        if self.engine is None:
            self.close()

    def drop(self) -> None:
        """Let go of the queue pair and close; nobody is told."""
        self.tell = lambda _wire, _event: None
        if self.engine is not None and not self.engine.over:
            self.engine.lose("the identifier was closed")
            self.step()
        elif not self.closing:
            self.close()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self in _wires:
            _wires.remove(self)
            self.sock.close()

    # ---- the queue pair

    def attach(self, qp: QP) -> None:
        """Put a queue pair on the connection, once both have agreed.

        Raises: MpaError for a checksum that cannot be computed here.
        """
        settled = self.ident.settled
        assert settled is not None
        crc = find_crc() if settled.crc else None
        passive = self.ident.request is not None and not self.request
        self.qp = qp
        if settled.roce:
            roce = RoceEngine(qp, crc, settled.ird, passive, lambda: None)
            bind_roce(qp, roce)
            self.engine = roce
        else:
            self.engine = Engine(qp, crc, settled.ird, passive, lambda: None)
            bind(qp, self.engine)
        self.engine.on_end = lambda _reason: self.ident.ended()


class Door:
    """A listening socket. tell: called with the request of each client."""

    def __init__(self, sock: socket.socket, tell: Tell) -> None:
        self.sock = sock
        self.tell = tell

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self.sock.fileno()

    def interest(self) -> int:
        """Return POLLIN."""
        return select.POLLIN

    def step(self) -> None:
        """Take the clients that wait."""
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            wire = Wire(sock, CmId(), self.tell)
            _wires.append(wire)
            wire.step()

    def close(self) -> None:
        """Stop listening. Idempotent."""
        with driver.lock:
            if self in _wires:
                _wires.remove(self)
                self.sock.close()


# ---- what the façade calls


def _find(host: str | None, service: str) -> tuple[int, tuple[Any, ...]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host or "127.0.0.1", service, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"{host}: {error.strerror}") from None
    return family, address


def listen(host: str | None, service: str, tell: Tell) -> Door:
    """Listen at an address. Raises: OSError."""
    family, address = _find(host, service)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    door = Door(sock, tell)
    _add(door)
    return door


def dial(host: str | None, service: str, ident: CmId, param: CmParam, tell: Tell) -> Wire:
    """Begin to connect; events tell how it goes on. Raises: OSError for no address; VerbsError as `CmId.connect`."""
    request = ident.connect(param)
    family, address = _find(host, service)
    wire = Wire(socket.socket(family, socket.SOCK_STREAM), ident, tell)
    wire.request = request
    status = wire.sock.connect_ex(address)
    if status not in (0, errno.EINPROGRESS):
        wire.sock.close()
        ident.unreached(status)
        wire._pass_on()
        return wire
    wire.dialing = True
    _add(wire)
    return wire


def answer(wire: Wire, reply: bytes) -> None:
    """Send the answer to a request; whatever there is to move follows."""
    wire.out += reply
    wire.step()


# ---- the thread

_wires: Final[list[Wire | Door]] = []
_bell: Final[list[tuple[int, int]]] = []


def _add(item: Wire | Door) -> None:
    with driver.lock:
        _wires.append(item)
        if not _bell:
            _bell.append(os.pipe())
            for end in _bell[0]:
                os.set_blocking(end, False)
            driver.pumps.append(pump)
            threading.Thread(target=_serve, args=_bell[0], name="netfs-rdma", daemon=True).start()
        item.step()
    _ring()


def _ring() -> None:
    """Have the thread look at the sockets again."""
    if _bell:
        with contextlib.suppress(BlockingIOError):
            os.write(_bell[0][1], b"!")


def pump() -> None:
    """Move what can be moved; the caller holds the lock."""
    for wire in _wires:
        wire.step()


def _serve(reader: int, _writer: int) -> None:
    while True:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        with driver.lock:
            for wire in _wires:
                if interest := wire.interest():
                    poll.register(wire.fileno(), interest)
            deadline = driver.next_deadline()
        idle_s = IDLE_S if deadline is None else min(IDLE_S, max(0.0, deadline - monotonic()))
        poll.poll(math.ceil(idle_s * 1000))
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 4096)
        driver.advance()
        driver.progress()


def _after_fork() -> None:
    """Forget the parent's connections, which stay its own; the copies of their descriptors are closed."""
    for wire in _wires:
        wire.sock.close()
    _wires.clear()
    for ends in _bell:
        for end in ends:
            os.close(end)
    _bell.clear()
    if pump in driver.pumps:
        driver.pumps.remove(pump)


os.register_at_fork(after_in_child=_after_fork)
