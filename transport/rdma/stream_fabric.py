"""Trio shell. The stream fabric: a queue pair whose peer is at the other end of a byte stream, by iWARP.

    | TCP, UNIX socket, TLS, link in memory | MPA start-up | FPDUs both ways | Terminate or end |

One task receives, one sends, none serves a message. The receiver asks the engine for memory at once before each system call:
large payloads go from the stream straight to registered memory, and from registered memory to the stream in one gather. When the
connection is over what is half sent is finished, the peer gets a moment to read a Terminate, and the stream is closed.
A client starts with `start_mpa`, a server with `receive_request` and then `send_reply`; `StreamLink.run` is both sides' rest.
Ownership: the stream belongs to the link; memory is lent by work requests and registrations as ever.
"""

import errno
import os
from typing import Final

import trio

from iov.probe import Probe
from transport.env import Env
from transport.errors import TransportError
from transport.link import ByteStream
from transport.pump import error_of, send_all
from transport.rdma.capture_stream import CapturedStream
from transport.rdma.iwarp.engine import Engine
from transport.rdma.iwarp.mpa import MpaError, Settled, StartFrame, StartReader, find_crc
from transport.rdma.iwarp.operations import bind, make_ready
from transport.rdma.iwarp.roce import RoceEngine
from transport.rdma.iwarp.roce import bind as bind_roce
from transport.rdma.pump import Wake
from transport.rdma.qp import QP

__all__ = ["StreamLink", "receive_request", "send_reply", "start_mpa"]

START_TIMEOUT_S: Final = 10.0
LINGER_S: Final = 1.0
"""How long a peer may take to read what is left and close, once the connection is over."""
MAX_EAGER: Final = 32
"""Receives in a row before other tasks get a turn."""
SCRATCH: Final = 64 << 10


async def _receive_start(stream: ByteStream, env: Env, reply: bool) -> StartFrame:
    reader = StartReader(reply)
    buffer = memoryview(bytearray(512))
    try:
        with trio.move_on_after(START_TIMEOUT_S):
            while reader.need:
                length = stream.recv_nowait([buffer[: reader.need]])
                if length is None:
                    await stream.wait_readable()
                elif not length:
                    raise reader.ended()
                else:
                    reader.feed(buffer[:length])
        await trio.lowlevel.checkpoint()
    except MpaError as error:
        raise MpaError(f"{stream.peer}: {error}") from None
    except OSError as error:
        raise error_of(error, stream.peer) from error
    if reader.need:
        raise MpaError(f"{stream.peer}: not an iWARP peer: it said too little in {START_TIMEOUT_S:g} s")
    return reader.frame()


async def start_mpa(stream: ByteStream, env: Env, request: StartFrame) -> StartFrame:
    """Send a request and return the reply, which may reject it.

    Raises: MpaError when the peer speaks no MPA, TransportError when the stream breaks.
    """
    await send_all(stream, request.pack())
    return await _receive_start(stream, env, reply=True)


async def receive_request(stream: ByteStream, env: Env) -> StartFrame:
    """Wait for a client's request; raises as `start_mpa`."""
    return await _receive_start(stream, env, reply=False)


async def send_reply(stream: ByteStream, reply: StartFrame) -> None:
    """Answer a request; receives must be posted by then. Raises: TransportError when the stream breaks."""
    await send_all(stream, reply.pack())


def _reason(error: OSError | TransportError) -> str:
    return str(error) if isinstance(error, TransportError) else os.strerror(error.errno or errno.EIO)


class StreamLink:
    """The connection under one queue pair, which is in INIT and goes to RTS here; `run` serves it.

    access: what the peer may do, a set of `Access`. is_server: the side that sent the reply. rnr_retry: how often to try again
    where the peer has no receive, if RoCE's rules were settled.
    Raises: MpaError when a checksum was settled that cannot be computed here.
    """

    def __init__(
        self, stream: ByteStream, qp: QP, probe: Probe, settled: Settled, access: int, is_server: bool, rnr_retry: int = 0
    ) -> None:
        crc = find_crc() if settled.crc else None
        self.stream = stream
        self.probe = probe
        self.wake = Wake()
        self.over = Wake()
        self.drained = Wake()
        self.engine: Engine
        if settled.roce:
            roce = RoceEngine(qp, crc, settled.ird, is_server, self._on_wake)
            bind_roce(qp, roce)
            self.engine = roce
        else:
            self.engine = Engine(qp, crc, settled.ird, is_server, self._on_wake)
            bind(qp, self.engine)
        if isinstance(stream, CapturedStream):
            self.engine.watch = stream
        make_ready(qp, settled, access, rnr_retry)
        if settled.rtr is not None and not is_server:
            self.engine.open(settled.rtr)

    def _on_wake(self) -> None:
        self.wake.set()
        if self.engine.over:
            self.over.set()

    async def run(self) -> None:
        """Serve the connection until it is over; raises nothing for its end, which `Engine.on_end` is told.

        Cancellation: the queue pair goes to ERR, the stream is closed.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                nursery.start_soon(self._send)
                await self.over.wait()
                with trio.move_on_after(LINGER_S):
                    await self.drained.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.engine.lose("the connection was closed here")
            self.stream.close()

    async def _receive(self) -> None:
        engine, stream, probe = self.engine, self.stream, self.probe
        rounds = 0
        try:
            while (views := engine.wanted()) is not None:
                count = stream.recv_nowait(views)
                if count is None:
                    rounds = 0
                    await stream.wait_readable()
                    engine.paused()
                    continue
                probe.syscalls += 1
                probe.wire_bytes += count
                engine.received(count)
                rounds += 1
                if rounds == MAX_EAGER:
                    rounds = 0
                    await trio.lowlevel.checkpoint()
                    engine.paused()
            await self._linger()
        except (OSError, TransportError) as error:
            engine.lose(_reason(error))
        except trio.ClosedResourceError:
            engine.lose("the connection was closed here")
        self.drained.set()

    async def _linger(self) -> None:
        """Let the peer read a Terminate: a stream closed with bytes unread would be reset under it."""
        scratch = [memoryview(bytearray(SCRATCH))]
        while self.engine.refused and (count := self.stream.recv_nowait(scratch)) != 0:
            if count is None:
                await self.stream.wait_readable()

    async def _send(self) -> None:
        engine, stream, probe = self.engine, self.stream, self.probe
        try:
            while (batch := engine.batch()) is not None:
                if not batch:
                    if engine.over:
                        break
                    await self.wake.wait()
                    continue
                count = stream.send_nowait(batch)
                if not count:
                    await stream.wait_writable()
                    continue
                probe.syscalls += 1
                probe.wire_bytes += count
                engine.sender.sent(count)
        except (OSError, TransportError) as error:
            engine.lose(_reason(error))
        except trio.ClosedResourceError:
            engine.lose("the connection was closed here")
        if not engine.refused:
            self.drained.set()
