"""Trio shell. How fast trials run: whole ones under faults, encrypted subrequests, work requests; and how much memory they leave.

Each is measured in a process of its own, by its CPU time, since a simulation has Trio to itself: `python -m
trials.bench.simulated NAME` prints the number. Against what was promised for one core. Owns no memory.
"""

import gc
import logging
import random
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from trials.bench.figure import Figure, Pairing

if TYPE_CHECKING:
    from netfs.fs.file import File
    from trials.pairs import Pair, TransportName

__all__ = ["FIGURES"]

CLIENTS: Final = 3
OPERATIONS: Final = 20
"""Of each client: 60 in all."""
TRIALS: Final = 40
GROWTH_TRIALS: Final = 200
BLOCK: Final = 4096
CALLS: Final = 400
LANES: Final = 4


def trials() -> float:
    """Return trials a second, with storage and network faults."""
    from trials.case import Case, run_case  # noqa: PLC0415 - loaded in the process that measures
    from trials.faults.catalogue import draw_plan  # noqa: PLC0415

    begun = _cpu()
    for seed in range(TRIALS):
        rng = random.Random(seed)
        plan = draw_plan(rng, transport="stream", encrypt=False, clients=CLIENTS, reach=OPERATIONS, layers="TS")
        run_case(Case("own-files", seed, clients=CLIENTS, operations=OPERATIONS, plan=plan))
    return TRIALS / (_cpu() - begun)


def growth() -> float:
    """Return the megabytes that 2,000 trials leave behind, by what some of them do when the first ones are over."""
    from trials.case import Case, run_case  # noqa: PLC0415

    def run(count: int) -> int:
        for seed in range(count):
            run_case(Case("own-files", seed % 40, operations=4))
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = run(80)
    return (run(GROWTH_TRIALS) - before) / 1024 * 2000 / GROWTH_TRIALS


def subrequests() -> float:
    """Return the encrypted subrequests of 4 KiB in a second."""
    return _direct("stream", True, lambda p: p.client_probe.subrequests)


def work_requests() -> float:
    """Return the work requests of both sides in a second."""

    def count(p: "Pair") -> int:
        assert p.server_probe is not None
        return p.client_probe.work_requests + p.server_probe.work_requests

    return _direct("rdma-memory", False, count)


def _direct(transport: "TransportName", encrypt: bool, count: "Callable[[Pair], int]") -> float:
    """Return what is counted in a second of direct reads and writes of 4 KiB."""
    from trials import sim  # noqa: PLC0415
    from trials.pairs import pair  # noqa: PLC0415

    async def main(world: sim.SimWorld) -> float:
        async with (
            pair(transport, encrypt=encrypt, world=world, block_size=16384) as p,
            await p.client.open("/file", "w+", direct=True) as file,
        ):
            await file.write(bytes(BLOCK * 8 * LANES), 0)
            before, begun = count(p), _cpu()
            async with trio.open_nursery() as nursery:
                for lane in range(LANES):
                    nursery.start_soon(_lane, file, lane)
            return (count(p) - before) / (_cpu() - begun)

    return sim.run(1, main).result


async def _lane(file: "File", lane: int) -> None:
    buffer = bytearray(BLOCK)
    for index in range(CALLS):
        pos = BLOCK * 8 * lane + BLOCK * 4 * (index % 2)
        if index % 4 < 2:
            await file.write(buffer, pos)
        else:
            await file.preadv([buffer], pos)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


MEASURES: Final[dict[str, Callable[[], float]]] = {
    "trials": trials, "growth": growth, "subrequests": subrequests, "work_requests": work_requests,
}  # fmt: skip


@asynccontextmanager
async def _elsewhere(name: str, promised: float) -> AsyncIterator[Pairing]:
    async def value() -> float:
        command = [sys.executable, "-m", "trials.bench.simulated", name]
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
        return float(done.stdout)

    async def limit() -> float:
        await trio.lowlevel.checkpoint()
        return promised

    yield Pairing(value, limit)


FIGURES: Final = (
    Figure("trials.run", "trials/s", "promised", 1.0, partial(_elsewhere, "trials", 12.0), rounds=3),
    Figure("trials.subrequests", "subrequests/s", "promised", 1.0, partial(_elsewhere, "subrequests", 1500.0), rounds=3),
    Figure("trials.work_requests", "WR/s", "promised", 1.0, partial(_elsewhere, "work_requests", 8000.0), rounds=3),
    Figure("trials.growth", "MB per 2,000 trials", "promised", 1.0, partial(_elsewhere, "growth", 5.0), lower=True, rounds=1),
)

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.stdout.write(f"{MEASURES[sys.argv[1]]()}\n")
