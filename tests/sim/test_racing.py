"""Writers that race in the blocks of one encrypted file: the seeds that once found a defect, and many more."""

import pytest

from tests.sim.racing import run

FOUND = {
    "what was read before another client's commit is written back around new bytes, in an only block": 4,
    "the same, in one of several blocks": 2,
    "the record is put, with the first block inline, over another client's claim": 19,
    "a cut that is refused takes along what was written before it": 14,
    "a first block is sealed for the commit only after it has begun, as the file has grown": 1151,
    "a block is overwritten anew after each reading of the record": 40,
    "the same, in the first block of two": 6,
    "the same, with three writers": 184,
    "of two writers one waits for the first block, the other for what lies behind": 13249,
    "others commit faster than the tags are read, and that passes for damage": 1340,
}
"""What was wrong, and the seed that showed it."""


@pytest.mark.parametrize("what", FOUND)
def test_seeds_that_found_something(what: str) -> None:
    run(FOUND[what])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1400, 100))
def test_many_seeds(first: int) -> None:
    for seed in range(first, first + 100):
        run(seed)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(10_000, 14_000, 500))
def test_very_many_seeds(first: int) -> None:
    for seed in range(first, first + 500):
        run(seed)
