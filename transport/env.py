"""Trio shell. The world as a value: time, randomness, nonces and threads reach every layer through an `Env`.

Nothing else in the project asks the operating system for them, so a simulator hands in its own `Env` and owns them all.
Owns no memory.
"""

import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

__all__ = ["Env", "RunBlocking", "monotonic", "system_env"]

T = TypeVar("T")


class RunBlocking(Protocol):
    """Run a blocking function away from the event loop and wait for its result."""

    def __call__(self, fn: Callable[[], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Env:
    """What a shell may ask of the world.

    now: monotonic time in seconds. rng: seeded choices (backoff, jitter), never for secrets. nonces: `n` fresh bytes from
    the client's cryptographic source. run_blocking: a worker thread, or an inline stand-in in the simulator.
    inline: true where run_blocking must not be used to gain parallelism (the simulator). wall_ns: the clock on the wall, for
    the times of files.
    """

    now: Callable[[], float]
    rng: random.Random
    nonces: Callable[[int], bytes]
    run_blocking: RunBlocking
    inline: bool = False
    wall_ns: Callable[[], int] = time.time_ns


async def _run_in_thread(fn: Callable[[], T], /) -> T:
    return await trio.to_thread.run_sync(fn)


def system_env() -> Env:
    """Return the real world: Trio's clock, a fresh generator, the operating system's nonces and worker threads."""
    return Env(now=trio.current_time, rng=random.Random(), nonces=os.urandom, run_blocking=_run_in_thread)


def monotonic() -> float:
    """Return the monotonic clock in seconds, for a blocking program that has no Trio run."""
    return time.monotonic()
