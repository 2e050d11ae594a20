"""Sans-IO. Work requests and work completions, as `ibv_send_wr`, `ibv_recv_wr`, `ib_reg_wr` and `ibv_wc` have them.

A posted request belongs to the device until its completion; the structure itself may be reused as soon as the post returns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from transport.rdma.enums import FlushLevel, FlushType, Opcode, SendFlag, WcStatus
from transport.rdma.sge import SGE

if TYPE_CHECKING:
    from transport.rdma.ah import AH
    from transport.rdma.mr import MR
    from transport.rdma.mw import MW
    from transport.rdma.qp import QP

__all__ = ["WC", "MwBind", "RecvWR", "SendWR"]

_SIGNALED = int(SendFlag.SIGNALED)
_PLAIN = frozenset({Opcode.SEND, Opcode.SEND_WITH_INV, Opcode.WRITE, Opcode.READ, Opcode.LOCAL_INV})
"""Opcodes that use the first fields alone, where the queue pair is connected."""


@dataclass(slots=True)
class MwBind:
    """What a window is to cover: `length` bytes at `addr` of the region `mr`, with `access`."""

    mr: "MR"
    addr: int
    length: int
    access: int


@dataclass(slots=True)
class SendWR:
    """A request for a send queue; which fields count depends on the opcode.

    imm: 32-bit immediate of *_WITH_IMM. invalidate_rkey: SEND_WITH_INV, LOCAL_INV. compare_add, swap: atomics (ATOMIC_WRITE:
    the new value in `swap`, unless an entry holds it). mr, key, access: REG_MR. mw, key, bind: BIND_MW. length, flush_type,
    flush_level: FLUSH. ah, remote_qpn, remote_qkey: UD.
    """

    wr_id: int = 0
    opcode: int = Opcode.SEND
    sges: Sequence[SGE] = ()
    flags: int = _SIGNALED
    remote_addr: int = 0
    rkey: int = 0
    imm: int = 0
    invalidate_rkey: int = 0
    compare_add: int = 0
    swap: int = 0
    mr: "MR | None" = None
    mw: "MW | None" = None
    key: int = 0
    access: int = 0
    bind: MwBind | None = None
    ah: "AH | None" = None
    remote_qpn: int = 0
    remote_qkey: int = 0
    length: int = 0
    flush_type: int = FlushType.GLOBAL
    flush_level: int = FlushLevel.RANGE

    def snapshot(self) -> "SendWR":
        """Return a private copy, for a request that has to wait in the queue."""
        sges = [SGE(sge.addr, sge.length, sge.lkey, sge.memory) for sge in self.sges]
        if self.opcode in _PLAIN and self.ah is None:
            return SendWR(self.wr_id, self.opcode, sges, self.flags, self.remote_addr, self.rkey, self.imm, self.invalidate_rkey)
        return replace(self, sges=sges)


@dataclass(slots=True)
class RecvWR:
    """Memory for one incoming message."""

    wr_id: int = 0
    sges: Sequence[SGE] = ()


@dataclass(slots=True)
class WC:
    """A completion. With an error status only wr_id, status, qp_num and vendor_err are defined.

    imm: the immediate, or with WITH_INV the invalidated rkey (a union, as in C). qp, slots: send queue slots that polling frees.
    """

    wr_id: int
    status: int
    opcode: int
    qp_num: int
    byte_len: int = 0
    wc_flags: int = 0
    imm: int = 0
    src_qp: int = 0
    vendor_err: int = 0
    qp: "QP | None" = field(default=None, repr=False, compare=False)
    slots: int = field(default=0, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the work request succeeded."""
        return self.status == WcStatus.SUCCESS
