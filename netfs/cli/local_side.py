"""Trio shell. A copy's side on this machine; every call that may sleep on a disk runs in a thread.

Buffers are the caller's, lent for the length of a call.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from netfs.cli.host import CommandError, Exit, failing
from netfs.cli.place import Place
from netfs.cli.sides import PERMISSIONS, Item, Kind, Side, Sink, Source

__all__ = ["LocalSide", "is_link", "led_to", "lies_in", "whole_path"]

T = TypeVar("T")


async def _in_thread(place: Place, fn: Callable[[], T]) -> T:
    with failing(Exit.LOCAL, str(place)):
        return await trio.to_thread.run_sync(fn)


async def led_to(place: Place) -> Place:
    """Return where a file is written that a person names by a symlink: what it leads to, and the link stays.

    Raises: CommandError for the links of /dev and /proc, as /dev/stdout: what they lead to is open, not a name.
    """

    def look() -> Place:
        path = Path(place.path)
        if not path.is_symlink():
            return place
        beside = path.parent.resolve()
        if beside.is_relative_to("/dev") or beside.is_relative_to("/proc"):
            raise CommandError(Exit.USAGE, f"{place}: a special file is not replaced; netfs cat writes to standard output")
        return place if path.is_dir() else replace(place, path=str(path.resolve()))

    return await _in_thread(place, look)


async def is_link(place: Place) -> bool:
    """Tell whether a place is a symlink of this machine."""
    return not place.remote and await _in_thread(place, Path(place.path).is_symlink)


def whole_path(place: Place) -> str:
    """Return the path of a place as it is wherever one works: one of this machine means another file in another folder."""
    return place.path if place.remote else os.path.abspath(place.path)  # noqa: PTH100 - symlinks stay


def lies_in(place: Place, folder: Place) -> bool:
    """Tell whether a place is a folder or lies below it, by name."""
    return place.endpoint == folder.endpoint and f"{whole_path(place)}/".startswith(whole_path(folder).rstrip("/") + "/")


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

    async def make_directory(self, place: Place, mode: int, *, top: bool = True) -> None:
        def make() -> None:
            path = Path(place.path)
            try:
                path.mkdir(mode | stat.S_IRWXU)
            except FileExistsError:
                if not path.is_dir() or (path.is_symlink() and not top):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None

        await _in_thread(place, make)

    async def read_link(self, place: Place) -> str:
        return await _in_thread(place, partial(os.readlink, place.path))

    async def make_link(self, place: Place, text: str, temporary: str) -> None:
        def make() -> None:
            _refuse_special(place)
            beside = Path(place.path).parent / temporary
            beside.symlink_to(text)
            try:
                beside.rename(place.path)
            except OSError:
                beside.unlink()
                raise

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


def _refuse_special(place: Place) -> None:
    """Raise a CommandError for a name that stands for a device, a pipe or a socket: it is not replaced by a file."""
    try:
        mode = os.lstat(place.path).st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise CommandError(Exit.LOCAL, f"{place}: a special file is not replaced")


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


def _data(fd: int, pos: int, end: int) -> list[tuple[int, int]]:
    """Return where there is data from `pos` to `end`."""
    found: list[tuple[int, int]] = []
    while pos < end:
        try:
            start = os.lseek(fd, pos, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        if start >= end:
            break
        pos = min(end, os.lseek(fd, start, os.SEEK_HOLE))
        found.append((start, pos - start))
    return found


class _LocalSource(Source):
    def __init__(self, place: Place) -> None:
        self._opened = _Opened(place)
        self._sparse = False

    def _open(self) -> int:
        opened = self._opened
        if opened.fd < 0:
            # O_NONBLOCK: a file replaced by a pipe since it was listed must not hang the copy.
            opened.fd = os.open(opened.place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            found = os.fstat(opened.fd)
            self._sparse = found.st_blocks * 512 < found.st_size
        return opened.fd

    async def read_into(self, view: memoryview, pos: int) -> int:
        return await self._opened.use(lambda: _read_full(self._open(), view, pos))

    async def data(self, pos: int, length: int) -> list[tuple[int, int]]:
        def look() -> list[tuple[int, int]]:
            fd = self._open()
            return _data(fd, pos, pos + length) if self._sparse else [(pos, length)]

        return [(pos, length)] if self._opened.fd >= 0 and not self._sparse else await self._opened.use(look)

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

    async def reach_size(self) -> None:
        def extend() -> None:
            if os.fstat(self._open()).st_size < self._item.size:
                os.ftruncate(self._opened.fd, self._item.size)

        await self._opened.use(extend)

    async def commit(self) -> None:
        opened = self._opened

        def finish() -> None:
            _refuse_special(opened.place)
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
