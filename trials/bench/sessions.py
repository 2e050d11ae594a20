"""Trio shell. Figures of many clients and of lost connections: `session.*`, against a server process with an empty store.

`session.fair_500`: 500 connections with 4 requests of 4 KiB in flight each, for some seconds; calls a second of the slowest,
against the mean. `session.memory_500`: what the server's process holds meanwhile. `session.replay_64`: from the moment at
which a lost link can be dialled again until 64 requests that were in flight are answered, by way of a relay in this process.
The limits of the last two are budgets. Owns its buffers.
"""

import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from netfs.fs.client import open_client
from netfs.fs.connect import dial
from netfs.fs.url import Url, parse_url
from transport.base import Outcome, Reply, Transport
from transport.env import system_env
from transport.messages import Create, EntryReply, Handle, Mount, Read, Write
from trials.bench.figure import Figure, Measure, Pairing
from trials.pairs import server_process

__all__ = ["FIGURES"]

CLIENTS: Final = 500
DEPTH: Final = 4
SECONDS: Final = 4.0
SMALL: Final = 4096
IN_FLIGHT: Final = 64
BUDGET_MS: Final = 50.0
BUDGET_MB: Final = 400.0
_MB: Final = 1e6


async def _file(transport: Transport) -> Handle:
    """Return a file of 4 KiB."""
    root = (await transport.call(Mount())).body
    assert isinstance(root, EntryReply)
    made = (await transport.call(Create(root.handle, "file"))).body
    assert isinstance(made, EntryReply)
    await transport.call(Write(made.handle, 0), IovIter.ubuf(Direction.SOURCE, memoryview(bytearray(SMALL))))
    return made.handle


class _Busy:
    """A client that keeps some reads in flight, and counts them."""

    def __init__(self, transport: Transport, file: Handle) -> None:
        self.transport = transport
        self.request = Read(file, 0, SMALL)
        self.views = [memoryview(bytearray(SMALL)) for _ in range(DEPTH)]
        self.done = 0
        self.until = 0.0
        self.left = 0

    def start(self, until: float) -> None:
        self.until, self.done, self.left = until, 0, DEPTH
        for view in self.views:
            self._ask(view)

    def _ask(self, view: memoryview) -> None:
        self.transport.submit(self.request, partial(self._answered, view), dest=IovIter.ubuf(Direction.DEST, view))

    def _answered(self, view: memoryview, outcome: Outcome) -> None:
        assert isinstance(outcome, Reply) and outcome.received == SMALL, outcome
        self.done += 1
        if trio.current_time() < self.until:
            self._ask(view)
        else:
            self.left -= 1


@asynccontextmanager
async def _crowd() -> AsyncIterator[tuple[Callable[[], Measure], int]]:
    """Yield what has the crowd work for a while and gives the slowest and the mean, and the server's process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    env = system_env()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(server_process(None))
        url = parse_url(server.url)
        transports = [await stack.enter_async_context(dial(url, env, Probe())) for _ in range(CLIENTS)]
        file = await _file(transports[0])
        crowd = [_Busy(transport, file) for transport in transports]
        mean = 0.0

        async def slowest() -> float:
            nonlocal mean
            until = trio.current_time() + SECONDS
            for client in crowd:
                client.start(until)
            while any(client.left for client in crowd):  # noqa: ASYNC110 - a look now and then costs the crowd nothing
                await trio.sleep(0.1)
            rates = [client.done / SECONDS for client in crowd]
            mean = sum(rates) / len(rates)
            return min(rates)

        async def average() -> float:
            await trio.lowlevel.checkpoint()
            return mean

        yield lambda: slowest if not mean else average, server.pid


@asynccontextmanager
async def _fair() -> AsyncIterator[Pairing]:
    async with _crowd() as (measures, _):
        slowest = measures()

        async def mean() -> float:
            return await measures()()

        yield Pairing(slowest, mean)


@asynccontextmanager
async def _memory() -> AsyncIterator[Pairing]:
    async with _crowd() as (measures, pid):

        async def held() -> float:
            await measures()()
            return _held_mb(pid)

        yield Pairing(held, partial(_budget, BUDGET_MB))


def _held_mb(pid: int) -> float:
    """Return the most memory that a process has had so far, in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))) * 1024 / _MB


async def _budget(value: float) -> float:
    await trio.lowlevel.checkpoint()
    return value


# ---- a lost link


class _Relay:
    """Passes one connection on at a time; held, it takes what comes and passes nothing on."""

    def __init__(self, there: Url) -> None:
        self.there = there
        self.held = False
        self.scope = trio.CancelScope()

    async def serve(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self._pass_on, listeners)

    async def _pass_on(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as self.scope:
            async with await trio.open_tcp_stream(self.there.host, self.there.port) as far, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, near, far, True)
                await self._pump(far, near, False)
                nursery.cancel_scope.cancel()

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, towards: bool) -> None:
        async for data in source:
            if not (self.held and towards):
                await sink.send_all(data)


@asynccontextmanager
async def _lost_link() -> AsyncIterator[Pairing]:
    async with server_process(None) as server, trio.open_nursery() as nursery:
        relay = _Relay(parse_url(server.url))
        port = await nursery.start(relay.serve)
        async with open_client(f"netfs+tcp://127.0.0.1:{port}/") as client:
            file = await _file(client.transport)
            views = [memoryview(bytearray(SMALL)) for _ in range(IN_FLIGHT)]

            async def replayed_ms() -> float:
                answered = trio.Event()
                replies: list[Outcome] = []

                def done(outcome: Outcome) -> None:
                    replies.append(outcome)
                    if len(replies) == IN_FLIGHT:
                        answered.set()

                await trio.sleep(0.2)  # so that the connection has lasted, as one that is lost now and then has
                relay.held = True
                for view in views:
                    client.transport.submit(Read(file, 0, SMALL), done, dest=IovIter.ubuf(Direction.DEST, view))
                await trio.sleep(0.05)
                assert not replies
                relay.held = False
                began = trio.current_time()
                relay.scope.cancel()
                await answered.wait()
                took_ms = 1000 * (trio.current_time() - began)
                assert all(isinstance(reply, Reply) and reply.received == SMALL for reply in replies)
                return took_ms

            yield Pairing(replayed_ms, partial(_budget, BUDGET_MS))
        nursery.cancel_scope.cancel()


FIGURES: Final = (
    Figure("session.replay_64", "ms", "budget_50_ms", 1.0, _lost_link, lower=True),
    Figure("session.fair_500", "calls/s", "mean", 0.5, _fair, rounds=1),
    Figure("session.memory_500", "MB", "budget_400_mb", 1.0, _memory, lower=True, rounds=1),
)
