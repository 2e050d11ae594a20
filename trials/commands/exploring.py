"""Trio shell. `netfs trial run --policy exhaustive:d`: every schedule of a seed within a bound of delays.

Owns no memory.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from netfs.cli.host import Host
from trials.campaign import Summary
from trials.case import Case, Outcome, run_case
from trials.commands.asking import quiet
from trials.seeds import Spec
from trials.sim import settled
from trials.sim.policy import Schedule
from trials.sim.schedules import explore, parse_policy
from trials.token import encode

__all__ = ["explore_schedules"]


def explore_schedules(host: Host, spec: Spec, seeds: range, at_most_s: float) -> int:
    """Run all schedules of each seed, in this process, one seed after the other."""
    from trials.commands.run import tell  # noqa: PLC0415 - it knows this module

    quiet()
    summary = Summary()
    began = time.perf_counter()
    delays = parse_policy(spec.policy).number
    with host.progress(None, f"{spec.scenario}: {spec.policy}", "schedules") as bar, settled():
        for seed in seeds:
            for outcome in outcomes(replace(spec.case(seed), policy="fifo"), delays):
                row = {"seed": seed, "fired": outcome.fired, "operations": outcome.operations, "steps": outcome.steps}
                row["virtual_s"] = outcome.virtual_s
                if outcome.failure is not None:
                    row |= {"class": outcome.failure.kind, "message": outcome.failure.message, "token": encode(outcome.case)}
                summary.add(row)
                bar.advance(1)
                if time.perf_counter() - began > at_most_s:
                    break
    summary.seconds = time.perf_counter() - began
    return tell(host, summary, None, {})


def outcomes(case: Case, delays: int) -> Iterator[Outcome]:
    """Yield what comes of a case under each schedule."""
    last: list[Outcome] = []

    def run(schedule: Schedule) -> Sequence[int]:
        last[:] = [run_case(replace(case, schedule=schedule))]
        return last[0].sizes

    for _ in explore(run, delays):
        yield last[0]
