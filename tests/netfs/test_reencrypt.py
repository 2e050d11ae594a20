"""Files written anew: fresh keys, the same content, holes and attributes; and each file whole wherever it is cut short."""

import errno
from collections.abc import Callable

import pytest
import trio

from crypto.keys import VolumeKey
from crypto.record import Record, open_record
from netfs.fs.reencrypt import PREFIX, reencrypt
from tests.netfs.sealed_world import BLOCK, CONTENT, KEY, World, find, get, in_world, put
from transport.base import Outcome, Reply
from transport.messages import Request, StepKind, Transact, Write

NEXT = VolumeKey(b"n" * 32, epoch=KEY.epoch + 1, older=(KEY,))
FILES = {"/d/holes": CONTENT[:BLOCK] + bytes(9 * BLOCK) + b"end", "/d/small": b"s" * 100, "/d/empty": b"", "/top": CONTENT}


def record(world: World, path: str, key: VolumeKey = NEXT) -> Record:
    return open_record(key, world.store.record_get(find(world.store, path, key))[0])


async def fill(world: World) -> None:
    client = world.client()
    await client.mkdir("/d")
    for path, content in FILES.items():
        async with await client.open(path, "w", direct=True) as file:
            for at in range(0, len(content), BLOCK):
                if any(content[at : at + BLOCK]):
                    await file.write(content[at : at + BLOCK], at)
            await file.fsync()
            await file.setattr(mode=0o640, mtime_ns=10**18)
    await client.setxattr("/d/small", "user.kind", b"letter")
    await client.symlink("small", "/d/link")


def test_all_is_there_under_fresh_keys() -> None:
    async def test(world: World) -> None:
        await fill(world)
        await put(world.client(), f"/d/{PREFIX}left", b"by a run that was cut short")
        before = {path: record(world, path, KEY) for path in FILES}
        client = world.client(NEXT)
        told: list[str] = []
        done = await reencrypt(client, "/", lambda path, _: told.append(path))
        assert (done.files, done.bytes, done.failed) == (4, sum(map(len, FILES.values())), [])
        assert set(told) == {path for path, content in FILES.items() if content}
        for path, content in FILES.items():
            after = record(world, path)
            assert await get(client, path) == content
            assert (after.epoch, after.mode, after.mtime_ns) == (NEXT.epoch, 0o640, 10**18)
            assert after.file_key != before[path].file_key
            assert after.file_id != before[path].file_id
        assert await client.getxattr("/d/small", "user.kind") == b"letter"
        assert sorted(await client.listdir("/d")) == ["empty", "holes", "link", "small"]
        async with await client.open("/d/holes", direct=True) as file:
            reads = client.probe.snapshot()["transformed_bytes"]
            await file.read()
            assert client.probe.snapshot()["transformed_bytes"] - reads == 2 * BLOCK, "holes are holes still"

    in_world(test)


def is_write(request: Request) -> bool:
    return isinstance(request, Write)


def is_move(request: Request) -> bool:
    return isinstance(request, Transact) and any(step.kind is StepKind.MOVE for step in request.steps)


@pytest.mark.parametrize("when", [is_write, is_move])
def test_a_file_that_cannot_be_copied_is_as_it_was(when: Callable[[Request], bool]) -> None:
    def fault(request: Request) -> Outcome | int | None:
        return Reply(errno.ENOSPC) if armed and when(request) else None

    armed = False

    async def test(world: World) -> None:
        nonlocal armed
        await fill(world)
        client = world.client(NEXT, fault=fault)
        armed = True
        done = await reencrypt(client, "/top")
        armed = False
        assert [(path, error.errno) for path, error in done.failed] == [("/top", errno.ENOSPC)]
        assert (done.files, await get(client, "/top")) == (0, CONTENT)
        assert sorted(await client.listdir("/")) == ["d", "top"]

    in_world(test)


def test_what_others_write_meanwhile_is_kept() -> None:
    async def test(world: World) -> None:
        await fill(world)
        client, other = world.client(NEXT), world.client(NEXT)
        async with await other.open("/top", "r+", direct=True) as file:
            writes = 0

            def told(path: str, _: int) -> None:
                nonlocal writes
                writes += 1
                if writes == 1:
                    nursery.start_soon(write)

            async def write() -> None:
                await file.write(b"!", 7)
                await file.fsync()

            async with trio.open_nursery() as nursery:
                done = await reencrypt(client, "/top", told)
        assert (done.files, writes) == (1, 2)
        assert await get(world.client(NEXT), "/top") == CONTENT[:7] + b"!" + CONTENT[8:]

    in_world(test)
