"""Sans-IO. The receiving side of a queue pair: what arrives is checked, placed and answered.

An answer is 0 for an ACK, `RNR` for a receiver-not-ready NAK, else the status the requester will complete with (a NAK's meaning).
A receive is consumed by sends and by WRITE_WITH_IMM alone, on an error too; a bad READ, WRITE or atomic has none to blame and
raises an asynchronous event instead. Every NAK but RNR takes this queue pair to ERR.
Checks run in the order queue pair's permission, key, state, PD, permission, bounds; length 0 is not checked (C9-88).
Memory belongs to whoever registered it. Follows IBA 9.7.4, 9.9.3 and Linux rxe_resp.
"""

from typing import TYPE_CHECKING, Final

from transport.rdma.enums import Access, EventType, MrState, Opcode, SendFlag, WcFlag, WcOpcode, WcStatus
from transport.rdma.sge import LOCAL_DMA_LKEY, move

if TYPE_CHECKING:
    from transport.rdma.qp import QP
    from transport.rdma.wr import RecvWR, SendWR

__all__ = ["RNR", "Responder"]

RNR: Final = -1
VALID = MrState.VALID
SOLICITED = int(SendFlag.SOLICITED)
LOCAL_WRITE = int(Access.LOCAL_WRITE)
REMOTE_WRITE = int(Access.REMOTE_WRITE)
REMOTE_READ = int(Access.REMOTE_READ)
REMOTE_ANY = int(Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC)
WITH_IMM, WITH_INV = int(WcFlag.WITH_IMM), int(WcFlag.WITH_INV)
INV_REQ = int(WcStatus.REM_INV_REQ_ERR)
ACCESS_ERR = int(WcStatus.REM_ACCESS_ERR)
OP_ERR = int(WcStatus.REM_OP_ERR)
QP_OP_ERR = int(WcStatus.LOC_QP_OP_ERR)


class Responder:
    """What a queue pair does with requests of its peer."""

    __slots__ = ("psn", "qp")

    def __init__(self, qp: "QP") -> None:
        self.qp = qp
        self.psn = 0

    def connect(self, psn: int) -> None:
        """Take the first packet number expected."""
        self.psn = psn

    def establish(self) -> None:
        """Note the first packet of the connection; in RTR it is an event."""
        qp = self.qp
        qp.established = True
        if qp.state.name == "RTR":
            qp.pd.context.raise_event(EventType.COMM_EST, qp)

    def send(self, wr: "SendWR", views: list[memoryview], length: int) -> int:
        """Take a SEND: consume a receive, place the message, invalidate, complete."""
        qp = self.qp
        if not qp.rq:
            return self._not_ready()
        recv = qp.rq.popleft()
        dest: list[memoryview] = []
        status = self._recv_views(recv, length, dest)
        if status:
            qp.complete_recv(recv, status)
            return INV_REQ if status == WcStatus.LOC_LEN_ERR else OP_ERR
        if length:
            move(dest, views)
        flags = 0
        imm = 0
        if wr.opcode == Opcode.SEND_WITH_IMM:
            flags = WITH_IMM
            imm = wr.imm
        elif wr.opcode == Opcode.SEND_WITH_INV:
            if self.invalidate(wr.invalidate_rkey, remote=True):
                qp.complete_recv(recv, INV_REQ)
                return ACCESS_ERR
            flags = WITH_INV
            imm = wr.invalidate_rkey
        qp.complete_recv(recv, 0, WcOpcode.RECV, length, flags, imm, bool(wr.flags & SOLICITED))
        return 0

    def _not_ready(self) -> int:
        """Answer a message nothing waits for. Under iWARP the stream is terminated: there is no such thing as not ready."""
        qp = self.qp
        if qp.device.profile.iwarp:
            qp.fail(EventType.QP_REQ_ERR)
        return RNR

    def _recv_views(self, recv: "RecvWR", length: int, out: list[memoryview]) -> int:
        """Find where `length` bytes of a message go; return the receive's status."""
        qp = self.qp
        mrs = qp.device.mrs
        for sge in recv.sges:
            if not length:
                return 0
            size = sge.length
            if not size:
                continue
            if sge.lkey == LOCAL_DMA_LKEY:
                if sge.memory is None or len(sge.memory) < size:
                    return WcStatus.LOC_PROT_ERR
                out.append(sge.memory[: min(size, length)])
            else:
                mr = mrs.get(sge.lkey)
                if mr is None or mr.state is not VALID or mr.pd is not qp.pd or not mr.access & LOCAL_WRITE:
                    return WcStatus.LOC_PROT_ERR
                if not mr.covers(sge.addr, size):
                    return WcStatus.LOC_PROT_ERR
                mr.append_views(sge.addr, min(size, length), out)
            length -= min(size, length)
        return WcStatus.LOC_LEN_ERR if length else 0

    def remote_views(self, rkey: int, addr: int, length: int, access: int) -> list[memoryview] | None:
        """Return the memory a peer names, or None when it may not."""
        qp = self.qp
        mr = qp.device.mrs.get(rkey)
        if mr is None or mr.state is not VALID or mr.pd is not qp.pd or access & ~mr.access:
            return None
        off = addr - mr.iova
        if off < 0 or off + length > mr.length:
            return None
        if mr.whole is not None:
            return [mr.whole[off : off + length]]
        out: list[memoryview] = []
        mr.append_views(addr, length, out)
        return out

    def _refuse(self, status: int) -> int:
        """Refuse a request that consumed no receive."""
        self.qp.fail(EventType.QP_REQ_ERR if status == INV_REQ else EventType.QP_ACCESS_ERR)
        return status

    def write(self, wr: "SendWR", views: list[memoryview], length: int) -> int:
        """Take a WRITE."""
        if not self.qp.attr.access_flags & REMOTE_WRITE:
            return self._refuse(INV_REQ)
        if length:
            dest = self.remote_views(wr.rkey, wr.remote_addr, length, REMOTE_WRITE)
            if dest is None:
                return self._refuse(ACCESS_ERR)
            move(dest, views)
        return 0

    def read(self, wr: "SendWR", length: int) -> list[memoryview] | int:
        """Take a READ request: the memory it names, or why not."""
        attr = self.qp.attr
        if not attr.access_flags & REMOTE_READ or not attr.max_dest_rd_atomic:
            return self._refuse(INV_REQ)
        if not length:
            return []
        source = self.remote_views(wr.rkey, wr.remote_addr, length, REMOTE_READ)
        return self._refuse(ACCESS_ERR) if source is None else source

    def invalidate(self, rkey: int, remote: bool) -> int:
        """End a registration by its key, for LOCAL_INV or for a peer's SEND_WITH_INV; return 0 or LOC_QP_OP_ERR."""
        mr = self.qp.device.mrs.get(rkey)
        if mr is None or not mr.fast or mr.pd is not self.qp.pd or mr.nr_windows:
            return QP_OP_ERR
        if remote and (mr.state is not VALID or not mr.access & REMOTE_ANY):
            return QP_OP_ERR
        mr.invalidate()
        return 0
