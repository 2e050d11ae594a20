"""Trio shell. Policies by name, as options spell them, and the enumeration of all schedules within a bound of delays.

    fifo | uniform | pct:3 | starve | starve:8 | exhaustive:2

`exhaustive:d` is a set of schedules, not one: each schedule that differs from FIFO by at most `d` delays, a delay being one task
let past another (Emmi, Qadeer and Rakamarić, POPL 2011). Owns no memory.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from trials.sim.policy import Fifo, Pct, Policy, Schedule, Starve, Uniform
from trials.sim.rng import stream_seed

__all__ = ["POLICIES", "PolicyName", "explore", "make_policy", "parse_policy"]

DEFAULTS: Final = {"fifo": None, "uniform": None, "pct": 3, "starve": 8, "exhaustive": 1}
POLICIES: Final = tuple(DEFAULTS)
MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class PolicyName:
    """A policy as it was asked for. number: the depth of pct, the ticks of starve, the delays of exhaustive."""

    name: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.number}" if self.number else self.name


def parse_policy(text: str) -> PolicyName:
    """Read the name of a policy. Raises: ValueError with what would be right."""
    name, colon, rest = text.partition(":")
    if name not in DEFAULTS:
        raise ValueError(f"{text!r} is no policy; there are {', '.join(POLICIES)}")
    default = DEFAULTS[name]
    if not colon:
        return PolicyName(name, default or 0)
    if default is None:
        raise ValueError(f"{text!r}: {name} takes no number")
    if not rest.isascii() or not rest.isdigit() or not 1 <= int(rest) <= MOST:
        raise ValueError(f"{text!r}: after {name}: comes a number from 1 to {MOST}, such as {name}:{default}")
    return PolicyName(name, int(rest))


def make_policy(text: str, seed: int) -> Policy:
    """Return the policy of one run. Raises: ValueError for a name that is none, or one of many runs."""
    policy = parse_policy(text)
    rng = random.Random(stream_seed(seed, "schedule"))
    match policy.name:
        case "fifo":
            return Fifo()
        case "uniform":
            return Uniform(rng)
        case "pct":
            return Pct(rng, policy.number)
        case "starve":
            return Starve(rng, policy.number)
        case _:
            raise ValueError(f"{policy} is a policy of many runs of one seed, not of one run")


def explore(run: Callable[[Schedule], Sequence[int]], delays: int) -> Iterator[Schedule]:
    """Run every schedule with at most `delays` delays, those with fewest first, and yield each after its run.

    run: does one run with a schedule, and returns between how many tasks each of its decisions was (`Policy.sizes`).
    """
    tried: list[tuple[Schedule, int, Sequence[int]]] = []
    for cost in range(delays + 1):
        for schedule in _costing(cost, tuple(tried)):
            sizes = run(schedule)
            yield schedule
            if cost < delays:
                tried.append((schedule, cost, sizes))


def _costing(cost: int, tried: Sequence[tuple[Schedule, int, Sequence[int]]]) -> Iterator[Schedule]:
    """Yield the schedules with exactly `cost` delays: one more deviation, behind the last of a schedule with fewer."""
    if not cost:
        yield ()
    for schedule, had, sizes in tried:
        choice = cost - had
        for number in range(schedule[-1][0] + 1 if schedule else 0, len(sizes)):
            if choice < sizes[number]:
                yield (*schedule, (number, choice))
