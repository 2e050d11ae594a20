"""Trio shell. The progress bar of long commands: share done, bytes or things, rate, time left; drawn on standard error by rich.

Owns no memory; the drawing thread is rich's and ends with the context.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich import filesize
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

from netfs.cli.place import printable

__all__ = ["bar"]

NARROW, MIDDLE = 40, 64
"""Columns of a terminal below which the bar leaves out the sizes, and the rate."""


class _Rate(ProgressColumn):
    """Things a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s")


class _Sizes(DownloadColumn):
    """Bytes done, of how many when that is known."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text(filesize.decimal(int(task.completed)))


class _Bar:
    def __init__(self, progress: RichProgress, task: TaskID, room: int) -> None:
        self._progress, self._task, self._room = progress, task, room

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def expect(self, amount: int) -> None:
        # Not by update(): that forgets the rate so far.
        for task in self._progress.tasks:
            task.total = (task.total or 0) + amount

    def say(self, label: str) -> None:
        self._progress.update(self._task, description=_shortened(printable(label), self._room))


def _shortened(label: str, room: int) -> str:
    """Return a label cut in its middle: names differ at both ends."""
    if len(label) <= room:
        return label
    return f"{label[: room // 2]}…{label[len(label) - (room - room // 2 - 1) :]}"


@contextmanager
def bar(total: int | None, label: str, unit: str = "") -> Iterator[_Bar]:
    """Draw a bar on standard error while the block runs and wipe it off afterwards. unit: what is counted, if not bytes."""
    console = Console(stderr=True, highlight=False)
    room = max(6, console.width // 3)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
    if console.width >= NARROW:
        columns.append(BarColumn(bar_width=None))
    columns.append(TaskProgressColumn())
    if console.width >= NARROW:
        columns.append(MofNCompleteColumn() if unit else _Sizes(binary_units=False))
    if console.width >= MIDDLE:
        columns.append(_Rate(unit) if unit else TransferSpeedColumn())
    columns.append(TimeRemainingColumn(compact=console.width < MIDDLE))
    with RichProgress(*columns, console=console, transient=True, expand=True) as progress:
        yield _Bar(progress, progress.add_task(_shortened(label, room), total=total), room)
