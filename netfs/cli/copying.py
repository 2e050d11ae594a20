"""Trio shell. The copy engine: a walker cuts trees into pieces, a few workers carry the pieces from side to side.

        walker ──pieces──▶ worker: read into own buffer, write from it ┐
                           worker                                      ├─▶ the last piece of a file commits it
                           worker                                      ┘
A large file is spread over the workers, small ones travel beside each other; the channel between is bounded, so memory does not
grow with the tree. Each worker owns one buffer. A file that fails is discarded and told, the others go on; a failure of the
connection or of the whole target ends the copy. On the way out, cancelled or not, whatever is unfinished is discarded, or with
journals kept: then the next copy reads back what the journal says has arrived, and carries the rest.
"""

import errno
import hashlib
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import trio

from netfs.cli.filters import EVERYTHING, Filters
from netfs.cli.host import CommandError, Exit, Progress, failing
from netfs.cli.journal import Journal, Journals
from netfs.cli.pace import Pace
from netfs.cli.place import Place
from netfs.cli.sides import Item, Kind, Side, Sink, Source

__all__ = ["PIECE", "How", "Totals", "copy_trees"]

PIECE = 4 << 20
QUEUED_PIECES = 64
DISCARD_DEADLINE_S = 5.0
TARGET_IS_FULL = frozenset({errno.EDQUOT, errno.ENOSPC, errno.EROFS})


@dataclass(frozen=True, slots=True)
class How:
    """How trees are copied.

    filters: which names; dry: only say what would be done; verify: read each file back before it gets its name; newer: leave out
    files that have the same size and time there; delete: remove what is only in the target. journals: keep what is unfinished.
    """

    filters: Filters = EVERYTHING
    pace: Pace = field(default_factory=Pace)
    dry: bool = False
    verify: bool = False
    newer: bool = False
    delete: bool = False
    journals: Journals | None = None


@dataclass(slots=True)
class Totals:
    """What a copy did. skipped: places left out with the reason; failed: the errors of files that could not be copied.

    same: files that were there already; resumed: bytes that had arrived before; deleted: names; planned: what would be done.
    """

    files: int = 0
    same: int = 0
    resumed: int = 0
    deleted: int = 0
    planned: list[str] = field(default_factory=list)
    directories: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    failed: list[CommandError] = field(default_factory=list)

    def add(self, other: "Totals") -> None:
        """Count what `other` did as well."""
        self.files += other.files
        self.same += other.same
        self.resumed += other.resumed
        self.deleted += other.deleted
        self.planned += other.planned
        self.directories += other.directories
        self.bytes += other.bytes
        self.skipped += other.skipped
        self.failed += other.failed


@dataclass(slots=True, eq=False)
class _Copy:
    """One file under way. left: pieces not yet finished, one way or the other. digests: of pieces, by number."""

    origin: Place
    target: Place
    source: Source
    sink: Sink
    size: int
    left: int
    journal: Journal | None = None
    digests: dict[int, str] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    """Something to copy. path: below the top of the tree; there: what the target has under its name."""

    origin: Place
    item: Item
    target: Place
    path: str
    there: Item | None


@dataclass(slots=True)
class _Piece:
    copy: _Copy
    pos: int
    length: int


class _Engine:
    def __init__(self, source: Side, target: Side, progress: Progress, fresh_name: Callable[[], str], how: How) -> None:
        self.source, self.target, self.progress, self.fresh_name, self.how = source, target, progress, fresh_name, how
        self.totals = Totals()
        self.active: dict[_Copy, None] = {}
        self.surplus: list[tuple[Place, Item, str]] = []

    async def walk(self, jobs: Iterable[tuple[Place, Item, Place]], pieces: trio.MemorySendChannel[_Piece]) -> None:
        async with pieces:
            stack: list[_Job] = []
            for origin, item, target in list(jobs)[::-1]:
                stack.append(_Job(origin, item, target, "", await self.target.find(target) if self.how.newer else None))
            while stack:
                job = stack.pop()
                try:
                    if job.item.kind is Kind.FILE:
                        await self.queue(job, pieces)
                    elif job.item.kind is Kind.DIRECTORY:
                        stack.extend(await self.enter(job))
                    else:
                        self.totals.skipped.append(f"{job.origin}: a {job.item.kind.value} is not copied")
                except CommandError as error:
                    self.record(error)

    async def enter(self, job: _Job) -> list[_Job]:
        """Make a directory, and return what is to be copied into it, the first last."""
        how = self.how
        there = job.there
        if how.dry:
            if there is None:
                self.totals.planned.append(f"make directory {job.target}")
        else:
            await self.target.make_directory(job.target, job.item.mode)
        self.totals.directories += 1
        inside = [
            (each, path)
            for each in await self.source.entries(job.origin)
            for path in [f"{job.path}/{each.name}".lstrip("/")]
            if how.filters.admits(path, is_directory=each.kind is Kind.DIRECTORY)
        ]
        found: dict[str, Item] = {}
        if how.newer and there is not None and there.kind is Kind.DIRECTORY:
            found = {each.name: each for each in await self.target.entries(job.target)}
        if how.delete:
            names = {each.name for each, _ in inside}
            for each in found.values():
                path = f"{job.path}/{each.name}".lstrip("/")
                if each.name not in names and how.filters.admits(path, is_directory=each.kind is Kind.DIRECTORY):
                    self.surplus.append((job.target.child(each.name), each, path))
        return [
            _Job(job.origin.child(each.name), each, job.target.child(each.name), path, found.get(each.name))
            for each, path in reversed(inside)
        ]

    async def measure(self, jobs: Iterable[tuple[Place, Item, Place]]) -> None:
        """Tell the progress bar what there is to do, ahead of the walker: a time left is worth a second listing."""
        stack = [(origin, item, "") for origin, item, _ in jobs]
        while stack:
            origin, item, path = stack.pop()
            if not self.how.filters.admits(path, is_directory=item.kind is Kind.DIRECTORY):
                continue
            if item.kind is Kind.FILE:
                self.progress.expect(item.size)
            elif item.kind is Kind.DIRECTORY:
                try:
                    inside = await self.source.entries(origin)
                except CommandError:
                    continue  # the walker will tell
                stack.extend((origin.child(each.name), each, f"{path}/{each.name}".lstrip("/")) for each in inside)

    async def queue(self, job: _Job, pieces: trio.MemorySendChannel[_Piece]) -> None:
        item, there, how = job.item, job.there, self.how
        if there is not None and there.kind is Kind.FILE and (there.size, there.mtime_ns) == (item.size, item.mtime_ns):
            self.totals.same += 1
            self.progress.advance(item.size)
            return
        if how.dry:
            self.totals.planned.append(f"copy {job.origin} to {job.target}")
            self.totals.files += 1
            self.totals.bytes += item.size
            return
        journal, temporary = None, self.fresh_name()
        if how.journals is not None and item.size > PIECE:
            with failing(Exit.LOCAL):
                journal = how.journals.open(job.origin, item, job.target, temporary)
            temporary = journal.temporary
            if journal.outdated is not None:
                await self.target.sink(job.target, item, journal.outdated).discard()
        sink = self.target.sink(job.target, item, temporary, resumed=journal is not None)
        starts = range(0, max(item.size, 1), PIECE)
        copy = _Copy(job.origin, job.target, self.source.source(job.origin), sink, item.size, len(starts), journal)
        for pos in starts:
            await pieces.send(_Piece(copy, pos, min(PIECE, item.size - pos)))

    async def work(self, pieces: trio.MemoryReceiveChannel[_Piece]) -> None:
        buffer = memoryview(mmap.mmap(-1, PIECE))
        async for piece in pieces:
            copy = piece.copy
            self.active[copy] = None
            if not copy.failed:
                self.progress.say(copy.origin.name)
                try:
                    await self.carry(copy, buffer[: piece.length], piece.pos)
                    if copy.left == 1 and self.how.verify:
                        await self.check(copy, buffer)
                except CommandError as error:
                    if not copy.failed:  # by another piece of it
                        copy.failed = True
                        self.record(error)
            copy.left -= 1
            if copy.left == 0:
                await self.finish(copy)

    async def carry(self, copy: _Copy, view: memoryview, pos: int) -> None:
        number, journal = pos // PIECE, copy.journal
        if journal is not None and number in journal.pieces:
            arrived = await copy.sink.read_back(view, pos) == len(view)
            if arrived and await _digest(view) == journal.pieces[number]:
                copy.digests[number] = journal.pieces[number]
                self.totals.resumed += len(view)
                self.progress.advance(len(view))
                return
        if await copy.source.read_into(view, pos) < len(view):
            raise CommandError(Exit.NO, f"{copy.origin}: became shorter while it was copied")
        if journal is not None or self.how.verify:
            copy.digests[number] = await _digest(view)
        await self.how.pace.take(len(view))
        await copy.sink.write(view, pos)
        if journal is not None:
            with failing(Exit.LOCAL):
                journal.add(number, copy.digests[number])
        self.progress.advance(len(view))

    async def check(self, copy: _Copy, buffer: memoryview) -> None:
        """Read the finished file back, piece by piece."""
        for pos in range(0, copy.size, PIECE):
            view = buffer[: min(PIECE, copy.size - pos)]
            if await copy.sink.read_back(view, pos) < len(view) or await _digest(view) != copy.digests[pos // PIECE]:
                raise CommandError(Exit.NO, f"{copy.target}: what is there is not what was written, at {pos:,} bytes")

    async def remove_surplus(self) -> None:
        """Remove what is only in the target, when all else has arrived."""
        for place, item, path in self.surplus:
            try:
                await self.remove(place, item, path)
            except CommandError as error:
                self.record(error)

    async def remove(self, place: Place, item: Item, path: str) -> bool:
        """Remove what is only in the target, but nothing that the filters leave out. Returns: whether all of it went."""
        filters = self.how.filters
        if item.kind is Kind.DIRECTORY and filters.choosy:
            left = False
            for each in await self.target.entries(place):
                below = f"{path}/{each.name}"
                if filters.admits(below, is_directory=each.kind is Kind.DIRECTORY):
                    left = not await self.remove(place.child(each.name), each, below) or left
                else:
                    left = True
            if left:
                return False
        if self.how.dry:
            self.totals.planned.append(f"remove {place}")
        else:
            await self.target.remove(place, item)
        self.totals.deleted += 1
        return True

    async def finish(self, copy: _Copy) -> None:
        try:
            await copy.source.aclose()
            if not copy.failed:
                await copy.sink.commit()
            elif copy.journal is None:
                await copy.sink.discard()
            else:
                await copy.sink.aclose()
        except CommandError as error:
            if not copy.failed:
                self.record(error)
            return  # it stays among the active ones and is discarded at the end
        del self.active[copy]
        if copy.journal is not None:
            (copy.journal.close if copy.failed else copy.journal.remove)()
        if not copy.failed:
            self.totals.files += 1
            self.totals.bytes += copy.size

    def record(self, error: CommandError) -> None:
        """Keep the error of one file; pass on one that no other file would escape."""
        cause = error.__cause__
        if isinstance(cause, ConnectionError) or (isinstance(cause, OSError) and cause.errno in TARGET_IS_FULL):
            raise error
        self.totals.failed.append(error)

    async def discard_unfinished(self) -> None:
        with trio.move_on_after(DISCARD_DEADLINE_S, shield=True):
            for copy in list(self.active):
                if copy.journal is not None:
                    copy.journal.close()
                for close in (copy.source.aclose, copy.sink.discard if copy.journal is None else copy.sink.aclose):
                    try:
                        await close()
                    except CommandError:
                        continue  # the failure that led here has been told


async def _digest(view: memoryview) -> str:
    return await trio.to_thread.run_sync(lambda: hashlib.sha256(view).hexdigest())


async def copy_trees(
    jobs: Sequence[tuple[Place, Item, Place]],
    source: Side,
    target: Side,
    *,
    workers: int,
    measured: bool,
    progress: Progress,
    fresh_name: Callable[[], str],
    how: How | None = None,
) -> Totals:
    """Copy files and whole directories.

    Args: jobs: (from, what is there, to). measured: tell `progress` what there is to do. fresh_name: of unfinished files.
    how: what is left out, checked and kept.
    Raises: CommandError when nothing more can be copied.
    Cancellation: files already committed stay; of the others nothing is left, unless the far side cannot be
    reached for 5 s, or there are journals.
    """
    engine = _Engine(source, target, progress, fresh_name, how or How())
    try:
        async with trio.open_nursery() as nursery:
            send, receive = trio.open_memory_channel[_Piece](QUEUED_PIECES)
            nursery.start_soon(engine.walk, jobs, send)
            if measured:
                nursery.start_soon(engine.measure, jobs)
            async with receive:
                for _ in range(workers):
                    nursery.start_soon(engine.work, receive.clone())
        if not engine.totals.failed:
            await engine.remove_surplus()
    finally:
        await engine.discard_unfinished()
    return engine.totals
