"""Sans-IO. One iWARP connection under a queue pair: its work requests become messages, the peer's messages become completions.

Theory of operation. The requester hands each SEND, WRITE, READ and atomic to the handlers of `operations.py`, which queue
messages at the `Sender` and hold the request open: a SEND or WRITE until the stream has its last byte, a READ or atomic until its
answer is placed; `orq` has those in order. What the `Receiver` parses is taken here:

    WRITE          checked against key, domain, permission, bounds, segment by segment, and placed
    SEND           takes a receive at its first segment, completes it at its last
    READ_REQUEST   becomes a READ response behind what is being sent; at most `ird` of them at a time
    READ_RESPONSE  must continue the oldest READ of `orq`, in whose memory it is placed
    others         short messages: atomics and their answers, immediates, Terminate

A segment that breaks a rule ends the stream: a Terminate says why, the queue pair goes to ERR and everything is flushed once.
Follows RFC 5040, RFC 7306 and Linux siw_qp_rx.c. Owns no payload memory.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from transport.rdma.enums import Access, EventType, MrState, Opcode, QPState, SendFlag, WcFlag, WcOpcode, WcStatus
from transport.rdma.iwarp.ddp import MAX_ULPDU, MSN_MASK, cut
from transport.rdma.iwarp.mpa import Crc, Rtr
from transport.rdma.iwarp.outstanding import Incoming, Outstanding, Watch
from transport.rdma.iwarp.rdmap import ATOMIC_REQUEST, ATOMIC_RESPONSE, CMP_SWAP, FETCH_ADD, IMMEDIATE, READ_REQUEST, Op, Queue
from transport.rdma.iwarp.receive import Place, Receiver
from transport.rdma.iwarp.send import Frame, Sender, empty_frame, untagged_frame
from transport.rdma.iwarp.terminate import TAGGED_BYTES, Cause, Refused, Terminate
from transport.rdma.operations import local_views
from transport.rdma.requester import Flight
from transport.rdma.sge import move
from transport.rdma.wr import RecvWR, SendWR

if TYPE_CHECKING:
    from transport.rdma.qp import QP

__all__ = ["Engine"]

REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC = int(Access.REMOTE_WRITE), int(Access.REMOTE_READ), int(Access.REMOTE_ATOMIC)
LOCAL_WRITE: Final = int(Access.LOCAL_WRITE)
SOLICITED: Final = int(SendFlag.SOLICITED)
END_U64: Final = 1 << 64
FIRST: Final = 1
"""The number of the first message of a queue."""
INVALIDATING: Final = frozenset({int(Op.SEND_INV), int(Op.SEND_SE_INV)})
SOLICITING: Final = frozenset(map(int, (Op.SEND_SE, Op.SEND_SE_INV, Op.IMMEDIATE_SE, Op.SEND_SE_IMM)))
ALIVE: Final = (QPState.RTR, QPState.RTS, QPState.SQD)


class Engine:
    """The protocol of one connection; it is the `link` of its queue pair.

    wake: called when there is something to send. on_end: called once, with the reason in words, before the queue pair is flushed.
    watch: is told of requests and receives, if set. terminated: the Terminate sent or received, if there was one; refused: it is
    ours. clean: the peer left between two messages. opening: a READ of nothing opens the connection and is not answered yet.
    """

    __slots__ = (
        "atomics", "clean", "expected", "ird", "is_server", "message", "on_end", "opening", "orq", "over", "qp", "receiver",
        "refused", "sender", "serving", "terminated", "watch", "write_over", "written",
    )  # fmt: skip

    def __init__(
        self, qp: "QP", crc: Crc | None, ird: int, is_server: bool, wake: Callable[[], None], mulpdu: int = MAX_ULPDU
    ) -> None:
        self.qp = qp
        self.ird = ird
        self.is_server = is_server
        self.sender = Sender(crc, wake, mulpdu)
        # The client speaks first, RFC 5044 7.1.2.
        self.sender.blocked = is_server
        self.receiver = Receiver(self, crc)
        self.expected = [FIRST] * len(Queue)
        self.orq: deque[Outstanding] = deque()
        self.opening = False
        self.serving = 0
        self.atomics = 0
        self.message: Incoming | None = None
        self.written = 0
        self.write_over = True
        self.terminated: Terminate | None = None
        self.over = False
        self.clean = False
        self.refused = False
        self.on_end: Callable[[str], None] | None = None
        self.watch: Watch | None = None

    # ---- the stream's side

    def wanted(self) -> list[memoryview] | None:
        """Return memory to receive into at once, or None when the stream is over."""
        try:
            return None if self.over else self.receiver.wanted()
        except Refused as refused:
            self._refuse(refused)
            return None

    def paused(self) -> None:
        """Take note that others have run since the last bytes were received."""
        self.receiver.paused()

    def received(self, count: int) -> None:
        """Take note of bytes received; 0 is the stream's end."""
        if not count:
            self.clean = not self.over and not self.receiver.midway
            self.lose("the peer closed the connection" if self.clean else "the peer broke the connection off")
            return
        try:
            self.receiver.received(count)
        except Refused as refused:
            self._refuse(refused)

    def batch(self) -> list[memoryview] | None:
        """Return what to send, empty when there is nothing, or None when the stream cannot go on."""
        batch = self.sender.batch()
        if batch is None:
            self.lose("memory that a READ was being answered from is gone")
        return batch

    def lose(self, reason: str) -> None:
        """End the connection without a Terminate: its stream is gone."""
        if not self.over:
            self._end(reason)

    def _refuse(self, refused: Refused) -> None:
        """End the connection with a Terminate."""
        if self.over:
            return
        receiver = self.receiver
        header = receiver.header
        whole = len(header) in (TAGGED_BYTES, TAGGED_BYTES + 4)
        self.refused = True
        self.terminated = Terminate(refused.cause, receiver.length, header if whole else b"", receiver.asked if whole else b"")
        body = memoryview(self.terminated.pack())
        frame = untagged_frame(self.sender.crc, Op.TERMINATE, True, 0, 1, 0, [body])
        self._end(f"refused what the peer sent: {self.terminated}", frame, refused.culprit, refused.event)

    def _end(
        self,
        reason: str,
        frame: Frame | None = None,
        culprit: Callable[[], None] | None = None,
        event: EventType = EventType.QP_FATAL,
    ) -> None:
        self.over = True
        self.sender.close(frame)
        if culprit is not None:
            culprit()
        if self.on_end is not None:
            self.on_end(reason)
        self.qp.fail(event)

    def lost(self) -> None:
        """See `Link`."""
        self.over = True
        self.sender.close()
        self.orq.clear()
        message, self.message = self.message, None
        if message is not None:
            self.qp.complete_recv(message.recv, WcStatus.WR_FLUSH_ERR)

    # ---- the requester's side

    def answered(self, flight: Flight, length: int, status: int = 0) -> None:
        """Complete a request that was held."""
        requester = self.qp.requester
        requester.moved = length
        requester.answered(flight, status)

    def next_atomic(self) -> int:
        """Return the id of the next atomic."""
        self.atomics = (self.atomics + 1) & MSN_MASK
        return self.atomics

    # ---- tagged segments

    def _alive(self) -> None:
        qp = self.qp
        if qp.state not in ALIVE:
            raise Refused(Cause.LOCAL_CATASTROPHIC)
        if not qp.established:
            qp.responder.establish()
        if self.sender.blocked and not self.opening:
            self._unblock()

    def _unblock(self) -> None:
        self.sender.blocked = False
        self.sender.wake()

    def open(self, rtr: Rtr) -> None:
        """Send the message that says "ready to receive", behind a peer-to-peer start that was settled."""
        if rtr.write:
            self.sender.tagged(Op.WRITE, [], 1, 0)
        elif rtr.read:
            self.sender.untagged(Op.READ_REQUEST, [memoryview(READ_REQUEST.pack(1, 0, 0, 1, 0))])
            self.opening = self.sender.blocked = True  # until it is answered, for it is one of the READs that the peer takes
        else:
            self.sender.put(iter((empty_frame(self.sender.crc),)))

    def empty(self) -> None:
        """See `Taker`: the message that says "ready to receive"."""
        self._alive()

    def tagged(self, op: int, last: bool, stag: int, to: int, length: int) -> Place:
        """See `Taker`."""
        self._alive()
        if op == Op.WRITE:
            return self._write(last, stag, to, length)
        return self._read_response(last, stag, to, length)

    def _write(self, last: bool, stag: int, to: int, length: int) -> Place:
        qp = self.qp

        def resolve(off: int) -> list[memoryview]:
            if not qp.attr.access_flags & REMOTE_WRITE:
                raise Refused(Cause.PROTECTION_ACCESS, event=EventType.QP_ACCESS_ERR)
            views = qp.responder.remote_views(stag, to + off, length - off, REMOTE_WRITE)
            if views is None:
                raise self._fault(stag, to, length, REMOTE_WRITE, Cause.TAGGED_STAG)
            return views

        def finish() -> None:
            self.written += length

        views = resolve(0) if length else []
        if self.write_over:
            self.written = 0
        self.write_over = last
        return Place(length, views, resolve, finish)

    def _read_response(self, last: bool, stag: int, to: int, length: int) -> Place:
        if self.opening:
            if length or not last or stag != 1:
                raise Refused(Cause.TAGGED_BOUNDS)
            return Place(0, [], lambda _: [], self._opened)
        head = self.orq[0] if self.orq else None
        if head is None or head.atomic:
            raise Refused(Cause.OPERATION_OPCODE)
        if stag != head.stag:
            raise Refused(Cause.TAGGED_STAG)
        if to != head.to + head.placed or length > head.length - head.placed or last != (head.placed + length == head.length):
            raise Refused(Cause.TAGGED_BOUNDS)

        def finish() -> None:
            head.placed += length
            if last:
                self.orq.popleft()
                self.answered(head.flight, head.length)

        start = head.placed

        def resolve(off: int) -> list[memoryview]:
            return self.sink(head, start + off, length - off)

        return Place(length, resolve(0) if length else [], resolve, finish)

    def _opened(self) -> None:
        self.opening = False
        self._unblock()

    def sink(self, head: Outstanding, off: int, length: int) -> list[memoryview]:
        """Return a part of the memory that a READ fills. Raises: Refused when it is gone."""
        qp = self.qp
        mr = qp.device.mrs.get(head.stag)
        out: list[memoryview] = []
        needed = REMOTE_WRITE if qp.requester.iwarp else LOCAL_WRITE
        good = mr is not None and mr.state is MrState.VALID and mr.pd is qp.pd and mr.access & needed
        if mr is None or not good or not mr.covers(head.to + off, length):
            raise Refused(Cause.TAGGED_STAG, partial(self.answered, head.flight, 0, WcStatus.LOC_QP_OP_ERR))
        mr.append_views(head.to + off, length, out)
        return out

    def _fault(self, stag: int, to: int, length: int, access: int, base: Cause) -> Refused:
        """Return the refusal of a one-sided request; the owner of the queue pair is told by an event."""
        return Refused(self._why(stag, to, length, access, base), event=EventType.QP_ACCESS_ERR)

    def _why(self, stag: int, to: int, length: int, access: int, base: Cause) -> Cause:
        """Say why a range of a region or window may not be used, in the codes of the layer `base` is of."""
        qp = self.qp
        mr = qp.device.mrs.get(stag)
        mw = qp.device.mws.get(stag) if mr is None else None
        if mw is not None:
            mr = mw.mr
        if mr is None or mr.state is not MrState.VALID:
            return base
        tagged = base is Cause.TAGGED_STAG
        if mr.pd is not qp.pd:
            return Cause.TAGGED_STREAM if tagged else Cause.PROTECTION_STREAM
        if mw is None and access & ~mr.access:
            return Cause.PROTECTION_ACCESS
        if to + length > END_U64:
            return Cause.TAGGED_WRAP if tagged else Cause.PROTECTION_WRAP
        return Cause.TAGGED_BOUNDS if tagged else Cause.PROTECTION_BOUNDS

    # ---- untagged messages

    def _number(self, queue: int, msn: int) -> None:
        if msn != self.expected[queue]:
            raise Refused(Cause.UNTAGGED_MSN)
        self.expected[queue] = (msn + 1) & MSN_MASK

    def send(self, op: int, last: bool, ulp: int, msn: int, mo: int, length: int) -> Place:
        """See `Taker`."""
        self._alive()
        message = self.message
        if message is None:
            self._number(Queue.SEND, msn)
            if mo:
                raise Refused(Cause.UNTAGGED_MO)
            recv = self._take_recv()
            message = self.message = Incoming(recv, op, sum(sge.length for sge in recv.sges))
        elif op != message.op or (msn + 1) & MSN_MASK != self.expected[Queue.SEND]:
            raise Refused(Cause.UNTAGGED_MSN)
        elif mo != message.placed:
            raise Refused(Cause.UNTAGGED_MO)
        if mo + length > message.capacity:
            raise self._failed_recv(WcStatus.LOC_LEN_ERR, Cause.UNTAGGED_TOO_LONG)
        resolve = partial(self._recv_views, message, mo, length, last)
        views = resolve(0) if length else []
        return Place(length, views, resolve, partial(self._sent_in, message, ulp, last, length))

    def _take_recv(self) -> RecvWR:
        recv = self.qp.take_recv()
        if recv is None:
            raise Refused(Cause.UNTAGGED_NO_BUFFER, event=EventType.QP_REQ_ERR)
        if self.watch is not None:
            self.watch.took(recv)
        return recv

    def _failed_recv(self, status: int, cause: Cause) -> Refused:
        """Return the refusal of a message whose receive completes with an error."""
        message, self.message = self.message, None
        assert message is not None
        return Refused(cause, partial(self.qp.complete_recv, message.recv, status))

    def _recv_views(self, message: Incoming, mo: int, length: int, last: bool, off: int) -> list[memoryview]:
        """Look up the rest of a segment's place; a message whose length is not known yet must fit the whole receive."""
        known = mo + length if last else message.capacity
        views: list[memoryview] = []
        if self.qp.responder.recv_views(message.recv, known, views):
            raise self._failed_recv(WcStatus.LOC_PROT_ERR, Cause.LOCAL_CATASTROPHIC)
        start, left = mo + off, length - off
        out: list[memoryview] = []
        for view in views:
            if start >= len(view):
                start -= len(view)
                continue
            piece = view[start : start + left]
            out.append(piece)
            left -= len(piece)
            start = 0
            if not left:
                break
        return out

    def _sent_in(self, message: Incoming, ulp: int, last: bool, length: int) -> None:
        message.placed += length
        if not last:
            return
        qp = self.qp
        flags = imm = 0
        if message.op in INVALIDATING:
            if qp.responder.invalidate(ulp, remote=True):
                raise self._failed_recv(WcStatus.REM_INV_REQ_ERR, Cause.PROTECTION_INVALIDATE)
            flags, imm = int(WcFlag.WITH_INV), ulp
        elif message.op in (Op.SEND_IMM, Op.SEND_SE_IMM):
            flags, imm = int(WcFlag.WITH_IMM), ulp
        self.message = None
        self.written = 0
        qp.complete_recv(message.recv, 0, WcOpcode.RECV, message.placed, flags, imm, message.op in SOLICITING)

    def control(self, op: int, msn: int, body: bytes) -> None:
        """See `Taker`."""
        if op == Op.TERMINATE:
            self._terminate(msn, body)
            return
        self._alive()
        if op == Op.READ_REQUEST:
            self._number(Queue.REQUEST, msn)
            self._read_request(*READ_REQUEST.unpack(body))
        elif op == Op.ATOMIC_REQUEST:
            self._number(Queue.REQUEST, msn)
            self._atomic_request(msn, *ATOMIC_REQUEST.unpack(body))
        elif op == Op.ATOMIC_RESPONSE:
            self._number(Queue.ATOMIC, msn)
            self._atomic_response(*ATOMIC_RESPONSE.unpack(body))
        else:
            self._immediate(op, msn, body)

    def _immediate(self, op: int, msn: int, body: bytes) -> None:
        if self.message is not None:
            raise Refused(Cause.UNTAGGED_MSN)
        self._number(Queue.SEND, msn)
        recv = self._take_recv()
        length, self.written = self.written, 0
        imm = IMMEDIATE.unpack(body)[1]
        self.qp.complete_recv(recv, 0, WcOpcode.RECV_RDMA_WITH_IMM, length, int(WcFlag.WITH_IMM), imm, op in SOLICITING)

    def _terminate(self, msn: int, body: bytes) -> None:
        self._number(Queue.TERMINATE, msn)
        self.terminated = Terminate.unpack(body)
        culprit = None
        if self.orq:
            # Who had asked for something learns it there; a SEND or WRITE is complete already.
            culprit = partial(self.answered, self.orq[0].flight, 0, WcStatus.GENERAL_ERR)
        self._end(f"the peer refused what was sent: {self.terminated or 'a Terminate without a reason'}", culprit=culprit)

    # ---- one-sided requests that are answered

    def _serve(self) -> None:
        """Count a request that needs an answer."""
        if self.serving >= self.ird:
            raise Refused(Cause.OPERATION_STREAM)
        self.serving += 1

    def _served(self) -> None:
        self.serving -= 1

    def _read_request(self, sink_stag: int, sink_to: int, length: int, stag: int, to: int) -> None:
        self._serve()
        qp = self.qp
        sender = self.sender
        opens = not length and self.expected[Queue.REQUEST] == FIRST + 1  # it may be how the peer opens, for which nobody asks
        if not qp.attr.access_flags & REMOTE_READ and not opens:
            raise Refused(Cause.PROTECTION_ACCESS, event=EventType.QP_ACCESS_ERR)
        views = qp.responder.remote_views(stag, to, length, REMOTE_READ) if length else []
        if views is None:
            raise self._fault(stag, to, length, REMOTE_READ, Cause.PROTECTION_STAG)
        source = views

        def readable() -> bool:
            return not length or qp.responder.remote_views(stag, to, length, REMOTE_READ) is not None

        def frames() -> Iterator[Frame]:
            for off, count, pieces, last in cut(source, sender.room_tagged):
                if not readable():
                    # Memory that is gone is not read any more, not even for a checksum; the same check ends the stream.
                    pieces, count = [], 0
                frame = sender.tagged_frame(Op.READ_RESPONSE, last, sink_stag, sink_to + off, pieces, count)
                frame.check = readable
                yield frame

        sender.put(frames(), self._served, tagged=True, answer=True)

    def _atomic_request(
        self, msn: int, kind: int, number: int, stag: int, to: int, add_swap: int, mask: int, compare: int, compare_mask: int
    ) -> None:
        del mask, compare_mask  # masked atomics are not offered; peers that do not know them send all ones
        self._serve()
        kind &= 15
        if kind not in (FETCH_ADD, CMP_SWAP):
            raise Refused(Cause.OPERATION_OPCODE)
        wr = SendWR(0, Opcode.FETCH_AND_ADD, (), 0, to, stag, compare_add=add_swap)
        if kind == CMP_SWAP:
            wr = SendWR(0, Opcode.CMP_AND_SWP, (), 0, to, stag, compare_add=compare, swap=add_swap)
        qp = self.qp
        if not qp.attr.access_flags & REMOTE_ATOMIC:
            raise Refused(Cause.PROTECTION_ACCESS, event=EventType.QP_ACCESS_ERR)
        if to & 7 or qp.responder.remote_views(stag, to, 8, REMOTE_ATOMIC) is None:
            raise self._fault(stag, to, 8, REMOTE_ATOMIC, Cause.PROTECTION_STAG)
        _, old = qp.responder.atomic(wr, msn, False, 0)
        body = ATOMIC_RESPONSE.pack(number, int.from_bytes(old, "little"))
        self.sender.untagged(Op.ATOMIC_RESPONSE, [memoryview(body)], done=self._served, answer=True)

    def _atomic_response(self, number: int, old: int) -> None:
        head = self.orq[0] if self.orq else None
        if head is None or not head.atomic or head.stag != number:
            raise Refused(Cause.OPERATION_OPCODE)
        self.orq.popleft()
        dest = local_views(self.qp, head.flight.wr.sges, LOCAL_WRITE)
        if dest is None:
            raise Refused(Cause.LOCAL_CATASTROPHIC, partial(self.answered, head.flight, 0, WcStatus.LOC_QP_OP_ERR))
        move(dest, [memoryview(old.to_bytes(8, "little"))])
        self.answered(head.flight, 8)
