"""Trio shell. The progress bar of long commands: share done, bytes or things, rate, time left; drawn on standard error by rich.

Owns no memory; the drawing thread is rich's and ends with the context.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

__all__ = ["bar"]


class _Rate(ProgressColumn):
    """Things a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s")


class _Bar:
    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def expect(self, amount: int) -> None:
        # Not by update(): that forgets the rate so far.
        for task in self._progress.tasks:
            task.total = (task.total or 0) + amount

    def say(self, label: str) -> None:
        self._progress.update(self._task, description=label)


@contextmanager
def bar(total: int | None, label: str, unit: str = "") -> Iterator[_Bar]:
    """Draw a bar on standard error while the block runs and wipe it off afterwards. unit: what is counted, if not bytes."""
    counted: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), _Rate(unit))
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        *(counted if unit else (DownloadColumn(binary_units=False), TransferSpeedColumn())),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True, highlight=False), transient=True, expand=True) as progress:
        yield _Bar(progress, progress.add_task(label, total=total))
