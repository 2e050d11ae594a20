"""Trio shell. Run a program in the simulator: seeded scheduling, virtual time, fences, and a trace with a hash.

    outcome = sim.run(17, scenario)          # async def scenario(world: SimWorld) -> T

Equal seeds give equal traces: in this process, in a fresh one with another hash seed, on each supported Python. Everything is
put back when the run ends, however it ends. One run at a time in a process, since Trio's order is process-wide. Owns no memory.
"""

import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from trials.sim.clock import Deadlock, Endless, open_shields, virtual_clock, waiting_tasks
from trials.sim.fences import raise_fences
from trials.sim.internals import pin_order
from trials.sim.patches import Patches
from trials.sim.policy import Policy
from trials.sim.schedules import make_policy
from trials.sim.trace import Trace
from trials.sim.world import SimWorld

__all__ = ["Outcome", "install", "run", "settled"]

T = TypeVar("T")
MOST_STEPS: Final = 2_000_000
_ONE_AT_A_TIME: Final = threading.Lock()
_frozen: set[bool] = set()
"""Not empty: what was there before the first run is out of the collector's sight."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What a run gave: its result, the hash of its trace, the task steps, the trace's lines if they were kept, and the policy,
    which holds the decisions taken.
    """

    seed: int
    result: T
    trace: str
    steps: int
    lines: list[str] | None
    policy: Policy


@contextmanager
def settled() -> Iterator[None]:
    """Let the collection before each run leave alone what is there at the beginning of the block, which makes many runs quick."""
    gc.collect()
    gc.freeze()
    _frozen.add(True)
    try:
        yield
    finally:
        gc.unfreeze()
        _frozen.clear()


@contextmanager
def install(seed: int, policy: str | Policy = "uniform") -> Iterator[Policy]:
    """Make Trio's order follow a seed for the length of a block, in which `trio.run` is then called.

    policy: the name of one (`schedules.py`), or a policy, which serves one block.
    Raises: ValueError for a name that is none; UnknownTrio where order cannot be pinned; RuntimeError when another block is open.
    """
    deciding = policy if isinstance(policy, Policy) else make_policy(policy, seed)
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise RuntimeError("a simulation is running in this process already")
    collecting = gc.isenabled()
    try:
        with Patches() as patches:
            pin_order(patches, deciding)
            # A collection may run finalisers at any allocation; between runs it may do so freely.
            _collect()
            gc.disable()
            yield deciding
    finally:
        if collecting:
            gc.enable()
        _ONE_AT_A_TIME.release()


def _collect() -> None:
    """Collect what the last run left. What is there before the first one, modules above all, need not be looked at each time."""
    gc.collect()
    if not _frozen:  # asking the collector would take it longer than to collect
        gc.freeze()
        _frozen.add(True)


def run(
    seed: int, main: Callable[[SimWorld], Awaitable[T]], *, policy: str | Policy = "uniform", keep: bool = False,
    trace: Trace | None = None, most_steps: int = MOST_STEPS,
) -> Outcome[T]:  # fmt: skip
    """Run `main` in a simulated world. keep: also keep the trace's lines. trace: the one to fill, by default a new one.

    most_steps: task steps after which the run is broken off.
    Raises: what `main` raised; EscapedSimulation; Deadlock when no task can ever run again, Endless when one always can.
    """
    trace = trace or Trace(keep=keep)
    scopes: list[trio.CancelScope] = []
    stuck: list[Deadlock] = []
    fences = Patches()

    async def whole() -> T:
        with trio.CancelScope() as scope, fences:
            scopes.append(scope)
            raise_fences(fences)
            return await main(SimWorld(seed, trace))
        raise AssertionError("only a deadlock cancels the whole program")

    def end(why: Deadlock) -> None:
        # The program leaves in order if it can, then without its shields; if it waits even then, the run itself is broken off.
        stuck.append(why)
        if len(stuck) == 1:
            scopes[0].cancel()
        elif len(stuck) == 2:
            open_shields()
        else:
            raise stuck[0]

    def idle() -> None:
        end(Deadlock(f"no task can run and no deadline is set; waiting: {', '.join(waiting_tasks())}"))

    bounds = [most_steps]

    def look() -> None:
        if trace.steps > bounds[0] and scopes:
            bounds[0] += most_steps // 10
            end(Endless(f"more than {most_steps:,} steps, and no end, at {trio.current_time():.6f} s of virtual time"))

    with install(seed, policy) as deciding, fences:  # also of a program that was broken off, which never leaves its own block
        clock = virtual_clock(idle)
        deciding.look = look
        try:
            result = trio.run(whole, clock=clock, instruments=[trace])
        except BaseException as error:
            if stuck:
                raise stuck[0] from error
            raise
    if stuck:
        raise stuck[0]
    return Outcome(seed, result, trace.hexdigest(), trace.steps, trace.lines, deciding)
