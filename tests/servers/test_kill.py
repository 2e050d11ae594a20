"""A real server process is killed with SIGKILL at any moment; what it promised holds, and what it did it did once."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest
import trio

import netfs
from netfs import Client
from netfs.engine.writeback import END_OF_TIME, flush_range

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="serves a real folder")


SLOW_DISK = """
import time
from netfs.cli.main import main
from servers.state import ServerState
write = ServerState._writing
ServerState._writing = lambda self: time.sleep(0.03) or write(self)
raise SystemExit(main())
"""
"""A server whose database takes its time, so that kills fall between what was done and what is kept of it."""


class Served:
    """`netfs serve` on a folder, which can be killed and started again at the same address."""

    def __init__(self, folder: Path, socket: Path, *, slow_disk: bool = False) -> None:
        self.folder = folder
        self.url = f"netfs+unix://{socket}:/"
        program = ["-c", SLOW_DISK] if slow_disk else ["-m", "netfs"]
        self._command = [sys.executable, *program, "serve", os.fspath(folder), "--listen", f"unix:{socket}", "--json"]
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline(), "it started"
        return process

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def start(self) -> None:
        self.process = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


async def kill_now_and_then(served: Served, times: int, rng: random.Random, done: trio.Event) -> None:
    for _ in range(times):
        await trio.sleep(rng.uniform(0.02, 0.3))
        await trio.to_thread.run_sync(served.kill)
        await trio.to_thread.run_sync(served.start)
    done.set()


async def churn(client: Client, name: str, done: trio.Event, kept: dict[str, bytes], rng: random.Random) -> None:
    """Make, write, sync, rename and remove files; `kept` says what must be there."""
    number = 0
    while not done.is_set() or number < 10:
        number += 1
        path = f"/{name}/{number}"
        data = rng.randbytes(rng.randrange(1, 200_000))
        async with await client.open(path, "x") as file:  # EEXIST would tell that it was done twice
            await file.write(data)
            if rng.random() < 0.5:
                await file.fsync()
        await client.rename(path, f"{path}-moved")  # ENOENT would
        kept[f"{path}-moved"] = data
        if rng.random() < 0.3:
            await client.unlink(f"{path}-moved")
            del kept[f"{path}-moved"]
        async with await client.open(f"/{name}.log", "a") as log:
            await log.write(b"%d\n" % number)
    kept[f"/{name}.log"] = b"".join(b"%d\n" % line for line in range(1, number + 1))


async def compare(client: Client, folder: Path, kept: dict[str, bytes]) -> None:
    for path, data in kept.items():
        async with await client.open(path) as file:
            assert await file.read() == data, path
        assert (folder / path[1:]).read_bytes() == data
    assert files_of(folder) == set(kept)


def files_of(folder: Path) -> set[str]:
    return {f"/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file() and ".netfs" not in path.parts}


async def killed_under_load(tmp_path: Path, times: int, workers: int, seed: int, *, slow_disk: bool = False) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    rng = random.Random(seed)
    kept: list[dict[str, bytes]] = [{} for _ in range(workers)]
    with Served(folder, tmp_path / "socket", slow_disk=slow_disk) as served:
        async with netfs.open_client(served.url, hard=True) as client:
            done = trio.Event()
            async with trio.open_nursery() as nursery:
                for worker in range(workers):
                    await client.mkdir(f"/w{worker}")
                    nursery.start_soon(churn, client, f"w{worker}", done, kept[worker], random.Random(rng.random()))
                nursery.start_soon(kill_now_and_then, served, times, rng, done)
        async with netfs.open_client(served.url) as fresh:
            await compare(fresh, folder, {path: data for one in kept for path, data in one.items()})


@pytest.mark.slow
@pytest.mark.parametrize("slow_disk", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_killed_at_random_moments_under_load(tmp_path: Path, seed: int, slow_disk: bool) -> None:
    await killed_under_load(tmp_path, times=6, workers=4, seed=seed, slow_disk=slow_disk)


async def test_a_file_stays_open_over_a_kill_and_unsynced_data_is_sent_again(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    with Served(folder, tmp_path / "socket") as served:
        async with netfs.open_client(served.url, hard=True) as client:
            await client.mkdir("/a/b/c", parents=True)
            async with await client.open("/a/b/c/file", "x") as file:
                await file.write(b"before ")
                await flush_range(file._inode, 0, END_OF_TIME)
                assert file._inode.mapping.unstable
                served.kill()
                served.start()
                await file.write(b"and after")
                await file.fsync()
                assert (folder / "a/b/c/file").read_bytes() == b"before and after"
            served.kill()
            served.start()
            assert await client.listdir("/a/b/c") == ["file"]


@pytest.mark.slow
async def test_killed_beside_a_removed_file_that_is_open(tmp_path: Path) -> None:
    """It lives until its last close, whether the server is killed before, in or after its removal."""
    folder = tmp_path / "export"
    folder.mkdir()
    with Served(folder, tmp_path / "socket") as served:

        def again() -> None:
            served.kill()
            served.start()

        async with netfs.open_client(served.url, hard=True) as one, netfs.open_client(served.url, hard=True) as other:
            async with await one.open("/removed", "w+") as removed, await one.open("/replaced", "w+", direct=True) as replaced:
                for file in (removed, replaced):
                    await file.write(b"before" * 20_000)
                    await file.fsync()
                async with await other.open("/new", "x") as new:
                    await new.write(b"new")
                async with (
                    trio.open_nursery() as nursery
                ):  # killed in the middle of it, or before: who asked is answered by the next
                    nursery.start_soon(other.unlink, "/removed")
                    nursery.start_soon(other.rename, "/new", "/replaced")
                    await trio.to_thread.run_sync(again)
                for number in range(2):
                    one.drop_caches()
                    for file in (removed, replaced):
                        found = bytearray(200_000)
                        assert await file.preadv([found], 0) == 120_000 + 5 * number
                        assert found[:120_005] == b"before" * 20_000 + b"after" * number + bytes(5 * (1 - number))
                        if not number:
                            await file.write(b"after", 120_000)
                            await file.fsync()
                    await trio.to_thread.run_sync(again)
                assert await other.listdir("/") == ["replaced"]
                assert len(list((folder / ".netfs" / "removed").iterdir())) == 2
            async with await other.open("/replaced") as file:
                assert await file.read() == b"new"


async def test_the_session_of_a_client_outlives_an_ordered_stop(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    with Served(folder, tmp_path / "socket") as served:
        async with netfs.open_client(served.url, hard=True) as client:
            await client.mkdir("/a")
            served.kill(signal.SIGTERM)
            assert served.process.returncode == 0
            served.start()
            await client.mkdir("/b")
            assert len(list((folder / ".netfs" / "slots").iterdir())) == 1
        assert list((folder / ".netfs" / "slots").iterdir()) == []
