"""A mount beside another mount, and beside a client of the library: what one changes the other sees."""

import os
import stat
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

import netfs
from crypto.slots import parse_secret
from netfs.fs.client import Client
from netfs.fs.volumes import open_volume
from tests.fuse.mounted import FOUR, Mounted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SIX = pytest.mark.parametrize(
    "mounted", ["plain", "encrypted", "rdma", "encrypted-rdma", "writeback", "encrypted-writeback"], indirect=True
)


@FOUR
def test_what_one_mount_changes_the_other_sees(mounted: Mounted, tmp_path: Path) -> None:
    """What was closed is there for whoever opens it; the names after a second at the latest."""
    one = mounted.folder
    with mounted.again(tmp_path / "second") as other:
        for turn, (writes, reads) in enumerate([(one, other), (other, one)] * 3):
            (writes / "f").write_bytes(b"%d" % turn * 5000)
            assert (reads / "f").read_bytes() == b"%d" % turn * 5000
            (writes / f"d{turn}").mkdir()
            (writes / f"d{turn}" / "new").write_bytes(b"new")
            assert (reads / f"d{turn}" / "new").read_bytes() == b"new"
            with (writes / "log").open("ab") as log:
                log.write(b"%d" % turn)
            assert (reads / "log").read_bytes() == b"012345"[: turn + 1]
        assert sorted(os.listdir(one)) == sorted(os.listdir(other)) == sorted(["f", "log", *(f"d{n}" for n in range(6))])
        (one / "d0" / "new").chmod(0o600)
        mounted.wait(lambda: stat.S_IMODE((other / "d0" / "new").stat().st_mode) == 0o600)
        (one / "d0").rename(one / "moved")
        mounted.wait(lambda: (other / "moved" / "new").exists() and not (other / "d0").exists())
        (other / "moved" / "new").unlink()
        (other / "moved").rmdir()
        mounted.wait(lambda: not (one / "moved").exists())
        (one / "d1" / "new").unlink()
        (one / "d1" / "new").mkdir()
        mounted.wait(lambda: (other / "d1" / "new").is_dir())


@SIX
def test_an_open_file_shows_what_the_other_mount_changes(mounted: Mounted, tmp_path: Path) -> None:
    """The kernel forgets what it has of a file when the server asks the lease back, and first sends what is dirty."""
    with mounted.again(tmp_path / "second") as other:
        for name in "fgh":
            path = mounted.folder / name
            path.write_bytes(b"old " * 1000)
            with path.open("r+b", buffering=0) as file:
                fd = file.fileno()
                assert os.pread(fd, 4, 0) == os.pread(fd, 4, 2000) == b"old "
                os.pwrite(fd, b"mine", 0)
                with (other / name).open("r+b", buffering=0) as there:
                    assert os.pread(there.fileno(), 4, 0) == b"mine"
                    os.pwrite(there.fileno(), b"new " * 500, 2000)
                mounted.wait(lambda fd=fd: os.pread(fd, 4, 2000) == b"new ")  # type: ignore[misc]
                assert os.pread(fd, 4, 0) == b"mine"
            assert path.read_bytes() == (other / name).read_bytes() == b"mine" + b"old " * 499 + b"new " * 500


@SIX
async def test_another_client_is_seen_through_an_open_file(mounted: Mounted, tmp_path: Path) -> None:
    """What the kernel has of a file goes when the lease is asked back, not only at the next open; and the other way round."""
    path = mounted.folder / "f"
    async with AsyncExitStack() as stack:
        client: Client
        if mounted.encrypted:
            secret = parse_secret((tmp_path / "key").read_bytes())
            client = await stack.enter_async_context(open_volume(mounted.url, secret, pinned=None, freshness="session"))
        else:
            client = await stack.enter_async_context(netfs.open_client(mounted.url))
        run = partial(
            trio.to_thread.run_sync, abandon_on_cancel=True
        )  # the kernel's calls wait while this client gives leases back
        await run(path.write_bytes, b"old " * 1000)
        file = await run(os.open, path, os.O_RDWR)
        try:
            assert await run(os.pread, file, 4, 0) == b"old " and await run(os.pread, file, 4, 2000) == b"old "
            await run(os.pwrite, file, b"mine", 0)
            async with await client.open("/f", "r+") as other:
                assert (await other.read())[:5] == b"mineo"  # what was dirty here was sent before the other might read
                await other.write(b"new " * 1000, 0)
            while await run(os.pread, file, 4, 2000) != b"new ":  # noqa: ASYNC110 - the kernel tells nobody
                await trio.sleep(0.02)
            assert await run(os.pread, file, 4, 0) == b"new "
        finally:
            await run(os.close, file)
        async with await client.open("/f", "r+") as other:
            assert (await other.read())[:4] == b"new "
            await run(path.write_bytes, b"last" * 1000)
            while (await other.read(4, 0)) != b"last":  # noqa: ASYNC110
                await trio.sleep(0.02)
        await client.mkdir("/d")
        await run((mounted.folder / "d" / "g").write_bytes, b"g")
        assert [entry.name async for entry in client.scandir("/d")] == ["g"]
        async with await client.open("/d/h", "x") as made:
            await made.write(b"h")
        assert await run((mounted.folder / "d" / "h").read_bytes) == b"h"
