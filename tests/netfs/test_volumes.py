"""Volumes on a server: found, opened, hidden, rotated; and what a server's own header gets to see, which is nothing."""

import errno
import os
from dataclasses import replace

import pytest
import trio

from crypto.errors import ENOKEY
from crypto.record import HEADER as RECORD_HEADER
from crypto.slots import FLOOR_KDF, Identity, Passphrase, RawKey
from crypto.volume import HEADER_MAX, HEADER_NAME, Header, new_volume, unlock
from netfs.fs.client import Client, open_client
from netfs.fs.encrypted import EncryptedVolume
from netfs.fs.volumes import create_header, find_header, open_found, open_volume, replace_header
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopTransport
from tests.netfs.sealed_world import EKEYREJECTED, fails, find, get, put
from transport.env import Env, system_env
from transport.messages import Create, Mkdir, Rename, Transact, Unlink, Write

OWNER, BOB = RawKey(b"k" * 32), Identity(b"b" * 32)
CHANGES = (Create, Mkdir, Rename, Transact, Unlink, Write)


def plain(store: MemoryStore) -> LoopTransport:
    return LoopTransport(store)


async def made(store: MemoryStore, header: Header, folder: str = "/") -> None:
    async with open_client(plain(store)) as client:
        if folder != "/":
            await client.mkdir(folder)
        await create_header(client, folder, header)


async def changed(client: Client, folder: str, header: Header) -> None:
    found = await find_header(client, folder)
    assert found is not None
    await replace_header(client, found, header)


async def test_a_volume_opens_for_owner_and_recipient() -> None:
    store = MemoryStore()
    header = new_volume(OWNER, os.urandom)
    await made(store, unlock(header, OWNER, pinned=None).with_recipient(BOB.recipients[0]))
    async with open_volume(plain(store), OWNER, pinned=header.fingerprint) as client:
        await put(client, "/file", b"secret" * 1000)
    async with open_volume(plain(store), BOB, pinned=header.fingerprint) as client:
        assert await get(client, "/file") == b"secret" * 1000
        assert await client.listdir("/") == ["file"]
    async with open_client(plain(store)) as client:
        shown = await client.listdir("/")
        assert (len(shown), HEADER_NAME in shown) == (2, True)
        assert "file" not in shown
    store.close()


async def test_the_header_cannot_be_named_by_who_opened_it() -> None:
    store = MemoryStore()
    header = new_volume(OWNER, os.urandom)
    await made(store, header)
    path = f"/{HEADER_NAME}"
    async with open_volume(plain(store), OWNER, pinned=None) as client:
        await put(client, "/file", b"x")
        assert not await client.exists(path)
        attempts = (
            client.open(path), client.open(path, "w"), client.open(path + ".new", "x"), client.unlink(path),
            client.truncate(path, 0), client.rename("/file", path),
            client.rename(path, "/other"), client.mkdir(path), client.rmdir(path),
        )  # fmt: skip
        for attempt in attempts:
            with fails(errno.ENOENT):
                await attempt
    async with open_client(plain(store)) as client:
        assert await get(client, path) == header.encode()
    store.close()


async def test_the_nearest_header_counts() -> None:
    store = MemoryStore()
    async with open_client(plain(store)) as client:
        assert await find_header(client, "/vault/deep/file") is None
        await client.mkdir("/vault/deep", parents=True)
        with fails(errno.ENOTEMPTY):
            await create_header(client, "/vault", new_volume(OWNER, os.urandom))
        await client.rmdir("/vault/deep")
        header = new_volume(OWNER, os.urandom)
        await create_header(client, "/vault", header)
        with fails(errno.EEXIST):
            await create_header(client, "/vault", header)
        for path in ("/vault", "/vault/", "/vault/deep", "/vault/deep/none", f"/vault/{HEADER_NAME}/x"):
            found = await find_header(client, path)
            assert found is not None and (found.path, found.header) == ("/vault", header)
        assert await find_header(client, "/other") is None
    store.close()


async def test_rotation_reseals_with_the_next_commit() -> None:
    store = MemoryStore()
    header = new_volume(OWNER, os.urandom)
    await made(store, unlock(header, OWNER, pinned=None).with_recipient(BOB.recipients[1]))
    async with open_volume(plain(store), OWNER, pinned=None) as old:
        for name in ("kept", "changed"):
            await put(old, f"/{name}", name.encode() * 5000)
        async with open_client(plain(store)) as client:
            found = await find_header(client, "/")
            assert found is not None
            volume = await open_found(client, found, OWNER, pinned=header.fingerprint)
            await replace_header(client, found, volume.rotated(OWNER, os.urandom))
            with fails(errno.EAGAIN):
                await replace_header(client, found, found.header)
            shown = await client.listdir("/")
            assert (len(shown), HEADER_NAME in shown) == (3, True)
            assert not {"changed", "kept"} & set(shown)
        async with open_volume(plain(store), BOB, pinned=header.fingerprint) as new:
            for name in ("kept", "changed"):
                assert await get(new, f"/{name}") == name.encode() * 5000
            async with await new.open("/changed", "r+", direct=True) as file:
                await file.write(b"!")
            assert await get(new, "/changed") == b"!" + (b"changed" * 5000)[1:]
            epochs = {}
            assert isinstance(new._volume, EncryptedVolume)
            new_key = new._volume.key
            for name in ("kept", "changed"):
                record, _ = store.record_get(find(store, name, new_key))
                epochs[name] = RECORD_HEADER.unpack_from(record)[3]
            assert epochs == {"kept": 1, "changed": 2}
        with fails(EKEYREJECTED):
            await old.stat("/changed")
        assert await get(old, "/kept") == b"kept" * 5000
    store.close()


async def refused(store: MemoryStore, secret: RawKey | Identity | Passphrase, pinned: bytes | None, code: int) -> None:
    """Assert that a volume does not open, and that nothing was written or encrypted on the way."""
    drawn: list[int] = []
    env = system_env()

    def nonces(count: int) -> bytes:
        drawn.append(count)
        return env.nonces(count)

    transport = plain(store)
    with fails(code):
        async with open_volume(transport, secret, pinned=pinned, env=replace(env, nonces=nonces)) as client:
            await put(client, "/file", b"never")
    assert not drawn
    assert not [request for request in transport.log if isinstance(request, CHANGES)]


async def test_a_header_the_server_made_gets_nothing() -> None:
    """A23: its own key wrapped for us, signed by its own owner; and what else it may show in place of the header."""
    store = MemoryStore()
    mine = new_volume(OWNER, os.urandom)
    forged = unlock(new_volume(RawKey(b"s" * 32), os.urandom), RawKey(b"s" * 32), pinned=None).with_recipient(BOB.recipients[0])
    await refused(store, BOB, mine.fingerprint, ENOKEY)
    await made(store, forged)
    await refused(store, BOB, mine.fingerprint, EKEYREJECTED)
    await refused(store, OWNER, None, EKEYREJECTED)
    await refused(store, Identity(b"c" * 32), None, ENOKEY)
    await refused(store, Passphrase(b"p"), None, ENOKEY)
    path = f"/{HEADER_NAME}"
    for content in (b"", b"iovc-volume 2\n", forged.encode()[:-1], b"\xff" * 100, bytes(HEADER_MAX + 1)):
        async with open_client(plain(store)) as client:
            await put(client, path, content)
        await refused(store, BOB, None, errno.EPROTO)
    async with open_client(plain(store)) as client:
        await client.truncate(path, 1 << 40)
    with trio.fail_after(1):
        await refused(store, BOB, None, errno.EPROTO)
    store.close()


async def test_a_passphrase_is_derived_away_from_the_event_loop() -> None:
    store = MemoryStore()
    secret = Passphrase(b"correct horse")
    await made(store, new_volume(secret, os.urandom, kdf=FLOOR_KDF))
    blocked: list[str] = []
    real = system_env()

    async def run_blocking(fn):  # type: ignore[no-untyped-def]
        blocked.append("yes")
        return await real.run_blocking(fn)

    env: Env = replace(real, run_blocking=run_blocking)
    async with open_volume(plain(store), secret, pinned=None, env=env) as client:
        await put(client, "/file", b"secret")
        assert await get(client, "/file") == b"secret"
    assert blocked
    await refused(store, Passphrase(b"wrong"), None, EKEYREJECTED)
    store.close()


async def test_keys_are_not_taken_while_files_are_open() -> None:
    store = MemoryStore()
    async with open_client(plain(store)) as client:
        await put(client, "/file", b"plain")
        key = unlock(new_volume(OWNER, os.urandom), OWNER, pinned=None).key
        async with await client.open("/file"):
            with pytest.raises(ValueError, match="in use"):
                client.use_keys(key)
        client.use_keys(key)
        with fails(errno.EPROTO):
            await client.open("/file")
    store.close()
