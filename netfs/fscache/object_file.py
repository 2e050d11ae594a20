"""Trio shell. ObjectFile: one cached object on the disk, open and locked.

Everything here may block and runs in a worker thread. A file is made under a name of its own and takes its place whole, so that a
crash leaves an old object, a new one or a stray temporary file, which the next cull removes. The memory of reads and writes is
the caller's.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from netfs.fscache.disk import Disk
from netfs.fscache.layout import (
    HEADER_SIZE,
    STAMP_SIZE,
    STAMPS,
    Header,
    data_pos,
    granule_stamp,
    stamp_length,
    stamp_pos,
)

__all__ = ["TEMPORARY", "ObjectFile", "Spoilt"]

TEMPORARY: Final = ".new-"
_NONE: Final = b"\0" * STAMP_SIZE


class Spoilt(OSError):
    """A granule is not what it should be. good: bytes before it that are; index: which it is."""

    def __init__(self, index: int, good: int) -> None:
        super().__init__(errno.ESTALE, "a cached granule is not what it should be")
        self.index = index
        self.good = good


@dataclass(slots=True)
class ObjectFile:
    """An open object. writable: false in a directory that cannot be written."""

    disk: Disk
    fd: int
    header: Header
    writable: bool

    @classmethod
    def find(cls, disk: Disk, name: str, like: Header, *, writable: bool) -> "ObjectFile | None":
        """Open the object of a file, if there is one that fits `like` in all but its salt.

        Returns: None when there is none; one that does not fit is removed.
        Raises: BlockingIOError while another mount uses it; OSError.
        """
        try:
            fd = disk.open(name, write=writable)
        except FileNotFoundError:
            return None
        try:
            disk.lock(fd)
            raw = bytearray(HEADER_SIZE)
            count = disk.read(fd, [memoryview(raw)], 0)
            header = Header.unpack(bytes(raw[:count]))
            if disk.same(fd, name):
                if header is not None and header == replace(like, salt=header.salt):
                    return cls(disk, fd, header, writable)
                if writable:
                    disk.unlink(name)
        except BaseException:
            disk.close(fd)
            raise
        disk.close(fd)
        return None

    @classmethod
    def make(cls, disk: Disk, name: str, header: Header, tag: str, *, instead: bool = False) -> "ObjectFile":
        """Make an empty object; `tag` makes its temporary name its own. instead: in the place of one that this caller has locked.

        Raises: FileExistsError when another mount was faster; OSError.
        """
        folder, _, last = name.rpartition("/")
        temporary = f"{folder}/{TEMPORARY}{tag}-{last}"
        fd = disk.open(temporary, write=True, create=True)
        try:
            disk.lock(fd)
            disk.write(fd, [header.pack()], 0)
            if instead:
                disk.rename(temporary, name)
            else:
                disk.link(temporary, name)
                disk.unlink(temporary)
        except BaseException:
            disk.unlink(temporary)
            disk.close(fd)
            raise
        return cls(disk, fd, header, writable=True)

    def close(self) -> None:
        """Close the file."""
        self.disk.close(self.fd)

    def scan(self) -> tuple[bytearray, dict[int, int]]:
        """Read which granules are there. Returns: a one for each that is, and the lengths of those that are short."""
        granule = self.header.granule
        size = self.disk.size(self.fd)
        there, short = bytearray(), dict[int, int]()
        page = memoryview(bytearray(STAMPS * STAMP_SIZE))
        first = 0
        while stamp_pos(first, granule) < size:
            count = self.disk.read(self.fd, [page], stamp_pos(first, granule)) // STAMP_SIZE
            for slot in range(count):
                stamp = page[slot * STAMP_SIZE : (slot + 1) * STAMP_SIZE]
                if stamp == _NONE:
                    there.append(0)
                    continue
                length = granule if self.header.sealed else stamp_length(stamp)
                there.append(0 < length <= granule)
                if 0 < length < granule:
                    short[first + slot] = length
            if count < STAMPS:
                break
            first += STAMPS
        return there, short

    def read(self, first: int, granules: Sequence[Sequence[memoryview]], entries: memoryview | None) -> None:
        """Read whole granules from `first` on and see whether they are right. entries: the stamps they must have.

        Raises: Spoilt at the first that is not; what follows it in memory means nothing. OSError.
        """
        done = good = 0
        while done < len(granules):
            index = first + done
            count = min(STAMPS - index % STAMPS, len(granules) - done)
            part = granules[done : done + count]
            stamps = memoryview(bytearray(count * STAMP_SIZE))
            self.disk.read(self.fd, [stamps], stamp_pos(index, self.header.granule))
            views = [view for pieces in part for view in pieces]
            had = self.disk.read(self.fd, views, data_pos(index, self.header.granule))
            for n, pieces in enumerate(part):
                length = sum(map(len, pieces))
                stamp = stamps[n * STAMP_SIZE : (n + 1) * STAMP_SIZE]
                had -= length
                if entries is not None:
                    at = (done + n) * STAMP_SIZE
                    right = stamp == entries[at : at + STAMP_SIZE]
                else:
                    right = had >= 0 and stamp == granule_stamp(self.header.salt, index + n, pieces)
                if not right or had < 0:
                    raise Spoilt(index + n, good)
                good += length
            done += count

    def write(self, first: int, granules: Sequence[Sequence[memoryview]], entries: memoryview | None) -> None:
        """Write whole granules from `first` on, the last perhaps short, and then their stamps. Raises: OSError."""
        granule = self.header.granule
        done = 0
        while done < len(granules):
            index = first + done
            count = min(STAMPS - index % STAMPS, len(granules) - done)
            part = granules[done : done + count]
            self.disk.write(self.fd, [view for pieces in part for view in pieces], data_pos(index, granule))
            if entries is not None:
                stamps: list[memoryview | bytes] = [entries[done * STAMP_SIZE : (done + count) * STAMP_SIZE]]
            else:
                stamps = [granule_stamp(self.header.salt, index + n, pieces) for n, pieces in enumerate(part)]
            self.disk.write(self.fd, stamps, stamp_pos(index, granule))
            done += count

    def forget(self, first: int, end: int) -> None:
        """Clear the stamps of granules, as far as the file goes. Raises: OSError."""
        size = self.disk.size(self.fd)
        while first < end and stamp_pos(first, self.header.granule) < size:
            count = min(STAMPS - first % STAMPS, end - first)
            self.disk.write(self.fd, [_NONE * count], stamp_pos(first, self.header.granule))
            first += count

    def set_coherency(self, coherency: bytes) -> None:
        """Store what the server says of the file that the granules are of; empty before they may be newer. Raises: OSError."""
        if coherency == self.header.coherency:
            return
        header = replace(self.header, coherency=coherency)
        self.disk.write(self.fd, [header.pack()], 0)
        if not coherency:
            # Written before any granule that the server may yet lose.
            self.disk.sync(self.fd)
        self.header = header
