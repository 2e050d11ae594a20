"""Trio shell. Fences: simulated code that reaches for the real clock, randomness, threads, sockets or files is stopped.

What the machinery around a run needs for itself (logging, the test runner, the import system) may pass, since nothing of it
reaches the trace, and so may other threads of the process. Trio may not: its own sockets are made before the fences go up, and
whatever it does after that it does for the program. Out of reach are names bound before (`from time import time`), the clock of
`datetime` and randomness inside OpenSSL. Owns no memory.
"""

import builtins
import io
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
from types import FrameType
from typing import Any, Final

import trio

from trials.sim.patches import Patches

__all__ = ["EscapedSimulation", "raise_fences"]

MACHINERY: Final = frozenset({
    "_pytest", "hypothesis", "importlib", "linecache", "logging", "pluggy", "pytest", "pytest_timeout", "pytest_trio",
    "traceback", "tracemalloc", "warnings",
})  # fmt: skip
CARRIERS: Final = sys.stdlib_module_names | {"trio"}
"""Packages that reach out for somebody else: a complaint names the line behind them."""
MODULE_RANDOM: Final = (
    "_urandom", "betavariate", "choice", "choices", "expovariate", "gauss", "getrandbits", "normalvariate", "randbytes",
    "randint", "random", "randrange", "sample", "seed", "shuffle", "triangular", "uniform",
)  # fmt: skip
CLOCKS: Final = ("monotonic", "perf_counter", "process_time", "thread_time", "time")
FENCED: Final[tuple[tuple[object, tuple[str, ...]], ...]] = (
    (time, (*CLOCKS, *(f"{name}_ns" for name in CLOCKS), "sleep")),
    (os, ("urandom", "getrandom", "fork", "forkpty", "system", "posix_spawn", "posix_spawnp")),
    (secrets, ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice", "randbits")),
    (uuid, ("uuid1", "uuid4")),
    (random, MODULE_RANDOM),
    (threading.Thread, ("start",)),
    (trio.to_thread, ("run_sync",)),
    (trio.from_thread, ("run", "run_sync")),
    (trio.lowlevel, ("start_thread_soon", "wait_readable", "wait_writable")),
    (socket, ("create_connection", "create_server", "fromfd", "socketpair")),
    (socket.socket, ("__init__",)),
    (subprocess.Popen, ("__init__",)),
)
WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class EscapedSimulation(Exception):
    """Simulated code reached for the real world; the message names what it called and where."""


Check = Callable[[str], None]
AnyFunction = Callable[..., Any]


def raise_fences(patches: Patches) -> None:
    """Put all fences up for this thread until the patches end."""
    ours = threading.get_ident()

    def check(what: str) -> None:
        if threading.get_ident() == ours:
            _check(what)

    for owner, names in FENCED:
        for name in names:
            if hasattr(owner, name):
                what = f"{getattr(owner, '__name__', owner)}.{name}"
                patches.set(owner, name, _fence(what, getattr(owner, name), check))
    patches.set(random.Random, "seed", _fence_unseeded(random.Random.seed, check))
    patches.set(builtins, "open", _fence_writing(open, check))
    patches.set(io, "open", builtins.open)
    patches.set(os, "open", _fence_opening(os.open, check))


def _fence(what: str, real: AnyFunction, check: Check) -> AnyFunction:
    def fenced(*args: Any, **kwargs: Any) -> Any:
        check(what)
        return real(*args, **kwargs)

    return fenced


def _fence_unseeded(real: AnyFunction, check: Check) -> AnyFunction:
    def fenced(self: random.Random, a: Any = None, *args: Any, **kwargs: Any) -> Any:
        if a is None:
            check("random.Random without a seed")
        return real(self, a, *args, **kwargs)

    return fenced


def _fence_writing(real: AnyFunction, check: Check) -> AnyFunction:
    def fenced(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if any(letter in mode for letter in "wax+"):
            check(f"open({file!r}, {mode!r})")
        return real(file, mode, *args, **kwargs)

    return fenced


def _fence_opening(real: AnyFunction, check: Check) -> AnyFunction:
    def fenced(path: Any, flags: int, *args: Any, **kwargs: Any) -> Any:
        if flags & WRITING:
            check(f"os.open({path!r}) for writing")
        return real(path, flags, *args, **kwargs)

    return fenced


def _check(what: str) -> None:
    """Let machinery pass; stop everybody else with the place it called from."""
    frame: FrameType | None = sys._getframe(3)
    calling = frame
    while frame is not None:
        package = _package(frame)
        if package in MACHINERY:
            return
        if package not in CARRIERS:
            break
        frame = frame.f_back
    place = frame or calling
    where = f"{place.f_code.co_filename}:{place.f_lineno}" if place else "nowhere"
    raise EscapedSimulation(f"{what} called from {where}")


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
