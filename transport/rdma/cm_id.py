"""Sans-IO. An identifier of the connection manager: rdma_cm's states and events, on the start-up frames of MPA.

Theory of operation. An identifier goes through `TABLE`: a step, taken by the program or by the network, leads from one state to
the next and says which event the program is told. Steps that the table does not have are errors of the program (EINVAL) or, from
the network, of no consequence.

    connecting   IDLE -> ADDR_QUERY -> ADDR_RESOLVED -> ROUTE_RESOLVED -> CONNECTING -> ESTABLISHED -> DISCONNECTED
    listening    IDLE -> LISTENING;    each client is one of its own: IDLE -> REQUESTED -> ESTABLISHED -> DISCONNECTED

A request and its answer are MPA frames: `connect` and `accept` or `reject` return what to send, `feed` takes what comes,
never more than `need`, so that whatever is glued to a frame stays in the stream. A program that brings its queue pair up itself
(`external`) is told CONNECT_RESPONSE instead of ESTABLISHED and says `establish` when it is ready.
Read depths are told as they concern the one who is told: `ird`, READs to be ready for, is what the peer will have open.
Follows Linux cma.c, iwcm.c and siw_cm.c, RFC 5044 7 and RFC 6581. Owns no memory.
"""

import errno
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from transport.rdma.errors import VerbsError
from transport.rdma.iwarp.mpa import MAX_PRIVATE, ROCE_MARK, MpaError, Settled, StartFrame, StartReader, answer, find_crc, settle
from transport.rdma.iwarp.rdmap import Op
from transport.rdma.iwarp.send import untagged_frame
from transport.rdma.iwarp.terminate import Cause, Terminate

__all__ = ["TABLE", "CmEvent", "CmEventType", "CmId", "CmParam", "CmState", "CmStep"]


class CmState(IntEnum):
    """Where an identifier is."""

    IDLE = 0
    ADDR_QUERY = 1
    ADDR_RESOLVED = 2
    ROUTE_RESOLVED = 3
    CONNECTING = 4
    RESPONDED = 5
    LISTENING = 6
    REQUESTED = 7
    ESTABLISHED = 8
    REJECTED = 9
    FAILED = 10
    DISCONNECTED = 11


class CmEventType(IntEnum):
    """What a program is told, with librdmacm's numbers."""

    ADDR_RESOLVED = 0
    ADDR_ERROR = 1
    ROUTE_RESOLVED = 2
    CONNECT_REQUEST = 4
    CONNECT_RESPONSE = 5
    CONNECT_ERROR = 6
    UNREACHABLE = 7
    REJECTED = 8
    ESTABLISHED = 9
    DISCONNECTED = 10


class CmStep(IntEnum):
    """What happens to an identifier; the first ones are the program's, the others the network's."""

    RESOLVE_ADDR = 0
    RESOLVE_ROUTE = 1
    CONNECT = 2
    ESTABLISH = 3
    LISTEN = 4
    ACCEPT = 5
    REJECT = 6
    DISCONNECT = 7
    ADDR_FOUND = 8
    ADDR_LOST = 9
    UNREACHED = 10
    BROKEN = 11
    REQUEST = 12
    REPLY = 13
    RESPONSE = 14
    REJECTION = 15
    ENDED = 16


S, E, P = CmState, CmEventType, CmStep
TABLE: Final[dict[tuple[CmState, CmStep], tuple[CmState, CmEventType | None]]] = {
    (S.IDLE, P.RESOLVE_ADDR): (S.ADDR_QUERY, None),
    (S.ADDR_QUERY, P.ADDR_FOUND): (S.ADDR_RESOLVED, E.ADDR_RESOLVED),
    (S.ADDR_QUERY, P.ADDR_LOST): (S.FAILED, E.ADDR_ERROR),
    (S.ADDR_RESOLVED, P.RESOLVE_ROUTE): (S.ROUTE_RESOLVED, E.ROUTE_RESOLVED),
    (S.ROUTE_RESOLVED, P.CONNECT): (S.CONNECTING, None),
    (S.CONNECTING, P.UNREACHED): (S.FAILED, E.UNREACHABLE),
    (S.CONNECTING, P.BROKEN): (S.FAILED, E.CONNECT_ERROR),
    (S.CONNECTING, P.REJECTION): (S.REJECTED, E.REJECTED),
    (S.CONNECTING, P.REPLY): (S.ESTABLISHED, E.ESTABLISHED),
    (S.CONNECTING, P.RESPONSE): (S.RESPONDED, E.CONNECT_RESPONSE),
    (S.CONNECTING, P.DISCONNECT): (S.DISCONNECTED, None),
    (S.RESPONDED, P.ESTABLISH): (S.ESTABLISHED, None),
    (S.RESPONDED, P.DISCONNECT): (S.DISCONNECTED, E.DISCONNECTED),
    (S.RESPONDED, P.ENDED): (S.DISCONNECTED, E.DISCONNECTED),
    (S.IDLE, P.LISTEN): (S.LISTENING, None),
    (S.IDLE, P.REQUEST): (S.REQUESTED, E.CONNECT_REQUEST),
    (S.IDLE, P.BROKEN): (S.FAILED, None),
    (S.REQUESTED, P.ACCEPT): (S.ESTABLISHED, E.ESTABLISHED),
    (S.REQUESTED, P.REJECT): (S.REJECTED, None),
    (S.REQUESTED, P.BROKEN): (S.FAILED, None),
    (S.ESTABLISHED, P.DISCONNECT): (S.DISCONNECTED, E.DISCONNECTED),
    (S.ESTABLISHED, P.ENDED): (S.DISCONNECTED, E.DISCONNECTED),
    (S.DISCONNECTED, P.DISCONNECT): (S.DISCONNECTED, None),
}
"""State and step: the next state, and the event it is told by."""


@dataclass(frozen=True, slots=True)
class CmParam:
    """What one side offers. ird: READs it answers at a time; ord: READs it will have open; crc: checksums are to be used.

    least_ord: of who connects: fewer READs than this are of no use to it. roce: RoCE's rules are wanted, and kept to if both want
    them; None: as the queue pair's device has it. rnr_retry: how often to try again then where the peer has no receive.
    """

    private: bytes = b""
    ird: int = 1
    ord: int = 1
    crc: bool = False
    least_ord: int = 0
    roce: bool | None = None
    rnr_retry: int = 7


@dataclass(frozen=True, slots=True)
class CmEvent:
    """Something to be told. status: an errno, or 0. private, ird, ord: what the peer said, where an event of its frame is."""

    type: CmEventType
    status: int = 0
    private: bytes = b""
    ird: int = 0
    ord: int = 0


class CmId:
    """An identifier: a program's end of a connection, or its listener. external: the program brings the queue pair up.

    events: told in order; settled: what both keep to, once they agree; error: why it failed, in words; parting: what is to be
    sent before the stream is closed then, a Terminate or nothing.
    """

    __slots__ = (
        "_least_ord", "_reader", "error", "events", "external", "parting", "reply", "request", "settled", "state",
    )  # fmt: skip

    def __init__(self, *, external: bool = False) -> None:
        self.state = CmState.IDLE
        self.external = external
        self.events: deque[CmEvent] = deque()
        self.request: StartFrame | None = None
        self.reply: StartFrame | None = None
        self.settled: Settled | None = None
        self.error = ""
        self.parting = b""
        self._least_ord = 0
        self._reader = StartReader(reply=False)

    def _step(self, step: CmStep, frame: StartFrame | None = None, status: int = 0) -> None:
        """Take a step of the table. Raises: VerbsError EINVAL for one of the program's that does not lead anywhere."""
        found = TABLE.get((self.state, step))
        if found is None:
            if step <= CmStep.DISCONNECT:
                raise VerbsError(errno.EINVAL, f"an identifier in {self.state.name} cannot {step.name.lower().replace('_', ' ')}")
            return
        self.state, kind = found
        if kind is None:
            return
        if frame is None:
            self.events.append(CmEvent(kind, status))
        else:
            self.events.append(CmEvent(kind, status, frame.private, frame.ord, frame.ird))

    # ---- the way to a peer

    def resolve_addr(self) -> None:
        """Ask for the peer's address; `addr_found` or `addr_lost` answers."""
        self._step(CmStep.RESOLVE_ADDR)

    def addr_found(self) -> None:
        """Take note that the peer's address is known."""
        self._step(CmStep.ADDR_FOUND)

    def addr_lost(self, status: int) -> None:
        """Take note that the peer's address is not to be had."""
        self._step(CmStep.ADDR_LOST, status=status)

    def resolve_route(self) -> None:
        """Find the way there, which is known at once."""
        self._step(CmStep.RESOLVE_ROUTE)

    def connect(self, param: CmParam) -> bytes:
        """Return the request to send when the stream is there.

        Raises: VerbsError EINVAL for the wrong state, or more private data than a frame holds.
        """
        _check(param)
        self._step(CmStep.CONNECT)
        self._reader = StartReader(reply=True)
        self._least_ord = param.least_ord
        roce = bool(param.roce)
        self.request = StartFrame(False, crc=param.crc, ird=param.ird, ord=param.ord, private=param.private, roce=roce)
        return self.request.pack()

    def establish(self) -> None:
        """Say that the program's own queue pair is ready."""
        self._step(CmStep.ESTABLISH)

    def unreached(self, status: int) -> None:
        """Take note that the stream cannot be had, or that the peer does not answer; a refusal is a rejection, as in Linux."""
        self._step(CmStep.REJECTION if status == errno.ECONNREFUSED else CmStep.UNREACHED, status=status)

    # ---- the passive end

    def listen(self) -> None:
        """Become a listener."""
        self._step(CmStep.LISTEN)

    def accept(self, param: CmParam) -> bytes:
        """Return the reply to send; receives are to be posted by then.

        Raises: VerbsError EINVAL as `connect`; MpaError when what the peer asked for cannot be given.
        """
        _check(param)
        if self.state is not CmState.REQUESTED or self.request is None:
            self._step(CmStep.ACCEPT)
        assert self.request is not None
        self.reply, self.settled = answer(self.request, param.ird, param.ord, param.crc, param.private, bool(param.roce))
        self._step(CmStep.ACCEPT)
        return self.reply.pack()

    def reject(self, private: bytes = b"") -> bytes:
        """Return the rejection to send; the stream is closed behind it. Raises: as `accept`."""
        _check(CmParam(private))
        self._step(CmStep.REJECT)
        assert self.request is not None
        self.reply = StartFrame(True, self.request.revision, reject=True, private=private)
        return self.reply.pack()

    # ---- what comes

    @property
    def need(self) -> int:
        """Bytes of a frame to receive next; 0 when nothing is due but FPDUs."""
        return self._reader.need

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the peer's frame, at most `need`; what is wrong with them ends in `error` and an event."""
        settled: Settled | None = None
        try:
            self._reader.feed(data)
            if self._reader.need:
                return
            frame = self._reader.frame()
            if self.request is None:
                self.request = frame
                self._step(CmStep.REQUEST, frame)
                return
            self.reply = frame
            if frame.reject:
                self._step(CmStep.REJECTION, frame, errno.ECONNREFUSED)
                return
            self.settled = settled = settle(self.request, frame)
            if settled.ord < self._least_ord:
                raise MpaError(
                    f"the peer answers {settled.ord} READs at a time, {self._least_ord} are needed", cause=Cause.LLP_IRD
                )
            self._step(CmStep.RESPONSE if self.external else CmStep.REPLY, frame)
        except MpaError as error:
            if error.cause is not None:
                self.parting = _terminate(error.cause, settled is not None and settled.crc)
            self.broken(str(error), error.errno or errno.EPROTO)

    def broken(self, why: str, status: int = errno.ECONNRESET) -> None:
        """Take note that the stream ended or was no MPA before the two had agreed."""
        self.error = why
        self._step(CmStep.BROKEN, status=status)

    # ---- the end

    def disconnect(self) -> None:
        """End the connection from here; done twice it is nothing."""
        self._step(CmStep.DISCONNECT)

    def ended(self) -> None:
        """Take note that the connection is over, whoever ended it."""
        self._step(CmStep.ENDED)


def _terminate(cause: Cause, crc: bool) -> bytes:
    """Return the FPDU that tells a peer why its reply is not taken."""
    body = memoryview(Terminate(cause).pack())
    return b"".join(untagged_frame(find_crc() if crc else None, Op.TERMINATE, True, 0, 1, 0, [body]).views)  # header: 28 bytes


def _check(param: CmParam) -> None:
    most = MAX_PRIVATE - len(ROCE_MARK) if param.roce else MAX_PRIVATE
    if len(param.private) > most:
        raise VerbsError(errno.EINVAL, f"{len(param.private)} bytes of private data, {most} at most")
