"""Trio shell. pyverbs.qp: queue pairs, plain ones and extended ones that build batches of requests. Owns no memory."""

import errno
import sys
from collections.abc import Sequence
from typing import Final

from transport.rdma.enums import AttrMask, Opcode, QPState, QPType
from transport.rdma.errors import VerbsError
from transport.rdma.mr import inc_key
from transport.rdma.pyverbs import driver
from transport.rdma.pyverbs.addr import AH
from transport.rdma.pyverbs.base import PyverbsObject
from transport.rdma.pyverbs.device import Context
from transport.rdma.pyverbs.mr import MW, MWBind, MWBindInfo
from transport.rdma.pyverbs.pd import PD
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError, translated
from transport.rdma.pyverbs.qp_attr import QPAttr, QPCap, QPInitAttr, QPInitAttrEx
from transport.rdma.pyverbs.wr import SGE, RecvWR, SendWR
from transport.rdma.qp import QPInit
from transport.rdma.qp_table import TABLE
from transport.rdma.wr import SendWR as DeviceSend

__all__ = ["QP", "QPAttr", "QPCap", "QPEx", "QPInitAttr", "QPInitAttrEx"]

STATE: Final = int(AttrMask.STATE)
# Bit of a send operation in IBV_QP_EX_WITH_*, by opcode.
OPS: Final = {
    Opcode.WRITE: 0, Opcode.WRITE_WITH_IMM: 1, Opcode.SEND: 2, Opcode.SEND_WITH_IMM: 3, Opcode.READ: 4, Opcode.CMP_AND_SWP: 5,
    Opcode.FETCH_AND_ADD: 6, Opcode.LOCAL_INV: 7, Opcode.BIND_MW: 8, Opcode.SEND_WITH_INV: 9, Opcode.FLUSH: 11,
    Opcode.ATOMIC_WRITE: 12,
}  # fmt: skip


class QP(PyverbsObject):
    """A queue pair; given attributes it is brought to INIT, one for datagrams to RTS."""

    rank = 0

    def __init__(self, creator: PD | Context, init_attr: QPInitAttr, qp_attr: QPAttr | None = None) -> None:
        super().__init__()
        kind = int(init_attr.qp_type)
        pd = init_attr.pd if isinstance(init_attr, QPInitAttrEx) and init_attr.pd is not None else creator
        if kind not in (QPType.RC, QPType.UD):
            raise PyverbsRDMAError("Failed to create QP of this type", errno.EOPNOTSUPP)
        if not isinstance(pd, PD) or init_attr.send_cq is None or init_attr.recv_cq is None:
            raise PyverbsRDMAError("Failed to create QP without a PD and two CQs", errno.EINVAL)
        srq = init_attr.srq
        with translated("Failed to create QP"):
            self.qp = pd.pd.create_qp(
                QPInit(
                    init_attr.send_cq.cq,
                    init_attr.recv_cq.cq,
                    init_attr.cap.device_form(),
                    QPType(kind),
                    bool(init_attr.sq_sig_all),
                    None if srq is None else srq.srq,
                )
            )
        self.memory = pd.queue_memory()
        self.pd = pd
        self.init_attr = init_attr
        self.ind_table = None
        self.hang_on(pd, init_attr.send_cq, init_attr.recv_cq, srq)
        if qp_attr is not None:
            if kind == QPType.UD:
                self.to_rts(qp_attr)
            else:
                self.to_init(qp_attr)

    @property
    def qp_num(self) -> int:
        """The number."""
        return self.qp.qp_num

    @property
    def qp_type(self) -> int:
        """The service."""
        return int(self.qp.qp_type)

    @property
    def qp_state(self) -> int:
        """The state."""
        return int(self.qp.state)

    def modify(self, qp_attr: QPAttr, comp_mask: int) -> None:
        """Change state and attributes; see `transport.rdma.qp.QP.modify`."""
        with driver.lock, translated("Failed to modify QP state"):
            self.qp.modify(qp_attr.device_form(), int(comp_mask))

    def _to(self, qp_attr: QPAttr, state: QPState) -> None:
        """Go to a state with the attributes that this requires."""
        required, optional = TABLE[self.qp.qp_type].get((self.qp.state, state), (0, 0))
        qp_attr.qp_state = int(state)
        # An iWARP queue pair is born in INIT: what INIT requires elsewhere is optional there.
        self.modify(qp_attr, int(optional if self.qp.state is state else required) | STATE)

    def to_init(self, qp_attr: QPAttr) -> None:
        """Go to INIT."""
        self._to(qp_attr, QPState.INIT)

    def to_rtr(self, qp_attr: QPAttr) -> None:
        """Go to RTR, from RESET by way of INIT."""
        if self.qp.state is QPState.RESET:
            self.to_init(qp_attr)
        self._to(qp_attr, QPState.RTR)

    def to_rts(self, qp_attr: QPAttr) -> None:
        """Go to RTS, by way of what lies before it."""
        if self.qp.state in (QPState.RESET, QPState.INIT):
            self.to_rtr(qp_attr)
        self._to(qp_attr, QPState.RTS)

    def query(self, attr_mask: int) -> tuple[QPAttr, QPInitAttr]:
        """Return the attributes and what the queue pair was made of."""
        qp = self.qp
        attr = QPAttr.of(qp.attr, qp.cap, bool(qp.requester.flying))
        init = self.init_attr
        shown = QPInitAttr(init.qp_type, None, init.send_cq, init.recv_cq, init.srq, QPCap.of(qp.cap), init.sq_sig_all)
        return attr, shown

    def query_data_in_order(self, op: int, flags: int = 0) -> int:
        """Return 0: the device promises no order of bytes inside a message."""
        return 0

    def query_ece(self) -> object:
        """Raise EOPNOTSUPP: there are no enhanced connection options."""
        raise PyverbsRDMAError("Failed to query ECE", errno.EOPNOTSUPP)

    def set_ece(self, ece: object) -> None:
        """Raise EOPNOTSUPP."""
        raise PyverbsRDMAError("Failed to set ECE", errno.EOPNOTSUPP)

    def post_send(self, send_wr: SendWR, bad_wr: SendWR | None = None) -> None:
        """Post requests."""
        with driver.lock:
            driver.advance()
            with translated("Failed to post send"):
                self.qp.post_send(send_wr.device_form())
            driver.move()

    def post_recv(self, recv_wr: RecvWR, bad_wr: RecvWR | None = None) -> None:
        """Post receives."""
        with driver.lock, translated("Failed to post recv"):
            self.qp.post_recv(recv_wr.device_form())

    def bind_mw(self, mw: MW, mw_bind: MWBind) -> None:
        """Bind a window of type 1; it has a new key when this returns."""
        wr = DeviceSend(
            mw_bind.wr_id, Opcode.BIND_MW, (), mw_bind.send_flags, mw=mw.mw, key=inc_key(mw.rkey), bind=mw_bind.info.device_form()
        )
        with translated("Failed to bind MW"):
            self.qp.post_send(wr)

    def destroy(self) -> None:
        """Acknowledge what is left and destroy the queue pair."""
        context = self.qp.pd.context
        context.unacked.pop(id(self.qp), None)
        with driver.lock, translated("Failed to destroy QP"):
            self.qp.destroy()
        if self.memory is not None:
            self.memory.free()


class QPEx(QP):
    """A queue pair with the extended posting calls: errors show at `wr_complete`, which posts all of the batch or nothing."""

    def __init__(self, creator: PD | Context, init_attr: QPInitAttrEx, qp_attr: QPAttr | None = None) -> None:
        super().__init__(creator, init_attr, qp_attr)
        self.send_ops = int(init_attr.send_ops_flags)
        if self.send_ops & ~sum(1 << bit for op, bit in OPS.items() if op in self.qp.op_sges):
            self.close()
            raise PyverbsRDMAError("Failed to create extended QP", errno.EOPNOTSUPP)
        self.batch: list[DeviceSend] = []
        self.wr_id = 0
        self.wr_flags = 0
        self.failed = 0

    def wr_start(self) -> None:
        """Begin a batch."""
        self.batch = []
        self.failed = 0

    def _add(self, opcode: Opcode, wr: DeviceSend) -> None:
        wr.opcode = opcode
        wr.wr_id = self.wr_id
        wr.flags = int(self.wr_flags)
        if not self.send_ops >> OPS[opcode] & 1:
            self.failed = errno.EINVAL
        self.batch.append(wr)

    def _last(self) -> DeviceSend:
        if not self.batch:
            raise PyverbsUserError("no request has been started")
        return self.batch[-1]

    def wr_send(self) -> None:
        """Add a SEND."""
        self._add(Opcode.SEND, DeviceSend())

    def wr_send_imm(self, imm_data: int) -> None:
        """Add a SEND with an immediate, given in the order of the machine."""
        self._add(Opcode.SEND_WITH_IMM, DeviceSend(imm=_htobe32(imm_data)))

    def wr_send_inv(self, rkey: int) -> None:
        """Add a SEND that invalidates a key of the peer."""
        self._add(Opcode.SEND_WITH_INV, DeviceSend(invalidate_rkey=rkey))

    def wr_rdma_write(self, rkey: int, addr: int) -> None:
        """Add a WRITE."""
        self._add(Opcode.WRITE, DeviceSend(rkey=rkey, remote_addr=addr))

    def wr_rdma_write_imm(self, rkey: int, addr: int, data: int) -> None:
        """Add a WRITE with an immediate."""
        self._add(Opcode.WRITE_WITH_IMM, DeviceSend(rkey=rkey, remote_addr=addr, imm=_htobe32(data)))

    def wr_rdma_read(self, rkey: int, addr: int) -> None:
        """Add a READ."""
        self._add(Opcode.READ, DeviceSend(rkey=rkey, remote_addr=addr))

    def wr_atomic_cmp_swp(self, rkey: int, remote_addr: int, compare: int, swap: int) -> None:
        """Add a compare-and-swap."""
        self._add(Opcode.CMP_AND_SWP, DeviceSend(rkey=rkey, remote_addr=remote_addr, compare_add=compare, swap=swap))

    def wr_atomic_fetch_add(self, rkey: int, remote_addr: int, add: int) -> None:
        """Add a fetch-and-add."""
        self._add(Opcode.FETCH_AND_ADD, DeviceSend(rkey=rkey, remote_addr=remote_addr, compare_add=add))

    def wr_atomic_write(self, rkey: int, remote_addr: int, atomic_wr: bytes) -> None:
        """Add an atomic write of eight bytes."""
        self._add(
            Opcode.ATOMIC_WRITE,
            DeviceSend(rkey=rkey, remote_addr=remote_addr, swap=int.from_bytes(atomic_wr[:8], "little")),
        )

    def wr_flush(self, rkey: int, remote_addr: int, length: int, flush_type: int, flush_level: int) -> None:
        """Add a FLUSH."""
        self._add(
            Opcode.FLUSH,
            DeviceSend(
                rkey=rkey, remote_addr=remote_addr, length=length, flush_type=int(flush_type), flush_level=int(flush_level)
            ),
        )

    def wr_bind_mw(self, mw: MW, rkey: int, bind_info: MWBindInfo) -> None:
        """Add the binding of a window of type 2."""
        self._add(Opcode.BIND_MW, DeviceSend(mw=mw.mw, key=rkey, bind=bind_info.device_form()))

    def wr_local_inv(self, invalidate_rkey: int) -> None:
        """Add a LOCAL_INV."""
        self._add(Opcode.LOCAL_INV, DeviceSend(invalidate_rkey=invalidate_rkey))

    def wr_set_ud_addr(self, ah: AH, remote_qpn: int, remote_qkey: int) -> None:
        """Name the receiver of the last request."""
        wr = self._last()
        wr.ah, wr.remote_qpn, wr.remote_qkey = ah.ah, remote_qpn, remote_qkey

    def wr_set_sge(self, sge: SGE) -> None:
        """Give the last request its memory."""
        self._last().sges = [sge]

    def wr_set_sge_list(self, sg_list: Sequence[SGE]) -> None:
        """Give the last request its memory, in pieces."""
        self._last().sges = list(sg_list)

    def wr_set_inline_data(self, addr: int, length: int) -> None:
        """Give the last request bytes that are copied now."""
        wr = self._last()
        wr.flags |= 8
        wr.sges = [SGE(addr, length, 0)]

    @driver.locked
    def wr_complete(self) -> None:
        """Post the batch.

        Raises: PyverbsRDMAError EINVAL for a request or state that does not allow it, ENOMEM without room; nothing is posted.
        """
        batch, self.batch = self.batch, []
        driver.advance()
        if self.failed:
            raise PyverbsRDMAError("Failed to complete WR batch", self.failed)
        with translated("Failed to complete WR batch"):
            if len(batch) + self.qp.requester.used > self.qp.cap.max_send_wr:
                raise VerbsError(errno.ENOMEM, "the send queue is full")
            for wr in batch:
                self.qp.check_send(wr)
            self.qp.post_send(batch)
        driver.move()

    def wr_abort(self) -> None:
        """Discard the batch."""
        self.batch = []


def _htobe32(value: int) -> int:
    return int.from_bytes((value & 0xFFFFFFFF).to_bytes(4, "big"), sys.byteorder)
