"""A sequential direct write of an encrypted file: the next piece is encrypted while one is on its way, and none leaves a hole."""

import errno

import pytest
import trio
import trio.testing

from netfs.fs.encrypted import EncryptedVolume
from tests.netfs.loop import LoopTransport
from tests.netfs.sealed_world import BLOCK, World, get, in_world, put
from transport.base import Outcome, Reply
from transport.messages import Request, Write

PIECE = 4 * BLOCK
DATA = bytes(range(256)) * (5 * PIECE // 256)


def test_the_next_piece_is_encrypted_while_one_is_on_its_way() -> None:
    async def test(world: World) -> None:
        client = world.client()
        transport = client.transport
        assert isinstance(transport, LoopTransport)
        events: list[tuple[str, int]] = []

        def sink(event: str, fields: tuple[int | str | bytes, ...]) -> None:
            if event == "crypto_seal":
                events.append(("sealed", int(fields[2]) * BLOCK))

        world.probe.sink = sink
        serve = transport.outcome

        def outcome(call: object) -> Outcome:
            request = call.request  # type: ignore[attr-defined]
            if isinstance(request, Write):
                events.append(("served", request.pos))
            return serve(call)  # type: ignore[arg-type]

        transport.outcome = outcome  # type: ignore[method-assign]
        async with await client.open("/f", "w", direct=True) as file:
            transport.hold = lambda request: isinstance(request, Write)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.pwritev, [DATA], 0)
                await trio.testing.wait_all_tasks_blocked()
                assert events == [("sealed", 0), ("sealed", PIECE)], "one on its way, the next ready"
                transport.let_go()
            writes = [pos for kind, pos in events if kind == "served"]
            assert writes == sorted(writes), "one after another"
            assert [pos for kind, pos in events if kind == "sealed"] == [n * PIECE for n in range(5)], "each once"
        world.probe.sink = None
        assert await get(world.client(), "/f") == DATA

    in_world(test)


@pytest.mark.parametrize("failing", range(5))
def test_no_hole_when_space_runs_out_and_every_area_is_back(failing: int) -> None:
    async def test(world: World) -> None:
        def fault(request: Request) -> Outcome | None:
            full = isinstance(request, Write) and request.pos == failing * PIECE
            return Reply(errno.ENOSPC) if full else None

        client = world.client(fault=fault)
        async with await client.open("/f", "w", direct=True) as file:
            if failing:
                assert await file.pwritev([DATA], 0) == failing * PIECE
            else:
                with pytest.raises(OSError, match="No space"):
                    await file.pwritev([DATA], 0)
            assert file.size == failing * PIECE
        volume = client._volume
        assert isinstance(volume, EncryptedVolume)
        volume.pool.close()  # insists that nothing is lent
        assert await get(world.client(), "/f") == DATA[: failing * PIECE]

    in_world(test)


def test_cancelled_while_the_next_piece_is_ready() -> None:
    async def test(world: World) -> None:
        await put(world.client(), "/f", bytes(len(DATA)))
        client = world.client()
        transport = client.transport
        assert isinstance(transport, LoopTransport)
        file = await client.open("/f", "r+", direct=True)
        transport.hold = lambda request: isinstance(request, Write)
        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.pwritev, [DATA], 0)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                transport.hold = None
                for _ in range(10):
                    trio.lowlevel.current_trio_token().run_sync_soon(transport.serve_one)
        assert scope.cancelled_caught
        assert await file.pwritev([DATA], 0) == len(DATA)
        await file.aclose()
        assert await get(world.client(), "/f") == DATA

    in_world(test)
