"""Trio shell. The copy engine: a walker cuts trees into pieces, a few workers carry the pieces from side to side.

        walker ──pieces──▶ worker: read into own buffer, write from it ┐
                           worker                                      ├─▶ the last piece of a file commits it
                           worker                                      ┘
A large file is spread over the workers, small ones travel beside each other; the channel between is bounded, so memory does not
grow with the tree. Each worker owns one buffer. A file that fails is discarded and told, the others go on; a failure of the
connection or of the whole target ends the copy. On the way out, cancelled or not, whatever is unfinished is discarded.
"""

import errno
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import trio

from netfs.cli.host import CommandError, Exit, Progress
from netfs.cli.place import Place
from netfs.cli.sides import Item, Kind, Side, Sink, Source

__all__ = ["Totals", "copy_trees"]

PIECE = 4 << 20
QUEUED_PIECES = 64
DISCARD_DEADLINE_S = 5.0
TARGET_IS_FULL = frozenset({errno.EDQUOT, errno.ENOSPC, errno.EROFS})


@dataclass(slots=True)
class Totals:
    """What a copy did. skipped: places left out with the reason; failed: the errors of files that could not be copied."""

    files: int = 0
    directories: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    failed: list[CommandError] = field(default_factory=list)

    def add(self, other: "Totals") -> None:
        """Count what `other` did as well."""
        self.files += other.files
        self.directories += other.directories
        self.bytes += other.bytes
        self.skipped += other.skipped
        self.failed += other.failed


@dataclass(slots=True, eq=False)
class _Copy:
    """One file under way. left: pieces not yet finished, one way or the other."""

    origin: Place
    target: Place
    source: Source
    sink: Sink
    size: int
    left: int
    failed: bool = False


@dataclass(slots=True)
class _Piece:
    copy: _Copy
    pos: int
    length: int


class _Engine:
    def __init__(self, source: Side, target: Side, progress: Progress, fresh_name: Callable[[], str]) -> None:
        self.source, self.target, self.progress, self.fresh_name = source, target, progress, fresh_name
        self.totals = Totals()
        self.active: dict[_Copy, None] = {}

    async def walk(self, jobs: Iterable[tuple[Place, Item, Place]], pieces: trio.MemorySendChannel[_Piece]) -> None:
        async with pieces:
            stack = list(jobs)[::-1]
            while stack:
                origin, item, target = stack.pop()
                try:
                    if item.kind is Kind.FILE:
                        await self.queue(origin, item, target, pieces)
                    elif item.kind is Kind.DIRECTORY:
                        await self.target.make_directory(target, item.mode)
                        inside = await self.source.entries(origin)
                        stack.extend((origin.child(each.name), each, target.child(each.name)) for each in reversed(inside))
                        self.totals.directories += 1
                    else:
                        self.totals.skipped.append(f"{origin}: a {item.kind.value} is not copied")
                except CommandError as error:
                    self.record(error)

    async def measure(self, jobs: Iterable[tuple[Place, Item, Place]]) -> None:
        """Tell the progress bar what there is to do, ahead of the walker: a time left is worth a second listing."""
        stack = [(origin, item) for origin, item, _ in jobs]
        while stack:
            origin, item = stack.pop()
            if item.kind is Kind.FILE:
                self.progress.expect(item.size)
            elif item.kind is Kind.DIRECTORY:
                try:
                    stack.extend((origin.child(each.name), each) for each in await self.source.entries(origin))
                except CommandError:
                    continue  # the walker will tell

    async def queue(self, origin: Place, item: Item, target: Place, pieces: trio.MemorySendChannel[_Piece]) -> None:
        sink = self.target.sink(target, item, self.fresh_name())
        starts = range(0, max(item.size, 1), PIECE)
        copy = _Copy(origin, target, self.source.source(origin), sink, item.size, len(starts))
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
                except CommandError as error:
                    if not copy.failed:  # by another piece of it
                        copy.failed = True
                        self.record(error)
            copy.left -= 1
            if copy.left == 0:
                await self.finish(copy)

    async def carry(self, copy: _Copy, view: memoryview, pos: int) -> None:
        if await copy.source.read_into(view, pos) < len(view):
            raise CommandError(Exit.NO, f"{copy.origin}: became shorter while it was copied")
        await copy.sink.write(view, pos)
        self.progress.advance(len(view))

    async def finish(self, copy: _Copy) -> None:
        try:
            await copy.source.aclose()
            await (copy.sink.discard() if copy.failed else copy.sink.commit())
        except CommandError as error:
            if not copy.failed:
                self.record(error)
            return  # it stays among the active ones and is discarded at the end
        del self.active[copy]
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
                for close in (copy.source.aclose, copy.sink.discard):
                    try:
                        await close()
                    except CommandError:
                        continue  # the failure that led here has been told


async def copy_trees(
    jobs: Sequence[tuple[Place, Item, Place]],
    source: Side,
    target: Side,
    *,
    workers: int,
    measured: bool,
    progress: Progress,
    fresh_name: Callable[[], str],
) -> Totals:
    """Copy files and whole directories.

    Args: jobs: (from, what is there, to). measured: tell `progress` what there is to do. fresh_name: of unfinished files.
    Raises: CommandError when nothing more can be copied.
    Cancellation: files already committed stay; of the others nothing is left, unless the far side cannot be reached for 5 s.
    """
    engine = _Engine(source, target, progress, fresh_name)
    try:
        async with trio.open_nursery() as nursery:
            send, receive = trio.open_memory_channel[_Piece](QUEUED_PIECES)
            nursery.start_soon(engine.walk, jobs, send)
            if measured:
                nursery.start_soon(engine.measure, jobs)
            async with receive:
                for _ in range(workers):
                    nursery.start_soon(engine.work, receive.clone())
    finally:
        await engine.discard_unfinished()
    return engine.totals
