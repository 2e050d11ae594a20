"""One trial from end to end: a pure function of its case, with an oracle that notices."""

from dataclasses import replace

import pytest

from trials import scene
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


@pytest.mark.parametrize("state", ["when(unsafe, 5000)", "when(connects, 2)", "when(requests, 1)"])
def test_a_fault_happens_in_a_state(state: str) -> None:
    """It happens as soon as the client has so many bytes that are not safe, has connected again, is at a read or a write."""
    fault = Fault("T16", Trigger.parse(state), "", (("way", "both"),))
    plan = Plan((fault, *(RESET if "connects" in state else ())))
    outcome = run_case(Case("own-files", 1, operations=10, plan=plan), keep_trace=True)
    assert outcome.failure is None
    assert "T16" in outcome.fired
    assert outcome.lines is not None
    if "connects" in state:
        places = [number for number, line in enumerate(outcome.lines) if "fault " in line]
        assert ["T14" in outcome.lines[number] for number in places[:2]] == [True, False]


def test_a_client_that_cannot_connect_does_not_die_of_it() -> None:
    """One more client is to die, and its connection is reset within the first bytes: that is no failure of the trial."""
    dies = Fault("P9", Trigger("at", 0.002), "client0", (("steps", 9),))
    outcome = run_case(Case("own-files", 0, operations=4, plan=Plan((dies, Fault("T26", Trigger("nth", 1, "connect"))))))
    assert outcome.failure is None
    assert "T26" in outcome.fired


def test_what_is_not_given_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that passes, with one thing of each kind kept back."""
    case = Case("own-files", 1, "rdma-memory", operations=2, plan=Plan())
    assert run_case(case).failure is None
    for name in ("of_client", "of_device", "of_server"):
        whole = getattr(scene, name)
        with monkeypatch.context() as patched:
            patched.setattr(scene, name, lambda *given, whole=whole: whole(*given) | {"things": 1})
            failure = run_case(case).failure
        assert failure is not None and failure.kind == "U3 things"


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
