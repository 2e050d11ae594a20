"""One seed, one trace: in this process and in fresh ones with other hash seeds, over every simulated transport."""

import os
import subprocess
import sys

import pytest

from tests.sim.scenario import SIMULATED, run
from trials.pairs import TransportName

HASH_SEEDS = ("0", "1", "2", "4242", "random")


def test_five_processes_with_other_hash_seeds_make_one_trace() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.sim.scenario", "17"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in HASH_SEEDS
    ]
    traces = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * len(HASH_SEEDS)
    assert traces == {" ".join(run(17, transport).trace for transport in SIMULATED)}


@pytest.mark.parametrize("transport", SIMULATED)
def test_seeds_differ_and_repeat_whatever_ran_before(transport: TransportName) -> None:
    first, other, again = run(1, transport), run(2, transport), run(1, transport)
    assert first.trace == again.trace
    assert first.steps == again.steps
    assert first.trace != other.trace


@pytest.mark.parametrize("transport", SIMULATED)
@pytest.mark.parametrize("seed", range(100, 106))
def test_mixed_work_gives_back_what_was_written(transport: TransportName, seed: int) -> None:
    outcome = run(seed, transport)
    assert outcome.result.operations == 90
    assert outcome.result.bytes_read
