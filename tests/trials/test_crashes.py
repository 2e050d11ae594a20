"""What a server's loss of power does to clients that live on: what the disk had not kept is sent again, or its loss is told."""

import errno
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio

from netfs.fs.client import Client
from trials import sim
from trials.case import Case
from trials.faults.injector import Injector
from trials.faults.plan import Fault, Plan, Trigger
from trials.history import History
from trials.scene import Scene


def power(trigger: Trigger, unsynced: str = "none") -> Plan:
    """The server's machine loses power."""
    return Plan((Fault("S20", trigger, "", (("restart_s", 0.2), ("unsynced", unsynced))),))


AT: Final = Trigger("at", 0.05)


def play(plan: Plan, act: Callable[[Client, Scene], Awaitable[None]], *, encrypt: bool = False) -> tuple[str, ...]:
    """Play an act with one client. Returns: the faults that took effect."""

    async def main(world: sim.SimWorld) -> tuple[str, ...]:
        injector = Injector(plan, world.streams, world.trace.record)
        scene = Scene(Case("own-files", 1, encrypt=encrypt), plan, world, injector, History(trio.current_time))
        async with scene.open() as clients:
            await act(clients[0], scene)
            await scene.heal()
        assert scene.remains()["store leases"] == 0
        return tuple(injector.ids)

    return sim.run(1, main).result


def test_a_truncation_that_a_crash_undid_is_told() -> None:
    """The next fsync may not succeed: what was cut off is back."""

    async def act(client: Client, scene: Scene) -> None:
        async with await client.open("/file", "w") as file:
            await file.write(b"x" * 9000)
            await file.fsync()
            scene.begin()
            await file.truncate(100)
            await trio.sleep(0.1)
            with pytest.raises(OSError, match="lost") as caught:
                await file.fsync()
            assert caught.value.errno == errno.EIO
            await file.truncate(200)
            await file.fsync()

    assert play(power(AT), act) == ("S20",)


def test_unstable_writes_are_sent_again() -> None:
    async def act(client: Client, scene: Scene) -> None:
        async with await client.open("/file", "w") as file:
            scene.begin()
            await file.write(b"x" * 50_000)
            await trio.sleep(0.1)
            await file.fsync()
        async with await client.open("/file", direct=True) as file:
            assert await file.read() == b"x" * 50_000

    assert play(power(AT), act) == ("S20",)


def test_a_direct_write_that_a_crash_undid_is_told() -> None:
    async def act(client: Client, scene: Scene) -> None:
        async with await client.open("/file", "w", direct=True) as file:
            scene.begin()
            await file.write(b"x" * 50_000)
            await trio.sleep(0.1)
            with pytest.raises(OSError, match="lost"):
                await file.fsync()

    assert play(power(AT), act) == ("S20",)


def test_an_encrypted_file_outlives_a_server_that_is_killed_around_its_commit() -> None:
    async def act(client: Client, scene: Scene) -> None:
        async with await client.open("/file", "w") as file:
            await file.write(b"a" * 40_000)
            await file.fsync()
            scene.begin()
            await file.write(b"b" * 5000, 3)
            await file.fsync()
        async with await client.open("/file", direct=True) as file:
            assert await file.read() == b"aaa" + b"b" * 5000 + b"a" * 34_997

    for kind in ("before", "after"):
        assert play(power(Trigger(kind, 1, "transact"), "all"), act, encrypt=True) == ("S20",)
