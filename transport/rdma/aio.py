"""Trio shell. The verbs device for Trio programs: await a completion, iterate over events, cancel safely.

    async with open_verbs(device) as verbs:
        cq = verbs.create_cq(64)
        qp = verbs.context.alloc_pd().create_qp(QPInit(cq.cq, cq.cq))
        ...
        wc = await cq.send(qp, SendWR(opcode=Opcode.WRITE, ...))

One task serves all queues of an opened device, none serves a work request. Memory named by a request is the device's until the
completion: a cancelled wait takes the queue pair to ERR and goes on, shielded, until the flushed completion is there.
"""

import itertools
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio
from trio import lowlevel

from transport.env import Env, system_env
from transport.rdma.cq import CQ
from transport.rdma.device import AsyncEvent, Context, Device
from transport.rdma.enums import SendFlag
from transport.rdma.errors import VerbsError
from transport.rdma.memory_fabric import TICK_S
from transport.rdma.pump import Wake
from transport.rdma.qp import QP
from transport.rdma.wr import WC, RecvWR, SendWR

__all__ = ["AsyncCQ", "Events", "Verbs", "open_verbs"]

SIGNALED: Final = int(SendFlag.SIGNALED)
FIRST_TOKEN: Final = 1 << 62
BATCH: Final = 64


@dataclass(slots=True)
class _Waiter:
    """A task that waits for the completion of one request, whose own id is put back when it comes."""

    task: lowlevel.Task
    wr_id: int
    wc: WC | None = None
    parked: bool = False


class AsyncCQ:
    """A completion queue whose completions are awaited; made by `Verbs.create_cq`."""

    __slots__ = ("arrived", "cq", "readers", "tokens", "waiters")

    def __init__(self, cq: CQ) -> None:
        self.cq = cq
        self.tokens = itertools.count(FIRST_TOKEN)
        self.waiters: dict[int, _Waiter] = {}
        self.arrived: deque[WC] = deque()
        self.readers = lowlevel.ParkingLot()

    def drain(self) -> bool:
        """Arm, poll, and hand out what has come; return whether there was anything."""
        self.cq.req_notify()
        wcs = self.cq.poll(BATCH)
        for wc in wcs:
            waiter = self.waiters.pop(wc.wr_id, None)
            if waiter is None:
                self.arrived.append(wc)
                self.readers.unpark()
                continue
            wc.wr_id = waiter.wr_id
            waiter.wc = wc
            if waiter.parked:
                waiter.parked = False
                lowlevel.reschedule(waiter.task)
        return bool(wcs)

    async def next(self) -> WC:
        """Wait for a completion that no `send` or `recv` waits for. Cancellation: no effect."""
        await lowlevel.checkpoint_if_cancelled()
        self.drain()
        while not self.arrived:
            await self.readers.park()
        await lowlevel.cancel_shielded_checkpoint()
        return self.arrived.popleft()

    async def send(self, qp: QP, wr: SendWR) -> WC:
        """Post a request, signaled, and wait for its completion, whose status is not looked at.

        Raises: VerbsError as `QP.post_send`.
        Cancellation: the queue pair goes to ERR; the request may have happened; its memory is back when Cancelled leaves.
        """
        await lowlevel.checkpoint_if_cancelled()
        waiter = _Waiter(lowlevel.current_task(), wr.wr_id)
        wr.wr_id = token = next(self.tokens)
        flags, wr.flags = wr.flags, wr.flags | SIGNALED
        self.waiters[token] = waiter
        try:
            qp.post_send(wr)
        except VerbsError:
            del self.waiters[token]
            raise
        finally:
            wr.wr_id, wr.flags = waiter.wr_id, flags
        return await self._completion(qp, waiter)

    async def recv(self, qp: QP, wr: RecvWR) -> WC:
        """Post a receive and wait for its completion; raises and is cancelled as `send`."""
        await lowlevel.checkpoint_if_cancelled()
        waiter = _Waiter(lowlevel.current_task(), wr.wr_id)
        token = next(self.tokens)
        self.waiters[token] = waiter
        try:
            qp.post_recv(RecvWR(token, wr.sges))
        except VerbsError:
            del self.waiters[token]
            raise
        return await self._completion(qp, waiter)

    async def _completion(self, qp: QP, waiter: _Waiter) -> WC:
        self.drain()
        if waiter.wc is not None:
            await lowlevel.cancel_shielded_checkpoint()
            return waiter.wc
        waiter.parked = True

        def abort(_: object) -> lowlevel.Abort:
            qp.enter_error()
            return lowlevel.Abort.FAILED

        await lowlevel.wait_task_rescheduled(abort)
        if qp.state.name == "ERR":
            await lowlevel.checkpoint_if_cancelled()
        assert waiter.wc is not None
        return waiter.wc


class Verbs:
    """An opened device and the queues that its task serves."""

    def __init__(self, context: Context, env: Env) -> None:
        self.context = context
        self.env = env
        self.wake = Wake()
        self.channel = context.create_channel(self.wake.set)
        self.cqs: list[AsyncCQ] = []
        self.event_wake = Wake()
        context.on_event = self.event_wake.set
        context.device.fabric.listeners.append(self.wake.set)
        context.device.fabric.advance(env.now())

    def create_cq(self, cqe: int) -> AsyncCQ:
        """Create a completion queue; see `Context.create_cq`."""
        cq = AsyncCQ(self.context.create_cq(cqe, self.channel))
        self.cqs.append(cq)
        return cq

    def events(self) -> "Events":
        """Return an endless iterator over asynchronous events, acknowledged as they are handed out."""
        return Events(self)

    async def run(self) -> None:
        """Serve the queues and the device's timers."""
        fabric = self.context.device.fabric
        while True:
            fabric.advance(self.env.now())
            while (cq := self.channel.get_event()) is not None:
                cq.ack_events(1)
            if sum(cq.drain() for cq in self.cqs):
                await lowlevel.checkpoint()
                continue
            deadline = fabric.next_deadline()
            if deadline is None:
                await self.wake.wait()
                continue
            with trio.move_on_after(max(TICK_S, deadline - self.env.now())):
                await self.wake.wait()


class Events:
    """Asynchronous events of an opened device; one loop at a time. Cancellation: no effect."""

    __slots__ = ("verbs",)

    def __init__(self, verbs: Verbs) -> None:
        self.verbs = verbs

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> AsyncEvent:
        await lowlevel.checkpoint()
        context = self.verbs.context
        while (event := context.get_async_event()) is None:
            await self.verbs.event_wake.wait()
        context.ack_async_event(event)
        return event


@asynccontextmanager
async def open_verbs(device: Device, env: Env | None = None) -> AsyncIterator[Verbs]:
    """Open a device for a block; its objects are destroyed by the caller, or left to the end of the program.

    Cancellation: waits are cancelled as `AsyncCQ.send` says.
    """
    verbs = Verbs(device.open(), env if env is not None else system_env())
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(verbs.run)
        try:
            yield verbs
        except BaseException as error:  # noqa: BLE001 - raised again outside the nursery, which would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    device.fabric.listeners.remove(verbs.wake.set)
    if failure is not None:
        raise failure
