"""Trio shell. The simulated world: environments, probes and links of one seed, all of them traced.

Each node has labelled random streams of its own; nonces come from one of them; `run_blocking` runs the function in a later step
of the same thread, after a seeded while of virtual time, and cannot be cancelled once it has begun, as a thread cannot.
Ownership: as `transport.link`; the tap hashes views and lets go of them.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import trio

from iov.probe import Probe
from transport.env import Env
from transport.link import ByteStream, LinkShape, memory_link
from trials.sim.rng import Streams
from trials.sim.trace import Trace

__all__ = ["SimWorld"]

T = TypeVar("T")
EPOCH_NS: Final = 1_700_000_000_000_000_000
MAX_BLOCKING_S: Final = 200e-6
MAX_DELAY_S: Final = 300e-6


class SimWorld:
    """A world that is a function of its seed."""

    def __init__(self, seed: int, trace: Trace) -> None:
        self.streams = Streams(seed)
        self.trace = trace
        self._links = 0

    @property
    def seed(self) -> int:
        """The seed everything follows from."""
        return self.streams.seed

    def env(self, node: str) -> Env:
        """Return the environment of a node: virtual time and seeded everything."""
        return Env(
            now=trio.current_time,
            rng=self.streams.rng(f"{node}/choices"),
            nonces=self.streams.rng(f"{node}/nonces").randbytes,
            run_blocking=_Inline(self.streams.rng(f"{node}/blocking").uniform),
            inline=True,
            wall_ns=lambda: EPOCH_NS + round(trio.current_time() * 1e9),
        )

    def probe(self, node: str) -> Probe:
        """Return a probe whose events are part of the trace."""
        return Probe(self.trace.sink(node))

    def link(self, near: str, far: str) -> tuple[ByteStream, ByteStream]:
        """Return the ends of a link with a seeded delay each way; what each end sends is part of the trace."""
        rng = self.streams.rng(f"{near}-{far}/{self._links}")
        self._links += 1
        shapes = [LinkShape(delay_s=round(rng.uniform(0, MAX_DELAY_S), 6)) for _ in range(2)]
        ours, theirs = memory_link(*shapes)
        return _Tap(ours, self.trace, f"{near}>{far}"), _Tap(theirs, self.trace, f"{far}>{near}")


class _Inline:
    """A stand-in for worker threads."""

    __slots__ = ("_uniform",)

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform

    async def __call__(self, fn: Callable[[], T], /) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await trio.sleep(self._uniform(0, MAX_BLOCKING_S))
        return fn()


class _Tap:
    """A byte stream that adds what it sends to the trace."""

    __slots__ = ("_label", "_stream", "_trace", "peer")

    def __init__(self, stream: ByteStream, trace: Trace, label: str) -> None:
        self._stream = stream
        self._trace = trace
        self._label = label
        self.peer = stream.peer

    def send_nowait(self, views: Sequence[bytes | memoryview], more: bool = False) -> int:
        sent = left = self._stream.send_nowait(views, more)
        for view in views:
            if not left:
                break
            length = min(left, len(view))
            self._trace.wire(self._label, memoryview(view)[:length])
            left -= length
        return sent

    def recv_nowait(self, views: Sequence[memoryview]) -> int | None:
        return self._stream.recv_nowait(views)

    async def wait_readable(self) -> None:
        await self._stream.wait_readable()

    async def wait_writable(self) -> None:
        await self._stream.wait_writable()

    def fileno(self) -> int | None:
        return self._stream.fileno()

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()
