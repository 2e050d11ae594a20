"""Trio shell. A bound on bytes a second: who takes bytes waits until they are due, by the clock of the run.

A bucket that holds a second's worth: short bursts go through, the average stays below the rate. A timetable has another rate
from each of its times of day on. Owns no memory.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeAlias

import trio

from netfs.cli.filters import parse_rate
from transport.env import system_env

__all__ = ["NO_RATE", "Pace", "Timetable", "parse_timetable"]

Timetable: TypeAlias = tuple[tuple[int, float | None], ...]
"""Minutes since midnight and the bytes a second from then on, None for no bound; in order."""
NO_RATE: Final[Timetable] = ((0, None),)


def parse_timetable(text: str) -> Timetable:
    """Return what a text says, one rate such as 10M or times with rates, `08:00,512k 19:00,off`. Raises: ValueError."""
    words = text.split()
    if len(words) == 1 and "," not in text:
        return ((0, _rate(text)),)
    table = {}
    for word in words:
        found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d),(.+)", word)
        if found is None:
            raise ValueError(f"{word!r} is no time with a rate; write 08:00,512k 19:00,10M 23:00,off")
        table[int(found[1]) * 60 + int(found[2])] = _rate(found[3])
    if not table:
        raise ValueError("no rate is said; write 500k, 10M or 1Gi")
    return tuple(sorted(table.items()))


def _rate(text: str) -> float | None:
    return None if text == "off" else parse_rate(text)


def _minute() -> int:
    now = datetime.fromtimestamp(system_env().wall_ns() / 1e9, UTC).astimezone()
    return now.hour * 60 + now.minute


class Pace:
    """At most as many bytes a second as the timetable says. minute: the time of day, in minutes since midnight."""

    def __init__(self, table: Timetable = NO_RATE, minute: Callable[[], int] = _minute) -> None:
        self._table = table
        self._minute = minute
        self._due = -1.0

    @property
    def rate(self) -> float | None:
        """Bytes a second now, None for no bound. Before the first time of the day the last one of the day before holds."""
        if len(self._table) == 1:
            return self._table[0][1]
        now = self._minute()
        return next((rate for begin, rate in reversed(self._table) if begin <= now), self._table[-1][1])

    async def take(self, count: int) -> None:
        """Wait until `count` bytes may go. Cancellation: they are counted all the same."""
        rate = self.rate
        if rate is None:
            self._due = -1.0
            return
        now = trio.current_time()
        # What was not used is lost but for a second's worth.
        self._due = max(self._due, now - 1.0 if self._due >= 0 else now) + count / rate
        await trio.sleep_until(self._due)
