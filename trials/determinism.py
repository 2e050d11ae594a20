"""Trio shell. Whether a trial is the function of its case that it claims to be: once more in a fresh process, and compared.

The other process has another hash seed and other addresses. What differs is shown by the first line in which the two traces do;
task steps are lines too, so that an order that shows in nothing else is found as well. Owns no memory.
"""

import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from trials.case import Case, Outcome, run_case

__all__ = ["Divergence", "check_determinism", "first_difference"]

HASH_SEED_OFFSET: Final = 1
TIMEOUT_S: Final = 300
NOTHING: Final = "(the trace had ended)"


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two runs of one case differ. number: of the line, from 1. here, there: the line in either run."""

    number: int
    here: str
    there: str

    def __str__(self) -> str:
        return (
            f"two runs of one case differ, first in line {self.number} of the trace:\n  here   {self.here}\n  there  {self.there}"
        )


def first_difference(here: list[str], there: list[str]) -> Divergence | None:
    """Return the first line in which two traces differ."""
    for number, (ours, theirs) in enumerate(zip_longest(here, there, fillvalue=NOTHING), 1):
        if ours != theirs:
            return Divergence(number, ours, theirs)
    return None


def check_determinism(case: Case) -> tuple[Outcome, Divergence | None]:
    """Run a case here and in a fresh process with another hash seed, and compare the traces.

    Returns: the outcome here, and the first difference. Raises: as `run_case`; OSError when there is no other process.
    """
    from trials.token import encode  # noqa: PLC0415 - the other process reads this module before it has a token

    here = run_case(case, keep_steps=True)
    assert here.lines is not None
    seed = (case.seed * 31 + HASH_SEED_OFFSET) % 4_000_000_000
    done = subprocess.run(
        [sys.executable, "-m", "trials.determinism", encode(case)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(f"the other process ended with {done.returncode}: {last[-1] if last else 'without a word'}")
    there = done.stdout.decode("utf-8", "surrogateescape").split("\n")
    return here, first_difference(_escaped(here.lines), there[:-1])


def _escaped(lines: list[str]) -> list[str]:
    return [line.replace("\n", "\\n") for line in lines]


def _main(token: str) -> None:
    from trials.token import decode  # noqa: PLC0415

    logging.getLogger().addHandler(logging.NullHandler())
    lines = run_case(decode(token)[0], keep_steps=True).lines
    assert lines is not None
    sys.stdout.buffer.write("".join(f"{line}\n" for line in _escaped(lines)).encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    _main(sys.argv[1])
