"""Figures, each against a limit measured in the same run."""

from trials.bench.figure import Figure, Pairing, Result

__all__ = ["Figure", "Pairing", "Result"]
