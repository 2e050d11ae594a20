"""What clients do in a trial, each with an oracle of its own."""

from trials.workloads.mixed import Mixed, mixed

__all__ = ["Mixed", "mixed"]
