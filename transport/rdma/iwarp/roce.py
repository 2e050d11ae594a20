"""Sans-IO. RoCE's rules on the stream, where both sides have agreed to: acknowledgements, NAKs, and receivers that are not ready.

Theory of operation. Messages are those of iWARP and four more on opcodes that the RFCs leave free. Every request message of a
side has a number, counted by both, from 1; one work request is one message, or with an immediate behind a WRITE two. The
responder says how far it has come by ACK; a SEND or WRITE is complete then, and not when the stream has it.

    ACK 0xC      queue 4 | syndrome u8 as in an AETH | 0 u24 | number u32 |
                 0x1f: everything up to `number` was taken. 0x20 | timer: `number` found no receive, try again after that time.
                 0x60 | code: `number` is refused, as an invalid request 1, for its key, place or permission 2, or 3 because it
                 cannot be carried out; both queue pairs are in ERR then, and nothing follows
    CONTROL 0xD  queue 4 | kind u8 | type u8 | level u8 | 0 u8 | number u32 | rkey u32 | address u64 | length u32 |
                 kind 0, resume: the request of that number follows; kind 1: FLUSH, which is a request
    SEND 0xE     queue 0, with an immediate in the place of the STag; 0xF: solicited

After "not ready" the responder drops requests until it is told to resume; the requester waits, tells it, and sends all again from
the work request that was told. A READ's answer names the request by its number in the place of the STag, so that its sink may
have many entries and needs no permission for the peer. What breaks the framing still ends in a Terminate. Memory as `engine.py`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from transport.rdma import operations
from transport.rdma.enums import STATUS_TEXT, Access, EventType, Opcode, SendFlag, WcStatus
from transport.rdma.iwarp.ddp import MAX_ULPDU, MSN_MASK
from transport.rdma.iwarp.engine import Engine
from transport.rdma.iwarp.mpa import Crc, Rtr
from transport.rdma.iwarp.operations import payload_of
from transport.rdma.iwarp.outstanding import Outstanding
from transport.rdma.iwarp.rdmap import (
    ACK,
    ALL_BITS,
    ATOMIC_REQUEST,
    CMP_SWAP,
    CONTROL,
    FETCH_ADD,
    IMMEDIATE,
    READ_REQUEST,
    Op,
    Queue,
)
from transport.rdma.iwarp.receive import Place
from transport.rdma.iwarp.send import untagged_frame
from transport.rdma.iwarp.terminate import Cause, Refused
from transport.rdma.operations import HELD, gather, local_views
from transport.rdma.requester import Flight
from transport.rdma.wr import SendWR

if TYPE_CHECKING:
    from transport.rdma.qp import QP
    from transport.rdma.requester import Requester

__all__ = ["RoceEngine", "bind"]

TAKEN, NOT_READY, REFUSED = 0x1F, 0x20, 0x60
INVALID, FORBIDDEN, FAILED = 1, 2, 3
STATUSES: Final = {
    INVALID: WcStatus.REM_INV_REQ_ERR,
    FORBIDDEN: WcStatus.REM_ACCESS_ERR,
    FAILED: WcStatus.REM_OP_ERR,
}
NAKS: Final[dict[int, int]] = {
    **dict.fromkeys((Cause.TAGGED_STAG, Cause.TAGGED_BOUNDS, Cause.TAGGED_STREAM, Cause.TAGGED_WRAP), FORBIDDEN),
    **dict.fromkeys((Cause.PROTECTION_STAG, Cause.PROTECTION_BOUNDS, Cause.PROTECTION_ACCESS), FORBIDDEN),
    **dict.fromkeys((Cause.PROTECTION_STREAM, Cause.PROTECTION_WRAP, Cause.PROTECTION_INVALIDATE), FORBIDDEN),
    Cause.UNTAGGED_TOO_LONG: INVALID,
    Cause.OPERATION_STREAM: INVALID,
    Cause.OPERATION_UNSPECIFIED: INVALID,
    Cause.LOCAL_CATASTROPHIC: FAILED,
}
RESUME, FLUSH = 0, 1
REQUESTS: Final = frozenset({int(Op.READ_REQUEST), int(Op.ATOMIC_REQUEST), int(Op.IMMEDIATE), int(Op.IMMEDIATE_SE)})
LOCAL_WRITE: Final = int(Access.LOCAL_WRITE)
SOLICITED, INLINE = int(SendFlag.SOLICITED), int(SendFlag.INLINE)
SCRATCH: Final = memoryview(bytearray(MAX_ULPDU))
"""Where dropped payload goes."""


@dataclass(slots=True)
class _Sent:
    """A work request under way: the numbers of its messages, and whether an ACK completes it, or an answer."""

    flight: Flight
    length: int
    first: int
    last: int
    by_ack: bool


class RoceEngine(Engine):
    """`Engine`, with RoCE's rules. It is also what the fabric's clock calls when the peer has been silent for too long."""

    __slots__ = ("acknowledged", "moved_on", "number", "resume", "retries", "sent", "skipping", "taken", "wake_at")

    def __init__(
        self, qp: "QP", crc: Crc | None, ird: int, is_server: bool, wake: Callable[[], None], mulpdu: int = MAX_ULPDU
    ) -> None:
        super().__init__(qp, crc, ird, is_server, wake, mulpdu)
        self.receiver.private = True
        self.number = 0
        self.sent: deque[_Sent] = deque()
        self.resume = False
        self.taken = 0
        self.acknowledged = 0
        self.skipping = False
        self.wake_at: float | None = None
        self.moved_on = False
        self.retries = 0

    # ---- the requester's side

    def begin(self, flight: Flight, length: int, count: int = 1, *, by_ack: bool = True) -> int:
        """Number the messages of a work request that starts; return the first."""
        if self.resume:
            self.resume = False
            self.say(RESUME, self.number + 1)
        first = self.number + 1
        self.number += count
        self.sent.append(_Sent(flight, length, first, self.number, by_ack))
        if self.wake_at is None:
            self._arm()
        return first & MSN_MASK

    def open(self, rtr: Rtr) -> None:
        """See `Engine`; a WRITE has a number, like any."""
        self.number += rtr.write
        super().open(rtr)

    def answered(self, flight: Flight, length: int, status: int = 0) -> None:
        """See `Engine`."""
        self.moved_on = True
        if self.sent and self.sent[0].flight is flight:
            self.sent.popleft()
        else:
            self.sent = deque(sent for sent in self.sent if sent.flight is not flight)
        super().answered(flight, length, status)

    def _acknowledged(self, syndrome: int, number: int) -> None:
        taken = number if syndrome == TAKEN else number - 1
        self.moved_on = True
        if taken > self.number:
            raise Refused(Cause.OPERATION_OPCODE)
        requester = self.qp.requester
        requester.rnr_left = requester.rnr_left if syndrome & REFUSED == NOT_READY else self.qp.attr.rnr_retry
        for sent in [sent for sent in self.sent if sent.by_ack and sent.last <= taken]:
            self.answered(sent.flight, sent.length)
        if syndrome == TAKEN:
            return
        culprit = next((sent for sent in self.sent if sent.first <= number <= sent.last), None)
        if culprit is None:
            raise Refused(Cause.OPERATION_OPCODE)
        if syndrome & REFUSED == NOT_READY:
            self._peer_not_ready(culprit, syndrome & 0x1F)
            return
        status = STATUSES.get(syndrome & 0x1F, WcStatus.REM_INV_REQ_ERR)
        self._end(f"the peer refused a request: {STATUS_TEXT[status]}", culprit=partial(self.answered, culprit.flight, 0, status))

    def _peer_not_ready(self, culprit: _Sent, timer: int) -> None:
        """Take a work request that found no receive back, and all behind it; they start again in a while."""
        if not self.qp.requester.back_off(culprit.flight, timer):
            status = WcStatus.RNR_RETRY_EXC_ERR
            self._end("the peer had no receive, too often", culprit=partial(self.answered, culprit.flight, 0, status))
            return
        while self.sent and self.sent[-1].first >= culprit.first:
            gone = self.sent.pop().flight
            self.orq = deque(waiting for waiting in self.orq if waiting.flight is not gone)
        self.number = culprit.first - 1
        self.resume = True

    # ---- the timer

    def _arm(self) -> None:
        timeout = self.qp.attr.timeout
        if timeout:
            fabric = self.qp.device.fabric
            self.moved_on = False
            self.wake_at = fabric.now + 4.096e-6 * (1 << timeout)
            fabric.set_timer(self.wake_at, self, True)

    def on_timer(self, deadline: float, transport: bool) -> None:
        """Give up a peer that has answered nothing for as long as the queue pair's attributes say; a stream resends by itself."""
        del transport
        if self.wake_at != deadline:
            return
        self.wake_at = None
        if not self.sent or self.over:
            self.retries = 0
            return
        self.retries = 0 if self.moved_on else self.retries + 1
        if self.retries <= self.qp.attr.retry_cnt:
            self._arm()
            return
        flight = self.sent[0].flight
        self._end("the peer acknowledges nothing", culprit=partial(self.answered, flight, 0, WcStatus.RETRY_EXC_ERR))

    def lost(self) -> None:
        """See `Engine`."""
        self.sent.clear()
        self.wake_at = None
        super().lost()

    # ---- the responder's side

    def received(self, count: int) -> None:
        """See `Engine`; what was taken is acknowledged."""
        super().received(count)
        if self.taken != self.acknowledged and not self.over and not self.skipping:
            self._acknowledge(TAKEN, self.taken)

    def _acknowledge(self, syndrome: int, number: int) -> None:
        self.acknowledged = self.taken
        self.sender.untagged(Op.ACK, [memoryview(ACK.pack(syndrome << 24, number & MSN_MASK))], answer=True)

    def say(self, kind: int, number: int, wr: SendWR | None = None) -> None:
        """Send a message of control; for a FLUSH its request says of what."""
        fields = (0, 0, 0, 0, 0) if wr is None else (wr.flush_type, wr.flush_level, wr.rkey, wr.remote_addr, wr.length)
        flush_type, level, rkey, addr, length = fields
        body = CONTROL.pack(kind, flush_type, level, number & MSN_MASK, rkey, addr, length)
        self.sender.untagged(Op.CONTROL, [memoryview(body)])

    def _count(self, finish: Callable[[], None]) -> None:
        finish()
        self.taken += 1

    def _not_ready(self) -> None:
        self.skipping = True
        self._acknowledge(NOT_READY | self.qp.attr.min_rnr_timer, self.taken + 1)

    def _discard(self, length: int) -> Place:
        return Place(length, [SCRATCH[:length]], lambda off: [SCRATCH[off:length]], lambda: None)

    def _allow(self, access: int) -> None:
        """Refuse what the queue pair does not allow at all, before any key is looked at."""
        if not self.qp.attr.access_flags & access:
            raise Refused(Cause.OPERATION_UNSPECIFIED, event=EventType.QP_REQ_ERR)

    def tagged(self, op: int, last: bool, stag: int, to: int, length: int) -> Place:
        """See `Taker`."""
        if op != Op.WRITE:
            return super().tagged(op, last, stag, to, length)
        self._alive()
        if self.skipping:
            return self._discard(length)
        if length or self.taken:  # the first empty one may be the peer's way to say "ready to receive"
            self._allow(int(Access.REMOTE_WRITE))
        place = super().tagged(op, last, stag, to, length)
        if last:
            place.finish = partial(self._count, place.finish)
        return place

    def send(self, op: int, last: bool, ulp: int, msn: int, mo: int, length: int) -> Place:
        """See `Taker`."""
        if self.skipping:
            self._alive()
            if not mo:
                self._number(Queue.SEND, msn)
            return self._discard(length)
        try:
            place = super().send(op, last, ulp, msn, mo, length)
        except Refused as refused:
            if refused.cause is not Cause.UNTAGGED_NO_BUFFER:
                raise
            self._not_ready()
            return self._discard(length)
        if last:
            place.finish = partial(self._count, place.finish)
        return place

    def control(self, op: int, msn: int, body: bytes) -> None:
        """See `Taker`."""
        if op == Op.ACK:
            self._alive()
            self._number(Queue.PRIVATE, msn)
            syndrome, number = ACK.unpack(body)
            self._acknowledged(syndrome >> 24, self._near(number))
        elif op == Op.CONTROL:
            self._alive()
            self._number(Queue.PRIVATE, msn)
            self._controlled(*CONTROL.unpack(body))
        elif self.skipping and op in REQUESTS:
            self._number(Queue.REQUEST if op in (Op.READ_REQUEST, Op.ATOMIC_REQUEST) else Queue.SEND, msn)
        elif op in REQUESTS:
            self._request(op, msn, body)
        else:
            super().control(op, msn, body)

    def _near(self, number: int) -> int:
        """Return the number, of more than 32 bits, that is near the last one we used."""
        return self.number - ((self.number - number + (1 << 31)) & MSN_MASK) + (1 << 31)

    def _request(self, op: int, msn: int, body: bytes) -> None:
        if op == Op.READ_REQUEST:
            self._allow(int(Access.REMOTE_READ))
        elif op == Op.ATOMIC_REQUEST:
            self._allow(int(Access.REMOTE_ATOMIC))
            if ATOMIC_REQUEST.unpack(body)[3] & 7:
                raise Refused(Cause.OPERATION_UNSPECIFIED, event=EventType.QP_REQ_ERR)
        try:
            super().control(op, msn, body)
        except Refused as refused:
            if refused.cause is not Cause.UNTAGGED_NO_BUFFER:
                raise
            self._not_ready()
            return
        self.taken += 1

    def _controlled(self, kind: int, flush_type: int, level: int, number: int, rkey: int, addr: int, length: int) -> None:
        if kind == RESUME:
            self.skipping = False
            self.taken = self.acknowledged = self.taken - ((self.taken - number + 1) & MSN_MASK)
        elif kind != FLUSH:
            raise Refused(Cause.OPERATION_OPCODE)
        elif not self.skipping:
            wr = SendWR(0, Opcode.FLUSH, (), 0, addr, rkey, length=length, flush_type=flush_type, flush_level=level)
            access = operations.FLUSH_ACCESS.get(flush_type, -1)
            if access < 0 or access & ~self.qp.attr.access_flags:
                raise Refused(Cause.OPERATION_UNSPECIFIED, event=EventType.QP_REQ_ERR)
            if not self.qp.responder.may_flush(wr, access):
                raise Refused(Cause.PROTECTION_ACCESS, event=EventType.QP_ACCESS_ERR)
            self.taken += 1

    def _refuse(self, refused: Refused) -> None:
        """Answer a request that may not be carried out by a NAK; what breaks the stream by a Terminate."""
        code = NAKS.get(refused.cause)
        if code is None or self.over or (refused.cause is Cause.LOCAL_CATASTROPHIC and refused.culprit is None):
            super()._refuse(refused)
            return
        self.refused = True
        body = memoryview(ACK.pack((REFUSED | code) << 24, (self.taken + 1) & MSN_MASK))
        frame = untagged_frame(self.sender.crc, Op.ACK, True, 0, self.sender.next_msn(Queue.PRIVATE), 0, [body])
        self._end(f"refused a request of the peer: {refused.cause.name}", frame, refused.culprit, refused.event)

    def sink(self, head: Outstanding, off: int, length: int) -> list[memoryview]:
        """See `Engine`; the memory of the READ's entries."""
        self.moved_on = True
        views = local_views(self.qp, head.flight.wr.sges, LOCAL_WRITE)
        if views is None:
            raise Refused(Cause.TAGGED_STAG, partial(self.answered, head.flight, 0, WcStatus.LOC_PROT_ERR))
        return cut_out(views, off, length)


def cut_out(views: list[memoryview], off: int, length: int) -> list[memoryview]:
    """Return `length` bytes from an offset on."""
    out: list[memoryview] = []
    for view in views:
        if off >= len(view):
            off -= len(view)
            continue
        piece = view[off : off + length]
        out.append(piece)
        length -= len(piece)
        off = 0
        if not length:
            break
    return out


# ---- what each work request does


def bind(qp: "QP", engine: RoceEngine) -> None:
    """Have the queue pair's requests travel over the engine's stream, by RoCE's rules."""
    qp.link = engine
    qp.requester.handlers = {
        **operations.HANDLERS,
        **dict.fromkeys((Opcode.SEND, Opcode.SEND_WITH_INV, Opcode.SEND_WITH_IMM), partial(_send, engine)),
        **dict.fromkeys((Opcode.WRITE, Opcode.WRITE_WITH_IMM, Opcode.ATOMIC_WRITE), partial(_write, engine)),
        Opcode.READ: partial(_read, engine),
        **dict.fromkeys((Opcode.FETCH_AND_ADD, Opcode.CMP_AND_SWP), partial(_atomic, engine)),
        Opcode.FLUSH: partial(_flush, engine),
    }


def _hold(
    engine: RoceEngine, requester: "Requester", wr: SendWR, length: int, count: int = 1, *, by_ack: bool = True
) -> tuple[SendWR, int]:
    """Keep a request open; return its private copy and the number of its first message."""
    if engine.watch is not None:
        engine.watch.posted(wr)
    requester.moved = length
    kept = requester.hold(wr)
    return kept, engine.begin(requester.flying[-1], length, count, by_ack=by_ack)


def _send(engine: RoceEngine, requester: "Requester", wr: SendWR) -> int:
    payload = payload_of(requester, wr)
    if isinstance(payload, int):
        return payload
    views, length = payload
    kept, _ = _hold(engine, requester, wr, length)
    if wr.flags & INLINE:
        views = gather(requester, kept) or []
    solicited = bool(wr.flags & SOLICITED)
    if wr.opcode == Opcode.SEND_WITH_INV:
        engine.sender.untagged(Op.SEND_SE_INV if solicited else Op.SEND_INV, views, wr.invalidate_rkey)
    elif wr.opcode == Opcode.SEND_WITH_IMM:
        engine.sender.untagged(Op.SEND_SE_IMM if solicited else Op.SEND_IMM, views, wr.imm)
    else:
        engine.sender.untagged(Op.SEND_SE if solicited else Op.SEND, views)
    return HELD


def _write(engine: RoceEngine, requester: "Requester", wr: SendWR) -> int:
    if wr.opcode == Opcode.ATOMIC_WRITE and not wr.sges:
        payload: tuple[list[memoryview], int] | int = ([memoryview((wr.swap % (1 << 64)).to_bytes(8, "little"))], 8)
    else:
        payload = payload_of(requester, wr)
    if isinstance(payload, int):
        return payload
    views, length = payload
    with_imm = wr.opcode == Opcode.WRITE_WITH_IMM
    kept, _ = _hold(engine, requester, wr, length, 1 + with_imm)
    if wr.flags & INLINE:
        views = gather(requester, kept) or []
    engine.sender.tagged(Op.WRITE, views, wr.rkey, wr.remote_addr)
    if with_imm:
        op = Op.IMMEDIATE_SE if wr.flags & SOLICITED else Op.IMMEDIATE
        engine.sender.untagged(op, [memoryview(IMMEDIATE.pack(0, wr.imm))])
    return HELD


def _read(engine: RoceEngine, requester: "Requester", wr: SendWR) -> int:
    dest = local_views(requester.qp, wr.sges, LOCAL_WRITE)
    if dest is None:
        return WcStatus.LOC_PROT_ERR
    length = sum(map(len, dest))
    if length > requester.max_msg:
        return WcStatus.LOC_LEN_ERR
    _, number = _hold(engine, requester, wr, length, by_ack=False)
    engine.orq.append(Outstanding(requester.flying[-1], False, number, 0, length))
    engine.sender.untagged(Op.READ_REQUEST, [memoryview(READ_REQUEST.pack(number, 0, length, wr.rkey, wr.remote_addr))])
    return HELD


def _atomic(engine: RoceEngine, requester: "Requester", wr: SendWR) -> int:
    if local_views(requester.qp, wr.sges, LOCAL_WRITE) is None:
        return WcStatus.LOC_PROT_ERR
    _, number = _hold(engine, requester, wr, 8, by_ack=False)
    engine.orq.append(Outstanding(requester.flying[-1], True, number, 0, 8))
    if wr.opcode == Opcode.FETCH_AND_ADD:
        fields = (FETCH_ADD, number, wr.rkey, wr.remote_addr, wr.compare_add & ALL_BITS, 0, 0, 0)
    else:
        fields = (CMP_SWAP, number, wr.rkey, wr.remote_addr, wr.swap & ALL_BITS, ALL_BITS, wr.compare_add & ALL_BITS, ALL_BITS)
    engine.sender.untagged(Op.ATOMIC_REQUEST, [memoryview(ATOMIC_REQUEST.pack(*fields))])
    return HELD


def _flush(engine: RoceEngine, requester: "Requester", wr: SendWR) -> int:
    _hold(engine, requester, wr, 0)
    engine.say(FLUSH, engine.number, wr)
    return HELD
