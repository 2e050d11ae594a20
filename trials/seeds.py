"""Trio shell. From seeds to trials: which case a seed stands for, and one row of results for each. Owns no memory."""

import time
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from trials.case import IN_PROCESS, Case, Outcome, run_case
from trials.determinism import check_determinism
from trials.faults.plan import Plan
from trials.sim.fences import EscapedSimulation
from trials.sim.rng import stream_seed
from trials.token import encode
from trials.written import MISSED, REACHED

__all__ = ["ANY", "Spec", "parse_seeds", "run_seed", "shard_of", "text_of_seeds"]

ANY: Final = "any"
MOST: Final = 1 << 62
DETERMINISM: Final = "D1 not deterministic"
ESCAPE: Final = "D2 escaped the simulator"


@dataclass(frozen=True, slots=True)
class Spec:
    """What many trials have in common. transport, encrypt: `any` is drawn from the seed. plan: JSON, empty: drawn from the seed.

    check: each such seed runs once more in a fresh process, 0 for none.
    """

    scenario: str = "mixed"
    transport: str = ANY
    encrypt: str = ANY
    clients: int = 2
    operations: int = 60
    policy: str = "uniform"
    bug: str = ""
    plan: str = ""
    check: int = 0

    def case(self, seed: int) -> Case:
        """Return the case of a seed. Raises: ValueError when there is none."""
        draw = stream_seed(seed, f"{self.scenario}/kind")
        transport = IN_PROCESS[draw % len(IN_PROCESS)] if self.transport == ANY else self.transport
        encrypt = bool(draw // len(IN_PROCESS) % 2) if self.encrypt == ANY else self.encrypt == "yes"
        return Case(
            self.scenario, seed, transport,  # type: ignore[arg-type] # Case checks it
            encrypt, self.clients, self.operations, Plan.from_json(self.plan) if self.plan else None,
            policy=self.policy, bug=self.bug,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Spec":
        """Read what `to_dict` gave. Raises: ValueError."""
        known = {field.name for field in fields(cls)}
        if not known.issuperset(values):
            raise ValueError(f"unknown fields: {', '.join(sorted(set(values) - known))}")
        return cls(**values)


def parse_seeds(text: str) -> range:
    """Read `a:b`, from a up to and without b, or `n`, the first n. Raises: ValueError."""
    first, colon, last = text.replace("_", "").partition(":")
    try:
        numbers = (_number(first), _number(last)) if colon else (0, _number(first))
    except ValueError:
        raise ValueError(f"{text!r}: seeds are written a:b, or as their number, such as 0:2000 or 2000") from None
    if numbers[0] >= numbers[1]:
        raise ValueError(f"{text!r} holds no seeds")
    return range(*numbers)


def _number(text: str) -> int:
    """Read a whole number; 1e6 is one too."""
    value = float(text) if "e" in text else int(text)
    if not 0 <= value <= MOST or value != int(value):
        raise ValueError(text)
    return int(value)


def text_of_seeds(seeds: range) -> str:
    """Return what `parse_seeds` reads."""
    return f"{seeds.start}:{seeds.stop}"


def shard_of(seeds: range, text: str) -> range:
    """Return one of the equal parts of the seeds that `i/n` names, i from 1 to n. Raises: ValueError."""
    index, slash, count = text.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal() or not 1 <= int(index) <= int(count):
        raise ValueError(f"{text!r}: a shard is written i/n, with i from 1 to n, such as 3/64")
    width = -(-len(seeds) // int(count))
    return seeds[(int(index) - 1) * width : int(index) * width]


def run_seed(spec: Spec, seed: int) -> dict[str, Any]:
    """Run one trial. Returns: its row, which is JSON."""
    began = time.perf_counter()
    case = spec.case(seed)
    try:
        if spec.check and not seed % spec.check:
            outcome, divergence = check_determinism(case)
            if divergence is not None:
                return _row(case, began, DETERMINISM, str(divergence), outcome)
        else:
            outcome = run_case(case)
    except EscapedSimulation as error:
        return _row(case, began, ESCAPE, str(error), None)
    failure = outcome.failure
    return _row(outcome.case, began, failure.kind if failure else "", failure.message if failure else "", outcome)


def _row(case: Case, began: float, kind: str, message: str, outcome: Outcome | None) -> dict[str, Any]:
    row: dict[str, Any] = {"seed": case.seed, "transport": case.transport, "encrypt": case.encrypt}
    if kind:
        row |= {"class": kind, "message": message, "token": encode(case)}
    if outcome is not None:
        row |= {"fired": list(outcome.fired), "operations": outcome.operations, "steps": outcome.steps, "trace": outcome.trace}
        row["virtual_s"] = round(outcome.virtual_s, 6)
        marks = outcome.history.marks if outcome.history is not None else ()
        told = {mark.node: False for mark in marks if mark.kind in {REACHED, MISSED}}
        told |= {mark.node: True for mark in marks if mark.kind == REACHED}
        if told:
            row["sometimes"] = told
    row["seconds"] = round(time.perf_counter() - began, 4)
    return row
