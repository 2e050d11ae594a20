"""What clients do in a trial, each with an oracle of its own."""

from trials.workloads.base import Do, Operation, Scenario, Workload
from trials.workloads.mixed import Mixed, mixed
from trials.workloads.scenarios import SCENARIOS, scenario_of

__all__ = ["SCENARIOS", "Do", "Mixed", "Operation", "Scenario", "Workload", "mixed", "scenario_of"]
