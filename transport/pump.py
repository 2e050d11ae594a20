"""Trio shell. What both ends of a stream transport share: the task that sends, one receive, the hello.

A `Pump` sends what a connection's writer holds, at once as far as the stream takes it and the rest from a task of its own.
Owns no memory: pieces are lent by the writer's frames until they are sent.
"""

import errno
import os
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import trio

from iov.probe import Probe
from transport.base import FileRange, Outcome
from transport.env import Env
from transport.errors import HelloMismatch, TransportError
from transport.framing import FrameReader, FrameWriter
from transport.hello import HelloReader
from transport.link import ByteStream

__all__ = ["Answer", "Pump", "Spot", "error_of", "receive_hello", "receive_some", "send_all"]

HELLO_TIMEOUT_S: Final = 10.0
MAX_SENDS: Final = 8
"""System calls in one flush; the task goes on from there."""

Owner = TypeVar("Owner")


class Spot:
    """A place for one task to wait until it is woken."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def park(self) -> None:
        assert self._task is None
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._leave)

    def _leave(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)


class Answer(Spot):
    """The place of a task that waits for the outcome of its call; it is the call's `done`."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        super().__init__()
        self.outcome: Outcome | None = None

    def __call__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.wake()


class Pump(Generic[Owner]):
    """Send what a connection has to send: at once as far as the stream takes it, the rest from a task.

    fill: moves what has become due to the writer. sent: told of bytes sent. corked: the receiver is at work and flushes after.
    """

    __slots__ = (
        "_blocked", "_busy", "_due", "_fail", "_fill", "_probe", "_send_file", "_sent", "_spot", "_stopped", "_stream", "_writer",
        "corked",
    )  # fmt: skip

    def __init__(
        self, stream: ByteStream, probe: Probe, writer: FrameWriter[Owner], sent: Callable[[int], None],
        fail: Callable[[Exception], None], fill: Callable[[], None] | None = None,
        send_file: Callable[[FileRange], int] | None = None,
    ) -> None:  # fmt: skip
        self._stream = stream
        self._probe = probe
        self._writer = writer
        self._sent = sent
        self._fail = fail
        self._fill = fill
        self._send_file = send_file
        self._spot = Spot()
        self._due = self._busy = self._blocked = self._stopped = False
        self.corked = False

    def kick(self) -> None:
        """Have the task flush after the present tick."""
        if not (self.corked or self._busy or self._due):
            self._due = True
            self._spot.wake()

    def nudge(self) -> None:
        """Flush now, or when the receiver is done."""
        if not self.corked:
            self.flush()

    def flush(self) -> None:
        """Send without waiting; what the stream does not take is left to the task."""
        if self._busy or self._blocked:
            return
        self._busy = True
        try:
            if not self._push():
                self._blocked = True
                self._spot.wake()
        except (OSError, TransportError) as error:
            self._fail(error)
        finally:
            self._busy = False

    def _push(self) -> bool:
        """Send; return whether everything went out."""
        writer, stream, probe = self._writer, self._stream, self._probe
        for _ in range(MAX_SENDS):
            if self._fill is not None:
                self._fill()
            if not writer.pending:
                return True
            file = writer.file()
            if file is not None and self._send_file is not None:
                length = self._send_file(file)
            else:
                views, more = writer.batch()
                length = stream.send_nowait(views, more)
            probe.syscalls += 1
            if not length:
                return False
            probe.wire_bytes += length
            self._sent(length)
        if self._fill is not None:
            self._fill()  # what became due by the last call would wait for some other event
        return not writer.pending

    async def run(self) -> None:
        """Flush whenever it is due, until stopped."""
        while not self._stopped:
            if self._blocked:
                try:
                    await self._stream.wait_writable()
                except (OSError, trio.ClosedResourceError):
                    return
                self._blocked = False
            elif not self._due:
                await self._spot.park()
            self._due = False
            self.flush()

    def stop(self) -> None:
        """Have the task end."""
        self._stopped = True
        self._spot.wake()


async def receive_some(stream: ByteStream, reader: FrameReader, probe: Probe, eager: bool) -> tuple[int, bool]:
    """Receive what is there into the reader. Returns: bytes, 0 at the end, and whether there was more than fitted."""
    while True:
        if not eager:
            await stream.wait_readable()
        views = reader.buffers()
        length = stream.recv_nowait(views)
        probe.syscalls += 1
        if length is not None:
            probe.wire_bytes += length
            reader.received(length)
            return length, length == sum(map(len, views))
        del views  # an abandoned call's memory is its caller's while we wait
        eager = False


def error_of(error: Exception, peer: str) -> TransportError:
    """Return the error of a connection for one of its stream."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error, OSError):
        return TransportError(error.errno or errno.EIO, f"{peer}: {os.strerror(error.errno or errno.EIO)}")
    return TransportError(errno.ECONNABORTED, f"{peer}: the connection was closed here")


# ---- the hello


async def send_all(stream: ByteStream, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            length = stream.send_nowait([view])
            if not length:
                await stream.wait_writable()
            view = view[length:]
    except OSError as error:
        raise error_of(error, stream.peer) from error


async def receive_hello(stream: ByteStream, env: Env, role: str) -> HelloReader:
    """Receive the peer's hello and nothing behind it.

    Raises: HelloMismatch, with the peer's name in front.
    """
    reader = HelloReader(role)
    buffer = memoryview(bytearray(64))
    try:
        with trio.CancelScope(deadline=env.now() + HELLO_TIMEOUT_S):
            while reader.need:
                length = stream.recv_nowait([buffer[: reader.need]])
                if length is None:
                    await stream.wait_readable()
                elif not length:
                    raise reader.ended()
                else:
                    reader.feed(buffer[:length])
        if reader.need:
            raise reader.silent(HELLO_TIMEOUT_S)
        await trio.lowlevel.checkpoint()
    except HelloMismatch as error:
        raise type(error)(f"{stream.peer}: {error}") from None
    except OSError as error:
        raise error_of(error, stream.peer) from error
    return reader
