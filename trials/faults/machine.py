"""Trio shell. The machine a server runs on in a trial: it can lose power, come back with what survived, be shut down in order.

If only the process is killed, its writes and its notes of sessions survive. If power is lost, the store is as its last commits
left it, with whatever else the crash spares, and the notes are lost, as those of another boot are. Then another `Server` takes
the next connections. Ownership: the store is the machine's.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import trio

from servers.once import Doubt
from servers.server import Server
from servers.sessions import Channel, Kept
from servers.stores.memory import MemoryStore
from transport.base import Handler, Limits, Reply
from transport.link import ByteStream
from transport.messages import Request
from trials.faults.catalogue import row_of
from trials.faults.handler import FaultyHandler
from trials.faults.injector import Armed, Injector
from trials.faults.storage import FaultyStore
from trials.faults.tamper import Tamper
from trials.sim.world import SimWorld

__all__ = ["Machine"]

PAGES_TORN: Final = 0.5
SERVICE_S: Final = 300e-6


class Machine:
    """The server's machine. reset: breaks the links of a node, or all. tampers: attacks of the
    scenario, beside those of the plan.
    """

    def __init__(
        self, world: SimWorld, injector: Injector, limits: Limits, reset: Callable[[str], None], mark: Callable[[str, str], None],
        linkless: bool, tampers: Sequence[Tamper] = (),
    ) -> None:  # fmt: skip
        self.env, self.probe = world.env("server"), world.probe("server")
        self.store = MemoryStore(self.probe, self.env.wall_ns, crashable=True)
        self.up = True
        self.limits = limits
        self._world = world
        self._linkless = linkless
        self._injector = injector
        self._reset = reset
        self._mark = mark
        self._attacks: dict[Armed | int, Tamper] = dict(enumerate(tampers))
        self._attacks |= {
            one: Tamper(*str(one.fault.arg("attack", "A01")).split(":", 1), armed=False) for one in injector.of("tamper")
        }
        self._notes = Notes()
        self._open: dict[int, tuple[Callable[[], None], trio.Event]] = {}
        self._serial = 0
        self._busy = False
        self._nursery: trio.Nursery | None = None
        self._healing = trio.Event()
        self.faulty: FaultyStore | None = None
        self.server = self._boot()

    def _boot(self) -> "_TrialServer":
        spots = [] if self.faulty is None else self.faulty.spots
        self.faulty = FaultyStore(self.store, self._injector, spots)
        shown: Any = self.faulty
        for tamper in self._attacks.values():
            if not hasattr(tamper, "store"):
                tamper.around(shown)
            tamper.store.inner = shown
            shown = tamper.store
        return _TrialServer(self, shown, self.env, self.probe, self.limits, keeper=self._notes)

    def start(self, nursery: trio.Nursery) -> None:
        """Begin what happens at moments."""
        self._nursery = nursery
        for one in self._injector.timed_of("crash"):
            nursery.start_soon(self._at, one)

    async def _at(self, one: Armed) -> None:
        await self._injector.moment(one)
        if self._injector.active:
            self.crash(one)

    # ---- connections

    async def serve(self, stream: ByteStream, rdma: bool) -> None:
        """Serve one connection until it ends, or the machine does."""
        with trio.CancelScope() as scope:
            number, over = self._enter(scope.cancel)
            try:
                await self.server.serve_connection(stream, rdma)
            finally:
                self._leave(number, over)

    def handler(self, node: str, drop: Callable[[], None]) -> "tuple[Callable[[str, Limits], Handler], Callable[[], None]]":
        """Return what makes the handler of a connection that needs no stream, and what to call at its end."""
        number, over = self._enter(drop)
        server, channel = self.server, Channel(self.server.sessions, "", drop)

        def make(_: str, limits: Limits) -> Handler:
            return server.handler(f"server>{node}", limits, channel)

        return make, lambda: self._leave(number, over)

    def around(self, handler: Handler, node: str) -> Handler:
        """Put the plan's faults and attacks around what answers a connection's requests."""
        for tamper in self._attacks.values():
            handler = tamper.handler(handler)
        # A link has delays of its own; RDMA inside a process takes no time at all, in which nothing could happen at a moment.
        rng = self._world.streams.rng(f"{node}/service")
        service = (lambda: rng.uniform(0, SERVICE_S)) if self._linkless else None
        return FaultyHandler(handler, self._injector, node, lambda: self._reset(node), self._strike, service)

    def _strike(self, one: Armed) -> None:
        """Do a fault of the whole server."""
        if row_of(one.fault.id).site == "crash":
            self.crash(one)
        elif self._nursery is not None:
            self._nursery.start_soon(self._lie, one)

    async def _lie(self, one: Armed) -> None:
        """Let an attack lie for a while."""
        attack = self._attacks[one].attack
        attack.block = one.rng.randrange(4)
        attack.armed, struck = True, attack.struck
        await trio.sleep(one.fault.arg("for_s", 0.01))
        attack.armed = False
        if attack.struck > struck:
            self._injector.fired(one, f"{attack.struck - struck} lies")

    def _enter(self, drop: Callable[[], None]) -> tuple[int, trio.Event]:
        self._serial += 1
        over = trio.Event()
        self._open[self._serial] = (drop, over)
        return self._serial, over

    def _leave(self, number: int, over: trio.Event) -> None:
        self._open.pop(number, None)
        over.set()

    # ---- the end of a server

    def crash(self, one: Armed) -> None:
        """Kill the server at this instant: nothing more leaves, nothing more is kept."""
        if not self.up or self._busy or self._nursery is None:
            return
        self._injector.fired(one)
        self._busy = True
        payload = int(one.fault.arg("payload", 0))
        if payload:
            self.limits = replace(self.limits, max_payload=payload)
        if one.fault.id == "S28":
            self._nursery.start_soon(self._in_order, one)
            return
        self._die()
        self._nursery.start_soon(self._again, one)

    def _die(self) -> None:
        self.up = False
        self._mark("crash", "server")
        self._notes = self._notes.copy()
        if self.faulty is not None:
            self.faulty.dead = True
        self._reset("")
        for drop, _ in list(self._open.values()):
            drop()

    @property
    def serving(self) -> int:
        """Connections that are being served."""
        return len(self._open)

    async def all_left(self) -> None:
        """Wait until none is."""
        while self._open:
            await next(iter(self._open.values()))[1].wait()

    async def _again(self, one: Armed) -> None:
        """Come back, once or several times."""
        for left in range(int(one.fault.arg("times", 1)) - 1, -1, -1):
            await self.all_left()
            self.store.crash(_survives(one))
            if one.fault.arg("unsynced", "none") != "all" or one.fault.arg("notes", "kept") == "lost":
                self._notes = Notes()
            with trio.move_on_after(one.fault.arg("restart_s", 0.1)):
                await self._healing.wait()
            self._up()
            if not left:
                break
            await trio.sleep(one.rng.uniform(0.0, 0.01))
            if not self._injector.active:
                break
            self._die()
        self._busy = False

    async def _in_order(self, one: Armed) -> None:
        """Shut down as an operator does, and start the next one."""
        self.up = False
        await self.server.drain()
        self._reset("")
        await self.all_left()
        self.store.crash(lambda: True)
        with trio.move_on_after(one.fault.arg("restart_s", 0.1)):
            await self._healing.wait()
        self._up()
        self._busy = False

    def _up(self) -> None:
        self.server = self._boot()
        self.up = True
        self._mark("restart", "server")

    def heal(self) -> None:
        """Come back now, and stay."""
        self._healing.set()
        if self.faulty is not None:
            self.faulty.heal()
        for one, tamper in self._attacks.items():
            if isinstance(one, Armed) and tamper.attack.armed and tamper.attack.struck:
                self._injector.fired(one, f"{tamper.attack.struck} lies")
            tamper.attack.armed = False


class _TrialServer(Server):
    """A server whose handlers a plan's faults happen to."""

    def __init__(self, machine: Machine, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._machine = machine

    def handler(self, peer: str, limits: Limits, channel: Channel | None = None) -> Handler:
        """See `Server`."""
        return self._machine.around(super().handler(peer, limits, channel), peer.rpartition(">")[2])


def _survives(one: Armed) -> Callable[[], bool] | None:
    """Return which of the pages that nothing made durable outlive a crash."""
    how = one.fault.arg("unsynced", "none")
    if how == "none":
        return None
    if how == "all":
        return lambda: True
    if how == "prefix":
        left = [one.rng.randrange(12)]

        def first_ones() -> bool:
            left[0] -= 1
            return left[0] >= 0

        return first_ones
    rng: random.Random = one.rng
    return lambda: rng.random() < PAGES_TORN


class _Notebook:
    """The notes of one session: for each slot its number, and the answer or what is in doubt."""

    def __init__(self, slots: int) -> None:
        self.slots: list[tuple[int, Reply | Doubt | None]] = [(0, None)] * slots

    def intend(self, slot: int, seq: int, request: Request, before: Sequence[bytes]) -> None:
        """See `Keeping`."""
        self.slots[slot] = (seq, Doubt(request, list(before)))

    def answer(self, slot: int, seq: int, reply: Reply) -> None:
        """See `Keeping`."""
        self.slots[slot] = (seq, Reply(reply.status, reply.body))


class Notes:
    """Notes of sessions in memory that outlive the server. A copy is what a crash finds: what the dead one notes is not in it."""

    def __init__(self) -> None:
        self.killed = True
        self._sessions: dict[bytes, tuple[str, _Notebook]] = {}

    def copy(self) -> "Notes":
        """Return the notes as they are at this instant."""
        made = Notes()
        for name, (principal, book) in self._sessions.items():
            kept = _Notebook(0)
            kept.slots = list(book.slots)
            made._sessions[name] = (principal, kept)
        return made

    def load(self) -> list[Kept]:
        """See `Keeper`."""
        return [Kept(name, principal, list(book.slots)) for name, (principal, book) in sorted(self._sessions.items())]

    def add(self, name: bytes, principal: str, slots: int) -> _Notebook:
        """See `Keeper`."""
        self._sessions[name] = (principal, _Notebook(slots))
        return self._sessions[name][1]

    def find(self, name: bytes) -> _Notebook:
        """See `Keeper`."""
        return self._sessions[name][1]

    def drop(self, name: bytes) -> None:
        """See `Keeper`."""
        self._sessions.pop(name, None)
