"""Trio shell. pyverbs.cq: completion queues, their extended form, channels whose events are waited for. Owns no memory."""

import errno
from typing import Final

from transport.rdma.cq import CQ as Queue  # noqa: N811 - a class
from transport.rdma.pyverbs import driver
from transport.rdma.pyverbs.base import PyverbsObject
from transport.rdma.pyverbs.device import Context
from transport.rdma.pyverbs.pd import PD, QueueMemory
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError, translated
from transport.rdma.wr import WC as Completion  # noqa: N811 - a class

__all__ = ["CQ", "CQEX", "WC", "CompChannel", "CqInitAttrEx", "PollCqAttr"]

STANDARD_FLAGS: Final = 0x7F
MASK_PD: Final = 2
ENOENT: Final = errno.ENOENT


class CompChannel(PyverbsObject):
    """A completion channel."""

    rank = 7

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.channel = context.handle.create_channel()
        self.hang_on(context)

    def get_cq_event(self, expected_cq: "CQ | CQEX") -> None:
        """Wait for an event of the queue; it has to be acknowledged.

        Raises: PyverbsRDMAError EINVAL when the next event is another queue's.
        """
        while (cq := self._event()) is None:
            driver.wait_a_little()
        if cq is not expected_cq.cq:
            raise PyverbsRDMAError("The event is of another CQ", errno.EINVAL)

    @driver.locked
    def _event(self) -> Queue | None:
        return self.channel.get_event()

    def destroy(self) -> None:
        """Destroy the channel."""
        with translated("Failed to destroy a completion channel"):
            self.channel.destroy()


class WC:
    """A completion."""

    def __init__(
        self,
        wr_id: int = 0,
        status: int = 0,
        opcode: int = 0,
        vendor_err: int = 0,
        byte_len: int = 0,
        qp_num: int = 0,
        src_qp: int = 0,
        imm_data: int = 0,
        wc_flags: int = 0,
        pkey_index: int = 0,
        slid: int = 0,
        sl: int = 0,
        dlid_path_bits: int = 0,
    ) -> None:
        self.wr_id = wr_id
        self.status = status
        self.opcode = opcode
        self.vendor_err = vendor_err
        self.byte_len = byte_len
        self.qp_num = qp_num
        self.src_qp = src_qp
        self.imm_data = imm_data
        self.wc_flags = wc_flags
        self.pkey_index = pkey_index
        self.slid = slid
        self.sl = sl
        self.dlid_path_bits = dlid_path_bits


def _shown(wc: Completion) -> WC:
    return WC(wc.wr_id, wc.status, wc.opcode, wc.vendor_err, wc.byte_len, wc.qp_num, wc.src_qp, wc.imm, wc.wc_flags)


class _Base(PyverbsObject):
    """What both forms of queue share."""

    rank = 6

    def __init__(self, context: Context, cqe: float, channel: CompChannel | None, comp_vector: int) -> None:
        super().__init__()
        self.context = context
        self.comp_channel = channel
        with translated("Failed to create a CQ"):
            self.cq: Queue = context.handle.create_cq(int(cqe), None if channel is None else channel.channel, comp_vector)
        self.hang_on(context, channel)

    @property
    def cqe(self) -> int:
        """The capacity."""
        return self.cq.cqe

    def resize(self, cqe: int) -> None:
        """Change the capacity."""
        with translated("Failed to resize CQ"):
            self.cq.resize(cqe)

    @driver.locked
    def req_notify(self, solicited_only: bool = False) -> None:
        """Arm for one event."""
        self.cq.req_notify(bool(solicited_only))

    def ack_events(self, num_events: int) -> None:
        """Acknowledge events."""
        with translated("Failed to acknowledge events"):
            self.cq.ack_events(num_events)

    def destroy(self) -> None:
        """Acknowledge what is left and destroy the queue."""
        self.cq.ack_events(self.cq.unacked)
        with translated("Failed to destroy CQ"):
            self.cq.destroy()


class CQ(_Base):
    """A completion queue."""

    def __init__(
        self, context: Context, cqe: float, cq_context: object = None, channel: CompChannel | None = None, comp_vector: int = 0
    ) -> None:
        super().__init__(context, cqe, channel, comp_vector)
        self.cq_context = cq_context

    @driver.locked
    def poll(self, num_entries: int = 1) -> tuple[int, list[WC]]:
        """Take completions: how many, and they."""
        driver.advance()
        wcs = [_shown(wc) for wc in self.cq.poll(num_entries)]
        return len(wcs), wcs


class PollCqAttr:
    """Attributes of a poll; there are none yet."""

    comp_mask = 0


class CqInitAttrEx:
    """What an extended queue is made of."""

    def __init__(
        self,
        cqe: int = 100,
        cq_context: object = None,
        channel: CompChannel | None = None,
        comp_vector: int = 0,
        wc_flags: int = 0,
        comp_mask: int = 0,
        flags: int = 0,
        parent_domain: PD | None = None,
    ) -> None:
        self.cqe = cqe
        self.cq_context = cq_context
        self.channel = channel
        self.comp_vector = comp_vector
        self.wc_flags = wc_flags
        self.comp_mask = comp_mask
        self.flags = flags
        self.parent_domain = parent_domain


class CQEX(_Base):
    """An extended queue: the current completion's fields are read one by one."""

    def __init__(self, context: Context, init_attr: CqInitAttrEx) -> None:
        if int(init_attr.wc_flags) & ~STANDARD_FLAGS or int(init_attr.flags) & ~3:
            raise PyverbsRDMAError("Failed to create extended CQ", errno.EOPNOTSUPP)
        super().__init__(context, init_attr.cqe, init_attr.channel, init_attr.comp_vector)
        self.current: Completion | None = None
        self.memory: QueueMemory | None = None
        if int(init_attr.comp_mask) & MASK_PD and init_attr.parent_domain is not None:
            self.memory = init_attr.parent_domain.queue_memory()

    def start_poll(self, attr: PollCqAttr | None = None) -> int:
        """Begin a batch with the first completion; ENOENT when there is none."""
        driver.advance()
        return self.poll_next()

    @driver.locked
    def poll_next(self) -> int:
        """Go to the next completion; ENOENT when there is none."""
        wcs = self.cq.poll(1)
        if not wcs:
            return ENOENT
        self.current = wcs[0]
        return 0

    def end_poll(self) -> None:
        """End the batch."""
        self.current = None

    def _wc(self) -> Completion:
        if self.current is None:
            raise PyverbsRDMAError("No completion is being read", errno.EINVAL)
        return self.current

    @property
    def status(self) -> int:
        """Status of the current completion."""
        return self._wc().status

    @property
    def wr_id(self) -> int:
        """Id of its request."""
        return self._wc().wr_id

    def read_opcode(self) -> int:
        """Return what it completes."""
        return self._wc().opcode

    def read_vendor_err(self) -> int:
        """Return the vendor's code."""
        return self._wc().vendor_err

    def read_byte_len(self) -> int:
        """Return the bytes moved."""
        return self._wc().byte_len

    def read_imm_data(self) -> int:
        """Return the immediate, big-endian."""
        return self._wc().imm

    def read_invalidated_rkey(self) -> int:
        """Return the key the peer invalidated."""
        return self._wc().imm

    def read_qp_num(self) -> int:
        """Return the queue pair."""
        return self._wc().qp_num

    def read_src_qp(self) -> int:
        """Return a datagram's sender."""
        return self._wc().src_qp

    def read_wc_flags(self) -> int:
        """Return which fields hold a value."""
        return self._wc().wc_flags

    def destroy(self) -> None:
        """See `_Base.destroy`."""
        super().destroy()
        if self.memory is not None:
            self.memory.free()
