"""Sans-IO. A compound request on a store: its steps in order until one fails, their results, and their payload as one.

A step may name what an earlier step found: a handle of one byte n is the object of step n (the entry a LOOKUP, CREATE or their
like gave, else the handle the step was about). So a walk and an open, or create, write and commit, are one round trip.
The bodies of all results fit into one message: a step for which there is no more room is not done, and its status is EMSGSIZE.
Memory: payload of the request is lent by the caller until the last step; what reads lend is released by the reply.
"""

import errno
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

from iov.extract import extract_segments
from iov.iov_iter import Direction, IovIter
from servers.stores.base import Lent, Store, fail
from servers.works import put_intent
from transport.base import FileRange, Limits, Reply
from transport.messages import (
    AuxRead,
    AuxWrite,
    Body,
    Compound,
    CompoundReply,
    CompoundStep,
    DirEntry,
    EntryReply,
    Handle,
    Read,
    Readdir,
    ReaddirReply,
    ReadReply,
    RecordReply,
    Request,
    Result,
    TargetReply,
    Transact,
    TransactReply,
    Write,
    WriteReply,
    XattrListReply,
    XattrReply,
)

__all__ = ["ENTRY_BYTES", "CompoundRun", "entry_bytes", "reads"]

ENTRY_BYTES: Final = 144
"""Most an encoded directory entry takes besides name, handle and record."""

_RESULT_BYTES: Final = 256
"""Most an encoded result takes besides what `_encoded_bytes` counts."""

_HANDLES: Final[dict[type[Any], tuple[str, ...]]] = {}
Work = Callable[[Any], Body]


def _handle_fields(kind: type[Any]) -> tuple[str, ...]:
    found = _HANDLES.get(kind)
    if found is None:
        found = _HANDLES[kind] = tuple(field.name for field in fields(kind) if field.type is Handle)
    return found


def entry_bytes(entry: DirEntry) -> int:
    """Return an upper bound of what a directory entry takes, encoded."""
    name = entry.name
    length = len(name) if name.isascii() else len(name.encode("utf-8", "surrogateescape"))
    return ENTRY_BYTES + length + len(entry.handle) + len(entry.record or b"") + len(entry.certificate)


def reads(request: Request) -> bool:
    """Tell whether a request's reply has payload, which is not kept."""
    return isinstance(request, Compound) and any(isinstance(step.request, Read | AuxRead) for step in request.steps)


def _encoded_bytes(body: Body) -> int:
    """Return an upper bound of what the variable parts of a body take, encoded."""
    match body:
        case ReaddirReply(entries=entries):
            return sum(entry_bytes(entry) for entry in entries)
        case RecordReply(record=record, intents=intents):
            return len(record) + sum(64 + len(intent.record) for intent in intents)
        case EntryReply():
            return len(body.record) + len(body.certificate)
        case XattrReply(value=value):
            return len(value)
        case TargetReply(target=target):
            return len(target)
        case XattrListReply(names=names):
            return sum(8 + 3 * len(name) for name in names)
        case TransactReply(generations=generations, made=made, intents=keys):
            return 9 * (len(generations) + len(keys)) + sum(256 + _encoded_bytes(entry) for entry in made)
        case _:
            return 0


class CompoundRun:
    """One compound being done. works: what does the steps without payload; payload: of the whole request; room: for bodies.

    shared: what does the steps that are for the loop's thread; free: tells whether other clients' leases allow a step.
    readdir: lists with a bound of bytes. done: steps that a server before this one did before it was killed, with their answers.
    """

    def __init__(
        self, store: Store, request: Compound, payload: IovIter | None, limits: Limits, works: dict[type[Any], Work],
        readdir: Callable[[Readdir, int], ReaddirReply], status_of: Callable[[Exception, Request], int], session: int,
        done: dict[int, Body], shared: dict[type[Any], Work], free: Callable[[Request], bool], *, pausing: bool,
    ) -> None:  # fmt: skip
        self._store = store
        self._session = session
        self._steps = request.steps
        self._payload = payload
        self._works = works
        self._readdir = readdir
        self._status_of = status_of
        self._done = done
        self._room = limits.max_body - 16
        self._left = limits.max_payload
        self._named: list[Handle] = []
        self._lent: list[Lent] = []
        self._reads = sum(type(step.request) in (Read, AuxRead) for step in request.steps)
        self._shared = shared
        self._free = free
        self._pausing = pausing
        self.results: list[Result] = []
        self.paused: Request | None = None

    def run(self) -> Reply | None:
        """Do the steps that are left. Returns: the reply, which owns what was lent; None when it paused.

        It pauses before a step that has to wait for other clients, or that is for the thread of the loop: `paused` is its
        request. The caller waits, or calls `here`, and then runs it again.
        """
        self.paused = None
        for step in self._steps[len(self.results) :]:
            try:
                self._resolve(step.request)
            except OSError as error:
                self.results.append(Result(step.request.op, self._status_of(error, step.request)))
                break
            if type(step.request) in self._shared or not self._free(step.request):
                self.paused = step.request
                if self._pausing:
                    return None
                status = errno.EOPNOTSUPP if self.for_the_loop else errno.EAGAIN
                self.results.append(Result(step.request.op, status))
                break
            if not self._step(step):
                break
        self._store.keep()
        return self._reply()

    def all(self) -> Reply:
        """Do all steps without a pause: before one that would have to wait it ends, with EAGAIN, and `paused` is that."""
        reply = self.run()
        assert reply is not None
        return reply

    def here(self) -> Reply | None:
        """Do the one step it paused before. Returns: the reply if that failed, else None."""
        return None if self._step(self._steps[len(self.results)]) else self._reply()

    def end_here(self) -> bool:
        """Do the last step, if it ended before that because it is for the loop's thread. Returns: whether it did so for that.

        The answer to it goes to where the refusal is, also in the reply.
        """
        if self.for_the_loop and len(self.results) == len(self._steps):
            self.results.pop()
            self._step(self._steps[-1])
        return self.for_the_loop

    @property
    def for_the_loop(self) -> bool:
        """Whether the step it paused before is to be done by `here`; else it waits for other clients."""
        return type(self.paused) in self._shared

    def _step(self, step: CompoundStep) -> bool:
        """Do a step. Returns: false when it failed."""
        request = step.request
        payload = None
        if step.payload_length and self._payload is not None:
            payload = IovIter.kvec(Direction.SOURCE, extract_segments(self._payload, step.payload_length))
        try:
            result = self._do(request, payload)
        except Exception as error:  # noqa: BLE001 (one bad step does not end the connection)
            self.results.append(Result(request.op, self._status_of(error, request)))
            return False
        self.results.append(result)
        return True

    def drop(self) -> None:
        """Give back what was lent, when no reply is wanted any more."""
        for lent in self._lent:
            if lent.release is not None:
                lent.release()
        self._lent.clear()

    def _do(self, request: Request, payload: IovIter | None) -> Result:
        room = self._room - _RESULT_BYTES
        if room < 0:
            raise fail(errno.EMSGSIZE)
        store = self._store
        length = 0
        body: Body
        match request:
            case _ if (before := self._done.get(len(self.results))) is not None:
                body = before
            case Read(handle=handle, pos=pos, length=wanted) | AuxRead(handle=handle, pos=pos, length=wanted):
                aux = type(request) is AuxRead
                lent = store.read_source(handle, pos, min(wanted, self._left), aux=aux, ranges=self._reads == 1)
                self._lent.append(lent)
                length, body = lent.length, ReadReply(lent.eof)
                self._left -= length
            case Write(handle=handle, pos=pos, stable=stable, intent=key):
                size = 0 if payload is None else payload.count
                if size and not store.intents.may_write(handle, pos, size, self._session, key):
                    raise fail(errno.EAGAIN)
                told = put_intent(store, request, size, self._session)
                count = 0 if payload is None else store.write_from(handle, pos, payload, stable=stable)
                body = WriteReply(count, store.verifier, told)
            case AuxWrite(handle=handle, pos=pos):
                count = 0 if payload is None else store.write_from(handle, pos, payload, stable=False, aux=True)
                body = WriteReply(count, store.verifier)
            case Transact():
                body = store.apply(request.asserts, request.verifier, request.steps, payload, self._session)
            case Readdir():
                body = self._readdir(request, room)
            case _:
                work = self._works.get(type(request)) or self._shared.get(type(request))
                if work is None:
                    raise fail(errno.EOPNOTSUPP)
                body = work(request)
        self._room = room - _encoded_bytes(body)
        if self._room < 0:  # nothing that changes anything has a long answer
            raise fail(errno.EMSGSIZE)
        self._named.append(body.handle if isinstance(body, EntryReply) else self._about(request))
        return Result(request.op, 0, length, body)

    def _about(self, request: Request) -> Handle:
        names = _handle_fields(type(request))
        return getattr(request, names[0]) if names else Handle(b"")

    def _resolve(self, request: Request) -> None:
        """Put handles in the place of references. Raises: EINVAL for one to a step that is not behind us."""
        for name in _handle_fields(type(request)):
            handle: Handle = getattr(request, name)
            if len(handle) == 1:
                setattr(request, name, self._referred(handle))
        if isinstance(request, Transact):
            request.asserts = [(self._referred(handle), generation) for handle, generation in request.asserts]
            for step in request.steps:
                step.handle, step.other = self._referred(step.handle), self._referred(step.other)

    def _referred(self, handle: Handle) -> Handle:
        if len(handle) != 1:
            return handle
        if handle[0] >= len(self._named):
            raise fail(errno.EINVAL)
        return self._named[handle[0]]

    def _reply(self) -> Reply:
        body = CompoundReply(self.results)
        full = [lent for lent in self._lent if lent.source is not None]
        if not full:
            return Reply(0, body)
        if len(full) == 1:
            source = full[0].source
        else:
            views: list[memoryview] = []
            for lent in full:
                assert lent.source is not None and not isinstance(lent.source, FileRange)
                views += extract_segments(lent.source.copy(), lent.length)
            source = IovIter.kvec(Direction.SOURCE, views)
        return Reply(0, body, source, self.drop)
