"""Sans-IO. From virtual time to places on paper: long whiles in which nothing happens are cut short. Owns no memory."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

__all__ = ["Scale"]

TYPICAL: Final = 0.9
"""The share of gaps that are drawn in full; the longer ones are cut to the length of the longest of these."""
SMALLEST: Final = 1.5
"""Places between neighbouring moments, at least."""


class Scale:
    """Places of moments. cuts: pairs of places and the seconds that were left out there."""

    def __init__(self, moments: Iterable[float], width: float) -> None:
        times = sorted(set(moments)) or [0.0]
        gaps = [later - sooner for sooner, later in pairwise(times)]
        longest = sorted(gaps)[int(len(gaps) * TYPICAL)] if gaps else 0.0
        total = sum(min(gap, longest) for gap in gaps) or 1.0
        room = max(width - SMALLEST * len(gaps), width / 4)
        self.cuts: list[tuple[float, float]] = []
        self._times = times
        self._places = [0.0]
        for gap in gaps:
            here = self._places[-1]
            there = here + SMALLEST + min(gap, longest) * room / total
            if gap > longest * 2:
                self.cuts.append(((here + there) / 2, gap))
            self._places.append(there)

    @property
    def width(self) -> float:
        """The place of the last moment."""
        return self._places[-1]

    def __call__(self, time_s: float) -> float:
        """Return the place of a moment."""
        times, places = self._times, self._places
        index = bisect_right(times, time_s) - 1
        if index < 0:
            return 0.0
        if index >= len(times) - 1:
            return places[-1]
        share = (time_s - times[index]) / (times[index + 1] - times[index])
        return places[index] + share * (places[index + 1] - places[index])

    def ticks(self, apart: float) -> list[tuple[float, float]]:
        """Return places and moments for an axis, at least so far apart."""
        found: list[tuple[float, float]] = []
        for time_s, place in zip(self._times, self._places, strict=True):
            if not found or place - found[-1][0] >= apart:
                found.append((place, time_s))
        return found
