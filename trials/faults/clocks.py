"""Trio shell. Clocks and sources of a node as a plan wants them: a wall clock that jumps or drifts, nonces that fail.

Monotonic time is Trio's own, to which deadlines belong, and one for all nodes: for all at once
it can jump. Owns no memory.
"""

import errno
from dataclasses import replace

import trio
import trio.testing

from transport.env import Env
from trials.faults.injector import Armed, Injector

__all__ = ["Clocks"]


class Clocks:
    """The environments of a trial's nodes. offload: work is given to simulated workers, which end in any order."""

    def __init__(self, injector: Injector, offload: bool) -> None:
        self._injector = injector
        self._offload = offload
        self._skew: dict[str, tuple[float, float, float]] = {}

    def env(self, node: str, env: Env) -> Env:
        """Return an environment under the plan."""

        def wall_ns() -> int:
            skew, drift, since = self._skew.get(node, (0.0, 0.0, 0.0))
            return env.wall_ns() + round((skew + drift * (trio.current_time() - since)) * 1e9)

        def nonces(count: int) -> bytes:
            for one in self._injector.due("nonces", "nonces", node):
                self._injector.fired(one)
                raise OSError(errno.EIO, "no randomness")
            return env.nonces(count)

        return replace(env, wall_ns=wall_ns, nonces=nonces, inline=not self._offload)

    def start(self, nursery: trio.Nursery) -> None:
        """Begin what happens at moments."""
        for one in self._injector.timed_of("clock"):
            nursery.start_soon(self._jump, one)

    async def _jump(self, one: Armed) -> None:
        await self._injector.moment(one)
        if self._injector.active and one.fault.id == "E5":
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, trio.testing.MockClock)
            self._injector.fired(one)
            clock.jump(one.fault.arg("for_s", 0.1))
        elif self._injector.active:
            self._injector.fired(one)
            skew, drift = one.fault.arg("skew_s", 1.0), one.fault.arg("drift", 0.0)
            self._skew[one.fault.target or "client0"] = (skew, drift, trio.current_time())

    def heal(self) -> None:
        """Have all clocks tell one time again."""
        self._skew.clear()
