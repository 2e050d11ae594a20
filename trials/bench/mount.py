"""Trio shell. `mount.*`: a mounted export beside pyfuse3's own passthrough example, which has no server behind it.

Both are mounted on the same folder of a memory filesystem, by processes of their own, and are used in turn through the calls of
the `os` module. The client's caches are cold: each round reads a file that this mount has not read yet. The server's is warm.
The example is not part of any wheel: `NETFS_PYFUSE3_EXAMPLE` names the file `passthroughfs.py`, or pip fetches pyfuse3's source
archive once into the user's cache folder. Without `netfs[fuse]` there are no such figures. Owns the mounts and the folder.
"""

import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

import trio

from trials.bench.figure import Figure, Pairing
from trials.bench.limits import MB, timed
from trials.bench.wire import memory_folder
from trials.pairs import server_process

__all__ = ["FIGURES"]

BLOCK: Final = 1 << 20
BLOCKS: Final = 64
SMALL: Final = 4096
READS: Final = 2000
FILES: Final = 2000
ROUNDS: Final = 5
MOUNT_TIMEOUT_S: Final = 20
FETCH_TIMEOUT_S: Final = 600
Work = Callable[[Path, int], float]


def _example() -> Path:
    """Return pyfuse3's passthrough example, fetching it when it is not there yet. Raises: OSError."""
    named = os.environ.get("NETFS_PYFUSE3_EXAMPLE")
    if named:
        return Path(named)
    release = version("pyfuse3")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netfs" / f"pyfuse3-{release}-passthroughfs.py"
    if not cache.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder]
            subprocess.run([*command, f"pyfuse3=={release}"], check=True, timeout=FETCH_TIMEOUT_S)
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
                member = archive.extractfile(f"pyfuse3-{release}/examples/passthroughfs.py")
                assert member is not None
                cache.parent.mkdir(parents=True, exist_ok=True)
                cache.write_bytes(member.read())
    return cache


@asynccontextmanager
async def _mounted(command: list[str], folder: Path) -> AsyncIterator[None]:
    """Run a mount until the block ends."""
    process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL)
    try:
        with trio.fail_after(MOUNT_TIMEOUT_S):
            while not await trio.to_thread.run_sync(folder.is_mount):
                if process.poll() is not None:
                    raise OSError(f"{' '.join(command)}: did not mount")
                await trio.sleep(0.05)
        yield
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + MOUNT_TIMEOUT_S):
            await trio.run_process(["fusermount3", "-u", "-z", str(folder)], check=False)
            await process.wait()


@asynccontextmanager
async def _both(work: Work, fill: Callable[[Path], object] = Path.exists) -> AsyncIterator[Pairing]:
    """Mount the same folder twice. work: what is timed, with the mount and the number of the round."""
    served = memory_folder()
    mounts = [Path(tempfile.mkdtemp(prefix="netfs-bench-")) for _ in range(2)]
    number = count()
    try:
        await trio.to_thread.run_sync(fill, served)
        example = await trio.to_thread.run_sync(_example)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(server_process(served))
            ours = [sys.executable, "-m", "netfs", "mount", "--foreground", "--json", server.url, str(mounts[0])]
            theirs = [sys.executable, str(example), str(served), str(mounts[1])]
            for command, folder in zip((ours, theirs), mounts, strict=True):
                await stack.enter_async_context(_mounted(command, folder))

            async def through(folder: Path) -> float:
                return await trio.to_thread.run_sync(work, folder, next(number))

            yield Pairing(partial(through, mounts[0]), partial(through, mounts[1]))
    finally:
        await trio.to_thread.run_sync(partial(shutil.rmtree, served))
        for folder in mounts:
            folder.rmdir()


def _fill(folder: Path) -> None:
    """Make a file for each round of either mount, so that none is read twice through the same one."""
    for number in range(2 * (ROUNDS + 1)):
        with (folder / f"f{number}").open("wb") as file:
            for index in range(BLOCKS):
                file.write(index.to_bytes(8, "little") * (BLOCK // 8))


def _sequential_read(folder: Path, number: int) -> float:
    buffer = memoryview(bytearray(BLOCK))
    with (folder / f"f{number}").open("rb", buffering=0) as file, timed() as clock:
        for index in range(BLOCKS):
            done = 0
            while done < BLOCK:
                done += file.readinto(buffer[done:]) or BLOCK * BLOCKS
            assert done == BLOCK and buffer[:8] == index.to_bytes(8, "little")
    return BLOCKS * BLOCK / clock.seconds / MB


def _sequential_write(folder: Path, number: int) -> float:
    block = memoryview(bytes(range(256)) * (BLOCK // 256))
    path = folder / f"w{number}"
    with timed() as clock, path.open("wb", buffering=0) as file:
        for _ in range(BLOCKS):
            assert file.write(block) == BLOCK
    assert path.stat().st_size == BLOCKS * BLOCK
    path.unlink()
    return BLOCKS * BLOCK / clock.seconds / MB


def _random_reads(folder: Path, number: int) -> float:
    pages = random.Random(number).sample(range(BLOCKS * BLOCK // SMALL), READS)
    with (folder / f"f{number}").open("rb", buffering=0) as file, timed() as clock:
        for page in pages:
            assert os.pread(file.fileno(), SMALL, page * SMALL)[:8] == (page // 256).to_bytes(8, "little")
    return READS / clock.seconds


def _archive(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for number in range(FILES):
            member = tarfile.TarInfo(f"d{number % 40}/f{number}")
            member.size = 200 + number % 4000
            archive.addfile(member, io.BytesIO(bytes(member.size)))


def _untar(folder: Path, number: int) -> float:
    target = folder / f"t{number}"
    target.mkdir()
    content = (folder / "a.tar").read_bytes()
    with timed() as clock:
        subprocess.run(["tar", "xf", "-", "-C", target], input=content, check=True, timeout=60)
    assert len(list((target / "d7").iterdir())) == FILES // 40
    shutil.rmtree(target)
    return FILES / clock.seconds


FIGURES: Final = (
    ()
    if find_spec("pyfuse3") is None
    else (
        Figure("mount.seq_read_1m", "MB/s", "passthrough", 0.8, partial(_both, _sequential_read, _fill), rounds=ROUNDS),
        Figure("mount.seq_write_1m", "MB/s", "passthrough", 0.8, partial(_both, _sequential_write), rounds=ROUNDS),
        Figure("mount.rand_read_4k", "1/s", "passthrough", 0.5, partial(_both, _random_reads, _fill), rounds=ROUNDS),
        Figure("mount.untar_2000", "files/s", "passthrough", 0.4, partial(_both, _untar, _archive), rounds=3),
    )
)
