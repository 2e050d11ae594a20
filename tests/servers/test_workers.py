"""Workers: work in batches, results and errors to whom they belong, cancellation before and during, and one flush for many."""

import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import trio
import trio.testing

import netfs
from iov.probe import Probe
from servers.server import serve
from servers.stores.directory import DirectoryStore
from servers.workers import MAX_BATCH, Workers


class Gate:
    """Work that has begun and does not end until it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.ended = 0

    def __call__(self) -> None:
        self.begun.set()
        self.open.wait(20)
        self.ended += 1

    async def busy(self, workers: Workers, nursery: trio.Nursery) -> None:
        nursery.start_soon(workers.run, self)
        await trio.to_thread.run_sync(self.begun.wait)


async def test_results_and_errors_come_home() -> None:
    with Workers(nullcontext) as workers:

        def fail() -> None:
            raise OSError(errno.EDQUOT, "full")

        assert await workers.run(lambda: 6 * 7) == 42
        with pytest.raises(OSError, match="full"):
            await workers.run(fail)
        assert await workers.run(threading.current_thread) is not threading.current_thread()


async def test_what_gathers_is_taken_at_once() -> None:
    gate = Gate()
    begun: list[int] = []
    ended: list[int] = []

    @contextmanager
    def batch() -> Iterator[None]:
        begun.append(0)
        yield
        ended.append(0)

    with Workers(batch, threads=1) as workers:
        results: list[int] = []

        async def one(number: int) -> None:
            results.append(await workers.run(lambda: number))

        async with trio.open_nursery() as nursery:
            await gate.busy(workers, nursery)
            for number in range(3 * MAX_BATCH):
                nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
            gate.open.set()
        assert sorted(results) == list(range(3 * MAX_BATCH))
        assert workers.batches == 4 == len(begun) == len(ended)


async def test_cancelled_before_it_began_it_does_not_happen() -> None:
    gate, done = Gate(), list[int]()
    with Workers(nullcontext, threads=1) as workers:
        async with trio.open_nursery() as nursery:
            await gate.busy(workers, nursery)
            with trio.move_on_after(0.01) as scope:
                await workers.run(lambda: done.append(1))
            assert scope.cancelled_caught
            gate.open.set()
        await workers.run(lambda: None)
    assert not done


async def test_cancelled_while_it_happens_it_is_waited_for() -> None:
    gate = Gate()
    with Workers(nullcontext, threads=2) as workers:
        async with trio.open_nursery() as nursery:
            await gate.busy(workers, nursery)
            nursery.cancel_scope.cancel()
            gate.open.set()
        assert gate.ended == 1


async def test_a_flush_that_fails_fails_what_it_was_for() -> None:
    @contextmanager
    def batch() -> Iterator[None]:
        yield
        raise OSError(errno.EIO, "the disk is gone")

    with Workers(batch, threads=1) as workers:
        with pytest.raises(OSError, match="gone"):
            await workers.run(lambda: 1)


async def test_what_could_not_be_made_durable_is_told_in_its_thread_before_anybody_else_hears() -> None:
    class Work:
        def __init__(self, error: OSError | None = None) -> None:
            self.error = error
            self.told: list[OSError] = []

        def __call__(self) -> None:
            if self.error is not None:
                raise self.error

        def not_durable(self, error: OSError) -> None:
            assert threading.current_thread() is not threading.main_thread()
            self.told.append(error)
            raise OSError(errno.ENOSPC, "and there is no room to note it")

    flush = OSError(errno.EIO, "the disk is gone")

    @contextmanager
    def batch() -> Iterator[None]:
        yield
        raise flush

    done, failed = Work(), Work(OSError(errno.ENOENT, "no such file"))
    with Workers(batch, threads=1) as workers:
        with pytest.raises(OSError, match="gone"):
            await workers.run(done)
        with pytest.raises(OSError, match="no such file"):
            await workers.run(failed)
    assert (done.told, failed.told) == ([flush], [])


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


async def test_many_names_one_flush(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servers.stores.directory_files.is_memory", lambda _: False)
    synced: list[int] = []
    fsync = os.fsync

    def counted(fd: int) -> None:
        synced.append(fd)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", counted)
    store = DirectoryStore(home, Probe())
    try:
        async with serve(store) as server, netfs.open_client(server.url) as client:
            await client.mkdir("/d")
            synced.clear()
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(client.mkdir, f"/d/{number}")
            assert len(list((home / "d").iterdir())) == 60
            assert 0 < len(synced) < 60
    finally:
        store.close()
