"""Trio shell. The scenarios by name. Owns no memory."""

from collections.abc import Callable
from functools import partial
from typing import Final

from trials.workloads.append_log import AppendLog
from trials.workloads.base import Workload
from trials.workloads.blend import Blend
from trials.workloads.database import Database
from trials.workloads.fsx import Fsx, OwnFiles
from trials.workloads.metadata import Metadata
from trials.workloads.rename_swap import RenameSwap
from trials.workloads.shared import Racing, Sharing
from trials.workloads.stream_copy import StreamCopy
from trials.workloads.tampering import Tampering

__all__ = ["SCENARIOS", "scenario_of"]

SCENARIOS: Final[dict[str, Callable[[], Workload]]] = {
    "append-log": AppendLog,
    "database": Database,
    "fsx": Fsx,
    "metadata": Metadata,
    "mixed": Blend,
    "own-files": OwnFiles,
    "racing": Racing,
    "rename-swap": RenameSwap,
    "sharing": Sharing,
    "stream-copy": StreamCopy,
    "tamper": Tampering,
}


def scenario_of(name: str) -> Callable[[], Workload]:
    """Return what makes the scenario of a name; `file.py::function` is a written one. Raises: ValueError when there is none."""
    if "::" in name:
        from trials.written import WrittenTrial, find  # noqa: PLC0415 - loaded by those who have such trials

        return partial(WrittenTrial, find(name))
    if name not in SCENARIOS:
        raise ValueError(f"no scenario {name}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
