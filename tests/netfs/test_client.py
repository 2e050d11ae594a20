"""The names of a mounted export: walking, listing, renaming, removing, and connecting by URL."""

import errno
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

import netfs
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from netfs.fs.dentry import DentryCache
from netfs.fs.plain import PlainVolume
from netfs.fs.url import DEFAULT_PORT, Url, parse_url
from netfs.fs.walk import Walk
from servers.server import serve
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopTransport
from tests.netfs.mount import mounted, put
from transport.base import Reply
from transport.messages import Commit, DirEntry, FileType, Handle, Lookup, Readdir, ReaddirReply, Rename, Request, Rmdir, Write


async def test_walk_stat_list() -> None:
    async with mounted() as (client, transport):
        await client.mkdir("/a/b/c", parents=True)
        await put(client, "/a/b/c/file", b"hello")
        await put(client, "a/b/other", b"")
        assert (await client.stat("/")).type is FileType.DIRECTORY
        assert (await client.stat("/a/b/c/file")).size == 5
        assert (await client.stat("a//b/./c")).type is FileType.DIRECTORY
        assert await client.listdir("/a/b") == ["c", "other"]
        entries = [entry async for entry in client.scandir("/a/b")]
        assert sorted((entry.path, entry.is_dir) for entry in entries) == [("/a/b/c", True), ("/a/b/other", False)]
        assert await client.exists("/a/b/c/file")
        assert not await client.exists("/a/b/c/fil")
        assert not await client.exists("/a/b/other/x")
        sent = len(transport.log)
        await client.stat("/a/b/c/file")
        assert len(transport.log) - sent == 1, "directories on the way are remembered"


async def test_listing_in_pages() -> None:
    async with mounted() as (client, transport):
        names = [f"name-{n:04}" for n in range(2500)]
        for name in names:
            await put(client, name, b"")
        assert await client.listdir() == names
        assert sum(isinstance(request, Readdir) for request in transport.log) >= 3


@pytest.mark.parametrize("names", [["../../etc/passwd"], [".."], ["."], [""], ["a/b"], ["a\0"], ["fine", "again"]])
async def test_listings_no_server_of_ours_would_give(names: list[str]) -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", b"")
        attr, handle = await client.stat("/f"), Handle(b"h")

        def lies(request: Request) -> Reply | None:
            # The cookies go backwards, or stay where they are: a listing without an end.
            entries = [DirEntry(name, 5, handle, attr) for name in names]
            return Reply(0, ReaddirReply(entries, eof=False)) if isinstance(request, Readdir) else None

        transport.fault = lies
        with pytest.raises(netfs.NotReachable):
            await client.listdir()


@pytest.mark.parametrize("broken", [False, True])
async def test_what_the_block_failed_with_is_told_first(broken: bool) -> None:
    store = MemoryStore()
    transport = LoopTransport(store)
    with pytest.raises(ValueError if broken else OSError) as caught:
        async with netfs.open_client(transport) as client:
            file = await client.open("/f", "w", direct=True)
            await file.write(b"not committed")
            transport.fault = lambda request: Reply(errno.EIO) if isinstance(request, Commit) else None
            if broken:
                raise ValueError("of the block")
    assert broken is ("/f" in str(getattr(caught.value, "__notes__", "")))
    store.close()


async def test_size_of_a_file_that_is_being_written() -> None:
    async with mounted() as (client, _):
        async with await client.open("/f", "w") as file:
            await file.write(b"x" * 3000)
            assert (await client.stat("/f")).size == 3000
            assert (await file.stat()).size == 3000


async def test_mkdir() -> None:
    async with mounted() as (client, _):
        await client.mkdir("/d")
        with pytest.raises(FileExistsError):
            await client.mkdir("/d")
        await client.mkdir("/d", exist_ok=True)
        await put(client, "/f", b"")
        with pytest.raises(FileExistsError):
            await client.mkdir("/f", exist_ok=True)
        with pytest.raises(FileNotFoundError) as caught:
            await client.mkdir("/x/y")
        assert caught.value.filename == "/x/y"


async def test_rename_and_remove() -> None:
    async with mounted() as (client, _):
        await client.mkdir("/a/b", parents=True)
        await put(client, "/a/f", b"content")
        await client.rename("/a/f", "/a/b/g")
        assert await client.listdir("/a") == ["b"]
        async with await client.open("/a/b/g") as file:
            assert await file.read() == b"content"
        await client.rename("/a", "/z")
        assert not await client.exists("/a/b/g")
        assert await client.exists("/z/b/g")
        with pytest.raises(OSError) as caught:
            await client.rmdir("/z")
        assert caught.value.errno == errno.ENOTEMPTY
        with pytest.raises(IsADirectoryError):
            await client.unlink("/z/b")
        await client.rmtree("/z")
        assert await client.listdir() == []


async def test_truncate_by_path() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", b"0123456789")
        await client.truncate("/f", 4)
        assert (await client.stat("/f")).size == 4
        with pytest.raises(FileNotFoundError):
            await client.truncate("/g", 4)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/missing", errno.ENOENT), ("/missing/x", errno.ENOENT), ("/f/x", errno.ENOTDIR), ("/d", errno.EISDIR),
        ("/../x", errno.EINVAL), ("/a\0b", errno.EINVAL), ("/" + "n" * 256, errno.ENAMETOOLONG), ("/", errno.EISDIR),
    ],
)  # fmt: skip
async def test_paths_that_cannot_be_opened(path: str, code: int) -> None:
    async with mounted() as (client, _):
        await client.mkdir("/d")
        await put(client, "/f", b"")
        with pytest.raises(OSError) as caught:
            await client.open(path)
        assert (caught.value.errno, caught.value.filename) == (code, path)


async def test_names_that_moved_behind_our_back() -> None:
    async with mounted() as (client, transport):
        await client.mkdir("/a/b", parents=True)
        await client.mkdir("/other/b", parents=True)
        await put(client, "/other/b/f", b"found")
        await client.stat("/a/b")
        await client.mkdir("/a/b/deep")
        root = next(request.parent for request in transport.log if isinstance(request, Lookup))
        for name in ("deep", "b"):
            parent = await Walk(PlainVolume(transport, 1 << 20, 1 << 20), root, DentryCache(9), trusting=True).directory(
                ["a", "b"] if name == "deep" else ["a"]
            )
            transport.serve(Rmdir(parent, name), None, None, None)
        transport.serve(Rmdir(root, "a"), None, None, None)
        transport.serve(Rename(root, "other", root, "a"), None, None, None)
        async with await client.open("/a/b/f") as file:
            assert await file.read() == b"found"


async def test_closing_sends_what_is_dirty_and_tells_what_failed() -> None:
    store = MemoryStore(Probe())
    async with netfs.open_client(LoopTransport(store)) as client:
        file = await client.open("/f", "w")
        await file.write(b"not closed")
    async with netfs.open_client(LoopTransport(store)) as client:
        async with await client.open("/f") as file:
            assert await file.read() == b"not closed"
    transport = LoopTransport(store)
    with pytest.raises(OSError) as caught:
        async with netfs.open_client(transport) as client:
            file = await client.open("/f", "w")
            await file.write(b"lost")
            transport.fault = lambda request: 0 if isinstance(request, Write) else None
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "/f")
    store.close()


@pytest.mark.parametrize("direct", [False, True])
async def test_a_cancelled_client_gives_everything_back(direct: bool) -> None:
    store = MemoryStore(Probe())
    async with serve(store) as serving:
        with trio.CancelScope() as scope:
            async with netfs.open_client(f"netfs://{serving.address}", wsize=1 << 12) as client:
                async with await client.open("/f", "w+", direct=direct) as file:
                    await file.write(bytes(1 << 20))
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(file.pwritev, [bytes(1 << 20)], 0)
                        nursery.start_soon(file.preadv, [bytearray(1 << 20)], 0)
                        await trio.testing.wait_all_tasks_blocked()
                        scope.cancel()
        assert scope.cancelled_caught
        assert client._pool.leased == 0
    store.close()


async def test_idle_inodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netfs.fs.client.MAX_IDLE_INODES", 10)
    async with mounted() as (client, _):
        for n in range(40):
            await put(client, f"/{n}", b"x" * 100)
        assert len(client._inodes) == 10


# ---- URLs


@pytest.mark.parametrize(
    ("text", "url", "base"),
    [
        ("netfs://host", Url("host", DEFAULT_PORT, "", "/"), f"netfs://host:{DEFAULT_PORT}/"),
        ("netfs://h:12/a/b%20c", Url("h", 12, "", "/a/b%20c"), "netfs://h:12/"),
        ("netfs://[::1]:5/x", Url("::1", 5, "", "/x"), "netfs://[::1]:5/"),
        ("netfs+tcp://h/x", Url("h", DEFAULT_PORT, "", "/x", plain=True), f"netfs+tcp://h:{DEFAULT_PORT}/"),
        ("netfs+unix:///run/s:/d", Url("", 0, "/run/s", "/d"), "netfs+unix:///run/s:/"),
        ("netfs+rdma://h:1/d", Url("h", 1, "", "/d", plain=True, rdma=True), "netfs+rdma://h:1/"),
        ("netfs+rdma://h:1/d?roce", Url("h", 1, "", "/d", plain=True, rdma=True, roce=True), "netfs+rdma://h:1/"),
        ("netfs+rdmas://h:1/d", Url("h", 1, "", "/d", plain=False, rdma=True), "netfs+rdmas://h:1/"),
        ("netfs+unix:///run/s", Url("", 0, "/run/s", "/"), "netfs+unix:///run/s:/"),
    ],
)
def test_urls(text: str, url: Url, base: str) -> None:
    assert parse_url(text) == url
    assert url.base == base
    assert parse_url(base).base == base


NO_URLS = [
    "",
    "/a",
    "http://h/",
    "netfs://",
    "netfs://h:x",
    "netfs://h:70000",
    "netfs://u@h/",
    "netfs+unix://h/s",
    "netfs://h/?q",
]


@pytest.mark.parametrize("text", NO_URLS)
def test_texts_that_are_no_urls(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_url(text)
    assert "\n" not in str(caught.value)


async def test_a_client_of_a_tcp_server_rooted_in_a_folder() -> None:
    store = MemoryStore(Probe())
    async with serve(store) as serving:
        url = f"netfs://{serving.address}"
        async with netfs.open_client(url) as client:
            await client.mkdir("/deep/er", parents=True)
            await put(client, "/deep/er/f", b"over tcp" * 10000)
        async with netfs.open_client(f"{url}/deep/er") as client:
            assert await client.listdir() == ["f"]
            async with await client.open("f", direct=True) as file:
                assert await file.read() == b"over tcp" * 10000
        with pytest.raises(FileNotFoundError):
            async with netfs.open_client(f"{url}/nowhere") as client:
                await client.listdir()
    store.close()


async def test_a_client_of_a_unix_socket(tmp_path: Path) -> None:
    store = MemoryStore(Probe())
    path = tmp_path / "s"
    async with serve(store, f"unix:{path}"):
        async with netfs.open_client(f"netfs+unix://{path}") as client:
            await put(client, "/f", b"over a socket")
            assert await client.listdir() == ["f"]
    store.close()


async def test_an_error_in_the_block_is_raised_as_it_is() -> None:
    store = MemoryStore(Probe())
    async with serve(store) as serving:
        with pytest.raises(KeyError):
            async with netfs.open_client(f"netfs://{serving.address}"):
                raise KeyError("mine")
    store.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_nobody_listens(tmp_path: Path) -> None:
    for url in (f"netfs://127.0.0.1:{free_port()}", f"netfs+unix://{tmp_path}/none"):
        with pytest.raises(ConnectionError) as caught:
            async with netfs.open_client(url):
                pass
        assert isinstance(caught.value, netfs.NotReachable)
        assert caught.value.filename in url


async def test_not_one_of_ours() -> None:
    async def stranger(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, stranger, listeners)
        with pytest.raises(ConnectionError) as caught:
            async with netfs.open_client(f"netfs://127.0.0.1:{listeners[0].socket.getsockname()[1]}"):
                pass
        assert "\n" not in str(caught.value)
        nursery.cancel_scope.cancel()


async def test_only_loopback() -> None:
    with pytest.raises(ConnectionError) as caught:
        async with netfs.open_client("netfs://192.0.2.1:9"):
            pass
    assert "loopback" in str(caught.value)


async def test_too_long_a_payload_is_the_callers_business() -> None:
    """A write longer than a message is cut, whatever the limits were agreed to."""
    store = MemoryStore(Probe())
    async with netfs.open_client(LoopTransport(store), wsize=1 << 30, rsize=1 << 30) as client:
        async with await client.open("/f", "w+", direct=True) as file:
            data = bytes(range(256)) * 12288
            assert await file.write_iter(IovIter.ubuf(Direction.SOURCE, data), 0) == len(data)
            assert await file.read(-1, 0) == data
    store.close()
