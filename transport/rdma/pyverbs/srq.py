"""Trio shell. pyverbs.srq: shared receive queues; the basic kind only. Owns no memory."""

import errno
from typing import Final

from transport.rdma.pyverbs.base import PyverbsObject
from transport.rdma.pyverbs.device import Context
from transport.rdma.pyverbs.pd import PD
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError, translated
from transport.rdma.pyverbs.wr import RecvWR

__all__ = ["SRQ", "OpsWr", "SrqAttr", "SrqInitAttr", "SrqInitAttrEx"]

MAX_WR: Final = 1
LIMIT: Final = 2
BASIC: Final = 0


class SrqAttr:
    """Sizes of a shared queue."""

    def __init__(self, max_wr: int = 100, max_sge: int = 1, srq_limit: int = 0) -> None:
        self.max_wr = max_wr
        self.max_sge = max_sge
        self.srq_limit = srq_limit


class SrqInitAttr:
    """What a shared queue is made of."""

    def __init__(self, attr: SrqAttr | None = None) -> None:
        self.attr = attr if attr is not None else SrqAttr()


class SrqInitAttrEx(SrqInitAttr):
    """What a shared queue of any kind is made of."""

    def __init__(self, max_wr: int = 100, max_sge: int = 1, srq_limit: int = 0) -> None:
        super().__init__(SrqAttr(max_wr, max_sge, srq_limit))
        self.srq_type = BASIC
        self.pd: PD | None = None
        self.xrcd: object = None
        self.cq: object = None
        self.comp_mask = 0
        self.max_num_tags = 0
        self.max_ops = 0


class OpsWr:
    """An operation on a tag-matching queue, which is not emulated."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise PyverbsRDMAError("Tag matching is not emulated", errno.EOPNOTSUPP)


class SRQ(PyverbsObject):
    """A shared receive queue."""

    rank = 1

    def __init__(self, creator: PD | Context, init_attr: SrqInitAttr) -> None:
        super().__init__()
        pd = creator
        if isinstance(init_attr, SrqInitAttrEx):
            if int(init_attr.srq_type) != BASIC:
                raise PyverbsRDMAError("Failed to create extended SRQ", errno.EOPNOTSUPP)
            if init_attr.pd is not None:
                pd = init_attr.pd
        if not isinstance(pd, PD):
            raise PyverbsRDMAError("Failed to create SRQ without a PD", errno.EINVAL)
        with translated("Failed to create SRQ"):
            self.srq = pd.pd.create_srq(init_attr.attr.max_wr, init_attr.attr.max_sge)
        self.memory = pd.queue_memory()
        self.hang_on(pd)

    def post_recv(self, recv_wr: RecvWR, bad_wr: object = None) -> None:
        """Queue receives."""
        with translated("Failed to post receive to SRQ"):
            self.srq.post_recv(recv_wr.device_form())

    def modify(self, attr: SrqAttr, comp_mask: int) -> None:
        """Resize or arm the limit."""
        mask = int(comp_mask)
        with translated("Failed to modify SRQ"):
            self.srq.modify(attr.max_wr if mask & MAX_WR else None, attr.srq_limit if mask & LIMIT else None)

    def query(self) -> SrqAttr:
        """Return the sizes and the limit."""
        return SrqAttr(self.srq.max_wr, self.srq.max_sge, self.srq.limit)

    def get_srq_num(self) -> int:
        """Refuse: only XRC and tag-matching queues have a number."""
        raise PyverbsRDMAError("Failed to get SRQ number", errno.EOPNOTSUPP)

    def destroy(self) -> None:
        """Destroy the queue."""
        with translated("Failed to destroy SRQ"):
            self.srq.destroy()
        if self.memory is not None:
            self.memory.free()
