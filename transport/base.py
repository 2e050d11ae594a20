"""Sans-IO. The contract between client, transport and a server's handler; one conformance suite holds every transport to it.

Client side. `submit(request, done, source, dest)` lends `source` (payload that goes with the request) and `dest` (where the
reply's payload is to land) to the transport and returns at once. `done(outcome)` is called exactly once, from the Trio thread,
possibly before `submit` returns; from that call on the memory is the caller's again. No other call gives it back. The outcome
is a `Reply` (its `status` is 0 or the errno the server answered) or a `TransportError`. `abandon()` on the returned call asks
to end it early: not yet sent, it is withdrawn without effect; reply pending on a socket, the payload goes to an
`ITER_DISCARD`; RDMA posted, the memory is fenced first. `done` follows, with `ECANCELED`, or with the reply if that was faster.
`call()` is the same as a coroutine. The cursors of lent iterators, landings and reply sources included, are not moved. A payload
longer than the `dest` is a protocol error of the server; a shorter one is a short read. At most `limits.credits` calls are on
the wire; further ones wait in order inside the transport.

Server side. When a request header with payload has been parsed, `admit(request, length)` picks the landing memory at once
(the memory store's own pages, a pool of the directory store) or refuses with an errno; a refused payload is discarded and the
errno is the reply. The transport fills the landing (stream: from the socket; RDMA: by READ) before `handle` runs; a handler
never waits while payload is still on the wire. `handle` returns a `Reply`, or an awaitable that gives one when the work is not
immediate; only the latter costs a task. The reply's `source` is lent until the transport calls `reply.release`. A landing
whose payload does not arrive whole is given back by `landing.release`; once `handle` was called it is the handler's to release.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from iov.iov_iter import IovIter
from transport.errors import TransportError
from transport.messages import Body, Request

__all__ = [
    "Abandonable",
    "ClientCall",
    "Done",
    "Feature",
    "FileRange",
    "Handler",
    "HandlerFactory",
    "Landing",
    "Limits",
    "Outcome",
    "Release",
    "Reply",
    "Transport",
]

Release = Callable[[], None]


class Feature(enum.IntFlag):
    """What both sides of a hello must agree on to use."""

    NONE = 0
    AUX = 1
    TRANSACT = 2
    SESSION = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What the hello agreed on; each side enforces them on what it receives.

    max_body: bytes of an encoded message body. max_payload: bytes of payload with one message (rsize and wsize are at most
    this). credits: calls in flight. max_segs: memory segments of one payload (1024 on a socket, the chunk list on RDMA).
    """

    max_body: int = 1 << 18
    max_payload: int = 1 << 20
    credits: int = 64
    max_segs: int = 1024
    features: Feature = Feature.AUX | Feature.TRANSACT | Feature.SESSION


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of an open file that a reply sends without reading it first; a transport that cannot reads it into a pool.

    The descriptor stays open until the reply's `release`. Where the file is cut before it was sent, the reply is shorter, or, if
    its length is out already, zeros take the place of what is gone.
    """

    fd: int
    pos: int
    length: int


@dataclass(slots=True)
class Reply:
    """An answer: on the server what to send, on the client what came.

    status: 0 or a positive errno. body: the decoded reply body, None on an error. source: server only, the payload to send;
    its bytes are lent until `release` is called. received: client only, payload bytes placed in the call's `dest`.
    """

    status: int
    body: Body | None = None
    source: IovIter | FileRange | None = None
    release: Release | None = None
    received: int = 0


Outcome = Reply | TransportError
Done = Callable[[Outcome], None]


class Abandonable(Protocol):
    """What can be asked to end early."""

    def abandon(self) -> None:
        """Ask that the call end soon; `done` still follows exactly once. No effect after `done`."""


class ClientCall(Abandonable, Protocol):
    """A call in flight. xid: its number on the wire, by which events of both sides name it."""

    @property
    def xid(self) -> int: ...


class Transport(ABC):
    """The client's side of one connection. on_lost: called once, at once, when the connection is over for whatever reason.

    boot: the server's start, where a session has told it.
    """

    limits: Limits
    boot: int = 0
    on_lost: Callable[[TransportError], None] | None = None

    @abstractmethod
    def submit(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> ClientCall:
        """Start a call; see the module's contract for who owns what until `done`."""

    @abstractmethod
    async def call(self, request: Request, source: IovIter | None = None, dest: IovIter | None = None) -> Reply:
        """Make a call and wait for its reply.

        Raises: TransportError when the connection failed.
        Cancellation: the call is abandoned; it may have happened; the memory is back when Cancelled leaves this call.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection; calls in flight end with TransportError(ECONNABORTED). Idempotent."""


@dataclass(slots=True)
class Landing:
    """Memory a handler picked for the payload of one request; `release` gives it back unused."""

    iter: IovIter
    release: Release | None = None


class Handler(Protocol):
    """What a server does with the requests of one connection."""

    def admit(self, request: Request, length: int) -> Landing | int:
        """Pick memory for `length` bytes of payload at once, or refuse with a positive errno."""

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        """Do the request; `landing` is the one `admit` gave, filled. Never raises for an operating error: that is a status."""

    def closed(self) -> None:
        """The connection has ended; called once, after the last reply was sent or dropped."""


HandlerFactory = Callable[[str, Limits], Handler]
"""Makes the handler of one connection, for its peer and the limits that the hello agreed on."""
