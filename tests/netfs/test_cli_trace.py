"""`--trace FILE`: a command records its connections; what is wrong with the file ends it."""

from pathlib import Path

import pytest

from iov.probe import Probe
from netfs.cli.dialing import Access, connected, open_trace_file, remote_place, tracing
from netfs.cli.host import CommandError, Exit
from servers import serve
from servers.stores.memory import MemoryStore


@pytest.mark.parametrize(("name", "code"), [("x.json", Exit.USAGE), ("none/x.txt", Exit.LOCAL)])
async def test_what_is_wrong_with_the_file_ends_the_command(name: str, code: Exit, tmp_path: Path) -> None:
    with pytest.raises(CommandError) as told:
        async with open_trace_file(str(tmp_path / name)):
            pass
    assert told.value.code == code


async def test_a_command_opens_its_trace_once(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    async with tracing(Access(trace=str(path))) as access:
        assert access.trace is None  # so that no connection opens it again
        async with tracing(access) as again:
            assert again.traced is access.traced is not None
    assert path.read_bytes() == b""


@pytest.mark.parametrize("together", [False, True])
async def test_connections_are_recorded_under_the_name_of_the_server(together: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    store = MemoryStore(Probe())
    async with serve(store) as server:
        place = remote_place(f"netfs+tcp://{server.address}/")
        access = Access(trace=str(path))
        if together:
            async with tracing(access) as traced:
                for _ in range(2):
                    async with connected(place, traced) as client:
                        await client.mkdir("/d", exist_ok=True)
        else:
            async with connected(place, access) as client:
                await client.mkdir("/d")
    store.close()
    lines = path.read_text().splitlines()
    assert all(f" {place.endpoint}: " in line for line in lines)
    assert sum("call_sent:" in line and " MKDIR+LEASE " in line for line in lines) == 1 + together
