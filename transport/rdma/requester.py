"""Sans-IO. The sending side of a queue pair: start requests in order, carry them out at the peer, complete them in order.

Theory of operation. `run` takes requests from the head of `todo` while nothing holds it up. Each is checked locally (key, state,
PD, permission, bounds), carried to the peer's responder, which answers at once, and completed. An RNR NAK or silence puts the
request back and sets `wake_at`, which the fabric's clock will reach: the two timers are one field because an RC queue waits for
one thing at a time, but an RNR wait never touches the transport's retry count. Memory is moved by `sge.move`, view to view.
Follows IBA 9.7 and 10.7, Linux rxe_req and rxe_comp; under iWARP, siw_qp_tx.
"""

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from transport.rdma.enums import Access, EventType, MrState, Opcode, QPState, SendFlag, WcOpcode, WcStatus
from transport.rdma.responder import RNR
from transport.rdma.sge import LOCAL_DMA_LKEY, SGE, move
from transport.rdma.wr import WC, SendWR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transport.rdma.qp import QP

__all__ = ["RNR_TIMERS_US", "Requester", "local_views"]

RNR_TIMERS_US: Final = (
    655360, 10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280, 1920,
    2560, 3840, 5120, 7680, 10240, 15360, 20480, 30720, 40960, 61440, 81920, 122880, 163840, 245760, 327680, 491520,
)  # fmt: skip
LOST: Final = -2
HANDED: Final = -3
INFINITE_RNR: Final = 7

RTS, SQD, ERR, RESET = QPState.RTS, QPState.SQD, QPState.ERR, QPState.RESET
SIGNALED, INLINE = int(SendFlag.SIGNALED), int(SendFlag.INLINE)
VALID = MrState.VALID
LOCAL_WRITE = int(Access.LOCAL_WRITE)
READ_SINK_IWARP = int(Access.LOCAL_WRITE | Access.REMOTE_WRITE)
PROT_ERR = int(WcStatus.LOC_PROT_ERR)
FLUSH_ERR = int(WcStatus.WR_FLUSH_ERR)
QP_OP_ERR = int(WcStatus.LOC_QP_OP_ERR)
LISTENING: Final = (QPState.RTR, QPState.RTS, QPState.SQD)
WC_OPCODES: Final[dict[int, int]] = {
    Opcode.SEND: int(WcOpcode.SEND),
    Opcode.SEND_WITH_IMM: int(WcOpcode.SEND),
    Opcode.SEND_WITH_INV: int(WcOpcode.SEND),
    Opcode.WRITE: int(WcOpcode.RDMA_WRITE),
    Opcode.WRITE_WITH_IMM: int(WcOpcode.RDMA_WRITE),
    Opcode.READ: int(WcOpcode.RDMA_READ),
    Opcode.LOCAL_INV: int(WcOpcode.LOCAL_INV),
    Opcode.REG_MR: int(WcOpcode.REG_MR),
}


def local_views(qp: "QP", sges: "Sequence[SGE]", access: int) -> list[memoryview] | None:
    """Return the memory the entries name, or None when one may not be used; entries of length 0 are not looked at."""
    mrs = qp.device.mrs
    out: list[memoryview] = []
    for sge in sges:
        length = sge.length
        if not length:
            continue
        if sge.lkey == LOCAL_DMA_LKEY:
            if sge.memory is None or len(sge.memory) < length:
                return None
            out.append(sge.memory if len(sge.memory) == length else sge.memory[:length])
            continue
        mr = mrs.get(sge.lkey)
        if mr is None or mr.state is not VALID or mr.pd is not qp.pd or access & ~mr.access:
            return None
        off = sge.addr - mr.iova
        if off < 0 or off + length > mr.length:
            return None
        if mr.whole is not None:
            out.append(mr.whole[off : off + length])
        else:
            mr.append_views(sge.addr, length, out)
    return out


class Requester:
    """The send queue of one queue pair."""

    __slots__ = (
        "iwarp", "moved", "notify_drained", "peer_cache", "psn", "qp", "retry_left", "rnr_left", "running", "started", "todo",
        "unsignaled", "used", "wake_at",
    )  # fmt: skip

    def __init__(self, qp: "QP", iwarp: bool) -> None:
        self.qp = qp
        self.iwarp = iwarp
        self.todo: deque[SendWR] = deque()
        self.running = False
        self.peer_cache: QP | None = None
        self.psn = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything queued, silently."""
        self.todo.clear()
        self.used = 0
        self.unsignaled = 0
        self.moved = 0
        self.started = False
        self.notify_drained = False
        self.wake_at: float | None = None
        self.rnr_left = 0
        self.retry_left = 0
        self.peer_cache = None

    def connect(self, psn: int) -> None:
        """Take the first packet number of the connection and fresh retry counts."""
        self.psn = psn
        self.peer_cache = None
        self._progress()

    def _progress(self) -> None:
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
            views = self._inline_views(wr.sges)
            data = bytearray()
            for view in views or ():
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
                wr = todo.popleft()
                status = HANDLERS[wr.opcode](self, wr)
                if status in (RNR, LOST):
                    if self._wait(wr, status):
                        continue
                    break
                self.started = False
                if status == HANDED:
                    continue
                if status and self.iwarp and status in (PROT_ERR, QP_OP_ERR):
                    status = QP_OP_ERR
                    qp.pd.context.raise_event(EventType.QP_FATAL, qp)
                self.complete(wr, status)
        finally:
            self.running = False
        if qp.state is ERR:
            self.flush()
        elif qp.state is SQD:
            self._tell_drained()

    def complete(self, wr: SendWR, status: int) -> None:
        """Complete a request; an unsignaled success only leaves its slot for the next completion to free."""
        qp = self.qp
        self.unsignaled += 1
        if status or wr.flags & SIGNALED or qp.sig_all:
            slots = self.unsignaled
            self.unsignaled = 0
            qp.send_cq.push(
                WC(wr.wr_id, status, WC_OPCODES[wr.opcode], qp.qp_num, self.moved, 0, 0, 0, 0, qp, slots), bool(status)
            )
        if status:
            qp.enter_error()

    def flush(self) -> None:
        """Complete everything queued with WR_FLUSH_ERR, unsignaled ones too, in post order."""
        if self.running:
            return
        self.wake_at = None
        self.started = False
        self.moved = 0
        while self.todo:
            self.complete(self.todo.popleft(), FLUSH_ERR)

    def mark(self, wr_id: int) -> None:
        """Complete a drain marker, which uses the spare slot."""
        self.used += 1
        self.complete(SendWR(wr_id, Opcode.WRITE), FLUSH_ERR)

    def drain(self, notify: bool) -> None:
        """Enter SQD: requests already started finish, then the event is raised if asked for."""
        self.notify_drained = notify
        if not self.running:
            self._tell_drained()

    def _tell_drained(self) -> None:
        if self.notify_drained and not self.started:
            self.notify_drained = False
            self.qp.pd.context.raise_event(EventType.SQ_DRAINED, self.qp)

    # ---- timers

    def _wait(self, wr: SendWR, why: int) -> bool:
        """Set the timer that `why` calls for; return True when the request was completed instead."""
        qp = self.qp
        fabric = qp.device.fabric
        if self.iwarp:
            # The stream is gone or was terminated: there is no retry.
            qp.fail(EventType.QP_FATAL)
            self.complete(wr, WcStatus.GENERAL_ERR if why == RNR else FLUSH_ERR)
            return True
        if why == RNR:
            if self.rnr_left == 0:
                self.complete(wr, WcStatus.RNR_RETRY_EXC_ERR)
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
                self.complete(self.todo.popleft(), WcStatus.RETRY_EXC_ERR)
                return
            self.retry_left -= 1
        self.run()

    # ---- the requests

    def _peer(self) -> "QP | None":
        """Return the peer if it would take the next packet of this connection, else None: nothing answers."""
        qp = self.qp
        peer = self.peer_cache
        if peer is None or not peer.alive:
            peer = qp.device.fabric.find_qp(qp.attr.av, qp.attr.dest_qpn)
            self.peer_cache = peer
            if peer is None:
                return None
        if peer.state not in LISTENING or peer.attr.dest_qpn != qp.qp_num or peer.responder.psn != self.psn:
            return None
        if not peer.established:
            peer.responder.establish()
        return peer

    def _advance(self, peer: "QP", length: int) -> None:
        """Account for an acknowledged message: both sides step their packet numbers, the retry counts start afresh."""
        mtu = 128 << self.qp.attr.path_mtu
        psn = (self.psn + (1 if length <= mtu else -(-length // mtu))) & 0xFFFFFF
        self.psn = psn
        peer.responder.psn = psn
        self.rnr_left = self.qp.attr.rnr_retry
        self.retry_left = self.qp.attr.retry_cnt

    def _inline_views(self, sges: "Sequence[SGE]") -> list[memoryview] | None:
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

    def _gather(self, wr: SendWR) -> list[memoryview] | None:
        if wr.flags & INLINE:
            return self._inline_views(wr.sges)
        return local_views(self.qp, wr.sges, 0)

    def _hand_off(self, wr: SendWR) -> None:
        """Under iWARP a send or write is complete when the stream has taken it, whatever the peer will say."""
        self.complete(wr, 0)

    def _answer(self, status: int) -> int:
        """Turn the answer to a request already completed into what the connection does."""
        if status and self.qp.state is not ERR:
            self.qp.fail(EventType.QP_FATAL)
        return HANDED

    def _send(self, wr: SendWR) -> int:
        views = self._gather(wr)
        if views is None:
            return PROT_ERR
        length = sum(map(len, views))
        peer = self._peer()
        if peer is None:
            return LOST
        self.moved = length
        if self.iwarp:
            self._hand_off(wr)
            status = peer.responder.send(wr, views, length)
            self._advance(peer, length)
            return self._answer(status)
        status = peer.responder.send(wr, views, length)
        if not status:
            self._advance(peer, length)
        return status

    def _write(self, wr: SendWR) -> int:
        views = self._gather(wr)
        if views is None:
            return PROT_ERR
        length = sum(map(len, views))
        peer = self._peer()
        if peer is None:
            return LOST
        self.moved = length
        if self.iwarp:
            self._hand_off(wr)
            status = peer.responder.write(wr, views, length)
            self._advance(peer, length)
            return self._answer(status)
        status = peer.responder.write(wr, views, length)
        if not status:
            self._advance(peer, length)
        return status

    def _read(self, wr: SendWR) -> int:
        qp = self.qp
        dest = local_views(qp, wr.sges, READ_SINK_IWARP if self.iwarp else LOCAL_WRITE)
        if dest is None:
            return PROT_ERR
        length = sum(map(len, dest))
        peer = self._peer()
        if peer is None:
            return LOST
        source = peer.responder.read(wr, length)
        if isinstance(source, int):
            if self.iwarp:
                qp.pd.context.raise_event(EventType.QP_FATAL, qp)
                return WcStatus.GENERAL_ERR
            return source
        if length:
            move(dest, source)
        self.moved = length
        self._advance(peer, length)
        return 0

    def _local_inv(self, wr: SendWR) -> int:
        self.moved = 0
        return self.qp.responder.invalidate(wr.invalidate_rkey, remote=False)

    def _reg_mr(self, wr: SendWR) -> int:
        self.moved = 0
        mr = wr.mr
        if mr is None or not mr.fast or mr.state is not MrState.FREE or mr.pd is not self.qp.pd or (mr.lkey ^ wr.key) >> 8:
            return QP_OP_ERR
        mr.set_key(wr.key)
        mr.access = int(wr.access)
        mr.state = VALID
        return 0


HANDLERS: "Final[dict[int, Callable[[Requester, SendWR], int]]]" = {
    Opcode.SEND: Requester._send,
    Opcode.SEND_WITH_IMM: Requester._send,
    Opcode.SEND_WITH_INV: Requester._send,
    Opcode.WRITE: Requester._write,
    Opcode.READ: Requester._read,
    Opcode.LOCAL_INV: Requester._local_inv,
    Opcode.REG_MR: Requester._reg_mr,
}
