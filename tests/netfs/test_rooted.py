"""Volumes with a root (level L2): what no client has seen is fresh all the same, and two clients take turns."""

import contextlib
import errno
import os
from pathlib import Path

import pytest
import trio

from crypto.keys import VolumeKey
from crypto.root import ROOT_NAME
from crypto.slots import RawKey
from crypto.volume import new_volume, parse_header, unlock
from iov.copy_iter import copy_to_iter
from servers.stores.memory import MemoryStore
from tests.attacks.scene import BAD, BLOCK, NEW, OLD, ONE, TWO, Scene, fails, get, overwrite, put, scene
from transport.messages import Handle, Step, StepKind
from trials.pairs import pair

KEY = VolumeKey(b"k" * 32, b"v" * 16, 1, rooted=True)


def found(store: MemoryStore, name: str) -> Handle:
    return next(entry.handle for entry in store.readdir(store.root().handle, 0, 99)[0] if entry.name == name)


def rooted(name: str, state: Path | None = None) -> "contextlib._AsyncGeneratorContextManager[Scene]":
    return scene(name, "", state=state, key=KEY)


async def test_a_volume_with_a_root_is_used_as_any(tmp_path: Path) -> None:
    store = MemoryStore()
    for round_ in range(3):
        async with pair(keys=KEY, store=store, block_size=BLOCK, state=tmp_path, clients=2) as p:
            one, two = p.clients
            await put(one, f"/file{round_}", ONE)
            await put(two, f"/other{round_}", TWO)
            await one.mkdir(f"/folder{round_}")
            await put(two, f"/folder{round_}/deep", NEW)
            await overwrite(two, f"/file{round_}")
            await one.rename(f"/folder{round_}/deep", f"/moved{round_}")
            assert await get(one, f"/file{round_}") == ONE[:BLOCK] + NEW + ONE[2 * BLOCK :]
            await two.unlink(f"/other{round_}")
            for client in (one, two):
                names = await client.listdir("/")
                assert names == sorted(f"{kind}{n}" for n in range(round_ + 1) for kind in ("file", "folder", "moved"))
    assert store.record_get(found(store, ROOT_NAME))[1] > 10
    store.close()


async def test_many_writers_at_once() -> None:
    store = MemoryStore()
    async with pair(keys=KEY, store=store, block_size=BLOCK, clients=3) as p:

        async def work(n: int) -> None:
            for turn in range(5):
                await put(p.clients[n], f"/of{n}-{turn}", bytes([n]) * 3 * BLOCK)

        async with trio.open_nursery() as nursery:
            for n in range(3):
                nursery.start_soon(work, n)
        assert len(await p.client.listdir("/")) == 15
    async with pair(keys=KEY, store=store, block_size=BLOCK) as p:
        for n in range(3):
            assert await get(p.client, f"/of{n}-4") == bytes([n]) * 3 * BLOCK
    store.close()


def test_a_file_this_client_has_never_seen_cannot_be_old() -> None:
    async def main() -> None:
        async with rooted("A10") as made:
            async with made.mount() as writer:
                await put(writer, "/one", ONE)
                await overwrite(writer, "/one")
                await put(writer, "/two", TWO)
                made.aim(made.handle(writer, "/one"))
            async with made.mount() as fresh:  # without any memory
                async with fails(OLD):
                    await get(fresh, "/one")
                assert await get(fresh, "/two") == TWO
                assert made.attack.struck
                assert made.audits()[0][3] == OLD
                made.attack.armed = False
                assert await get(fresh, "/one") == ONE[:BLOCK] + NEW + ONE[2 * BLOCK :]

    trio.run(main)


def test_a_removed_file_does_not_come_back_by_its_name() -> None:
    async def main() -> None:
        async with rooted("A45") as made, made.mount() as client:
            await put(client, "/one", ONE)
            await put(client, "/gone", NEW)
            assert await get(client, "/gone") == NEW
            await client.unlink("/gone")
            made.attack.armed = True
            async with made.mount() as fresh:
                async with fails(OLD, errno.ENOENT):
                    await get(fresh, "/gone")
                async with fails(BAD, OLD):
                    await fresh.listdir("/")
            assert made.attack.struck

    trio.run(main)


def test_the_whole_volume_as_it_was_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    async def main() -> None:
        async with rooted("A11", tmp_path) as made:
            async with made.mount(remember=True) as client:
                await put(client, "/one", ONE)
                made.attack.moment = made.tamper.store.moment  # type: ignore[attr-defined]
                await put(client, "/two", TWO)
            made.attack.armed = True
            async with made.mount(remember=True) as again:
                async with fails(OLD):
                    await again.listdir("/")
            assert made.attack.struck

    trio.run(main)


@pytest.mark.parametrize("what", ["gone", "record", "page", "empty"])
def test_a_root_that_is_lost_or_changed_is_refused(what: str) -> None:
    async def main() -> None:
        store = MemoryStore()
        async with pair(keys=KEY, store=store, block_size=BLOCK) as p:
            await put(p.client, "/one", ONE)
        handle = found(store, ROOT_NAME)
        record, _ = store.record_get(handle)
        if what == "gone":
            store.unlink(store.root().handle, ROOT_NAME)
        elif what == "page":
            for pos in range(64, 80):  # some of it is not what was there
                landing = store.write_landing(handle, pos, 1, aux=True)
                copy_to_iter(b"\xff", landing.iter.copy())
                store.write(handle, pos, landing, stable=True, aux=True)
        else:
            lie = b"" if what == "empty" else record[:-1] + bytes([record[-1] ^ 1])
            store.transact([], 0, [Step(StepKind.RECORD_PUT, handle, record=lie)], None)
        async with pair(keys=KEY, store=store, block_size=BLOCK) as p:
            async with fails(BAD):
                await get(p.client, "/one")
        store.close()

    trio.run(main)


def test_the_header_says_so() -> None:
    secret = RawKey(b"s" * 32)
    header = new_volume(secret, os.urandom, rooted=True)
    assert b"\nfreshness root\n" in header.encode()
    assert parse_header(header.encode()) == header
    assert unlock(header, secret, pinned=None).key.rooted
    assert unlock(unlock(header, secret, pinned=None).rotated(secret, os.urandom), secret, pinned=None).key.rooted
    assert not unlock(new_volume(secret, os.urandom), secret, pinned=None).key.rooted
    with pytest.raises(Exception, match="header"):
        unlock(parse_header(header.encode().replace(b"freshness root\n", b"")), secret, pinned=None)
