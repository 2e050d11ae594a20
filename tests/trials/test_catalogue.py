"""The catalogue of faults: all ids are there, each that can be injected takes effect, and what is allowed comes of it."""

import json
import random
from collections import Counter
from functools import cache

import pytest

from netfs.cli.main import build, run
from tests.ledger import world as ledger_of
from trials.case import Case, run_case
from trials.commands.faults import register_faults
from trials.faults.catalogue import KNOBS, LAYERS, ROWS, allowed_errnos
from trials.faults.plan import Plan
from trials.pairs import TransportName
from trials.seeds import Spec, run_seed

COUNTS = {"P": 12, "N": 14, "K": 14, "T": 26, "R": 27, "S": 30, "X": 12, "E": 8}
INJECTED = [row.id for row in ROWS.values() if row.exists]
JUDGED = [name for name in INJECTED if name != "E3"]
"""Those whose outcome a scenario can judge: one of those that show an old state is judged by a scenario that bears it."""


def test_all_ids_are_there() -> None:
    assert Counter(name[0] for name in ROWS) == COUNTS
    assert list(ROWS) == [f"{letter}{number}" for letter in LAYERS for number in range(1, COUNTS[letter] + 1)]
    assert len(INJECTED) >= 125


def test_rows_draw_what_they_accept() -> None:
    rng = random.Random(1)
    for row in ROWS.values():
        assert row.allowed
        assert row.how
        assert set(row.brings) <= set(ROWS)
        assert set(row.knobs) <= set(KNOBS)
        for _ in range(20 if row.exists else 0):
            row.check(row.draw(rng, 3, 60))


def plan_of(name: str, seed: int) -> Plan:
    rng, row = random.Random(seed), ROWS[name]
    faults = (row.draw(rng, 2, 12), *(ROWS[other].draw(rng, 2, 12) for other in row.brings))
    return Plan(faults, tuple(sorted(row.knobs.items())))


@cache
def case_of(name: str, seed: int) -> Case:
    needs = ROWS[name].needs.split()
    transport: TransportName = "rdma-memory" if "rdma-memory" in needs else "stream"
    # A lease is only asked back where files are shared.
    scenario = "fsx" if name == "S26" else "tamper" if "STALE" in ROWS[name].allowed else "own-files"
    return Case(scenario, seed, transport, "encrypt" in needs, operations=12, plan=plan_of(name, seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGED)
def test_a_fault_takes_effect_and_what_is_allowed_comes_of_it(name: str) -> None:
    """The scenario's own oracle says that nothing else came of it; the errors its callers were told are those of the row."""
    for seed in range(40):
        case = case_of(name, seed)
        with ledger_of(f"{name} {seed}"):
            outcome = run_case(case)
        assert outcome.failure is None, f"{outcome.failure} by {case.plan}"
        assert outcome.case.plan is not None
        if name in outcome.fired:
            assert outcome.history is not None
            errors = {op.error for op in outcome.history.ops if op.error}
            assert errors <= allowed_errnos(fault.id for fault in outcome.case.plan), f"{errors} by {case.plan}"
            return
    pytest.fail(f"{name} never took effect")


def faults(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    app, host = build([])
    register_faults(host)
    code = run(app, host, ["faults", "list", *arguments])
    out, err = capfd.readouterr()
    return code, out, err


def test_the_list(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = faults(capfd, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["id"] for row in rows] == list(ROWS)
    assert list(rows[0])[:5] == ["id", "layer", "name", "trigger", "allowed"]
    code, out, _ = faults(capfd, "--layer", "rdma")
    assert f"27 faults, {sum(name[0] == 'R' for name in INJECTED)} of which can be injected" in out
    assert "T14" not in out
    code, _, err = faults(capfd, "--layer", "golf")
    assert code == 1
    assert "no layer golf" in err


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_three_hundred_trials_meet_a_hundred_faults() -> None:
    rows = [run_seed(Spec("mixed"), seed) for seed in range(300)]
    assert len({name for row in rows for name in row.get("fired", ())}) >= 100
