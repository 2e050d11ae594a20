"""Trio shell. The other side of the wire limits: a minimal stream and a minimal request/reply loop, in a process of its own.

    python -m trials.bench.peer          prints its port, serves until its standard input ends

The first byte a client sends chooses: `r` sends it blocks, `w` takes what it sends and answers the last one with one byte,
`q` answers each 32-byte request with 4 KiB. Nothing here knows of netfs: Trio's sockets with `sendmsg` and `recv_into` alone. The
near sides of the same loops stand below, so that both can be read at once. Owns its buffers.
"""

import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Final

import trio

from trials.bench.limits import MB, rotating, timed

__all__ = [
    "BLOCK", "REPLY", "Socket", "listen", "near", "peer_process", "raw_read_mb_s", "raw_write_mb_s", "rpc_per_s", "serve_socket",
]  # fmt: skip

BLOCK: Final = 1 << 20
REPLY: Final = 4096
REQUEST: Final = 32
START_TIMEOUT_S: Final = 20
ORDER: Final = struct.Struct("<cQI")
"""What to do, how often, with blocks of which size."""
Socket = trio.socket.SocketType


async def send_whole(sock: Socket, view: memoryview) -> None:
    """Send all of a view."""
    while view:
        view = view[await sock.sendmsg([view]) :]


async def receive_whole(sock: Socket, view: memoryview) -> bool:
    """Fill a view. Returns: False at the end of the stream."""
    while view:
        count = await sock.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


async def serve_socket(sock: Socket) -> None:
    """Be the far side on one socket until the near side closes it."""
    order = memoryview(bytearray(ORDER.size))
    try:
        while await receive_whole(sock, order):
            what, count, size = ORDER.unpack(order)
            blocks = _blocks(size)
            match what:
                case b"r":
                    for index in range(count):
                        await send_whole(sock, blocks[index % len(blocks)])
                case b"w":
                    for index in range(count):
                        if not await receive_whole(sock, blocks[index % len(blocks)]):
                            return
                    await send_whole(sock, order[:1])
                case _:
                    request = memoryview(bytearray(REQUEST))
                    for _ in range(count):
                        if not await receive_whole(sock, request):
                            return
                        await send_whole(sock, blocks[0][:REPLY])
    except OSError:
        pass
    finally:
        sock.close()


async def raw_read_mb_s(sock: Socket, targets: Sequence[memoryview], count: int) -> float:
    """Receive `count` blocks. Returns: MB/s."""
    with timed() as clock:
        await _order(sock, b"r", count, len(targets[0]))
        for index in range(count):
            await receive_whole(sock, targets[index % len(targets)])
    return count * len(targets[0]) / clock.seconds / MB


async def raw_write_mb_s(sock: Socket, sources: Sequence[memoryview], count: int) -> float:
    """Send `count` blocks and wait until they were taken. Returns: MB/s."""
    with timed() as clock:
        await _order(sock, b"w", count, len(sources[0]))
        for index in range(count):
            await send_whole(sock, sources[index % len(sources)])
        await receive_whole(sock, memoryview(bytearray(1)))
    return count * len(sources[0]) / clock.seconds / MB


async def rpc_per_s(sock: Socket, count: int) -> float:
    """Make `count` requests one after another, each answered with 4 KiB. Returns: requests a second."""
    request, reply = memoryview(bytearray(REQUEST)), memoryview(bytearray(REPLY))
    with timed() as clock:
        await _order(sock, b"q", count, REPLY)
        for _ in range(count):
            await send_whole(sock, request)
            await receive_whole(sock, reply)
    return count / clock.seconds


async def _order(sock: Socket, what: bytes, count: int, size: int) -> None:
    await send_whole(sock, memoryview(ORDER.pack(what, count, size)))


@asynccontextmanager
async def near(port: int) -> AsyncIterator[Socket]:
    """Connect to a peer process."""
    with trio.socket.socket() as sock:
        await sock.connect(("127.0.0.1", port))
        sock.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        yield sock


@asynccontextmanager
async def peer_process(module: str = "trials.bench.peer") -> AsyncIterator[int]:
    """Run the far side, a module that prints its port, in a process of its own. Returns: the port."""
    command = [sys.executable, "-m", module]
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1)
    assert process.stdin is not None and process.stdout is not None
    try:
        with trio.fail_after(START_TIMEOUT_S):
            port = int(await process.stdout.receive_some(16))
        yield port
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            await process.stdout.aclose()
            process.kill()
            await process.wait()


async def listen(serve: Callable[[Socket], Awaitable[None]]) -> None:
    """Listen, say where, serve every client until standard input ends."""
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            while True:
                sock, _ = await listener.accept()
                sock.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
                nursery.start_soon(serve, sock)

        nursery.start_soon(accept)
        async with trio.lowlevel.FdStream(0) as stdin:
            while await stdin.receive_some():
                pass
        nursery.cancel_scope.cancel()


@cache
def _blocks(size: int) -> list[memoryview]:
    return rotating(size)


if __name__ == "__main__":
    trio.run(listen, serve_socket)
