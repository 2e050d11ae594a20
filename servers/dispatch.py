"""Sans-IO. From a request to the store and back to a reply: one row of a table per operation, errors become errnos.

One dispatcher serves one connection. What the store can do without sleeping is answered at once, with no task; the rest is an
awaitable that runs in `env.run_blocking`. An `OSError` is the reply's status; any other exception is a defect of ours: it is
logged, answered EIO, and the server lives on.
Memory: payload of a write lands in what the store lends, payload of a transaction in a pool of this dispatcher; both are given
back exactly once, also when the awaitable is cancelled before its work began. What a read lends is the transport's to release.
"""

import errno
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from iov.iov_iter import Direction, IovIter
from iov.pool import BufferPool
from iov.probe import Probe
from servers.compound import ENTRY_BYTES, CompoundRun, entry_bytes, reads
from servers.hops import Hop, Noted
from servers.numbered import Answer, Numbered, release
from servers.place import Noting, Place
from servers.sharing import Sharing
from servers.stores.base import Lent, Store
from servers.works import brings_intent, plain_works, status_of, tell_of, unsupported
from transport.base import Landing, Limits, Reply
from transport.env import Env
from transport.messages import (
    AttrReply,
    AuxRead,
    AuxWrite,
    Await,
    Bind,
    Body,
    Compound,
    DirEntry,
    EndSession,
    Fence,
    Getattr,
    Lease,
    LeaseReturn,
    Lock,
    LockTest,
    Lookup,
    Open,
    Ping,
    Read,
    Readdir,
    ReaddirReply,
    ReadReply,
    RecordGet,
    RecordReply,
    Request,
    Sequenced,
    Transact,
    Unlock,
    Write,
    WriteReply,
    name_of,
)

__all__ = ["Dispatcher"]

log: Final = logging.getLogger(__name__)
_LIMITS: Final = Limits()
_STAGING_SLOT: Final = 1 << 16
_STAGING_SLOTS: Final = 4
FIRST_ENTRIES: Final = 32
"""Entries of a listing before it is known how large they are."""
PEEKED: Final = frozenset({Lookup, Getattr, Open})

R = TypeVar("R", Reply, Reply | None)


class Dispatcher:
    """Do the requests of one connection on a store. limits: what the hello agreed on; longer reads are answered short.

    session: whose write intents are meant, by number; None for a session that ends with the dispatcher. place: where the
    connection may join a session that outlives it.
    """

    def __init__(
        self,
        store: Store,
        env: Env,
        probe: Probe,
        limits: Limits = _LIMITS,
        session: int | None = None,
        place: Place | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self._store = store
        self._own_session = session is None
        self._session = store.intents.new_session() if session is None else session
        self._sharing = sharing or Sharing(env, store.verifier)
        self._env = env
        self._probe = probe
        self._limits = limits
        self._staging = BufferPool(probe, _STAGING_SLOT, _STAGING_SLOTS)
        self._place = place
        self._numbered = None if place is None else Numbered(place, self._answer_noted)
        self._noting: Noting | None = None
        self._table: dict[type[Any], Callable[[Any, Landing | None], Answer]] = {
            Read: self._read,
            AuxRead: self._read,
            Write: self._write,
            AuxWrite: self._write,
            Transact: self._transact,
            Compound: self._compound,
            Bind: self._joining,
            Fence: self._joining,
            EndSession: self._joining,
            Sequenced: self._sequenced,
            Await: self._await,
            **dict.fromkeys((LockTest, Lock, Unlock, Lease, LeaseReturn), self._share),
        }
        self._shared: dict[type[Any], Callable[[Any], Body]] = {
            LockTest: lambda r: self._sharing.test_lock(self._session, r),
            Lock: lambda r: self._sharing.lock(self._session, r),
            Unlock: lambda r: self._sharing.unlock(self._session, r),
            Lease: lambda r: self._sharing.lease(self._session, r, store.getattr(r.handle).change),
            LeaseReturn: lambda r: self._sharing.give_back(self._session, r.handle, r.kinds, r.epoch),
        }
        self._works: dict[type[Any], Callable[[Any], Body]] = {
            **plain_works(store),
            Readdir: self._readdir,
            RecordGet: lambda r: RecordReply(*store.record_get(r.handle), store.intents.rows(r.handle, self._session)),
        }

    def admit(self, request: Request, length: int) -> Landing | int:
        """Pick memory for a request's payload. Returns: an errno for what may not carry one, or that the store refuses."""
        try:
            match request:
                case Sequenced(request=inner):
                    if self._place is not None and self._place.is_over(request):
                        return Landing(IovIter.discard(length))
                    return self.admit(inner, length)
                case Write(handle=handle, pos=pos, intent=intent, record=record):
                    if not self._store.intents.may_write(handle, pos, length, self._session, intent):
                        return errno.EAGAIN
                    return self._store.write_landing(handle, pos, length, apart=bool(record))
                case AuxWrite(handle=handle, pos=pos):
                    return self._store.write_landing(handle, pos, length, aux=True)
                case Transact() | Compound():
                    if isinstance(request, Compound) and length != sum(step.payload_length for step in request.steps):
                        return errno.EINVAL
                    if length > self._limits.max_payload:
                        return errno.EMSGSIZE
                    lease = self._staging.get(length)
                    return Landing(IovIter.ubuf(Direction.DEST, lease.view), lease.release)
                case _:
                    return errno.EINVAL
        except Exception as error:  # noqa: BLE001 (one bad request does not end the connection)
            return status_of(error, request)

    def handle(self, request: Request, landing: Landing | None) -> Answer:
        """Do the request, at once if the store need not sleep."""
        self._probe.requests += 1
        if self._probe.sink is None:
            answer = self._answer(request, landing)
            if self._store.removed:
                self._tell_removed()
            return answer
        received = landing.iter.count if landing is not None else 0
        answer = self._answer(request, landing)
        self._tell_removed()
        if isinstance(answer, Reply):
            return self._told(request, received, answer)
        return self._told_later(request, received, answer)

    def _tell_removed(self) -> None:
        """Tell clients of the files that have lost their last name while they had them open."""
        removed = self._store.removed
        while removed:
            self._sharing.removed(removed.popleft())

    def _told(self, request: Request, received: int, reply: Reply) -> Reply:
        source = reply.source
        sent = 0 if source is None else source.count if isinstance(source, IovIter) else source.length
        self._probe.emit("server_op", name_of(request), reply.status, received, sent)
        return reply

    async def _told_later(self, request: Request, received: int, answer: Awaitable[Reply]) -> Reply:
        return self._told(request, received, await answer)

    def _answer(self, request: Request, landing: Landing | None) -> Answer:
        if self._sharing.leases and not self._sharing.free(self._session, request):
            noting, self._noting = self._noting, None
            return self._settled(request, landing, noting)
        return self._answer_now(request, landing)

    async def _settled(self, request: Request, landing: Landing | None, noting: Noting | None) -> Reply:
        """Do a request when other clients have given back what is in its way."""
        try:
            await self._sharing.settle(self._session, request)
        except BaseException:
            release(landing)
            raise
        self._noting = noting
        answer = self._answer_now(request, landing)
        self._noting = None
        self._tell_removed()
        return answer if isinstance(answer, Reply) else await answer

    def _answer_now(self, request: Request, landing: Landing | None) -> Answer:
        kind = type(request)
        special = self._table.get(kind)
        if special is not None:
            return special(request, landing)
        release(landing)
        if kind in PEEKED and self._store.blocking:
            found = self._peek(request)
            if found is not None:
                return found
        work = self._noted(partial(self._do, self._works.get(kind, unsupported), request))
        return self._sleep(work, None) if self._store.blocking and kind is not Ping else work()

    def _peek(self, request: Request) -> Reply | None:
        """Answer a LOOKUP, GETATTR or OPEN without a hop to a worker, where it need not sleep."""
        try:
            if isinstance(request, Lookup):
                found = self._store.try_lookup(request.parent, request.name)
                return None if found is None else Reply(0, found)
            assert isinstance(request, Getattr | Open)
            attr = self._store.try_getattr(request.handle, write=request.write if isinstance(request, Open) else None)
        except Exception as error:  # noqa: BLE001
            return Reply(status_of(error, request))
        return None if attr is None else Reply(0, AttrReply(attr))

    def closed(self) -> None:
        """Give the staging memory back, of which all must have come home, and leave the session."""
        try:
            self._staging.close()
            if self._own_session:
                self._store.intents.end_session(self._session)
                self._sharing.end(self._session)
        finally:  # whoever fences this connection off waits for it
            if self._place is not None:
                self._place.left()

    # ---- sessions

    def _joining(self, request: Bind | Fence | EndSession, landing: Landing | None) -> Answer:
        release(landing)
        place = self._place
        if place is None:
            return Reply(errno.EOPNOTSUPP)
        if isinstance(request, Bind):
            return self._bind(place, request)
        return place.fence(request) if isinstance(request, Fence) else place.end(request)

    async def _bind(self, place: Place, request: Bind) -> Reply:
        reply = await place.bind(request)
        if place.owner is not None and self._own_session:
            self._store.intents.end_session(self._session)
            self._sharing.end(self._session)
            self._session, self._own_session = place.owner, False
        return reply

    def _sequenced(self, request: Sequenced, landing: Landing | None) -> Answer:
        numbered = self._numbered
        if numbered is None or reads(request.request):
            release(landing)
            return Reply(errno.EOPNOTSUPP if numbered is None else errno.EINVAL)
        return numbered(request, landing)

    def _answer_noted(self, request: Request, landing: Landing | None, noting: Noting | None) -> Answer:
        """Do a request; what becomes of it is noted by whoever does its work."""
        self._noting = noting
        answer = self._answer(request, landing)
        self._noting = None
        return answer

    def _noted(self, work: Callable[[], Reply]) -> Callable[[], Reply]:
        """Return the work of a numbered request with the notes that make it happen once, any other as it is."""
        noting, self._noting = self._noting, None
        return work if noting is None else Noted(noting, work)

    # ---- payload

    def _read(self, request: Read | AuxRead, landing: Landing | None) -> Answer:
        release(landing)
        length = min(request.length, self._limits.max_payload)
        try:
            lent = self._store.try_read_source(request.handle, request.pos, length, aux=type(request) is AuxRead)
        except Exception as error:  # noqa: BLE001
            return Reply(status_of(error, request))
        if lent is None:
            return self._sleep(partial(self._read_slowly, request, length), None)
        return Reply(0, ReadReply(lent.eof), lent.source, lent.release)

    def _read_slowly(self, request: Read | AuxRead, length: int) -> Reply:
        try:
            lent: Lent = self._store.read_source(request.handle, request.pos, length, aux=type(request) is AuxRead)
        except Exception as error:  # noqa: BLE001
            return Reply(status_of(error, request))
        return Reply(0, ReadReply(lent.eof), lent.source, lent.release)

    def _write(self, request: Write | AuxWrite, landing: Landing | None) -> Answer:
        aux = type(request) is AuxWrite
        stable = isinstance(request, Write) and request.stable
        store = self._store
        try:
            if landing is None:
                landing = store.write_landing(request.handle, request.pos, 0, aux=aux)
            slowly = store.blocking and brings_intent(request)
            told = 0 if slowly else tell_of(store, request, landing, self._session)
            count = None if slowly else store.try_write(request.handle, request.pos, landing, stable=stable, aux=aux)
        except Exception as error:  # noqa: BLE001
            return Reply(status_of(error, request))
        if count is None:
            work = self._noted(partial(self._do, partial(self._write_slowly, landing, stable=stable, aux=aux), request))
            return self._sleep(work, landing)
        return Reply(0, WriteReply(count, store.verifier, told))

    def _write_slowly(self, landing: Landing, request: Write | AuxWrite, *, stable: bool, aux: bool) -> Body:
        told = tell_of(self._store, request, landing, self._session)
        count = self._store.write(request.handle, request.pos, landing, stable=stable, aux=aux)
        return WriteReply(count, self._store.verifier, told)

    def _transact(self, request: Transact, landing: Landing | None) -> Answer:
        work = self._noted(partial(self._do, partial(self._transact_now, landing), request))
        if self._store.blocking:
            return self._transacted(work, landing, request)
        reply = work()
        release(landing)
        self._want(request, reply)
        return reply

    async def _transacted(self, work: Callable[[], Reply], landing: Landing | None, request: Transact) -> Reply:
        reply = await self._transact_slowly(work, landing)
        self._want(request, reply)
        return reply

    def _want(self, request: Transact, reply: Reply) -> None:
        """Let others know that a transaction waits for what they write."""
        if reply.status == errno.EAGAIN:
            self._sharing.want(self._store.intents.in_the_way(request.steps, self._session))

    async def _transact_slowly(self, work: Callable[[], Reply], landing: Landing | None) -> Reply:
        try:
            return await self._sleep(work, None)
        finally:
            release(landing)

    def _transact_now(self, landing: Landing | None, request: Transact) -> Body:
        payload = None
        if landing is not None and landing.iter.mem is not None:
            payload = IovIter.ubuf(Direction.SOURCE, landing.iter.mem)
        return self._store.apply(request.asserts, request.verifier, request.steps, payload, self._session)

    def _compound(self, request: Compound, landing: Landing | None) -> Answer:
        if landing is None and any(step.payload_length for step in request.steps):
            return Reply(errno.EINVAL)
        payload = None
        if landing is not None and landing.iter.mem is not None:
            payload = IovIter.ubuf(Direction.SOURCE, landing.iter.mem)
        done = {} if self._noting is None else self._noting.done
        run = CompoundRun(
            self._store, request, payload, self._limits, self._works, self._list, status_of, self._session, done,
            self._shared, self._allowed, pausing=self._noting is None,
        )  # fmt: skip
        if self._noting is not None:
            return self._compound_numbered(run, landing)
        if not self._store.blocking:
            reply = run.run()
            while reply is None and run.for_the_loop:
                reply = run.here() or run.run()
            if reply is not None:
                release(landing)
                return reply
        return self._compound_slowly(run, landing)

    def _compound_numbered(self, run: CompoundRun, landing: Landing | None) -> Answer:
        """Do a compound in one go, and remember whether it was done. What would wait is refused; a lease at its end is last."""
        work = self._noted(run.all)
        if self._store.blocking:
            return self._numbered_slowly(run, work, landing)
        reply = work()
        release(landing)
        self._ask_for(run)
        return reply

    async def _numbered_slowly(self, run: CompoundRun, work: Callable[[], Reply], landing: Landing | None) -> Reply:
        reply = await self._transact_slowly(work, landing)
        self._ask_for(run)
        return reply

    def _ask_for(self, run: CompoundRun) -> None:
        """Do what a compound left, or have others give back what it was refused for, so that it is done the next time."""
        if run.paused is not None and not run.end_here():
            self._sharing.ask(self._session, run.paused)

    async def _compound_slowly(self, run: CompoundRun, landing: Landing | None) -> Reply:
        """Run a compound on, in a worker where the store may sleep, waiting for what other clients have to give back."""
        reply: Reply | None = None
        try:
            while True:
                if run.paused is None:
                    reply = await self._sleep(run.run, None) if self._store.blocking else run.run()
                elif run.for_the_loop:
                    reply = run.here()
                    run.paused = None
                else:
                    await self._sharing.settle(self._session, run.paused)
                    run.paused = None
                if reply is not None:
                    self._tell_removed()
                    return reply
        except BaseException:
            run.drop()
            raise
        finally:
            release(landing)

    def _allowed(self, request: Request) -> bool:
        return not self._sharing.leases or self._sharing.free(self._session, request)

    # ---- what clients share

    def _await(self, request: Await, landing: Landing | None) -> Answer:
        release(landing)
        return self._events(request)

    async def _events(self, request: Await) -> Reply:
        try:
            return Reply(0, await self._sharing.events(self._session, request))
        except OSError as error:
            return Reply(status_of(error, request))

    def _share(self, request: LockTest | Lock | Unlock | Lease | LeaseReturn, landing: Landing | None) -> Answer:
        """Do what the tables of leases and locks are for, if the file is there."""
        release(landing)
        look = partial(self._do, lambda r: AttrReply(self._store.getattr(r.handle)), request)
        return self._share_slowly(look, request) if self._store.blocking else self._share_now(look(), request)

    async def _share_slowly(self, look: Callable[[], Reply], request: Request) -> Reply:
        return self._share_now(await self._sleep(look, None), request)

    def _share_now(self, looked: Reply, request: Request) -> Reply:
        return looked if looked.status else self._do(self._shared[type(request)], request)

    # ---- the rest

    def _readdir(self, request: Readdir) -> Body:
        return self._list(request, self._limits.max_body - ENTRY_BYTES)

    def _list(self, request: Readdir, room: int) -> ReaddirReply:
        if request.count < 1:
            raise OSError(errno.EINVAL, "a listing of no entries")
        listed: list[DirEntry] = []
        cookie, asked = request.cookie, FIRST_ENTRIES
        while len(listed) < request.count:  # the store is not asked for much more than there is room for
            entries, eof = self._store.readdir(request.handle, cookie, min(asked, request.count - len(listed)))
            for entry in entries:
                room -= entry_bytes(entry)
                if room < 0 and listed:
                    return ReaddirReply(listed, eof=False)
                listed.append(entry)
            if eof or not entries:
                return ReaddirReply(listed, eof)
            cookie = listed[-1].cookie
            asked = max(1, room // max(map(entry_bytes, entries)))
        return ReaddirReply(listed, eof=False)

    def _do(self, work: Callable[[Any], Body], request: Request) -> Reply:
        try:
            body = work(request)
            self._store.keep()
            return Reply(0, body)
        except Exception as error:  # noqa: BLE001
            return Reply(status_of(error, request))

    async def _sleep(self, work: Callable[[], R], landing: Landing | None) -> R:
        """Run `work` where it may sleep.

        Cancellation: before the work began, `landing` is released; later the work is waited for and has happened.
        """
        hop = Hop(work)
        self._probe.hops += 1
        try:
            await self._env.run_blocking(hop)
        except OSError as error:  # what was done could not be made durable
            _drop(hop.replies)
            log.warning("trouble flush error=%s", error.strerror)
            return Reply(error.errno or errno.EIO)
        except BaseException:
            _drop(hop.replies)
            if not hop.began:
                release(landing)
            raise
        self._tell_removed()
        return hop.replies[0]


def _drop(replies: Sequence[Reply | None]) -> None:
    for reply in replies:
        if reply is not None and reply.release is not None:
            reply.release()
