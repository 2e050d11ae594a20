"""The tools of the transport suite: a handler that counts, memory between red zones, outcomes that insist on once.

`transports.py` lists how each transport is set up; `test_transport.py` runs the suite on each. What the handler does to a
request is told by the request's handle (`Deed`).
"""

import errno
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

import trio

from iov.bvec import BioVec
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from transport.base import HandlerFactory, Landing, Limits, Outcome, Reply, Transport
from transport.errors import TransportError
from transport.messages import Ack, Create, Handle, Ping, Read, ReadReply, Request, Write, WriteReply

__all__ = [
    "PATTERN",
    "SIZES",
    "Deed",
    "Opened",
    "Opener",
    "Outcomes",
    "Served",
    "Zone",
    "read_into",
    "still_works",
    "until",
    "write_from",
]

PATTERN: Final = memoryview(bytes((i * 131 + (i >> 8)) & 255 for i in range((1 << 20) + 4096)))
SIZES: Final = (0, 1, 4095, 4096, 4097, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20)
RED: Final = 64
PATIENCE: Final = 200_000


class Deed:
    """Handles, each for what the handler does."""

    PLAIN = Handle(b"plain")
    SCATTERED = Handle(b"scattered")
    LATER = Handle(b"later")
    GATED = Handle(b"gated")
    REFUSED = Handle(b"refused")
    FAILED = Handle(b"failed")
    TOO_LONG = Handle(b"too long")


@dataclass
class Opened:
    """A client's transport, its server's handler behind it, and a way to break what is between them."""

    transport: Transport
    cut: Callable[[], None]
    client_probe: Probe
    server_probe: Probe


Opener = Callable[[HandlerFactory, Limits], AbstractAsyncContextManager[Opened]]


class Zone:
    """Memory between red zones, whole or in pieces of odd lengths."""

    def __init__(self, size: int, fill: int = 0xEE) -> None:
        self.memory = memoryview(bytearray([fill]) * (size + 2 * RED))
        self.fill = fill
        self.view = self.memory[RED : RED + size]

    def pieces(self) -> list[memoryview]:
        """Return all of it in up to 40 pieces."""
        step = max(1, len(self.view) // 37)
        return [self.view[at : at + step] for at in range(0, len(self.view), step)]

    def intact(self) -> bool:
        """Whether nothing has been written beside it."""
        red = bytes([self.fill]) * RED
        return self.memory[:RED] == red and self.memory[-RED:] == red

    def untouched(self) -> bool:
        return self.memory == bytes([self.fill]) * len(self.memory)


@dataclass
class Served:
    """The handler, and what it saw. `gates` hold back replies to GATED reads by position."""

    lent: int = 0
    returned: int = 0
    active: int = 0
    most_active: int = 0
    closed_count: int = 0
    seen: list[Request] = field(default_factory=list)
    written: dict[int, memoryview] = field(default_factory=dict)
    gates: dict[int, trio.Event] = field(default_factory=dict)
    zones: list[Zone] = field(default_factory=list)

    @property
    def leases(self) -> int:
        return self.lent - self.returned

    def _lend(self) -> Callable[[], None]:
        self.lent += 1
        given: list[bool] = []

        def give_back() -> None:
            assert not given, "released twice"
            given.append(True)
            self.returned += 1

        return give_back

    def admit(self, request: Request, length: int) -> Landing | int:
        assert isinstance(request, Write)
        if request.handle == Deed.REFUSED:
            return errno.ENOSPC
        zone = Zone(length)
        self.zones.append(zone)
        if request.handle == Deed.SCATTERED:
            return Landing(IovIter.bvec(Direction.DEST, [BioVec(piece, 0, len(piece)) for piece in zone.pieces()]), self._lend())
        return Landing(IovIter.ubuf(Direction.DEST, zone.view), self._lend())

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        self.seen.append(request)
        match request:
            case Read(handle=Deed.LATER | Deed.GATED):
                return self._later(request)
            case Read():
                return self._read(request)
            case Write():
                if landing is not None:
                    self.written[request.pos] = self.zones[-1].view
                    assert landing.release is not None
                    landing.release()
                if request.handle == Deed.FAILED:
                    return Reply(errno.EROFS)
                return Reply(0, WriteReply(0 if landing is None else len(self.zones[-1].view), 7))
            case Create():
                return Reply(errno.EEXIST)
            case _:
                return Reply(0, Ack())

    def _read(self, request: Read) -> Reply:
        if request.handle == Deed.FAILED:
            return Reply(errno.EIO)
        end = min(request.pos + request.length, len(PATTERN))
        if request.handle == Deed.TOO_LONG:
            end += 1
        data = PATTERN[request.pos : end]
        source = IovIter.ubuf(Direction.SOURCE, data)
        if request.handle == Deed.SCATTERED:
            step = max(1, len(data) // 23)
            source = IovIter.kvec(Direction.SOURCE, [data[at : at + step] for at in range(0, len(data), step)])
        return Reply(0, ReadReply(end == len(PATTERN)), source, self._lend())

    async def _later(self, request: Read) -> Reply:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            if request.handle == Deed.GATED:
                await self.gates.setdefault(request.pos, trio.Event()).wait()
            else:
                await trio.lowlevel.checkpoint()
            return self._read(request)
        finally:
            self.active -= 1

    def closed(self) -> None:
        self.closed_count += 1

    def check_over(self) -> None:
        """Assert that the connection ended well: everything lent came back, `closed` was called once."""
        assert self.closed_count == 1
        assert self.leases == 0
        assert all(zone.intact() for zone in self.zones)


class Outcomes:
    """Collects what `done` was told, by name, and insists on once."""

    def __init__(self) -> None:
        self.by_name: dict[object, Outcome] = {}

    def of(self, name: object) -> Callable[[Outcome], None]:
        def done(outcome: Outcome) -> None:
            assert name not in self.by_name, "done was called twice"
            self.by_name[name] = outcome

        return done

    def error(self, name: object) -> int:
        """Return the errno a call ended with."""
        outcome = self.by_name[name]
        assert isinstance(outcome, TransportError)
        return outcome.errno


async def until(condition: Callable[[], bool]) -> None:
    """Let the others run until the condition holds."""
    for _ in range(PATIENCE):
        if condition():
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("it never came true")


async def read_into(transport: Transport, pos: int, zone: Zone, deed: Handle = Deed.PLAIN, *, scattered: bool = False) -> Reply:
    """Read the pattern at `pos` into all of a zone."""
    dest = IovIter.iovec(Direction.DEST, zone.pieces()) if scattered else IovIter.ubuf(Direction.DEST, zone.view)
    return await transport.call(Read(deed, pos, len(zone.view)), None, dest)


async def write_from(transport: Transport, pos: int, size: int, deed: Handle = Deed.PLAIN, *, scattered: bool = False) -> Reply:
    """Write `size` bytes of the pattern at `pos`."""
    data = PATTERN[pos : pos + size]
    source = IovIter.ubuf(Direction.SOURCE, data)
    if scattered:
        step = max(1, size // 29)
        source = IovIter.iovec(Direction.SOURCE, [data[at : at + step] for at in range(0, size, step)])
    return await transport.call(Write(deed, pos), source)


async def still_works(transport: Transport) -> None:
    """Assert that the connection is in step."""
    assert (await transport.call(Ping())).body == Ack()
    zone = Zone(300)
    await read_into(transport, 77, zone)
    assert zone.view == PATTERN[77:377] and zone.intact()
