"""Sans-IO. What each work request does: checked locally, carried to the peer's responder, its answer brought home.

Each operation returns the status to complete with, or `RNR` or `LOST` (wait and resend), `HANDED` (already complete: under iWARP
a send or write is, once the stream has it) or, from a control point, `HELD`. Local checks: key, state, PD, permission, bounds.
Memory is moved view to view, once. Follows IBA 10.7 and 11.4, Linux rxe_req.c and siw_qp_tx.c.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from transport.rdma.enums import Access, EventType, FlushType, MrState, Opcode, QPState, QPType, SendFlag, WcOpcode, WcStatus
from transport.rdma.sge import LOCAL_DMA_LKEY, SGE, move
from transport.rdma.wr import SendWR

if TYPE_CHECKING:
    from transport.rdma.qp import QP
    from transport.rdma.requester import Requester

__all__ = ["FREE_STANDING", "HANDED", "HANDLERS", "HELD", "LOST", "READS", "WC_OPCODES", "local_views"]

LOST: Final = -2
HANDED: Final = -3
HELD: Final = -4

VALID = MrState.VALID
INLINE = int(SendFlag.INLINE)
LOCAL_WRITE = int(Access.LOCAL_WRITE)
READ_SINK_IWARP = int(Access.LOCAL_WRITE | Access.REMOTE_WRITE)
PROT_ERR, QP_OP_ERR, LEN_ERR = int(WcStatus.LOC_PROT_ERR), int(WcStatus.LOC_QP_OP_ERR), int(WcStatus.LOC_LEN_ERR)
READS: Final = frozenset({Opcode.READ, Opcode.CMP_AND_SWP, Opcode.FETCH_AND_ADD})
"""Operations that use the read depth and that a fence waits for."""
FREE_STANDING: Final = frozenset({Opcode.LOCAL_INV})
"""Operations that start only when nothing before them is open."""
WC_OPCODES: Final[dict[int, int]] = {
    Opcode.SEND: int(WcOpcode.SEND),
    Opcode.SEND_WITH_IMM: int(WcOpcode.SEND),
    Opcode.SEND_WITH_INV: int(WcOpcode.SEND),
    Opcode.WRITE: int(WcOpcode.RDMA_WRITE),
    Opcode.WRITE_WITH_IMM: int(WcOpcode.RDMA_WRITE),
    Opcode.READ: int(WcOpcode.RDMA_READ),
    Opcode.CMP_AND_SWP: int(WcOpcode.COMP_SWAP),
    Opcode.FETCH_AND_ADD: int(WcOpcode.FETCH_ADD),
    Opcode.LOCAL_INV: int(WcOpcode.LOCAL_INV),
    Opcode.BIND_MW: int(WcOpcode.BIND_MW),
    Opcode.REG_MR: int(WcOpcode.REG_MR),
    Opcode.FLUSH: int(WcOpcode.FLUSH),
    Opcode.ATOMIC_WRITE: int(WcOpcode.ATOMIC_WRITE),
}
FLUSH_ACCESS: Final = {
    int(FlushType.GLOBAL): int(Access.FLUSH_GLOBAL),
    int(FlushType.PERSISTENT): int(Access.FLUSH_PERSISTENT),
    int(FlushType.GLOBAL | FlushType.PERSISTENT): int(Access.FLUSH_GLOBAL | Access.FLUSH_PERSISTENT),
}


def local_views(qp: "QP", sges: Sequence[SGE], access: int) -> list[memoryview] | None:
    """Return the memory the entries name, or None when one may not be used; entries of length 0 are not looked at."""
    mrs = qp.device.mrs
    out: list[memoryview] = []
    for sge in sges:
        length = sge.length
        if length <= 0:
            if length:
                return None
            continue
        if sge.lkey == LOCAL_DMA_LKEY:
            if sge.memory is None or len(sge.memory) < length:
                return None
            out.append(sge.memory if len(sge.memory) == length else sge.memory[:length])
            continue
        mr = mrs.get(sge.lkey)
        if mr is None or mr.state is not VALID or mr.pd is not qp.pd or access & ~mr.access:
            return None
        off = sge.addr - mr.iova
        if off < 0 or off + length > mr.length:
            return None
        if mr.whole is not None:
            out.append(mr.whole[off : off + length])
        elif not mr.append_views(sge.addr, length, out):
            return None
    return out


def gather(requester: "Requester", wr: SendWR) -> list[memoryview] | None:
    """Return the memory a send or write takes its payload from."""
    if wr.flags & INLINE:
        return requester.inline_views(wr.sges)
    return local_views(requester.qp, wr.sges, 0)


def _outgoing(requester: "Requester", wr: SendWR) -> int:
    """Carry out a SEND or WRITE of any kind."""
    views = gather(requester, wr)
    if views is None:
        return PROT_ERR
    length = len(views[0]) if len(views) == 1 else sum(map(len, views))
    if length > requester.max_msg:
        return LEN_ERR
    peer = requester.find_peer()
    if peer is None:
        return LOST
    requester.moved = length
    if requester.duplicate:
        # Its answer was lost: it is acknowledged again, not executed again.
        requester.advance(peer, length)
        return 0
    responder = peer.responder
    deliver = responder.write if wr.opcode <= Opcode.WRITE_WITH_IMM else responder.send
    if not requester.iwarp:
        status = deliver(wr, views, length)
        if not status:
            requester.advance(peer, length)
        return status
    requester.finish(wr, 0)
    requester.advance(peer, length)
    if deliver(wr, views, length) and requester.qp.state is not QPState.ERR:
        requester.qp.fail(EventType.QP_FATAL)
    return HANDED


def _send(requester: "Requester", wr: SendWR) -> int:
    if requester.qp.qp_type is QPType.UD:
        return _datagram(requester, wr)
    return _outgoing(requester, wr)


def _datagram(requester: "Requester", wr: SendWR) -> int:
    """Send a datagram: it is complete when sent, wherever it ends."""
    qp = requester.qp
    views = gather(requester, wr)
    if views is None:
        return PROT_ERR
    if wr.ah is None or wr.ah.pd is not qp.pd:
        return QP_OP_ERR
    length = sum(map(len, views))
    if length > qp.device.profile.mtu_bytes:
        return WcStatus.LOC_LEN_ERR
    requester.moved = length
    peer = qp.device.fabric.find_qp(wr.ah.av, wr.remote_qpn)
    if peer is not None and peer.qp_type is QPType.UD:
        peer.responder.datagram(wr, views, length, qp)
    return 0


def _read(requester: "Requester", wr: SendWR) -> int:
    qp = requester.qp
    dest = local_views(qp, wr.sges, READ_SINK_IWARP if requester.iwarp else LOCAL_WRITE)
    if dest is None:
        return PROT_ERR
    length = sum(map(len, dest))
    if length > requester.max_msg:
        return LEN_ERR
    peer = requester.find_peer()
    if peer is None:
        return LOST
    source = peer.responder.read(wr, length, requester.outstanding_reads())
    if isinstance(source, int):
        return _terminated(requester, source)
    if length:
        placement = qp.device.placement
        if placement is None:
            move(dest, source)
        elif status := _read_in_pieces(requester, wr, peer, dest, source):
            return status
    requester.moved = length
    requester.advance(peer, length)
    return 0


def _read_in_pieces(requester: "Requester", wr: SendWR, peer: "QP", dest: list[memoryview], source: list[memoryview]) -> int:
    """Place the answer of a READ as the device's `placement` wants; return the status of what came in between."""
    placement = requester.qp.device.placement
    assert placement is not None
    length = sum(map(len, dest))
    access = READ_SINK_IWARP if requester.iwarp else LOCAL_WRITE

    def refusal() -> int:
        if local_views(requester.qp, wr.sges, access) is None:
            return PROT_ERR
        if peer.responder.remote_views(wr.rkey, wr.remote_addr, length, int(Access.REMOTE_READ)) is None:
            return WcStatus.REM_ACCESS_ERR
        return 0

    if placement.move(dest, source, lambda: not refusal()):
        return 0
    status = refusal()
    if status == PROT_ERR:
        return status
    peer.responder.refuse(status)
    return _terminated(requester, status)


def _terminated(requester: "Requester", status: int) -> int:
    """Turn a NAK into what an iWARP requester sees: the peer's TERMINATE."""
    if not requester.iwarp:
        return status
    requester.qp.pd.context.raise_event(EventType.QP_FATAL, requester.qp)
    return WcStatus.GENERAL_ERR


def _atomic(requester: "Requester", wr: SendWR) -> int:
    dest = local_views(requester.qp, wr.sges, LOCAL_WRITE)
    if dest is None:
        return PROT_ERR
    peer = requester.find_peer()
    if peer is None:
        return LOST
    status, old = peer.responder.atomic(wr, requester.psn, requester.duplicate, requester.outstanding_reads())
    if status:
        return status if status == LOST else _terminated(requester, status)
    move(dest, [memoryview(old)])
    requester.moved = 8
    requester.advance(peer, 8)
    return 0


def _atomic_write(requester: "Requester", wr: SendWR) -> int:
    views = gather(requester, wr) if wr.sges else [memoryview((wr.swap % (1 << 64)).to_bytes(8, "little"))]
    if views is None:
        return PROT_ERR
    peer = requester.find_peer()
    if peer is None:
        return LOST
    requester.moved = 8
    status = 0 if requester.duplicate else peer.responder.write(wr, views, 8)
    if not status:
        requester.advance(peer, 8)
    return status


def _flush(requester: "Requester", wr: SendWR) -> int:
    peer = requester.find_peer()
    if peer is None:
        return LOST
    requester.moved = 0
    status = peer.responder.flush(wr, FLUSH_ACCESS.get(int(wr.flush_type), -1))
    if not status:
        requester.advance(peer, 0)
    return status


def _local_inv(requester: "Requester", wr: SendWR) -> int:
    requester.moved = 0
    return requester.qp.responder.invalidate(wr.invalidate_rkey, remote=False)


def _reg_mr(requester: "Requester", wr: SendWR) -> int:
    requester.moved = 0
    mr = wr.mr
    if mr is None or not mr.fast or mr.state is not MrState.FREE or mr.pd is not requester.qp.pd or (mr.lkey ^ wr.key) >> 8:
        return QP_OP_ERR
    if mr.device.ledger is not None:
        mr.device.ledger.registered(requester.qp, wr)
    mr.set_key(wr.key)
    mr.access = int(wr.access)
    mr.state = VALID
    return 0


def _bind_mw(requester: "Requester", wr: SendWR) -> int:
    requester.moved = 0
    mw, bind = wr.mw, wr.bind
    if mw is None or bind is None or mw.refusal(requester.qp, bind, wr.key) is not None:
        return WcStatus.MW_BIND_ERR
    mw.bind(requester.qp, bind, wr.key)
    return 0


HANDLERS: Final[dict[int, "Callable[[Requester, SendWR], int]"]] = {
    Opcode.SEND: _send,
    Opcode.SEND_WITH_IMM: _send,
    Opcode.SEND_WITH_INV: _outgoing,
    Opcode.WRITE: _outgoing,
    Opcode.WRITE_WITH_IMM: _outgoing,
    Opcode.READ: _read,
    Opcode.CMP_AND_SWP: _atomic,
    Opcode.FETCH_AND_ADD: _atomic,
    Opcode.ATOMIC_WRITE: _atomic_write,
    Opcode.FLUSH: _flush,
    Opcode.LOCAL_INV: _local_inv,
    Opcode.REG_MR: _reg_mr,
    Opcode.BIND_MW: _bind_mw,
}
