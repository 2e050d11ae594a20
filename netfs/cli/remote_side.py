"""Trio shell. A copy's side on a server, through the client filesystem, past its page cache: nothing is used twice.

Buffers are the caller's, lent for the length of a call.
"""

import errno
import os
import posixpath
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from netfs.cli.host import CommandError, Exit, Lost, describe, failing
from netfs.cli.place import Place
from netfs.cli.sides import PERMISSIONS, Item, Kind, Side, Sink, Source
from transport.messages import Attr, FileType

if TYPE_CHECKING:
    from netfs.fs.client import Client
    from netfs.fs.file import File

__all__ = ["RemoteSide", "item_of"]

NO_HOLES = frozenset({errno.EINVAL, errno.ENXIO, errno.EOPNOTSUPP})
KINDS = {FileType.FILE: Kind.FILE, FileType.DIRECTORY: Kind.DIRECTORY, FileType.SYMLINK: Kind.SYMLINK}


def item_of(name: str, attr: Attr) -> Item:
    """Return what a listing says of one name."""
    return Item(name, KINDS.get(attr.type, Kind.OTHER), attr.mode & PERMISSIONS, attr.size, attr.mtime_ns)


class RemoteSide(Side):
    """Files of a server."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    async def find(self, place: Place) -> Item | None:
        with failing(Exit.REMOTE, str(place)):
            try:
                return item_of(place.name, await self._client.stat(place.path))
            except FileNotFoundError:
                return None

    async def entries(self, place: Place) -> list[Item]:
        with failing(Exit.REMOTE, str(place)):
            found = [entry async for entry in self._client.scandir(place.path)]
        for entry in found:
            if not entry.name or "/" in entry.name or "\0" in entry.name or entry.name in {".", ".."}:
                # Such a name would lead out of the folder that is copied to.
                raise CommandError(Exit.REMOTE, f"{place}: the server listed {entry.name!r}, which is no file name")
        return sorted((item_of(entry.name, entry.attr) for entry in found), key=lambda item: item.name)

    async def make_directory(self, place: Place, mode: int, *, top: bool = True) -> None:
        if top and (found := await self.find(place)) is not None and found.kind is Kind.DIRECTORY:
            return  # it may be the root of an export or of a volume, which nobody makes
        with failing(Exit.REMOTE, str(place)):
            try:
                await self._client.mkdir(place.path, mode | stat.S_IRWXU, exist_ok=True)
            except FileExistsError:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None

    async def read_link(self, place: Place) -> str:
        with failing(Exit.REMOTE, str(place)):
            text = await self._client.readlink(place.path)
        if "\0" in text:
            raise CommandError(Exit.REMOTE, f"{place}: the server says that it leads to {text!r}, which is no path")
        return text

    async def make_link(self, place: Place, text: str, temporary: str) -> None:
        beside = posixpath.join(posixpath.dirname(place.path), temporary)
        with failing(Exit.REMOTE, str(place)):
            await self._client.symlink(text, beside)
            try:
                await self._client.rename(beside, place.path)
            except OSError:
                await self._client.unlink(beside)
                raise

    def source(self, place: Place) -> Source:
        return _RemoteSource(self._client, place)

    def sink(self, place: Place, item: Item, temporary: str, *, resumed: bool = False) -> Sink:
        return _RemoteSink(self._client, place, item, temporary, resumed=resumed)

    async def remove(self, place: Place, item: Item) -> None:
        with failing(Exit.REMOTE, str(place)):
            await (self._client.rmtree if item.kind is Kind.DIRECTORY else self._client.unlink)(place.path)


class _Opened:
    """A file that the first use opens."""

    def __init__(self, client: "Client", place: Place, path: str, mode: str, create_mode: int, *, resumed: bool = False) -> None:
        self.client, self.place = client, place
        self._resumed = resumed
        self._path, self._mode, self._create_mode = path, mode, create_mode
        self._file: File | None = None
        self._first = trio.Lock()

    async def file(self) -> "File":
        if self._file is None:
            async with self._first:
                if self._file is None:
                    self._file = await self._open()
        return self._file

    async def _open(self) -> "File":
        direct = self.client.local_cache is None
        if self._resumed:
            with suppress(FileNotFoundError):
                return await self.client.open(self._path, "r+", direct=direct)
        return await self.client.open(self._path, self._mode, direct=direct, create_mode=self._create_mode)

    async def aclose(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            await file.aclose()


class _RemoteSource(Source):
    def __init__(self, client: "Client", place: Place) -> None:
        self.client = client
        self.opened = self._opened = _Opened(client, place, place.path, "r", 0)
        self._dense: bool | None = None

    async def read_into(self, view: memoryview, pos: int) -> int:
        return await _read_full(self._opened, view, pos)

    async def data(self, pos: int, length: int) -> list[tuple[int, int]]:
        if self._dense:
            return [(pos, length)]
        with failing(Exit.REMOTE, str(self._opened.place)):
            file = await self._opened.file()
            if self._dense is None:
                try:
                    self._dense = await file.seek_hole(0) >= file.size
                except OSError as error:
                    if error.errno not in NO_HOLES:
                        raise
                    self._dense = True
            return [(pos, length)] if self._dense else await _data(file, pos, pos + length)

    async def aclose(self) -> None:
        with failing(Exit.REMOTE, str(self._opened.place)):
            await self._opened.aclose()


async def _data(file: "File", pos: int, end: int) -> list[tuple[int, int]]:
    """Return where there is data from `pos` to `end`."""
    found: list[tuple[int, int]] = []
    while pos < end:
        try:
            start = await file.seek_data(pos)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        if start >= end:
            break
        pos = min(end, await file.seek_hole(start))
        found.append((start, pos - start))
    return found


async def _read_full(opened: _Opened, view: memoryview, pos: int) -> int:
    with failing(Exit.REMOTE, str(opened.place)):
        file = await opened.file()
        done = 0
        while done < len(view):
            # Short may also mean that a later part failed; then the next read tells why.
            count = await file.preadv([view[done:]], pos + done)
            if count == 0:
                break
            done += count
        return done


class _RemoteSink(Sink):
    def __init__(self, client: "Client", place: Place, item: Item, temporary: str, *, resumed: bool) -> None:
        self._temporary = posixpath.join(posixpath.dirname(place.path), temporary)
        self._opened = _Opened(client, place, self._temporary, "x+", item.mode | stat.S_IRUSR | stat.S_IWUSR, resumed=resumed)
        self._size = item.size
        self._mode = item.mode
        self._mtime_ns = item.mtime_ns

    async def read_back(self, view: memoryview, pos: int) -> int:
        return await _read_full(self._opened, view, pos)

    async def aclose(self) -> None:
        with failing(Exit.REMOTE, str(self._opened.place)):
            await self._opened.aclose()

    async def write(self, view: memoryview, pos: int) -> None:
        with failing(Exit.REMOTE, str(self._opened.place)):
            file = await self._opened.file()
            done = 0
            while done < len(view):
                done += await file.pwritev([view[done:]], pos + done)

    async def copy_from(self, source: Source, pos: int, length: int) -> bool:
        if not isinstance(source, _RemoteSource) or source.client is not self._opened.client:
            return False
        with failing(Exit.REMOTE, str(self._opened.place)):
            file, other = await self._opened.file(), await source.opened.file()
            if file.sealed or other.sealed:
                return False
            done = 0
            while done < length:
                count = await file.copy_from(other, pos + done, pos + done, length - done)
                if count == 0:
                    raise CommandError(Exit.NO, f"{source.opened.place}: became shorter while it was copied")
                done += count
        return True

    async def reach_size(self) -> None:
        with failing(Exit.REMOTE, str(self._opened.place)):
            file = await self._opened.file()
            if file.size < self._size:
                await file.truncate(self._size)

    async def commit(self) -> None:
        opened = self._opened
        with failing(Exit.REMOTE, str(opened.place)):
            file = await opened.file()
            try:
                await file.fsync()
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                raise Lost(Exit.REMOTE, describe(error, str(opened.place))) from error
            mode = self._mode if self._mode != self._mode | stat.S_IRUSR | stat.S_IWUSR else None
            if self._mtime_ns is not None or mode is not None:
                await file.setattr(mode=mode, mtime_ns=self._mtime_ns)  # behind the last write, which would move the time
            await opened.aclose()
            await opened.client.rename(self._temporary, opened.place.path)

    async def discard(self) -> None:
        opened = self._opened
        with failing(Exit.REMOTE, str(opened.place)):
            try:
                await opened.aclose()
            finally:
                with suppress(FileNotFoundError):
                    await opened.client.unlink(self._temporary)
