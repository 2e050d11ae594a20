"""Trio shell. The nearest passing run: of the cases that differ from a failing one in one thing and pass, the one that stays
with it longest.

Owns no memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trials.case import Case, Outcome, run_case

__all__ = ["Neighbour", "nearest_passing"]

TRIED = 12


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A run that passes. how: what is different about it. same: lines of the trace until it goes another way."""

    outcome: Outcome
    how: str
    same: int


def nearest_passing(failed: Outcome) -> Neighbour | None:
    """Run the neighbours of a case whose trace was kept. Returns: the nearest one that passes."""
    assert failed.lines is not None
    best: Neighbour | None = None
    for _, (how, case) in zip(range(TRIED), _neighbours(failed.case), strict=False):
        outcome = run_case(case, keep_trace=True)
        if outcome.failure is not None or outcome.lines is None:
            continue
        same = next((n for n, (a, b) in enumerate(zip(failed.lines, outcome.lines, strict=False)) if a != b), len(outcome.lines))
        if best is None or same > best.same:
            best = Neighbour(outcome, how, same)
    return best


def _neighbours(case: Case) -> Iterator[tuple[str, Case]]:
    plan = case.plan
    assert plan is not None
    if case.bug:
        yield f"without the bug {case.bug}", replace(case, bug="")
    for index in reversed(range(len(plan.faults))):
        yield f"without the fault {plan.faults[index]}", replace(case, plan=plan.without(index))
    for index in range(len(case.schedule or ())):
        assert case.schedule is not None
        schedule = (*case.schedule[:index], *case.schedule[index + 1 :])
        yield f"with FIFO at decision {case.schedule[index][0]}", replace(case, schedule=schedule)
    if case.schedule is None:
        yield "with every task in FIFO order", replace(case, schedule=())
    for name, value in plan.knobs:
        yield f"without the knob {name}={value}", replace(case, plan=plan.without_knob(name))
    for place in reversed(case.keep or ()):
        yield f"without operation {place}", replace(case, keep=tuple(p for p in case.keep or () if p != place))
