"""Trio shell. One trial: a pure function from a `Case`, which can be printed and hashed, to an `Outcome`.

    outcome = run_case(Case("own-files", seed=17, transport="stream", encrypt=True))

A trial has three phases: the scenario's files are made; its operations run while the plan's faults happen; then everything heals
and all that is still to be done must end within a bound of virtual time, after which the scenario looks at everything once more.
Owns no memory.
"""

import random
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from transport.rdma.capture import Capture
from trials import sim
from trials.checkers.honesty import check_errors
from trials.checkers.nonces import Ledger, watch
from trials.faults.catalogue import allowed_errnos, draw_plan, row_of
from trials.faults.injector import Injector
from trials.faults.plan import Plan
from trials.faults.rows_attacks import LIED_TO
from trials.history import Failure, History
from trials.pairs import TransportName
from trials.scene import Scene
from trials.sim.policy import Replay, Reseeding
from trials.sim.rng import stream_seed
from trials.sim.schedules import make_policy
from trials.sim.trace import Trace
from trials.sim.world import SimWorld
from trials.workloads import Operation, Workload, scenario_of
from trials.zoo.bug import planted

__all__ = ["IN_PROCESS", "Case", "Failure", "Outcome", "drawn", "run_case"]

IN_PROCESS: Final[tuple[TransportName, ...]] = ("stream", "rdma-memory", "rdma-stream")
SAFETY_S: Final = 30.0
"""Virtual seconds in which things may go wrong, at most."""
LIVENESS_S: Final = 300.0
"""Virtual seconds in which everything ends once all has healed."""


@dataclass(frozen=True, slots=True)
class Case:
    """Everything a trial is a function of.

    plan: None: drawn from the seed. keep: places of the operations that are done; None: all. schedule: decisions other than the
    oldest task first, by number; None: the policy decides. bug: one of the zoo that is let loose.
    """

    scenario: str
    seed: int
    transport: TransportName = "stream"
    encrypt: bool = False
    clients: int = 2
    operations: int = 60
    plan: Plan | None = None
    keep: tuple[int, ...] | None = None
    schedule: tuple[tuple[int, int], ...] | None = None
    policy: str = "uniform"
    bug: str = ""

    def __post_init__(self) -> None:
        scenario_of(self.scenario)
        if self.transport not in IN_PROCESS:
            raise ValueError(f"{self.transport} is not simulated; {', '.join(IN_PROCESS)} are")
        if not 1 <= self.clients <= 16 or not 0 <= self.operations <= 100_000:
            raise ValueError("a trial has 1 to 16 clients, and up to 100,000 operations of each")


@dataclass(slots=True)
class Outcome:
    """What a trial gave. case: with its plan. trace: hash of all that happened. fired: ids of faults that took effect.

    choices: what the schedule chose, 0 for the oldest task; sizes: between how many. history: what was done and seen.
    lines: of the trace, if they were kept.
    """

    case: Case
    failure: Failure | None
    trace: str
    steps: int
    virtual_s: float
    operations: int
    fired: tuple[str, ...]
    choices: list[int] = field(default_factory=list)
    history: History | None = None
    lines: list[str] | None = None
    sizes: Sequence[int] = ()


def drawn(case: Case) -> Case:
    """Return the case with its plan filled in."""
    if case.plan is not None:
        return case
    rng = random.Random(stream_seed(case.seed, "plan"))
    reach = max(1, case.operations)
    stale = bool(getattr(scenario_of(case.scenario)(), "bears_stale", False))
    plan = draw_plan(rng, transport=case.transport, encrypt=case.encrypt, clients=case.clients, reach=reach, stale=stale)
    return replace(case, plan=plan)


def run_case(
    case: Case, *, keep_trace: bool = False, keep_steps: bool = False, reseed: tuple[float, int] | None = None,
    capture: Capture | None = None,
) -> Outcome:  # fmt: skip
    """Run one trial. keep_trace: also keep the trace's lines; keep_steps: and a line for each task step.

    reseed: from this moment of virtual time on, all that is random goes on as with another seed, the second number.
    capture: sees the packets; the run is the same with it.

    Raises: EscapedSimulation, UnknownTrio, PlanError; whatever the code under trial does is an outcome.
    """
    case = drawn(case)
    trial = _Trial(case, capture)
    trace = Trace(keep=keep_trace, steps=keep_steps)
    policy = make_policy(case.policy, case.seed) if case.schedule is None else Replay(case.schedule)
    if reseed is not None:
        other = stream_seed(case.seed, f"reseed/{reseed[1]}")
        policy = Reseeding(policy, reseed[0], random.Random(other), partial(trial.reseed, other))
    try:
        with planted(case.bug), watch(Ledger()):
            failure = sim.run(case.seed, trial.main, policy=policy, trace=trace, most_steps=most_steps(case)).result
    except sim.Deadlock as error:
        failure = Failure("U2 endless" if isinstance(error, sim.Endless) else "U2 deadlock", str(error))
    return Outcome(
        case, failure, trace.hexdigest(), trace.steps, trial.virtual_s, trial.operations, trial.fired, list(policy.choices),
        trial.history, trace.lines, policy.sizes,
    )  # fmt: skip


def most_steps(case: Case) -> int:
    """Return the steps after which a trial counts as one that never ends: ten times what the longest ones take."""
    return 300_000 + 4000 * case.operations * case.clients


class _Trial:
    """The program of a trial."""

    def __init__(self, case: Case, capture: Capture | None) -> None:
        assert case.plan is not None
        self.case = case
        self.plan = case.plan
        self.workload: Workload = scenario_of(case.scenario)()
        self.operations = 0
        self.virtual_s = 0.0
        self.history: History | None = None
        self._injector: Injector | None = None
        self._world: SimWorld | None = None
        self._capture = capture

    def reseed(self, seed: int) -> bool:
        """Draw from another seed from now on. Returns: whether there is a world to draw in yet."""
        if self._world is not None:
            self._world.streams.reseed(seed)
        return self._world is not None

    @property
    def fired(self) -> tuple[str, ...]:
        """Ids of the faults that took effect."""
        return () if self._injector is None else tuple(sorted(self._injector.ids))

    async def main(self, world: SimWorld) -> Failure | None:
        """Run the phases."""
        self._world = world
        self.history = history = History(trio.current_time)
        self._injector = Injector(self.plan, world.streams, world.trace.record, history.struck)
        attacks = getattr(self.workload, "attacks", None)
        tampers = attacks(random.Random(stream_seed(self.case.seed, "attack")), self.case) if attacks is not None else ()
        scene = Scene(self.case, self.plan, world, self._injector, history, tampers)
        scene.capture = self._capture
        chosen = list(self.workload.plan(random.Random(stream_seed(self.case.seed, "workload")), self.case))
        if self.case.keep is not None:
            chosen = [chosen[index] for index in self.case.keep if index < len(chosen)]
        self.operations = len(chosen)
        began = trio.current_time()
        try:
            late = await self._phases(scene, chosen, history)
        except Exception as error:  # noqa: BLE001 - whatever the code under trial does is an outcome
            return _failure_of(error)
        finally:
            self.virtual_s = trio.current_time() - began
        seen = history.failures[0] if history.failures else None
        failed = late or self.workload.check(history) or seen
        return failed or self._dishonest(history, bool(tampers)) or _unbalanced(scene) or scene.leak(history)

    def _dishonest(self, history: History, lied: bool) -> Failure | None:
        """Return what somebody was told that cannot come of what went wrong. lied: the scenario's server does."""
        lied = lied or any(row_of(name).site == "tamper" for name in self.fired)
        return next(check_errors(history, allowed_errnos(self.fired) | (LIED_TO if lied else frozenset())), None)

    async def _phases(self, scene: Scene, operations: Sequence[Operation], history: History) -> Failure | None:
        """Prepare, work, heal, look again, leave. Returns: what did not end in time."""
        with trio.CancelScope() as whole:
            async with scene.open() as clients:
                await self.workload.prepare(clients, history)
                over = trio.Event()

                async def work() -> None:
                    await self.workload.run(clients, operations, history)
                    over.set()

                async with trio.open_nursery() as nursery:
                    scene.begin()
                    nursery.start_soon(work)
                    with trio.move_on_after(SAFETY_S):
                        await over.wait()
                    await scene.heal()
                    whole.deadline = trio.current_time() + LIVENESS_S
                await self.workload.verify(clients, history)
        if whole.cancelled_caught:
            return Failure("U2 not live", f"after {LIVENESS_S:g} s in which nothing went wrong, not everything had ended")
        return None


def _failure_of(error: BaseException) -> Failure:
    """Return what an exception that nobody expected means. Raises: EscapedSimulation, which says nothing about the code."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, sim.EscapedSimulation):
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "nowhere"
    return Failure(f"U0 {type(error).__name__} in {where}", str(error))


def _unbalanced(scene: Scene) -> Failure | None:
    """Return what was not given back."""
    left = {name: count for name, count in scene.remains().items() if count}
    return Failure(f"U3 {next(iter(left))}", f"not given back: {left}") if left else None
