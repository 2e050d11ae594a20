"""A transport that is a function call: a dispatcher over a memory store; replies can be delayed, cut short or failed."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from iov.copy_iter import copy_to_iter
from iov.extract import extract_segments
from iov.iov_iter import IovIter
from iov.probe import Probe
from servers.dispatch import Dispatcher
from servers.stores.memory import MemoryStore
from transport.base import ClientCall, Done, Landing, Limits, Outcome, Reply, Transport
from transport.env import system_env
from transport.errors import TransportError
from transport.messages import Read, Request, Write

Fault = Callable[[Request], Outcome | int | None]
"""Look at a request; an outcome replaces the server's, a number cuts a READ or WRITE to that many bytes."""


@dataclass(eq=False)
class LoopCall:
    """A call on its way; it can be withdrawn until it is served."""

    transport: "LoopTransport"
    request: Request
    done: Done
    source: IovIter | None
    dest: IovIter | None
    withdrawn: bool = False
    ended: bool = False
    xid: int = 0

    def abandon(self) -> None:
        if not self.transport.stubborn:
            self.withdrawn = True
            trio.lowlevel.current_trio_token().run_sync_soon(self.transport.serve_one)

    def end(self, outcome: Outcome) -> None:
        self.ended = True
        self.transport.in_flight -= 1
        self.done(outcome)


@dataclass(eq=False)
class LoopTransport(Transport):
    """seed: replies come in an order drawn from it, None: in the order of the requests. hold: requests that have to wait.

    stubborn: an abandoned call is answered all the same, as when the reply was faster; else it ends later, without effect.
    """

    store: MemoryStore
    limits: Limits = field(default_factory=Limits)
    seed: int | None = None
    fault: Fault | None = None
    hold: Callable[[Request], bool] | None = None
    stubborn: bool = False
    in_flight: int = 0
    calls: int = 0
    log: list[Request] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.handler = Dispatcher(self.store, system_env(), Probe(), self.limits)
        self.rng = random.Random(self.seed)
        self.queue: list[LoopCall] = []

    def submit(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> ClientCall:
        self.calls += 1
        call = LoopCall(self, request, done, source, dest, xid=self.calls)
        self.in_flight += 1
        if self.closed:
            call.end(TransportError(103, "closed"))
            return call
        self.log.append(request)
        self.queue.append(call)
        trio.lowlevel.current_trio_token().run_sync_soon(self.serve_one)
        return call

    def serve_one(self) -> None:
        ready = [call for call in self.queue if call.withdrawn or not (self.hold and self.hold(call.request))]
        if ready:
            call = ready[0 if self.seed is None else self.rng.randrange(len(ready))]
            self.queue.remove(call)
            call.end(TransportError(125, "abandoned") if call.withdrawn else self.outcome(call))

    def let_go(self) -> None:
        """Serve everything that was held."""
        self.hold = None
        while self.queue:
            self.serve_one()

    def outcome(self, call: LoopCall) -> Outcome:
        request = call.request
        cut = self.fault(request) if self.fault is not None else None
        if cut is not None and not isinstance(cut, int):
            return cut
        return self.serve(request, call.source, call.dest, cut)

    def serve(self, request: Request, source: IovIter | None, dest: IovIter | None, cut: int | None) -> Outcome:
        landing = None
        if source is not None:
            piece = source.copy()
            if cut is not None and isinstance(request, Write):
                piece.truncate(cut)
            admitted = self.handler.admit(request, piece.count)
            if isinstance(admitted, int):
                return Reply(admitted)
            landing = admitted
            for view in extract_segments(piece, piece.count):
                copy_to_iter(view, landing.iter)
        if cut is not None and isinstance(request, Read):
            request = Read(request.handle, request.pos, min(cut, request.length))
        reply = self.handle(request, landing)
        if reply.source is not None and dest is not None:
            assert isinstance(reply.source, IovIter)
            for view in extract_segments(reply.source.copy(), reply.source.count):
                reply.received += copy_to_iter(view, dest)
        if reply.release is not None:
            reply.release()
        reply.source = reply.release = None
        return reply

    def handle(self, request: Request, landing: Landing | None) -> Reply:
        reply = self.handler.handle(request, landing)
        assert isinstance(reply, Reply)
        return reply

    async def call(self, request: Request, source: IovIter | None = None, dest: IovIter | None = None) -> Reply:
        await trio.lowlevel.checkpoint_if_cancelled()
        box: list[Outcome] = []
        task = trio.lowlevel.current_task()

        def done(outcome: Outcome) -> None:
            box.append(outcome)
            trio.lowlevel.reschedule(task)

        self.submit(request, done, source, dest)
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        outcome = box[0]
        if not isinstance(outcome, Reply):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            assert self.in_flight == 0, "calls in flight at the close"
            self.handler.closed()
        await trio.lowlevel.checkpoint()
