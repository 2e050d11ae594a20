"""Trio shell. `start.*`: how long a person waits before anything begins: the help of the command, and what importing netfs adds.

Each is a fresh interpreter, so that nothing is loaded yet. What `import netfs` takes is counted beyond what the client is made
of: Trio, msgpack and the AEAD module of cryptography. `import netfs` loads the client when it is first named: the last figure.
Compiled source is kept, as Python does unless it is told not to; the uncounted round makes it. An import is counted in seconds of
the processor, as it waits for nothing and a busy machine makes it no dearer. Owns no memory.
"""

import os
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


def _run(*arguments: str) -> tuple[float, float]:
    """Run an interpreter from its start to its end. Returns: the seconds that went by, and those of the processor."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with timed() as clock:
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=kept)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise OSError(f"python {' '.join(arguments)}: ended with {process.returncode}")
    return clock.seconds, used.ru_utime + used.ru_stime


def _seconds(*arguments: str) -> float:
    """Return the median time of an interpreter from its start to its end."""
    return statistics.median(_run(*arguments)[0] for _ in range(TIMES))


def _more_ms(program: str) -> float:
    """Return what a program takes of the processor beyond importing the client's foundation."""
    beyond: list[float] = []
    for _ in range(TIMES):
        _, theirs = _run("-c", FOUNDATION)
        _, ours = _run("-c", f"{FOUNDATION}\n{program}")
        beyond.append(ours - theirs)
    return max(0.0, statistics.median(beyond) * 1000)


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
