"""Trio shell. Figures over TLS: `tls.*`, and their limit, the plainest blocking pair of `ssl.SSLSocket`s between two processes.

    python -m trials.bench.tls IDENTITY          prints its port, serves one connection until it ends

The far side answers each order, nine bytes as in `peer`, with as many blocks; nothing in that pair knows of netfs but its
contexts, so that both use the same protocol and cipher. Owns its buffers.
"""

import shutil
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import trio

from netfs.fs.client import open_client
from transport.security import client_context, load_identity, server_context
from trials.bench.figure import Figure, Pairing
from trials.bench.limits import MB, rotating, timed
from trials.bench.peer import BLOCK
from trials.bench.wire import fill, memory_folder, read_in_flight, verify, write_in_flight
from trials.keyring import Keyring, keyring
from trials.pairs import server_process

__all__ = ["FIGURES"]

BLOCKS: Final = 256
START_TIMEOUT_S: Final = 20
ORDER: Final = 9


@asynccontextmanager
async def _raw_pair(keys: Keyring) -> AsyncIterator[ssl.SSLSocket]:
    """Yield the near side of the blocking pair."""
    command = [sys.executable, "-m", "trials.bench.tls", str(keys.server.path)]
    process = await trio.lowlevel.open_process(command, stdout=-1)
    assert process.stdout is not None
    try:
        with trio.fail_after(START_TIMEOUT_S):
            port = int(await process.stdout.receive_some(16))
        with socket.create_connection(("127.0.0.1", port)) as sock, client_context(keys.client).wrap_socket(sock) as secure:
            yield secure
    finally:
        with trio.CancelScope(shield=True):
            await process.stdout.aclose()
            process.kill()
            await process.wait()


async def _raw_read_mb_s(sock: ssl.SSLSocket, targets: Sequence[memoryview], count: int) -> float:
    """Receive `count` blocks, and nothing else meanwhile. Returns: MB/s."""
    await trio.lowlevel.checkpoint()
    with timed() as clock:
        sock.sendall(b"r" + count.to_bytes(8, "little"))
        for index in range(count):
            _receive_whole(sock, targets[index % len(targets)])
    return count * BLOCK / clock.seconds / MB


async def _raw_write_mb_s(sock: ssl.SSLSocket, sources: Sequence[memoryview], count: int) -> float:
    """Send `count` blocks and wait until they were taken. Returns: MB/s."""
    await trio.lowlevel.checkpoint()
    with timed() as clock:
        sock.sendall(b"w" + count.to_bytes(8, "little"))
        for index in range(count):
            sock.sendall(sources[index % len(sources)])
        _receive_whole(sock, memoryview(bytearray(1)))
    return count * BLOCK / clock.seconds / MB


def _receive_whole(sock: ssl.SSLSocket, view: memoryview) -> bool:
    while view:
        count = sock.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


@asynccontextmanager
async def _sequential(write: bool) -> AsyncIterator[Pairing]:
    folder, blocks = memory_folder(), rotating(BLOCK)
    try:
        with keyring() as keys:
            async with (
                server_process(folder, keys=keys) as server,
                open_client(server.url, identity=keys.client.path, known_hosts=keys.known_hosts) as client,
                await client.open("/file", "w+", direct=True) as file,
                _raw_pair(keys) as raw,
            ):
                await verify(file, await fill(file, blocks))
                ours, theirs = (write_in_flight, _raw_write_mb_s) if write else (read_in_flight, _raw_read_mb_s)
                yield Pairing(partial(ours, file, blocks, 8, BLOCKS), partial(theirs, raw, blocks, BLOCKS))
    finally:
        shutil.rmtree(folder)


# ---- the far side


@contextmanager
def _accepted(identity: str) -> Iterator[ssl.SSLSocket]:
    context = server_context(load_identity(identity))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        sock, _ = listener.accept()
    with context.wrap_socket(sock, server_side=True) as secure:
        yield secure


def main() -> None:
    """Serve one connection."""
    blocks, order = rotating(BLOCK), memoryview(bytearray(ORDER))
    with _accepted(sys.argv[1]) as sock:
        while _receive_whole(sock, order):
            count = int.from_bytes(order[1:], "little")
            for index in range(count):
                block = blocks[index % len(blocks)]
                if order[0] == ord("r"):
                    sock.sendall(block)
                elif not _receive_whole(sock, block):
                    return
            if order[0] == ord("w"):
                sock.sendall(order[:1])


FIGURES: Final = (
    Figure("tls.seq_read.qd8", "MB/s", "raw_ssl", 0.70, partial(_sequential, write=False)),
    Figure("tls.seq_write.qd8", "MB/s", "raw_ssl", 0.55, partial(_sequential, write=True)),
)

if __name__ == "__main__":
    main()
