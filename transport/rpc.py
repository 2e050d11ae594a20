"""Sans-IO. Both ends of a connection as pure decisions: the client's call table with its credits, the server's pending replies.

A shell moves bytes: it receives into `reader.buffers()`, reports with `reader.received()`, calls `process()`, and sends what
`writer` holds, reporting with `sent()`. Everything else happens here.

A client's call goes through the states of `CALL_STATES`. QUEUED waits for a credit. SENDING has a place in the writer and is
sent whole whatever happens, so its payload stays lent; ENDING is the same after `abandon()`. SENT waits for its reply,
RECEIVING has part of it in `dest`. ABANDONED has told its caller and keeps its credit until the reply, which is dropped, came.
`done` is called on the transitions marked so in the table and on no other, hence exactly once. A server answers a request
only when it has taken in all of it; a reply to a call that is still SENDING is a breach of the protocol.

Ownership: `source` and `dest` are the caller's and lent until `done`; a reply's source is the handler's and lent until `release`.
Cursors of lent iterators are not moved.
"""

import errno
from collections import deque
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Final

from iov.extract import peek_segments
from iov.iov_iter import IovIter, IterType
from iov.probe import Probe
from transport.base import Done, FileRange, Handler, Landing, Limits, Outcome, Release, Reply
from transport.codec import decode_reply, decode_request, encode_reply, encode_request
from transport.errors import ProtocolError, TransportError
from transport.framing import (
    BIG_PAYLOAD,
    HEADER,
    LARGE_WINDOW,
    SMALL_WINDOW,
    Frame,
    FrameKind,
    FrameReader,
    FrameWriter,
    pack_header,
)
from transport.messages import REQUEST_PAYLOAD, Body, Op, Request, is_idempotent, name_of

__all__ = ["CALL_STATES", "Call", "CallEvent", "CallState", "ClientConnection", "ServerCall", "ServerConnection", "Spawn"]

SEND_AHEAD: Final = 256 << 10
"""Calls stay QUEUED, where they can be withdrawn, while more bytes than this wait for the stream."""
SERVER_WINDOW: Final = 64 << 10
_MAX_XID: Final = 0xFFFFFFFF


class CallState(IntEnum):
    """Where a call is."""

    QUEUED = 0
    SENDING = 1
    ENDING = 2
    SENT = 3
    RECEIVING = 4
    ABANDONED = 5
    DONE = 6


class CallEvent(IntEnum):
    """What happens to a call."""

    TAKEN = 0
    WENT = 1
    REPLY_BEGINS = 2
    REPLY_ENDS = 3
    ABANDON = 4
    LOST = 5


_S, _E = CallState, CallEvent
CALL_STATES: Final[dict[tuple[CallState, CallEvent], tuple[CallState, bool]]] = {
    # state, event: next state, whether `done` is due
    (_S.QUEUED, _E.TAKEN): (_S.SENDING, False),
    (_S.QUEUED, _E.ABANDON): (_S.DONE, True),
    (_S.QUEUED, _E.LOST): (_S.DONE, True),
    (_S.SENDING, _E.WENT): (_S.SENT, False),
    (_S.SENDING, _E.ABANDON): (_S.ENDING, False),
    (_S.SENDING, _E.LOST): (_S.DONE, True),
    (_S.ENDING, _E.WENT): (_S.ABANDONED, True),
    (_S.ENDING, _E.ABANDON): (_S.ENDING, False),
    (_S.ENDING, _E.LOST): (_S.DONE, True),
    (_S.SENT, _E.REPLY_BEGINS): (_S.RECEIVING, False),
    (_S.SENT, _E.REPLY_ENDS): (_S.DONE, True),
    (_S.SENT, _E.ABANDON): (_S.ABANDONED, True),
    (_S.SENT, _E.LOST): (_S.DONE, True),
    (_S.RECEIVING, _E.REPLY_ENDS): (_S.DONE, True),
    (_S.RECEIVING, _E.ABANDON): (_S.ABANDONED, True),
    (_S.RECEIVING, _E.LOST): (_S.DONE, True),
    (_S.ABANDONED, _E.REPLY_BEGINS): (_S.ABANDONED, False),
    (_S.ABANDONED, _E.REPLY_ENDS): (_S.DONE, False),
    (_S.ABANDONED, _E.ABANDON): (_S.ABANDONED, False),
    (_S.ABANDONED, _E.LOST): (_S.DONE, False),
    (_S.DONE, _E.ABANDON): (_S.DONE, False),
}
_NEXT: Final = tuple(tuple(CALL_STATES.get((state, event)) for event in CallEvent) for state in CallState)
_TAKEN, _WENT, _REPLY_BEGINS, _REPLY_ENDS, _ABANDON, _LOST = CallEvent
_ABANDONED: Final = CallState.ABANDONED
_AWAIT: Final = Op.AWAIT


class Call:
    """A client's call; `abandon()` is all that its caller uses."""

    __slots__ = (
        "_abandon",
        "_done",
        "big",
        "dest",
        "head",
        "op",
        "payload",
        "payload_length",
        "reply",
        "request",
        "state",
        "xid",
    )

    def __init__(
        self, request: Request, xid: int, head: bytes, payload: list[memoryview] | None, payload_length: int,
        dest: IovIter | None, done: Done, abandon: "Callable[[Call], None]",
    ) -> None:  # fmt: skip
        self.op = request.op
        self.request = request
        self.xid = xid
        self.head = head
        self.payload = payload
        self.payload_length = payload_length
        self.dest = dest
        self.big = dest is not None and dest.count >= BIG_PAYLOAD
        self._done: Done | None = done
        self.reply: Reply | None = None
        self.state = CallState.QUEUED
        self._abandon = abandon

    def abandon(self) -> None:
        """Ask that the call end soon, as the transport's contract says."""
        self._abandon(self)

    def done(self, outcome: Outcome) -> None:
        """Tell the caller, and forget its memory, which a kept call would otherwise hold."""
        done, self._done = self._done, None
        assert done is not None, "a call ends once"
        self.dest = self.payload = None
        done(outcome)

    def step(self, event: CallEvent) -> bool:
        """Move by the table. Returns: whether `done` is due. Raises: ProtocolError for what cannot happen in this state."""
        step = _NEXT[self.state][event]
        if step is None:
            raise ProtocolError(f"a reply to call {self.xid}, which is {self.state.name}")
        self.state, due = step
        return due


class ClientConnection:
    """The client's end of one connection.

    error: why the connection is over, or None. in_flight: calls that hold a credit and whose answer is on its way; a callback
    that was lent to the server is answered when something happens, and does not count.
    """

    __slots__ = ("_big", "_landing", "_lent", "_limits", "_probe", "_queue", "_table", "_xid", "error", "reader", "writer")

    def __init__(self, limits: Limits, probe: Probe) -> None:
        self._limits = limits
        self._probe = probe
        self._queue: deque[Call] = deque()
        self._table: dict[int, Call] = {}
        self._xid = 0
        self._big = 0
        self._lent = 0
        self._landing: Call | None = None
        self.error: TransportError | None = None
        self.reader = FrameReader(FrameKind.REPLY, limits, probe, LARGE_WINDOW, LARGE_WINDOW)
        self.writer: FrameWriter[Call] = FrameWriter()
        probe.emit("connection", "open", "stream", 0)

    @property
    def in_flight(self) -> int:
        return len(self._table) - self._lent

    def submit(self, request: Request, done: Done, source: IovIter | None, dest: IovIter | None) -> Call:
        """Queue a call. On a connection that is over, or for a body that is too long, `done` is called at once.

        Raises: ValueError for a payload the limits or the operation do not allow; OSError(EFAULT) for a device's memory.
        """
        body = encode_request(request)
        op = request.op
        if dest is not None:
            dest.refuse_device_memory()
        payload: list[memoryview] | None = None
        length = 0
        if source is not None and source.count:
            length = source.count
            if op not in REQUEST_PAYLOAD or length > self._limits.max_payload:
                raise ValueError(f"{op.name} with {length} bytes of payload")
            payload = peek_segments(source, length)
            if len(payload) > self._limits.max_segs:
                raise ValueError(f"a payload of {len(payload)} segments, at most {self._limits.max_segs} were agreed")
        self._xid = xid = self._new_xid()
        head = pack_header(FrameKind.REQUEST, op, xid, 0, len(body), length) + body
        call = Call(request, xid, head, payload, length, dest, done, self.abandon)
        error = self.error
        if error is None and len(body) > self._limits.max_body:
            error = TransportError(errno.EMSGSIZE, f"{op.name} is too long for one message")
        if error is not None:
            call.step(_LOST)
            call.done(TransportError(error.errno, str(error), retryable=self.error is not None))
        else:
            self._queue.append(call)
        return call

    def _new_xid(self) -> int:
        xid = (self._xid + 1) & _MAX_XID
        while xid in self._table:
            xid = (xid + 1) & _MAX_XID
        return xid

    def fill(self) -> None:
        """Move calls to the writer as credits and SEND_AHEAD allow."""
        queue, table, writer = self._queue, self._table, self.writer
        while queue and len(table) < self._limits.credits and writer.pending < SEND_AHEAD:
            call = queue.popleft()
            call.step(_TAKEN)
            table[call.xid] = call
            if call.big:
                self._big += 1
                self.reader.ceiling = SMALL_WINDOW
            if call.op is _AWAIT:
                self._lent += 1
            probe = self._probe
            probe.messages += 1
            if probe.sink is not None:
                probe.sink("call_sent", (call.xid, name_of(call.request), len(call.head) - HEADER.size, call.payload_length))
            writer.add(call.head, call.payload, call.payload_length, call)

    def sent(self, length: int) -> None:
        """Note that `length` bytes of the writer's went out."""
        for call in self.writer.sent(length):
            if call.step(_WENT):
                call.done(_cancelled())

    def abandon(self, call: Call) -> None:
        """End a call early, as the transport's contract says."""
        before = call.state
        if call.step(_ABANDON):
            if before is CallState.QUEUED:
                self._queue.remove(call)
            elif before is CallState.RECEIVING:
                self.reader.redirect()
            call.done(_cancelled())

    def process(self, most: int) -> bool:
        """Take in up to `most` of the replies received. Returns: whether there may be more.

        Raises: ProtocolError when the server broke the protocol.
        """
        reader = self.reader
        for _ in range(most):
            if self.error is not None:
                return False
            frame = reader.next()
            if frame is None:
                return False
            if frame.landed:
                call, self._landing = self._landing, None
                assert call is not None
                self._end(call, call.reply)
            else:
                self._begin(frame)
        return True

    def _begin(self, frame: Frame) -> None:
        call = self._table.get(frame.xid)
        if call is None or call.op is not frame.op:
            raise ProtocolError(f"a {frame.op.name} reply to call {frame.xid}, which is not open")
        self._probe.messages += 1
        length = frame.payload_length
        status = frame.status
        reply = Reply(status, None if status else decode_reply(frame.op, frame.body, self._limits), None, None, length)
        if length and not self.reader.land(frame, self._landing_of(call, length)):
            call.step(_REPLY_BEGINS)
            call.reply = reply
            self._landing = call
            return
        self._end(call, reply)

    def _landing_of(self, call: Call, length: int) -> list[memoryview] | None:
        if call.state is _ABANDONED:
            return None
        dest = call.dest
        if dest is None or length > dest.count:
            raise ProtocolError(f"{length} bytes of payload for {call.op.name}, which has room for {dest.count if dest else 0}")
        return None if dest.iter_type is IterType.DISCARD else peek_segments(dest, length)

    def _end(self, call: Call, reply: Reply | None) -> None:
        due = call.step(_REPLY_ENDS)
        del self._table[call.xid]
        if call.op is _AWAIT:
            self._lent -= 1
        if call.big:
            self._big -= 1
            if not self._big:
                self.reader.ceiling = LARGE_WINDOW
        assert reply is not None
        sink = self._probe.sink
        if sink is not None:
            sink("reply_received", (call.xid, name_of(call.request), reply.status, reply.received))
        if due:
            call.done(reply)

    def lost(self, error: TransportError) -> None:
        """End every call with the error; it is retryable for a call that may be made again. Idempotent."""
        if self.error is not None:
            return
        self.error = error
        self._probe.emit("connection", "closed", "stream", error.errno or errno.EIO)
        self.reader.redirect()
        self.writer.lost()
        calls = [*self._table.values(), *self._queue]
        self._table.clear()
        self._queue.clear()
        self._lent = 0
        for call in calls:
            retryable = call.state is CallState.QUEUED or is_idempotent(call.request)
            outcome: Outcome = (
                _cancelled() if call.state is CallState.ENDING else TransportError(error.errno, str(error), retryable=retryable)
            )
            if call.step(_LOST):
                call.done(outcome)


def _cancelled() -> TransportError:
    return TransportError(errno.ECANCELED, "the call was abandoned")


# ---- the server's end


class ServerCall:
    """A request being served."""

    __slots__ = ("landing", "op", "refused", "release", "request", "xid")

    def __init__(self, op: Op, xid: int, request: Request) -> None:
        self.op = op
        self.xid = xid
        self.request = request
        self.landing: Landing | None = None
        self.refused = 0
        self.release: Release | None = None


Spawn = Callable[[ServerCall, Awaitable[Reply]], None]


class ServerConnection:
    """The server's end of one connection.

    spawn: starts a task that awaits a handler's reply and calls `answer`. in_flight: requests whose reply has not gone.
    """

    __slots__ = ("_handler", "_landing", "_limits", "_over", "_probe", "_spawn", "in_flight", "reader", "writer")

    def __init__(self, handler: Handler, limits: Limits, probe: Probe, spawn: Spawn) -> None:
        self._handler = handler
        self._limits = limits
        self._probe = probe
        self._spawn = spawn
        self._landing: ServerCall | None = None
        self._over = False
        self.in_flight = 0
        self.reader = FrameReader(FrameKind.REQUEST, limits, probe, SMALL_WINDOW, SERVER_WINDOW)
        self.writer: FrameWriter[ServerCall] = FrameWriter()
        probe.emit("connection", "open", "stream", 0)

    def process(self, most: int, max_pending: int) -> bool:
        """Serve up to `most` of the requests received, while at most `max_pending` bytes of replies wait.

        Returns: whether there may be more. Raises: ProtocolError when the client broke the protocol.
        """
        reader, writer = self.reader, self.writer
        for _ in range(most):
            if writer.pending > max_pending:
                return True
            frame = reader.next()
            if frame is None:
                return False
            if frame.landed:
                call, self._landing = self._landing, None
                assert call is not None
                self._handle(call)
            else:
                self._begin(frame)
        return True

    def _begin(self, frame: Frame) -> None:
        if self.in_flight >= self._limits.credits:
            raise ProtocolError(f"more than {self._limits.credits} calls in flight")
        request = decode_request(frame.op, frame.body, self._limits)
        self._probe.messages += 1
        self.in_flight += 1
        call = ServerCall(frame.op, frame.xid, request)
        length = frame.payload_length
        sink = self._probe.sink
        if sink is not None:
            sink("call_received", (frame.xid, name_of(request), length))
        if length and not self.reader.land(frame, self._admit(call, length)):
            self._landing = call
            return
        self._handle(call)

    def _admit(self, call: ServerCall, length: int) -> list[memoryview] | None:
        landing = self._handler.admit(call.request, length)
        if isinstance(landing, int):
            call.refused = landing
            return None
        if landing.iter.count < length:
            raise ValueError(f"a landing of {landing.iter.count} bytes for {length} bytes of payload")
        call.landing = landing
        return None if landing.iter.iter_type is IterType.DISCARD else peek_segments(landing.iter, length)

    def _handle(self, call: ServerCall) -> None:
        if call.refused:
            self.answer(call, Reply(call.refused))
            return
        reply = self._handler.handle(call.request, call.landing)
        call.landing = None
        if isinstance(reply, Reply):
            self.answer(call, reply)
        else:
            self._spawn(call, reply)

    def answer(self, call: ServerCall, reply: Reply) -> None:
        """Queue a reply; on a connection that is over its source is released at once."""
        call.release = reply.release
        if self._over:
            _release(call)
            return
        status, body = reply.status, b""
        payload: list[memoryview] | FileRange | None = None
        length = 0
        if not status:
            body = encode_reply(_body_of(reply))
            source = reply.source
            if isinstance(source, IovIter):
                length = source.count
                payload = peek_segments(source, length)
            elif source is not None and source.length:
                length = source.length
                payload = source
            if length > self._limits.max_payload:
                raise ValueError(f"a reply of {length} bytes, at most {self._limits.max_payload} were agreed")
            if len(body) > self._limits.max_body:
                status, body, payload, length = errno.EMSGSIZE, b"", None, 0
        head = pack_header(FrameKind.REPLY, call.op, call.xid, status, len(body), length) + body
        probe = self._probe
        probe.messages += 1
        if probe.sink is not None:
            probe.sink("reply_sent", (call.xid, name_of(call.request), status, length))
        self.writer.add(head, payload, length, call)

    def sent(self, length: int) -> None:
        """Note that `length` bytes of the writer's went out."""
        for call in self.writer.sent(length):
            self.in_flight -= 1
            _release(call)

    def lost(self) -> None:
        """Give back everything; what is answered later is released at once. Idempotent."""
        if not self._over:
            self._probe.emit("connection", "closed", "stream", 0)
        self._over = True
        self.reader.redirect()
        call, self._landing = self._landing, None
        if call is not None and call.landing is not None and call.landing.release is not None:
            call.landing.release()
        for call in self.writer.lost():
            _release(call)


def _body_of(reply: Reply) -> Body:
    if reply.body is None:
        raise ValueError("a reply without an error needs a body")
    return reply.body


def _release(call: ServerCall) -> None:
    release, call.release = call.release, None
    if release is not None:
        release()
