"""Trio shell. The packets of a trial in a file for Wireshark: the trial is run once more, and seen on its links.

A capture takes nothing from the run and adds nothing to it: the trace is the same. Owns no memory.
"""

from pathlib import Path

import trio

from transport.rdma.capture_file import open_capture
from trials.case import Case, Outcome, run_case
from trials.sim.world import EPOCH_NS

__all__ = ["capture_case"]


def capture_case(case: Case, path: Path) -> Outcome:
    """Run a trial and write what passes between its nodes. Raises: OSError when the file cannot be written."""

    def now_ns() -> int:
        return EPOCH_NS + round(trio.current_time() * 1e9)

    with open_capture(path, now_ns) as capture:
        return run_case(case, capture=capture)
