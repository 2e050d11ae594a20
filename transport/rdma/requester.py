"""Sans-IO. The sending side of a queue pair: start requests in order, complete them in order, wait for the peer when told to.

Theory of operation. `run` takes requests from the head of `todo` while nothing holds it up, has `operations.HANDLERS` carry
each out at the peer's responder, which answers at once, and completes it. Three things hold a request up. An RNR NAK or silence
puts it back and sets `wake_at`, which the fabric's clock will reach: the two timers are one field because an RC queue waits for
one thing at a time, but an RNR wait never touches the transport's retry count. A response that a control point holds puts the
request into `flying`; later requests may start and even finish, but complete behind it. Fence and read depth look at `flying`: a
fenced request waits for READs and atomics before it, not for sends and writes; LOCAL_INV waits for everything.
Follows IBA 9.7 and 10.7, Linux rxe_req and rxe_comp; under iWARP, siw_qp_tx. Owns no memory but the copies of inline data.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from transport.rdma.enums import EventType, Opcode, QPState, SendFlag, WcStatus
from transport.rdma.operations import FREE_STANDING, HANDED, HANDLERS, HELD, LOST, READS, WC_OPCODES
from transport.rdma.responder import RNR
from transport.rdma.sge import LOCAL_DMA_LKEY, SGE
from transport.rdma.wr import WC, SendWR

if TYPE_CHECKING:
    from transport.rdma.qp import QP

__all__ = ["RNR_TIMERS_US", "Requester"]

RNR_TIMERS_US: Final = (
    655360, 10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280, 1920,
    2560, 3840, 5120, 7680, 10240, 15360, 20480, 30720, 40960, 61440, 81920, 122880, 163840, 245760, 327680, 491520,
)  # fmt: skip
INFINITE_RNR: Final = 7

RTS, SQD, ERR = QPState.RTS, QPState.SQD, QPState.ERR
SIGNALED, INLINE, FENCE = int(SendFlag.SIGNALED), int(SendFlag.INLINE), int(SendFlag.FENCE)
PROT_ERR, FLUSH_ERR, QP_OP_ERR = int(WcStatus.LOC_PROT_ERR), int(WcStatus.WR_FLUSH_ERR), int(WcStatus.LOC_QP_OP_ERR)
LISTENING: Final = (QPState.RTR, QPState.RTS, QPState.SQD)
HALF_PSN: Final = 1 << 23


@dataclass(slots=True)
class Flight:
    """A request that was started and may not complete yet; `status` is None while its response is held."""

    wr: SendWR
    status: int | None
    moved: int


class Requester:
    """The send queue of one queue pair."""

    __slots__ = (
        "duplicate", "flying", "handlers", "iwarp", "max_msg", "moved", "notify_drained", "peer_cache", "psn", "qp", "retry_left",
        "rnr_left", "running", "started", "todo", "unsignaled", "used", "wake_at",
    )  # fmt: skip

    def __init__(self, qp: "QP", iwarp: bool, max_msg: int) -> None:
        self.qp = qp
        self.iwarp = iwarp
        self.max_msg = max_msg
        self.handlers = qp.device.fabric.handlers or HANDLERS
        self.todo: deque[SendWR] = deque()
        self.flying: deque[Flight] = deque()
        self.running = False
        self.psn = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything queued, silently."""
        self.todo.clear()
        self.flying.clear()
        self.used = 0
        self.unsignaled = 0
        self.moved = 0
        self.started = False
        self.duplicate = False
        self.notify_drained = False
        self.wake_at: float | None = None
        self.rnr_left = 0
        self.retry_left = 0
        self.peer_cache: QP | None = None

    def connect(self, psn: int) -> None:
        """Take the first packet number of the connection and fresh retry counts."""
        self.psn = psn
        self.peer_cache = None
        self.rnr_left = self.qp.attr.rnr_retry
        self.retry_left = self.qp.attr.retry_cnt

    def keep(self, count: int) -> None:
        """Make private copies of the last `count` requests still waiting, whose structures are the caller's again."""
        todo = self.todo
        for index in range(max(0, len(todo) - count), len(todo)):
            todo[index] = self._copy(todo[index])

    def _copy(self, wr: SendWR) -> SendWR:
        wr = wr.snapshot()
        if wr.flags & INLINE:
            data = bytearray()
            for view in self.inline_views(wr.sges) or ():
                data += view
            wr.sges = [SGE(0, len(data), LOCAL_DMA_LKEY, memoryview(data))]
        return wr

    # ---- the loop

    def run(self) -> None:
        """Start and complete what can be; calls from inside a completion callback return at once and the loop picks them up."""
        if self.running:
            return
        qp = self.qp
        todo = self.todo
        self.running = True
        try:
            while todo and self.wake_at is None:
                state = qp.state
                if state is not RTS and not (state is SQD and self.started):
                    break
                if self.flying and not self._may_start(todo[0]):
                    break
                wr = todo.popleft()
                control = qp.device.control
                status = self.handlers[wr.opcode](self, wr) if control is None else control.start(self, wr)
                if status in (RNR, LOST):
                    if self._wait(wr, status):
                        continue
                    break
                self.started = False
                if status == HANDED:
                    continue
                if status != HELD:
                    self.finish(wr, status)
        finally:
            self.running = False
        if qp.state is ERR:
            self.flush()
        elif qp.state is SQD:
            self._tell_drained()

    def _may_start(self, wr: SendWR) -> bool:
        if wr.opcode in FREE_STANDING:
            return False
        if wr.flags & FENCE:
            reads = self.outstanding_reads()
            return not reads and (wr.opcode not in READS or reads < self.qp.attr.max_rd_atomic)
        return wr.opcode not in READS or self.outstanding_reads() < self.qp.attr.max_rd_atomic

    def outstanding_reads(self) -> int:
        """Return how many READs and atomics have been started and not answered."""
        return sum(1 for flight in self.flying if flight.status is None and flight.wr.opcode in READS)

    def finish(self, wr: SendWR, status: int) -> None:
        """Complete a request, or note its outcome behind one that is still held."""
        qp = self.qp
        if status and self.iwarp and status in (PROT_ERR, QP_OP_ERR):
            status = QP_OP_ERR
            qp.pd.context.raise_event(EventType.QP_FATAL, qp)
        if self.flying:
            self.flying.append(Flight(wr, status, self.moved))
        else:
            self.complete(wr, status)

    def hold(self, wr: SendWR) -> SendWR:
        """Keep a started request open until `answered`; return the private copy that stands for it."""
        wr = self._copy(wr)
        self.flying.append(Flight(wr, None, self.moved))
        return wr

    def answered(self, flight: Flight, status: int) -> None:
        """Take the response of a held request; it and what waited behind it complete in order."""
        flight.status = status
        flight.moved = self.moved
        flying = self.flying
        while flying and (done := flying[0].status) is not None:
            flight = flying.popleft()
            self.moved = flight.moved
            self.complete(flight.wr, done)
        self.run()

    def complete(self, wr: SendWR, status: int) -> None:
        """Complete a request; an unsignaled success only leaves its slot for the next completion to free."""
        qp = self.qp
        self.unsignaled += 1
        if status or wr.flags & SIGNALED or qp.sig_all:
            slots = self.unsignaled
            self.unsignaled = 0
            qp.send_cq.push(WC(wr.wr_id, status, WC_OPCODES[wr.opcode], qp.qp_num, self.moved, 0, 0, 0, 0, qp, slots))
        if qp.device.ledger is not None:
            qp.device.ledger.completed_send(qp, wr, status)
        if status:
            qp.enter_error()

    def flush(self) -> None:
        """Complete everything started and queued with WR_FLUSH_ERR, unsignaled ones too, in post order."""
        if self.running:
            return
        self.wake_at = None
        self.started = False
        self.moved = 0
        while self.flying:
            flight = self.flying.popleft()
            # One that has failed already, behind others that are open, keeps its reason.
            self.complete(flight.wr, flight.status or FLUSH_ERR)
        while self.todo:
            self.complete(self.todo.popleft(), FLUSH_ERR)

    def mark(self, wr_id: int) -> None:
        """Complete a drain marker, which uses the spare slot."""
        self.used += 1
        qp = self.qp
        self.unsignaled += 1
        slots, self.unsignaled = self.unsignaled, 0
        qp.send_cq.push(WC(wr_id, FLUSH_ERR, WC_OPCODES[Opcode.WRITE], qp.qp_num, 0, 0, 0, 0, 0, qp, slots))

    def drain(self, notify: bool) -> None:
        """Enter SQD: requests already started finish, then the event is raised if asked for."""
        self.notify_drained = notify
        if not self.running:
            self._tell_drained()

    def _tell_drained(self) -> None:
        if self.notify_drained and not self.started and not self.flying:
            self.notify_drained = False
            self.qp.pd.context.raise_event(EventType.SQ_DRAINED, self.qp)

    # ---- timers

    def back_off(self, flight: Flight, timer: int) -> bool:
        """Take back a request that found its peer not ready, and all behind it, for the time that the peer has told.

        Returns: False when it was told so too often.
        """
        qp = self.qp
        if self.rnr_left == 0:
            return False
        if qp.attr.rnr_retry != INFINITE_RNR:
            self.rnr_left -= 1
        while True:
            last = self.flying.pop()
            self.todo.appendleft(last.wr)
            if last is flight:
                break
        fabric = qp.device.fabric
        self.wake_at = fabric.now + RNR_TIMERS_US[timer] * 1e-6
        fabric.set_timer(self.wake_at, self, False)
        return True

    def _wait(self, wr: SendWR, why: int) -> bool:
        """Set the timer that `why` calls for; return True when the request was completed instead."""
        qp = self.qp
        fabric = qp.device.fabric
        if self.iwarp:
            # The stream is gone or was terminated: there is no retry.
            qp.pd.context.raise_event(EventType.QP_FATAL, qp)
            self.finish(wr, WcStatus.GENERAL_ERR)
            return True
        if why == RNR:
            if self.rnr_left == 0:
                self.finish(wr, WcStatus.RNR_RETRY_EXC_ERR)
                return True
            if qp.attr.rnr_retry != INFINITE_RNR:
                self.rnr_left -= 1
            peer = self.peer_cache
            delay = RNR_TIMERS_US[peer.attr.min_rnr_timer if peer is not None else 0] * 1e-6
        else:
            delay = 4.096e-6 * (1 << qp.attr.timeout) if qp.attr.timeout else math.inf
        self.todo.appendleft(wr)
        self.started = True
        self.wake_at = fabric.now + delay
        if delay != math.inf:
            fabric.set_timer(self.wake_at, self, why == LOST)
        return False

    def on_timer(self, deadline: float, transport: bool) -> None:
        """Resend at the end of a wait; the transport timer may have expired once too often."""
        if self.wake_at != deadline:
            return
        self.wake_at = None
        if transport:
            if self.retry_left == 0:
                self.started = False
                self.moved = 0
                self.finish(self.todo.popleft(), WcStatus.RETRY_EXC_ERR)
                self.run()
                return
            self.retry_left -= 1
        self.run()

    # ---- what the operations need

    def find_peer(self) -> "QP | None":
        """Return the peer if it would answer the next packet of this connection, else None.

        `duplicate` tells that it has taken the packet before (its answer was lost).
        """
        qp = self.qp
        peer = self.peer_cache
        if peer is None or not peer.alive:
            peer = qp.device.fabric.find_qp(qp.attr.av, qp.attr.dest_qpn)
            self.peer_cache = peer
            if peer is None:
                return None
        if peer.state not in LISTENING or peer.attr.dest_qpn != qp.qp_num:
            return None
        ahead = (peer.responder.psn - self.psn) & 0xFFFFFF
        if ahead:
            self.duplicate = ahead < HALF_PSN
            if not self.duplicate:
                return None
        else:
            self.duplicate = False
        if not peer.established:
            peer.responder.establish()
        return peer

    def advance(self, peer: "QP", length: int) -> None:
        """Account for an answered message: both sides step their packet numbers, the retry counts start afresh."""
        mtu = 128 << self.qp.attr.path_mtu
        psn = (self.psn + (1 if length <= mtu else -(-length // mtu))) & 0xFFFFFF
        self.psn = psn
        if not self.duplicate:
            peer.responder.psn = psn
        self.rnr_left = self.qp.attr.rnr_retry
        self.retry_left = self.qp.attr.retry_cnt

    def inline_views(self, sges: Sequence[SGE]) -> list[memoryview] | None:
        """Return the bytes of an inline request; their key is not looked at."""
        out: list[memoryview] = []
        for sge in sges:
            if not sge.length:
                continue
            view = sge.memory if sge.memory is not None else self.qp.device.find_memory(sge.addr, sge.length)
            if view is None:
                return None
            out.append(view[: sge.length])
        return out
