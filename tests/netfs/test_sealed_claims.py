"""Claims on blocks of an encrypted file: who has one for how long, and what becomes of those that nobody knows of."""

import errno

import pytest
import trio

from netfs.fs.file import File
from netfs.fs.sealed_ageing import HOLD_S
from netfs.fs.sealed_ops import EncryptedOps
from tests.netfs.sealed_world import BLOCK, CONTENT, World, fails, get, in_world, put
from transport.base import Outcome, Reply
from transport.messages import Request, StepKind, Transact, Write


async def writes_in_time(file: File, data: bytes, pos: int) -> float:
    """Write and make durable. Returns: the seconds that took."""
    began = trio.current_time()
    await file.write(data, pos)
    await file.fsync()
    return trio.current_time() - began


def test_who_neither_syncs_nor_closes_does_not_keep_others_out() -> None:
    async def test(world: World) -> None:
        one, two = world.client(), world.client()
        await put(one, "/f", CONTENT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one._volume.tend)
            async with await one.open("/f", "r+", direct=True) as mine, await two.open("/f", "r+", direct=True) as theirs:
                await mine.write(b"one", BLOCK + 5)
                assert await writes_in_time(theirs, b"two", BLOCK + 9) < 2 * HOLD_S
                await mine.write(b"ONE", 2 * BLOCK)
            nursery.cancel_scope.cancel()
        expected = bytearray(CONTENT)
        expected[BLOCK + 5 : BLOCK + 8], expected[BLOCK + 9 : BLOCK + 12], expected[2 * BLOCK : 2 * BLOCK + 3] = (
            b"one",
            b"two",
            b"ONE",
        )
        assert await get(world.client(), "/f") == expected

    in_world(test)


def test_a_claim_that_was_waited_for_in_vain_is_not_waited_for_again() -> None:
    async def test(world: World) -> None:
        one, two = world.client(), world.client()
        await put(one, "/f", CONTENT)
        async with await one.open("/f", "r+", direct=True) as mine, await two.open("/f", "r+", direct=True) as theirs:
            await mine.write(b"one", BLOCK + 5)
            waited = []
            for _ in range(3):
                began = trio.current_time()
                with fails(errno.EAGAIN):
                    await theirs.write(b"two", BLOCK + 9)
                waited.append(trio.current_time() - began)
            assert waited[0] >= 30
            assert max(waited[1:]) < 1
            await mine.write(b"one", 3 * BLOCK)  # one more claim of who has not committed since: it is not waited for as long
            began = trio.current_time()
            with fails(errno.EAGAIN):
                await theirs.write(b"two", 3 * BLOCK + 9)
            assert 2 < trio.current_time() - began < 10
            await mine.fsync()
            await writes_in_time(theirs, b"two", BLOCK + 9)
            # Though this was read under the claim and read again, as another client's record came between.
            assert not world.store.intents.rows(await world.handle("f"), 0), "an fsync gives all back"
            await mine.write(b"ONE", 2 * BLOCK)  # another claim is waited for anew
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writes_in_time, theirs, b"TWO", 2 * BLOCK + 5)
                await trio.sleep(20)
                await mine.fsync()
        got = await get(world.client(), "/f")
        assert (got[2 * BLOCK : 2 * BLOCK + 8], got[3 * BLOCK : 3 * BLOCK + 3]) == (b"ONE\3\3TWO", b"one")

    in_world(test)


def test_who_waits_for_a_claim_keeps_nobody_else_out() -> None:
    """One cannot commit without the first block, which the other has claimed and not written; that one waits for the second."""

    async def test(world: World) -> None:
        one, two = world.client(), world.client()
        await put(one, "/f", b"." * 100)
        async with await one.open("/f", "r+", direct=True) as mine, await two.open("/f", "r+", direct=True) as theirs:
            await mine.write(b"one", 0)  # of a small file, written with the commit
            await mine.write(b"ONE", BLOCK)
            ops = theirs._inode.ops
            assert isinstance(ops, EncryptedOps)
            await ops._claims.take(0, 1)
            ops._sealed.claims[
                0
            ].again = True  # as for a block that is read once more, since another client's record came between
            waited: list[float] = []

            async def write(file: File, data: bytes, pos: int) -> None:
                waited.append(await writes_in_time(file, data, pos))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, theirs, b"two", BLOCK + 5)
                nursery.start_soon(write, mine, b"end", BLOCK + 9)
            assert max(waited) < 5
        got = await get(world.client(), "/f")
        assert (got[:100], got[BLOCK:]) == (b"one" + b"." * 97, b"ONE\0\0two\0end")

    in_world(test)


@pytest.mark.parametrize("code", [errno.EIO, errno.EAGAIN])
def test_a_claim_whose_answer_was_lost_is_given_back(code: int) -> None:
    """The server has it, and its client does not know: until it asks what there is."""

    async def test(world: World) -> None:
        lost = [2]

        def fault(request: Request) -> Outcome | None:
            if isinstance(request, Transact) and request.steps[0].kind is StepKind.INTENT_PUT and lost:
                lost.pop()
                one.transport.handle(request, None)  # type: ignore[attr-defined]
                return Reply(code)
            return None

        one, two = world.client(fault=fault), world.client()
        lost.clear()
        await put(one, "/f", CONTENT)
        lost.append(1)
        async with await one.open("/f", "r+", direct=True) as mine, await two.open("/f", "r+", direct=True) as theirs:
            if code == errno.EIO:
                with fails(errno.EIO):
                    await mine.write(b"one", BLOCK + 5)
            else:
                await writes_in_time(mine, b"one", BLOCK + 5)
            assert not lost
            assert await writes_in_time(theirs, b"two", BLOCK + 5) < 5
        assert (await get(world.client(), "/f"))[BLOCK + 5 : BLOCK + 8] == b"two"

    in_world(test)


def test_a_write_that_is_refused_puts_its_own_claim_in_doubt_only() -> None:
    async def test(world: World) -> None:
        refused = [1]

        def fault(request: Request) -> Outcome | None:
            return (
                Reply(errno.EAGAIN) if isinstance(request, Write) and request.pos == BLOCK and refused and refused.pop() else None
            )

        refused.clear()
        client = world.client(fault=fault)
        await put(client, "/f", CONTENT)
        async with await client.open("/f", "r+", direct=True) as file:
            await file.write(b"kept", 3 * BLOCK)
            sealed = file._inode.ops._sealed  # type: ignore[attr-defined]
            (kept,) = sealed.claims
            refused.append(1)
            await file.write(b"again", BLOCK)
            assert not refused
            assert kept in sealed.claims
        got = await get(world.client(), "/f")
        assert (got[BLOCK : BLOCK + 5], got[3 * BLOCK : 3 * BLOCK + 4]) == (b"again", b"kept")
        assert not world.store.intents.rows(await world.handle("f"), 0)

    in_world(test)
