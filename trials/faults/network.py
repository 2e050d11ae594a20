"""Trio shell. The simulated network of a trial: links that a plan slows, cuts, slices and breaks.

Ownership: as `transport.link`.
"""

import errno
import os
from collections.abc import Sequence

import trio

from transport.link import ByteStream, LinkShape, MemoryStream, memory_link
from trials.faults.injector import Injector
from trials.sim.rng import Streams
from trials.sim.trace import Trace

__all__ = ["Link", "Network"]

MAX_DELAY_S = 300e-6


class Network:
    """Links between nodes. shape: of all of them: most bytes of one call, and the bytes that fit in a direction."""

    def __init__(
        self, injector: Injector, streams: Streams, trace: Trace, slice_length: int | None = None, capacity: int = 1 << 18
    ) -> None:  # fmt: skip
        self.links: list[Link] = []
        self._injector = injector
        self._streams = streams
        self._trace = trace
        self._slice = slice_length
        self._capacity = capacity
        self._made = 0

    def connect(self, near: str, far: str) -> tuple[ByteStream, ByteStream]:
        """Make a link between two nodes. Returns: the near end and the far end."""
        rng = self._streams.rng(f"{near}-{far}/{self._made}")
        self._made += 1
        shapes = [
            LinkShape(self._slice, delay_s=round(rng.uniform(0, MAX_DELAY_S), 6), capacity=self._capacity) for _ in range(2)
        ]
        ends = memory_link(*shapes)
        link = Link(near, ends, self._injector, self._trace)
        self.links.append(link)
        return link.ours, link.theirs

    def reset(self, node: str = "") -> None:
        """Break all links, or those of one node."""
        for link in self.links:
            if not node or link.node == node:
                link.reset()


class Link:
    """One connection. node: its client."""

    def __init__(self, node: str, ends: tuple[MemoryStream, MemoryStream], injector: Injector, trace: Trace) -> None:
        self.node = node
        self.ends = ends
        self.ours = _Tap(self, ends[0], f"{node}>server", injector, trace)
        self.theirs = _Tap(self, ends[1], f"server>{node}", injector, trace)

    def reset(self) -> None:
        """Both ends get ECONNRESET; what is under way is lost."""
        self.ends[0].reset()


class _Tap:
    """One end: adds what it sends to the trace, and does what is to go wrong."""

    __slots__ = ("_injector", "_label", "_link", "_stream", "_trace", "peer")

    def __init__(self, link: Link, stream: MemoryStream, label: str, injector: Injector, trace: Trace) -> None:
        self._link = link
        self._stream = stream
        self._label = label
        self._injector = injector
        self._trace = trace
        self.peer = stream.peer

    def send_nowait(self, views: Sequence[bytes | memoryview], more: bool = False) -> int:
        for one in self._injector.due("link", "send", self._link.node):
            self._injector.fired(one, self._label)
            side = one.fault.arg("side", "before")
            if side != "before":
                self._pass(views if side == "after" else [memoryview(views[0])[: len(views[0]) // 2]], more)
            self._link.reset()
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return self._pass(views, more)

    def _pass(self, views: Sequence[bytes | memoryview], more: bool) -> int:
        sent = left = self._stream.send_nowait(views, more)
        for view in views:
            if not left:
                break
            length = min(left, len(view))
            self._trace.wire(self._label, memoryview(view)[:length])
            left -= length
        for one in self._injector.due("link", "bytes", self._link.node, sent) if sent else ():
            self._injector.fired(one, self._label)
            self._link.reset()
        return sent

    def recv_nowait(self, views: Sequence[memoryview]) -> int | None:
        return self._stream.recv_nowait(views)

    async def wait_readable(self) -> None:
        await self._stream.wait_readable()

    async def wait_writable(self) -> None:
        await self._stream.wait_writable()

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()
