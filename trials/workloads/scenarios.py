"""Trio shell. The scenarios by name. Owns no memory."""

from collections.abc import Callable
from typing import Final

from trials.workloads.base import Workload
from trials.workloads.fsx import Fsx, OwnFiles

__all__ = ["SCENARIOS"]

SCENARIOS: Final[dict[str, Callable[[], Workload]]] = {"fsx": Fsx, "own-files": OwnFiles}
