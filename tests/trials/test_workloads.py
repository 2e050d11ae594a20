"""The workloads: their oracles hold without faults and under them, and notice what is wrong."""

import pytest

from trials.case import Case, run_case
from trials.faults.plan import Plan
from trials.workloads import SCENARIOS
from trials.workloads.bytes_model import BytesModel


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_trial_without_faults(scenario: str) -> None:
    outcome = run_case(Case(scenario, 3, "stream", encrypt=True, operations=12, plan=Plan()))
    assert outcome.failure is None
    assert outcome.history is not None
    assert all(op.ok for op in outcome.history.ops)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_trials_under_faults(scenario: str) -> None:
    for seed, transport in enumerate(("stream", "rdma-memory", "rdma-stream")):
        outcome = run_case(Case(scenario, seed, transport, encrypt=bool(seed % 2), operations=8))  # type: ignore[arg-type]
        assert outcome.failure is None, f"{outcome.case}: {outcome.failure}"


def test_bytes_that_may_be_there() -> None:
    model = BytesModel()
    model.put(0, b"a" * 10)
    model.made_safe()
    model.put(5, b"b" * 10)
    assert model.check(0, 20, b"aaaaabbbbbbbbbb") is None
    assert model.check(0, 20, b"aaaaabbbbbbbbbc") == 14
    assert model.check(0, 20, b"aaaaa") == "5 bytes, where 15 are there"
    model.may_have_lost()
    for right in (b"aaaaaaaaaa", b"aaaaabbabb", b"aaaaabbbbbbbb\0b"):
        assert model.check(0, 20, right) is None
    assert model.check(0, 20, b"abaaaaaaaa") == 1
    assert model.check(0, 20, b"aaaaaaaaa") == "9 bytes, not 10 to 15"
    model.may_have_resized(3)
    assert model.check(0, 20, b"aaa") is None
    assert model.check(0, 20, b"aaa\0\0bbbbb") is None
    assert model.check(0, 20, b"aa\0") == 2
    model.may_have_put(18, b"c")
    assert model.check(0, 20, b"aaaaabbbbbbbbbb\0\0\0c") is None
    assert not model.sure
