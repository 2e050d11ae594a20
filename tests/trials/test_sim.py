"""The simulator: what it pins, what it stops, and that it leaves nothing behind."""

import gc
import inspect
import io
import itertools
import logging
import os
import random
import secrets
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from heapq import heappush
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from trio._core import _run

from trials import sim
from trials.sim import internals
from trials.sim.internals import OrderedSet
from trials.sim.rng import Streams, stream_seed


async def nothing(world: sim.SimWorld) -> None:
    del world
    await trio.lowlevel.checkpoint()


def test_virtual_time_jumps_over_a_day() -> None:
    async def main(_: sim.SimWorld) -> float:
        started = trio.current_time()
        await trio.sleep(86_400)
        return trio.current_time() - started

    assert sim.run(1, main).result == 86_400


def order_of_tasks(seed: int, policy: str = "uniform") -> list[int]:
    async def main(_: sim.SimWorld) -> list[int]:
        seen: list[int] = []

        async def work(index: int) -> None:
            for _ in range(3):
                seen.append(index)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for index in range(6):
                nursery.start_soon(work, index)
        return seen

    return sim.run(seed, main, policy=policy).result


def test_the_schedule_follows_the_seed() -> None:
    orders = {tuple(order_of_tasks(seed)) for seed in range(8)}
    assert len(orders) > 4
    assert order_of_tasks(3) == order_of_tasks(3)
    assert order_of_tasks(1, "fifo") == order_of_tasks(2, "fifo") == [0, 1, 2, 3, 4, 5] * 3


def aborts_at_one_deadline(seed: int) -> list[int]:
    """Return the order in which abort functions run where many scopes end at once, with the heap stirred."""
    stirred = [object() for _ in range(random.Random(seed).randrange(5000))]

    async def main(_: sim.SimWorld) -> list[int]:
        seen: list[int] = []

        async def work(index: int) -> None:
            def abort(_: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
                seen.append(index)
                return trio.lowlevel.Abort.SUCCEEDED

            with trio.move_on_at(100.0):
                await trio.lowlevel.wait_task_rescheduled(abort)
            with trio.move_on_at(200.0):
                async with trio.open_nursery() as inner:
                    for part in range(3):
                        inner.start_soon(deep, 10 * index + part, seen)

        async def deep(index: int, seen: list[int]) -> None:
            def abort(_: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
                seen.append(1000 + index)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)

        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(work, index)
        return seen

    result = sim.run(1, main).result
    del stirred
    return result


def test_aborts_at_one_deadline_come_in_one_order() -> None:
    orders = {tuple(aborts_at_one_deadline(seed)) for seed in range(6)}
    assert len(orders) == 1
    assert len(orders.pop()) == 80


def _reopen_for_writing() -> None:
    os.close(os.open(os.devnull, os.O_WRONLY))


async def _in_a_thread() -> None:
    await trio.to_thread.run_sync(lambda: None)


async def _file_of_trio() -> None:
    async with await trio.open_file(os.devnull, "rb"):
        pass


async def _pair_of_trio() -> None:
    await trio.lowlevel.checkpoint()
    for sock in trio.socket.socketpair():
        sock.close()


async def _on_a_socket() -> None:
    await trio.lowlevel.wait_writable(2)


# ruff: noqa: PLW0108 - looked up when they run, as simulated code would: a fence stands where the function stood.
ESCAPES: dict[str, Callable[[], Any]] = {
    "time.time": lambda: time.time(),
    "time.perf_counter_ns": lambda: time.perf_counter_ns(),
    "time.sleep": lambda: time.sleep(0),
    "os.urandom": lambda: os.urandom(4),
    "secrets.token_bytes": lambda: secrets.token_bytes(),
    "random.random": lambda: random.random(),
    "random._urandom": lambda: random.SystemRandom().random(),
    "random.Random without a seed": lambda: random.Random(),
    "uuid.uuid4": lambda: uuid.uuid4(),
    "Thread.start": lambda: threading.Thread(target=print).start(),
    "socket.__init__": lambda: socket.socket(),
    "Popen.__init__": lambda: subprocess.run(["true"], check=True),
    "open": lambda: open(os.devnull, "w").close(),  # noqa: PTH123
    "open(": lambda: Path(os.devnull).write_bytes(b""),
    "os.open": _reopen_for_writing,
    "trio.to_thread.run_sync": _in_a_thread,
    "to_thread.run_sync": _file_of_trio,
    "socket.socketpair": _pair_of_trio,
    "trio.lowlevel.wait_writable": _on_a_socket,
}


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_is_stopped_and_named(name: str) -> None:
    async def main(_: sim.SimWorld) -> None:
        await trio.lowlevel.checkpoint()
        done = ESCAPES[name]()
        if inspect.isawaitable(done):
            await done

    with pytest.raises(sim.EscapedSimulation) as caught:
        sim.run(1, main)
    assert name in str(caught.value)
    assert "test_sim.py" in str(caught.value)


def test_machinery_and_other_threads_may_pass() -> None:
    seen: list[float] = []
    ask, asked = threading.Event(), threading.Event()

    def other() -> None:
        ask.wait()
        seen.append(time.time())
        asked.set()

    async def main(_: sim.SimWorld) -> None:
        await trio.lowlevel.checkpoint()
        logging.getLogger("trial").warning("stamped with the time of the machine")
        ask.set()
        asked.wait()

    thread = threading.Thread(target=other)
    thread.start()
    sim.run(1, main)
    thread.join()
    assert seen


async def waits_for_ever() -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("shield", [False, True])
def test_a_program_that_waits_for_ever_is_reported_with_who_waits(shield: bool) -> None:
    async def main(_: sim.SimWorld) -> None:
        with trio.CancelScope(shield=shield):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waits_for_ever)
                await trio.sleep(3)

    with pytest.raises(sim.Deadlock, match=r"waiting: waits_for_ever$"):
        sim.run(1, main)
    assert sim.run(1, nothing).steps


def test_a_deadlock_is_told_even_where_its_cancellation_fails() -> None:
    async def main(_: sim.SimWorld) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("on the way out")

    with pytest.raises(sim.Deadlock):
        sim.run(1, main)


@pytest.mark.parametrize("shield", [False, True])
def test_a_program_that_never_ends_is_broken_off(shield: bool) -> None:
    async def main(_: sim.SimWorld) -> None:
        with trio.CancelScope(shield=shield):
            for _step in itertools.count():
                await trio.sleep(0.001)

    with pytest.raises(sim.Endless, match=r"more than 300 steps, and no end, at 0\.\d+ s"):
        sim.run(1, main, most_steps=300)
    assert sim.run(1, nothing).steps


def state() -> tuple[object, ...]:
    fenced = (time.time, open, os.open, io.open, random.Random.seed, socket.socket.__init__, trio.to_thread.run_sync)
    return _run._r, _run.Deadlines.add, trio.Event.__init__, _run.CancelStatus.__init__, gc.isenabled(), *fenced


@pytest.mark.filterwarnings("ignore")  # a run that is broken off cannot close what it has open
def test_everything_is_put_back_when_a_program_will_not_leave() -> None:
    async def main(_: sim.SimWorld) -> None:
        while True:
            try:
                await trio.sleep(0.001)
            except trio.Cancelled:
                continue  # which no program may do

    before = state()
    with pytest.raises(sim.Endless):
        sim.run(1, main, most_steps=300)
    assert state() == before
    gc.collect()


def test_everything_is_put_back_also_after_an_error() -> None:
    before, flag = state(), _run._ALLOW_DETERMINISTIC_SCHEDULING

    async def main(_: sim.SimWorld) -> None:
        await trio.lowlevel.checkpoint()
        assert all(now != then for now, then in zip(state(), before, strict=True))
        raise KeyError("mine")

    with pytest.raises(KeyError):
        sim.run(1, main)
    assert state() == before
    sim.run(1, nothing)
    assert state() == before
    assert _run._ALLOW_DETERMINISTIC_SCHEDULING is flag


def test_one_simulation_at_a_time() -> None:
    with sim.install(1), pytest.raises(RuntimeError, match="already"):
        sim.run(2, nothing)


def test_a_trio_with_another_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "NAMES", (*internals.NAMES, "_no_such_name"))
    with pytest.raises(sim.UnknownTrio, match="_no_such_name"):
        sim.run(1, nothing)


SPOILED = {
    "_ALLOW_DETERMINISTIC_SCHEDULING": lambda pin: (
        lambda patches, policy: (
            pin(patches, policy),
            patches.set(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", False),
        )
    ),
    "Deadlines": lambda pin: lambda patches, policy: (pin(patches, policy), patches.set(_run.Deadlines, "add", _add_by_chance)),
}


def _add_by_chance(deadlines: Any, deadline: float, scope: trio.CancelScope) -> None:
    heappush(deadlines._heap, (deadline, -len(deadlines._heap), scope))
    deadlines._active += 1


@pytest.mark.parametrize("what", SPOILED)
def test_a_trio_that_behaves_otherwise_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "_pin", SPOILED[what](internals._pin))
    internals._try_out.cache_clear()
    with pytest.raises(sim.UnknownTrio, match="in an order not known"):
        sim.run(1, nothing)
    monkeypatch.undo()
    sim.run(1, nothing)


def test_streams_do_not_disturb_each_other() -> None:
    one, two = Streams(7), Streams(7)
    two.rng("other").random()
    assert one.rng("mine").random() == two.rng("mine").random()
    assert stream_seed(7, "mine") != stream_seed(8, "mine")


def test_run_blocking_takes_virtual_time_and_outlasts_a_cancel() -> None:
    async def main(world: sim.SimWorld) -> tuple[float, list[str]]:
        env = world.env("server")
        done: list[str] = []
        started = trio.current_time()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def work() -> None:
                    await env.run_blocking(lambda: done.append("ran"))

                nursery.start_soon(work)
                await trio.lowlevel.checkpoint()
                scope.cancel()
        return trio.current_time() - started, done

    took, done = sim.run(4, main).result
    assert done == ["ran"]
    assert 0 < took < 0.001


def test_ordered_set_is_a_set_in_order() -> None:
    items: OrderedSet[str] = OrderedSet()
    for item in "cabc":
        items.add(item)
    items.discard("a")
    items.add("a")
    assert list(items) == ["c", "b", "a"]
    assert set(items) == {"a", "b", "c"}
