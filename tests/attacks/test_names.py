"""Attacks on names and directories: A11, A12, A14 to A21, A37, A45."""

import contextlib
import errno
from pathlib import Path

import pytest
import trio

from crypto.keys import VolumeKey
from netfs.fs.client import Client
from tests.attacks.scene import (
    BAD,
    BLOCK,
    NEW,
    OLD,
    ONE,
    PROTO,
    TWO,
    Scene,
    attempt,
    fails,
    get,
    overwrite,
    put,
    scene,
    variants,
)

VOLUME = VolumeKey(b"k" * 32, b"v" * 16, 1)
REFUSED = (BAD, PROTO)


async def a_tree(client: Client) -> None:
    await put(client, "/one", ONE)
    await put(client, "/two", TWO)
    for folder in ("/left", "/right"):
        await client.mkdir(folder)
        await put(client, f"{folder}/one", ONE[:100])
        await put(client, f"{folder}/more", TWO[:100])


def tree_scene(name: str, variant: str, state: Path | None = None) -> "contextlib._AsyncGeneratorContextManager[Scene]":
    return scene(name, variant, state=state, key=VOLUME)


async def listed(client: Client, path: str) -> list[str] | int:
    try:
        return await client.listdir(path)
    except OSError as error:
        return error.errno or errno.EIO


async def still_fine(made: Scene, client: Client) -> None:
    """e: it was told of, by a path and a reason; d: what the lie was not about is there; c: and when the lie ends, all is."""
    assert made.audits()
    for path, _, _, code, reason in made.audits():
        assert (str(path)[0], code in (*REFUSED, OLD), bool(reason)) == ("/", True, True)
    made.attack.armed = False
    assert await client.listdir("/") == ["left", "one", "right", "two"]
    assert await client.listdir("/left") == ["more", "one"]
    assert await get(client, "/one", direct=False) == ONE
    assert await get(client, "/two") == TWO


def test_a11_the_whole_volume_as_it_was(tmp_path: Path) -> None:
    async def main() -> None:
        async with tree_scene("A11", "", tmp_path) as made:
            async with made.mount(remember=True) as client:
                await a_tree(client)
                made.attack.moment = made.tamper.store.moment  # type: ignore[attr-defined]
                await overwrite(client, "/one")
                await put(client, "/left/late", NEW)
            made.attack.armed = True
            async with made.mount(remember=True) as again:
                for path in ("/one", "/left/one"):
                    async with fails(OLD, BAD, errno.ENOENT):
                        await get(again, path)
                assert isinstance(await listed(again, "/left"), int)
            assert made.attack.struck
            async with fails(OLD):
                async with made.mount(remember=True):
                    pass

    trio.run(main)


@variants("A12")
def test_a12_exchanged_names(variant: str) -> None:
    async def main() -> None:
        async with tree_scene("A12", variant) as made:
            async with made.mount() as client:
                await a_tree(client)
            made.attack.armed = True
            async with made.mount() as fresh:
                if variant == "directories":
                    async with fails(*REFUSED):
                        await get(fresh, "/left/one")
                else:
                    for path in ("/one", "/two"):
                        async with fails(*REFUSED):
                            await get(fresh, path)
                        async with fails(*REFUSED):
                            await overwrite(fresh, path)
                assert made.attack.struck
                assert made.audits()
                await still_fine(made, fresh)

    trio.run(main)


def test_a14_a_record_that_waits_for_a_new_file() -> None:
    async def main() -> None:
        async with tree_scene("A14", "") as made, made.mount() as client:
            await a_tree(client)
            made.attack.armed = True
            with contextlib.suppress(OSError):
                await put(client, "/new", NEW)
            made.attack.armed = False
            # The file has an id of its own, or was refused; nothing of it is under another file's key.
            ids = [kept[-1].record[28:44] for kept in made.tamper.store.kept.values() if kept and kept[-1].record]
            assert len(ids) == len(set(ids)), "two objects with one id"
            async with made.mount() as fresh:
                got, code = await attempt(fresh, "/new", 0)
                assert got == NEW[: len(got)]
                assert code in (0, BAD, errno.ENOENT)
                assert await get(fresh, "/one") == ONE

    trio.run(main)


@variants("A15")
def test_a15_what_is_left_out(variant: str) -> None:
    async def main() -> None:
        async with tree_scene("A15", variant) as made, made.mount() as client:
            await a_tree(client)
            assert await client.listdir("/") == ["left", "one", "right", "two"]
            made.attack.armed = True
            if variant != "lookup":
                assert await listed(client, "/") == BAD
                assert await listed(client, "/left") == BAD
            if variant != "listing":
                # After a verified listing the client knows better; before one it is the server's word: the documented limit.
                async with fails(BAD):
                    await get(client, "/one")
                async with made.mount() as fresh, fails(errno.ENOENT):
                    await get(fresh, "/one")
            assert made.attack.struck
            await still_fine(made, client)

    trio.run(main)


def test_a16_another_directorys_id() -> None:
    async def main() -> None:
        async with tree_scene("A16", "") as made, made.mount() as client:
            await a_tree(client)
            store = made.tamper.store
            folders = {place.name: handle for handle, place in store.names.items() if store.versions(handle)[-1].listing}
            names = [sorted(entry.name for entry in store.versions(handle)[-1].listing) for handle in folders.values()]
            both = [set(some) & set(others) for some in names for others in names if some is not others]
            assert len(folders) == 2
            assert not any(both), "equal names differ from directory to directory"
            first, second = folders.values()
            made.attack.other = second
            made.aim(first)
            async with made.mount() as fresh:
                answers = [await listed(fresh, path) for path in ("/left", "/right")]
                assert [answer for answer in answers if isinstance(answer, int)] == [BAD]
                assert made.attack.struck
                await still_fine(made, fresh)

    trio.run(main)


@variants("A17")
def test_a17_names_that_are_none(variant: str) -> None:
    async def main() -> None:
        async with tree_scene("A17", variant) as made, made.mount() as client:
            await a_tree(client)
            made.attack.armed = True
            async with made.mount() as fresh:
                answer = await listed(fresh, "/")
                assert answer in REFUSED, answer
                assert made.attack.struck
                assert made.audits()
                await still_fine(made, fresh)

    trio.run(main)


@pytest.mark.parametrize("name", ["A18", "A19"])
def test_a18_injected_directories(name: str) -> None:
    async def main() -> None:
        async with tree_scene(name, "") as made, made.mount() as client:
            await a_tree(client)
            made.attack.armed = True
            async with made.mount() as fresh:
                assert await listed(fresh, "/") == BAD
                assert made.attack.struck
                await still_fine(made, fresh)

    trio.run(main)


def test_a19_injected_files() -> None:
    test_a18_injected_directories("A19")


@variants("A20")
def test_a20_attributes(variant: str) -> None:
    async def main() -> None:
        async with tree_scene("A20", variant) as made, made.mount() as client:
            await a_tree(client)
            await client.chmod("/one", 0o640)
            truth = await client.stat("/one")
            made.attack.armed = True
            async with made.mount() as fresh:
                shown = await fresh.stat("/one")
                assert (shown.mode & 0o7777, shown.size, shown.mtime_ns) == (0o640, len(ONE), truth.mtime_ns)
                (entry,) = [entry async for entry in fresh.scandir("/") if entry.name == "one"]
                assert (entry.attr.mode & 0o7777, entry.attr.size, entry.attr.mtime_ns) == (0o640, len(ONE), truth.mtime_ns)
                assert await get(fresh, "/one") == ONE
            assert made.attack.struck

    trio.run(main)


@variants("A21")
def test_a21_targets_and_attributes_of_others(variant: str) -> None:
    async def main() -> None:
        async with tree_scene("A21", variant) as made, made.mount() as client:
            await a_tree(client)
            for name, target in (("/a-link", "to/a"), ("/b-link", "to/b")):
                await client.symlink(target, name)
            for name, colour in (("/one", b"red"), ("/two", b"blue")):
                await client.setxattr(name, "user.colour", colour)
            one, two, _, _, a_link, b_link = [entry.handle for entry in made.store.readdir(made.store.root().handle, 0, 99)[0]]
            made.attack.other = b_link if variant == "target" else two
            made.aim(a_link if variant == "target" else one)
            async with made.mount() as fresh:
                async with fails(BAD):
                    await (fresh.readlink("/a-link") if variant == "target" else fresh.getxattr("/one", "user.colour"))
                assert made.attack.struck
                assert await fresh.readlink("/b-link") == "to/b"
                assert await fresh.getxattr("/two", "user.colour") == b"blue"
                assert await get(fresh, "/one") == ONE
                made.attack.armed = False
                assert await fresh.readlink("/a-link") == "to/a"
                assert await fresh.getxattr("/one", "user.colour") == b"red"

    trio.run(main)


def test_a37_two_histories(tmp_path: Path) -> None:
    async def main() -> None:
        async with tree_scene("A37", "", tmp_path / "one") as made:
            async with made.mount(remember=True) as mine:
                await a_tree(mine)
                async with made.mount() as theirs:  # the second client: kept where the volume is now
                    await overwrite(mine, "/one")
                    assert await get(theirs, "/one") == ONE, "two clients that do not meet cannot tell: the documented limit"
                    made.attack.forked = False  # type: ignore[attr-defined]
                    assert (await get(theirs, "/one"))[4096 : 2 * 4096] == NEW, "who was behind comes to know, and may"
                made.attack.forked = True  # type: ignore[attr-defined]
            # Shown the past in turn, the one that knows more says so.
            made.attack.clients += 1  # type: ignore[attr-defined]
            async with made.mount(remember=True) as again:
                made.attack.moment = 3  # type: ignore[attr-defined]
                async with fails(OLD, BAD):
                    await get(again, "/one")

    trio.run(main)


def test_a45_removed_files_come_back() -> None:
    async def main() -> None:
        async with tree_scene("A45", "") as made, made.mount() as client:
            await a_tree(client)
            await put(client, "/gone", NEW)
            await client.unlink("/gone")
            made.attack.armed = True
            async with made.mount() as fresh:
                for reader in (client, fresh):
                    assert await listed(reader, "/") == BAD
                # Who has removed it is not shown it again; to another a single name is the server's word: the documented limit.
                got, code = await attempt(client, "/gone", 0)
                assert not got
                assert code in (BAD, OLD, errno.ENOENT)
            assert made.attack.struck
            await still_fine(made, client)

    trio.run(main)


@pytest.mark.parametrize("lost", range(4))
@pytest.mark.parametrize("after", range(6))
def test_a36_a_server_that_dies_at_any_step(after: int, lost: int) -> None:
    async def main() -> None:
        async with tree_scene("A36", "") as made:
            async with made.mount() as client:
                await a_tree(client)
            made.attack.after, made.attack.lost, made.attack.armed = after, lost, True  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):
                async with made.mount() as client, await client.open("/one", "r+", direct=True) as file:
                    await file.write(NEW + NEW[:100], BLOCK)
                    await file.write(NEW, 4 * BLOCK)
                    await file.fsync()
            made.attack.armed = False
            made.store.verifier += 1
            async with made.mount() as fresh:
                assert (await fresh.stat("/one")).size == len(ONE)
                for at, new in ((1, NEW), (2, NEW[:100] + ONE[2 * BLOCK + 100 : 3 * BLOCK]), (4, NEW)):
                    got, code = await attempt(fresh, "/one", at * BLOCK)
                    assert not code
                    assert got in (new, ONE[at * BLOCK : (at + 1) * BLOCK]), f"block {at} is neither old nor new"
                for at in (1, 2, 4):
                    await overwrite(fresh, "/one", NEW, at * BLOCK)
                got = await get(fresh, "/one")
                assert got == ONE[:BLOCK] + NEW * 2 + ONE[3 * BLOCK : 4 * BLOCK] + NEW + ONE[5 * BLOCK :]
                assert await get(fresh, "/two") == TWO

    trio.run(main)
