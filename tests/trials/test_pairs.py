"""Pairs: every transport, plain and encrypted, on a store in memory and on a folder; nothing is left running."""

import sys
from pathlib import Path

import pytest

import trials
from iov.probe import Probe
from servers.stores.memory import MemoryStore
from transport.rdma.profiles import IWARP, RXE, DeviceProfile
from trials.pairs import TRANSPORTS, TransportName, server_process

LINUX = sys.platform == "linux"


@pytest.mark.parametrize("encrypt", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_two_clients_share_a_file(transport: TransportName, encrypt: bool) -> None:
    async with trials.pair(transport, encrypt=encrypt, clients=2) as p:
        async with await p.client.open("/shared", "w") as file:
            await file.write(b"from one to the other")
        async with await p.clients[1].open("/shared") as file:
            assert await file.read(100) == b"from one to the other"
        assert p.client_probe.messages and p.client_probes[1].messages


@pytest.mark.skipif(not LINUX, reason="the directory store needs Linux")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_folder_holds_what_was_written(transport: TransportName, tmp_path: Path) -> None:
    async with trials.pair(transport, store=tmp_path) as p:
        await p.client.mkdir("/d")
        async with await p.client.open("/d/f", "w") as file:
            await file.write(b"content")
    assert (tmp_path / "d" / "f").read_bytes() == b"content"


async def test_a_store_of_ones_own_outlives_the_pair() -> None:
    store = MemoryStore(Probe())
    async with trials.pair(store=store) as p, await p.client.open("/kept", "w") as file:
        await file.write(b"kept")
    async with trials.pair(store=store) as p, await p.client.open("/kept") as file:
        assert await file.read(10) == b"kept"
    store.close()


async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-folder") as caught:
        async with server_process(tmp_path / "no-such-folder"):
            pass
    assert "Traceback" not in str(caught.value)


async def test_the_blocks_own_error_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with trials.pair():
            raise KeyError("mine")


@pytest.mark.parametrize("transport", ["rdma-memory", "rdma-stream"])
@pytest.mark.parametrize("profile", [RXE, IWARP], ids=["roce", "iwarp"])
async def test_rdma_by_either_rules(transport: TransportName, profile: DeviceProfile) -> None:
    data = bytes(range(256)) * 1000
    async with trials.pair(transport, processes=1, profile=profile) as p, await p.client.open("/f", "w+", direct=True) as file:
        assert await file.write(data) == len(data)
        assert await file.read(len(data), 0) == data
