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
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import trio

from netfs.cli.carrying import PIECE, Carrier, Copy
from netfs.cli.host import CommandError, Exit, Lost, Progress, failing
from netfs.cli.how import How, Totals
from netfs.cli.place import Place
from netfs.cli.sides import Item, Kind, Side

__all__ = ["PIECE", "How", "Totals", "copy_trees"]

QUEUED_PIECES = 64
DISCARD_DEADLINE_S = 5.0
FIRST_PAUSE_S = 1.0
MOST_RESTARTS = 4
"""How often a server may restart under a copy, and files that it may have lost are copied again without being asked."""
TARGET_IS_FULL = frozenset({errno.EDQUOT, errno.ENOSPC, errno.EROFS})


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
    copy: Copy
    pos: int
    length: int


_Work: TypeAlias = _Piece | _Job
"""A piece to carry, or a whole file to compare and perhaps to carry."""


def _why(job: _Job) -> str:
    return "missing" if job.there is None else "different"


class _Engine:
    def __init__(self, source: Side, target: Side, progress: Progress, fresh_name: Callable[[], str], how: How) -> None:
        self.source, self.target, self.progress, self.fresh_name, self.how = source, target, progress, fresh_name, how
        self.totals = Totals()
        self.carrier = Carrier(how, self.totals, progress)
        self.active: dict[Copy, None] = {}
        self.links: list[_Job] = []
        self.surplus: list[tuple[Place, Item, str]] = []
        self.again: list[_Job] = []
        self.retries, self.restarts = how.retries, MOST_RESTARTS

    async def walk(self, jobs: Iterable[_Job], work: trio.MemorySendChannel[_Work]) -> None:
        async with work:
            stack = list(jobs)[::-1]
            while stack:
                job = stack.pop()
                try:
                    if job.item.kind is Kind.FILE:
                        await self.queue(job, work)
                    elif job.item.kind is Kind.DIRECTORY:
                        stack.extend(await self.enter(job))
                    elif job.item.kind is Kind.SYMLINK and self.how.links:
                        self.links.append(job)
                    else:
                        self.totals.skipped.append(f"{job.origin}: a {job.item.kind.value} is not copied")
                except CommandError as error:
                    self.record(error, job)

    async def enter(self, job: _Job) -> list[_Job]:
        """Make a directory, and return what is to be copied into it, the first last."""
        how = self.how
        there = job.there
        if how.dry:
            if there is None or there.kind is not Kind.DIRECTORY:
                self.totals.plan(f"make directory {job.target}", _why(job), str(job.target))
        else:
            await self.target.make_directory(job.target, job.item.mode, top=not job.path)
        inside = [
            (each, path)
            for each in await self.source.entries(job.origin)
            for path in [f"{job.path}/{each.name}".lstrip("/")]
            if how.filters.admits(path, is_directory=each.kind is Kind.DIRECTORY)
        ]
        found: dict[str, Item] = {}
        if how.newer and there is not None and there.kind is Kind.DIRECTORY:
            found = {each.name: each for each in await self.target.entries(job.target)}
        self.totals.directories += 1
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

    async def measure(self, jobs: Iterable[_Job]) -> None:
        """Tell the progress bar what there is to do, ahead of the walker: a time left is worth a second listing."""
        stack = [(job.origin, job.item, job.path) for job in jobs]
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

    async def queue(self, job: _Job, work: trio.MemorySendChannel[_Work]) -> None:
        item, there, how = job.item, job.there, self.how
        if there is not None and there.kind is Kind.FILE and there.size == item.size:
            if how.checksum:
                await work.send(job)
                return
            if there.mtime_ns == item.mtime_ns:
                self.totals.same += 1
                self.progress.advance(item.size)
                return
        if how.dry:
            self.plan(job)
            return
        copy = await self.prepare(job)
        for pos in range(0, max(item.size, 1), PIECE):
            await work.send(_Piece(copy, pos, min(PIECE, item.size - pos)))

    def plan(self, job: _Job) -> None:
        self.totals.plan(f"copy {job.origin} to {job.target}", _why(job), str(job.target))
        self.totals.files += 1
        self.totals.bytes += job.item.size

    async def prepare(self, job: _Job) -> Copy:
        """Return the copy of a file, from whose journal it is known what has arrived."""
        item, how = job.item, self.how
        journal, temporary = None, self.fresh_name()
        if how.journals is not None and item.size > PIECE:
            with failing(Exit.LOCAL):
                journal = how.journals.open(job.origin, item, job.target, temporary)
            temporary = journal.temporary
            if journal.outdated is not None:
                await self.target.sink(job.target, item, journal.outdated).discard()
        sink = self.target.sink(job.target, item, temporary, resumed=journal is not None)
        left = len(range(0, max(item.size, 1), PIECE))
        source = self.source.source(job.origin)
        return Copy(job.origin, job.target, source, sink, item.size, left, lambda error: self.record(error, job), journal)

    async def work(self, channel: trio.MemoryReceiveChannel[_Work]) -> None:
        buffer = memoryview(mmap.mmap(-1, PIECE))
        async for each in channel:
            if isinstance(each, _Piece):
                await self.advance(each, buffer)
                continue
            try:
                self.progress.say(each.origin.name)
                one, other = self.source.source(each.origin), self.target.source(each.target)
                if await self.carrier.same(one, other, each.item.size, buffer):
                    self.totals.same += 1
                    self.progress.advance(each.item.size)
                elif self.how.dry:
                    self.plan(each)
                else:
                    copy = await self.prepare(each)
                    for pos in range(0, max(copy.size, 1), PIECE):
                        await self.advance(_Piece(copy, pos, min(PIECE, copy.size - pos)), buffer)
            except CommandError as error:
                self.record(error, each)

    async def advance(self, piece: _Piece, buffer: memoryview) -> None:
        """Carry a piece, and finish its file with the last of them."""
        copy = piece.copy
        self.active[copy] = None
        if not copy.failed:
            self.progress.say(copy.origin.name)
            try:
                await self.carrier.carry(copy, buffer[: piece.length], piece.pos)
                if copy.left == 1 and self.how.verify:
                    await self.carrier.check(copy, buffer)
            except CommandError as error:
                if not copy.failed:  # by another piece of it
                    copy.failed = True
                    copy.fail(error)
        copy.left -= 1
        if copy.left == 0:
            await self.finish(copy)

    async def make_links(self) -> None:
        """Make the symlinks when all else has arrived: nothing is then written through one that came from elsewhere."""
        links, self.links = self.links, []
        for job in links:
            try:
                text = await self.source.read_link(job.origin)
                there = job.there
                if there is not None and there.kind is Kind.SYMLINK and await self.target.read_link(job.target) == text:
                    self.totals.same += 1
                    continue
                if self.how.dry:
                    self.totals.plan(f"link {job.target} -> {text}", _why(job), str(job.target))
                else:
                    await self.target.make_link(job.target, text, self.fresh_name())
                self.totals.links += 1
            except CommandError as error:
                self.record(error, job)

    async def remove_surplus(self) -> None:
        """Remove what is only in the target, when all else has arrived."""
        for place, item, path in self.surplus:
            try:
                await self.remove(place, item, path)
            except CommandError as error:
                # What was an unfinished file when it was listed may have its name by now.
                if item.kind is Kind.DIRECTORY or not isinstance(error.__cause__, FileNotFoundError):
                    self.record(error, None)

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
            self.totals.plan(f"remove {place}", "extra", str(place))
        else:
            await self.target.remove(place, item)
        self.totals.deleted += 1
        return True

    async def finish(self, copy: Copy) -> None:
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
                copy.fail(error)
            return  # it stays among the active ones and is discarded at the end
        del self.active[copy]
        if copy.journal is not None:
            (copy.journal.close if copy.failed else copy.journal.remove)()
        if not copy.failed:
            self.totals.files += 1
            self.totals.bytes += copy.size

    def record(self, error: CommandError, job: _Job | None) -> None:
        """Keep the error of one file, or its job to be tried again; pass on one that no other file would escape."""
        cause = error.__cause__
        if isinstance(cause, ConnectionError) or (isinstance(cause, OSError) and cause.errno in TARGET_IS_FULL):
            raise error
        if job is not None and (self.retries > 0 or (isinstance(error, Lost) and self.restarts > 0)):
            self.again.append(job)
        else:
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
            self.active.clear()

    async def run(self, jobs: Sequence[_Job], workers: int, *, measured: bool) -> None:
        """Copy what the jobs say."""
        try:
            async with trio.open_nursery() as nursery:
                send, receive = trio.open_memory_channel[_Work](QUEUED_PIECES)
                nursery.start_soon(self.walk, jobs, send)
                if measured:
                    nursery.start_soon(self.measure, jobs)
                async with receive:
                    for _ in range(workers):
                        nursery.start_soon(self.work, receive.clone())
            await self.make_links()
        finally:
            await self.discard_unfinished()


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
    how = how or How()
    engine = _Engine(source, target, progress, fresh_name, how)
    todo = [_Job(origin, item, final, "", await target.find(final) if how.newer else None) for origin, item, final in jobs]
    await engine.run(todo, workers, measured=measured)
    pause_s = FIRST_PAUSE_S
    while engine.again:
        todo, engine.again = engine.again, []
        engine.retries, engine.restarts = engine.retries - 1, engine.restarts - 1
        await trio.sleep(pause_s)
        pause_s *= 2
        await engine.run(todo, workers, measured=False)
    if not engine.totals.failed:
        await engine.remove_surplus()
    return engine.totals
