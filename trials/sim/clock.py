"""Trio shell. Virtual time: it stands still while a task can run, and jumps to the next deadline when none can.

A program in which no task can run and no deadline is set would wait for ever; in a simulation that is a finding, so the clock
reports it instead. Owns no memory.
"""

from collections.abc import Callable
from math import inf
from typing import Any

import trio
import trio.testing
from trio._core import _run

__all__ = ["Deadlock", "Endless", "open_shields", "virtual_clock", "waiting_tasks"]


class Deadlock(Exception):
    """No task could run and no deadline was set; the message names the tasks that wait."""


class Endless(Deadlock):
    """So many steps were taken that the program is taken for one that never ends."""


def virtual_clock(on_idle_for_ever: Callable[[], None]) -> trio.testing.MockClock:
    """Return a clock that jumps at once, and calls back, inside the run, where there is nothing to jump to."""
    clock = trio.testing.MockClock(autojump_threshold=0)

    def jump_or_report() -> None:
        deadline = _run.GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline()
        if deadline == inf:
            on_idle_for_ever()
        elif deadline > now():
            clock.jump(deadline - now())

    def now() -> float:
        return clock._virtual_base  # real time has no part in it, as its rate is 0

    # Trio insists on its own class, which cannot be subclassed, so the instance gets the methods and a still real clock.
    for name, value in (("_autojump", jump_or_report), ("current_time", now), ("_real_clock", float)):
        setattr(clock, name, value)
    return clock


def waiting_tasks() -> list[str]:
    """Return the names of the program's tasks that wait for something other than their children."""
    return sorted(task.name.rpartition(".")[2] for task in _program() if not any(n.child_tasks for n in task.child_nurseries))


def open_shields() -> None:
    """Let a cancellation reach every task of the program, shielded or not."""
    for task in _program():
        status: Any = task._cancel_status
        while status is not None:
            status._scope.shield = False
            status = status._parent


def _program() -> list[trio.lowlevel.Task]:
    """Return the tasks of the program; Trio calls its own <…>."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found = [task for nursery in root.child_nurseries for task in nursery.child_tasks]
    for task in found:  # grows as it goes
        found.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return [task for task in found if not task.name.startswith("<")]
