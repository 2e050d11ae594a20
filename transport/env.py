"""Trio shell. The world as a value: time, randomness, nonces and threads reach every layer through an `Env`.

Nothing else in the project asks the operating system for them, so a simulator hands in its own `Env` and owns them all.
Owns no memory.
"""

import math
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

__all__ = ["Env", "RunBlocking", "Signal", "monotonic", "system_env"]

T = TypeVar("T")


class RunBlocking(Protocol):
    """Run a blocking function away from the event loop and wait for its result."""

    def __call__(self, fn: Callable[[], T], /) -> Awaitable[T]: ...


class Signal:
    """Something to wait for that happens once."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """It has happened; who waits goes on."""
        self._event.set()

    async def wait(self, deadline: float = math.inf) -> None:
        """Wait until it has happened, or until a moment of `Env.now`. Cancellation: no effect."""
        with trio.CancelScope(deadline=deadline):
            await self._event.wait()


@dataclass(frozen=True, slots=True)
class Env:
    """What a shell may ask of the world.

    now: monotonic time in seconds. rng: seeded choices (backoff, jitter), never for secrets. nonces: `n` fresh bytes from
    the client's cryptographic source. run_blocking: a worker thread, or an inline stand-in in the simulator.
    inline: true where run_blocking must not be used to gain parallelism (the simulator). wall_ns: the clock on the wall, for
    the times of files. signal: makes something that one task may wait for and another tells, for cores that only hand on who
    waits.
    """

    now: Callable[[], float]
    rng: random.Random
    nonces: Callable[[int], bytes]
    run_blocking: RunBlocking
    inline: bool = False
    wall_ns: Callable[[], int] = time.time_ns
    signal: Callable[[], Signal] = Signal


async def _run_in_thread(fn: Callable[[], T], /) -> T:
    return await trio.to_thread.run_sync(fn)


def system_env() -> Env:
    """Return the real world: Trio's clock, a fresh generator, the operating system's nonces and worker threads."""
    return Env(now=trio.current_time, rng=random.Random(), nonces=os.urandom, run_blocking=_run_in_thread)


def monotonic() -> float:
    """Return the monotonic clock in seconds, for a blocking program that has no Trio run."""
    return time.monotonic()
