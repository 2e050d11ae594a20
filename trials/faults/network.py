"""Trio shell. The simulated network of a trial: links that a plan slows, cuts, slices and breaks.

Every end adds what it sends to the trace, and asks before each send and each receipt what is to go wrong. Ownership: as
`transport.link`.
"""

import errno
import os
import random
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from transport.framing import HEADER
from transport.link import ByteStream
from trials.faults.injector import Armed, Injector
from trials.faults.pipe import Pipe
from trials.sim.rng import Streams
from trials.sim.trace import Trace

__all__ = ["Link", "Network"]

MAX_DELAY_S: Final = 300e-6
HANDSHAKE_BYTES: Final = 150
FOREVER_S: Final = 1e9
CHECK_AT: Final = HEADER.size - 2
PAYLOAD: Final = 4096


class Network:
    """Links between nodes. slice_length: most bytes of one call; capacity: bytes that fit in a direction.

    heard: all bytes by sender and receiver, kept if it is set before.
    """

    def __init__(
        self, injector: Injector, streams: Streams, trace: Trace, slice_length: int | None = None, capacity: int = 1 << 18
    ) -> None:  # fmt: skip
        self.links: list[Link] = []
        self.injector = injector
        self.trace = trace
        self.made = 0
        self.heard: dict[str, bytearray] | None = None
        self._streams = streams
        self._slice = slice_length
        self._capacity = capacity
        self._refuse: list[tuple[str, float, int]] = []

    async def connect(self, near: str, far: str, up: bool = True) -> tuple[ByteStream, ByteStream]:
        """Make a link between two nodes. Returns: the near end and the far end. up: somebody listens. Raises: OSError."""
        now = trio.current_time
        for one in self.injector.due("link", "connect", near):
            self.injector.fired(one)
            if one.fault.id == "T26":
                self._doomed = one.rng.randrange(HANDSHAKE_BYTES)
                continue
            slow = one.fault.arg("slow_s", 0.0)
            self._refuse.append((near, now() + one.fault.arg("for_s", 0.1), one.fault.arg("errno", errno.ECONNREFUSED)))
            if slow:
                await trio.sleep(slow)
        self._refuse = [row for row in self._refuse if row[1] > now() and self.injector.active]
        if not up:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        for node, _, code in self._refuse:
            if node == near:
                raise OSError(code, os.strerror(code))
        rng = self._streams.rng(f"{near}-{far}/{self.made}")
        self.made += 1
        there, back = (Pipe(now, round(rng.uniform(0, MAX_DELAY_S), 6), self._capacity, self._slice) for _ in range(2))
        link = Link(near, there, back, self)
        link.reset_at, self._doomed = self._doomed, None
        self.links = [*(link for link in self.links if not link.over), link]
        return link.ours, link.theirs

    _doomed: int | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """Begin what happens at moments."""
        for one in self.injector.timed_of("link"):
            nursery.start_soon(self._happen, one)

    async def _happen(self, one: Armed) -> None:
        await self.injector.moment(one)
        if not self.injector.active:
            return
        links = [link for link in self.links if not one.fault.target or link.node == one.fault.target]
        match one.fault.id:
            case "T21":
                for _ in range(one.fault.arg("times", 3)):
                    for link in list(self.links):
                        if not one.fault.target or link.node == one.fault.target:
                            self.injector.fired(one)
                            link.reset()
                    await trio.sleep(one.fault.arg("pause_s", 0.02))
                    if self.injector.healed:
                        return
            case "T24":
                one.rng.shuffle(links)
                for link in links:
                    self.injector.fired(one)
                    link.condition("held", 1, one.rng.uniform(0, one.fault.arg("for_s", 1.0)))
                    await trio.sleep(0.005)
            case _:
                for link in links[-1:] if one.fault.id in {"T23"} else links:
                    link.strike(one, "there")

    def reset(self, node: str = "") -> None:
        """Break all links, or those of one node."""
        for link in self.links:
            if not node or link.node == node:
                link.reset()

    def heal(self) -> None:
        """End all conditions; links whose other side is gone for ever are reset, as a host that is back would do."""
        self._refuse.clear()
        for link in self.links:
            link.heal()


class Link:
    """One connection. node: its client. there, back: its directions, from the client and to it."""

    def __init__(self, node: str, there: Pipe, back: Pipe, network: Network) -> None:
        self.node = node
        self.there, self.back = there, back
        self.reset_at: int | None = None
        self.ours = _End(self, back, there, f"{node}>server", network)
        self.theirs = _End(self, there, back, f"server>{node}", network)
        self._injector = network.injector

    @property
    def over(self) -> bool:
        """Whether both sides have left."""
        return self.ours.closed and self.theirs.closed

    def reset(self) -> None:
        """Both ends get ECONNRESET; what is under way is lost."""
        for pipe in (self.there, self.back):
            pipe.broken = True
            pipe.wake()

    def condition(self, kind: str, value: float, for_s: float, rng: random.Random | None = None) -> None:
        """Let both directions have a condition for a while."""
        for pipe in (self.there, self.back):
            pipe.condition(kind, value, for_s, rng)

    def heal(self) -> None:
        """End what is wrong."""
        if self.there.dead or self.back.dead:
            self.reset()
        for pipe in (self.there, self.back):
            pipe.heal()

    def pipes(self, one: Armed, way: str) -> list[Pipe]:
        """Return the directions that a fault is about. way: the one it happened on."""
        chosen = one.fault.arg("way", way)
        return [pipe for name, pipe in (("there", self.there), ("back", self.back)) if chosen in {name, "both"}]

    def strike(self, one: Armed, way: str) -> None:
        """Do a fault that is more than the breaking of one send."""
        fault, for_s = one.fault, one.fault.arg("for_s", 0.5)
        self._injector.fired(one, f"{self.node} {way}")
        pipes = self.pipes(one, way)
        match fault.id:
            case "T4" | "T8":
                for pipe in pipes:
                    pipe.condition("delay", fault.arg("delay_s", 0.1), for_s)
            case "T5":
                for pipe in pipes:
                    pipe.condition("jitter", fault.arg("jitter_s", 0.05), for_s, one.rng)
            case "T6" | "T7":
                for pipe in pipes:
                    pipe.condition("rate", fault.arg("rate", 1000), for_s)
            case "T3":
                for pipe in pipes:
                    pipe.condition("slice", fault.arg("length", 1), for_s)
            case "T18" | "T19" | "T22":
                for pipe in pipes:
                    pipe.condition("held", 1, for_s)
            case "T17":
                self.there.dead = self.back.dead = True
            case "T16":
                for pipe in pipes:
                    pipe.ended = True
                    pipe.wake()
            case _:
                self.reset()


def _flip(rng: random.Random, data: bytearray) -> None:
    """Change one bit of the check word of the frame that begins here."""
    data[CHECK_AT + rng.randrange(2)] ^= 1 << rng.randrange(8)


class _End:
    """One end: adds what it sends to the trace, and does what is to go wrong."""

    __slots__ = ("_flip", "_heard", "_in", "_injector", "_label", "_link", "_out", "_trace", "_way", "_whole", "closed", "peer")

    def __init__(self, link: Link, incoming: Pipe, outgoing: Pipe, label: str, network: Network) -> None:
        self._link = link
        self._in, self._out = incoming, outgoing
        self._label = label
        self._way = "there" if outgoing is link.there else "back"
        self._injector = network.injector
        self._trace = network.trace
        self._heard = None if network.heard is None else network.heard.setdefault(label, bytearray())
        self._flip: Armed | None = None
        self._whole = True
        self.closed = False
        self.peer = label

    def send_nowait(self, views: Sequence[bytes | memoryview], more: bool = False) -> int:
        del more
        self._check(self._out)
        if self._out.ended:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        for one in self._injector.due("link", "send", self._link.node):
            self._break(one, views)
        return self._pass(views)

    def _break(self, one: Armed, views: Sequence[bytes | memoryview]) -> None:
        """Do what happens at a send. Raises: ConnectionResetError."""
        match one.fault.id:
            case "T14":
                self._injector.fired(one, self._label)
                side = one.fault.arg("side", "before")
                if side != "before":
                    self._pass(views if side == "after" else [memoryview(views[0])[: len(views[0]) // 2]])
                self._link.reset()
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            case "T1":
                self._injector.fired(one, self._label)
                self._out.condition("short", one.fault.arg("length", 1), FOREVER_S)
            case "T15":
                self._injector.fired(one, self._label)
                self._pass([memoryview(views[0])[: len(views[0]) // 2]])
                self._out.ended = True
                self._out.wake()
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            case "T13":
                self._flip = one
            case "T12":
                self._rot(one, views)
            case _:
                self._link.strike(one, self._way)

    def _rot(self, one: Armed, views: Sequence[bytes | memoryview]) -> None:
        """Have one bit of a payload change under way; what is long and does not come first is payload."""
        at = 0
        for number, view in enumerate(views):
            if number and len(view) >= PAYLOAD:
                self._out.flip = partial(self._rotten, one, at, len(view))
                return
            at += len(view)

    def _rotten(self, one: Armed, start: int, length: int, data: bytearray) -> None:
        if len(data) > start:
            self._injector.fired(one, self._label)
            data[start + one.rng.randrange(min(length, len(data) - start))] ^= 1 << one.rng.randrange(8)

    def _pass(self, views: Sequence[bytes | memoryview]) -> int:
        out = self._out
        if self._flip is not None and self._whole and out.sent and len(views[0]) >= HEADER.size:
            self._injector.fired(self._flip, self._label)
            out.flip, self._flip = partial(_flip, self._flip.rng), None
        sent = left = out.send(views)
        self._whole = sent == sum(map(len, views))
        for view in views:
            if not left:
                break
            length = min(left, len(view))
            self._trace.wire(self._label, memoryview(view)[:length])
            if self._heard is not None:
                self._heard += memoryview(view)[:length]
            left -= length
        if sent:
            for one in self._injector.due("link", "bytes", self._link.node, sent):
                self._link.strike(one, self._way)
            at = self._link.reset_at
            if at is not None and self._link.there.sent + self._link.back.sent >= at:
                self._link.reset()
        return sent

    def recv_nowait(self, views: Sequence[memoryview]) -> int | None:
        self._check(self._in)
        for one in self._injector.due("link", "recv", self._link.node):
            self._injector.fired(one, self._label)
            return self._in.receive([views[0][: one.fault.arg("length", 1)]])
        return self._in.receive(views)

    def _check(self, pipe: Pipe) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "the stream was closed")
        if pipe.broken:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def _is_closed(self) -> bool:
        return self.closed

    async def wait_readable(self) -> None:
        await self._in.until_readable(self._is_closed)
        self._fail_if_closed()

    async def wait_writable(self) -> None:
        await self._out.until_writable(self._is_closed)
        self._fail_if_closed()

    def _fail_if_closed(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("the stream was closed")

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._in.ended = self._out.ended = True
            self._in.wake()
            self._out.wake()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()
