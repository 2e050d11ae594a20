"""Trio shell. What is done with one trial: `netfs trial replay`, `shrink`, `explain`, `inevitable` and `hash`.

Owns no memory.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from netfs.cli.host import Exit, Host, describe
from trials.case import Case, Outcome, run_case
from trials.commands.asking import case_of_token, quiet
from trials.faults.catalogue import ROWS
from trials.shrink import NoFailure, Shrunk, shrink, size
from trials.sim import settled
from trials.token import encode

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["explain", "hash_of", "inevitable", "replay", "shrink_rows", "shrink_token"]


def describe_case(case: Case) -> str:
    """Return a case in one line."""
    parts = [
        case.scenario,
        f"seed {case.seed}",
        case.transport,
        "encrypted" if case.encrypt else "plain",
        f"{case.clients} clients",
    ]
    if case.keep is not None:
        parts.append(f"operations {', '.join(map(str, case.keep)) or 'none'}")
    if case.schedule is not None:
        parts.append(f"{len(case.schedule)} decisions other than FIFO" if case.schedule else "FIFO")
    else:
        parts.append(case.policy)
    if case.bug:
        parts.append(f"bug {case.bug}")
    return ", ".join(parts)


def lines_of(outcome: Outcome) -> list[str]:
    """Return what a trial was and what came of it."""
    plan = outcome.case.plan
    lines = [describe_case(outcome.case)]
    for fault in plan or ():
        row = ROWS.get(fault.id)
        effect = "took effect" if fault.id in outcome.fired else "never took effect"
        lines.append(
            f"  {fault}  {row.name if row else ''}; {effect}" + (f"; may end in {', '.join(row.allowed)}" if row else "")
        )
    if plan is not None and plan.knobs:
        lines.append("  knobs: " + ", ".join(f"{name}={value}" for name, value in plan.knobs))
    lines.append(f"  {outcome.operations} operations, {outcome.steps} steps, {outcome.virtual_s:.6f} s, trace {outcome.trace}")
    failure = outcome.failure
    lines.append(f"FAILED {failure.kind}\n  {failure.message}" if failure else "no failure")
    return lines


def value_of(outcome: Outcome) -> dict[str, Any]:
    """Return the same for scripts."""
    failure = outcome.failure
    return {
        "scenario": outcome.case.scenario, "seed": outcome.case.seed, "transport": outcome.case.transport,
        "encrypt": outcome.case.encrypt, "class": failure.kind if failure else None,
        "message": failure.message if failure else None, "fired": list(outcome.fired), "trace": outcome.trace,
        "steps": outcome.steps, "token": encode(outcome.case),
    }  # fmt: skip


def replay(host: Host, token: str, outputs: "list[Path]") -> int:
    """Run a token once more."""
    quiet()
    case = case_of_token(token, host.warn)
    outcome = run_case(case)
    host.emit(value_of(outcome), "\n".join(lines_of(outcome)))
    if outputs:
        from trials.report.files import write_reports  # noqa: PLC0415

        write_reports(host, case, outputs)
    return Exit.NO if outcome.failure else Exit.DONE


def shrink_one(host: Host, case: Case, runs: int) -> Shrunk:
    """Make a case smaller under a progress bar."""
    with host.progress(runs, "shrinking", "runs") as bar:

        def told(found: Shrunk) -> None:
            bar.advance(1)
            parts = size(found.outcome)
            bar.say(f"{found.step}: {parts['faults']} faults, {parts['operations']} operations")

        with settled():
            return shrink(case, run_case, runs=runs, progress=told)


def shrink_token(host: Host, token: str, runs: int, outputs: "list[Path]") -> int:
    """Make the trial of a token smaller."""
    quiet()
    case = case_of_token(token, host.warn)
    try:
        found = shrink_one(host, case, runs)
    except NoFailure as error:
        host.fail(Exit.NO, str(error))
    small, others = encode(found.case), {kind: encode(outcome.case) for kind, outcome in found.others.items()}
    value = value_of(found.outcome) | {"runs": found.runs, "size": size(found.outcome), "others": others}
    lines = [*lines_of(found.outcome), f"  after {found.runs} runs: netfs trial replay {small}"]
    lines += [f"also seen: {kind}\n  netfs trial replay {token}" for kind, token in others.items()]
    host.emit(value, "\n".join(lines))
    if outputs:
        from trials.report.files import write_reports  # noqa: PLC0415

        write_reports(host, found.case, outputs)
    return Exit.DONE


def shrink_rows(host: Host, rows: list[dict[str, Any]], report: str | None) -> tuple[dict[str, str], bool]:
    """Make the trials of some failures smaller, and write a report of each if there is a folder.

    Returns: tokens by class, and whether all reports were written; the first error ends these, and nothing else.
    """
    found: dict[str, str] = {}
    whole = True
    for row in rows:
        if row["class"].startswith("D"):
            continue  # a run that is not deterministic has nothing to be compared with
        try:
            small = shrink_one(host, case_of_token(row["token"], host.warn), 300)
        except NoFailure:
            host.warn(f"seed {row['seed']} does not fail here, so it cannot be made smaller")
            continue
        found[row["class"]] = encode(small.case)
        if report is not None and whole:
            from trials.report.files import write_page  # noqa: PLC0415

            try:
                host.note(f"report: {write_page(small.case, Path(report))}")
            except OSError as error:
                host.warn(f"reports are not complete: {describe(error)}")
                whole = False
    return found, whole


def hash_of(host: Host, case: Case, lines: bool) -> None:
    """Print the hash of a trial's trace."""
    quiet()
    outcome = run_case(case, keep_steps=lines)
    if lines and outcome.lines is not None:
        for line in outcome.lines:
            host.say(line)
    host.emit(
        {"seed": case.seed, "trace": outcome.trace, "steps": outcome.steps},
        f"{outcome.trace}  {case.scenario}, seed {case.seed}, {outcome.steps} steps",
    )


def explain(host: Host, token: str, at_s: float | None, width_s: float) -> int:
    """Tell a trial's story, or what happened around one moment of it."""
    from trials.report.story import around, story  # noqa: PLC0415

    quiet()
    case = case_of_token(token, host.warn)
    outcome = run_case(case, keep_trace=True)
    if at_s is not None:
        shown = around(outcome.lines or [], at_s, width_s)
        host.emit({**value_of(outcome), "at": at_s, "lines": shown}, "\n".join(shown) or f"nothing happened around {at_s:g} s")
        return Exit.DONE
    told = story(outcome)
    host.emit({**value_of(outcome), "story": told}, "\n".join([*lines_of(outcome), "", *told]))
    return Exit.DONE


def inevitable(host: Host, token: str, points: int, tries: int) -> int:
    """Show how likely the failure is when all that is random is drawn anew from some moment on."""
    from trials.inevitable import chart, curve  # noqa: PLC0415

    quiet()
    case = case_of_token(token, host.warn)
    whole = run_case(case)
    if whole.failure is None:
        host.fail(Exit.NO, "the trial does not fail")
    with host.progress(points * tries, "inevitable", "runs") as bar, settled():
        found = curve(whole, points, tries, lambda: bar.advance(1))
    value = {**value_of(whole), "curve": [{"at": at, "failed": failed, "tries": of} for at, failed, of in found]}
    host.emit(value, "\n".join([*lines_of(whole), "", *chart(found, whole.failure.kind)]))
    return Exit.DONE
