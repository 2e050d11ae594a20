"""Sans-IO. Queue pairs: creation, attributes, the modify verb, posts in each state, error and flush.

What a post does: RESET refuses both; INIT and RTR queue receives and refuse sends; RTS executes; SQD queues sends without
starting them; ERR accepts both and completes them with WR_FLUSH_ERR, which is what drain markers rely on. One slot of each
queue is kept for such a marker. The requester's and responder's sides are in `requester.py` and `responder.py`.
Memory named by a posted request is the device's until the completion. Follows IBA 10.3, 10.8 and the Linux core's checks.
"""

import errno
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from transport.rdma.ah import AddressVector
from transport.rdma.enums import AttrMask, EventType, Opcode, QPState, QPType, SendFlag, WcOpcode, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.qp_table import find_row
from transport.rdma.requester import Requester
from transport.rdma.responder import Responder
from transport.rdma.sge import SGE, total_length
from transport.rdma.wr import WC, RecvWR, SendWR

if TYPE_CHECKING:
    from transport.rdma.cq import CQ
    from transport.rdma.device import Device
    from transport.rdma.pd import PD
    from transport.rdma.srq import SRQ

__all__ = ["QP", "Link", "QPAttr", "QPCap", "QPInit"]

INLINE: Final = int(SendFlag.INLINE)
FENCE: Final = int(SendFlag.FENCE)
CHECKED: Final = INLINE | FENCE
RESET, INIT, RTR, RTS, ERR = QPState.RESET, QPState.INIT, QPState.RTR, QPState.RTS, QPState.ERR
ATOMICS: Final = frozenset({Opcode.CMP_AND_SWP, Opcode.FETCH_AND_ADD, Opcode.ATOMIC_WRITE})
MAY_INLINE: Final = frozenset({Opcode.SEND, Opcode.SEND_WITH_IMM, Opcode.SEND_WITH_INV, Opcode.WRITE, Opcode.WRITE_WITH_IMM})
NO_SGES: Final = frozenset({Opcode.LOCAL_INV, Opcode.REG_MR, Opcode.BIND_MW, Opcode.FLUSH})
UD_OPS: Final = frozenset({Opcode.SEND, Opcode.SEND_WITH_IMM})
STATES: Final = frozenset(map(int, QPState))
PSN_MASK: Final = 0xFFFFFF
MAX_LENGTH: Final = 1 << 31


@dataclass(slots=True)
class QPCap:
    """Sizes of the two queues; the device may give more than asked."""

    max_send_wr: int = 64
    max_recv_wr: int = 64
    max_send_sge: int = 1
    max_recv_sge: int = 1
    max_inline: int = 0


@dataclass(slots=True)
class QPInit:
    """What a queue pair is made of."""

    send_cq: "CQ"
    recv_cq: "CQ"
    cap: QPCap = field(default_factory=QPCap)
    qp_type: QPType = QPType.RC
    sq_sig_all: bool = False
    srq: "SRQ | None" = None


@dataclass(slots=True)
class QPAttr:
    """Attributes of a queue pair; a modify takes those its mask names. timeout and min_rnr_timer are codes, path_mtu too."""

    qp_state: QPState = RESET
    cur_state: QPState = RESET
    en_sqd_async_notify: bool = False
    access_flags: int = 0
    pkey_index: int = 0
    port: int = 0
    qkey: int = 0
    av: AddressVector = field(default_factory=AddressVector)
    path_mtu: int = 0
    timeout: int = 0
    retry_cnt: int = 0
    rnr_retry: int = 0
    rq_psn: int = 0
    max_rd_atomic: int = 0
    alt_av: AddressVector = field(default_factory=AddressVector)
    min_rnr_timer: int = 0
    sq_psn: int = 0
    max_dest_rd_atomic: int = 0
    path_mig_state: int = 0
    dest_qpn: int = 0


# Mask bit, attribute, lowest and highest legal value; a string names the profile's limit.
FIELDS: Final[tuple[tuple[AttrMask, str, int, int | str], ...]] = (
    (AttrMask.ACCESS_FLAGS, "access_flags", 0, (1 << 30) - 1),
    (AttrMask.PKEY_INDEX, "pkey_index", 0, 0),
    (AttrMask.PORT, "port", 1, 1),
    (AttrMask.QKEY, "qkey", 0, 0xFFFFFFFF),
    (AttrMask.PATH_MTU, "path_mtu", 1, 5),
    (AttrMask.TIMEOUT, "timeout", 0, 31),
    (AttrMask.RETRY_CNT, "retry_cnt", 0, 7),
    (AttrMask.RNR_RETRY, "rnr_retry", 0, 7),
    (AttrMask.RQ_PSN, "rq_psn", 0, 0xFFFFFFFF),
    (AttrMask.MAX_QP_RD_ATOMIC, "max_rd_atomic", 0, "max_rd_atom"),
    (AttrMask.MIN_RNR_TIMER, "min_rnr_timer", 0, 31),
    (AttrMask.SQ_PSN, "sq_psn", 0, 0xFFFFFFFF),
    (AttrMask.MAX_DEST_RD_ATOMIC, "max_dest_rd_atomic", 0, "max_rd_atom"),
    (AttrMask.PATH_MIG_STATE, "path_mig_state", 0, 2),
    (AttrMask.DEST_QPN, "dest_qpn", 0, PSN_MASK),
    (AttrMask.EN_SQD_ASYNC_NOTIFY, "en_sqd_async_notify", 0, 1),
)


class Link(Protocol):
    """What carries a queue pair's requests when the peer is not in this process; None is the memory fabric."""

    def lost(self) -> None:
        """Let go of all memory and of the receive being filled: the queue pair left RTS, and is flushed or reset next."""


class QP:
    """A queue pair; made by `PD.create_qp`."""

    __slots__ = (
        "alive", "attr", "cap", "device", "established", "link", "op_sges", "pd", "qp_num", "qp_type", "recv_cq", "recv_pd",
        "requester", "responder", "rq", "send_cq", "sig_all", "srq", "state",
    )  # fmt: skip

    def __init__(self, pd: "PD", init: QPInit) -> None:
        profile = pd.device.profile
        cap = init.cap
        _check_init(pd, init)
        pd.count_child("qp", profile.max_qp)
        self.pd = pd
        self.device: Device = pd.device
        self.send_cq = init.send_cq
        self.recv_cq = init.recv_cq
        self.cap = replace(cap)
        self.qp_type = init.qp_type
        self.sig_all = init.sq_sig_all
        self.state = INIT if profile.iwarp else RESET
        self.attr = QPAttr(qp_state=self.state)
        self.srq = init.srq
        self.recv_pd = pd if init.srq is None else init.srq.pd
        self.rq: deque[RecvWR] = deque()
        self.established = False
        self.link: Link | None = None
        self.alive = True
        ops = profile.ops & UD_OPS if init.qp_type is QPType.UD else profile.ops
        self.op_sges = {int(op): 0 if op in NO_SGES else cap.max_send_sge for op in ops}
        if Opcode.READ in ops:
            self.op_sges[Opcode.READ] = min(cap.max_send_sge, profile.max_sge_rd)
        self.qp_num = pd.device.new_qpn(self)
        self.requester = Requester(self, profile.iwarp, profile.max_msg)
        self.responder = Responder(self)
        for cq in (init.send_cq, init.recv_cq):
            cq.nr_users += 1
            cq.qps.append(self)
        if self.srq is not None:
            self.srq.nr_qps += 1

    # ---- state

    def modify(self, attr: QPAttr, mask: int) -> None:
        """Change state and attributes as the mask says.

        Raises: VerbsError EINVAL when the state table, a range or the current state forbids it; then nothing has changed.
        """
        mask = int(mask)
        if not self.alive or (mask & AttrMask.STATE and attr.qp_state not in STATES):
            raise VerbsError(errno.EINVAL, "the queue pair is gone, or there is no such state")
        current = self.state
        if mask & AttrMask.CUR_STATE:
            if attr.cur_state not in (RTR, RTS, QPState.SQD, QPState.SQE):
                raise VerbsError(errno.EINVAL, f"{attr.cur_state!r} cannot be claimed as the current state")
            current = attr.cur_state
        new = QPState(attr.qp_state) if mask & AttrMask.STATE else current
        rule = find_row(self.qp_type, current, new, mask)
        if rule is not None:
            raise VerbsError(errno.EINVAL, rule)
        for bit, name, low, high in FIELDS:
            limit = getattr(self.device.profile, high) if isinstance(high, str) else high
            if mask & bit and not low <= getattr(attr, name) <= limit:
                raise VerbsError(errno.EINVAL, f"{name} is out of range")
        if mask & AttrMask.AV and not self.device.fabric.has_address(attr.av):
            raise VerbsError(errno.EINVAL, "the address vector names no port of the fabric")
        self._apply(attr, mask, new)

    def _apply(self, attr: QPAttr, mask: int, new: QPState) -> None:
        mine = self.attr
        for bit, name, _, _ in FIELDS:
            if mask & bit:
                setattr(mine, name, getattr(attr, name))
        if mask & AttrMask.AV:
            mine.av = attr.av
        if mask & AttrMask.ALT_PATH:
            mine.alt_av = attr.alt_av
        mine.rq_psn &= PSN_MASK
        mine.sq_psn &= PSN_MASK
        old, self.state = self.state, new
        mine.qp_state = new
        if mask & AttrMask.RQ_PSN:
            self.responder.connect(mine.rq_psn)
        if mask & AttrMask.SQ_PSN:
            self.requester.connect(mine.sq_psn)
        if new is RESET:
            self._reset()
        elif new is ERR and old is not ERR:
            self._flush()
        elif new is QPState.SQD and old is RTS:
            self.requester.drain(mine.en_sqd_async_notify)
        elif new is RTS:
            self.requester.run()

    def enter_error(self) -> None:
        """Go to ERR and flush both queues (the device's side)."""
        if self.state not in (ERR, RESET):
            self.state = self.attr.qp_state = ERR
            self._flush()

    def fail(self, event: EventType) -> None:
        """Go to ERR for a reason no completion tells, and say so by an asynchronous event."""
        if self.state not in (ERR, RESET):
            self.pd.context.raise_event(event, self)
            self.enter_error()

    def _flush(self) -> None:
        if self.link is not None:
            self.link.lost()
        self.requester.flush()
        while self.rq:
            self.complete_recv(self.rq.popleft(), WcStatus.WR_FLUSH_ERR)
        if self.srq is not None:
            self.pd.context.raise_event(EventType.QP_LAST_WQE_REACHED, self)

    def take_recv(self) -> RecvWR | None:
        """Take the receive for the next message (the device's side)."""
        if self.srq is not None:
            return self.srq.take()
        return self.rq.popleft() if self.rq else None

    def _reset(self) -> None:
        if self.device.ledger is not None:
            self.device.ledger.forget(self)
        if self.link is not None:
            self.link.lost()
        self.requester.reset()
        self.rq.clear()
        self.established = False
        self.send_cq.purge(self)
        self.recv_cq.purge(self)

    # ---- posts

    def post_recv(self, wrs: RecvWR | Sequence[RecvWR]) -> None:
        """Queue memory for incoming messages.

        Raises: VerbsError with `bad_wr`, EINVAL in RESET or for too many sges, ENOMEM when the queue is full; the requests in
        front of it are posted. Ownership: the memory is the device's until the completion.
        """
        state = self.state
        for wr in (wrs,) if isinstance(wrs, RecvWR) else wrs:
            if state is RESET:
                raise VerbsError(errno.EINVAL, "receives cannot be posted in RESET", wr)
            if self.srq is not None:
                raise VerbsError(errno.EINVAL, "the queue pair takes its receives from a shared queue", wr)
            if len(wr.sges) > self.cap.max_recv_sge:
                raise VerbsError(errno.EINVAL, "more sges than max_recv_sge", wr)
            if state is not ERR and len(self.rq) >= self.cap.max_recv_wr:
                raise VerbsError(errno.ENOMEM, "the receive queue is full", wr)
            if self.device.ledger is not None:
                self.device.ledger.posted_recv(self, wr)
            if state is ERR:
                self.complete_recv(wr, WcStatus.WR_FLUSH_ERR)
                continue
            self.rq.append(RecvWR(wr.wr_id, [SGE(sge.addr, sge.length, sge.lkey, sge.memory) for sge in wr.sges]))

    def post_send(self, wrs: SendWR | Sequence[SendWR]) -> None:
        """Queue work and execute as much as possible before returning.

        Raises: VerbsError with `bad_wr`, ENOMEM when the queue is full, EINVAL for a request or a state that does not allow
        it; the requests in front of it are posted. Ownership: the memory is the device's until the completion.
        """
        requester = self.requester
        todo = requester.todo
        count = 0
        try:
            for wr in (wrs,) if isinstance(wrs, SendWR) else wrs:
                if self.state < RTS:
                    raise VerbsError(errno.EINVAL, f"sends cannot be posted in {self.state.name}", wr)
                if requester.used >= self.cap.max_send_wr:
                    raise VerbsError(errno.ENOMEM, "the send queue is full", wr)
                limit = self.op_sges.get(wr.opcode, -1)
                if len(wr.sges) > limit or wr.flags & CHECKED or wr.opcode in ATOMICS or total_length(wr.sges) > MAX_LENGTH:
                    self.check_send(wr)
                if self.device.ledger is not None:
                    self.device.ledger.posted_send(self, wr)
                requester.used += 1
                todo.append(wr)
                count += 1
        finally:
            requester.run()
            if todo:
                requester.keep(count)

    def check_send(self, wr: SendWR) -> None:
        """Refuse a request that may not be posted in this state or at all.

        Raises: VerbsError EINVAL with `bad_wr`.
        """
        if self.state < RTS:
            raise VerbsError(errno.EINVAL, f"sends cannot be posted in {self.state.name}", wr)
        limit = self.op_sges.get(wr.opcode, -1)
        if limit < 0:
            raise VerbsError(errno.EINVAL, f"opcode {wr.opcode} is not supported", wr)
        if len(wr.sges) > limit:
            raise VerbsError(errno.EINVAL, "more sges than the request may have", wr)
        length = total_length(wr.sges)
        if length > MAX_LENGTH:
            raise VerbsError(errno.EINVAL, "a message of more than 2 GiB", wr)
        if wr.flags & INLINE:
            if wr.opcode not in MAY_INLINE:
                raise VerbsError(errno.EINVAL, "only sends and writes can be inline", wr)
            if length > self.cap.max_inline:
                raise VerbsError(errno.EINVAL, "more inline data than max_inline", wr)
        if wr.opcode == Opcode.READ and wr.flags & FENCE and self.device.profile.iwarp:
            raise VerbsError(errno.EINVAL, "an iWARP READ cannot be fenced", wr)
        if wr.opcode in ATOMICS and wr.remote_addr & 7:
            raise VerbsError(errno.EINVAL, "an atomic needs an address that is a multiple of 8", wr)
        if wr.opcode in ATOMICS and length != 8 and not (wr.opcode == Opcode.ATOMIC_WRITE and not wr.sges):
            raise VerbsError(errno.EINVAL, "an atomic needs 8 bytes", wr)

    def drain(self, send_id: int, recv_id: int) -> None:
        """Go to ERR and post a marker to the spare slot of each queue: behind their completions no earlier request is open.

        A queue pair with a shared receive queue gets no receive marker.
        Raises: VerbsError EINVAL in RESET.
        """
        if self.state is RESET:
            raise VerbsError(errno.EINVAL, "nothing to drain in RESET")
        self.enter_error()
        self.requester.mark(send_id)
        if self.srq is None:
            self.recv_cq.push(WC(recv_id, WcStatus.WR_FLUSH_ERR, WcOpcode.RECV, self.qp_num, qp=self))

    def complete_recv(
        self,
        wr: RecvWR,
        status: int,
        opcode: int = WcOpcode.RECV,
        length: int = 0,
        flags: int = 0,
        imm: int = 0,
        solicited: bool = False,
        src_qp: int = 0,
    ) -> None:
        """Complete a receive (the device's side); an error takes the queue pair to ERR."""
        self.recv_cq.push(WC(wr.wr_id, status, opcode, self.qp_num, length, flags, imm, src_qp, 0, self), solicited)
        if self.device.ledger is not None:
            self.device.ledger.completed_recv(self, wr)
        if status:
            self.enter_error()

    def destroy(self) -> None:
        """Destroy the queue pair; its completions stay in the queues but for those not polled. Idempotent.

        Raises: VerbsError EBUSY while asynchronous events of it are not acknowledged.
        """
        if not self.alive:
            return
        self.pd.context.check_acked(self)
        self.alive = False
        self._reset()
        self.state = RESET
        for cq in (self.send_cq, self.recv_cq):
            cq.nr_users -= 1
            cq.qps.remove(self)
        if self.srq is not None:
            self.srq.nr_qps -= 1
        for mw in list(self.device.mws.values()):
            if mw.qp is self:
                mw.invalidate(self)
        del self.device.qps[self.qp_num]
        self.pd.drop_child("qp")


def _check_init(pd: "PD", init: QPInit) -> None:
    profile = pd.device.profile
    cap = init.cap
    if init.qp_type not in (QPType.RC, QPType.UD) or (init.qp_type is QPType.UD and not profile.ud):
        raise VerbsError(errno.EOPNOTSUPP, f"queue pairs of type {init.qp_type!r} are not emulated")
    for value, limit, name in (
        (cap.max_send_wr, profile.max_qp_wr, "max_send_wr"),
        (cap.max_recv_wr, profile.max_qp_wr, "max_recv_wr"),
        (cap.max_send_sge, profile.max_send_sge, "max_send_sge"),
        (cap.max_recv_sge, profile.max_recv_sge, "max_recv_sge"),
        (cap.max_inline, profile.max_inline, "max_inline"),
    ):
        if not 0 <= value <= limit:
            raise VerbsError(errno.EINVAL, f"{name} is beyond the device's {limit}")
    if init.srq is not None and init.srq.pd.device is not pd.device:
        raise VerbsError(errno.EINVAL, "a shared receive queue of another device")
    if init.send_cq.device is not pd.device or init.recv_cq.device is not pd.device:
        raise VerbsError(errno.EINVAL, "a completion queue of another device")
    if not (init.send_cq.alive and init.recv_cq.alive and (init.srq is None or init.srq.alive)):
        raise VerbsError(errno.EINVAL, "a queue that is gone")
