"""Sans-IO. What each work request does on an iWARP stream: checked locally, turned into messages, held open until they are gone.

A SEND or WRITE completes when the stream has its last byte, which says nothing about the peer. A READ names its sink on the wire:
one entry, in a region that allows REMOTE_WRITE. Requests that touch no peer are those of `transport.rdma.operations`.
Memory is lent by the request until its completion. Follows RFC 5040 5, RFC 7306 and Linux siw_qp_tx.c.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from transport.rdma import operations
from transport.rdma.ah import AddressVector
from transport.rdma.enums import Access, AttrMask, Mtu, Opcode, QPState, SendFlag, WcStatus
from transport.rdma.iwarp.engine import Engine
from transport.rdma.iwarp.mpa import Settled
from transport.rdma.iwarp.outstanding import Outstanding
from transport.rdma.iwarp.rdmap import ALL_BITS, ATOMIC_REQUEST, CMP_SWAP, FETCH_ADD, IMMEDIATE, READ_REQUEST, Op
from transport.rdma.operations import HELD, gather, local_views
from transport.rdma.qp import QPAttr
from transport.rdma.sge import LOCAL_DMA_LKEY
from transport.rdma.wr import SendWR

if TYPE_CHECKING:
    from transport.rdma.qp import QP
    from transport.rdma.requester import Requester

__all__ = ["bind", "make_ready", "payload_of"]

SOLICITED, INLINE = int(SendFlag.SOLICITED), int(SendFlag.INLINE)
SINK: Final = int(Access.LOCAL_WRITE | Access.REMOTE_WRITE)
LOCAL_WRITE: Final = int(Access.LOCAL_WRITE)
PROT_ERR, LEN_ERR = int(WcStatus.LOC_PROT_ERR), int(WcStatus.LOC_LEN_ERR)
RNR_TIMER: Final = 12
"""0.64 ms."""
TIMEOUT, RETRIES = 19, 6
"""A peer that acknowledges nothing for 7 times 2.1 s is given up, under RoCE's rules."""
NOT_CARRIED: Final = (Opcode.SEND_WITH_IMM, Opcode.ATOMIC_WRITE, Opcode.FLUSH)
Handler = Callable[["Requester", SendWR], int]


def bind(qp: "QP", engine: Engine) -> None:
    """Have the queue pair's requests travel over the engine's stream; whoever owns it takes it to RTS."""
    qp.link = engine
    qp.requester.handlers = {
        **operations.HANDLERS,
        Opcode.SEND: partial(_send, engine),
        Opcode.SEND_WITH_INV: partial(_send, engine),
        Opcode.WRITE: partial(_write, engine),
        Opcode.WRITE_WITH_IMM: partial(_write, engine),
        Opcode.READ: partial(_read, engine),
        Opcode.FETCH_AND_ADD: partial(_atomic, engine),
        Opcode.CMP_AND_SWP: partial(_atomic, engine),
        **dict.fromkeys(NOT_CARRIED, _refuse),
    }


def _refuse(requester: "Requester", wr: SendWR) -> int:
    """Refuse what the RFCs have no message for; a device of iWARP's kind refuses it when it is posted."""
    del requester, wr
    return WcStatus.LOC_QP_OP_ERR


def make_ready(qp: "QP", settled: Settled, access: int, rnr_retry: int = 0) -> None:
    """Take a queue pair to RTS. Addresses and packet numbers mean nothing on a stream: they are the device's own.

    access: what the peer may do. rnr_retry: how often to try again where the peer has no receive, under RoCE's rules.
    Raises: VerbsError when the queue pair is not in INIT, or RESET.
    """
    device = qp.device
    attr = QPAttr(
        qp_state=QPState.INIT,
        port=1,
        access_flags=int(access),
        av=AddressVector(dlid=device.lid, dgid=device.gid),
        path_mtu=Mtu.MTU_4096,
        max_rd_atomic=min(settled.ord, device.profile.max_rd_atom),
        max_dest_rd_atomic=min(settled.ird, device.profile.max_rd_atom),
        min_rnr_timer=RNR_TIMER,
        timeout=TIMEOUT,
        retry_cnt=RETRIES,
        rnr_retry=rnr_retry,
    )
    state = AttrMask.STATE
    if qp.state in (QPState.RESET, QPState.INIT):
        qp.modify(attr, state | AttrMask.PKEY_INDEX | AttrMask.PORT | AttrMask.ACCESS_FLAGS)
    attr.qp_state = QPState.RTR
    qp.modify(
        attr,
        state | AttrMask.AV | AttrMask.PATH_MTU | AttrMask.DEST_QPN | AttrMask.RQ_PSN | AttrMask.MAX_DEST_RD_ATOMIC
        | AttrMask.MIN_RNR_TIMER,
    )  # fmt: skip
    attr.qp_state = QPState.RTS
    qp.modify(
        attr, state | AttrMask.TIMEOUT | AttrMask.RETRY_CNT | AttrMask.RNR_RETRY | AttrMask.SQ_PSN | AttrMask.MAX_QP_RD_ATOMIC
    )


def payload_of(requester: "Requester", wr: SendWR) -> tuple[list[memoryview], int] | int:
    """Return memory and length of what a request sends, or the status it fails with."""
    views = gather(requester, wr)
    if views is None:
        return PROT_ERR
    length = len(views[0]) if len(views) == 1 else sum(map(len, views))
    return (views, length) if length <= requester.qp.device.profile.max_msg else LEN_ERR


def _hold(engine: Engine, requester: "Requester", wr: SendWR, length: int) -> tuple[SendWR, Callable[[], None]]:
    """Keep a request open; return its private copy and what completes it."""
    requester.moved = length
    if engine.watch is not None:
        engine.watch.posted(wr)
    wr = requester.hold(wr)
    return wr, partial(engine.answered, requester.flying[-1], length)


def _send(engine: Engine, requester: "Requester", wr: SendWR) -> int:
    payload = payload_of(requester, wr)
    if isinstance(payload, int):
        return payload
    views, length = payload
    kept, done = _hold(engine, requester, wr, length)
    if wr.flags & INLINE:
        views = gather(requester, kept) or []
    op = Op.SEND_SE if wr.flags & SOLICITED else Op.SEND
    ulp = 0
    if wr.opcode == Opcode.SEND_WITH_INV:
        op = Op.SEND_SE_INV if wr.flags & SOLICITED else Op.SEND_INV
        ulp = wr.invalidate_rkey
    engine.sender.untagged(op, views, ulp, done)
    return HELD


def _write(engine: Engine, requester: "Requester", wr: SendWR) -> int:
    payload = payload_of(requester, wr)
    if isinstance(payload, int):
        return payload
    views, length = payload
    kept, done = _hold(engine, requester, wr, length)
    if wr.flags & INLINE:
        views = gather(requester, kept) or []
    if wr.opcode == Opcode.WRITE:
        engine.sender.tagged(Op.WRITE, views, wr.rkey, wr.remote_addr, done)
        return HELD
    engine.sender.tagged(Op.WRITE, views, wr.rkey, wr.remote_addr)
    op = Op.IMMEDIATE_SE if wr.flags & SOLICITED else Op.IMMEDIATE
    engine.sender.untagged(op, [memoryview(IMMEDIATE.pack(0, wr.imm))], done=done)
    return HELD


def _read(engine: Engine, requester: "Requester", wr: SendWR) -> int:
    # By the rules of RoCE a sink needs no permission for the peer: `Engine` knows that it was asked for.
    dest = local_views(requester.qp, wr.sges, SINK if requester.iwarp else LOCAL_WRITE)
    if len(wr.sges) > 1:
        return WcStatus.LOC_QP_OP_ERR
    if dest is None or any(sge.lkey == LOCAL_DMA_LKEY and sge.length for sge in wr.sges):
        return PROT_ERR
    stag, to, length = (wr.sges[0].lkey, wr.sges[0].addr, wr.sges[0].length) if wr.sges else (0, 0, 0)
    _hold(engine, requester, wr, length)
    engine.orq.append(Outstanding(requester.flying[-1], False, stag, to, length))
    body = READ_REQUEST.pack(stag, to, length, wr.rkey, wr.remote_addr)
    engine.sender.untagged(Op.READ_REQUEST, [memoryview(body)])
    return HELD


def _atomic(engine: Engine, requester: "Requester", wr: SendWR) -> int:
    if local_views(requester.qp, wr.sges, LOCAL_WRITE) is None:
        return PROT_ERR
    _hold(engine, requester, wr, 8)
    number = engine.next_atomic()
    engine.orq.append(Outstanding(requester.flying[-1], True, number, 0, 8))
    if wr.opcode == Opcode.FETCH_AND_ADD:
        fields = (FETCH_ADD, number, wr.rkey, wr.remote_addr, wr.compare_add & ALL_BITS, 0, 0, 0)
    else:
        fields = (CMP_SWAP, number, wr.rkey, wr.remote_addr, wr.swap & ALL_BITS, ALL_BITS, wr.compare_add & ALL_BITS, ALL_BITS)
    engine.sender.untagged(Op.ATOMIC_REQUEST, [memoryview(ATOMIC_REQUEST.pack(*fields))])
    return HELD
