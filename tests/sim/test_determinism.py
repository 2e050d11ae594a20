"""One seed, one trace: in this process and in fresh ones with other hash seeds, over every simulated transport."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.sim.scenario import SIMULATED, run
from trials.pairs import TransportName

HASH_SEEDS = ("0", "1", "2", "4242", "random")
MANY_HASH_SEEDS = tuple("random" if number % 3 == 2 else str(number * 1009) for number in range(20))


def traces_of(hash_seeds: Sequence[str]) -> set[str]:
    """Run the scenario in a fresh process for each hash seed, some at a time. Returns: the traces there were."""
    found: set[str] = set()
    for first in range(0, len(hash_seeds), 5):
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.sim.scenario", "17"],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                stdout=subprocess.PIPE,
                text=True,
            )
            for hash_seed in hash_seeds[first : first + 5]
        ]
        found |= {process.communicate()[0].strip() for process in processes}
        assert not any(process.returncode for process in processes)
    return found


def test_five_processes_with_other_hash_seeds_make_one_trace() -> None:
    assert traces_of(HASH_SEEDS) == {" ".join(run(17, transport).trace for transport in SIMULATED)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_processes_make_one_trace() -> None:
    assert len(traces_of(MANY_HASH_SEEDS)) == 1


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
