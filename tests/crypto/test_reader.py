"""A folder that a server has kept, read by the reader that shares no code with the product."""

import os
import random
import sys
from pathlib import Path

import pytest

from crypto.keys import VolumeKey
from iov.probe import Probe
from servers.stores.directory import DirectoryStore
from tests.crypto.reader import Stored, Volume
from trials.pairs import pair

SECRET = bytes(range(32))


@pytest.mark.skipif(sys.platform != "linux", reason="the server of a real folder runs on Linux")
async def test_a_stored_volume_is_read_from_the_document_alone(tmp_path: Path) -> None:
    home = tmp_path / "export"
    home.mkdir()
    contents = {
        "/small": b"inside the record",
        "/one block": os.urandom(5000),
        "/deep/er/" + "long name " * 20: random.Random(1).randbytes(300_000),
        "/deep/empty": b"",
    }
    store = DirectoryStore(home, Probe())
    async with pair(keys=VolumeKey(SECRET), store=store, block_size=4096) as both:
        client = both.client
        await client.mkdir("/deep/er", parents=True)
        for path, content in contents.items():
            async with await client.open(path, "w") as file:
                await file.write(content)
        await client.symlink("small", "/link")
        await client.setxattr("/small", "user.colour", b"blue")
        async with await client.open("/one block", "r+") as file:
            await file.write(b"changed", 4090)
    contents["/one block"] = contents["/one block"][:4090] + b"changed" + contents["/one block"][4097:]
    store.close()
    volume = Volume({0: SECRET})
    top = Stored(home / ".netfs", home)
    for path, content in contents.items():
        record, found = volume.walk(top, path)
        assert volume.content(record, found.data, found.tags) == content
    record, found = volume.walk(top, "/link")
    assert (record.kind, record.inline) == ("symlink", b"small")
    record, found = volume.walk(top, "/small")
    assert volume.xattrs(record, found.xattrs) == {"user.colour": b"blue"}
    record, found = volume.walk(top, "/deep")
    assert sorted(volume.entries(record, found.entries())) == ["empty", "er"]
