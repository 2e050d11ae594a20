"""Trio shell. What a trial plays in: one server that can be killed and started again, and clients that connect again.

Everything is simulated: the clients' sessions dial through the trial's network to whichever server is there. Ownership: the
store is the machine's; what is lent is back when the block ends, or `remains` says what is not.
"""

import errno
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from crypto.keys import VolumeKey
from iov.probe import Probe
from netfs.fs.client import Client, open_client
from transport.base import Limits, Transport
from transport.env import Env
from transport.errors import TransportError
from transport.rdma.capture import Capture
from transport.rdma.capture_stream import CapturedStream
from transport.rdma.client import RdmaTransport
from transport.rdma.device import Device
from transport.rdma.endpoint import rdma_memory_connection
from transport.rdma.profiles import RXE
from transport.rdma.stream_endpoint import connect_rdma_stream
from transport.reconnect import Recovery, SessionTransport, connect_session
from transport.stream import connect_stream
from trials.checkers.balance import of_client, of_device, of_server
from trials.checkers.leaks import check_leaks, store_streams
from trials.faults.clocks import Clocks
from trials.faults.disturb import Disturber
from trials.faults.injector import Injector
from trials.faults.machine import Machine
from trials.faults.network import Network
from trials.faults.plan import Plan
from trials.faults.rdma import control_devices
from trials.faults.tamper import Tamper
from trials.history import Failure, History
from trials.sim.world import SimWorld

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["Scene"]

SERVED_S: Final = 60.0
"""Virtual seconds in which a server that is well notices that its clients have left."""
NEEDLES: Final = 4


class Scene:
    """The server and the clients of one trial; `open` gives the clients. capture: sees the packets, if it is set before."""

    def __init__(
        self, case: "Case", plan: Plan, world: SimWorld, injector: Injector, history: History, tampers: Sequence[Tamper] = ()
    ) -> None:  # fmt: skip
        self.case = case
        self.world = world
        self.injector = injector
        slice_length, capacity = plan.knob("slice", 0) or None, plan.knob("capacity", 1 << 18)
        self.network = Network(injector, world.streams, world.trace, slice_length, capacity)
        self.machine = Machine(
            world,
            injector,
            Limits(credits=plan.knob("credits", 64)),
            self._reset,
            history.mark,
            case.transport == "rdma-memory",
            tampers,
        )
        self.profile = replace(
            RXE, max_send_sge=plan.knob("max_sge", RXE.max_send_sge), max_recv_sge=plan.knob("max_sge", RXE.max_recv_sge),
            max_sge_rd=plan.knob("max_sge", RXE.max_sge_rd), max_rd_atom=plan.knob("rd_atom", RXE.max_rd_atom),
        )  # fmt: skip
        self.clients: list[Client] = []
        self._ends: dict[str, list[Callable[[], None]]] = {}
        self.capture: Capture | None = None
        self._plan = plan
        self._mark = history.mark
        self._wrong = history.wrong
        self._clocks = Clocks(injector, bool(plan.knob("offload", 0)))
        self._nursery: trio.Nursery | None = None
        self._disturber: Disturber | None = None
        self._keys: VolumeKey | None = None
        self._dead: list[str] = []
        self._left: Counter[str] = Counter()
        self._secret = b""
        injector.states = {
            "unsafe": lambda node: max((one.page_cache.held_bytes for one in self._of(node)), default=0),
            "requests": lambda node: max((len(one.requests()) for one in self._of(node)), default=0),
            "connects": lambda node: max((_connects(one) for one in self._of(node)), default=0),
        }

    @asynccontextmanager
    async def open(self) -> AsyncIterator[list[Client]]:
        """Open the clients for the length of a block."""
        if self.case.encrypt:
            self._secret = self.world.streams.rng("volume").randbytes(32)
            self._keys = VolumeKey(self._secret)
            self.network.heard = {}
        async with AsyncExitStack() as stack:
            manager = trio.open_nursery()
            self._nursery = await manager.__aenter__()
            stack.push_async_callback(manager.__aexit__, None, None, None)
            stack.callback(self._nursery.cancel_scope.cancel)
            stack.push_async_callback(self._served)
            for index in range(self.case.clients):
                self.clients.append(await stack.enter_async_context(self._client(f"client{index}")))
            yield self.clients
            if self._disturber is not None and self._disturber.busy:
                await self._disturber.end()

    @asynccontextmanager
    async def _client(self, node: str) -> AsyncIterator[Client]:
        """Open one client."""
        plan = self._plan
        recovery = Recovery(
            timeout_s=plan.knob("timeout_s", 60.0), channels=plan.knob("channels", 1), keepalive_s=plan.knob("keepalive_s", 10.0)
        )
        env, probe = self._clocks.env(node, self.world.env(node)), self.world.probe(node)
        async with connect_session(partial(self._dial, node, env, probe), env, probe, recovery) as transport:
            opening = open_client(
                transport, keys=self._keys, env=env, probe=probe, freshness="session",
                rsize=plan.knob("rsize", 1 << 20), wsize=plan.knob("wsize", 1 << 20),
                cache_bytes=plan.knob("cache_bytes", 1 << 20), leases=bool(plan.knob("leases", 0)),
            )  # fmt: skip
            async with _heard(opening, self._mark, node) as client:
                yield client
        if node not in self._dead:
            self._left.update(of_client(client))

    async def _served(self) -> None:
        """Wait until the server has noticed that all have left; with that its tasks end."""
        with trio.move_on_after(SERVED_S):
            await self.machine.all_left()
        self._left["server tasks"] += self.machine.serving

    def _kill(self, node: str) -> None:
        """Let a client's connections break, and have no other."""
        self._dead.append(node)
        self._reset(node)

    def _of(self, node: str) -> list[Client]:
        """Return the client of a name, all for none."""
        return [one for index, one in enumerate(self.clients) if node in {"", f"client{index}"}]

    @asynccontextmanager
    async def _dial(self, node: str, env: Env, probe: Probe) -> AsyncIterator[Transport]:
        await trio.lowlevel.checkpoint()
        if node in self._dead:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        if self.case.transport == "rdma-memory":
            async with self._dial_memory(node, env, probe) as transport:
                yield transport
            return
        rdma = self.case.transport == "rdma-stream"
        ours, theirs = await self.network.connect(node, "server", self.machine.up)
        if self.capture is not None:
            ours = CapturedStream(ours, self.capture, active=True)
        assert self._nursery is not None
        self._nursery.start_soon(self.machine.serve, theirs, rdma)
        connect = connect_rdma_stream if rdma else connect_stream
        opened: AbstractAsyncContextManager[Transport] = connect(ours, env, probe, Limits())
        devices: list[Device] = []
        try:
            async with opened as made:
                devices += [made.end.pd.device] if isinstance(made, RdmaTransport) else []
                yield made
        finally:
            for device in devices:
                self._left.update(of_device(device))

    @asynccontextmanager
    async def _dial_memory(self, node: str, env: Env, probe: Probe) -> AsyncIterator[Transport]:
        """Connect by RDMA inside the process, where there is no link."""
        refusals = self.injector.due("cm", "connect", node)
        for one in refusals:
            self.injector.fired(one)
        if refusals or not self.machine.up:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        machine = self.machine
        failing: list[Callable[[], None]] = []
        dropped = trio.Event()
        devices: list[Device] = []

        def drop() -> None:
            dropped.set()
            for fail in failing:
                fail()

        factory, left = machine.handler(node, drop)
        mine = self._ends.setdefault(node, [])
        mine.append(drop)
        try:
            args = (factory, env, probe, machine.env, machine.probe, machine.limits, self.profile)
            connection = rdma_memory_connection(*args, capture=self.capture)
            async with connection as transport:
                end = transport.end
                peer = end.peer
                assert peer is not None and self._nursery is not None
                control_devices([end.pd.device, peer.pd.device], self.injector, node, self._nursery)
                failing.append(lambda: end.fail(TransportError(errno.ECONNRESET, "the connection was reset")))
                devices += [end.pd.device, peer.pd.device]
                if dropped.is_set():
                    drop()  # before it was open
                yield transport
        finally:
            for device in devices:
                self._left.update(of_device(device))
            mine.remove(drop)
            left()

    def _reset(self, node: str) -> None:
        """Break the connections of a node, or all."""
        self.network.reset(node)
        for name, drops in self._ends.items():
            if not node or name == node:
                for drop in list(drops):
                    drop()

    def begin(self) -> None:
        """Let the plan's faults happen from now on."""
        assert self._nursery is not None
        self.injector.begin()
        self.network.start(self._nursery)
        self.machine.start(self._nursery)
        self._clocks.start(self._nursery)
        self._disturber = Disturber(self.clients, self.injector, self._wrong, self._client, self._kill)
        self._disturber.start(self._nursery)
        for one in self.injector.of("world"):
            if one.fault.id != "E1" or self.case.policy != "fifo":
                self.injector.fired(one)

    async def heal(self) -> None:
        """Let nothing go wrong from now on, and put right what did."""
        self.injector.heal()
        self.network.heal()
        self.machine.heal()
        self._clocks.heal()
        self._mark("heal", "")
        await trio.lowlevel.checkpoint()

    def remains(self) -> dict[str, int]:
        """Return what should be nothing when the clients have left."""
        return dict(self._left) | of_server(self.machine.server, self.machine.store)

    def leak(self, history: History) -> Failure | None:
        """Look for plaintext and for the key on the wire and in the store, when the clients have left."""
        if not self.case.encrypt:
            return None
        heard = (self.network.heard or {}).items()
        wire = [(f"what {label.partition('>')[0]} sent to {label.partition('>')[2]}", [sent]) for label, sent in heard]
        return check_leaks(history, (*wire, *store_streams(self.machine.store)), most=NEEDLES, secrets=[self._secret])


def _connects(client: Client) -> int:
    """Return how many connections have joined a client's session."""
    return client.transport.connects if isinstance(client.transport, SessionTransport) else 0


@asynccontextmanager
async def _heard(
    opening: AbstractAsyncContextManager[Client], mark: Callable[[str, str], None], node: str
) -> AsyncIterator[Client]:
    """Open a client; that some of its data was lost, which it says when it is closed, is an answer like others."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(opening)
        yield client
        try:
            await client.aclose()
        except OSError as error:
            mark("told at the end", f"{node}: {error.strerror}")
