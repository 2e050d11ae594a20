"""Policies: each gives schedules of its own kind, a schedule is repeated from its few choices, all within a bound are tried."""

import re

import pytest
import trio

from trials import sim
from trials.sim.policy import Replay, Schedule, index_of, sparse
from trials.sim.schedules import explore, make_policy, parse_policy

TASKS = 4
ROUNDS = 20


async def rounds(world: sim.SimWorld) -> list[int]:
    """Return who ran, step by step."""
    del world
    seen: list[int] = []

    async def work(index: int) -> None:
        for _ in range(ROUNDS):
            seen.append(index)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for index in range(TASKS):
            nursery.start_soon(work, index)
    return seen


POLICIES = ("fifo", "uniform", "pct:3", "starve:8")


@pytest.mark.parametrize("name", POLICIES)
def test_a_recorded_schedule_is_repeated(name: str) -> None:
    first = sim.run(5, rounds, policy=name)
    again = sim.run(5, rounds, policy=Replay(sparse(first.policy.choices)))
    assert again.trace == first.trace
    assert again.result == first.result
    assert again.policy.choices == first.policy.choices
    assert sim.run(5, rounds, policy=name).trace == first.trace
    assert bool(sparse(first.policy.choices)) is (name != "fifo")


def longest_absence(seen: list[int]) -> int:
    """Return the most steps between two of one task, while all had something left to do."""
    last, most = dict.fromkeys(range(TASKS), 0), 0
    for number, index in enumerate(seen):
        most = max(most, number - last[index])
        last[index] = number
        if seen[:number].count(index) == ROUNDS - 1:
            break
    return most


def test_only_starving_keeps_a_task_from_a_whole_batch() -> None:
    most = {name: max(longest_absence(sim.run(seed, rounds, policy=name).result) for seed in range(12)) for name in POLICIES}
    assert most["fifo"] == TASKS
    assert most["uniform"] < 2 * TASKS
    assert most["pct:3"] < 2 * TASKS
    assert 6 * (TASKS - 1) < most["starve:8"] <= (8 + 1) * (TASKS - 1) + TASKS
    assert longest_absence(sim.run(1, rounds, policy="starve:1").result) <= 4 * TASKS


def test_priorities_hold_until_they_are_changed() -> None:
    """With one depth there is one order, round after round; each further depth allows one more."""
    for depth in (1, 2, 3):
        for seed in range(6):
            seen = sim.run(seed, rounds, policy=f"pct:{depth}").result
            orders = {tuple(seen[at : at + TASKS]) for at in range(0, len(seen), TASKS)}
            assert len(orders) <= 2 * depth - 1
    assert len({tuple(sim.run(seed, rounds, policy="pct:1").result[:TASKS]) for seed in range(12)}) > 5


@pytest.mark.parametrize("text", ["fifo", "uniform", "pct:3", "starve:8", "exhaustive:2"])
def test_names_are_read_back(text: str) -> None:
    assert str(parse_policy(text)) == text


def test_a_number_has_a_default() -> None:
    assert [str(parse_policy(name)) for name in ("pct", "starve", "exhaustive")] == ["pct:3", "starve:8", "exhaustive:1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("random", "'random' is no policy; there are fifo, uniform, pct, starve, exhaustive"),
        ("", "'' is no policy"),
        ("fifo:2", "'fifo:2': fifo takes no number"),
        ("pct:", "after pct: comes a number from 1 to 1000, such as pct:3"),
        ("pct:0", "from 1 to 1000"),
        ("starve:-1", "such as starve:8"),
        ("starve:1001", "from 1 to 1000"),
        ("pct:x", "from 1 to 1000"),
    ],
)
def test_a_wrong_name_says_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_policy(text)


def test_a_set_of_schedules_is_not_one() -> None:
    with pytest.raises(ValueError, match="many runs"):
        sim.run(1, rounds, policy="exhaustive:1")
    assert make_policy("pct", 1).choices == make_policy("pct:3", 1).choices


def test_a_choice_no_longer_offered_becomes_the_nearest() -> None:
    policy = Replay(((2, 9),))
    outcome = sim.run(1, rounds, policy=policy)
    assert policy.diverged
    assert sorted(outcome.result) == sorted(list(range(TASKS)) * ROUNDS)
    assert max(map(index_of, policy.choices)) < TASKS


def shuffles(delays: int) -> list[tuple[Schedule, list[int]]]:
    """Return each schedule of three tasks with one step each, and the order it gave."""

    async def main(_: sim.SimWorld) -> list[int]:
        seen: list[int] = []

        async def work(index: int) -> None:
            seen.append(index)
            await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for index in range(3):
                nursery.start_soon(work, index)
        return seen

    orders: list[list[int]] = []

    def run(schedule: Schedule) -> list[int]:
        outcome = sim.run(1, main, policy=Replay(schedule))
        orders.append(outcome.result)
        return list(outcome.policy.sizes)

    return list(zip(explore(run, delays), orders, strict=False))


def test_all_schedules_within_a_bound_are_tried_once_fewest_delays_first() -> None:
    tried = shuffles(3)
    orders = {tuple(order) for _, order in tried}
    assert len(orders) == 6
    assert len({schedule for schedule, _ in tried}) == len(tried)
    costs = [sum(choice for _, choice in schedule) for schedule, _ in tried]
    assert costs == sorted(costs) and costs[0] == 0
    assert len({tuple(order) for _, order in shuffles(1)}) == 3
