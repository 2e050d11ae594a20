"""Trio shell. pyverbs.wr: scatter/gather entries and work requests over real addresses; the memory is the program's."""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transport.rdma.enums import Opcode, SendFlag
from transport.rdma.mr import inc_key
from transport.rdma.pyverbs.pyverbs_error import PyverbsUserError
from transport.rdma.sge import SGE as Entry  # noqa: N811 - a class
from transport.rdma.wr import RecvWR as DeviceRecv
from transport.rdma.wr import SendWR as DeviceSend

if TYPE_CHECKING:
    from transport.rdma.pyverbs.addr import AH
    from transport.rdma.pyverbs.mr import MW, MWBindInfo

__all__ = ["SGE", "RecvWR", "SendWR"]

WITHOUT_SGE = (Opcode.BIND_MW, Opcode.LOCAL_INV, Opcode.SEND_WITH_INV)


class SGE(Entry):
    """An entry whose address is a real one."""

    def __init__(self, addr: int, length: int, lkey: int) -> None:
        super().__init__(addr, length, lkey)

    def read(self, length: int, offset: int) -> bytes:
        """Return bytes of the memory."""
        return ctypes.string_at(self.addr + offset, length)


class RecvWR:
    """A receive request, and those chained behind it."""

    def __init__(
        self, wr_id: int = 0, num_sge: int = 0, sg: Sequence[SGE] | None = None, next_wr: "RecvWR | None" = None
    ) -> None:
        if num_sge < 1 or not sg:
            raise PyverbsUserError("RecvWR needs a list of SGEs")
        self.wr_id = wr_id
        self.sg = list(sg[:num_sge])
        self.next = next_wr

    def device_form(self) -> list[DeviceRecv]:
        """Return the chain in the device's form."""
        out = []
        wr: RecvWR | None = self
        while wr is not None:
            out.append(DeviceRecv(wr.wr_id, wr.sg))
            wr = wr.next
        return out


class SendWR:
    """A send request; `imm_data` is big-endian as in C, and is the key of LOCAL_INV and SEND_WITH_INV."""

    def __init__(
        self,
        wr_id: int = 0,
        opcode: int = Opcode.SEND,
        num_sge: int = 0,
        imm_data: int = 0,
        send_flags: int = SendFlag.SIGNALED,
        sg: Sequence[SGE] | None = None,
        next_wr: "SendWR | None" = None,
    ) -> None:
        if (num_sge < 1 or not sg) and opcode not in WITHOUT_SGE:
            raise PyverbsUserError("SendWR needs a list of SGEs")
        self.wr_id = wr_id
        self.opcode = int(opcode)
        self.imm_data = imm_data
        self.send_flags = send_flags
        self.sg = list(sg[:num_sge]) if sg else []
        self.next = next_wr
        self.rkey = 0
        self.remote_addr = 0
        self.compare_add = 0
        self.swap = 0
        self.ah: AH | None = None
        self.remote_qpn = 0
        self.remote_qkey = 0
        self.mw: MW | None = None
        self.bind_info: MWBindInfo | None = None

    def set_wr_rdma(self, rkey: int, addr: int) -> None:
        """Name the remote memory of a READ or WRITE."""
        self.rkey = rkey
        self.remote_addr = addr

    def set_wr_atomic(self, rkey: int, addr: int, compare_add: int, swap: int = 0) -> None:
        """Name the remote memory and the operands of an atomic."""
        self.set_wr_rdma(rkey, addr)
        self.compare_add = compare_add
        self.swap = swap

    def set_wr_ud(self, ah: "AH", rqpn: int, rqkey: int) -> None:
        """Name the receiver of a datagram."""
        self.ah = ah
        self.remote_qpn = rqpn
        self.remote_qkey = rqkey

    def set_bind_wr(self, mw: "MW", bind_info: "MWBindInfo") -> None:
        """Say what window to bind to what; `rkey` is the key it will have."""
        self.mw = mw
        self.bind_info = bind_info
        self.rkey = inc_key(mw.rkey)

    def device_form(self) -> list[DeviceSend]:
        """Return the chain in the device's form."""
        out = []
        wr: SendWR | None = self
        while wr is not None:
            out.append(wr._one())
            wr = wr.next
        return out

    def _one(self) -> DeviceSend:
        return DeviceSend(
            self.wr_id, self.opcode, self.sg, int(self.send_flags), self.remote_addr, self.rkey, self.imm_data, self.imm_data,
            self.compare_add, self.swap, mw=None if self.mw is None else self.mw.mw, key=self.rkey,
            bind=None if self.bind_info is None else self.bind_info.device_form(), ah=None if self.ah is None else self.ah.ah,
            remote_qpn=self.remote_qpn, remote_qkey=self.remote_qkey,
        )  # fmt: skip
