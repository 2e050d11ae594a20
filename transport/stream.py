"""Trio shell. The stream transport: calls over one byte stream, many messages for each system call and no task for any of them.

Each end has one task that receives and one that sends. The receiver takes whatever is there, lets the connection (`rpc.py`) work
through all of it, and sends what came of that in one go. What is submitted between is sent by the sender, which runs when the
tasks of the present scheduler tick have submitted theirs; a lone small call at a quiet moment is sent at once. A server that has
many bytes of replies waiting stops receiving until the client has taken some.

Ownership: as in `base.py`. A broken stream gives everything back before the connection is gone.
"""

import contextlib
import errno
import mmap
import os
from collections.abc import Awaitable
from types import TracebackType
from typing import Final

import trio

from iov.copy_iter import zero_iter
from iov.iov_iter import Direction, IovIter
from iov.pool import BufferPool
from iov.probe import Probe
from transport.base import Done, FileRange, Handler, HandlerFactory, Limits, Reply, Transport
from transport.env import Env
from transport.errors import HelloMismatch, TransportError
from transport.framing import BIG_PAYLOAD
from transport.hello import agree, encode_hello
from transport.link import ByteStream
from transport.messages import Request
from transport.pump import Answer, Pump, Spot, error_of, receive_hello, receive_some, send_all
from transport.rpc import Call, ClientConnection, ServerCall, ServerConnection

__all__ = ["StreamTransport", "connect_stream", "serve_stream"]

DEFAULT_LIMITS: Final = Limits()
ABANDON_TIMEOUT_S: Final = 10.0
MAX_FRAMES: Final = 16
"""Frames worked through before what came of them is sent and other tasks get a turn; of 32 in flight both ends work on half."""
MAX_EAGER: Final = 4
DRAIN_LOOK_S: Final = 0.01
MAX_PENDING: Final = 4 << 20
"""Bytes of replies that may wait before a server stops receiving."""


# ---- the client's end


class StreamTransport(Transport):
    """A client's calls over one byte stream; made by `connect_stream`."""

    def __init__(self, stream: ByteStream, env: Env, probe: Probe, limits: Limits) -> None:
        self.limits = limits
        self._stream = stream
        self._env = env
        self._probe = probe
        self._connection = ClientConnection(limits, probe)
        self._pump = Pump(stream, probe, self._connection.writer, self._connection.sent, self.fail, self._connection.fill)
        self._alone = False

    def submit(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> Call:
        connection = self._connection
        call = connection.submit(request, done, source, dest)
        if self._alone and not connection.in_flight and call.payload_length < BIG_PAYLOAD:
            self._pump.nudge()
        else:
            self._pump.kick()
        return call

    async def call(self, request: Request, source: IovIter | None = None, dest: IovIter | None = None) -> Reply:
        await trio.lowlevel.checkpoint_if_cancelled()
        answer = Answer()
        call = self.submit(request, answer, source, dest)
        if answer.outcome is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            try:
                await answer.park()
            except trio.Cancelled:
                call.abandon()
                await self._outlast(answer)
                raise
        outcome = answer.outcome
        if isinstance(outcome, TransportError):
            raise outcome
        assert outcome is not None
        return outcome

    async def _outlast(self, answer: Answer) -> None:
        """Wait for the outcome of an abandoned call: its frame is half sent. A peer that takes no more loses the connection."""
        if answer.outcome is None:
            with trio.CancelScope(deadline=self._env.now() + ABANDON_TIMEOUT_S, shield=True):
                await answer.park()
        if answer.outcome is None:
            self.fail(TransportError(errno.ETIMEDOUT, f"{self._stream.peer}: it stopped receiving"))

    def fail(self, error: Exception) -> None:
        """End the connection: every call gets the error. Idempotent."""
        self._pump.stop()
        self._stream.close()
        if self._connection.error is None:
            lost = error_of(error, self._stream.peer)
            self._connection.lost(lost)
            if self.on_lost is not None:
                self.on_lost(lost)

    async def aclose(self) -> None:
        self.fail(TransportError(errno.ECONNABORTED, f"{self._stream.peer}: the connection was closed here"))
        await trio.lowlevel.checkpoint()

    async def run_sender(self) -> None:
        """Send, until the connection is over."""
        with trio.CancelScope(shield=True):
            await self._pump.run()

    async def run_receiver(self) -> None:
        """Receive, until the connection is over."""
        try:
            with trio.CancelScope(shield=True):
                while True:
                    await self._receive()
        except (OSError, TransportError, trio.ClosedResourceError) as error:
            self.fail(error)

    async def _receive(self) -> None:
        """Receive until the stream has no more at the moment."""
        connection, pump = self._connection, self._pump
        more, rounds = False, 0
        while rounds <= MAX_EAGER:
            length, more = await receive_some(self._stream, connection.reader, self._probe, more)
            if not length:
                where = "inside a reply" if connection.reader.midway else ""
                raise TransportError(errno.ECONNRESET, f"{self._stream.peer}: it closed the connection {where}".rstrip())
            pump.corked = True
            while connection.process(MAX_FRAMES):
                pump.flush()
                await trio.lowlevel.checkpoint()
            pump.corked = False
            pump.flush()
            self._alone = connection.in_flight <= 1
            rounds = rounds + 1 if more else 0
        await trio.lowlevel.checkpoint()


class _Connecting(contextlib.AbstractAsyncContextManager[StreamTransport]):
    """The block in which a transport lives; the two tasks end with it, and not before.

    They are shielded so that a block that is cancelled can still end its calls in order; leaving it closes the stream, which
    ends both tasks at once, so that the shields need no deadline.
    """

    def __init__(self, stream: ByteStream, env: Env, probe: Probe, limits: Limits) -> None:
        self._stream = stream
        self._env = env
        self._probe = probe
        self._limits = limits
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> StreamTransport:
        stream = self._stream
        try:
            with contextlib.suppress(TransportError):  # who does not listen may have said why
                await send_all(stream, encode_hello(self._limits))
            theirs = await receive_hello(stream, self._env, "server")
            agreed = agree(self._limits, theirs.hello(), "server")
        except BaseException:
            stream.close()
            raise
        self._transport = StreamTransport(stream, self._env, self._probe, agreed)
        nursery = await self._manager.__aenter__()
        nursery.start_soon(self._transport.run_receiver)
        nursery.start_soon(self._transport.run_sender)
        return self._transport

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._transport.fail(trio.ClosedResourceError())
        # The block's own exception passes by the nursery, which would wrap it in a group.
        await self._manager.__aexit__(None, None, None)


def connect_stream(
    stream: ByteStream, env: Env, probe: Probe, limits: Limits = DEFAULT_LIMITS
) -> contextlib.AbstractAsyncContextManager[StreamTransport]:
    """Say hello over a stream and open a transport for the length of a block: `async with connect_stream(...) as transport`.

    Raises: HelloMismatch when the peer is not a server of ours; TransportError when the stream breaks.
    Ownership: the stream is closed with the block, or when this fails.
    """
    return _Connecting(stream, env, probe, limits)


# ---- the server's end


class _Serving:
    """One client's connection, from after the hello to its end."""

    def __init__(self, stream: ByteStream, handler: Handler, probe: Probe, limits: Limits, draining: trio.Event | None) -> None:
        self._stream = stream
        self._probe = probe
        self._draining = draining
        self._connection = ServerConnection(handler, limits, probe, self._spawn)
        connection = self._connection
        self._pump = Pump(stream, probe, connection.writer, self._sent, self._fail, None, self._send_file)
        self._drained = Spot()
        self._pool: BufferPool | None = None
        self._failure: Exception | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Serve until the client leaves. Raises: what ended the connection, if it was not that."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._pump.run)
                with trio.CancelScope() as listening:
                    if self._draining is not None:
                        nursery.start_soon(self._drain, self._draining, listening)
                    await self._receive()
                while listening.cancelled_caught and (self._connection.in_flight or self._connection.writer.pending):  # noqa: ASYNC110
                    await trio.sleep(DRAIN_LOOK_S)
                nursery.cancel_scope.cancel()
        finally:
            self._connection.lost()
            self._stream.close()
            if self._pool is not None:
                self._pool.close()
        if self._failure is not None:
            raise self._failure

    @staticmethod
    async def _drain(draining: trio.Event, listening: trio.CancelScope) -> None:
        """Stop listening when the server is told to stop; what is under way is answered."""
        await draining.wait()
        listening.cancel()

    def _fail(self, error: Exception) -> None:
        """Remember the first error and end everything."""
        if self._failure is None:
            self._failure = error_of(error, self._stream.peer) if isinstance(error, OSError) else error
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _receive(self) -> None:
        try:
            more, rounds = False, 0
            while True:
                length, more = await receive_some(self._stream, self._connection.reader, self._probe, more)
                if not length:
                    break
                await self._serve()
                rounds = rounds + 1 if more else 0
                if rounds > MAX_EAGER:
                    rounds = 0
                    await trio.lowlevel.checkpoint()
            if self._connection.reader.midway:
                raise TransportError(errno.ECONNRESET, f"{self._stream.peer}: it closed the connection inside a request")
        except Exception as error:  # noqa: BLE001 (kept, and raised when the nursery is gone, which would wrap it in a group)
            self._fail(error)

    async def _serve(self) -> None:
        """Work through what has been received, and wait while too many bytes of replies wait."""
        connection, pump = self._connection, self._pump
        pump.corked = True
        while connection.process(MAX_FRAMES, MAX_PENDING):
            pump.flush()
            if connection.writer.pending <= MAX_PENDING:
                await trio.lowlevel.checkpoint()
            else:
                await self._drained.park()
        pump.corked = False
        pump.flush()
        if connection.writer.pending > MAX_PENDING:
            await self._drained.park()

    def _sent(self, length: int) -> None:
        connection = self._connection
        connection.sent(length)
        if connection.writer.pending <= MAX_PENDING:
            self._drained.wake()

    def _spawn(self, call: ServerCall, reply: Awaitable[Reply]) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._finish, call, reply)

    async def _finish(self, call: ServerCall, reply: Awaitable[Reply]) -> None:
        try:
            self._connection.answer(call, await reply)
        except Exception as error:  # noqa: BLE001 (kept as above)
            self._fail(error)
        else:
            self._pump.kick()

    def _send_file(self, file: FileRange) -> int:
        """Send the front of a file range, or take it into memory where the kernel cannot send it. Returns: bytes sent."""
        fd = self._stream.fileno()
        if fd is None:
            self._take_in(file)
            views, more = self._connection.writer.batch()
            return self._stream.send_nowait(views, more)
        try:
            length = os.sendfile(fd, file.fd, file.pos, file.length)
        except BlockingIOError:
            return 0
        if not length:
            self._take_in(file)
        return length

    def _take_in(self, file: FileRange) -> None:
        """Put memory in the place of a file range; zeros where the file was cut after its length had been promised."""
        if self._pool is None:
            self._pool = BufferPool(self._probe, mmap.PAGESIZE * 64, 4)
        lease = self._pool.get(file.length)
        done = 0
        try:
            while done < file.length:
                length = os.preadv(file.fd, [lease.view[done:]], file.pos + done)
                if not length:
                    break
                done += length
        except OSError:
            lease.release()
            raise
        zero_iter(file.length - done, IovIter.ubuf(Direction.DEST, lease.view[done:]))
        call = self._connection.writer.substitute(lease.view)
        release = call.release

        def release_both() -> None:
            lease.release()
            if release is not None:
                release()

        call.release = release_both


async def serve_stream(
    stream: ByteStream, handler_factory: HandlerFactory, env: Env, probe: Probe, limits: Limits = DEFAULT_LIMITS,
    draining: trio.Event | None = None,
) -> None:  # fmt: skip
    """Say hello over a stream and serve its client until it leaves; the handler is made after the hello.

    draining: when it is set, no more requests are taken in, those under way are answered, and this ends.

    Raises: HelloMismatch for a stranger; TransportError when the client broke off or broke the protocol; and whatever the
    handler raised. In each case the connection is over, everything lent is back, and `handler.closed()` was called.
    Cancellation: the connection is dropped.
    """
    try:
        reader = await receive_hello(stream, env, "client")
        await send_all(stream, encode_hello(limits))
        try:
            agreed = agree(limits, reader.hello(), "client")
        except HelloMismatch as error:
            raise HelloMismatch(f"{stream.peer}: {error}") from None
        handler = handler_factory(stream.peer, agreed)
    except BaseException:
        stream.close()
        raise
    try:
        await _Serving(stream, handler, probe, agreed, draining).run()
    finally:
        handler.closed()
