"""Trio shell. A figure: what is measured, in which unit, against which limit, and what ratio is asked for.

The machines are shared and their speed drifts, so a figure and its limit are measured in turn, A B A B …, and the ratio is the
median of the ratios of neighbours; value and limit value are medians of their own. Owns no memory.
"""

import statistics
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

__all__ = ["ROUNDS", "Figure", "Measure", "Pairing", "Result", "measure"]

ROUNDS: Final = 5
Measure = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Pairing:
    """What is run in turn: one round of the figure and one of its limit, each returning a number in the figure's unit."""

    value: Measure
    limit: Measure


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the bench.

    name: a path, the room first. limit: the name of what bounds it. target: the ratio asked for, at least, or at most where
    `lower` is set. pairing: opens what the measurement needs. rounds: how often the two are run in turn.
    """

    name: str
    unit: str
    limit: str
    target: float
    pairing: Callable[[], AbstractAsyncContextManager[Pairing]]
    lower: bool = False
    rounds: int = ROUNDS


@dataclass(frozen=True, slots=True)
class Result:
    """What a figure came to."""

    figure: Figure
    value: float
    limit_value: float
    ratio: float

    @property
    def met(self) -> bool:
        """Whether the ratio is what was asked for."""
        return self.ratio <= self.figure.target if self.figure.lower else self.ratio >= self.figure.target

    def as_row(self) -> dict[str, object]:
        """Return the row of `netfs bench --json`."""
        figure = self.figure
        return {
            "name": figure.name,
            "value": _rounded(self.value),
            "unit": figure.unit,
            "limit": figure.limit,
            "limit_value": _rounded(self.limit_value),
            "ratio": round(self.ratio, 3),
            "target": figure.target,
            "better": "lower" if figure.lower else "higher",
            "met": self.met,
        }


async def measure(figure: Figure) -> Result:
    """Run one figure. Cancellation: what it had opened is closed."""
    values: list[float] = []
    limits: list[float] = []
    async with figure.pairing() as pairing:
        # The first round of each fills caches and pools and is not counted.
        await pairing.value()
        await pairing.limit()
        for _ in range(figure.rounds):
            values.append(await pairing.value())
            limits.append(await pairing.limit())
    ratio = statistics.median(value / limit for value, limit in zip(values, limits, strict=True))
    return Result(figure, statistics.median(values), statistics.median(limits), ratio)


def _rounded(value: float) -> float:
    return round(value, 3 - min(3, len(str(int(abs(value))))) + 1) if value else 0.0
