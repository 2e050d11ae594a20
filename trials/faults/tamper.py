"""Trio shell. The malicious server: a layer around a store, and around what answers requests, that lies in one chosen way.

    async with trials.pair(encrypt=True, tamper=Tamper("A04", "block+page")) as p: …        or by hand: netfs serve --tamper A04

It holds no key. It knows the format as far as anybody does, and remembers what clients have stored: each version of data, tags,
record and listing, so that it can go back. An attack is a class with a few hooks (`Attack`), found by its id in ATTACKS; a new
one needs no change here. Nothing is changed in the store itself, so that an attack ends when it is disarmed. Memory: what is
lent to a reply that was changed is a copy; `attack.struck` counts the lies that were told.
"""

import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, cast

from iov.copy_iter import copy_from_iter
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from servers.server import Server
from servers.stores.base import Lent, Store
from transport.base import FileRange, Handler, Landing, Limits, Reply
from transport.env import Env
from transport.messages import Attr, DirEntry, EntryReply, Handle, Request, Setattr, Step, StepKind, TransactReply

__all__ = ["ATTACKS", "Attack", "Kept", "Tamper", "attack", "attack_of", "load_attacks", "tampering"]

ATTACKS: Final[dict[str, type["Attack"]]] = {}
KEEP_BYTES: Final = 4 << 20
"""Versions of larger files are not remembered."""
KEEP_VERSIONS: Final = 64
PAGE: Final = 1 << 12
EVERYTHING: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """One version of an object as the server had it. moment: counts the changes of the whole store."""

    moment: int
    data: bytes = b""
    aux: bytes = b""
    record: bytes = b""
    generation: int = 0
    listing: tuple[DirEntry, ...] = ()


class Attack:
    """One way to lie; hooks give back what they are given unless a subclass lies.

    variant: one of VARIANTS, the first by default. victims: handles it is aimed at, None for all. block, block_size: where in a
    file it strikes. armed: it lies. struck: how often it did.
    """

    ID: ClassVar[str]
    TEXT: ClassVar[str]
    VARIANTS: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, server: "TamperStore", variant: str) -> None:
        self.server = server
        self.variant = variant
        self.victims: set[Handle] | None = None
        self.other: Handle | None = None
        self.block = 1
        self.bit = 77
        self.armed = True
        self.struck = 0

    @property
    def block_size(self) -> int:
        """Bytes of a block, which the server can only guess."""
        return self.server.block_size

    def aims_at(self, handle: Handle) -> bool:
        """Say whether to lie about an object."""
        return self.victims is None or handle in self.victims

    def strike(self) -> None:
        """Count a lie."""
        self.struck += 1

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        """Return what a read of the data stream is answered with. wanted: bytes asked for."""
        del handle, pos, wanted
        return content

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        """Return what a read of the tag stream is answered with."""
        del handle, pos
        return content

    def record(self, handle: Handle, record: bytes) -> bytes:
        """Return the record that is shown."""
        del handle
        return record

    def attr(self, handle: Handle, attr: Attr) -> Attr:
        """Return the attributes that are shown."""
        del handle
        return attr

    def lookup(self, parent: Handle, name: str, found: EntryReply) -> EntryReply:
        """Return what a name is said to be. Raises: OSError to say that it is not there."""
        del parent, name
        return found

    def missed(self, parent: Handle, name: str, error: OSError) -> EntryReply:
        """Answer for a name that is not there. Raises: OSError."""
        del parent, name
        raise error

    def listing(self, handle: Handle, entries: list[DirEntry]) -> list[DirEntry]:
        """Return a directory as it is listed."""
        del handle
        return entries

    def transact(self, steps: Sequence[Step], payload: IovIter | None) -> tuple[Sequence[Step], IovIter | None] | None:
        """Return what is really done of a transaction; None to do nothing and say it was done."""
        return steps, payload

    def before(self, method: str, args: Sequence[object]) -> None:
        """Look at a call that may change something, before it is made. Raises: OSError to have it fail."""
        del method, args

    def words(self, method: str, handle: Handle, answer: object, *rest: object) -> object:
        """Return the answer to a method that asks for small things of one object, given `rest`: a link's target, a blob."""
        del method, handle, rest
        return answer

    def handler(self, inner: Handler) -> Handler:
        """Wrap what answers the requests of one connection."""
        return inner


def attack(cls: type[Attack]) -> type[Attack]:
    """Add an attack to the table."""
    assert cls.ID not in ATTACKS, f"{cls.ID} twice"
    ATTACKS[cls.ID] = cls
    return cls


def load_attacks() -> dict[str, type[Attack]]:
    """Return all attacks by id."""
    from trials.faults import (  # noqa: F401, PLC0415 - they import this module
        tamper_data,
        tamper_header,
        tamper_names,
        tamper_records,
        tamper_replies,
    )

    return dict(sorted(ATTACKS.items()))


def attack_of(words: str) -> tuple[type[Attack], str]:
    """Parse `A04` or `A04:block+page`. Raises: ValueError in one line that names what there is."""
    name, _, variant = words.partition(":")
    known = load_attacks()
    if name not in known:
        raise ValueError(f"no attack {name}; there are {', '.join(known)}")
    found = known[name]
    if variant and variant not in found.VARIANTS:
        raise ValueError(f"{name} has no variant {variant}; it has {', '.join(found.VARIANTS)}")
    return found, variant or found.VARIANTS[0]


class Tamper:
    """An attack that waits for its server: give it to `trials.pair`, to `servers.serve`, or to `netfs serve --tamper`.

    attack: there once `around` was called. block_size: of the files that are attacked.
    """

    def __init__(self, name: str, variant: str = "", *, block_size: int = 1 << 14, armed: bool = True) -> None:
        self._kind, self._variant = attack_of(f"{name}:{variant}" if variant else name)
        self._block_size = block_size
        self._armed = armed
        self.attack: Attack
        self.store: TamperStore

    def around(self, store: Store) -> Store:
        """Return the store with the attack around it."""
        self.store = TamperStore(store, self._block_size)
        self.store.attack = self.attack = self._kind(self.store, self._variant)
        self.attack.armed = self._armed
        return cast(Store, self.store)

    def handler(self, inner: Handler) -> Handler:
        """Return what answers the requests of one connection with the attack around it."""
        return self.attack.handler(inner)

    def server(self, store: Store, env: Env, probe: Probe, limits: Limits) -> Server:
        """Return a server of the store that lies."""
        return Server(self.around(store), env, probe, limits, around=self.handler)


def tampering(words: str) -> Tamper:
    """Return what `netfs serve --tamper` puts around its store. Raises: ValueError for words that name no attack."""
    return Tamper(*words.split(":", 1))


@dataclass(slots=True)
class Names:
    """Where a handle was seen last: its parent, and its name there."""

    parent: Handle
    name: str


@dataclass(eq=False)
class TamperStore:
    """A store that answers as its attack wants, and remembers. What it has no word for is the inner store's.

    Methods may come from several threads if the inner store's may; the memory of the past is under a lock.
    """

    inner: Store
    block_size: int
    attack: Attack = field(init=False)
    moment: int = 0
    kept: dict[Handle, list[Kept]] = field(default_factory=dict)
    names: dict[Handle, Names] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name.startswith("_") or not callable(found):
            return found
        return _Watched(self, name, found)

    # ---- memory of the past

    def versions(self, handle: Handle) -> list[Kept]:
        """Return what is remembered of an object, the oldest first."""
        return self.kept.get(handle, [])

    def at(self, handle: Handle, moment: int) -> Kept | None:
        """Return the last version that is not younger than a moment."""
        return next((kept for kept in reversed(self.versions(handle)) if kept.moment <= moment), None)

    def remember(self, *handles: Handle) -> None:
        """Note what objects are now."""
        with self.lock:
            self.moment += 1
            for handle in dict.fromkeys(handles):
                past = self.kept.setdefault(handle, [])
                now = self.look(handle)
                if now is None or (past and replace(past[-1], moment=now.moment) == now):
                    continue
                past.append(now)
                del past[1:-KEEP_VERSIONS]

    def look(self, handle: Handle) -> Kept | None:
        """Return an object as it is; None when it is gone or too large."""
        try:
            record, generation = self.inner.record_get(handle)
        except OSError:
            record, generation = b"", 0
        try:
            attr = self.inner.getattr(handle)
            if attr.type.name == "DIRECTORY":
                listing, _ = self.inner.readdir(handle, 0, EVERYTHING)
                return Kept(self.moment, record=record, generation=generation, listing=tuple(listing))
            if attr.size > KEEP_BYTES:
                return None
            return Kept(self.moment, self.stream(handle), self.stream(handle, aux=True), record, generation)
        except OSError:
            return None

    def stream(self, handle: Handle, *, aux: bool = False) -> bytes:
        """Return all of a stream as the inner store has it, but not much more than `KEEP_BYTES`: a hole may be very long."""
        out = bytearray()
        while True:
            lent = self.inner.read_source(handle, len(out), 1 << 20, aux=aux)
            out += content_of(lent)
            if lent.eof or not lent.length or len(out) > KEEP_BYTES:
                return bytes(out)

    # ---- answers

    def read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False, ranges: bool = True) -> Lent:
        """Lend what the attack wants to be read."""
        return self._lie(self.inner.read_source(handle, pos, length, aux=aux, ranges=ranges), handle, pos, length, aux)

    def try_read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Lent | None:
        """The same if it need not sleep, else None."""
        lent = self.inner.try_read_source(handle, pos, length, aux=aux)
        return None if lent is None else self._lie(lent, handle, pos, length, aux)

    def _lie(self, lent: Lent, handle: Handle, pos: int, length: int, aux: bool) -> Lent:
        attack = self.attack
        if not (attack.armed and attack.aims_at(handle)):
            return lent
        eof = lent.eof
        truth = content_of(lent)
        lie = attack.tags(handle, pos, bytearray(truth)) if aux else attack.data(handle, pos, bytearray(truth), length)
        del lie[length:]
        eof = eof if len(lie) == len(truth) else len(lie) < length
        return Lent(IovIter.ubuf(Direction.SOURCE, lie) if lie else None, len(lie), eof)

    def record_get(self, handle: Handle) -> tuple[bytes, int]:
        """Show a record."""
        record, generation = self.inner.record_get(handle)
        if self.attack.armed and self.attack.aims_at(handle):
            record = self.attack.record(handle, record)
        return record, generation

    def getattr(self, handle: Handle) -> Attr:
        """Show attributes."""
        return self.shown(handle, self.inner.getattr(handle))

    def open(self, handle: Handle, *, write: bool) -> Attr:
        """Show attributes."""
        return self.shown(handle, self.inner.open(handle, write=write))

    def setattr(self, change: Setattr) -> Attr:
        """Show attributes."""
        return self.shown(change.handle, self.inner.setattr(change))

    def shown(self, handle: Handle, attr: Attr) -> Attr:
        """Return attributes as the attack wants them."""
        return self.attack.attr(handle, replace(attr)) if self.attack.armed and self.attack.aims_at(handle) else attr

    def lookup(self, parent: Handle, name: str) -> EntryReply:
        """Say what a name is."""
        attack = self.attack
        try:
            found = self.inner.lookup(parent, name)
        except OSError as error:
            if not attack.armed:
                raise
            return attack.missed(parent, name, error)
        self.names[found.handle] = Names(parent, name)
        if attack.armed and attack.aims_at(found.handle):
            found = attack.lookup(parent, name, found)
            if found.record and attack.aims_at(found.handle):
                found = replace(found, record=attack.record(found.handle, found.record))
        return replace(found, attr=self.shown(found.handle, found.attr))

    def readdir(self, handle: Handle, cookie: int, count: int) -> tuple[list[DirEntry], bool]:
        """List a directory; one that is lied about comes in one piece."""
        attack = self.attack
        if not attack.armed:
            return self.inner.readdir(handle, cookie, count)
        entries, _ = self.inner.readdir(handle, 0, EVERYTHING)
        for entry in entries:
            self.names[entry.handle] = Names(handle, entry.name)
        listed = [self._listed(entry) for entry in attack.listing(handle, [replace(entry) for entry in entries])]
        rest = [replace(entry, cookie=at) for at, entry in enumerate(listed, 1)][cookie:]
        return rest[:count], len(rest) <= count

    def _listed(self, entry: DirEntry) -> DirEntry:
        if not self.attack.aims_at(entry.handle):
            return entry
        record = None if entry.record is None else self.attack.record(entry.handle, entry.record)
        return replace(entry, attr=self.shown(entry.handle, entry.attr), record=record)

    def apply(
        self, asserts: Sequence[tuple[Handle, int]], verifier: int, steps: Sequence[Step], payload: IovIter | None, session: int
    ) -> TransactReply:
        """Do a transaction, or what the attack wants of it."""
        if self.attack.armed:
            self.attack.before("apply", (asserts, steps))
        really = self.attack.transact(steps, payload) if self.attack.armed else (steps, payload)
        if really is None:
            return TransactReply([generation + 1 for _, generation in asserts])
        done = self.inner.apply(asserts, verifier, *really, session)
        made = [entry.handle for entry in done.made]
        for step, handle in zip((step for step in really[0] if step.kind is StepKind.CREATE), made, strict=False):
            self.names[handle] = Names(step.handle, step.name)
        self.remember(*touched_by(asserts, really[0]), *made)
        return done

    def transact(
        self, asserts: Sequence[tuple[Handle, int]], verifier: int, steps: Sequence[Step], payload: IovIter | None
    ) -> list[int]:
        """As `apply`, for nobody's session."""
        return self.apply(asserts, verifier, steps, payload, 0).generations


class _Watched:
    """A method of the inner store: what it changed is remembered, what it answers is shown to the attack."""

    def __init__(self, server: TamperStore, name: str, method: Callable[..., Any]) -> None:
        self._server = server
        self._name = name
        self._method = method

    def __call__(self, *args: Any, **options: Any) -> Any:
        server = self._server
        if server.attack.armed:
            try:
                server.attack.before(self._name, args)
            except OSError:
                for arg in args:
                    if isinstance(arg, Landing) and arg.release is not None:
                        arg.release()
                raise
        answer = self._method(*args, **options)
        handles = [arg for arg in args if isinstance(arg, bytes)]
        if self._name in {"create", "mkdir", "unlink", "rmdir", "rename", "link", "symlink"}:
            server.remember(*map(Handle, handles))
            if isinstance(answer, EntryReply):
                server.names[answer.handle] = Names(Handle(args[0]), str(args[1]))
        if handles and server.attack.armed and server.attack.aims_at(Handle(handles[0])):
            return server.attack.words(self._name, Handle(handles[0]), answer, *args[1:])
        return answer


def touched_by(asserts: Sequence[tuple[Handle, int]], steps: Iterable[Step]) -> list[Handle]:
    """Return the objects a transaction speaks of."""
    named = [handle for step in steps for handle in (step.handle, step.other)]
    return [handle for handle in (*(handle for handle, _ in asserts), *named) if handle]


def content_of(lent: Lent) -> bytes:
    """Return what was lent, and give it back."""
    source = lent.source
    out = bytearray(lent.length)
    if isinstance(source, FileRange):
        out[:] = os.pread(source.fd, source.length, source.pos)
    elif source is not None:
        copy_from_iter(out, source.copy())
    if lent.release is not None:
        lent.release()
    return bytes(out)  # header: the malicious server's own copy


class ReplyTamper:
    """What answers the requests of one connection, with a function that changes the answers."""

    def __init__(self, inner: Handler, change: Callable[[Request, Reply], Reply]) -> None:
        self._inner = inner
        self._change = change

    def admit(self, request: Request, length: int) -> Landing | int:
        """Let payload in."""
        return self._inner.admit(request, length)

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        """Change the answer."""
        answer = self._inner.handle(request, landing)
        return self._change(request, answer) if isinstance(answer, Reply) else self._later(request, answer)

    async def _later(self, request: Request, answer: Awaitable[Reply]) -> Reply:
        return self._change(request, await answer)

    def closed(self) -> None:
        """Tell the handler."""
        self._inner.closed()
