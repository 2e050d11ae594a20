"""One trial from end to end: a pure function of its case, with an oracle that notices."""

from dataclasses import replace

import pytest

from trials.case import IN_PROCESS, Case, drawn, run_case
from trials.faults.plan import Fault, Plan, Trigger
from trials.pairs import TransportName

RESET = Plan((Fault("T14", Trigger("nth", 9, "send"), "client1", (("side", "during"),)),))


@pytest.mark.parametrize("transport", IN_PROCESS)
def test_a_trial_is_a_function_of_its_case(transport: TransportName) -> None:
    case = Case("own-files", 5, transport, encrypt=True, operations=6, plan=Plan())
    first, second = run_case(case), run_case(case)
    assert first.failure is None
    assert first.operations == 12
    assert first.trace == second.trace
    assert first.choices == second.choices
    assert run_case(replace(case, seed=6)).trace != first.trace


def test_a_fault_takes_effect_and_is_borne() -> None:
    outcome = run_case(Case("own-files", 1, operations=10, plan=RESET), keep_trace=True)
    assert outcome.failure is None
    assert outcome.fired == ("T14",)
    assert outcome.lines is not None
    assert any("fault T14" in line for line in outcome.lines)


def test_operations_can_be_left_out() -> None:
    outcome = run_case(Case("own-files", 1, operations=10, plan=Plan(), keep=(0, 3)))
    assert outcome.failure is None
    assert outcome.operations == 2


def test_a_plan_is_drawn_from_the_seed() -> None:
    plans = {drawn(Case("own-files", seed)).plan for seed in range(20)}
    assert len(plans) > 10
    assert drawn(Case("own-files", 3)) == drawn(Case("own-files", 3))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"scenario": "golf"}, "no scenario golf"), ({"transport": "tcp"}, "not simulated"), ({"clients": 0}, "1 to 16")],
)
def test_a_case_that_is_none(changes: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"scenario": "own-files", "seed": 1} | changes
    with pytest.raises(ValueError, match=said):
        Case(**given)  # type: ignore[arg-type]
