"""The worked example of an operations table: a file behind a web server, read through the page cache, with faults on the way."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from examples.http_range import main, open_url
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.engine.buffered_read import buffered_read
from netfs.engine.readahead import Readahead

DATA = random.Random(5).randbytes(3_000_001)


@dataclass
class WebServer:
    """Serves DATA by ranges. faults: what to do with the next GETs: a status, or how many bytes of the body to send."""

    faults: list[str] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)

    async def handle(self, stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        if head.startswith(b"HEAD"):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA))
            return
        span = head.partition(b"Range: bytes=")[2].partition(b"\r")[0].split(b"-")
        start, end = int(span[0]), min(int(span[1]) + 1, len(DATA))
        self.ranges.append((start, end - start))
        fault = self.faults.pop(0) if self.faults else ""
        if fault.startswith("status"):
            await stream.send_all(b"HTTP/1.1 %s Sorry\r\nContent-Length: 0\r\n\r\n" % fault.split()[1].encode())
            return
        body = DATA[start:end]
        headers = b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n\r\n" % len(body)
        await stream.send_all(headers + (body[: int(fault)] if fault else body))


@asynccontextmanager
async def served(server: WebServer) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, server.handle, 0)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/file"
        nursery.cancel_scope.cancel()


async def read(url: str, pos: int, length: int, probe: Probe, *, times: int = 1) -> bytes:
    buffer = bytearray(length)
    async with trio.open_nursery() as nursery:
        inode = await open_url(url, nursery, PageCache(1 << 24), probe)
        ahead = Readahead()
        for _ in range(times):
            done = await buffered_read(inode, IovIter.ubuf(Direction.DEST, buffer), pos, ahead)
    return bytes(buffer[:done])


@pytest.mark.parametrize(("pos", "length"), [(0, 100), (0, len(DATA) + 1000), (1_234_567, 70_000), (len(DATA) - 1, 10)])
async def test_bytes(pos: int, length: int) -> None:
    server = WebServer()
    async with served(server) as url:
        assert await read(url, pos, length, Probe()) == DATA[pos : pos + length]


async def test_what_was_read_is_cached_and_large_reads_are_split() -> None:
    server = WebServer()
    async with served(server) as url:
        await read(url, 0, len(DATA), Probe(), times=3)
    assert sum(length for _, length in server.ranges) == len(DATA)
    assert len(server.ranges) == -(-len(DATA) // (1 << 18))


async def test_broken_connections_and_busy_servers_are_tried_again() -> None:
    server = WebServer(faults=["1000", "0", "status 503", "70000", "status 503"])
    probe = Probe()
    async with served(server) as url:
        assert await read(url, 0, 1_000_000, probe) == DATA[:1_000_000]
    assert probe.retries >= 3


async def test_a_refusal_is_an_error() -> None:
    server = WebServer(faults=["status 403"] * 10)
    async with served(server) as url:
        with pytest.RaisesGroup(OSError):
            await read(url, 0, 1000, Probe())


async def test_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    async with served(WebServer()) as url:
        await main(url)
    assert capsys.readouterr().out.startswith(f"{len(DATA)} bytes in ")
