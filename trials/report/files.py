"""Trio shell. Reports of a trial in files: a page, the story, a Perfetto trace, packets; the name's suffix says which.

Owns no memory.
"""

from pathlib import Path
from typing import Final

from iov.probe import EventSink
from netfs.cli.host import CommandError, Exit, Host, failing
from trials.case import Case, Outcome, run_case

__all__ = ["SUFFIXES", "check_outputs", "write_page", "write_reports"]

SUFFIXES: Final = (".html", ".txt", ".pftrace", ".pcapng")


def check_outputs(outputs: list[Path]) -> None:
    """End the command when a file is named otherwise than reports are, before anything is run."""
    for path in outputs:
        if path.suffix not in SUFFIXES:
            raise CommandError(Exit.USAGE, f"{path}: a report is named {' or '.join(f'*{suffix}' for suffix in SUFFIXES)}")


def write_page(case: Case, folder: Path) -> Path:
    """Write the page of a trial into a folder. Returns: its path. Raises: OSError."""
    from trials.report.nearest import nearest_passing  # noqa: PLC0415
    from trials.report.page import page  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"trial-{case.scenario.rpartition('::')[2]}-{case.seed}.html"
    outcome = run_case(case, keep_trace=True)
    neighbour = nearest_passing(outcome) if outcome.failure is not None else None
    try:
        path.write_text(page(outcome, neighbour), "utf-8", "surrogateescape")
    except OSError:
        path.unlink(missing_ok=True)  # half a page is none
        raise
    return path


def write_reports(host: Host, case: Case, outputs: list[Path]) -> None:
    """Run a trial once more for each kind of report that needs it, and write all."""
    outcome = run_case(case, keep_trace=True)
    for path in outputs:
        with failing(Exit.LOCAL, str(path)):
            match path.suffix:
                case ".html":
                    from trials.report.nearest import nearest_passing  # noqa: PLC0415
                    from trials.report.page import page  # noqa: PLC0415

                    neighbour = nearest_passing(outcome) if outcome.failure is not None else None
                    path.write_text(page(outcome, neighbour), "utf-8", "surrogateescape")
                case ".txt":
                    from trials.commands.tokens import lines_of  # noqa: PLC0415
                    from trials.report.story import story  # noqa: PLC0415

                    text = "\n".join([*lines_of(outcome), "", *story(outcome), ""])
                    path.write_text(text, "utf-8", "surrogateescape")
                case ".pftrace":
                    _perfetto(outcome, path)
                case _:
                    _packets(case, path)
        host.note(f"wrote {path}")


def _perfetto(outcome: Outcome, path: Path) -> None:
    """Write the events of a kept trace in Perfetto's format."""
    from netfs.tracing import open_trace  # noqa: PLC0415
    from trials.report.timeline import read_line  # noqa: PLC0415

    now = 0.0
    try:
        with open_trace(path, lambda: now) as trace:
            sinks: dict[str, EventSink] = {}
            for text in outcome.lines or ():
                event = read_line(text)
                now = event.time_s
                if event.node:
                    sink = sinks.get(event.node)
                    if sink is None:
                        sink = sinks[event.node] = trace.sink(event.node)
                    sink(event.what, event.fields)
                elif event.what == "fault":
                    sink = sinks.get("faults") or trace.sink("faults")
                    sinks["faults"] = sink
                    sink("fault", event.fields)
    except ImportError as error:
        raise CommandError(Exit.USAGE, str(error)) from None


def _packets(case: Case, path: Path) -> None:
    """Run the trial once more with a capture of its packets."""
    from trials.report.packets import capture_case  # noqa: PLC0415

    capture_case(case, path)
