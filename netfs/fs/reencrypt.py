"""Trio shell. Write the files of an encrypted folder anew, each under a fresh key, as somebody may have kept the old ones.

A file is copied beside itself, holes and attributes too, and the copy takes its name when it is whole and durable: whenever this
is cut short each file is there, as it was or as it is to be. Reads and writes go past the page cache, through one buffer that is
owned here and wiped in the end.
"""

import errno
import mmap
import posixpath
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from crypto.aead import wipe
from netfs.errors import NotReachable
from netfs.fs.client import Client, Entry
from netfs.fs.file import File
from netfs.fs.path import split_last
from transport.messages import Attr, FileType

__all__ = ["Renewed", "reencrypt"]

PIECE: Final = 4 << 20
PREFIX: Final = ".netfs-anew-"
"""How the names of copies begin that are not whole yet, or were left behind by a run that was cut short."""
ZEROS: Final = bytes(4096)
BUSY: Final = OSError(errno.EAGAIN, "it was changed while it was copied")
TRIES: Final = 3


@dataclass(slots=True)
class Renewed:
    """What was done. failed: paths that are as they were, and why."""

    files: int = 0
    bytes: int = 0
    failed: list[tuple[str, OSError]] = field(default_factory=list)


Progress = Callable[[str, int], None]
"""Called with a path and how many bytes more have been copied."""


async def reencrypt(client: Client, top: str, told: Progress = lambda _path, _count: None) -> Renewed:
    """Write all files at and below `top` anew.

    Raises: OSError when `top` itself cannot be looked at or the server cannot be reached. Cancellation: some files are done.
    """
    done = Renewed()
    buffer = memoryview(mmap.mmap(-1, PIECE))
    try:
        attr = await client.stat(top)
        waiting = [Entry(split_last(top)[1] if top != "/" else "", top, attr)]
        while waiting:
            entry = waiting.pop()
            try:
                if entry.is_dir:
                    found = [each async for each in client.scandir(entry.path)]
                    waiting += sorted(found, key=lambda each: each.path, reverse=True)
                elif entry.name.startswith(PREFIX):
                    await client.unlink(entry.path)
                elif entry.attr.type is FileType.FILE:
                    done.bytes += await _whole(client, entry, buffer, told)
                    done.files += 1
            except NotReachable:
                raise
            except OSError as error:
                done.failed.append((entry.path, error))
    finally:
        wipe(buffer)
    return done


async def _whole(client: Client, entry: Entry, buffer: memoryview, told: Progress) -> int:
    """Replace one file by its copy. Returns: its bytes. Raises: OSError; it is as it was then."""
    temporary = posixpath.join(posixpath.dirname(entry.path), PREFIX + client.env.nonces(8).hex())
    for _ in range(TRIES):
        before = await client.stat(entry.path)
        try:
            await _copy(client, entry.path, temporary, before, buffer, told)
            if same(before, await client.stat(entry.path)):
                await client.rename(temporary, entry.path)
                return before.size
            await client.unlink(temporary)
        except BaseException:
            with trio.move_on_after(10, shield=True), suppress(OSError):
                await client.unlink(temporary)
            raise
    raise BUSY


def same(before: Attr, after: Attr) -> bool:
    """Say whether nobody has changed a file."""
    return (before.ino, before.size, before.mtime_ns, before.ctime_ns) == (after.ino, after.size, after.mtime_ns, after.ctime_ns)


async def _copy(client: Client, path: str, temporary: str, attr: Attr, buffer: memoryview, told: Progress) -> None:
    async with (
        await client.open(path, "r", direct=True) as source,
        await client.open(temporary, "x", direct=True, create_mode=attr.mode | 0o600) as sink,
    ):
        pos = 0
        while pos < source.size:
            count = await source.preadv([buffer], pos)
            if not count:
                break
            await _write(sink, buffer[:count], pos)
            pos += count
            told(path, count)
        await sink.truncate(source.size)
        for name in await client.listxattr(path):
            await client.setxattr(temporary, name, await client.getxattr(path, name))
        await sink.fsync()
        await sink.setattr(mode=attr.mode, mtime_ns=attr.mtime_ns)  # behind the last write, which would move the time


async def _write(sink: File, piece: memoryview, pos: int) -> None:
    """Write what is not zero, block by block; zeros become holes."""
    size = sink.block_size
    zeros = ZEROS * (size // len(ZEROS))
    data = [at for at in range(0, len(piece), size) if piece[at : at + size] != zeros[: len(piece) - at]]
    while data:
        start = end = data[0]
        while data and data[0] == end:
            end = data.pop(0) + size
        part = piece[start : min(end, len(piece))]
        done = 0
        while done < len(part):
            done += await sink.pwritev([part[done:]], pos + start + done)
