"""Trio shell. `start.*`: how long a person waits before anything begins: the help of the command, and what importing netfs adds.

Each is a fresh interpreter, so that nothing is loaded yet. What `import netfs` takes is counted beyond what the client is made
of: Trio, msgpack and the AEAD module of cryptography. `import netfs` loads the client when it is first named: the last figure.
Owns no memory.
"""

import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from trials.bench.figure import Figure, Pairing
from trials.bench.limits import timed

__all__ = ["FIGURES"]

TIMES: Final = 5
HELP_S: Final = 0.7
MORE_MS: Final = 60.0
FOUNDATION: Final = "import trio, msgpack, cryptography.hazmat.primitives.ciphers.aead"


def _seconds(*arguments: str) -> float:
    """Return the median time of an interpreter from its start to its end."""
    taken = []
    for _ in range(TIMES):
        with timed() as clock:
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        taken.append(clock.seconds)
    return statistics.median(taken)


def _more_ms(program: str) -> float:
    """Return what a program takes beyond importing the client's foundation."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(TIMES):
        for taken, text in ((theirs, FOUNDATION), (ours, f"{FOUNDATION}\n{program}")):
            with timed() as clock:
                subprocess.run([sys.executable, "-c", text], check=True)
            taken.append(clock.seconds)
    beyond: float = statistics.median(one - other for one, other in zip(ours, theirs, strict=True))
    return max(0.0, beyond * 1000)


async def _constant(value: float) -> float:
    await trio.lowlevel.checkpoint()
    return value


@asynccontextmanager
async def _help() -> AsyncIterator[Pairing]:
    yield Pairing(partial(trio.to_thread.run_sync, _seconds, "-m", "netfs", "--help"), partial(_constant, HELP_S))


@asynccontextmanager
async def _import(program: str) -> AsyncIterator[Pairing]:
    yield Pairing(partial(trio.to_thread.run_sync, _more_ms, program), partial(_constant, MORE_MS))


FIGURES: Final = (
    Figure("start.help", "s", "0.7 s", 1, _help, lower=True, rounds=3),
    Figure("start.import_netfs", "ms", "60 ms", 1, partial(_import, "import netfs"), lower=True, rounds=3),
    Figure("start.import_client", "ms", "60 ms", 1, partial(_import, "import netfs; netfs.open_client"), lower=True, rounds=3),
)
