"""`--capture FILE`: a command shows its connections as packets; what is wrong with the file ends it."""

from pathlib import Path

import pytest

from iov.probe import Probe
from netfs.cli.dialing import Access, connected, open_capture_file, remote_place
from netfs.cli.host import CommandError, Exit
from servers import serve
from servers.stores.memory import MemoryStore
from tests.rdma.captured import read_packets, streams
from transport.rdma.capture_file import open_capture
from trials.pairs import TransportName, pair


@pytest.mark.parametrize(("name", "code"), [("x.pcap", Exit.USAGE), ("none/x.pcapng", Exit.LOCAL)])
async def test_what_is_wrong_with_the_file_ends_the_command(name: str, code: Exit, tmp_path: Path) -> None:
    with pytest.raises(CommandError) as told:
        async with open_capture_file(str(tmp_path / name)):
            pass
    assert told.value.code == code


@pytest.mark.parametrize("rdma", [False, True])
async def test_client_and_server_capture_the_same(rdma: bool, tmp_path: Path) -> None:
    paths = [tmp_path / "client.pcapng", tmp_path / "server.pcapng"]
    store = MemoryStore(Probe())
    with open_capture(paths[1]) as capture:
        async with serve(store, capture=capture, rdma="127.0.0.1:0") as server:
            url = server.rdma_url if rdma else server.url
            access = Access(capture=str(paths[0]), trace=str(tmp_path / "x.txt"))
            async with connected(remote_place(str(url)), access) as client:
                await client.mkdir("/d")
    store.close()
    mine, theirs = (streams(read_packets(path.read_bytes())) for path in paths)
    assert mine == theirs and len(mine) == 2
    assert any(value.startswith(b"MPA ID Req Frame" if rdma else b"NETFSIO1") for value in mine.values())
    assert (tmp_path / "x.txt").stat().st_size


@pytest.mark.parametrize("transport", ["stream", "rdma-memory", "rdma-stream"])
async def test_pairs_are_captured(transport: TransportName, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1024
    with open_capture(tmp_path / "x.pcapng") as capture:
        async with pair(transport, capture=capture, processes=1) as p:
            async with await p.client.open("/f", "w", direct=True) as file:
                await file.write(content)
            async with await p.client.open("/f", direct=True) as file:
                assert await file.read(len(content)) == content
    packets = read_packets((tmp_path / "x.pcapng").read_bytes())
    if transport == "rdma-memory":
        assert {packet.data[20:24][2:] for packet in packets} == {b"\x12\xb7"}
        assert sum(len(packet.data) for packet in packets) > 2 * len(content)
    else:
        assert all(len(value) > len(content) for value in streams(packets).values())
