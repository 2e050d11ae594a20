"""Trio shell. DiskCookie: one file's share of a local cache, from the table of its states to reads and writes of its granules.

The state goes by `states.TABLE`; what the cookie believes is in its `GranuleMap`; the disk's work is queued with the cache, what
changes the object one piece at a time, reads beside it. Whatever fails makes the cookie FAILED: the file goes on from the server,
and an object that cannot be read or written is removed. Memory of reads and writes is lent until `done`.
"""

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iov.iov_iter import IovIter
from netfs.cache.base import BlockCookie, CacheDone, Extent
from netfs.cache.waiters import WakeList
from netfs.fscache.granules import GranuleMap
from netfs.fscache.layout import SALT_SIZE, Header, object_name
from netfs.fscache.object_file import ObjectFile, Spoilt
from netfs.fscache.pieces import cut_to_granules
from netfs.fscache.states import BUSY, Event, State, after
from netfs.fscache.work import Job
from transport.base import Abandonable

if TYPE_CHECKING:
    from netfs.fscache.service import RunningCache

__all__ = ["DiskCookie"]


@dataclass(slots=True, eq=False)
class _Held:
    """An open object. io: work under way on it; then: called when that has ended and the object is given up."""

    file: ObjectFile
    io: int = 0
    then: Callable[[], None] | None = None


@dataclass(slots=True, eq=False)
class _Change:
    """Work that changes the object: `run` in a thread, unless an invalidation overtook it; then `ended`."""

    run: Callable[[ObjectFile], None]
    ended: Callable[[Exception | None], None]
    job: Job | None = None
    inval_counter: int = 0
    withdrawn: bool = False

    def abandon(self) -> None:
        """Ask that it not be begun."""
        self.withdrawn = True


def _never() -> bool:
    return False


class DiskCookie(BlockCookie):
    """What a local cache has of one file.

    users: how many use it. modified: asked whether this client has changed the file since it was opened; what is stored then is
    not believed by a later run. settled: woken when a change of state is over.
    """

    def __init__(self, cache: "RunningCache", volume: str, key: bytes, granule: int, *, sealed: bool) -> None:
        self.granularity = granule
        self.inval_counter = 0
        self.state = State.QUIESCENT
        self.sealed = sealed
        self.users = 0
        self.modified: Callable[[], bool] = _never
        self.settled = WakeList()
        self._cache = cache
        self._key = key
        self._name = f"{volume}/{object_name(key)}"
        self._coherency = b""
        self._map = GranuleMap(granule)
        self._held: _Held | None = None
        self._asked: deque[Event] = deque()
        self._changes: deque[_Change] = deque()
        self._changing = False
        self._missed = False

    # ---- states

    @property
    def is_open(self) -> bool:
        """It has a file descriptor, or is about to."""
        return self._held is not None or self.state in BUSY

    @property
    def usable(self) -> bool:
        """Reading and writing make sense now."""
        return self.state is State.ACTIVE and not self._asked

    @property
    def keeps(self) -> bool:
        """There is something cached that a later run believes only with the server's word."""
        held = self._held
        return self.usable and not self.sealed and held is not None and held.file.writable and not self._map.empty

    @property
    def busy(self) -> bool:
        """A change of state is under way."""
        return self.state in BUSY or bool(self._asked)

    def use(self, coherency: bytes, size: int) -> None:
        """The file was opened; its stored size is `size`. coherency: what the server said of it, empty for an encrypted file.

        What was cached under another word is forgotten.
        """
        if coherency != self._coherency:
            self._coherency = coherency
            if self.state is not State.QUIESCENT:
                self._outdate()
        self._map.size = size
        if self._cache.usable and (self.is_open or self._cache.make_way()):
            self._ask(Event.USE)

    def keep(self, coherency: bytes) -> None:
        """All that is cached is what the server has, safely, as long as it says `coherency` of the file."""
        self._coherency = coherency

        def run(file: ObjectFile) -> None:
            file.disk.sync(file.fd)  # granules of before must not come back under this word
            file.set_coherency(coherency)

        self._change(run, lambda _: None)

    def discard(self) -> None:
        """Give up the file descriptor; what is cached stays for the next use."""
        self._ask(Event.IDLE)

    def withdraw(self) -> None:
        """The cache is closed."""
        self._ask(Event.WITHDRAW)

    def relinquish(self) -> None:
        """The file is forgotten by its client; what is cached stays for the next run."""
        self._ask(Event.RELINQUISH)

    def invalidate(self, why: str) -> None:
        """Forget all that is cached of the file, at once: what is in flight is no longer believed either."""
        del why
        if self.sealed or (self.state is State.ACTIVE and self._map.empty):
            self.inval_counter += 1  # each block answers for itself, or there is nothing
        else:
            self._outdate()

    def _outdate(self) -> None:
        """Put an empty object in the place of this one."""
        self.inval_counter += 1
        self._map.clear()
        self._missed = True
        self._ask(Event.INVALIDATE)

    def resize(self, size: int) -> None:
        """The stored file was cut or extended to `size` bytes: what is behind the lesser of both is forgotten."""
        kept = min(size, self._map.size)
        self._forget(kept // self.granularity, 1 << 62)
        self._map.size = size

    def _ask(self, event: Event) -> None:
        self._asked.append(event)
        self._go_on()

    def _go_on(self) -> None:
        """Take up what was asked for, as far as no work is under way."""
        while self._asked and self.state not in BUSY:
            event = self._asked.popleft()
            if self.state is not State.DROPPED:
                self._enter(after(self.state, event), event)
        if not self.busy:
            self.settled.wake_all()

    def _happened(self, event: Event) -> None:
        self._enter(after(self.state, event), event)
        self._go_on()

    def _enter(self, state: State, event: Event) -> None:
        self.state = state
        match state:
            case State.LOOKING_UP:
                self._look_up()
            case State.CREATING:
                self._make(instead=False)
            case State.INVALIDATING:
                self._make(instead=True)
            case State.LRU_DISCARDING | State.WITHDRAWING | State.RELINQUISHING:
                self._map.clear()
                self._let_go(lambda: self._happened(Event.CLOSED))
            case State.ACTIVE if event is Event.FOUND and self._missed:
                # Something was changed while it was looked up, so what was found is of before.
                self._asked.appendleft(Event.INVALIDATE)
            case _:
                pass

    # ---- the object

    def _work(self, run: Callable[[], object], ended: Callable[[object, Exception | None], None]) -> Job:
        return self._cache.submit(Job(run, ended))

    def _header(self) -> Header:
        salt = self._cache.env.nonces(SALT_SIZE)
        return Header(self.sealed, self.granularity, salt, self._key, self._coherency)

    def _look_up(self) -> None:
        disk, name, like, writable = self._cache.disk, self._name, self._header(), self._cache.writable
        self._missed = False

        def run() -> object:
            file = ObjectFile.find(disk, name, like, writable=writable)
            if file is None:
                return None
            try:
                return file, file.scan()
            except BaseException:
                file.close()
                raise

        def ended(result: object, error: Exception | None) -> None:
            if isinstance(result, tuple):
                file, (there, short) = result
                self._held = _Held(file)
                if not self._missed:
                    self._map.load(there, short)
                self._happened(Event.FOUND)
            elif error is None and self._cache.may_write:
                self._happened(Event.MISSING)
            else:
                self._happened(Event.BROKEN)

        self._work(run, ended)

    def _make(self, *, instead: bool) -> None:
        disk, name, header, tag = self._cache.disk, self._name, self._header(), self._cache.tag()
        self._missed = False

        def ended(result: object, _: Exception | None) -> None:
            self._map.clear()
            if isinstance(result, ObjectFile):
                self._held = _Held(result)
                self._happened(Event.SWAPPED if instead else Event.CREATED)
            else:
                if instead:
                    # What was to be replaced is not to be found again.
                    self._work(lambda: disk.unlink(name), lambda *_: None)
                self._happened(Event.BROKEN)

        self._let_go(None)
        if not self._cache.writable:
            self._happened(Event.BROKEN)
            return
        self._work(lambda: ObjectFile.make(disk, name, header, tag, instead=instead), ended)

    def _let_go(self, then: Callable[[], None] | None) -> None:
        """Close the object when the work on it has ended, and then go on."""
        held, self._held = self._held, None
        if held is None:
            if then is not None:
                then()
            return
        file, now_ns = held.file, self._cache.env.wall_ns()

        def run() -> object:
            if file.writable:
                file.disk.used_at(file.fd, now_ns)
            return None

        def ended(_: object, __: Exception | None) -> None:
            file.close()
            if then is not None:
                then()

        def close() -> None:
            self._work(run, ended)

        held.then = close
        if not held.io:
            close()

    def _on_object(
        self, held: _Held, run: Callable[[ObjectFile], object], ended: Callable[[object, Exception | None], None]
    ) -> Job:  # fmt: skip
        """Do work on an open object, which stays open as long."""
        held.io += 1

        def over(result: object, error: Exception | None) -> None:
            ended(result, error)
            held.io -= 1
            if held.then is not None and not held.io:
                held.then()

        return self._work(lambda: run(held.file), over)

    def _broken(self, held: _Held) -> None:
        """The object cannot be used any more."""
        if self._held is not held or self.state is not State.ACTIVE:
            return
        self._cache.stats.failed += 1
        self._map.clear()
        file, name = held.file, self._name
        self._let_go(None)
        if file.writable:
            self._work(lambda: file.disk.unlink(name), lambda *_: None)
        self._happened(Event.BROKEN)

    # ---- reading

    def next_extent(self, start: int, end: int) -> Extent | None:
        """Return the first run of whole granules within [start, end)."""
        found = self._map.next_extent(start, end)
        return Extent(*found) if found is not None else None

    def read(self, pos: int, dest: IovIter, done: CacheDone) -> Abandonable | None:
        """Read `dest.count` bytes at `pos`; see the contract."""
        assert not self.sealed, "blocks are read with their tags"
        return self._read(pos, dest, None, done)

    def read_blocks(self, first: int, entries: bytes | bytearray, dest: IovIter, done: CacheDone) -> Abandonable | None:
        """Read the blocks from `first` on, as the server has them, if they are those of these tag entries."""
        return self._read(first * self.granularity, dest, memoryview(entries), done)

    def _read(self, pos: int, dest: IovIter, entries: memoryview | None, done: CacheDone) -> Abandonable | None:
        held = self._held
        if held is None or not self.usable:
            done(0, OSError(errno.ESTALE, "not cached"))
            return None
        counter, length = self.inval_counter, dest.count
        cut = cut_to_granules(pos, dest, self.granularity, self._map.length)

        def ended(_: object, error: Exception | None) -> None:
            stats = self._cache.stats
            good = length
            if isinstance(error, Spoilt):
                stats.spoilt += 1
                good = cut.until(error.good)
                self._forget(error.index, error.index + 1)
            elif error is not None:
                good = 0
                if not _cancelled(error):
                    self._broken(held)
            if counter != self.inval_counter and not self.sealed:
                good, error = 0, OSError(errno.ESTALE, "overtaken by an invalidation")
            stats.reads += 1
            stats.read_bytes += good
            if cut.staged:
                self._cache.probe.copied(cut.unstage(good))
            done(good, error)

        return self._on_object(held, lambda file: file.read(cut.first, cut.granules, entries), ended)

    # ---- writing

    def forget(self, start: int, end: int) -> None:
        """Bytes of [start, end) are being changed."""
        if not self.sealed:
            self._forget(start // self.granularity, -(-end // self.granularity))

    def prepare_write(self, start: int, end: int) -> tuple[int, int] | None:
        """Say which whole granules of [start, end) can be taken."""
        found = self._map.trim(start, end)
        return found if self.usable and self._cache.takes_writes else None

    def write(self, pos: int, source: IovIter, done: CacheDone) -> Abandonable | None:
        """Keep `source` as the file's bytes at `pos`; see the contract."""
        assert not self.sealed, "blocks are written with their tags"
        return self._write(pos, source, None, done)

    def write_blocks(self, first: int, entries: bytes | bytearray, source: IovIter, done: CacheDone) -> Abandonable | None:
        """Keep the blocks from `first` on, as the server has them, with their tag entries."""
        return self._write(first * self.granularity, source, memoryview(entries), done)

    def _write(self, pos: int, source: IovIter, entries: memoryview | None, done: CacheDone) -> Abandonable | None:
        length = source.count
        held = self._held
        room = self._cache.may_write if entries is None else self._cache.takes_writes
        if held is None or not (self.usable and room and held.file.writable) or not length:
            done(0, OSError(errno.ENOBUFS, "nothing can be cached now"))
            return None
        cut = cut_to_granules(pos, source, self.granularity, None)
        writing = self._map.begin_write(pos, pos + length)
        new = not self.sealed and self.modified()

        def run(file: ObjectFile) -> None:
            if new:
                file.set_coherency(b"")
            file.write(cut.first, cut.granules, entries)

        def ended(error: Exception | None) -> None:
            self._map.end_write(writing, good=error is None)
            if error is None:
                self._cache.wrote(length)
            done(length if error is None else 0, error)

        return self._change(run, ended)

    def _change(self, run: Callable[[ObjectFile], None], ended: Callable[[Exception | None], None]) -> _Change:
        change = _Change(run, ended, inval_counter=self.inval_counter)
        self._changes.append(change)
        self._next_change()
        return change

    def _next_change(self) -> None:
        """Begin the next change, when the one before it is over."""
        while self._changes and not self._changing:
            change = self._changes.popleft()
            held = self._held
            if change.inval_counter != self.inval_counter and not self.sealed:
                change.ended(None)  # nobody will believe it
                continue
            if held is None or change.withdrawn:
                change.ended(OSError(errno.ECANCELED, "given up"))
                continue
            self._changing = True

            def over(_: object, error: Exception | None, change: _Change = change, held: _Held = held) -> None:
                self._changing = False
                change.ended(error)
                if error is not None and not _cancelled(error):
                    if isinstance(error, OSError) and error.errno in FULL:
                        self._cache.no_space()
                    else:
                        self._broken(held)
                self._next_change()

            self._on_object(held, change.run, over)

    def _forget(self, first: int, end: int) -> None:
        """Granules [first, end) are not right any more."""
        if self.state in {State.LOOKING_UP, State.QUIESCENT}:
            self._missed = True
        if self._map.forget(first, end) and self._held is not None and self._held.file.writable and not self.sealed:
            self._change(lambda file: file.forget(first, end), lambda _: None)


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def _cancelled(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ECANCELED
