"""Clients and a server with keys: who comes in, as what, what those who do not are told, and that nobody else notices."""

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel

import netfs
from iov.probe import Probe
from netfs.fs.client import Client
from servers import MemoryStore, Serving, serve
from tests.transport.secure import ENV, client_side, identity
from transport.errors import TransportError
from transport.security import Identity, KnownHosts, client_context

MIB = 1 << 20


class Town:
    """A server with keys, and clients who have some."""

    def __init__(self, folder: Path, serving: Serving, server: Identity, alice: Identity) -> None:
        self.folder = folder
        self.serving = serving
        self.server = server
        self.alice = alice
        self.keys = folder / "authorized_keys"

    def client(
        self, who: Identity | None = None, hosts: str = "known_hosts", url: str = ""
    ) -> AbstractAsyncContextManager[Client]:
        mine = who or self.alice
        return netfs.open_client(url or self.serving.url, identity=mine.path, known_hosts=self.folder / hosts)

    async def refused(self, opened: AbstractAsyncContextManager[Client]) -> str:
        """Return the one line that says why a client is not connected."""
        with pytest.raises(netfs.NotReachable) as caught:
            async with opened:
                pass
        text = str(caught.value.strerror)
        assert "\n" not in text
        return text

    async def settled(self, stay: int = 0) -> None:
        """Wait until the server has done with all that came but `stay`."""
        with trio.fail_after(60):
            while self.serving.server.connections > stay:
                await trio.lowlevel.checkpoint()


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with open_town(tmp_path) as town:
        yield town


@asynccontextmanager
async def open_town(folder: Path) -> AsyncIterator[Town]:
    server, alice = identity(folder, "server.id"), identity(folder, "alice.id")
    (folder / "authorized_keys").write_text(f"{alice.fingerprint} alice\n")
    store = MemoryStore(Probe())
    async with serve(store, identity=server.path, authorized_keys=folder / "authorized_keys") as serving:
        KnownHosts(folder / "known_hosts").remember(serving.address, server.fingerprint)
        yield Town(folder, serving, server, alice)
    assert store.lent == 0


async def copy_something(client: Client, size: int = 3 * MIB) -> None:
    content = os.urandom(size)
    async with await client.open("/file", "w") as file:
        await file.write(content)
    client.drop_caches()
    async with await client.open("/file", direct=True) as file:
        assert await file.read(size + 1) == content


async def test_a_client_whose_key_is_listed(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    assert town.serving.url.startswith("netfs://")
    assert town.serving.fingerprint == town.server.fingerprint
    with caplog.at_level(logging.INFO):
        async with town.client() as client:
            for size in (0, 1, 4096, 3 * MIB):
                await copy_something(client, size)
        await town.settled()
    assert [record.getMessage().split(" peer=")[0] for record in caplog.records] == ["connected", "left"]
    assert "name=alice" in caplog.text


async def test_a_client_whose_key_is_not(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    mallory = identity(town.folder, "mallory.id")
    async with town.client() as good:
        text = await town.refused(town.client(mallory))
        assert "perhaps it does not know this key" in text and mallory.fingerprint in text
        await copy_something(good)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("refused ") and mallory.fingerprint in line and str(town.keys) in line


async def test_a_server_that_is_not_known(town: Town) -> None:
    text = await town.refused(town.client(hosts="nobody"))
    assert town.server.fingerprint in text and f"netfs trust {town.serving.url}" in text
    assert not (town.folder / "nobody").exists(), "nothing is trusted that nobody asked to trust"


async def test_a_server_with_another_key(town: Town) -> None:
    KnownHosts(town.folder / "before").remember(town.serving.address, identity(town.folder, "old").fingerprint)
    text = await town.refused(town.client(hosts="before"))
    assert town.server.fingerprint in text and "somebody is in between" in text
    KnownHosts(town.folder / "before").remember(town.serving.address, town.server.fingerprint)
    async with town.client(hosts="before") as client:
        await client.listdir("/")


async def test_a_plain_client(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    for url in (town.serving.url, f"netfs+tcp://{town.serving.address}"):
        text = await town.refused(netfs.open_client(url))
        assert "it speaks TLS, and this side does not" in text
    await town.settled()
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "not a netfs client over TLS: it began in the clear"
    ] * 2


async def test_a_plain_server(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(MemoryStore(Probe())) as plain:
        KnownHosts(town.folder / "known_hosts").remember(plain.address, town.server.fingerprint)
        text = await town.refused(town.client(url=f"netfs://{plain.address}"))
        assert "perhaps it speaks without TLS" in text
        async with town.client(url=plain.url) as client:  # netfs+tcp asks for no TLS
            await client.listdir("/")
    assert "not a netfs client: it speaks TLS, and this side does not" in caplog.text


async def test_without_an_identity_nothing_leaves_this_machine(town: Town) -> None:
    for url in ("netfs://192.0.2.1:9", "netfs+tcp://192.0.2.1:9"):
        assert "netfs keygen --identity" in await town.refused(netfs.open_client(url))
    assert "TLS" in await town.refused(town.client(url="netfs+tcp://192.0.2.1:9")), "an identity does not make it less plain"


# ---- rights


async def test_a_key_that_may_only_read(town: Town) -> None:
    async with town.client() as client:
        await client.mkdir("/folder")
        await copy_something(client, 100_000)
    town.keys.write_text(f"{town.alice.fingerprint} alice ro\n")
    async with town.client() as client:
        assert sorted(await client.listdir("/")) == ["file", "folder"]
        async with await client.open("/file") as file:
            assert len(await file.read(200_000)) == 100_000
        for change in (
            lambda: client.open("/file", "w"),
            lambda: client.open("/file", "r+"),
            lambda: client.open("/new", "x"),
            lambda: client.mkdir("/other"),
            lambda: client.unlink("/file"),
            lambda: client.rmdir("/folder"),
            lambda: client.rename("/file", "/elsewhere"),
            lambda: client.truncate("/file", 0),
        ):
            with pytest.raises(OSError) as caught:
                await change()
            assert caught.value.errno == errno.EROFS
        assert (await client.stat("/file")).size == 100_000


async def test_rights_are_each_clients_own(town: Town) -> None:
    bob = identity(town.folder, "bob.id")
    town.keys.write_text(f"{town.alice.fingerprint} alice rw\n{bob.fingerprint} bob ro\n")
    async with town.client() as writer, town.client(bob) as reader:
        await copy_something(writer, 1000)
        with pytest.raises(OSError):
            await reader.unlink("/file")
        await writer.unlink("/file")


async def test_a_removed_key_and_a_spoiled_file_let_nobody_in(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    for content in ("", "nonsense\n", None):
        if content is None:
            town.keys.unlink()
        else:
            town.keys.write_text(content)
        assert "perhaps it does not know this key" in await town.refused(town.client())
    await town.settled()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3 and all(line.startswith("refused ") for line in told)
    assert "line 1" in told[1] and "No such file" in told[2]


async def test_files_that_a_server_cannot_start_with(tmp_path: Path) -> None:
    mine = identity(tmp_path, "id")
    keys = tmp_path / "keys"
    for prepare, path in (
        (lambda: None, keys),
        (partial(keys.write_text, "nonsense\n"), keys),
        (partial(mine.path.chmod, 0o644), mine.path),
    ):
        prepare()
        with pytest.raises(OSError) as caught:
            async with serve(MemoryStore(Probe()), identity=mine.path, authorized_keys=keys):
                pass
        assert caught.value.filename == str(path)
    with pytest.raises(ValueError, match="go together"):
        async with serve(MemoryStore(Probe()), identity=mine.path):
            pass


async def test_rdma_goes_through_the_gate(tmp_path: Path) -> None:
    """With keys RDMA is over TLS: for clients that are known, as their lines say, and for nobody else."""
    async with open_town(tmp_path) as town:
        async with serve(
            MemoryStore(Probe()), identity=town.server.path, authorized_keys=town.keys, rdma="127.0.0.1:0"
        ) as serving:
            url = serving.rdma_url
            assert url is not None and url.startswith("netfs+rdmas://127.0.0.1:")
            hosts = KnownHosts(tmp_path / "rdma_hosts")
            hosts.remember(netfs.parse_url(url).peer, town.server.fingerprint)
            data = bytes(range(256)) * 5000
            async with town.client(hosts="rdma_hosts", url=url) as client:
                async with await client.open("/file", "w+") as file:
                    assert await file.write(data) == len(data)
                    assert await file.read(len(data), 0) == data
            async with town.client(hosts="rdma_hosts", url=url + "?roce") as client, await client.open("/file", "r") as file:
                assert await file.read(len(data), 0) == data
            mallory = identity(tmp_path, "mallory")
            assert "it ended the connection" in await town.refused(town.client(mallory, "rdma_hosts", url))
            assert "is not known" in await town.refused(town.client(hosts="nobody", url=url))
            assert "needs an identity" in await town.refused(netfs.open_client(url))
            assert await town.refused(netfs.open_client(url.replace("rdmas", "rdma")))
            assert await town.refused(town.client(hosts="rdma_hosts", url=url.replace("+rdmas", "")))


# ---- those who break off, are slow, or leave


async def relay(town: Town, cut_there: int | None, cut_back: int | None, listener: socket.socket) -> None:
    """Pass one connection on to the server until so many bytes went one way."""
    with trio.socket.from_stdlib_socket(listener) as waiting:
        sock, _ = await waiting.accept()
    near = trio.SocketStream(sock)
    host, _, port = town.serving.address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as far, near, trio.open_nursery() as nursery:

        async def pour(source: trio.SocketStream, sink: trio.SocketStream, left: int | None) -> None:
            with trio.CancelScope():
                while chunk := await source.receive_some(left or 65536):
                    await sink.send_all(chunk)
                    if left is not None:
                        left -= len(chunk)
                        if not left:
                            break
            nursery.cancel_scope.cancel()

        nursery.start_soon(pour, near, far, cut_there)
        nursery.start_soon(pour, far, near, cut_back)


@pytest.mark.parametrize("back", [False, True], ids=["to the server", "to the client"])
async def test_a_handshake_cut_anywhere(town: Town, back: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The cut moves through every message, to the point where the handshake and the hello after it have passed."""
    refused, cut = 0, 1
    async with town.client() as good:
        while await cut_at(town, cut, back, caplog):
            refused, cut = refused + 1, cut + (5 if cut < 12 else 73)
        await copy_something(good, 10_000)
    assert refused > 10


async def cut_at(town: Town, cut: int, back: bool, caplog: pytest.LogCaptureFixture) -> bool:
    """Connect through a relay that cuts; return whether that was too early, and check that both sides took it well."""
    caplog.clear()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        KnownHosts(town.folder / f"cut{cut}").remember(address, town.server.fingerprint)
        said = ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, town, None if back else cut, cut if back else None, listener.dup())
            try:
                async with town.client(hosts=f"cut{cut}", url=f"netfs://{address}"):
                    pass
            except netfs.NotReachable as error:
                said = str(error)
    assert not said or (address in said and "\n" not in said)
    await town.settled(1)
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) <= 1 and all(record.exc_info is None for record in warned), caplog.text
    return bool(said)


async def test_a_slow_handshake_holds_nobody_up(town: Town) -> None:
    host, _, port = town.serving.address.rpartition(":")
    slow = [await trio.open_tcp_stream(host, int(port)) for _ in range(20)]
    for number, stream in enumerate(slow):
        await stream.send_all(b"\x16\x03\x01\x02\x00"[: 1 + number % 5])
    with trio.fail_after(60):
        async with town.client() as client:
            await copy_something(client)
    assert town.serving.server.connections >= 20
    for stream in slow:
        await stream.aclose()
    await town.settled()


async def test_a_client_that_leaves_after_the_handshake(town: Town) -> None:
    host, _, port = town.serving.address.rpartition(":")
    for _ in range(3):
        stream = client_side(socket.create_connection((host, int(port))), context=client_context(town.alice))
        await stream.handshake(ENV)
        stream.close()
    await town.settled()


async def test_cancelled_transfers_leave_the_connection_usable(town: Town) -> None:
    async with town.client() as client:
        await copy_something(client, 4 * MIB)
        target = bytearray(4 * MIB)
        async with await client.open("/file", "r+", direct=True) as file:
            for steps in range(12):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(file.preadv, [target], 0)
                        nursery.start_soon(file.pwritev, [bytes(MIB)], MIB)
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
            assert await file.preadv([target], 0) == 4 * MIB


async def test_a_connection_that_is_cut_later(town: Town) -> None:
    host, _, port = town.serving.address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    breaker = sock.dup()
    stream = client_side(sock, context=client_context(town.alice))
    await stream.handshake(ENV)
    with breaker:
        breaker.shutdown(socket.SHUT_RDWR)
    with pytest.raises(TransportError, match="cut the connection"):
        await stream.wait_readable()
        stream.recv_nowait([memoryview(bytearray(10))])
    stream.close()
    await town.settled()
