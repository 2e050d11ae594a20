"""Trio shell. `netfs trial run`: many seeds on this machine, what failed, and which faults took effect.

Owns no memory.
"""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from netfs.cli.host import Exit, Host, describe, failing
from trials.campaign import Summary, run_campaign, summary_of
from trials.commands.asking import Which, quiet, spec_of
from trials.seeds import Spec, parse_seeds, shard_of

if TYPE_CHECKING:
    from trials.rows import Results, Writer

__all__ = ["campaign", "merge_files", "never_fired", "run", "tell"]

SHRUNK_CLASSES = 3


def seeds_of(host: Host, text: str, shard: str | None = None) -> range:
    """Return the seeds an option names, or end the command with a usage error."""
    try:
        seeds = parse_seeds(text)
        return seeds if shard is None else shard_of(seeds, shard)
    except ValueError as error:
        host.fail(Exit.USAGE, str(error))


def run(
    host: Host, which: Which, seeds: str, jobs: int, out: str | None, at_most_s: float, shrink: bool, report: str | None
) -> int:
    """Run a range of seeds, shrink the first failure of each class, tell what came of it."""
    from trials.commands.exploring import explore_schedules  # noqa: PLC0415

    spec, wanted = spec_of(which), seeds_of(host, seeds)
    if which.policy.startswith("exhaustive"):
        return explore_schedules(host, spec, wanted, at_most_s)
    summary, writer = work(host, spec, [wanted], jobs, out, at_most_s=at_most_s)
    small: dict[str, str] = {}
    whole = True
    if shrink and summary.failures:
        from trials.commands.tokens import shrink_rows  # noqa: PLC0415

        small, whole = shrink_rows(host, [rows[0] for rows in summary.classes().values()][:SHRUNK_CLASSES], report)
    code = tell(host, summary, writer, small)
    return code if whole else Exit.LOCAL


def campaign(host: Host, which: Which, seeds: str, shard: str | None, jobs: int, out: str, resume: bool, on: str | None) -> int:
    """Run a shard of seeds into a file."""
    from trials.rows import RowsError, read_results  # noqa: PLC0415

    spec, wanted = spec_of(which), seeds_of(host, seeds, shard)
    resumed = None
    path = Path(out)
    if resume and path.exists():
        try:
            with failing(Exit.LOCAL, out):
                resumed = read_results(path)
        except RowsError as error:
            host.fail(Exit.LOCAL, str(error))
        if resumed.spec != spec:
            host.fail(Exit.USAGE, f"{out}: holds results of another specification, {resumed.spec}")
    elif path.exists():
        host.fail(Exit.USAGE, f"{out}: exists; --resume goes on where it ends")
    done = set() if resumed is None else resumed.seeds
    summary, writer = work(host, spec, parts_without(wanted, done), jobs, out, resumed=resumed, on=on)
    return tell(host, summary, writer, {}, before=len(done))


def parts_without(seeds: range, done: set[int]) -> list[range]:
    """Return the ranges of seeds that are not done."""
    if not done:
        return [seeds]
    parts: list[range] = []
    for seed in seeds:
        if seed in done:
            continue
        if parts and parts[-1].stop == seed:
            parts[-1] = range(parts[-1].start, seed + 1)
        else:
            parts.append(range(seed, seed + 1))
    return parts


def work(
    host: Host, spec: Spec, seeds: list[range], jobs: int, out: str | None, *, at_most_s: float = float("inf"),
    resumed: "Results | None" = None, on: str | None = None,
) -> tuple[Summary, "Writer | None"]:  # fmt: skip
    """Run seeds under a progress bar; an interrupt ends it and what came before holds."""
    from trials.rows import Writer  # noqa: PLC0415

    summary = summary_of(resumed.rows if resumed is not None else ())
    quiet()
    began = time.perf_counter()
    with ExitStack() as stack:
        writer = None
        if out is not None:
            with failing(Exit.LOCAL, out):
                writer = Writer(Path(out), spec, resumed)
            stack.callback(writer.close)
        bar = stack.enter_context(host.progress(sum(map(len, seeds)), f"{spec.scenario}", "trials"))

        def took(row: dict[str, Any]) -> None:
            summary.add(row)
            if writer is not None:
                writer.add(row)
            bar.advance(1)
            if "class" in row:
                bar.say(f"{spec.scenario}: {len(summary.failures)} failed")

        async def all_of_it() -> None:
            until = trio.current_time() + at_most_s
            summary.lost = await run_campaign(spec, seeds, jobs or os.cpu_count() or 1, took, until=until)

        if on is not None:
            from trials.cluster import ClusterError, run_on_dask  # noqa: PLC0415

            try:
                summary.lost = run_on_dask(on, spec, seeds, took)
            except ClusterError as error:
                host.fail(Exit.USAGE, str(error))
        else:
            try:
                trio.run(all_of_it)
            except BaseExceptionGroup as group:
                if group.split(KeyboardInterrupt)[1] is not None:
                    raise
                host.warn("interrupted; this is what there is so far")
            except KeyboardInterrupt:
                host.warn("interrupted; this is what there is so far")
    summary.seconds = time.perf_counter() - began
    return summary, writer


def never_fired(summary: Summary) -> list[str]:
    """Return the ids of the catalogue that can be injected and never took effect."""
    from trials.faults.catalogue import ROWS  # noqa: PLC0415

    return [name for name, row in ROWS.items() if row.exists and name not in summary.fired]


def tell(host: Host, summary: Summary, writer: "Writer | None", small: dict[str, str], *, before: int = 0) -> int:
    """Print the summary. small: shrunk tokens by class. before: trials that were done already. Returns: the exit code."""
    never = never_fired(summary)
    value = {
        "trials": summary.trials,
        "failures": [{"seed": row["seed"], "class": row["class"], "token": row["token"]} for row in summary.failures],
        "fired": dict(sorted(summary.fired.items())), "never_fired": never, "seconds": round(summary.seconds, 3),
        "operations": summary.operations, "steps": summary.steps, "virtual_s": round(summary.virtual_s, 3), "shrunk": small,
        "lost": [{"seeds": f"{lost.seeds.start}:{lost.seeds.stop}", "why": lost.why} for lost in summary.lost],
    }  # fmt: skip
    rate = (summary.trials - before) / summary.seconds if summary.seconds else 0
    lines = [
        f"{summary.trials:,} trials, {summary.operations:,} operations, {summary.virtual_s:,.0f} s of virtual time"
        f" in {summary.seconds:,.1f} s ({rate:.1f} trials/s)" + (f"; {before:,} of them were done before" if before else "")
    ]
    if summary.fired:
        lines.append("took effect (trials): " + ", ".join(f"{name} {count}" for name, count in sorted(summary.fired.items())))
    if never:
        lines.append("never: " + ", ".join(never))
    for name, rows in summary.classes().items():
        seeds = ", ".join(str(row["seed"]) for row in rows[:8]) + (", …" if len(rows) > 8 else "")
        lines += ["", f"FAILED {name}, {len(rows)} times: seeds {seeds}", f"  {rows[0]['message']}"]
        lines.append(f"  netfs trial replay {small.get(name) or rows[0]['token']}")
    if not summary.failures:
        lines.append("no failures")
    host.emit(value, "\n".join(lines))
    for lost in summary.lost:
        host.warn(str(lost))
    if writer is not None and writer.error is not None:
        host.warn(f"results are not complete: {describe(writer.error)}")
        return Exit.LOCAL
    if summary.lost and not summary.failures:
        return Exit.LOCAL
    return Exit.NO if summary.failures else Exit.DONE


def merge_files(host: Host, files: tuple[str, ...], out: str | None) -> int:
    """Join files of results and tell what came of all."""
    from trials.rows import RowsError, Writer, gaps, merge, read_results  # noqa: PLC0415

    try:
        with failing(Exit.LOCAL):
            merged = merge(map(read_results, map(Path, files)))
    except RowsError as error:
        host.fail(Exit.LOCAL, str(error))
    writer = None
    if out is not None:
        with failing(Exit.LOCAL, out):
            writer = Writer(Path(out), merged.spec)
        for row in merged.rows:
            writer.add(row)
        writer.close()
    for gap in gaps(merged.seeds):
        host.warn(f"no results of seeds {gap.start}:{gap.stop}")
    return tell(host, summary_of(merged.rows), writer, {})
