"""Trio shell. Make a failing case small: fewer faults, fewer operations, smaller numbers, a plain schedule, fewer clients.

Each step proposes smaller cases and keeps one only when it fails in the same class (`Failure.kind`): a smaller case that fails
otherwise is another finding, and is put aside as such. The number of runs is bounded; what has been reached by then is the
result. Owns no memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from trials.case import Case, Outcome
from trials.faults.plan import Fault, Plan, PlanError, Trigger, Value
from trials.sim.policy import sparse

__all__ = ["DEFAULT_RUNS", "NoFailure", "Shrunk", "ddmin", "shrink", "size"]

T = TypeVar("T")
DEFAULT_RUNS: Final = 400
ROUNDS: Final = 3
Progress = Callable[["Shrunk"], object]


class NoFailure(Exception):
    """The case to be made smaller does not fail."""


class _Spent(Exception):
    """The runs are used up."""


@dataclass(slots=True)
class Shrunk:
    """What has been reached. outcome: of the smallest case. runs: so far. step: what is being tried.

    others: cases that failed in another class, the first of each.
    """

    outcome: Outcome
    step: str = ""
    runs: int = 0
    others: dict[str, Outcome] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        """The smallest case that fails as the first one did."""
        return self.outcome.case


def size(outcome: Outcome) -> dict[str, int]:
    """Return how large a case is, part by part."""
    case = outcome.case
    plan = case.plan or Plan()
    others = len(sparse(outcome.choices))
    return {
        "faults": len(plan.faults), "knobs": len(plan.knobs), "operations": outcome.operations, "clients": case.clients,
        "schedule": others,
    }  # fmt: skip


def shrink(case: Case, run: Callable[[Case], Outcome], *, runs: int = DEFAULT_RUNS, progress: Progress | None = None) -> Shrunk:
    """Make a case smaller with at most `runs` runs of it. progress: is told of each run.

    Raises: NoFailure when the case itself does not fail.
    """
    first = run(case)
    if first.failure is None:
        raise NoFailure("the trial does not fail")
    shrinking = _Shrinking(Shrunk(first, runs=1), run, runs, progress)
    try:
        for _ in range(ROUNDS):
            before = shrinking.found.case
            shrinking.round()
            if shrinking.found.case == before:
                break
    except _Spent:
        pass
    return shrinking.found


def ddmin(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Return a part of the items that fails and of which none can be left out; nothing when that fails (Zeller, TSE 2002)."""
    if not items or fails(items[:0]):
        return items[:0]
    count = 2
    while len(items) > 1:
        width = -(-len(items) // count)
        for start in range(0, len(items), width):
            rest = [*items[:start], *items[start + width :]]
            if fails(rest):
                items, count = rest, max(count - 1, 2)
                break
        else:
            if width == 1:
                break
            count = min(2 * count, len(items))
    return items


class _Shrinking:
    """One search. tried: what has been run already, so that no round pays twice."""

    def __init__(self, found: Shrunk, run: Callable[[Case], Outcome], runs: int, progress: Progress | None) -> None:
        self.found = found
        assert found.outcome.failure is not None
        self.kind = found.outcome.failure.kind
        self._run = run
        self._most = runs
        self._progress = progress
        self._tried: set[Case] = set()

    def round(self) -> None:
        """Try each kind of making it smaller once."""
        for step in (self._faults, self._knobs, self._operations, self._numbers, self._schedule, self._clients):
            self.found.step = step.__name__.lstrip("_")
            step()

    def _fails(self, case: Case) -> bool:
        """Run a smaller case. Returns: whether it fails in the same class, and is then the one to go on from."""
        if case in self._tried:
            return False
        if self.found.runs >= self._most:
            raise _Spent
        self._tried.add(case)
        self.found.runs += 1
        outcome = self._run(case)
        failure = outcome.failure
        same = failure is not None and failure.kind == self.kind
        if same:
            self.found.outcome = outcome
        elif failure is not None:
            self.found.others.setdefault(failure.kind, outcome)
        if self._progress is not None:
            self._progress(self.found)
        return same

    @property
    def _plan(self) -> Plan:
        plan = self.found.case.plan
        assert plan is not None, "an outcome's case has its plan"
        return plan

    def _with(self, plan: Plan) -> Case:
        return replace(self.found.case, plan=plan)

    def _faults(self) -> None:
        whole = self._plan
        ddmin(whole.faults, lambda faults: self._fails(self._with(replace(whole, faults=tuple(faults)))))

    def _knobs(self) -> None:
        whole = self._plan
        ddmin(whole.knobs, lambda knobs: self._fails(self._with(replace(whole, knobs=tuple(knobs)))))

    def _operations(self) -> None:
        case, done = self.found.case, self.found.outcome.operations
        keep = case.keep if case.keep is not None else tuple(range(done))
        ddmin(keep, lambda some: self._fails(replace(case, keep=tuple(some))))

    def _numbers(self) -> None:
        """Let each number of each fault be as small as it may."""
        for index in range(len(self._plan.faults)):
            for name in ("", *(name for name, value in self._plan.faults[index].args if isinstance(value, (int, float)))):
                self._number(index, name)

    def _number(self, index: int, name: str) -> None:
        """Halve the way of one number to its smallest value: first all of it, then less and less."""
        fault = self._plan.faults[index]
        value = fault.trigger.value if not name else fault.arg(name, 0)
        for smaller in _smaller(value):
            candidate = _with_number(self._plan.faults[index], name, smaller)
            if candidate is None:
                continue
            faults = list(self._plan.faults)
            faults[index] = candidate
            if self._fails(self._with(replace(self._plan, faults=tuple(faults)))):
                break

    def _schedule(self) -> None:
        """Let the oldest task run first, all the time or at as many decisions as can be."""
        if self.found.case.schedule is None:
            # First as the policy chose, written down: if that does not fail, no part of it will.
            case = replace(self.found.case, policy="fifo")
            if self._fails(replace(case, schedule=())) or not self._fails(
                replace(case, schedule=sparse(self.found.outcome.choices))
            ):
                return
        case = self.found.case
        assert case.schedule is not None
        ddmin(case.schedule, lambda some: self._fails(replace(case, schedule=tuple(some))))

    def _clients(self) -> None:
        while self.found.case.clients > 1:
            if not self._fails(replace(self.found.case, clients=self.found.case.clients - 1)):
                break


def _smaller(value: Value) -> Iterator[int | float]:
    """Yield smaller numbers, the smallest first."""
    if isinstance(value, str) or value <= 0:
        return
    if value == int(value):
        low, whole = 0, int(value)
        yield from (low, 1) if whole > 1 else (low,)
        step = whole // 2
        while step >= 1 and whole - step > 1:
            yield whole - step
            step //= 2
    else:
        for digits in (0, 1, 2):
            if (rounded := round(value, digits)) < value:
                yield rounded


def _with_number(fault: Fault, name: str, value: float) -> Fault | None:
    """Return the fault with another number, None when it may not have it."""
    from trials.faults.catalogue import check_fault  # noqa: PLC0415 - loads every layer's faults

    try:
        if name:
            changed = replace(fault, args=tuple((key, value if key == name else old) for key, old in fault.args))
        else:
            trigger = Trigger(fault.trigger.kind, value, fault.trigger.event)
            changed = replace(fault, trigger=trigger)
        check_fault(changed)
    except PlanError:
        return None
    return changed
