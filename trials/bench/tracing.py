"""Trio shell. What events cost a direct read of 4 KiB: `tracing.off_4k`, nobody listens, and `tracing.text_4k`, a text trace.

Off, a layer asks `sink is not None` and goes on. How often that happens in a read is counted by a probe whose sink is a property;
what one such question costs is timed in a loop, less the empty loop; their product is held against the time of the read itself.
The store is in memory, client and server share the process and both have the probe in question, so that the read is as short, and
the share as large, as it gets.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from iov.probe import EventSink, Probe
from netfs.fs.file import File
from netfs.tracing.text import TextTrace
from trials.bench.figure import Figure, Pairing
from trials.bench.limits import timed
from trials.pairs import pair
from trials.world import RealWorld

__all__ = ["FIGURES"]

BLOCK: Final = 4096
BLOCKS: Final = 256
READS: Final = 2000
COUNTED: Final = 64
QUESTIONS: Final = 500_000


class CountingProbe(Probe):
    """A probe without a sink that counts how often it is asked for one."""

    __slots__ = ("asked",)

    asked: int

    @property
    def sink(self) -> EventSink | None:
        self.asked += 1
        return None

    @sink.setter
    def sink(self, sink: EventSink | None) -> None:
        assert sink is None
        self.asked = 0


class ProbeWorld(RealWorld):
    """A world of probes that are handed in."""

    def __init__(self, probe: Callable[[str], Probe]) -> None:
        super().__init__()
        self._probe = probe

    def probe(self, node: str) -> Probe:
        return self._probe(node)


def _question_s() -> float:
    """Return the seconds of one `sink is not None` on a probe without one."""
    probe = Probe()
    times = range(QUESTIONS)
    with timed() as with_question:
        for _ in times:
            if probe.sink is not None:
                raise AssertionError("nobody listens")
    with timed() as without:
        for _ in times:
            pass
    return (with_question.seconds - without.seconds) / QUESTIONS


@asynccontextmanager
async def _file(probe: Callable[[str], Probe]) -> AsyncIterator[File]:
    async with pair("stream", world=ProbeWorld(probe)) as p, await p.client.open("/file", "w+", direct=True) as file:
        await file.write(bytes(BLOCK * BLOCKS))
        yield file


async def _reads(file: File, count: int) -> float:
    """Return the microseconds of a read."""
    view = memoryview(bytearray(BLOCK))
    with timed() as clock:
        for index in range(count):
            assert await file.preadv([view], index % BLOCKS * BLOCK) == BLOCK
    return clock.seconds / count * 1e6


async def _questions_in_a_read() -> float:
    probes: list[CountingProbe] = []

    def counting(_: str) -> Probe:
        probes.append(CountingProbe())
        return probes[-1]

    async with _file(counting) as file:
        before = sum(probe.asked for probe in probes)
        await _reads(file, COUNTED)
        return (sum(probe.asked for probe in probes) - before) / COUNTED


@asynccontextmanager
async def _off() -> AsyncIterator[Pairing]:
    questions = await _questions_in_a_read()
    async with _file(lambda _: Probe()) as file:

        async def cost() -> float:
            await trio.lowlevel.checkpoint()
            return questions * _question_s() * 1e6

        yield Pairing(cost, _reading(file))


@asynccontextmanager
async def _text() -> AsyncIterator[Pairing]:
    trace = TextTrace(len, time.perf_counter)
    async with _file(lambda node: Probe(trace.sink(node))) as traced, _file(lambda _: Probe()) as plain:
        yield Pairing(_reading(traced), _reading(plain))


def _reading(file: File) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        return await _reads(file, READS)

    return run


FIGURES: Final = (
    Figure("tracing.off_4k", "µs a read", "the read", 0.01, _off, lower=True),
    Figure("tracing.text_4k", "µs a read", "the read, off", 2.5, _text, lower=True),
)
