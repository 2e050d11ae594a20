"""The bench: figures have names, limits and ratios, the median of neighbours; the command prints what scripts read."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from trials.bench.command import figures
from trials.bench.figure import Figure, Pairing, measure
from trials.bench.limits import memcpy_mb_s, py_loop_per_s, rotating

ISSUED = {
    "tcp.seq_read.qd8", "tcp.seq_write.qd8", "tcp.seq_read.qd1", "tcp.rand_read_4k.qd32", "tcp.rand_read_4k.qd1",
    "tcp.enc64k.seq_read.qd8", "socketpair.seq_read.qd8", "rdma_memory.seq_read", "memory.sparse_4g",
    "tls.seq_read.qd8",
}  # fmt: skip


def series(*numbers: float) -> Callable[[], Awaitable[float]]:
    left = iter(numbers)

    async def one() -> float:
        await trio.lowlevel.checkpoint()
        return next(left)

    return one


async def test_the_ratio_is_the_median_of_neighbours_and_the_first_round_warms_up() -> None:
    @asynccontextmanager
    async def pairing() -> AsyncIterator[Pairing]:
        yield Pairing(series(999, 10, 30, 20), series(1, 100, 100, 50))

    result = await measure(Figure("a.b", "1/s", "l", 0.3, pairing, rounds=3))
    assert (result.value, result.limit_value, result.ratio) == (20, 100, 0.3)
    assert result.met
    assert not replace(result, ratio=0.29).met
    assert result.as_row()["ratio"] == 0.3


def test_names_are_unique_and_all_that_is_promised_is_there() -> None:
    names = [figure.name for figure in figures()]
    assert len(names) == len(set(names))
    assert set(names) >= ISSUED
    assert all(figure.limit and figure.unit and figure.target > 0 for figure in figures())


def test_limits_measure_something() -> None:
    blocks = rotating(1 << 16, 1 << 20)
    assert len(blocks) == 16
    assert memcpy_mb_s(blocks, rotating(1 << 16, 1 << 20)) > 50
    assert py_loop_per_s(10_000) > 1000


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "netfs", "bench", *arguments], capture_output=True, text=True, check=False, env=dict(os.environ)
    )


def test_list_names_all_with_limit_and_target() -> None:
    listed = json.loads(run("--list", "--json").stdout)
    assert {"name", "unit", "limit", "target"} <= set(listed["figures"][0])
    assert {row["name"] for row in listed["figures"]} >= ISSUED


def test_an_unknown_figure_is_a_usage_error() -> None:
    done = run("no.such.figure")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("netfs: no figure is named no.such.figure")


@pytest.mark.slow
def test_a_figure_is_printed_as_scripts_read_it() -> None:
    done = run("rdma_memory.seq_read", "--json")
    row = json.loads(done.stdout)["figures"][0]
    assert {"name", "value", "unit", "limit", "limit_value", "ratio", "target"} <= set(row)
    assert row["value"] > 0 and row["ratio"] > 0
