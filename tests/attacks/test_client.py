"""What does not need a lying server: key budgets, commitments, leaks, and what a program does to its own buffers."""

import contextlib
import io
import logging
import os
import random
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from crypto import aead, keys
from crypto.errors import Malformed
from crypto.file import KEY_USES_MAX
from crypto.keys import VolumeKey
from crypto.record import Record, commitment, open_record, seal_record
from crypto.slots import RawKey
from netfs.fs.client import Client
from servers.stores.memory import MemoryStore
from tests.attacks.scene import BLOCK, KEY, NEW, ONE, Scene, get, in_scene, overwrite, put
from transport.messages import Handle, Step, StepKind
from transport.rdma.capture_file import open_capture
from trials.pairs import pair

rng = random.Random(33)
NAME = "the name of a secret file"


def record_of(store: MemoryStore, handle: Handle) -> tuple[Record, int]:
    sealed, generation = store.record_get(handle)
    return open_record(KEY, sealed), generation


@pytest.mark.chosen_nonces
def test_a29_a_record_is_bound_to_one_file_key() -> None:
    """A block that decrypts under two keys needs two records of one file; each names its key, and its own commitment."""
    mine = Record(b"i" * 16, b"f" * 32, aead.Suite.AES_256_GCM, 12)
    sealed = seal_record(KEY, mine, bytes(24))
    assert open_record(KEY, sealed) == mine
    body = KEY.inode.open(bytes(24), sealed[68:], b"iovc/1 inode" + KEY.vol_id + mine.file_id + bytes(4))
    at = body.index(commitment(mine.file_key, mine.file_id))
    for other in (b"g" * 32, bytes(32)):
        swapped = body.replace(mine.file_key, other)
        forged = sealed[:68] + KEY.inode.seal(bytes(24), swapped, b"iovc/1 inode" + KEY.vol_id + mine.file_id + bytes(4))
        with pytest.raises(Malformed):
            open_record(KEY, forged)
    assert at > 0


def test_a30_a_key_is_used_so_often_and_no_more() -> None:
    async def test(scene: Scene, client: Client) -> None:
        store, handle = scene.store, scene.handle(client, "/one")
        record, _ = record_of(store, handle)
        full = replace(record, uses=KEY_USES_MAX - 1, generation=record.generation + 1)
        sealed = seal_record(KEY, full, os.urandom(24))
        store.transact([], 0, [Step(StepKind.RECORD_PUT, handle, record=sealed)], None)
        async with scene.mount() as fresh:
            await overwrite(fresh, "/one", NEW, BLOCK)
            await overwrite(fresh, "/one", NEW, 3 * BLOCK)
        after, _ = record_of(store, handle)
        assert (record.rekey, after.rekey) == (0, 1)
        assert after.uses < 16
        async with scene.mount() as fresh:
            expected = ONE[:BLOCK] + NEW + ONE[2 * BLOCK : 3 * BLOCK] + NEW + ONE[4 * BLOCK :]
            assert await get(fresh, "/one") == expected, "blocks of the earlier number are readable still"

    in_scene("A01", "block", test)


def test_a40_a_buffer_that_changes_while_it_is_written() -> None:
    async def test(scene: Scene, client: Client) -> None:
        for seed in range(8):
            chance = random.Random(seed)
            buffer = bytearray(b"o" * (8 * BLOCK))
            done = trio.Event()

            async def scribble(chance: random.Random, buffer: bytearray, done: trio.Event) -> None:
                while not done.is_set():
                    at = chance.randrange(len(buffer))
                    buffer[at : at + 50] = b"n" * len(buffer[at : at + 50])
                    await trio.lowlevel.checkpoint()

            async with await client.open("/one", "r+", direct=True) as file:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(scribble, chance, buffer, done)
                    await file.pwritev([buffer], 0)
                    done.set()
            async with scene.mount() as fresh:
                got = await get(fresh, "/one")
                assert set(got[: 8 * BLOCK]) <= set(b"on"), "every block is readable, each byte old or new"

    in_scene("A01", "block", test)


# ---- A33: what is secret stays where it is


class Secrets:
    """Every key that comes into being while this watches."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.keys: set[bytes] = set()
        real = keys.hkdf_expand

        def watched(key: bytes, info: bytes, length: int) -> bytes:
            made = real(key, info, length)
            # What is published by design is no secret: names of keys and commitments.
            if not any(word in info for word in (b"\0id\0", b"commit")):
                self.keys.update((made, key))
            return made

        patch.setattr(keys, "hkdf_expand", watched)


def windows(content: bytes) -> Iterator[bytes]:
    """Every window of 8 bytes that starts at a multiple of 4."""
    return (content[at : at + 8] for at in range(0, len(content) - 7, 4))


def everything_in(store: MemoryStore, handle: Handle | None = None) -> Iterator[bytes]:
    """Yield all that a server holds."""
    entries, _ = store.readdir(handle or store.root().handle, 0, 1000)
    for entry in entries:
        yield entry.name.encode() + entry.certificate + (entry.record or b"")
        if entry.attr.type.name == "DIRECTORY":
            yield from everything_in(store, entry.handle)
        else:
            for aux in (False, True):
                yield stream_of(store, entry.handle, aux=aux)


def stream_of(store: MemoryStore, handle: Handle, *, aux: bool) -> bytes:
    from trials.faults.tamper import content_of

    return content_of(store.read_source(handle, 0, 1 << 24, aux=aux))


async def refused(client: Client, path: str, raised: list[BaseException]) -> None:
    try:
        await get(client, path)
    except OSError as error:
        raised.append(error)


def test_a33_nothing_secret_leaves_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    canary = rng.randbytes(3000)
    secrets = Secrets(monkeypatch)
    caplog.set_level(logging.DEBUG)
    raised: list[BaseException] = []
    hays: dict[str, bytes] = {}

    async def main() -> None:
        store = MemoryStore()
        key = VolumeKey(rng.randbytes(32), b"v" * 16, 1)
        for transport in ("stream", "rdma-memory"):
            with open_capture(tmp_path / f"{transport}.pcapng") as capture:
                async with pair(
                    transport,
                    keys=key, store=store, block_size=BLOCK, capture=capture, state=tmp_path / "state",
                ) as p:  # fmt: skip
                    await p.client.mkdir("/folder", exist_ok=True)
                    await put(p.client, f"/canary-{transport}", canary * 10)
                    await put(p.client, f"/folder/{NAME}", canary[:100])
                    await p.client.symlink(canary.hex()[:80], f"/{NAME}-{transport}")
                    assert await get(p.client, f"/canary-{transport}", direct=False) == canary * 10
                    log = [handle for handle, inode in p.client._inodes.items() if inode.path == f"/canary-{transport}"]
                    store.transact([], 0, [Step(StepKind.RECORD_PUT, log[0], record=b"junk")], None)
                    await refused(p.client, f"/canary-{transport}", raised)
                    with contextlib.suppress(OSError):
                        await p.client.unlink(f"/canary-{transport}")
                    await p.client.unlink(f"/folder/{NAME}")
                    raised.append(RuntimeError(repr((p.client, key, key.inode, p.keys, RawKey(b"k" * 32)))))
        hays["the store"] = b"\0".join(everything_in(store))
        store.close()

    trio.run(main)
    out = io.StringIO()
    for error in raised:
        traceback.print_exception(error, file=out, chain=True)
    hays["tracebacks and reprs"] = out.getvalue().encode()
    hays["logs"] = caplog.text.encode()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            hays[path.name] = path.read_bytes()
    assert len(secrets.keys) >= 10
    assert len(hays["stream.pcapng"]) > len(canary) * 10
    needles: dict[str, list[bytes]] = {"the canary": list(windows(canary)), "a key": [k[:8] for k in secrets.keys]}
    outside = {where for where in hays if where == "the store" or where.endswith(".pcapng")}
    names = [*windows(NAME.encode()), *windows(canary.hex()[:80].encode())]
    for where in outside:
        assert not [part for part in names if part in hays[where]], f"a name is in {where}"
    needles["a key in hexadecimal"] = [k[:8].hex().encode() for k in secrets.keys]
    for where, hay in hays.items():
        for what, parts in needles.items():
            assert not [part for part in parts if part in hay], f"{what} is in {where}"
    assert [part for part in windows(canary) if part in canary], "the search finds what is there"


def test_wrong_tags_leave_no_plaintext_behind() -> None:
    """A01, A41 on the level of the cipher, for each suite: the destination is zero."""
    for suite in aead.Suite:
        box = aead.Aead(suite, os.urandom(32))
        nonce, out = os.urandom(12), bytearray(BLOCK + 16)
        box.encrypt_into(nonce, ONE[:BLOCK], b"", memoryview(out))
        out[-1] ^= 1
        dest = bytearray(b"\xaa" * BLOCK)
        with pytest.raises(aead.BadTag):
            box.decrypt_into(nonce, out, b"", memoryview(dest))
        assert not any(dest)
