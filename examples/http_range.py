"""A read-only filesystem over HTTP ranges: one operations table. Page cache, readahead, splitting and retries are the library's.

Run it with a URL, http://host:port/path, to see a file read: how many bytes came in how many ranges.
"""

import sys
from urllib.parse import urlsplit

import trio

from iov.copy_iter import copy_to_iter
from iov.iov_iter import Direction, IovIter
from iov.pool import BufferPool
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.engine.buffered_read import buffered_read
from netfs.engine.inode import NetfsInode
from netfs.engine.ops import NetfsOps
from netfs.engine.readahead import Readahead
from netfs.engine.request import IoSubrequest


class HttpOps(NetfsOps):
    """One file of a web server. Each part of a read is one GET with a range, up to four at a time."""

    rsize = wsize = 1 << 18
    max_segs = 1024
    max_in_flight = 4

    def __init__(self, url: str, nursery: trio.Nursery) -> None:
        self.url = urlsplit(url)
        self.nursery = nursery

    async def ask(self, method: str, more: str = "") -> tuple[int, dict[str, str], trio.SocketStream, bytes]:
        """Send a request. Returns: status, headers, the connection, and what came behind the headers."""
        stream = await trio.open_tcp_stream(self.url.hostname or "", self.url.port or 80)
        head = f"{method} {self.url.path or '/'} HTTP/1.1\r\nHost: {self.url.netloc}\r\nConnection: close\r\n{more}\r\n"
        await stream.send_all(head.encode())
        data = b""
        while b"\r\n\r\n" not in data:
            piece = await stream.receive_some(65536)
            if not piece:
                raise ConnectionResetError("the server closed the connection inside the headers")
            data += piece
        lines, _, rest = data.partition(b"\r\n\r\n")
        status, *fields = lines.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        return int(status.split()[1]), headers, stream, rest

    async def size(self) -> int:
        """Return the file's size."""
        status, headers, stream, _ = await self.ask("HEAD")
        await stream.aclose()
        if status != 200:
            raise FileNotFoundError(2, f"HTTP status {status}", self.url.geturl())
        return int(headers["content-length"])

    def issue_read(self, subreq: IoSubrequest) -> None:
        """Start a GET for what is left of the part."""
        self.nursery.start_soon(self.get, subreq)

    async def get(self, subreq: IoSubrequest) -> None:
        """Bring the bytes; whatever came is kept when the connection breaks, and the rest is asked for again."""
        pos, want = subreq.start + subreq.transferred, subreq.iter.count
        got = 0
        try:
            status, _, stream, data = await self.ask("GET", f"Range: bytes={pos}-{pos + want - 1}\r\n")
            async with stream:
                while status == 206 and got < want and (data := data or await stream.receive_some(65536)):
                    got += copy_to_iter(data, subreq.iter)
                    data = b""
        except OSError as error:
            subreq.terminated(got, error, retry=True)
            return
        error = None if status in {206, 416} else OSError(5, f"HTTP status {status}")
        again = status >= 500 or (status == 206 and got < want)
        subreq.terminated(got, error, eof=status == 416, retry=again)


async def open_url(url: str, nursery: trio.Nursery, cache: PageCache, probe: Probe) -> NetfsInode:
    """Return the file a URL names, ready to be read."""
    ops, inode = HttpOps(url, nursery), NetfsInode(cache, BufferPool(probe, 1 << 16, 4), probe)
    inode.set_ops(ops)
    inode.sizes.refreshed(await ops.size())
    return inode


async def main(url: str) -> None:
    """Read a file from its beginning to its end."""
    probe, piece, pos = Probe(), bytearray(1 << 17), 0
    async with trio.open_nursery() as nursery:
        inode, ahead = await open_url(url, nursery, PageCache(16 << 20), probe), Readahead()
        while done := await buffered_read(inode, IovIter.ubuf(Direction.DEST, piece), pos, ahead):
            pos += done
    sys.stdout.write(f"{pos} bytes in {probe.subrequests} ranges, {probe.retries} of them again\n")


if __name__ == "__main__":
    sys.stdout.write(str(__doc__)) if len(sys.argv) < 2 else trio.run(main, sys.argv[1])
