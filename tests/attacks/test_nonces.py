"""A25: no key meets a nonce twice, whatever the server says and whatever becomes of the client. And the ledger that tells."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from crypto.aead import Aead, Suite, XaesGcm
from netfs.fs.client import Client
from servers.stores.memory import MemoryStore
from tests import ledger
from tests.attacks.scene import BLOCK, KEY, ONE, Scene, get, in_scene, overwrite, put
from tests.ledger import NonceUsedTwice
from trials.pairs import pair


def test_the_ledger_stands_at_the_door() -> None:
    key, nonce = os.urandom(32), os.urandom(12)
    out = memoryview(bytearray(20))
    Aead(Suite.AES_256_GCM, key).encrypt_into(nonce, b"once", b"", out)
    Aead(Suite.AES_256_GCM, key).encrypt_into(nonce, b"once", b"", out)  # the same again tells nothing
    Aead(Suite.AES_256_OCB3, key).encrypt_into(nonce, b"else", b"", out)
    with pytest.raises(NonceUsedTwice):
        Aead(Suite.AES_256_GCM, key).encrypt_into(nonce, b"more", b"", out)
    wide = os.urandom(24)
    XaesGcm(key).seal(wide, b"once", b"")
    with pytest.raises(NonceUsedTwice):
        XaesGcm(key).seal(wide, b"more", b"")
    with ledger.chosen_nonces():
        XaesGcm(key).seal(wide, b"more", b"")


def test_a25_rolled_back_servers_do_not_make_a_nonce_repeat() -> None:
    async def test(scene: Scene, client: Client) -> None:
        for n in range(6):
            async with scene.mount() as fresh:
                before = ledger.entries()
                await overwrite(fresh, "/one", bytes([n]) * BLOCK)
                assert ledger.entries() > before + 1
            # Every later mount is shown the first version, and writes on from there.
            scene.attack.armed = n % 2 == 0
        scene.attack.armed = False
        async with scene.mount() as last:
            assert len(await get(last, "/one")) == len(ONE)

    in_scene("A10", "", test)


def test_a25_a_client_that_dies_before_its_commit_begins_with_other_nonces() -> None:
    async def main() -> None:
        store = MemoryStore()
        async with pair(keys=KEY, store=store, block_size=BLOCK) as p:
            await put(p.client, "/one", ONE)
        for n in range(4):
            with trio.move_on_after(5) as scope:
                async with pair(keys=KEY, store=store, block_size=BLOCK) as p:
                    file = await p.client.open("/one", "r+", direct=True)
                    for again in range(3):  # over what was written and is not committed
                        await file.write(bytes([n, again]) * BLOCK, BLOCK)
                    scope.cancel()  # no commit, no close
                    await trio.lowlevel.checkpoint()
        store.close()

    trio.run(main)


def test_a25_processes_that_were_one_draw_different_nonces() -> None:
    program = """
import os, sys
from transport.env import system_env
env = system_env()
env.nonces(12)
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, env.nonces(1200))
    os._exit(0)
os.wait()
theirs = os.read(read, 1200)
print(len(theirs), theirs == env.nonces(1200))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == ["1200", "False"]


def test_a42_equal_plaintexts_have_nothing_in_common() -> None:
    async def test(scene: Scene, client: Client) -> None:
        same = bytes(BLOCK)
        await put(client, "/zeros", same * 200)
        await put(client, "/more", same * 200)
        seen: set[bytes] = set()
        for path in ("/zeros", "/more"):
            handle = scene.handle(client, path)
            data, tags = scene.tamper.store.stream(handle), scene.tamper.store.stream(handle, aux=True)
            blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
            assert len(blocks) == 200
            assert bytes(BLOCK) not in blocks
            seen.update(blocks)
            assert all(len(set(block)) > 200 for block in blocks), "ciphertext looks like noise"
            entries = [tags[at : at + 28] for at in range(0, 128 * 32, 32)]
            assert len(set(entries)) == 128
        assert len(seen) == 400

    in_scene("A01", "block", test)
