"""Trio shell. Verify an encrypted folder without trusting its server: every directory, record, tag and block, damage by path.

What is damaged is named and stepped over, so that one report tells all of it. Reads go past the page cache, into one buffer that
is owned here and thrown away. A server that cannot be reached ends it; whatever else it answers is for the report.
"""

import errno
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from netfs.errors import NotReachable
from netfs.fs.client import Client, Entry
from netfs.fs.file import File
from netfs.fs.path import split_last
from transport.messages import FileType

__all__ = ["Damage", "Report", "verify"]

PIECE: Final = 4 << 20
STRAY: Final = OSError(errno.EBADMSG, "the server keeps bytes here that are no part of the file")
NO_BLOCK: Final = -1
"""Damage of an object as a whole: its record, its listing, its target."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not what was written. block: the number of a block, -1 for the object as a whole."""

    path: str
    block: int
    reason: str


@dataclass(slots=True)
class Report:
    """What was found. checked_blocks: blocks of content that were looked at, holes included."""

    checked_files: int = 0
    checked_blocks: int = 0
    checked_bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)

    def note(self, path: str, block: int, error: OSError) -> None:
        """Add what an error says."""
        if isinstance(error, NotReachable):
            raise error
        name = errno.errorcode.get(error.errno or 0, "EIO")
        self.damaged.append(Damage(path, block, f"{name}: {error.strerror}"))


Progress = Callable[[str, int], None]
"""Called with a path and how many bytes more have been looked at."""


async def verify(client: Client, top: str, told: Progress = lambda _path, _count: None, *, content: bool = True) -> Report:
    """Walk what is at and below `top` and verify it. content: blocks too, not only what names and describes them.

    Raises: OSError when `top` itself is not there or the server cannot be reached. Cancellation: no effect on what is stored.
    """
    report = Report()
    buffer = memoryview(mmap.mmap(-1, PIECE))
    attr = await client.stat(top)
    if attr.type is not FileType.DIRECTORY:
        await _verify_object(client, Entry(split_last(top)[1], top, attr), report, buffer, told, content=content)
        return report
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        entries: list[Entry] = []
        try:
            await client.listxattr(folder)
            entries, bad = await client.examine(folder)
            for error in bad:
                report.note(str(error.filename), NO_BLOCK, error)
        except OSError as error:
            report.note(error.filename if isinstance(error.filename, str) else folder, NO_BLOCK, error)
        for entry in sorted(entries, key=lambda each: each.path):
            if entry.is_dir:
                waiting.append(entry.path)
            else:
                await _verify_object(client, entry, report, buffer, told, content=content)
    return report


async def _verify_object(
    client: Client, entry: Entry, report: Report, buffer: memoryview, told: Progress, *, content: bool
) -> None:  # fmt: skip
    if entry.attr.type is not FileType.FILE:
        return
    report.checked_files += 1
    told(entry.path, 0)
    try:
        await client.listxattr(entry.path)
        file = await client.open(entry.path, direct=True)
    except OSError as error:
        report.note(entry.path, NO_BLOCK, error)
        return
    async with file:
        if not content:
            return
        await _verify_blocks(file, report, buffer, told)
        try:
            for block in await file.strays():
                report.note(file.path, block, STRAY)
        except OSError as error:
            if not report.damaged or report.damaged[-1].path != file.path:  # else it is the same again
                report.note(file.path, NO_BLOCK, error)


async def _verify_blocks(file: File, report: Report, buffer: memoryview, told: Progress) -> None:
    size = file.block_size
    pos = 0
    while pos < file.size:
        try:
            count = await file.preadv([buffer], pos)
        except OSError as error:
            report.note(file.path, pos // size, error)
            count = size - pos % size
        if not count:
            report.note(file.path, pos // size, OSError(errno.EBADMSG, "the file ends before its size"))
            break
        told(file.path, count)
        report.checked_bytes += min(count, file.size - pos)
        pos += count
    report.checked_blocks += -(-file.size // size)
