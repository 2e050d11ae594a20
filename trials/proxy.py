"""Trio shell. A TCP proxy in real time that does to other people's connections what a plan says: `netfs proxy`.

    client ── socket ── ours ══ the simulated link of trials, by the real clock ══ theirs ── socket ── server

It is the network of trials (`trials/faults/network.py`) between two sockets, so a plan does the same here as there; only its
faults of the network can happen, and any other is refused. Connections are the nodes client0, client1, … in the order of
their coming; `at(…)` counts from the start of the proxy. What is chosen at random follows the seed; what happens when
follows the machine. Ownership: bytes are copied into the link, as into a kernel's buffer.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from transport.address import Address
from transport.link import ByteStream, SocketStream
from trials.faults.catalogue import row_of
from trials.faults.injector import Injector
from trials.faults.network import Network
from trials.faults.pipe import Pipe
from trials.faults.plan import Plan, PlanError
from trials.sim.rng import Streams
from trials.sim.trace import Trace

__all__ = ["Proxy", "check_plan"]

CHUNK: Final = 1 << 16
LINGER_RESET: Final = struct.pack("ii", 1, 0)


def check_plan(plan: Plan) -> None:
    """Refuse what a proxy cannot do. Raises: PlanError, which names the fault."""
    for number, fault in enumerate(plan.faults, 1):
        row = row_of(fault.id)
        if row.site != "link":
            raise PlanError(f"fault {number}: {fault.id} ({row.name}) is not of the network, and a proxy is nothing else")
        if fault.trigger.kind == "when":
            raise PlanError(f"fault {number}: when({fault.trigger.event}, …) looks into a client, which a proxy cannot")
    known = {"slice", "capacity"}
    for name, _ in plan.knobs:
        if name not in known:
            raise PlanError(f"knob {name} is not of the network; a proxy has {' and '.join(sorted(known))}")


class _Silent(Trace):
    """A trace that keeps no bytes. told: is given each line about a fault."""

    def __init__(self, told: Callable[[str], None]) -> None:
        super().__init__()
        self._told = told

    def record(self, text: str) -> None:
        self._told(text)

    def wire(self, label: str, view: memoryview | bytes | bytearray) -> None:
        pass


@dataclass(slots=True)
class _Side:
    """A socket and the end of the link it is joined with. out: the link's direction away from the socket."""

    sock: SocketStream
    raw: socket.socket
    end: ByteStream
    out: Pipe

    def reset(self) -> None:
        """End the connection as a broken one."""
        with suppress(OSError):
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.sock.close()


class Proxy:
    """Carries connections to `upstream`. fired: ids and how often each took effect. told: is given a line for each.

    connections, passed: so far; passed: bytes, both ways.
    """

    def __init__(self, upstream: Address, plan: Plan, seed: int, told: Callable[[str], None]) -> None:
        check_plan(plan)
        self.upstream = upstream
        self.connections = 0
        self.passed = 0
        streams = Streams(seed)
        self.injector = Injector(plan, streams, lambda text: told(text) if text.startswith("fault ") else None)
        slice_length, capacity = plan.knob("slice", 0) or None, plan.knob("capacity", 1 << 18)
        self.network = Network(self.injector, streams, _Silent(lambda _: None), slice_length, capacity)

    async def serve(
        self, listener: trio.SocketListener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Carry whoever connects. Cancellation: connections are broken."""
        async with trio.open_nursery() as nursery:
            self.injector.begin()
            self.network.start(nursery)
            task_status.started()
            while True:
                stream = await listener.accept()
                number, self.connections = self.connections, self.connections + 1
                nursery.start_soon(self._carry, f"client{number}", stream.socket)

    async def _carry(self, node: str, client: trio.socket.SocketType) -> None:
        near = socket.socket(fileno=client.detach())
        far: socket.socket | None = None
        try:
            try:
                far = await self._dial()
                ours, theirs = await self.network.connect(node, "server")
            except OSError:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
                return
            link = self.network.links[-1]
            client_side = _Side(SocketStream(near), near, ours, link.there)
            server_side = _Side(SocketStream(far), far, theirs, link.back)
            try:
                async with trio.open_nursery() as nursery:
                    for side in (client_side, server_side):
                        nursery.start_soon(self._into_link, side)
                        nursery.start_soon(self._out_of_link, side)
            except* OSError:
                client_side.reset()
                server_side.reset()
            finally:
                ours.close()
                theirs.close()
        finally:
            near.close()
            if far is not None:
                far.close()

    async def _dial(self) -> socket.socket:
        if self.upstream.socket:
            stream = await trio.open_unix_socket(self.upstream.socket)
        else:
            stream = await trio.open_tcp_stream(self.upstream.host, self.upstream.port)
        return socket.socket(fileno=stream.socket.detach())

    async def _into_link(self, side: _Side) -> None:
        """Take what the socket receives into the link; its end is the end of that direction."""
        buffer = bytearray(CHUNK)
        while True:
            count = await _received(side.sock, buffer)
            if not count:
                side.out.ended = True
                side.out.wake()
                return
            self.passed += count
            await _sent(side.end, memoryview(buffer)[:count])

    async def _out_of_link(self, side: _Side) -> None:
        """Give the socket what comes out of the link."""
        buffer = bytearray(CHUNK)
        while True:
            count = await _received(side.end, buffer)
            if not count:
                with suppress(OSError):
                    side.raw.shutdown(socket.SHUT_WR)
                return
            await _sent(side.sock, memoryview(buffer)[:count])


async def _received(stream: ByteStream, buffer: bytearray) -> int:
    """Receive what there is. Returns: 0 at the end. Raises: OSError."""
    while True:
        count = stream.recv_nowait([memoryview(buffer)])
        if count is not None:
            return count
        with _as_broken():
            await stream.wait_readable()


async def _sent(stream: ByteStream, view: memoryview) -> None:
    """Send all of it. Raises: OSError."""
    while view:
        count = stream.send_nowait([view])
        view = view[count:]
        if not count:
            with _as_broken():
                await stream.wait_writable()


class _as_broken:  # noqa: N801 - a context manager
    """A stream that was closed here in the meantime is a broken one."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, trio.ClosedResourceError):
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error
