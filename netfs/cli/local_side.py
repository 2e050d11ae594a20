"""Trio shell. A copy's side on this machine; every call that may sleep on a disk runs in a thread.

Buffers are the caller's, lent for the length of a call.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from netfs.cli.host import Exit, failing
from netfs.cli.place import Place
from netfs.cli.sides import PERMISSIONS, Item, Kind, Side, Sink, Source

__all__ = ["LocalSide"]

T = TypeVar("T")


async def _in_thread(place: Place, fn: Callable[[], T]) -> T:
    with failing(Exit.LOCAL, str(place)):
        return await trio.to_thread.run_sync(fn)


class LocalSide(Side):
    """Files of this machine."""

    async def find(self, place: Place) -> Item | None:
        def look() -> Item | None:
            path = Path(place.path)
            try:
                return _item(path.name, path.stat())
            except FileNotFoundError:
                return None

        return await _in_thread(place, look)

    async def entries(self, place: Place) -> list[Item]:
        def scan() -> list[Item]:
            with os.scandir(place.path) as found:
                items = [_item(each.name, each.stat(follow_symlinks=False)) for each in found]
            return sorted(items, key=lambda item: item.name)

        return await _in_thread(place, scan)

    async def make_directory(self, place: Place, mode: int) -> None:
        def make() -> None:
            path = Path(place.path)
            try:
                path.mkdir(mode | stat.S_IRWXU)
            except FileExistsError:
                if not path.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None

        await _in_thread(place, make)

    def source(self, place: Place) -> Source:
        return _LocalSource(place)

    def sink(self, place: Place, item: Item, temporary: str, *, resumed: bool = False) -> Sink:
        return _LocalSink(place, item, temporary, resumed=resumed)

    async def remove(self, place: Place, item: Item) -> None:
        path = Path(place.path)
        await _in_thread(place, partial(shutil.rmtree, path) if item.kind is Kind.DIRECTORY else path.unlink)


def _item(name: str, found: os.stat_result) -> Item:
    if stat.S_ISREG(found.st_mode):
        kind = Kind.FILE
    elif stat.S_ISDIR(found.st_mode):
        kind = Kind.DIRECTORY
    else:
        kind = Kind.SYMLINK if stat.S_ISLNK(found.st_mode) else Kind.OTHER
    return Item(name, kind, found.st_mode & PERMISSIONS, found.st_size, found.st_mtime_ns)


class _Opened:
    """A descriptor that the first use opens, in the same visit to a thread as the transfer itself."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.fd = -1
        self._first = trio.Lock()

    async def use(self, fn: Callable[[], T]) -> T:
        if self.fd >= 0:
            return await _in_thread(self.place, fn)
        async with self._first:
            return await _in_thread(self.place, fn)

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _read_full(fd: int, view: memoryview, pos: int) -> int:
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], pos + done)
        if count == 0:
            break
        done += count
    return done


class _LocalSource(Source):
    def __init__(self, place: Place) -> None:
        self._opened = _Opened(place)

    async def read_into(self, view: memoryview, pos: int) -> int:
        opened = self._opened

        def read() -> int:
            if opened.fd < 0:
                # O_NONBLOCK: a file replaced by a pipe since it was listed must not hang the copy.
                opened.fd = os.open(opened.place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            return _read_full(opened.fd, view, pos)

        return await opened.use(read)

    async def aclose(self) -> None:
        self._opened.close()


class _LocalSink(Sink):
    def __init__(self, place: Place, item: Item, temporary: str, *, resumed: bool) -> None:
        self._opened = _Opened(place)
        self._new = 0 if resumed else os.O_EXCL
        self._item = item
        self._temporary = Path(place.path).parent / temporary

    def _open(self) -> int:
        if self._opened.fd < 0:
            # Private until it is whole: the permissions come with the name.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | self._new
            self._opened.fd = os.open(self._temporary, flags, 0o600)
        return self._opened.fd

    async def read_back(self, view: memoryview, pos: int) -> int:
        return await self._opened.use(lambda: _read_full(self._open(), view, pos))

    async def aclose(self) -> None:
        self._opened.close()

    async def write(self, view: memoryview, pos: int) -> None:
        opened = self._opened

        def write() -> None:
            self._open()
            done = 0
            while done < len(view):
                done += os.pwritev(opened.fd, [view[done:]], pos + done)

        await opened.use(write)

    async def commit(self) -> None:
        opened = self._opened

        def finish() -> None:
            os.fchmod(self._open(), self._item.mode)
            if self._item.mtime_ns is not None:
                os.utime(opened.fd, ns=(os.fstat(opened.fd).st_atime_ns, self._item.mtime_ns))
            opened.close()
            self._temporary.rename(opened.place.path)

        await _in_thread(opened.place, finish)

    async def discard(self) -> None:
        def remove() -> None:
            self._opened.close()
            self._temporary.unlink(missing_ok=True)

        await _in_thread(self._opened.place, remove)
