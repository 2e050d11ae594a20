"""Sans-IO. The receiving side of a queue pair: what arrives is checked, placed and answered.

An answer is 0 for an ACK, `RNR` for a receiver-not-ready NAK, else the status the requester will complete with (a NAK's meaning).
A receive is consumed by sends and by WRITE_WITH_IMM alone, on an error too; a bad READ, WRITE or atomic has none to blame and
raises an asynchronous event instead. Every NAK but RNR takes this queue pair to ERR.
Checks run in the order queue pair's permission, key, state, PD, permission, bounds; length 0 is not checked (C9-88).
Memory belongs to whoever registered it. Follows IBA 9.7.4, 9.9.3 and Linux rxe_resp.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from transport.rdma.enums import Access, EventType, FlushLevel, MrState, Opcode, QPState, SendFlag, WcFlag, WcOpcode, WcStatus
from transport.rdma.sge import LOCAL_DMA_LKEY, move

if TYPE_CHECKING:
    from transport.rdma.mr import MR
    from transport.rdma.qp import QP
    from transport.rdma.wr import RecvWR, SendWR

__all__ = ["GRH_BYTES", "RNR", "Responder"]

RNR: Final = -1
LOST: Final = -2
GRH_BYTES: Final = 40
VALID = MrState.VALID
SOLICITED = int(SendFlag.SOLICITED)
LOCAL_WRITE = int(Access.LOCAL_WRITE)
REMOTE_WRITE = int(Access.REMOTE_WRITE)
REMOTE_READ = int(Access.REMOTE_READ)
REMOTE_ATOMIC = int(Access.REMOTE_ATOMIC)
REMOTE_ANY = REMOTE_WRITE | REMOTE_READ | REMOTE_ATOMIC
GRH, WITH_IMM, WITH_INV = int(WcFlag.GRH), int(WcFlag.WITH_IMM), int(WcFlag.WITH_INV)
INV_REQ = int(WcStatus.REM_INV_REQ_ERR)
ACCESS_ERR = int(WcStatus.REM_ACCESS_ERR)
OP_ERR = int(WcStatus.REM_OP_ERR)
QP_OP_ERR = int(WcStatus.LOC_QP_OP_ERR)
END_U64: Final = 1 << 64


class Responder:
    """What a queue pair does with requests of its peer. `replies` are the old values of recent atomics, for replay."""

    __slots__ = ("psn", "qp", "replies")

    def __init__(self, qp: "QP") -> None:
        self.qp = qp
        self.psn = 0
        self.replies: deque[tuple[int, bytes]] = deque()

    def connect(self, psn: int) -> None:
        """Take the first packet number expected."""
        self.psn = psn
        self.replies.clear()

    def establish(self) -> None:
        """Note the first packet of the connection; in RTR it is an event."""
        qp = self.qp
        qp.established = True
        if qp.state is QPState.RTR:
            qp.pd.context.raise_event(EventType.COMM_EST, qp)

    # ---- messages that consume a receive

    def send(self, wr: "SendWR", views: list[memoryview], length: int) -> int:
        """Take a SEND: consume a receive, place the message, invalidate, complete."""
        qp = self.qp
        recv = qp.take_recv()
        if recv is None:
            return self._not_ready()
        dest: list[memoryview] = []
        status = self.recv_views(recv, length, dest)
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

    def datagram(self, wr: "SendWR", views: list[memoryview], length: int, sender: "QP") -> None:
        """Take a datagram, behind 40 bytes of route header; one that does not fit the queue key or a receive is dropped."""
        qp = self.qp
        qkey = sender.attr.qkey if wr.remote_qkey & 1 << 31 else wr.remote_qkey
        if qp.state not in (QPState.RTR, QPState.RTS, QPState.SQD, QPState.SQE) or qkey != qp.attr.qkey:
            return
        recv = qp.take_recv()
        if recv is None:
            return
        dest: list[memoryview] = []
        status = self.recv_views(recv, length + GRH_BYTES, dest)
        if status:
            qp.complete_recv(recv, status)
            return
        move(dest, [memoryview(_route_header(sender, qp, length)), *views])
        flags = GRH | (WITH_IMM if wr.opcode == Opcode.SEND_WITH_IMM else 0)
        qp.complete_recv(
            recv, 0, WcOpcode.RECV, length + GRH_BYTES, flags, wr.imm, bool(wr.flags & SOLICITED), src_qp=sender.qp_num
        )

    def _not_ready(self) -> int:
        """Answer a message nothing waits for. Under iWARP the stream is terminated: there is no such thing as not ready."""
        qp = self.qp
        if qp.device.profile.iwarp:
            qp.fail(EventType.QP_REQ_ERR)
        return RNR

    def recv_views(self, recv: "RecvWR", length: int, out: list[memoryview]) -> int:
        """Find where `length` bytes of a message go; return the receive's status."""
        qp = self.qp
        control = qp.device.control
        if control is not None and (forced := control.receive(qp, recv)):
            return forced
        mrs = qp.device.mrs
        for sge in recv.sges:
            if not length:
                return 0
            size = sge.length
            if size <= 0:
                if size:
                    return WcStatus.LOC_PROT_ERR
                continue
            take = min(size, length)
            if sge.lkey == LOCAL_DMA_LKEY:
                if sge.memory is None or len(sge.memory) < size:
                    return WcStatus.LOC_PROT_ERR
                out.append(sge.memory[:take])
            else:
                mr = mrs.get(sge.lkey)
                if mr is None or mr.state is not VALID or mr.pd is not qp.recv_pd or not mr.access & LOCAL_WRITE:
                    return WcStatus.LOC_PROT_ERR
                if not mr.covers(sge.addr, size) or not mr.append_views(sge.addr, take, out):
                    return WcStatus.LOC_PROT_ERR
            length -= take
        return WcStatus.LOC_LEN_ERR if length else 0

    # ---- one-sided requests

    def remote_views(self, rkey: int, addr: int, length: int, access: int) -> list[memoryview] | None:
        """Return the memory a peer names by the key of a region or a window, or None when it may not."""
        qp = self.qp
        device = qp.device
        mr = device.mrs.get(rkey)
        if mr is None:
            mw = device.mws.get(rkey)
            if mw is None or mw.pd is not qp.pd or not mw.allows(qp, addr, length, access) or mw.mr is None:
                return None
            mr = mw.mr
            addr += mw.start - mw.addr
            if mr.state is not VALID:
                return None
        elif mr.state is not VALID or mr.pd is not qp.pd or access & ~mr.access:
            return None
        off = addr - mr.iova
        if off < 0 or off + length > mr.length:
            return None
        if mr.whole is not None:
            return [mr.whole[off : off + length]]
        out: list[memoryview] = []
        return out if mr.append_views(addr, length, out) else None

    def refuse(self, status: int) -> int:
        """Refuse a request that consumed no receive: this queue pair fails, the requester gets the status."""
        self.qp.fail(EventType.QP_REQ_ERR if status == INV_REQ else EventType.QP_ACCESS_ERR)
        return status

    def write(self, wr: "SendWR", views: list[memoryview], length: int) -> int:
        """Take a WRITE; with an immediate it consumes a receive, whose memory it does not touch."""
        qp = self.qp
        if not qp.attr.access_flags & REMOTE_WRITE:
            return self.refuse(INV_REQ)
        recv: RecvWR | None = None
        if wr.opcode == Opcode.WRITE_WITH_IMM:
            recv = qp.take_recv()
            if recv is None:
                return self._not_ready()
        if length:
            dest = self.remote_views(wr.rkey, wr.remote_addr, length, REMOTE_WRITE)
            if dest is None:
                return self._refuse_write(recv)
            if qp.device.ledger is not None:
                qp.device.ledger.written_by_peer(qp, wr, length)
            placement = qp.device.placement
            if placement is None:
                move(dest, views)
            elif not placement.move(dest, views, lambda: self._may_write(wr, length)):
                return self._refuse_write(recv)
        if recv is not None:
            qp.complete_recv(recv, 0, WcOpcode.RECV_RDMA_WITH_IMM, length, WITH_IMM, wr.imm, bool(wr.flags & SOLICITED))
        return 0

    def _may_write(self, wr: "SendWR", length: int) -> bool:
        return self.remote_views(wr.rkey, wr.remote_addr, length, REMOTE_WRITE) is not None

    def _refuse_write(self, recv: "RecvWR | None") -> int:
        if recv is None:
            return self.refuse(ACCESS_ERR)
        self.qp.complete_recv(recv, WcStatus.LOC_ACCESS_ERR)
        return ACCESS_ERR

    def read(self, wr: "SendWR", length: int, outstanding: int) -> list[memoryview] | int:
        """Take a READ request: the memory it names, or why not."""
        attr = self.qp.attr
        if not attr.access_flags & REMOTE_READ or outstanding >= attr.max_dest_rd_atomic:
            return self.refuse(INV_REQ)
        if not length:
            return []
        source = self.remote_views(wr.rkey, wr.remote_addr, length, REMOTE_READ)
        return self.refuse(ACCESS_ERR) if source is None else source

    def atomic(self, wr: "SendWR", psn: int, duplicate: bool, outstanding: int) -> tuple[int, bytes]:
        """Take an atomic: (answer, old value). A duplicate is answered from the last few answers, else dropped."""
        attr = self.qp.attr
        if duplicate:
            for known, old in self.replies:
                if known == psn:
                    return 0, old
            return LOST, b""
        if not attr.access_flags & REMOTE_ATOMIC or outstanding >= attr.max_dest_rd_atomic or wr.remote_addr & 7:
            return self.refuse(INV_REQ), b""
        views = self.remote_views(wr.rkey, wr.remote_addr, 8, REMOTE_ATOMIC)
        if views is None:
            return self.refuse(ACCESS_ERR), b""
        old = b"".join(views)  # header: eight bytes
        value = int.from_bytes(old, "little")
        if wr.opcode == Opcode.FETCH_AND_ADD:
            value = (value + wr.compare_add) % END_U64
        elif value == wr.compare_add % END_U64:
            value = wr.swap % END_U64
        move(views, [memoryview(value.to_bytes(8, "little"))])
        self.replies.append((psn, old))
        if len(self.replies) > attr.max_dest_rd_atomic:
            self.replies.popleft()
        return 0, old

    def flush(self, wr: "SendWR", access: int) -> int:
        """Take a FLUSH; what it asks for has happened already, so only the permission is checked."""
        if access < 0 or access & ~self.qp.attr.access_flags:
            return self.refuse(INV_REQ)
        return 0 if self.may_flush(wr, access) else self.refuse(ACCESS_ERR)

    def may_flush(self, wr: "SendWR", access: int) -> bool:
        """Whether the region or range a FLUSH names allows it."""
        whole = wr.flush_level == FlushLevel.MR
        mr: MR | None = self.qp.device.mrs.get(wr.rkey)
        addr, length = (mr.iova, mr.length) if whole and mr is not None else (wr.remote_addr, wr.length)
        return self.remote_views(wr.rkey, addr, length, access) is not None

    def invalidate(self, rkey: int, remote: bool) -> int:
        """End a registration by its key, for LOCAL_INV or for a peer's SEND_WITH_INV; return 0 or LOC_QP_OP_ERR."""
        qp = self.qp
        mr = qp.device.mrs.get(rkey)
        if mr is None:
            mw = qp.device.mws.get(rkey)
            return 0 if mw is not None and mw.invalidate(qp) else QP_OP_ERR
        if not mr.fast or mr.pd is not qp.pd or mr.nr_windows:
            return QP_OP_ERR
        if remote and (mr.state is not VALID or not mr.access & REMOTE_ANY):
            return QP_OP_ERR
        mr.invalidate()
        return 0


def _route_header(sender: "QP", receiver: "QP", length: int) -> bytes:
    """Return the GRH of a datagram: version 6, payload length, next header IBA, hop limit, the two GIDs."""
    head = (6 << 28).to_bytes(4, "big") + length.to_bytes(2, "big") + b"\x1b\x40"
    return head + sender.device.gid + receiver.device.gid
