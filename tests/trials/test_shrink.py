"""Shrinking: down to what matters, never over to another failure, never beyond the runs it may take."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from trials.case import Case, Outcome
from trials.faults.plan import Fault, Plan, Trigger
from trials.history import Failure
from trials.shrink import NoFailure, ddmin, shrink, size


def fault(number: int, target: str = "client1") -> Fault:
    return Fault("T14", Trigger("nth", number, "send"), target, (("side", "during"),))


WHOLE = Case(
    "own-files", 5, clients=3, operations=20,
    plan=Plan(tuple(map(fault, range(10, 18))), (("credits", 1), ("rsize", 4096))),
)  # fmt: skip
CHOICES = [0, 2, 1, 0, 0, 3, 0, 1, 0, 0, 1] * 9
Law = Callable[[Case], str]


class Bench:
    """A stand-in for `run_case` whose trials fail as a law says; it counts them."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.runs = 0

    def __call__(self, case: Case) -> Outcome:
        self.runs += 1
        kind = self.law(case)
        choices = CHOICES
        if case.schedule is not None:
            choices = [dict(case.schedule).get(number, 0) for number in range(len(CHOICES))]
        count = case.operations * case.clients if case.keep is None else len(case.keep)
        return Outcome(case, Failure(kind, "m") if kind else None, "t", 1, 1.0, count, (), choices)


def has(case: Case, *needed: int) -> bool:
    return case.keep is None or set(needed) <= set(case.keep)


def schedule_of(case: Case) -> dict[int, int]:
    found = dict(enumerate(CHOICES)) if case.schedule is None else dict(case.schedule)
    return {number: choice for number, choice in found.items() if choice}


def law(case: Case) -> str:
    """Fail with a fault that comes at the 4th send or later, operations 7 and 31, one decision, and two clients."""
    assert case.plan is not None
    enough = any(one.trigger.value >= 4 for one in case.plan.faults)
    return "U1" if enough and has(case, 7, 31) and schedule_of(case).get(5) and case.clients >= 2 else ""


def test_only_what_matters_is_left() -> None:
    run = Bench(law)
    found = shrink(WHOLE, run)
    case = found.case
    assert case.plan is not None
    assert [one.trigger.value for one in case.plan.faults] == [4]
    assert not case.plan.knobs
    assert case.keep == (7, 31)
    assert case.schedule == ((5, 3),)
    assert case.clients == 2
    assert size(found.outcome) == {"faults": 1, "knobs": 0, "operations": 2, "clients": 2, "schedule": 1}
    assert found.runs == run.runs < 200
    assert not found.others


def test_another_failure_is_put_aside_and_not_taken() -> None:
    """Fewer faults or operations fail too, but otherwise: they are no smaller form of this failure."""

    def two(case: Case) -> str:
        assert case.plan is not None
        if len(case.plan.faults) < 2:
            return "U9 slipped"
        return "U1" if has(case, 3) else "U8 slipped"

    found = shrink(WHOLE, Bench(two))
    assert found.outcome.failure == Failure("U1", "m")
    assert found.case.plan is not None and len(found.case.plan.faults) == 2
    assert found.case.keep == (3,)
    assert set(found.others) == {"U8 slipped", "U9 slipped"}
    assert {outcome.failure.kind for outcome in found.others.values() if outcome.failure} == set(found.others)


def test_fifo_at_once_where_order_does_not_matter() -> None:
    found = shrink(WHOLE, Bench(lambda case: "U1" if has(case, 3) else ""))
    assert found.case.schedule == ()
    assert found.case.policy == "fifo"
    assert found.case.plan == Plan()
    assert found.case.clients == 1


def test_a_schedule_that_does_not_repeat_is_left_to_the_policy() -> None:
    found = shrink(WHOLE, Bench(lambda case: "U1" if case.schedule is None else ""))
    assert found.case.schedule is None
    assert found.case.policy == "uniform"


@pytest.mark.parametrize("runs", [1, 2, 5, 20, 60])
def test_runs_are_bounded_and_what_was_reached_holds(runs: int) -> None:
    run, told = Bench(law), []
    found = shrink(WHOLE, run, runs=runs, progress=lambda state: told.append(state.runs))
    assert found.runs == run.runs == runs
    assert told == list(range(2, runs + 1))
    assert law(found.case) == "U1"


def test_what_does_not_fail_is_not_shrunk() -> None:
    with pytest.raises(NoFailure):
        shrink(replace(WHOLE, plan=Plan()), Bench(law))


@pytest.mark.parametrize(
    ("items", "needed"),
    [(range(0), set()), (range(1), {0}), (range(8), set()), (range(8), {3}), (range(100), {0, 99}), (range(37), {5, 6, 30})],
)
def test_ddmin_finds_what_is_needed(items: Sequence[int], needed: set[int]) -> None:
    seen: list[tuple[int, ...]] = []

    def fails(some: Sequence[int]) -> bool:
        seen.append(tuple(some))
        return needed <= set(some)

    assert set(ddmin(items, fails)) == needed
    assert len(seen) <= 120


def test_no_item_of_the_result_can_be_left_out() -> None:
    def fails(some: Sequence[int]) -> bool:
        return sum(some) >= 50

    found = ddmin(range(1, 20), fails)
    assert fails(found)
    assert not any(fails([item for item in found if item is not other]) for other in found)
