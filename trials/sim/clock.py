"""Trio shell. Virtual time: it stands still while a task can run, and jumps to the next deadline when none can.

A program in which no task can run and no deadline is set would wait for ever; in a simulation that is a finding, so the clock
reports it instead. Owns no memory.
"""

from collections.abc import Callable

import trio
import trio.testing

__all__ = ["Deadlock", "virtual_clock"]


class Deadlock(Exception):
    """No task could run and no deadline was set."""


def virtual_clock(on_idle_for_ever: Callable[[], None]) -> trio.testing.MockClock:
    """Return a clock that jumps at once, and calls back where there is nothing to jump to."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    jump = clock._autojump

    def jump_or_report() -> None:
        if trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf"):
            on_idle_for_ever()
        else:
            jump()

    # Trio insists on its own class, which cannot be subclassed, so the instance gets the method and a still real clock.
    for name, value in (("_autojump", jump_or_report), ("_real_clock", float)):
        setattr(clock, name, value)
    return clock
