"""Attacks on blocks, tags and records of a file: A01 to A10, A13, A20, A34, A35, A39, A41, A44, A46 to A48."""

import errno
import os
from pathlib import Path

import pytest
import trio

from crypto.keys import VolumeKey
from netfs.fs.client import Client
from netfs.fs.seen import SeenLog, log_path
from tests.attacks.scene import (
    BAD,
    BLOCK,
    KEY,
    NEW,
    OLD,
    ONE,
    PROTO,
    REJECTED,
    TWO,
    Scene,
    attempt,
    fails,
    get,
    in_scene,
    overwrite,
    put,
    refused_block,
    refused_file,
    scene,
    two_files,
    variants,
)  # fmt: skip


@variants("A01")
@pytest.mark.parametrize("bit", [0, 77, 32767])
def test_a01_flipped_bits(variant: str, bit: int) -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.attack.bit = bit
        async with scene.mount() as fresh:
            if variant == "record":
                scene.aim(scene.handle(client, "/one"))
                await refused_file(scene, fresh, BAD, PROTO, REJECTED)
            elif variant == "block":
                scene.aim(scene.handle(client, "/one"))
                await refused_block(scene, fresh)
            else:
                # One page has all the tags of a file as small as this.
                scene.aim(scene.handle(client, "/one"))
                await refused_file(scene, fresh, BAD)

    in_scene("A01", variant, test)


def test_a01_every_bit_of_a_block_its_tag_and_its_record() -> None:
    async def test(scene: Scene, client: Client) -> None:
        handle = scene.handle(client, "/one")
        scene.aim(handle)
        for bit in [*range(0, BLOCK * 8, 211), BLOCK * 8 - 1]:
            scene.attack.bit = bit
            async with await client.open("/one", direct=True) as file:
                async with fails(BAD):
                    await file.read(BLOCK, BLOCK)

    in_scene("A01", "block", test)


@variants("A02")
def test_a02_swapped_blocks(variant: str) -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            if variant == "block":
                await refused_block(scene, fresh)
            else:
                await refused_file(scene, fresh, BAD)

    in_scene("A02", variant, test)


@variants("A03")
def test_a03_a_block_of_another_file(variant: str) -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.attack.other = scene.handle(client, "/two")
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            if variant == "block":
                await refused_block(scene, fresh)
            else:
                await refused_file(scene, fresh, BAD)

    in_scene("A03", variant, test)


@variants("A04")
def test_a04_an_old_block(variant: str) -> None:
    async def test(scene: Scene, client: Client) -> None:
        await overwrite(client, "/one")
        truth = ONE[:BLOCK] + NEW + ONE[2 * BLOCK :]
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            if variant == "block":
                await refused_block(scene, fresh, truth=truth)
            else:
                await refused_file(scene, fresh, BAD, truth=truth)

    in_scene("A04", variant, test)


@variants("A05")
def test_a05_a_block_twice_or_left_out(variant: str) -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            if variant == "duplicate":
                await refused_block(scene, fresh)
            else:
                await refused_file(scene, fresh, BAD)

    in_scene("A05", variant, test)


@variants("A06")
def test_a06_zeros_are_never_shown_for_data(variant: str) -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            await refused_block(scene, fresh)

    in_scene("A06", variant, test)


def test_a07_holes_are_zeros_and_not_asked_for() -> None:
    async def test(scene: Scene, client: Client) -> None:
        async with await client.open("/sparse", "w", direct=True) as file:
            await file.write(NEW, 20 * BLOCK)
        handle = scene.handle(client, "/sparse")
        scene.aim(handle)
        async with scene.mount() as fresh:
            for direct in (True, False):
                assert await get(fresh, "/sparse", direct=direct) == bytes(20 * BLOCK) + NEW
        assert not scene.attack.struck, "the server was asked for a hole"
        # The same lie for what is no hole is noticed, so it would have been told.
        lie = scene.tamper.store.read_source(handle, 0, BLOCK)
        assert lie.length == BLOCK
        assert scene.attack.struck

    in_scene("A07", "", test)


@variants("A08")
def test_a08_cut_off(variant: str) -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            assert (await fresh.stat("/one")).size == len(ONE), "the size that was sealed"
            async with await fresh.open("/one", direct=True) as file:
                assert file.size == len(ONE)
                if variant == "size":
                    assert await file.read() == ONE
                else:
                    assert await file.read(BLOCK, 0) == ONE[:BLOCK]
                    buffer = bytearray(b"\xaa" * BLOCK)
                    async with fails(BAD):
                        await file.preadv([buffer], BLOCK)
                    assert set(buffer) <= {0, 0xAA}
                    async with fails(BAD):
                        await file.read(BLOCK, 5 * BLOCK)
                    assert {fields[2] for fields in scene.audits()} == {1, 5}
            assert await get(fresh, "/two") == TWO
            assert scene.attack.struck
            scene.attack.armed = False
            assert await get(fresh, "/one", direct=False) == ONE

    in_scene("A08", variant, test)


@variants("A09")
def test_a09_bytes_behind_the_end_are_never_returned(variant: str) -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            for direct in (True, False):
                assert await get(fresh, "/one", direct=direct) == ONE
            assert (await fresh.stat("/one")).size == len(ONE)
            async with await fresh.open("/one", direct=True) as file:
                assert await file.read(10 * BLOCK, len(ONE) - 5) == ONE[-5:]
                assert await file.read(BLOCK, 8 * BLOCK) == b""
        assert scene.attack.struck or variant == "data"

    in_scene("A09", variant, test)


def test_a10_a_whole_file_as_it_was(tmp_path: Path) -> None:
    async def main() -> None:
        async with scene("A10", state=tmp_path) as made:
            async with made.mount(remember=True) as client:
                await two_files(client)
                await overwrite(client, "/one")
                made.aim(made.handle(client, "/one"))
                # While it is mounted.
                async with fails(OLD):
                    await get(client, "/one")
                assert await get(client, "/two") == TWO
                assert made.audits()[-1][0] == "/one"
                assert made.audits()[-1][3] == OLD
            # From the next mount on the whole volume is in doubt.
            async with fails(OLD):
                async with made.mount(remember=True):
                    pass
            # Without a memory nobody can tell: the documented limit.
            async with made.mount() as unknowing:
                assert await get(unknowing, "/one") == ONE
            assert made.attack.struck

    trio.run(main)


def test_a10_a_rollback_first_shown_after_a_remount(tmp_path: Path) -> None:
    async def main() -> None:
        async with scene("A10", state=tmp_path) as made:
            async with made.mount(remember=True) as client:
                await two_files(client)
                await overwrite(client, "/one")
                victim = made.handle(client, "/one")
            made.aim(victim)
            async with made.mount(remember=True) as again:
                await refused_file(made, again, OLD, truth=ONE[:BLOCK] + NEW + ONE[2 * BLOCK :])
            log = SeenLog(log_path(tmp_path, KEY), KEY, os.urandom)
            assert {seen.generation for seen in log.marks.tainted} == {2}
            log.close()
            async with fails(OLD):
                async with made.mount(remember=True):
                    pass

    trio.run(main)


def test_a13_another_file_under_this_name() -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.attack.other = scene.handle(client, "/two")
        scene.aim(scene.handle(client, "/one"))
        # A client that has had the file open knows which it is.
        await refused_file(scene, client, BAD)

    in_scene("A13", "", test)


@variants("A34")
def test_a34_crossed_answers(variant: str) -> None:
    async def test(scene: Scene, client: Client) -> None:
        for at in range(4):  # the answers that are given again
            async with await client.open("/one", direct=True) as file:
                await file.read(BLOCK, at * BLOCK)
        await overwrite(client, "/one")
        scene.aim(scene.handle(client, "/one"))
        truth = ONE[:BLOCK] + NEW + ONE[2 * BLOCK :]
        refused = 0
        for at in (1, 3, 1, 0, 2):
            got, code = await attempt(client, "/one", at * BLOCK)
            assert got == truth[at * BLOCK : (at + 1) * BLOCK] or code in (BAD, OLD)
            refused += code != 0
        assert refused or variant == "crossed", "a second answer may be the right one"
        assert len(scene.audits()) == refused
        assert scene.attack.struck
        assert await get(client, "/two") == TWO

    in_scene("A34", variant, test)


@variants("A35")
def test_a35_a_commit_that_was_not_done(variant: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with scene("A35", variant, state=tmp_path) as made:
            async with made.mount(remember=True) as client:
                await two_files(client)
                made.aim(made.handle(client, "/one"))
                await overwrite(client, "/one")  # as far as the client can know, it is safe
                made.attack.armed = False
            async with made.mount(remember=True) as again:
                assert made.attack.struck
                async with fails(OLD if variant != "record-only" else BAD):
                    await get(again, "/one")
                assert await get(again, "/two") == TWO
                assert made.audits()[-1][0] == "/one"

    trio.run(main)


def test_a39_a_bad_block_is_not_written_over_in_part() -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            async with await fresh.open("/one", "r+", direct=True) as file:
                async with fails(BAD):
                    await file.write(b"x", BLOCK + 1)
            async with await fresh.open("/one", "r+") as file:
                async with fails(BAD):
                    await file.write(b"x", BLOCK + 1)
                    await file.fsync()
            async with await fresh.open("/one", "r+", direct=True) as file:
                await file.write(NEW, BLOCK)
            scene.attack.armed = False
            assert await get(fresh, "/one") == ONE[:BLOCK] + NEW + ONE[2 * BLOCK :]
        assert scene.attack.struck

    in_scene("A01", "block", test)


def test_a41_a_bad_block_in_the_middle_of_a_read() -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.attack.block = 3
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            async with await fresh.open("/one", direct=True) as file:
                first, second = bytearray(b"\xaa" * (2 * BLOCK + 7)), bytearray(b"\xaa" * (4 * BLOCK))
                got = await file.preadv([first, second], 0)
                assert got == 3 * BLOCK
                both = bytes(first + second)
                assert both[:got] == ONE[:got]
                assert set(both[3 * BLOCK : 4 * BLOCK]) <= {0, 0xAA}
                async with fails(BAD):
                    await file.read(BLOCK, got)
        assert scene.attack.struck

    in_scene("A01", "block", test)


@variants("A44")
def test_a44_lost_objects_and_errors_that_mean_nothing(variant: str) -> None:
    expected = {"enoent": (errno.ENOENT,), "enospc": (errno.ENOSPC,), "eio": (errno.EIO,), "record": (PROTO, BAD)}
    # A number that is no errno of this system is passed on, or refused as a message.
    codes = (3999, PROTO, errno.EIO) if variant == "garbage" else expected.get(variant, (BAD,))

    async def test(scene: Scene, client: Client) -> None:
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            async with fails(*codes):
                await get(fresh, "/one")
            async with fails(*codes, errno.EEXIST):
                await overwrite(fresh, "/one", b"part", BLOCK + 5)
            assert scene.attack.struck
            scene.attack.armed = False
            assert await get(fresh, "/one") == ONE, "nothing was made anew over what was there"
            assert await get(fresh, "/two") == TWO

    in_scene("A44", variant, test)


@variants("A46")
def test_a46_versions_and_kinds(variant: str) -> None:
    async def test(scene: Scene, client: Client) -> None:
        scene.aim(scene.handle(client, "/one"))
        async with scene.mount() as fresh:
            if variant == "kind":
                got, code = await attempt(fresh, "/one", 0)
                assert got == ONE[:BLOCK] or code in (PROTO, BAD), "the sealed kind holds"
            else:
                await refused_file(scene, fresh, PROTO, BAD)
        assert scene.attack.struck

    in_scene("A46", variant, test)


def test_a47_an_object_of_another_volume() -> None:
    async def main() -> None:
        async with scene("A47") as made:
            for name in ("here", "elsewhere"):
                made.store.mkdir(made.store.root().handle, name, 0o700)
            async with made.mount(VolumeKey(b"o" * 32, b"o" * 16, 1)) as elsewhere:
                elsewhere._top = ["elsewhere"]
                await put(elsewhere, "/one", ONE)
                theirs = made.handle(elsewhere, "/one")
            async with made.mount() as client:
                client._top = ["here"]
                await two_files(client)
                made.attack.other = theirs
                made.aim(made.handle(client, "/one"))
                await refused_file(made, client, BAD, REJECTED)

    trio.run(main)


@variants("A48")
def test_a48_the_clients_own_bytes(variant: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with scene("A48", variant, state=tmp_path) as made, made.mount(remember=True) as client:
            await two_files(client)
            await overwrite(client, "/one")
            made.aim(made.handle(client, "/one"))
            async with fails(BAD, OLD):
                await get(client, "/one")
            assert made.attack.struck
            assert await get(client, "/two") == TWO

    trio.run(main)
