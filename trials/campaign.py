"""Trio shell. Many trials in processes of this machine: seeds are handed out in small ranges, rows come back as they are known.

A process that dies or is stuck costs the seed it was at: that is reported, the rest of its range goes to a new process.
Nothing is kept between seeds, so that any part of a campaign can be run anywhere, again, and be merged. Owns no memory.
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from trials import worker
from trials.seeds import Spec, text_of_seeds

__all__ = ["Lost", "Summary", "run_campaign", "summary_of"]

PART: Final = 25
"""Seeds handed out at a time."""
STUCK_S: Final = 300.0
"""Real seconds a trial may take."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lost:
    """Seeds that have no result, because the process that ran them ended."""

    seeds: range
    why: str

    def __str__(self) -> str:
        return f"a worker {self.why} at seed {self.seeds.start}; run it again with --seeds {text_of_seeds(self.seeds)}"


@dataclass(slots=True)
class Summary:
    """What came of many trials. failures: the rows that have a class. fired: ids and in how many trials they took effect."""

    trials: int = 0
    operations: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    seconds: float = 0.0
    failures: list[Row] = field(default_factory=list)
    fired: dict[str, int] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.trials += 1
        self.operations += row.get("operations", 0)
        self.steps += row.get("steps", 0)
        self.virtual_s += row.get("virtual_s", 0.0)
        self.seconds += row.get("seconds", 0.0)
        for name in row.get("fired", ()):
            self.fired[name] = self.fired.get(name, 0) + 1
        if "class" in row:
            self.failures.append(row)

    def classes(self) -> dict[str, list[Row]]:
        """Return the failures by class, each with its smallest seed first."""
        found: dict[str, list[Row]] = {}
        for row in sorted(self.failures, key=lambda row: int(row["seed"])):
            found.setdefault(row["class"], []).append(row)
        return found


def summary_of(rows: Iterable[Row]) -> Summary:
    """Count rows."""
    summary = Summary()
    for row in rows:
        summary.add(row)
    return summary


async def run_campaign(
    spec: Spec, seeds: Iterable[range], jobs: int, took: Callable[[Row], object], *, until: float = float("inf")
) -> list[Lost]:
    """Run the seeds in `jobs` processes. took: is given each row when it is known. until: by Trio's clock, begin no more then.

    Returns: what has no result. Cancellation: the processes are ended; what was told to `took` holds.
    """
    parts = deque(part[at : at + PART] for part in seeds for at in range(0, len(part), PART))
    lost: list[Lost] = []
    async with trio.open_nursery() as nursery:
        for _ in range(max(1, min(jobs, len(parts)))):
            nursery.start_soon(_keep_working, spec, parts, took, lost, until)
    return lost


async def _keep_working(spec: Spec, parts: deque[range], took: Callable[[Row], object], lost: list[Lost], until: float) -> None:
    """Have one process after another work until all parts are done."""
    while parts and trio.current_time() < until:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", worker.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True, env={**os.environ, "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        at: range | None = None
        try:
            rows = _Lines(process.stdout)
            await process.stdin.send_all(json.dumps(spec.to_dict()).encode() + b"\n")
            while parts and trio.current_time() < until:
                at = parts.popleft()
                await process.stdin.send_all(text_of_seeds(at).encode() + b"\n")
                while at:
                    with trio.move_on_after(STUCK_S) as waiting:
                        line = await rows.next()
                    if waiting.cancelled_caught:
                        process.kill()
                        raise _Gone(f"was stuck for {STUCK_S:.0f} s")
                    if not line:
                        raise _Gone("")
                    took(json.loads(line))
                    at = at[1:]
        except (_Gone, trio.BrokenResourceError) as gone:
            code = await process.wait()
            assert at is not None
            lost.append(Lost(at[:1], str(gone) or _ending(code)))
            if at[1:]:
                parts.appendleft(at[1:])
        finally:
            with trio.CancelScope(shield=True):
                await process.stdin.aclose()
                if process.returncode is None:
                    process.kill()
                await process.wait()
                await process.stdout.aclose()


class _Gone(Exception):
    """The process gives no more rows."""


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


class _Lines:
    """Lines of a stream."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> bytes:
        """Return the next line, empty at the end."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                return bytes(line)
            chunk = await self._stream.receive_some()
            if not chunk:
                return b""
            self._buffer += chunk
