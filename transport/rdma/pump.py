"""Trio shell. One end of an RDMA connection: its queue pair, its receive ring, and the task that turns completions into calls.

One task per end and none per work request: a completion event sets a flag that wakes the task, which arms both queues, polls them
in batches and sleeps only when a poll after arming found nothing; what a batch posts goes to the device by one call at its end.
Messages wait for credits (`smbd.py`), in order; requests that are no messages do not wait behind them. Both wait in an outbox
while the send queue has no slot; the last request of what fits is signaled, so that its slots come back. The first error is the
connection's: the queue pair is drained, and only then are the calls and the memory let go.

Ownership: the receive ring belongs to the end; memory named by a send is lent until the completion behind it.
"""

import errno
import mmap
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

import trio
from trio import lowlevel

from iov.iov_iter import IovIter
from iov.probe import Probe
from transport.base import Limits
from transport.env import Env
from transport.errors import ProtocolError, TransportError
from transport.rdma.cq import CQ
from transport.rdma.device import Context, Device
from transport.rdma.enums import STATUS_TEXT, Opcode, SendFlag, WcOpcode
from transport.rdma.memory_fabric import TICK_S
from transport.rdma.mr_pool import MrPool
from transport.rdma.qp import QPCap, QPInit
from transport.rdma.rw import dma_sges, iter_sges
from transport.rdma.sge import LOCAL_DMA_LKEY, SGE, total_length
from transport.rdma.smbd import HEADER_BYTES, MAX_SEND, NEGOTIATE_S, Offer, Smbd, Terms
from transport.rdma.smbd_credits import RESERVE
from transport.rdma.wire import Message, message_size, unpack
from transport.rdma.wr import WC, RecvWR, SendWR

__all__ = ["End", "Wake", "wr_id_of", "xid_of"]

SIGNALED: Final = int(SendFlag.SIGNALED)
BATCH: Final = 16
"""Completions worked through before what came of them is sent and others get a turn; of 32 in flight both ends work on half."""
REGISTERED_BYTES: Final = 8 << 20
"""How much memory a connection registers at a time; calls that need more wait."""
MIN_MESSAGE: Final = 128 << 10
DRAIN_ID: Final = (1 << 64) - 1
KIND_BITS: Final = 2


def wr_id_of(xid: int, kind: int) -> int:
    """Return the id of a work request: the call it is for, and which of that call's it is."""
    return xid << KIND_BITS | kind


def xid_of(wr_id: int) -> tuple[int, int]:
    """Return the call that a work request is for, 0 for none, and which of the call's it is."""
    return wr_id >> KIND_BITS, wr_id & (1 << KIND_BITS) - 1


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

    def __init__(self, device: Device, env: Env, probe: Probe, limits: Limits, sq_depth: int, nr_mrs: int) -> None:
        profile = device.profile
        self.env = env
        self.probe = probe
        self.limits = limits
        self.fabric = device.fabric
        self.wake = Wake()
        self.error: TransportError | None = None
        self.peer: End | None = None
        self.messages: deque[tuple[SendWR, int]] = deque()
        self.outbox: deque[SendWR] = deque()
        self.corked = False
        device.fabric.listeners.append(self.wake.set)
        self.context: Context = device.open()
        self.pd = self.context.alloc_pd()
        self.channel = self.context.create_channel(self.wake.set)
        nr_credits = max(1, min(limits.credits, profile.max_qp_wr - RESERVE, profile.max_cqe - RESERVE - 1))
        nr_recvs = nr_credits + RESERVE
        sq_depth = min(sq_depth, profile.max_qp_wr, profile.max_cqe - 1)
        self.send_cq = self.context.create_cq(sq_depth + 1, self.channel)
        self.recv_cq = self.context.create_cq(nr_recvs + 1, self.channel)
        self.max_sge = min(profile.max_send_sge, 16)
        self.qp = self.pd.create_qp(QPInit(self.send_cq, self.recv_cq, QPCap(sq_depth, nr_recvs, self.max_sge, 1)))
        self.max_chunks = min(limits.max_segs, nr_mrs)
        self.mrs = MrPool(self.pd, nr_mrs, profile.max_fast_reg_segs, max(REGISTERED_BYTES, limits.max_payload))
        size = message_size(limits, self.max_chunks)
        self.offer = Offer(nr_credits, max_message=max(MIN_MESSAGE, size), max_read_write=limits.max_payload)
        self.smbd: Smbd | None = None
        self.settled = trio.Event()
        self.negotiate_by = env.now() + NEGOTIATE_S
        self.invalidated: int | None = None
        ring = memoryview(mmap.mmap(-1, nr_recvs * MAX_SEND))
        self.slots = [ring[index * MAX_SEND : (index + 1) * MAX_SEND] for index in range(nr_recvs)]
        self.recvs = [RecvWR(index, dma_sges([slot])) for index, slot in enumerate(self.slots)]

    def start(self) -> None:
        """Post every receive; the queue pair is at least in INIT."""
        self.qp.post_recv(self.recvs)
        self.probe.emit("connection", "open", "rdma", 0)

    def settle(self, terms: Terms) -> Smbd:
        """Take the outcome of the negotiation; every receive is posted."""
        self.smbd = Smbd(self.offer, terms, len(self.recvs), self.env.now())
        self.settled.set()
        return self.smbd

    async def negotiated(self) -> None:
        """Wait until both sides have agreed. Raises: TransportError when they do not. Cancellation: no effect."""
        await self.settled.wait()
        if self.error is not None:
            raise self.error

    # ---- what an end does with completions

    kinds: tuple[int, ...]

    @abstractmethod
    def on_negotiate(self, view: memoryview) -> None:
        """Take the peer's part of the negotiation, its first message; the receive it came in is posted again already."""

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

    def send(self, wr: SendWR) -> None:
        """Queue a message, whose head has room for a header in front; it is posted, in order, when there are credits."""
        self.probe.messages += 1
        self.messages.append((wr, total_length(wr.sges) - HEADER_BYTES))
        if not self.corked:
            self._kick()

    def post(self, wrs: Sequence[SendWR]) -> None:
        """Queue requests that are no messages; they are posted in order, as the send queue has slots."""
        self.outbox.extend(wrs)
        if not self.corked:
            self._kick()

    def _next_message(self, smbd: Smbd) -> None:
        """Move a message to the outbox, or its next fragment."""
        wr, length = self.messages.popleft()
        first = wr.sges[0].memory
        assert first is not None
        if length <= smbd.room:
            smbd.pack_into(first, length, 0)
            self.outbox.append(wr)
            return
        if len(wr.sges) > 1:
            # Rare: a message this long has its payload in chunks, unless the peer's receives are very small.
            whole = bytearray()
            for sge in wr.sges:
                assert sge.memory is not None
                whole += sge.memory
            self.probe.copied(total_length(wr.sges) - len(first))
            first = memoryview(whole)
        piece = bytearray(HEADER_BYTES + smbd.room)
        piece[HEADER_BYTES:] = first[HEADER_BYTES : HEADER_BYTES + smbd.room]
        smbd.pack_into(piece, smbd.room, length - smbd.room)
        self.outbox.append(SendWR(0, wr.opcode, dma_sges([memoryview(piece)]), 0, invalidate_rkey=wr.invalidate_rkey))
        # What is left keeps room for a header in front.
        wr.opcode = Opcode.SEND
        wr.sges = dma_sges([first[smbd.room :]])
        self.messages.appendleft((wr, length - smbd.room))

    def _kick(self) -> None:
        """Hand the device what it can take."""
        if self.error is not None:
            return
        smbd = self.smbd
        outbox = self.outbox
        if smbd is not None:
            while self.messages and smbd.credits.may_send:
                self._next_message(smbd)
            if smbd.empty_due and not self.messages:
                self._send_empty(smbd)
        qp = self.qp
        while outbox and self.error is None:
            free = qp.cap.max_send_wr - qp.requester.used
            if free <= 0:
                return
            batch: list[SendWR] | deque[SendWR]
            if len(outbox) <= free:
                batch, self.outbox = outbox, deque()
                outbox = self.outbox
            else:
                batch = [outbox.popleft() for _ in range(free)]
                batch[-1].flags |= SIGNALED
            self._count(batch)
            qp.post_send(batch)

    def _send_empty(self, smbd: Smbd) -> None:
        self.outbox.append(SendWR(0, Opcode.SEND, dma_sges([memoryview(smbd.empty())]), SIGNALED))

    def _count(self, wrs: Collection[SendWR]) -> None:
        probe = self.probe
        probe.work_requests += len(wrs)
        for wr in wrs:
            probe.sges += len(wr.sges)
        if probe.sink is not None:
            for wr in wrs:
                length = sum(sge.length for sge in wr.sges)
                xid, _ = xid_of(wr.wr_id)
                probe.sink("wr_posted", (self.qp.qp_num, wr.wr_id, Opcode(wr.opcode).name, length, len(wr.sges), xid))
            probe.sink("level", ("registered bytes", self.mrs.registered))
            if self.smbd is not None:
                probe.sink("level", ("send credits", self.smbd.credits.send))

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
        own, keep = self.deadline(), self.negotiate_by if self.smbd is None else self.smbd.due
        times = [time for time in (own, keep, self.fabric.next_deadline()) if time is not None]
        with trio.move_on_after(max(TICK_S, min(times) - self.env.now())):
            await self.wake.wait()
        now = self.env.now()
        if own is not None and own <= now and self.deadline() == own:
            self.on_deadline()
        if keep <= now and self.error is None:
            self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        """Ask a peer for a sign of life, or give it up."""
        smbd = self.smbd
        if smbd is None:
            self.fail(TransportError(errno.ETIMEDOUT, "the peer did not negotiate in time"))
        elif smbd.due <= now:
            if smbd.overdue(now):
                self.fail(TransportError(errno.ETIMEDOUT, "the peer gave no sign of life"))
            elif smbd.credits.may_send:
                self._send_empty(smbd)
                self._kick()

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
        self.corked = True
        try:
            if received:
                self._received(received)
            for wc in sent:
                if wc.status:
                    raise TransportError(errno.ECONNRESET, f"RDMA request failed: {STATUS_TEXT[wc.status]}")
                self.on_sent(wc)
        except TransportError as error:
            self.fail(error)
        finally:
            self.corked = False
        self._kick()
        if self.probe.sink is not None and (received or sent):
            self.probe.sink("level", ("registered bytes", self.mrs.registered))
        return bool(received or sent)

    def _received(self, wcs: Sequence[WC]) -> None:
        smbd = self.smbd
        for index, wc in enumerate(wcs):
            if self.error is not None:
                return
            if wc.status:
                raise TransportError(errno.ECONNRESET, f"RDMA receive failed: {STATUS_TEXT[wc.status]}")
            view = self.slots[wc.wr_id][: wc.byte_len]
            if smbd is None:
                self._first(wc, view)
                self._received(wcs[index + 1 :])
                return
            if wc.wc_flags:
                if self.invalidated is not None:
                    raise ProtocolError("bad message: it invalidates two keys")
                self.invalidated = wc.imm
            whole = smbd.received(view)
            if whole is not None:
                invalidated, self.invalidated = self.invalidated, None
                self.on_message(unpack(whole, self.kinds, self.limits, self.max_chunks), invalidated)
            elif self.invalidated is not None and not smbd.midway:
                raise ProtocolError("bad message: one that only grants credits invalidates a key")
            if self.error is None:
                self.qp.post_recv(self.recvs[wc.wr_id])
                smbd.credits.posted += 1
        if smbd is not None:
            smbd.heard(self.env.now())

    def _first(self, wc: WC, view: memoryview) -> None:
        """Take the message of the negotiation. It is short, and copied, so that its receive can be posted again first."""
        if wc.wc_flags:
            raise ProtocolError("bad message: a negotiation that invalidates a key")
        said = memoryview(bytes(view))  # header: at most 32 bytes are looked at
        self.qp.post_recv(self.recvs[wc.wr_id])
        self.on_negotiate(said)

    def fail(self, error: TransportError) -> None:
        """End the connection; only the first error counts. Memory is fenced and given back before this returns."""
        if self.error is not None:
            return
        self.error = error
        self.probe.emit("connection", "closed", "rdma", error.errno or errno.EIO)
        self.qp.drain(DRAIN_ID, DRAIN_ID)
        last = self._drained(self.send_cq), self._drained(self.recv_cq)
        held = self.send_cq.held is not None or self.recv_cq.held is not None  # by a control point, with the markers among them
        assert last == (DRAIN_ID, DRAIN_ID) or held or self.send_cq.broken or self.recv_cq.broken, "the drain markers come last"
        self.messages.clear()
        self.outbox.clear()
        self.mrs.destroy()
        self.on_failed(error)
        self.settled.set()
        self.wake.set()
        peer, self.peer = self.peer, None
        if peer is not None and peer.error is None:
            peer.disconnected()

    def _drained(self, cq: CQ) -> int | None:
        """Poll a queue dry; return the id of what completed last."""
        last: int | None = None
        while wcs := cq.poll(BATCH):
            last = wcs[-1].wr_id
        return last

    def disconnected(self) -> None:
        """Take the other end's disconnect, which here is told at once, as a connection manager's event would."""
        self.peer = None
        self._progress()  # what the peer said before
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
