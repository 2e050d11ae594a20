"""Trio shell. A transport for volumes with a root (level L2): a change takes the root along, what is read is checked against it.

    TRANSACT that puts records   + assert the root's generation, store its changed pages, put its record: one after the other
    RECORD_GET, LOOKUP, READDIR  every record in the answer must be the one the tree has; else the root is read again, and if it
                                 has not moved, the server has gone back: ESTALE, and the volume is tainted

Everything else goes through as it is. The root's own generation is remembered as a file's is (`freshness.py`), so a volume that
is shown as it was is noticed when it is opened. Owns a page at a time.
"""

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from crypto.aead import XAES_NONCE_SIZE
from crypto.errors import CryptoError, IntegrityError
from crypto.freshness import Seen
from crypto.record import file_id_of
from crypto.root import NO_ROOT, PAGE_SIZE, ROOT_NAME, RootRecord, RootTree, digest_of, open_root, root_file_id, seal_root
from iov.extract import extract_segments
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from netfs.fs.calls import ask, body_of
from netfs.fs.freshness import Freshness
from transport.base import Abandonable, ClientCall, Done, Limits, Outcome, Reply, Transport
from transport.messages import (
    AuxRead,
    Create,
    EntryReply,
    Handle,
    Lookup,
    Readdir,
    ReaddirReply,
    ReadReply,
    RecordGet,
    RecordReply,
    Request,
    Step,
    StepKind,
    Transact,
    TransactReply,
)

if TYPE_CHECKING:
    from crypto.keys import VolumeKey
    from transport.env import Env

__all__ = ["RootedTransport"]

CHECKED: Final = (RecordGet, Lookup, Readdir)
ROOM: Final = 64 << 10
"""Payload of a transaction that is kept for pages of the root."""
CONFLICTS: Final = 64
UNMOVED: Final = 2
"""How often a record may disagree with a root that has not moved, before the server is not believed."""
WAIT_S: Final = 10


class RootedTransport(Transport):
    """The server as a volume with a root sees it."""

    def __init__(self, inner: Transport, key: "VolumeKey", env: "Env", freshness: Freshness, probe: Probe) -> None:
        self._inner = inner
        self._probe = probe
        self._key = key
        self._env = env
        self._freshness = freshness
        self._id = root_file_id(key)
        self._tree = RootTree()
        self._record = RootRecord(0, b"")
        self._generation = 0
        self._handle: Handle | None = None
        self._top: Handle | None = None
        self._ids: dict[Handle, bytes] = {}
        self._lock = trio.Lock()
        self._inner_limits: Limits | None = None

    @property
    def limits(self) -> Limits:  # type: ignore[override]  # they change with the connection
        """Those of the connection, less room for what goes along."""
        inner = self._inner.limits
        if inner is not self._inner_limits:
            self._inner_limits = inner
            self._limits = replace(inner, max_payload=inner.max_payload - ROOM)
        return self._limits

    async def begin(self, top: Handle) -> None:
        """Find the root of the volume whose top directory this is, and verify it; in an empty volume it is made.

        Raises: EBADMSG when it is missing, ESTALE when it is older than one that was seen. Cancellation: no effect.
        """
        if self._handle is not None:
            return
        found = body_of(await self._inner.call(Lookup(top, ROOT_NAME)), EntryReply)
        if isinstance(found, FileNotFoundError) or (isinstance(found, EntryReply) and not found.record):
            found = await self._make(top)
        if isinstance(found, Exception):
            raise found
        self._top, self._handle = top, found.handle
        await self._refresh()

    async def _make(self, top: Handle) -> EntryReply:
        """Make the root of a volume that is empty yet. Raises: EBADMSG, ESTALE when it is not."""
        asked = self._freshness.clock
        state = await ask(self._inner, RecordGet(top), RecordReply)
        self._freshness.observe(self._id, 0, b"", asked)
        if state.record:
            raise IntegrityError("the volume has lost its root", file_id=self._id)
        made = await ask(self._inner, Create(top, ROOT_NAME, 0o600), EntryReply)
        sealed = seal_root(self._key, RootRecord(1, NO_ROOT), self._env.nonces(XAES_NONCE_SIZE))
        with suppress(BlockingIOError):  # another client was first
            step = Step(StepKind.RECORD_PUT, made.handle, record=sealed)
            await ask(self._inner, Transact([(made.handle, 0)], 0, [step]), TransactReply)
        return made

    # ---- what is read

    def submit(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> ClientCall:
        """As `Transport.submit`; the answer to what tells records is checked first."""
        if isinstance(request, CHECKED) and self._handle is not None:
            return _Check(self, request, done).start()
        if isinstance(request, Transact) and self._handle is not None:
            assert all(step.kind is not StepKind.RECORD_PUT for step in request.steps), "a record waits for its turn: use call"
        return self._inner.submit(request, done, source, dest)

    async def call(self, request: Request, source: IovIter | None = None, dest: IovIter | None = None) -> Reply:
        """As `Transport.call`; a transaction takes the root along."""
        if self._handle is None:
            return await self._inner.call(request, source, dest)
        if isinstance(request, Transact):
            return await self._commit(request, source)
        if not isinstance(request, CHECKED):
            return await self._inner.call(request, source, dest)
        outcome = await waited(lambda done: _Check(self, request, done).start())
        if not isinstance(outcome, Reply):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    # ---- what is changed

    async def _commit(self, request: Transact, source: IovIter | None) -> Reply:
        changes: dict[bytes, bytes | None] = {}
        for step in request.steps:
            if step.kind is StepKind.RECORD_PUT:
                changes[file_id_of(step.record)] = digest_of(step.record)
            elif step.kind is StepKind.REMOVE and step.other in self._ids:
                changes[self._ids[step.other]] = None
        if not changes:
            return await self._inner.call(request, source)
        async with self._lock:
            for _ in range(CONFLICTS):
                for file_id in changes:
                    await self._load(file_id)
                moved = self._generation
                reply = await self._send(request, source, changes)
                if reply.status != errno.EAGAIN:
                    return reply
                await self._refresh()
                if self._generation == moved:
                    return reply
        return Reply(errno.EAGAIN)

    async def _send(self, request: Transact, source: IovIter | None, changes: dict[bytes, bytes | None]) -> Reply:
        assert self._handle is not None
        root, stored = self._tree.changed(changes)
        record = RootRecord(self._record.generation + 1, root)
        sealed = seal_root(self._key, record, self._env.nonces(XAES_NONCE_SIZE))
        steps = [Step(StepKind.AUX_WRITE, self._handle, pos, PAGE_SIZE) for pos in stored]
        steps.append(Step(StepKind.RECORD_PUT, self._handle, record=sealed))
        views = [] if source is None else list(extract_segments(source.copy(), source.count))
        views += [memoryview(page) for page in stored.values()]
        whole = Transact([*request.asserts, (self._handle, self._generation)], request.verifier, [*request.steps, *steps])
        reply = await self._inner.call(whole, source=IovIter.kvec(Direction.SOURCE, views) if views else None)
        body = reply.body
        if not reply.status and isinstance(body, TransactReply):
            self._generation = body.generations.pop()
            self._record = record
            self._tree.root = root
            self._freshness.committed(self._id, record.generation, sealed)
        return reply

    # ---- the root

    async def _refresh(self) -> None:
        outcome = await waited(self.refresh)
        if not isinstance(outcome, Reply):
            raise outcome
        body = body_of(outcome, RecordReply)
        if isinstance(body, Exception):
            raise body

    def refresh(self, done: Done) -> Abandonable:
        """Read the root's record again; `done` gets an outcome that is an error when it cannot be believed."""
        asked = self._freshness.clock
        assert self._handle is not None

        def got(outcome: Outcome) -> None:
            body = body_of(outcome, RecordReply)
            if isinstance(body, RecordReply):
                try:
                    self._take(body, asked)
                except CryptoError as error:
                    outcome = Reply(error.errno)
            done(outcome)

        return self._inner.submit(RecordGet(self._handle), got)

    def _take(self, reply: RecordReply, asked: int) -> None:
        if not reply.record:
            raise IntegrityError("the volume has lost its root", file_id=self._id)
        record = open_root(self._key, reply.record)
        if self._freshness.observe(self._id, record.generation, reply.record, asked):
            self._record, self._generation = record, reply.generation
            self._tree.root = record.root

    async def _load(self, file_id: bytes) -> None:
        while self._tree.missing(file_id) is not None:
            outcome = await waited(lambda done: self.load(file_id, done))
            if not isinstance(outcome, Reply):
                raise outcome
            body = body_of(outcome, ReadReply)
            if isinstance(body, Exception):
                # A page that does not fit is one of a newer root, or a lie.
                before = self.moves
                await self._refresh()
                if self.moves == before:
                    raise body

    def load(self, file_id: bytes, done: Done) -> Abandonable:
        """Read the next page that is missing for an object, which there is; `done` as for `refresh`."""
        page = self._tree.missing(file_id)
        assert page is not None and self._handle is not None
        buffer = memoryview(bytearray(PAGE_SIZE))

        def got(outcome: Outcome) -> None:
            if isinstance(body_of(outcome, ReadReply), ReadReply) and isinstance(outcome, Reply):
                try:
                    self._tree.supply(page, buffer[: outcome.received])
                except IntegrityError as error:
                    outcome = Reply(error.errno)
            done(outcome)

        return self._inner.submit(AuxRead(self._handle, page.pos, PAGE_SIZE), got, dest=IovIter.ubuf(Direction.DEST, buffer))

    # ---- for checks

    def missing(self, objects: dict[bytes, bytes | None]) -> bytes | None:
        """Return the first object for which a page is missing."""
        return next((file_id for file_id in objects if self._tree.missing(file_id) is not None), None)

    def fits(self, objects: dict[bytes, bytes | None]) -> bool:
        """Say whether the tree has these digests; no page may be missing."""
        return all(self._tree.get(file_id) == digest for file_id, digest in objects.items())

    def told(self, request: Request, reply: Reply) -> dict[bytes, bytes | None]:
        """Return the objects an answer tells of, with the digests of their records."""
        body = reply.body
        rows: list[tuple[Handle, bytes]] = []
        if isinstance(body, RecordReply) and isinstance(request, RecordGet):
            if not body.record and request.handle == self._top:
                return {self._key.root_id or b"": None}
            rows = [(request.handle, body.record)]
        elif isinstance(body, EntryReply):
            rows = [(body.handle, body.record)]
        elif isinstance(body, ReaddirReply):
            rows = [(entry.handle, entry.record or b"") for entry in body.entries if entry.handle != self._handle]
        objects: dict[bytes, bytes | None] = {}
        for handle, record in rows:
            if len(record) > PAGE_SIZE or not record:
                continue  # refused by whoever asked
            try:
                file_id = file_id_of(record)
            except CryptoError:
                continue
            objects[file_id] = digest_of(record)
            self._ids[handle] = file_id
        return objects

    def lied(self, objects: dict[bytes, bytes | None]) -> None:
        """Note that the server shows another state of objects than the root does."""
        self._freshness.marks.tainted += [Seen(file_id, 0) for file_id in objects]
        for file_id in objects:
            self._probe.emit("audit", "", file_id.hex(), -1, errno.ESTALE, "not the state that the root of the volume has")
        self._freshness.commit()

    @property
    def inner(self) -> Transport:
        """The transport below."""
        return self._inner

    @property
    def moves(self) -> int:
        """The generation of the root."""
        return self._record.generation


class _Check:
    """One question whose answer is checked against the root before it is given."""

    def __init__(self, rooted: RootedTransport, request: Request, done: Done) -> None:
        self._rooted = rooted
        self._request = request
        self._done = done
        self._unmoved = 0
        self._call: ClientCall | None = None
        self._objects: dict[bytes, bytes | None] = {}
        self._reply = Reply(errno.EIO)

    def start(self) -> ClientCall:
        """Ask, or ask again."""
        self._call = self._rooted.inner.submit(self._request, self._answered)
        return self._call

    def _answered(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Reply) or outcome.status:
            self._done(outcome)
            return
        self._reply = outcome
        self._objects = self._rooted.told(self._request, outcome)
        self._check(self._ask_root)

    def _check(self, otherwise: Callable[[], None]) -> None:
        missing = self._rooted.missing(self._objects)
        if missing is not None:
            self._rooted.load(missing, lambda outcome: self._loaded(outcome, otherwise))
        elif self._rooted.fits(self._objects):
            self._done(self._reply)
        else:
            otherwise()

    def _loaded(self, outcome: Outcome, otherwise: Callable[[], None]) -> None:
        if isinstance(outcome, Reply) and not outcome.status:
            self._check(otherwise)
        elif isinstance(outcome, Reply) and outcome.status == errno.EBADMSG and self._unmoved < UNMOVED:
            self._ask_root()  # perhaps the page was changed meanwhile, by somebody who may
        else:
            self._done(outcome)

    def _ask_root(self) -> None:
        before = self._rooted.moves

        def got(outcome: Outcome) -> None:
            if not isinstance(outcome, Reply) or outcome.status:
                self._done(outcome)
                return
            self._unmoved = 0 if self._rooted.moves != before else self._unmoved + 1
            if self._unmoved > UNMOVED:
                self._rooted.lied(self._objects)
                self._done(Reply(errno.ESTALE))
            else:
                self.start()

        self._rooted.refresh(got)


async def waited(start: Callable[[Done], object]) -> Outcome:
    """Wait for what ends by a callback. Cancellation: what is under way is waited for."""
    ended = trio.Event()
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        ended.set()

    await trio.lowlevel.checkpoint_if_cancelled()
    start(done)
    try:
        await ended.wait()
    except BaseException:
        with trio.move_on_after(WAIT_S, shield=True):
            await ended.wait()
        raise
    return outcomes[0]
