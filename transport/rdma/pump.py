"""Trio shell. One end of an RDMA connection: its queue pair, its receive ring, and the task that turns completions into calls.

One task per end and none per work request: a completion event sets a flag that wakes the task, which arms both queues, polls them
in batches and sleeps only when a poll after arming found nothing. Sends wait in an outbox while the send queue has no slot; the
last request of what fits is signaled, so that its slots come back. The first error is the connection's: the queue pair goes to
ERR, everything flushed is polled, and only then are the calls and the memory let go.

Ownership: the receive ring belongs to the end; memory named by a send is lent until the completion behind it.
"""

import errno
import mmap
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Final

import trio
from trio import lowlevel

from iov.bvec import PAGE_SIZE
from iov.iov_iter import IovIter
from iov.probe import Probe
from transport.base import Limits
from transport.env import Env
from transport.errors import TransportError
from transport.rdma.device import Context, Device
from transport.rdma.enums import STATUS_TEXT, Opcode, SendFlag, WcOpcode
from transport.rdma.mr_pool import MrPool
from transport.rdma.qp import QPCap, QPInit
from transport.rdma.rw import dma_sges, iter_sges
from transport.rdma.sge import LOCAL_DMA_LKEY, SGE, total_length
from transport.rdma.wire import Message, message_size, unpack
from transport.rdma.wr import WC, RecvWR, SendWR

__all__ = ["End", "Wake"]

SIGNALED: Final = int(SendFlag.SIGNALED)
BATCH: Final = 64


class Wake:
    """A flag one task waits for; setting it twice is setting it once."""

    __slots__ = ("flag", "task")

    def __init__(self) -> None:
        self.flag = False
        self.task: lowlevel.Task | None = None

    def set(self) -> None:
        """Set the flag and wake the task."""
        self.flag = True
        task, self.task = self.task, None
        if task is not None:
            lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Wait until the flag is set, and clear it. Cancellation: no effect."""
        if not self.flag:
            self.task = lowlevel.current_task()

            def abort(_: object) -> lowlevel.Abort:
                self.task = None
                return lowlevel.Abort.SUCCEEDED

            await lowlevel.wait_task_rescheduled(abort)
        self.flag = False


class End(ABC):
    """What client and server share. `sq_depth` and `nr_mrs` are what the end needs at most; the device may allow less."""

    def __init__(self, device: Device, env: Env, probe: Probe, limits: Limits, nr_recvs: int, sq_depth: int, nr_mrs: int) -> None:
        profile = device.profile
        self.env = env
        self.probe = probe
        self.limits = limits
        self.fabric = device.fabric
        self.wake = Wake()
        self.error: TransportError | None = None
        self.peer: End | None = None
        self.outbox: deque[SendWR] = deque()
        device.fabric.listeners.append(self.wake.set)
        self.context: Context = device.open()
        self.pd = self.context.alloc_pd()
        self.channel = self.context.create_channel(self.wake.set)
        sq_depth = min(sq_depth, profile.max_qp_wr, profile.max_cqe - 1)
        self.send_cq = self.context.create_cq(sq_depth + 1, self.channel)
        self.recv_cq = self.context.create_cq(nr_recvs + 1, self.channel)
        self.max_sge = min(profile.max_send_sge, 16)
        self.qp = self.pd.create_qp(QPInit(self.send_cq, self.recv_cq, QPCap(sq_depth, nr_recvs, self.max_sge, 1)))
        self.max_chunks = min(limits.max_segs, nr_mrs)
        self.mrs = MrPool(self.pd, nr_mrs, profile.max_fast_reg_segs)
        size = -(-message_size(limits, self.max_chunks) // PAGE_SIZE) * PAGE_SIZE
        ring = memoryview(mmap.mmap(-1, nr_recvs * size))
        self.slots = [ring[index * size : (index + 1) * size] for index in range(nr_recvs)]

    def start(self) -> None:
        """Post every receive; the queue pair is at least in INIT."""
        self.qp.post_recv([RecvWR(index, dma_sges([slot])) for index, slot in enumerate(self.slots)])
        self.probe.emit("connection", "open", "rdma", 0)

    # ---- what an end does with completions

    kinds: tuple[int, ...]

    @abstractmethod
    def on_message(self, message: Message, invalidated: int | None) -> None:
        """Take a message; its views die when this returns. `invalidated` is the key the peer ended with it."""

    @abstractmethod
    def on_sent(self, wc: WC) -> None:
        """Take the completion of a signaled send."""

    @abstractmethod
    def on_failed(self, error: TransportError) -> None:
        """Let everything go: the queue pair has been flushed."""

    @abstractmethod
    def deadline(self) -> float | None:
        """Return when `on_deadline` wants to be called, in the Env's time."""

    @abstractmethod
    def on_deadline(self) -> None:
        """Act on a deadline that has passed."""

    # ---- sending

    def gather(self, head: bytearray, it: IovIter | None = None, length: int = 0, *, join: bool = False) -> list[SGE]:
        """Return the entries of a message: its head, and the next `length` bytes of an iterator.

        With `join`, or when they are more than a request holds, the bytes are copied behind the head, which is counted.
        """
        payload = iter_sges(it, length) if it is not None and length else []
        if payload and (join or len(payload) >= self.max_sge):
            for sge in payload:
                assert sge.memory is not None
                head += sge.memory
            self.probe.copied(total_length(payload))
            payload = []
        payload.insert(0, SGE(0, len(head), LOCAL_DMA_LKEY, memoryview(head)))
        return payload

    def post(self, wrs: Sequence[SendWR]) -> None:
        """Queue requests in order; they are posted as the send queue has slots."""
        probe = self.probe
        probe.work_requests += len(wrs)
        for wr in wrs:
            probe.sges += len(wr.sges)
        if probe.sink is not None:
            for wr in wrs:
                length = sum(sge.length for sge in wr.sges)
                probe.sink("wr_posted", (self.qp.qp_num, wr.wr_id, Opcode(wr.opcode).name, length, len(wr.sges)))
        self.outbox.extend(wrs)
        self._kick()

    def _kick(self) -> None:
        outbox = self.outbox
        qp = self.qp
        while outbox and self.error is None:
            free = qp.cap.max_send_wr - qp.requester.used
            if free <= 0:
                return
            batch = [outbox.popleft() for _ in range(min(free, len(outbox)))]
            if outbox:
                batch[-1].flags |= SIGNALED
            qp.post_send(batch)

    # ---- the task

    async def run(self) -> None:
        """Serve completions until the connection ends. Cancellation: the connection is broken first, memory fenced."""
        try:
            while self.error is None:
                self.fabric.advance(self.env.now())
                self.send_cq.req_notify()
                self.recv_cq.req_notify()
                if self._progress():
                    await lowlevel.checkpoint()
                else:
                    await self._sleep()
        finally:
            self.fail(TransportError(errno.ECONNABORTED, "the connection was closed"))

    async def _sleep(self) -> None:
        times = [time for time in (self.deadline(), self.fabric.next_deadline()) if time is not None]
        if not times:
            await self.wake.wait()
            return
        with trio.move_on_at(trio.current_time() + min(times) - self.env.now()):
            await self.wake.wait()
        mine = self.deadline()
        if mine is not None and mine <= self.env.now():
            self.on_deadline()

    def _progress(self) -> bool:
        """Handle what has completed; return whether there was anything."""
        while self.channel.get_event() is not None:
            pass
        received = self.recv_cq.poll(BATCH)
        sent = self.send_cq.poll(BATCH)
        if self.probe.sink is not None:
            for wc in (*received, *sent):
                what = WcOpcode(wc.opcode).name if wc.ok else "-"
                self.probe.sink("wr_completed", (wc.qp_num, wc.wr_id, what, wc.byte_len, wc.status))
        try:
            for wc in received:
                self._received(wc)
            for wc in sent:
                if wc.status:
                    raise TransportError(errno.ECONNRESET, f"RDMA request failed: {STATUS_TEXT[wc.status]}")
                self.on_sent(wc)
            self._kick()
        except TransportError as error:
            self.fail(error)
        return bool(received or sent)

    def _received(self, wc: WC) -> None:
        if self.error is not None:
            return
        if wc.status:
            raise TransportError(errno.ECONNRESET, f"RDMA receive failed: {STATUS_TEXT[wc.status]}")
        slot = self.slots[wc.wr_id]
        message = unpack(slot[: wc.byte_len], self.kinds, self.limits, self.max_chunks)
        self.on_message(message, wc.imm if wc.wc_flags else None)
        if self.error is None:
            self.qp.post_recv(RecvWR(wc.wr_id, dma_sges([slot])))

    def fail(self, error: TransportError) -> None:
        """End the connection; only the first error counts. Memory is fenced and given back before this returns."""
        if self.error is not None:
            return
        self.error = error
        self.probe.emit("connection", "closed", "rdma", error.errno or errno.EIO)
        self.qp.enter_error()
        while self.send_cq.poll(BATCH) or self.recv_cq.poll(BATCH):
            pass
        self.outbox.clear()
        self.mrs.destroy()
        self.on_failed(error)
        self.wake.set()
        peer, self.peer = self.peer, None
        if peer is not None and peer.error is None:
            peer.disconnected()

    def disconnected(self) -> None:
        """Take the other end's disconnect, which here is told at once, as a connection manager's event would."""
        self.peer = None
        self.fail(TransportError(errno.ECONNRESET, "the peer ended the connection"))

    def destroy(self) -> None:
        """Destroy the verbs objects after `run` has ended."""
        self.qp.destroy()
        for cq in (self.send_cq, self.recv_cq):
            cq.ack_events(cq.unacked)
            cq.destroy()
        self.channel.destroy()
        self.pd.dealloc()
        self.context.close()
