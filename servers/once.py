"""Trio shell. Doing a numbered request once although the server may be killed in the middle of it.

Before a request is done, the keeper notes what it is and what the names it touches stood for; after it, the answer. A server that
finds the first note without the second looks at the same names again:

    noted before                      found after the restart              so it was
    create: no such name              the name is there                    done: the answer is what is there
    unlink: the name was object A     another object, or none              done
    rename: the old name was A        A has the new name                   done
    setattr, truncate                 it is as the request wants it        done, or as good as done; not behind a write
    transact: generations g           g + 1, for each record put                              done
    anything else                                                          not done: it will be when it is asked for again

For that nobody may touch the same names between the two notes, so requests that share one wait for each other (`Names`). A
transaction's own journal makes it whole. The answer is noted before what was done is durable, which many requests get together
(`workers.py`): if that fails, the note is replaced by the error before anybody hears of either, and a server that finds notes of
one that was killed makes durable first what they tell of (`Store.sync`). Owns no payload memory.
"""

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

from servers.stores.base import Store
from transport.base import Reply
from transport.messages import (
    Ack,
    AttrReply,
    Body,
    Compound,
    Handle,
    Lookup,
    Rename,
    Request,
    Rmdir,
    Sequenced,
    SequencedReply,
    Setattr,
    StepKind,
    Transact,
    TransactReply,
    Truncate,
    Unlink,
    Write,
    XattrRemove,
    XattrSet,
)

__all__ = ["Doubt", "Keeping", "Names", "Running", "look", "settle"]

NOBODY: Final = b""
_STEP_HANDLE: Final = 1
"""Length of a handle that stands for what an earlier step of a compound named."""


class Keeping(Protocol):
    """Where one session's notes go; they outlive the process when the call returns. Called from workers."""

    def intend(self, slot: int, seq: int, request: Request, before: Sequence[bytes]) -> None:
        """Note what is going to be done in a slot."""

    def answer(self, slot: int, seq: int, reply: Reply) -> None:
        """Note that it has been done, and the answer."""


@dataclass(slots=True)
class Doubt:
    """A request that was begun and perhaps done. done: the answers of the steps of a compound that were."""

    request: Request
    before: Sequence[bytes]
    done: dict[int, Body] = field(default_factory=dict)


class Names:
    """Locks by name and by object, for the threads that do requests."""

    def __init__(self) -> None:
        self._table: dict[bytes, tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()

    @contextmanager
    def held(self, keys: Sequence[bytes]) -> Iterator[None]:
        """Hold some names; sorted, so that nobody waits in a circle."""
        ordered = sorted(set(keys))
        for key in ordered:
            with self._guard:
                lock, users = self._table.get(key, (None, 0))
                lock = lock or threading.Lock()
                self._table[key] = (lock, users + 1)
            lock.acquire()
        try:
            yield
        finally:
            for key in ordered:
                with self._guard:
                    lock, users = self._table.pop(key)
                    if users > 1:
                        self._table[key] = (lock, users - 1)
                lock.release()


class Running:
    """One numbered request while it is done. began: something may have happened; reply: it has, and this is the answer."""

    __slots__ = ("_keeping", "_names", "_request", "_store", "began", "doubt", "reply")

    def __init__(self, request: Sequenced, store: Store, names: Names, keeping: Keeping | None, doubt: Doubt | None) -> None:
        self._request = request
        self._store = store
        self._names = names
        self._keeping = keeping
        self.doubt = doubt
        self.began = False
        self.reply: Reply | None = None

    @property
    def done(self) -> dict[int, Body]:
        """The steps of a compound that need not be done again."""
        return {} if self.doubt is None else self.doubt.done

    def __call__(self, work: Callable[[], Reply]) -> Reply:
        """Do the work, in whatever thread the store is called from."""
        self.began = True
        if self._keeping is None:
            reply = self._numbered(work())
        else:
            asked = self._request
            inner = asked.request
            # A store that never sleeps is called by the loop's thread alone.
            with self._names.held(keys_of(inner)) if self._store.blocking else nullcontext():
                if self.doubt is None:
                    self._keeping.intend(asked.slot, asked.seq, inner, look(self._store, inner))
                reply = self._numbered(work())
                self._keeping.answer(asked.slot, asked.seq, reply)
        self.reply = reply
        return reply

    def not_durable(self, error: OSError) -> None:
        """See `Noting`: the note of success is replaced before anybody is answered."""
        if self._keeping is not None and self.reply is not None:
            self._keeping.answer(self._request.slot, self._request.seq, Reply(error.errno or errno.EIO))

    def take(self, reply: Reply) -> None:
        """Take an answer that needed no work, such as a refusal, or that what was done could not be made durable."""
        if self.reply is None or reply.status:
            self.began = True
            self.reply = self._numbered(reply)

    def _numbered(self, reply: Reply) -> Reply:
        assert reply.source is None, "nothing that is numbered reads"
        if reply.status or reply.body is None:
            return reply
        return Reply(0, SequencedReply(self._request.request.op, reply.body))


# ---- before


def keys_of(request: Request) -> list[bytes]:
    """Return what a request may change: names in directories, and objects."""
    keys: list[bytes] = []
    for step in _steps(request):
        for parent, name in _names_of(step):
            keys.append(parent + b"/" + name.encode("utf-8", "surrogateescape"))
        if isinstance(step, Transact):
            keys += [handle for handle, _ in step.asserts]
        elif (handle := getattr(step, "handle", None)) is not None:
            keys.append(handle)
    return keys


def look(store: Store, request: Request) -> list[bytes]:
    """Return who the objects are whose names a request touches, NOBODY for a name that stands for none."""
    found: list[bytes] = []
    named: list[Handle] = []
    for step in _steps(request):
        names = _names_of(step)
        found += [_find(store, _real(parent, named), name) for parent, name in names]
        if isinstance(step, XattrSet | XattrRemove):
            found.append(_value(store, step.handle, step.name) or NOBODY)
        named.append(Handle(found[-len(names)]) if names else _named_by(store, step, named))
    return found


def _facts(step: Request) -> int:
    """Return how many facts `look` notes of a step."""
    return 1 if isinstance(step, XattrSet | XattrRemove) else len(_names_of(step))


def _steps(request: Request) -> list[Request]:
    return [step.request for step in request.steps] if isinstance(request, Compound) else [request]


def _names_of(request: Request) -> list[tuple[Handle, str]]:
    if isinstance(request, Rename):
        return [(request.parent, request.name), (request.new_parent, request.new_name)]
    parent, name = getattr(request, "parent", None), getattr(request, "name", None)
    if parent is None or name is None or isinstance(request, Lookup):
        return []
    return [(parent, name)]


def _real(handle: Handle, named: list[Handle]) -> Handle:
    if len(handle) != _STEP_HANDLE:
        return handle
    return named[handle[0]] if handle[0] < len(named) else Handle(NOBODY)


def _named_by(store: Store, step: Request, named: list[Handle]) -> Handle:
    parent, name = getattr(step, "parent", None), getattr(step, "name", None)
    if parent is None or name is None:
        return Handle(getattr(step, "handle", NOBODY))
    return Handle(_find(store, _real(parent, named), name))


def _value(store: Store, handle: Handle, name: str) -> bytes | None:
    try:
        return store.xattr_get(handle, name)
    except OSError:
        return None


def _find(store: Store, parent: Handle, name: str) -> bytes:
    if not parent:
        return NOBODY
    try:
        return store.who(parent, name) or NOBODY
    except OSError:
        return NOBODY


# ---- after a restart


def settle(store: Store, doubt: Doubt) -> Reply | None:
    """Find out whether a request was done. Returns: its answer if so, None when it is to be done when asked for again."""
    request = doubt.request
    if isinstance(request, Compound):
        before = iter(doubt.before)
        named: list[Handle] = []
        writes = False
        for index, step in enumerate(_steps(request)):
            was = [next(before, NOBODY) for _ in range(_facts(step))]
            body = _settled(store, step, was, named)
            writes = writes or isinstance(step, Write)
            # The write will be done again, and moves the times that were set behind it.
            if body is not None and not (writes and isinstance(step, Setattr | Truncate)):
                doubt.done[index] = body
            named.append(_named_by(store, step, named))
        return None
    body = _settled(store, request, doubt.before, [])
    return None if body is None else Reply(0, SequencedReply(request.op, body))


def _settled(store: Store, request: Request, was: Sequence[bytes], named: list[Handle]) -> Body | None:
    try:
        return _body_if_done(store, request, was, named)
    except OSError:
        return None


def _body_if_done(store: Store, request: Request, was: Sequence[bytes], named: list[Handle]) -> Body | None:
    if isinstance(request, Rename):
        moved = bool(was[0]) and was[0] != was[1]
        return Ack() if moved and _find(store, _real(request.new_parent, named), request.new_name) == was[0] else None
    if isinstance(request, Setattr):
        attr = store.getattr(request.handle)
        wanted = {name: getattr(request, name) for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns", "size")}
        same = all(value is None or getattr(attr, name) == value for name, value in wanted.items())
        return AttrReply(attr) if same else None
    if isinstance(request, Truncate):
        attr = store.getattr(request.handle)
        return AttrReply(attr) if attr.size == request.size else None
    if isinstance(request, Transact):
        puts = [step.handle for step in request.steps if step.kind is StepKind.RECORD_PUT]
        now = [store.record_get(handle)[1] for handle, _ in request.asserts]
        then = [generation + puts.count(handle) for handle, generation in request.asserts]
        moved = any(handle in puts for handle, _ in request.asserts)
        return TransactReply(now) if moved and now == then else None
    if isinstance(request, XattrSet):
        return AttrReply(store.getattr(request.handle)) if _value(store, request.handle, request.name) == request.value else None
    if isinstance(request, XattrRemove):
        gone = bool(was[0]) and _value(store, request.handle, request.name) is None
        return AttrReply(store.getattr(request.handle)) if gone else None
    names = _names_of(request)
    if not names:
        return None
    parent, name = _real(names[0][0], named), names[0][1]
    if isinstance(request, Unlink | Rmdir):
        return Ack() if was[0] and _find(store, parent, name) != was[0] else None
    # What is left makes a name: create, mkdir, link, symlink.
    return None if was[0] else store.lookup(parent, name)
