"""`netfs fsck` and what it finds: a flipped bit anywhere in what a server has stored, named by path."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from crypto.keys import VolumeKey
from netfs.fs.verify import Report, verify
from servers.stores.memory import MemoryStore
from tests.attacks.scene import BLOCK, KEY
from tests.netfs.test_cli_session import netfs, serving, told
from transport.messages import Step, StepKind
from trials.pairs import pair

LINUX = os.uname().sysname == "Linux"
pytestmark = pytest.mark.skipif(not LINUX, reason="the server of a real folder runs on Linux")
rng = random.Random(11)
TREE = {
    "/a": rng.randbytes(3 * BLOCK + 17),
    "/folder/b": rng.randbytes(2 * BLOCK),
    "/folder/deeper/small": b"a few bytes",
    "/folder/empty": b"",
    "/sparse": bytes(200 * BLOCK) + rng.randbytes(BLOCK),
}


async def fill(folder: Path, key: VolumeKey = KEY) -> None:
    async with pair(keys=key, store=folder, block_size=BLOCK) as p:
        for path, content in TREE.items():
            await p.client.mkdir(str(Path(path).parent), parents=True, exist_ok=True) if path.count("/") > 1 else None
            async with await p.client.open(path, "w", direct=True) as file:
                if path == "/sparse":
                    await file.write(content[-BLOCK:], 200 * BLOCK)
                elif content:
                    await file.write(content)


async def checked(folder: Path, *, content: bool = True) -> Report:
    async with pair(keys=KEY, store=folder) as p:
        return await verify(p.client, "/", content=content)


async def read_all(folder: Path) -> dict[str, bytes]:
    async with pair(keys=KEY, store=folder) as p:
        found = {}
        for path in TREE:
            async with await p.client.open(path, direct=True) as file:
                found[path] = await file.read()
        return found


def test_what_is_whole_is_whole(tmp_path: Path) -> None:
    trio.run(fill, tmp_path)
    report = trio.run(checked, tmp_path)
    assert report.damaged == []
    assert report.checked_files == len(TREE)
    assert report.checked_blocks == sum(-(-len(content) // BLOCK) for content in TREE.values())


def stored(folder: Path) -> Iterator[Path]:
    return (Path(where) / name for where, _, names in sorted(os.walk(folder)) for name in sorted(names))


def flip_and_check(folder: Path, path: Path, at: int, bit: int) -> None:
    """Flip a bit of a stored file: it is found by fsck and named, or it is of no consequence whatever."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    path.write_bytes(changed)
    try:
        try:
            report = trio.run(checked, folder)
        except OSError:
            return  # the server does not start with this, and says so
        except BaseExceptionGroup as group:
            if group.subgroup(OSError) is None:
                raise
            return
        if report.damaged:
            assert all(damage.path.startswith("/") and damage.reason for damage in report.damaged)
        else:
            assert trio.run(read_all, folder) == TREE, f"bit {bit} of byte {at} of {path} changed something, and was not found"
            assert not is_content(folder, path, at), f"bit {bit} of byte {at} of {path} was not found"
    finally:
        path.write_bytes(content)


def is_content(folder: Path, path: Path, at: int) -> bool:
    """Whether a byte is what a client has stored, and no bookkeeping of the server's; holes are nothing."""
    return ".netfs" not in path.parts and path.read_bytes()[at // BLOCK * BLOCK :][:BLOCK].strip(b"\0") != b""


def places(size: int, how_many: int) -> list[int]:
    """Return where to flip: both ends, and spread over the rest."""
    return sorted({0, size - 1, *(size * n // how_many for n in range(how_many))}) if size else []


@pytest.mark.parametrize("how_many", [1, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_bit_flipped_anywhere_is_found(tmp_path: Path, how_many: int) -> None:
    trio.run(fill, tmp_path)
    where = [(path, at) for path in stored(tmp_path) for at in places(path.stat().st_size, how_many)]
    assert len(where) > 10
    for path, at in where if how_many > 1 else rng.sample(where, 8):
        flip_and_check(tmp_path, path, at, (at * 7) % 8)
    assert trio.run(checked, tmp_path).damaged == []


def test_damage_is_named_by_path_and_block(tmp_path: Path) -> None:
    trio.run(fill, tmp_path)
    large = [path for path in stored(tmp_path) if path.stat().st_size == 4 * BLOCK]
    (data,) = [path for path in large if ".netfs" not in path.parts] or large
    content = bytearray(data.read_bytes())
    content[BLOCK + 5] ^= 1
    content[3 * BLOCK + 5] ^= 1
    data.write_bytes(content)
    report = trio.run(checked, tmp_path)
    assert [(damage.path, damage.block) for damage in report.damaged] == [("/a", 1), ("/a", 3)]
    assert all(damage.reason.startswith("EBADMSG: ") for damage in report.damaged)


def test_the_command(tmp_path: Path) -> None:
    folder, key = tmp_path / "export", tmp_path / "key"
    folder.mkdir()
    assert netfs("keygen", key).code == 0
    (tmp_path / "file").write_bytes(rng.randbytes(100_000))
    with serving(folder, "--listen", "127.0.0.1:0") as (url, _):
        assert netfs("cp", "--key-file", key, tmp_path / "file", f"{url}/one").code == 0
        assert netfs("cp", "--key-file", key, tmp_path / "file", f"{url}/two").code == 0
        done = netfs("fsck", "--key-file", key, "--json", url)
        assert done.code == 0
        assert json.loads(done.out) == {"checked_files": 2, "checked_blocks": 14, "damaged": []}
        told(netfs("fsck", url), 2, "--key-file")
        told(netfs("fsck", "--key-file", key, f"{url}/none"), 3, "No such file")
    victim = next(path for path in stored(folder) if path.stat().st_size > 100_000)
    content = bytearray(victim.read_bytes())
    content[20_000] ^= 8
    victim.write_bytes(content)
    with serving(folder, "--listen", "127.0.0.1:0") as (url, _):
        done = netfs("fsck", "--key-file", key, "--json", url)
        assert done.code == 1
        (damage,) = json.loads(done.out)["damaged"]
        assert damage["path"] in ("/one", "/two")
        assert damage["block"] == 1
        assert damage["reason"].startswith("EBADMSG")
        done = netfs("fsck", "--key-file", key, url)
        assert done.code == 1
        assert f"{damage['path']}: block 1: EBADMSG" in done.out
        assert "2 files, 14 blocks: 1 damaged" in done.out
        assert netfs("volume", "verify", "--key-file", key, url).code == 0, "names and records are whole"


def test_a_bad_record_is_named_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    """One object's record, certificate or attributes: its name, and everything else is verified all the same."""

    async def main() -> None:
        store = MemoryStore()
        async with pair(keys=KEY, store=store, block_size=BLOCK, state=tmp_path) as p:
            for path in ("/a", "/folder/b", "/folder/c", "/d"):
                await p.client.mkdir("/folder", exist_ok=True)
                async with await p.client.open(path, "w") as file:
                    await file.write(b"x" * 3 * BLOCK)
            await p.client.setxattr("/d", "user.colour", b"red")
        folder, a, d = [entry.handle for entry in store.readdir(store.root().handle, 0, 9)[0]]
        b, c = [entry.handle for entry in store.readdir(folder, 0, 9)[0]]

        def changed(data: bytes) -> bytes:
            return data[:-1] + bytes([data[-1] ^ 1])

        record, certificate, blob = store.record_get(a)[0], store.blob_get(b, 0), store.blob_get(d, 1)
        store.transact([], 0, [Step(StepKind.RECORD_PUT, a, record=changed(record))], None)
        store.transact([], 0, [Step(StepKind.BLOB_PUT, b, 0, record=changed(certificate))], None)
        store.transact([], 0, [Step(StepKind.BLOB_PUT, d, 1, record=changed(blob))], None)
        async with pair(keys=KEY, store=store, state=tmp_path) as p:
            report = await verify(p.client, "/")
        assert c
        paths = [damage.path for damage in report.damaged]
        assert {"/a", "/d", "/folder"} <= set(paths)
        assert len(paths) == 4, "the entry under a name that only the server knows, and the listing it is missing in"
        assert report.checked_files == 2
        store.close()

    trio.run(main)
