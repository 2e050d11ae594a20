"""Sans-IO. Two iWARP queue pairs of a memory fabric as the TCP stream they would have: start-up, FPDUs both ways, Terminate.

Messages are cut and numbered by the same code that sends real ones (`iwarp/send.py`). Why a request was refused the fabric does
not tell, so a Terminate names the likeliest cause. Payload is lent by the request for the call.
"""

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final

from iov.checksum import HAVE_FAST_CRC
from transport.rdma.capture import Capture, TcpFlow
from transport.rdma.enums import Opcode, QPState, SendFlag
from transport.rdma.iwarp.mpa import StartFrame, find_crc
from transport.rdma.iwarp.rdmap import ALL_BITS, ATOMIC_REQUEST, ATOMIC_RESPONSE, CMP_SWAP, FETCH_ADD, IMMEDIATE, READ_REQUEST, Op
from transport.rdma.iwarp.send import Sender
from transport.rdma.iwarp.terminate import Cause, Terminate
from transport.rdma.packets import Place
from transport.rdma.wr import SendWR

if TYPE_CHECKING:
    from transport.rdma.qp import QPAttr
    from transport.rdma.requester import Requester

__all__ = ["IwarpFlow"]

SOLICITED: Final = int(SendFlag.SOLICITED)
CAUSES: Final = {
    int(Opcode.WRITE): Cause.TAGGED_STAG,
    int(Opcode.WRITE_WITH_IMM): Cause.TAGGED_STAG,
    int(Opcode.SEND): Cause.UNTAGGED_NO_BUFFER,
    int(Opcode.SEND_WITH_INV): Cause.UNTAGGED_NO_BUFFER,
}
Carry = Callable[["Requester", SendWR], int]


class IwarpFlow:
    """The stream between two queue pairs. client: who asked first, as (LID, number); near, far: its end and the other."""

    def __init__(self, capture: Capture, near: Place, far: Place, client: tuple[int, int], attr: "QPAttr") -> None:
        crc = find_crc() if HAVE_FAST_CRC else None
        self.client = client
        self.flow = TcpFlow(capture, near, far, active=True)
        self.senders = (Sender(crc, lambda: None), Sender(crc, lambda: None))
        self.atomics = count(1)
        self.over = False
        ird, ord_ = attr.max_dest_rd_atomic, attr.max_rd_atomic
        self.flow.data(0, StartFrame(False, crc=crc is not None, ird=ird, ord=ord_).pack(), "MPA start-up")
        self.flow.data(1, StartFrame(True, crc=crc is not None, ird=ord_, ord=ird).pack(), "MPA start-up")

    def carry(self, inner: Carry, requester: "Requester", wr: SendWR, views: list[memoryview]) -> int:
        """Write a request, carry it out, write what came of it. views: its local memory."""
        qp = requester.qp
        side = int((qp.device.lid, qp.qp_num) != self.client)
        comment = f"wr_id {wr.wr_id} {Opcode(wr.opcode).name}"
        if self.over:
            return inner(requester, wr)
        number = self._request(side, wr, views, comment)
        status = inner(requester, wr)
        if self.over:
            return status
        if status > 0 or qp.state is QPState.ERR:
            body = memoryview(Terminate(CAUSES.get(int(wr.opcode), Cause.PROTECTION_STAG)).pack())
            self.senders[1 - side].untagged(Op.TERMINATE, [body])
            self._emit(1 - side, comment)
            self.over = True
            self.flow.end(1 - side)
            self.flow.end(side)
        elif status == 0 and wr.opcode == Opcode.READ:
            sge = wr.sges[0] if wr.sges else None
            stag, to = (sge.lkey, sge.addr) if sge is not None else (0, 0)
            self.senders[1 - side].tagged(Op.READ_RESPONSE, views, stag, to)
            self._emit(1 - side, comment)
        elif status == 0 and number:
            old = bytearray()
            for view in views:
                old += view
            body = memoryview(ATOMIC_RESPONSE.pack(number, int.from_bytes(old, "little")))
            self.senders[1 - side].untagged(Op.ATOMIC_RESPONSE, [body])
            self._emit(1 - side, comment)
        return status

    def _request(self, side: int, wr: SendWR, views: list[memoryview], comment: str) -> int:
        """Write a request; return the number of an atomic."""
        sender = self.senders[side]
        solicited = bool(wr.flags & SOLICITED)
        number = 0
        match wr.opcode:
            case Opcode.SEND:
                sender.untagged(Op.SEND_SE if solicited else Op.SEND, views)
            case Opcode.SEND_WITH_INV:
                sender.untagged(Op.SEND_SE_INV if solicited else Op.SEND_INV, views, wr.invalidate_rkey)
            case Opcode.WRITE | Opcode.WRITE_WITH_IMM:
                sender.tagged(Op.WRITE, views, wr.rkey, wr.remote_addr)
                if wr.opcode == Opcode.WRITE_WITH_IMM:
                    body = memoryview(IMMEDIATE.pack(0, wr.imm))
                    sender.untagged(Op.IMMEDIATE_SE if solicited else Op.IMMEDIATE, [body])
            case Opcode.READ:
                stag, to = (wr.sges[0].lkey, wr.sges[0].addr) if wr.sges else (0, 0)
                body = memoryview(READ_REQUEST.pack(stag, to, sum(map(len, views)), wr.rkey, wr.remote_addr))
                sender.untagged(Op.READ_REQUEST, [body])
            case _:
                number = next(self.atomics)
                fields = (FETCH_ADD, number, wr.rkey, wr.remote_addr, wr.compare_add & ALL_BITS, 0, 0, 0)
                if wr.opcode == Opcode.CMP_AND_SWP:
                    swap, compare = wr.swap & ALL_BITS, wr.compare_add & ALL_BITS
                    fields = (CMP_SWAP, number, wr.rkey, wr.remote_addr, swap, ALL_BITS, compare, ALL_BITS)
                sender.untagged(Op.ATOMIC_REQUEST, [memoryview(ATOMIC_REQUEST.pack(*fields))])
        self._emit(side, comment)
        return number

    def _emit(self, side: int, comment: str) -> None:
        """Write the frames that a side's sender has made, one segment each."""
        for frame in self.senders[side].drain():
            data = bytearray()
            for view in frame.views:
                data += view
            self.flow.data(side, data, comment)
