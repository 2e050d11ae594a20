"""A server under mixed load for a long time: 8 clients, connections killed at random, three kill -9, and equal trees at the end.

    python -m tests.servers.soak [--seconds 1800] [--clients 8] [--seed N]

Each client keeps to a folder of its own and knows what must be in it: it makes, fills, overwrites, cuts, renames, reads and
removes files, each step of which fails if it is done twice or not at all. They reach the server through a relay that cuts
connections, whatever is under way. In the end the folder on the disk, what a fresh client reads, and what each client knows
are compared.
"""

import argparse
import errno
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path

import trio

import netfs
from iov.probe import Field, Probe
from netfs import Client
from tests.servers.test_kill import Served, files_of

PIECE = 64 << 10
KILLS = 3
SLOWEST = 5


@dataclass
class Relay:
    """Passes connections on to the server's socket, and cuts them."""

    there: str
    cuts: int = 0
    open: list[trio.CancelScope] = field(default_factory=list)

    async def serve(self, path: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(path)
            listener.listen(100)
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    sock, _ = await listener.accept()
                    nursery.start_soon(self._pass_on, trio.SocketStream(sock))

    async def _pass_on(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self.open.append(scope)
            try:
                async with near, await trio.open_unix_socket(self.there) as far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far, scope)
                    nursery.start_soon(self._pump, far, near, scope)
            except OSError:
                pass  # the server is being started again
            finally:
                self.open.remove(scope)

    @staticmethod
    async def _pump(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some(PIECE):
                await sink.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def cut_now_and_then(self, rng: random.Random, mean_s: float) -> None:
        while True:
            await trio.sleep(rng.expovariate(1 / mean_s))
            if self.open:
                rng.choice(self.open).cancel()
                self.cuts += 1


@dataclass
class Connections:
    """What became of one client's connections; the sink of its probe. told: when, and what."""

    told: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, name: str, fields: tuple[Field, ...]) -> None:
        if name == "connection" and fields[1] == "session":
            self.told.append((trio.current_time(), str(fields[0])))

    def between(self, began: float, ended: float) -> dict[str, int]:
        """Count what happened in a time."""
        return dict(sorted(Counter(what for when, what in self.told if began <= when <= ended).items()))


@dataclass
class Worker:
    """One client's work. files: what must be there, by path."""

    client: Client
    connections: Connections
    folder: str
    rng: random.Random
    files: dict[str, bytearray] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    times: list[tuple[float, float, str, dict[str, int]]] = field(default_factory=list)
    """Of the slowest operations: how long, since when, what, and what became of the connections meanwhile."""
    number: int = 0

    async def work(self, until: float) -> None:
        await self.client.mkdir(self.folder)
        while trio.current_time() < until:
            began = trio.current_time()
            name = self.rng.choice(["make", "make", "write", "write", "append", "cut", "rename", "read", "read", "remove"])
            if name == "make" or not self.files:
                await self.make()
                name = "make"
            else:
                await getattr(self, name)(self.rng.choice(list(self.files)))
            self.done[name] += 1
            ended = trio.current_time()
            if len(self.times) < SLOWEST or ended - began > self.times[0][0]:
                meanwhile = self.connections.between(began, ended)
                self.times = sorted([*self.times, (ended - began, began, name, meanwhile)], key=itemgetter(0))[-SLOWEST:]
            self.connections.told.clear()

    def data(self) -> bytes:
        return self.rng.randbytes(int(2 ** self.rng.uniform(0, 19)))

    async def make(self) -> None:
        self.number += 1
        path, data = f"{self.folder}/{self.number}", self.data()
        async with await self.client.open(path, "x", direct=self.rng.random() < 0.2) as file:
            await self.put(file, data, 0)
        self.files[path] = bytearray(data)

    async def put(self, file: netfs.File, data: bytes, pos: int) -> None:
        async def write() -> None:
            assert await file.write(data, pos) == len(data)
            await file.fsync()

        await self.until_safe(write)

    @staticmethod
    async def until_safe(change: Callable[[], Awaitable[None]]) -> None:
        """Do it again where the server was killed before direct data, or a size, was safe, as EIO says."""
        for _ in range(5):
            try:
                return await change()
            except OSError as error:
                if error.errno != errno.EIO or "restarted" not in str(error):
                    raise
        raise AssertionError("five restarts in a row")

    async def write(self, path: str) -> None:
        known, data = self.files[path], self.data()
        pos = self.rng.randrange(len(known) + 1)
        async with await self.client.open(path, "r+", direct=self.rng.random() < 0.2) as file:
            await self.put(file, data, pos)
        known[pos : pos + len(data)] = data

    async def append(self, path: str) -> None:
        known, data = self.files[path], self.data()[:5000]
        async with await self.client.open(path, "a") as file:
            await file.write(data)
        known += data

    async def cut(self, path: str) -> None:
        size = self.rng.randrange(len(self.files[path]) + 1)
        await self.until_safe(partial(self.client.truncate, path, size))
        del self.files[path][size:]

    async def rename(self, path: str) -> None:
        self.number += 1
        await self.client.rename(path, f"{self.folder}/{self.number}")
        self.files[f"{self.folder}/{self.number}"] = self.files.pop(path)

    async def read(self, path: str) -> None:
        async with await self.client.open(path) as file:
            assert await file.read() == self.files[path], path

    async def remove(self, path: str) -> None:
        if len(self.files) > 200 or self.rng.random() < 0.3:
            await self.client.unlink(path)
            del self.files[path]


async def soak(folder: Path, seconds: float, clients: int, seed: int) -> dict[str, object]:
    """Run, compare, and return the summary."""
    rng = random.Random(seed)
    (folder / "export").mkdir()
    began = trio.current_time()
    with Served(folder / "export", folder / "server") as served:
        relay = Relay(str(folder / "server"))
        workers: list[Worker] = []
        restarts: list[tuple[float, float]] = []
        async with trio.open_nursery() as background:
            await background.start(relay.serve, str(folder / "relay"))
            async with trio.open_nursery() as nursery:
                for index in range(clients):
                    nursery.start_soon(_one, folder, f"/c{index}", rng.random(), began + seconds, workers, index)
                while len(workers) < clients:  # noqa: ASYNC110 - a first connection that is cut is an error, and to be one
                    await trio.sleep(0.1)
                background.start_soon(relay.cut_now_and_then, rng, 0.5)
                for _ in range(KILLS):
                    await trio.sleep(seconds / (KILLS + 1))
                    away = trio.current_time()
                    await trio.to_thread.run_sync(served.kill)
                    await trio.to_thread.run_sync(served.start)
                    restarts.append((away, trio.current_time()))
            background.cancel_scope.cancel()
        known = {path: bytes(data) for worker in workers for path, data in worker.files.items()}
        async with netfs.open_client(served.url) as fresh:
            for path, data in known.items():
                async with await fresh.open(path) as file:
                    assert await file.read() == data, path
                assert (folder / "export" / path[1:]).read_bytes() == data, path
        assert files_of(folder / "export") == set(known)
    done: Counter[str] = sum((worker.done for worker in workers), Counter())
    return {
        "seed": seed, "seconds": round(trio.current_time() - began, 1), "clients": clients, "kill_9": KILLS,
        "connections_cut": relay.cuts, "operations": sum(done.values()), **dict(sorted(done.items())),
        "files_compared": len(known), "bytes_compared": sum(map(len, known.values())),
        "longest_restart_s": round(max(ended - away for away, ended in restarts), 2),
        **_slowest([time for worker in workers for time in worker.times], restarts), "trees_equal": True,
    }  # fmt: skip


def _slowest(times: list[tuple[float, float, str, dict[str, int]]], restarts: list[tuple[float, float]]) -> dict[str, object]:
    """Tell of the slowest operations, of those apart that no restart of the server came into."""
    alone = [time for time in times if not any(away < time[1] + time[0] and time[1] < ended for away, ended in restarts)]
    return {
        name: [
            {"seconds": round(took, 2), "operation": what, "connections": meanwhile}
            for took, _, what, meanwhile in sorted(found, key=itemgetter(0), reverse=True)[:SLOWEST]
        ]
        for name, found in (("slowest", times), ("slowest_without_a_restart", alone))
    }


async def _one(folder: Path, place: str, seed: float, until: float, workers: list[Worker], index: int) -> None:
    url = f"netfs+unix://{folder}/relay:/"
    connections = Connections()
    async with netfs.open_client(url, hard=True, channels=1 + index % 2, probe=Probe(connections)) as client:
        worker = Worker(client, connections, place, random.Random(seed))
        workers.append(worker)
        await worker.work(until)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    sys.stderr.write(f"seed {asked.seed}\n")
    with tempfile.TemporaryDirectory() as folder:
        summary = trio.run(soak, Path(folder), asked.seconds, asked.clients, asked.seed)
    sys.stdout.write(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
