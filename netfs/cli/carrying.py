"""Trio shell. How the content of one file travels: piece by piece, without its holes, on the server alone where it can.

    source ──read──▶ a worker's buffer ──write──▶ sink
       └───────────── the server copies ───────────┘

What is noted of a piece is its digest: in the journal, to resume from, and to verify by. The buffer is the worker's, lent for
the length of a call.
"""

import hashlib
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from netfs.cli.host import CommandError, Exit, Progress, failing
from netfs.cli.how import How, Totals
from netfs.cli.journal import Journal
from netfs.cli.place import Place
from netfs.cli.sides import Sink, Source

__all__ = ["PIECE", "Carrier", "Copy"]

PIECE: Final = 4 << 20
HOLES_FROM: Final = 1 << 20
"""A smaller file is not asked where its holes are: that would cost more than they do."""
CLOSE_DEADLINE_S: Final = 5.0
ZEROS: Final = memoryview(mmap.mmap(-1, PIECE))


@dataclass(slots=True, eq=False)
class Copy:
    """One file under way. left: pieces not yet finished, one way or the other. digests: of pieces, by number.

    failed: calls back with the error of the file.
    """

    origin: Place
    target: Place
    source: Source
    sink: Sink
    size: int
    left: int
    fail: Callable[[CommandError], None]
    journal: Journal | None = None
    digests: dict[int, str] = field(default_factory=dict)
    failed: bool = False


class Carrier:
    """Moves pieces."""

    def __init__(self, how: How, totals: Totals, progress: Progress) -> None:
        self.how, self.totals, self.progress = how, totals, progress

    async def carry(self, copy: Copy, view: memoryview, pos: int) -> None:
        """Bring a piece of `len(view)` bytes at `pos` over, unless it has arrived before. Raises: CommandError."""
        number, journal = pos // PIECE, copy.journal
        if journal is not None and number in journal.pieces:
            arrived = await copy.sink.read_back(view, pos) == len(view)
            if arrived and await _digest(view) == journal.pieces[number]:
                copy.digests[number] = journal.pieces[number]
                self.totals.resumed += len(view)
                self.progress.advance(len(view))
                return
        whole = [(pos, len(view))]
        data = whole if copy.size < HOLES_FROM else await copy.source.data(pos, len(view))
        if journal is not None or self.how.verify or not await self.on_the_server(copy, data):
            if data != whole:
                view[:] = ZEROS[: len(view)]
            for start, length in data:
                if await copy.source.read_into(view[start - pos :][:length], start) < length:
                    raise CommandError(Exit.NO, f"{copy.origin}: became shorter while it was copied")
            if journal is not None or self.how.verify:
                copy.digests[number] = await _digest(view)
            await self.how.pace.take(sum(length for _, length in data))
            if journal is not None and not journal.fresh:
                data = whole  # there may be something already where a hole is to be
            for start, length in data:
                await copy.sink.write(view[start - pos :][:length], start)
        if data != whole:
            await copy.sink.reach_size()
        if journal is not None:
            with failing(Exit.LOCAL):
                journal.add(number, copy.digests[number])
        self.progress.advance(len(view))

    async def on_the_server(self, copy: Copy, data: list[tuple[int, int]]) -> bool:
        """Have the server copy what it has both ends of. Returns: whether it did."""
        return all([length > 0 and await copy.sink.copy_from(copy.source, start, length) for start, length in data])

    async def check(self, copy: Copy, buffer: memoryview) -> None:
        """Read the finished file back, piece by piece. Raises: CommandError when it is another."""
        for pos in range(0, copy.size, PIECE):
            view = buffer[: min(PIECE, copy.size - pos)]
            if await copy.sink.read_back(view, pos) < len(view) or await _digest(view) != copy.digests[pos // PIECE]:
                raise CommandError(Exit.NO, f"{copy.target}: what is there is not what was written, at {pos:,} bytes")

    async def same(self, one: Source, other: Source, size: int, buffer: memoryview) -> bool:
        """Tell whether two files of one size have the same content, and close both."""
        try:
            for pos in range(0, size, PIECE):
                view = buffer[: min(PIECE, size - pos)]
                digests = []
                for source in (one, other):
                    await self.how.pace.take(len(view))
                    if await source.read_into(view, pos) < len(view):
                        return False
                    digests.append(await _digest(view))
                if digests[0] != digests[1]:
                    return False
            return True
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_DEADLINE_S):
                await one.aclose()
                await other.aclose()


async def _digest(view: memoryview) -> str:
    return await trio.to_thread.run_sync(lambda: hashlib.sha256(view).hexdigest())
