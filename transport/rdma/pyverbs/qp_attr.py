"""Trio shell. The attribute classes of pyverbs.qp and their way to and from the device's. Owns no memory."""

from typing import TYPE_CHECKING, Final

from transport.rdma.ah import AddressVector
from transport.rdma.enums import QPState, QPType
from transport.rdma.pyverbs.addr import AHAttr
from transport.rdma.qp import QPAttr as DeviceAttr
from transport.rdma.qp import QPCap as DeviceCap

if TYPE_CHECKING:
    from transport.rdma.pyverbs.cq import CQ, CQEX
    from transport.rdma.pyverbs.pd import PD
    from transport.rdma.pyverbs.srq import SRQ

__all__ = ["QPAttr", "QPCap", "QPInitAttr", "QPInitAttrEx"]

MTU_1024: Final = 3
SAME: Final = (
    "pkey_index", "qkey", "path_mtu", "timeout", "retry_cnt", "rnr_retry", "rq_psn", "sq_psn", "max_rd_atomic",
    "max_dest_rd_atomic", "min_rnr_timer", "path_mig_state",
)  # fmt: skip


class QPCap:
    """Sizes of the queues."""

    def __init__(
        self, max_send_wr: int = 1, max_recv_wr: int = 10, max_send_sge: int = 1, max_recv_sge: int = 1, max_inline_data: int = 0
    ) -> None:
        self.max_send_wr = max_send_wr
        self.max_recv_wr = max_recv_wr
        self.max_send_sge = max_send_sge
        self.max_recv_sge = max_recv_sge
        self.max_inline_data = max_inline_data

    def device_form(self) -> DeviceCap:
        """Return the device's form."""
        return DeviceCap(self.max_send_wr, self.max_recv_wr, self.max_send_sge, self.max_recv_sge, self.max_inline_data)

    @classmethod
    def of(cls, cap: DeviceCap) -> "QPCap":
        """Return the attributes of a device's sizes."""
        return cls(cap.max_send_wr, cap.max_recv_wr, cap.max_send_sge, cap.max_recv_sge, cap.max_inline)


class QPInitAttr:
    """What a queue pair is made of; the sizes can be set here too."""

    def __init__(
        self,
        qp_type: int = QPType.UD,
        qp_context: object = None,
        scq: "CQ | CQEX | None" = None,
        rcq: "CQ | CQEX | None" = None,
        srq: "SRQ | None" = None,
        cap: QPCap | None = None,
        sq_sig_all: int = 1,
    ) -> None:
        self.qp_type = qp_type
        self.qp_context = qp_context
        self.send_cq = scq
        self.recv_cq = rcq
        self.srq = srq
        self.cap = cap if cap is not None else QPCap()
        self.sq_sig_all = sq_sig_all

    def __getattr__(self, name: str) -> int:
        if name.startswith("max_"):
            value: int = getattr(self.cap, name)
            return value
        raise AttributeError(name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("max_") and name != "max_tso_header":
            setattr(self.cap, name, value)
        else:
            super().__setattr__(name, value)


class QPInitAttrEx(QPInitAttr):
    """What an extended queue pair is made of."""

    def __init__(
        self,
        qp_type: int = QPType.UD,
        qp_context: object = None,
        scq: "CQ | CQEX | None" = None,
        rcq: "CQ | CQEX | None" = None,
        srq: "SRQ | None" = None,
        cap: QPCap | None = None,
        sq_sig_all: int = 0,
        comp_mask: int = 0,
        pd: "PD | None" = None,
        xrcd: object = None,
        create_flags: int = 0,
        max_tso_header: int = 0,
        source_qpn: int = 0,
        hash_conf: object = None,
        ind_table: object = None,
        send_ops_flags: int = 0,
    ) -> None:
        super().__init__(qp_type, qp_context, scq, rcq, srq, cap, sq_sig_all)
        self.comp_mask = comp_mask
        self.pd = pd
        self.xrcd = xrcd
        self.create_flags = create_flags
        self.max_tso_header = max_tso_header
        self.source_qpn = source_qpn
        self.hash_conf = hash_conf
        self.ind_table = ind_table
        self.send_ops_flags = send_ops_flags


class QPAttr:
    """Attributes of a queue pair."""

    def __init__(
        self,
        qp_state: int = QPState.INIT,
        cur_qp_state: int = QPState.RESET,
        port_num: int = 1,
        path_mtu: int = MTU_1024,
    ) -> None:
        self.qp_state = qp_state
        self.cur_qp_state = cur_qp_state
        self.port_num = port_num
        self.path_mtu = path_mtu
        self.path_mig_state = 0
        self.qkey = 0
        self.rq_psn = 0
        self.sq_psn = 0
        self.dest_qp_num = 0
        self.qp_access_flags = 0
        self.cap = QPCap()
        self.ah_attr = AHAttr()
        self.alt_ah_attr = AHAttr()
        self.pkey_index = 0
        self.alt_pkey_index = 0
        self.en_sqd_async_notify = 0
        self.sq_draining = 0
        self.max_rd_atomic = 0
        self.max_dest_rd_atomic = 0
        self.min_rnr_timer = 0
        self.timeout = 0
        self.retry_cnt = 0
        self.rnr_retry = 0
        self.alt_port_num = 0
        self.alt_timeout = 0
        self.rate_limit = 0

    def device_form(self) -> DeviceAttr:
        """Return the device's form."""
        attr = DeviceAttr(qp_state=QPState(int(self.qp_state)), cur_state=QPState(int(self.cur_qp_state)))
        for name in SAME:
            setattr(attr, name, int(getattr(self, name)))
        attr.access_flags = int(self.qp_access_flags)
        attr.port = self.port_num
        attr.dest_qpn = self.dest_qp_num
        attr.en_sqd_async_notify = bool(self.en_sqd_async_notify)
        attr.av = self.ah_attr.vector()
        attr.alt_av = self.alt_ah_attr.vector()
        return attr

    @classmethod
    def of(cls, attr: DeviceAttr, cap: DeviceCap, draining: bool) -> "QPAttr":
        """Return the attributes of a device's queue pair."""
        out = cls(int(attr.qp_state), int(attr.qp_state), attr.port or 1, attr.path_mtu or MTU_1024)
        for name in SAME:
            if name != "path_mtu":
                setattr(out, name, getattr(attr, name))
        out.qp_access_flags = attr.access_flags
        out.dest_qp_num = attr.dest_qpn
        out.cap = QPCap.of(cap)
        out.sq_draining = int(draining)
        if attr.av != AddressVector():
            out.ah_attr = AHAttr.of(attr.av)
        return out
