"""Trio shell. The hunt: is a planted bug found by its stock scenario within its seeds, and how small does the failure become?

A failure counts only if the same case passes without the bug: what fails anyway is another finding. Owns no memory.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from trials.case import Case, Outcome, run_case
from trials.faults.catalogue import row_of
from trials.faults.plan import Plan
from trials.history import Failure
from trials.shrink import shrink, size
from trials.sim.rng import stream_seed
from trials.token import encode
from trials.zoo.bug import BUGS, Bug, bugs

__all__ = ["Hunt", "as_json", "case_of", "hunt", "hunt_all"]

SHRINKING: Final = 300
"""Runs for making a failure small."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """What came of it. seeds_tried: up to the one that found it. token: of the shrunk case. failure: in which class it failed."""

    name: str
    found: bool
    seeds_tried: int
    failure: Failure | None = None
    shrunk_faults: int = 0
    shrunk_ops: int = 0
    token: str = ""


def case_of(bug: Bug, seed: int) -> Case:
    """Return the case in which a bug is hunted with a seed."""
    rng = random.Random(stream_seed(seed, "hunt"))
    rows = [row_of(kind) for kind in bug.kinds]
    faults = [row.draw(rng, bug.clients, bug.operations) for row in rows for _ in range(rng.randint(1, 2))]
    plan = Plan(tuple(faults), bug.knobs)
    return Case(bug.scenario, seed, bug.transport, bug.encrypt, bug.clients, bug.operations, plan=plan, bug=bug.name)


def hunt(
    name: str, seeds: int | None = None, *, first: int | None = None, shrinking: int = SHRINKING,
    progress: Callable[[str], object] | None = None,
) -> Hunt:  # fmt: skip
    """Look for a bug in up to `seeds` seeds, by default as many as it is said to take. shrinking: most runs to make it small.

    progress: is told in a few words what is going on. Raises: ValueError for a name that is none.
    """
    table = bugs()
    if name not in table:
        raise ValueError(f"no bug {name}; there are {', '.join(table)}")
    bug = table[name]
    begin = bug.first if first is None else first
    tried = 0
    for seed in range(begin, begin + (bug.seeds if seeds is None else seeds)):
        tried += 1
        if progress is not None:
            progress(f"{name}: seed {seed}")
        outcome = run_case(case_of(bug, seed))
        if outcome.failure is None or run_case(replace(outcome.case, bug="")).failure is not None:
            continue
        if not shrinking:
            return _found(name, tried, outcome)
        if progress is not None:
            progress(f"{name}: making it small")
        return _found(name, tried, shrink(outcome.case, run_case, runs=shrinking).outcome)
    return Hunt(name, False, tried)


def _found(name: str, tried: int, outcome: Outcome) -> Hunt:
    parts = size(outcome)
    return Hunt(name, True, tried, outcome.failure, parts["faults"], parts["operations"], encode(outcome.case))


def hunt_all(names: Iterable[str] = (), *, shrinking: int = SHRINKING) -> list[Hunt]:
    """Hunt bugs, all by default, one after another."""
    return [hunt(name, shrinking=shrinking) for name in names or bugs()]


def as_json(hunts: Iterable[Hunt]) -> dict[str, object]:
    """Return what `netfs trial zoo --json` prints."""
    return {
        "bugs": [
            {
                "name": each.name, "found": each.found, "seeds_tried": each.seeds_tried, "shrunk_faults": each.shrunk_faults,
                "shrunk_ops": each.shrunk_ops, "token": each.token, "layer": BUGS[each.name].layer,
                "failure": None if each.failure is None else str(each.failure),
            }
            for each in hunts
        ]
    }  # fmt: skip
