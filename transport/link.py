"""Trio shell. Byte streams under a connection: sockets, and a pair of streams in memory whose faults are chosen beforehand.

A stream is tried first and waited for only when it would block, so that a batch of work costs no trip through the scheduler.
`SocketStream` drives a non-blocking socket of any family. `memory_link` joins two `MemoryStream`s by two pipes; what a pipe does
to its bytes (slices, delay, cut, reset) is a `LinkShape`; nothing in it depends on time but the delay, by Trio's clock.

Ownership: views are lent for the call alone; a pipe copies, as a kernel's socket buffer does.
"""

import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

__all__ = ["ByteStream", "LinkShape", "MemoryStream", "SocketStream", "memory_link", "name_of"]

MAX_VECTORS: Final = 1024
MEMORY_BUFFER: Final = 256 << 10


class ByteStream(Protocol):
    """An ordered flow of bytes each way. `peer` names the other side for people."""

    peer: str

    def send_nowait(self, views: Sequence[bytes | memoryview], more: bool = False) -> int:
        """Send the front of `views` without waiting; `more`: further bytes follow at once.

        Returns: bytes sent, 0 when it would block. Raises: OSError when the stream is broken.
        """

    def recv_nowait(self, views: Sequence[memoryview]) -> int | None:
        """Fill the front of `views` without waiting.

        Returns: bytes received, 0 at the end of the stream, None when it would block. Raises: OSError when it is broken.
        """

    async def wait_readable(self) -> None:
        """Wait until `recv_nowait` is worth trying. Raises: trio.ClosedResourceError once the stream is closed here."""

    async def wait_writable(self) -> None:
        """Wait until `send_nowait` is worth trying. Raises: trio.ClosedResourceError once the stream is closed here."""

    def fileno(self) -> int | None:
        """Return the descriptor that the kernel may send a file to, or None."""

    def close(self) -> None:
        """Close at once and wake who waits. Idempotent."""

    async def aclose(self) -> None:
        """Close, and let others run."""


class SocketStream:
    """A connected socket; it belongs to the stream from here on."""

    __slots__ = ("_sock", "peer")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self.peer = name_of(sock)

    def send_nowait(self, views: Sequence[bytes | memoryview], more: bool = False) -> int:
        try:
            return self._sock.sendmsg(views[:MAX_VECTORS], (), _MSG_MORE if more else 0)
        except BlockingIOError:
            return 0

    def recv_nowait(self, views: Sequence[memoryview]) -> int | None:
        try:
            if len(views) == 1:
                return self._sock.recv_into(views[0])
            return self._sock.recvmsg_into(views[:MAX_VECTORS])[0]
        except BlockingIOError:
            return None

    async def wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self._open())

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._open())

    def _open(self) -> socket.socket:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("the stream was closed")
        return self._sock

    def fileno(self) -> int | None:
        return self._sock.fileno()

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


_MSG_MORE: Final = getattr(socket, "MSG_MORE", 0)


def name_of(sock: socket.socket) -> str:
    """Return the name of a socket's other side, for people."""
    try:
        name = sock.getpeername()
    except OSError:
        return "a closed socket"
    if sock.family == socket.AF_INET:
        return f"{name[0]}:{name[1]}"
    if sock.family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    return os.fsdecode(name) or "a local socket"


# ---- in memory


@dataclass(frozen=True, slots=True)
class LinkShape:
    """What one direction of a link does to the bytes that pass.

    slice_length: the most bytes moved by one call, None for no bound. delay_s: how long each byte is under way. cut_at, reset_at:
    when so many bytes have been sent, both directions end: cleanly behind what was sent, or at once with ECONNRESET and what was
    under way lost.
    """

    slice_length: int | None = None
    delay_s: float = 0.0
    cut_at: int | None = None
    reset_at: int | None = None
    capacity: int = MEMORY_BUFFER


class _Pipe:
    """One direction: a ring of bytes with a count of those put in and those taken out."""

    def __init__(self, shape: LinkShape) -> None:
        self.shape = shape
        self.ring = memoryview(bytearray(shape.capacity))
        self.put = self.got = self.ripe = 0
        self.arrivals: deque[tuple[float, int]] = deque()
        self.ended = self.reset = False
        self.readers = trio.lowlevel.ParkingLot()
        self.writers = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        self.readers.unpark_all()
        self.writers.unpark_all()

    def available(self) -> int:
        """Return how many bytes have arrived and wait to be taken."""
        if not self.shape.delay_s:
            self.ripe = self.put
        else:
            now = trio.current_time()
            while self.arrivals and self.arrivals[0][0] <= now:
                self.ripe = self.arrivals.popleft()[1]
        return self.ripe - self.got

    def write(self, view: memoryview) -> None:
        """Put bytes in; there is room for them."""
        size = len(self.ring)
        off = self.put % size
        first = min(len(view), size - off)
        self.ring[off : off + first] = view[:first]
        self.ring[: len(view) - first] = view[first:]
        self.put += len(view)

    def read(self, view: memoryview) -> None:
        """Take bytes out; so many have arrived."""
        size = len(self.ring)
        off = self.got % size
        first = min(len(view), size - off)
        view[:first] = self.ring[off : off + first]
        view[first:] = self.ring[: len(view) - first]
        self.got += len(view)


class MemoryStream:
    """One end of a link in memory."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe, peer: str) -> None:
        self._in = incoming
        self._out = outgoing
        self._closed = False
        self.peer = peer

    def send_nowait(self, views: Sequence[bytes | memoryview], more: bool = False) -> int:
        out = self._out
        self._check(out)
        if out.ended:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        shape = out.shape
        room = out.shape.capacity - (out.put - out.got)
        bounds = [
            bound
            for bound in (shape.slice_length, _left(shape.cut_at, out.put), _left(shape.reset_at, out.put))
            if bound is not None
        ]
        room = min([room, *bounds])
        total = 0
        for view in views:
            piece = memoryview(view)[: room - total]
            out.write(piece)
            total += len(piece)
            if total == room:
                break
        if shape.delay_s and total:
            out.arrivals.append((trio.current_time() + shape.delay_s, out.put))
        if shape.cut_at is not None and out.put >= shape.cut_at:
            self._in.ended = out.ended = True
        if shape.reset_at is not None and out.put >= shape.reset_at:
            self._in.reset = out.reset = True
        self._in.wake()
        out.wake()
        return total

    def recv_nowait(self, views: Sequence[memoryview]) -> int | None:
        source = self._in
        self._check(source)
        ready = source.available()
        if not ready:
            return 0 if source.ended and source.got == source.put else None
        if source.shape.slice_length is not None:
            ready = min(ready, source.shape.slice_length)
        total = 0
        for view in views:
            piece = view[: ready - total]
            source.read(piece)
            total += len(piece)
            if total == ready:
                break
        source.writers.unpark_all()
        return total

    def _check(self, pipe: _Pipe) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the stream was closed")
        if pipe.reset:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def reset(self) -> None:
        """Break the link: both ends get ECONNRESET, and what is under way is lost."""
        self._in.reset = self._out.reset = True
        self._in.wake()
        self._out.wake()

    async def wait_readable(self) -> None:
        source = self._in
        await trio.lowlevel.checkpoint()
        while (
            not self._closed and not source.reset and not source.available() and not (source.ended and source.got == source.put)
        ):
            until = source.arrivals[0][0] if source.arrivals else float("inf")
            with trio.CancelScope(deadline=until):
                await source.readers.park()
        self._fail_if_closed()

    async def wait_writable(self) -> None:
        out = self._out
        await trio.lowlevel.checkpoint()
        while not self._closed and not out.reset and not out.ended and out.put - out.got >= out.shape.capacity:
            await out.writers.park()
        self._fail_if_closed()

    def _fail_if_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._out.ended = self._in.ended = True
            self._in.wake()
            self._out.wake()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


def _left(bound: int | None, done: int) -> int | None:
    return None if bound is None else bound - done


def memory_link(there: LinkShape | None = None, back: LinkShape | None = None) -> tuple[MemoryStream, MemoryStream]:
    """Return the two ends of a link; `there` shapes what the first end sends, `back` what the second sends."""
    first, second = _Pipe(there or LinkShape()), _Pipe(back or LinkShape())
    return MemoryStream(second, first, "memory server"), MemoryStream(first, second, "memory client")
