"""Trio shell. Fences: simulated code that reaches for the real clock, randomness, threads, sockets or files is stopped.

What the machinery around a run needs for itself (Trio, logging, the test runner, the import system) may pass, since nothing of it
reaches the trace. Owns no memory.
"""

import builtins
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import trio

from trials.sim.patches import Patches

__all__ = ["EscapedSimulation", "raise_fences"]

MACHINERY: Final = frozenset({
    "_pytest", "faulthandler", "gc", "hypothesis", "importlib", "linecache", "logging", "pluggy", "pytest", "pytest_timeout",
    "pytest_trio", "traceback", "tracemalloc", "trio", "warnings",
})  # fmt: skip
MODULE_RANDOM: Final = (
    "betavariate", "choice", "choices", "expovariate", "gauss", "getrandbits", "normalvariate", "randbytes", "randint", "random",
    "randrange", "sample", "seed", "shuffle", "triangular", "uniform",
)  # fmt: skip
FENCED: Final[tuple[tuple[object, tuple[str, ...]], ...]] = (
    (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")),
    (os, ("urandom", "getrandom", "fork", "system", "posix_spawn")),
    (secrets, ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice", "randbits")),
    (uuid, ("uuid1", "uuid4")),
    (random, MODULE_RANDOM),
    (threading.Thread, ("start",)),
    (trio.to_thread, ("run_sync",)),
    (trio.from_thread, ("run", "run_sync")),
    (socket.socket, ("__init__",)),
    (subprocess.Popen, ("__init__",)),
)


class EscapedSimulation(Exception):
    """Simulated code reached for the real world; the message names what it called and where."""


def raise_fences(patches: Patches) -> None:
    """Put all fences up until the patches end."""
    for owner, names in FENCED:
        for name in names:
            if hasattr(owner, name):
                patches.set(owner, name, _fence(_named(owner, name), getattr(owner, name)))
    patches.set(builtins, "open", _fence_writing(builtins.open))


def _named(owner: object, name: str) -> str:
    return f"{getattr(owner, '__name__', owner)}.{name}"


def _fence(what: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def fenced(*args: Any, **kwargs: Any) -> Any:
        _check(what)
        return real(*args, **kwargs)

    return fenced


def _fence_writing(real: Callable[..., Any]) -> Callable[..., Any]:
    def fenced(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if any(letter in mode for letter in "wax+"):
            _check(f"open({file!r}, {mode!r})")
        return real(file, mode, *args, **kwargs)

    return fenced


def _check(what: str) -> None:
    """Let machinery pass; stop everybody else with the place it called from."""
    frame = sys._getframe(2)
    module = str(frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] not in MACHINERY:
        raise EscapedSimulation(f"{what} called from {frame.f_code.co_filename}:{frame.f_lineno}")
