"""What clients do in a trial, each with an oracle of its own."""

from trials.workloads.base import Operation, Recorder, Workload
from trials.workloads.mixed import Mixed, mixed
from trials.workloads.scenarios import SCENARIOS

__all__ = ["SCENARIOS", "Mixed", "Operation", "Recorder", "Workload", "mixed"]
