"""Trio shell. Files as fsspec wants them: Python's own buffered files over a raw one whose calls go through the portal.

A read goes straight into the caller's buffer (`readinto`), a write straight from it; only what Python's buffering keeps back is
copied. In an fsspec transaction a file is written beside its place and takes it when the transaction is committed.
"""

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import TypeVar

    from _typeshed import ReadableBuffer, WriteableBuffer

    from netfs.fs.file import File

    T = TypeVar("T")

__all__ = ["NetFile", "NetReader", "NetUpdater", "NetWriter", "RawFile"]

BUFFER_SIZE: Final = 1 << 20
"""Bytes read or written at a time by callers of small pieces."""


class _Cache(Protocol):
    """A cache of fsspec's own between a file and who reads it, as `blockcache::` has it."""

    def _fetch(self, start: int, end: int) -> bytes: ...


class _Calls(Protocol):
    """What a raw file needs of the filesystem: a way to run things in the portal."""

    def run(self, run: "Callable[[], Awaitable[T]]") -> "T": ...


class RawFile(io.RawIOBase):
    """A file whose every call is one call of the portal."""

    def __init__(self, calls: _Calls, file: "File", path: str, mode: str, block_size: int = BUFFER_SIZE) -> None:
        super().__init__()
        self.block_size = block_size
        self.cache: _Cache | None = None
        self.fs = self._calls = calls
        self._file = file
        self.path = path
        self.mode = mode
        self._reads = "r" in mode or "+" in mode
        self._writes = mode[0] in "wax" or "+" in mode

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._file.size

    def readable(self) -> bool:
        """Say whether it was opened for reading."""
        return self._reads

    def writable(self) -> bool:
        """Say whether it was opened for writing."""
        return self._writes

    def seekable(self) -> bool:
        """Every file is."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read into the caller's memory at the position, which moves. Raises: OSError."""
        view = memoryview(buffer).cast("B")
        pos = self._file.tell()
        if self.cache is not None:
            kept = self.cache._fetch(pos, min(pos + len(view), self.size))
            count = len(kept)
            view[:count] = kept
        else:
            count = self._calls.run(partial(self._file.preadv, [view], pos))
        self._file.seek(count, io.SEEK_CUR)
        return count

    def readall(self) -> bytes:
        """Read what is left. Raises: OSError."""
        if self.cache is not None:
            return super().readall()
        return self._calls.run(self._file.read)

    def write(self, data: "ReadableBuffer") -> int:
        """Write all of the data at the position, which moves; at the end in append mode. Raises: OSError."""
        return self._calls.run(partial(self._file.write, memoryview(data).cast("B")))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; nothing is asked of the server."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file. Raises: OSError."""
        return self._calls.run(partial(self._file.truncate, size))

    def close(self) -> None:
        """Close it; what was written is durable then. Raises: OSError of this write or an earlier one."""
        if not self.closed:
            try:
                self._calls.run(self._file.aclose)
            finally:
                super().close()


class NetFile:
    """What fsspec expects of its files beyond Python's interface. `finish(kept)` ends a file of a transaction."""

    raw: RawFile
    _finish: Callable[[bool], None] | None = None
    autocommit = True

    @property
    def path(self) -> str:
        """Where it is, or will be after the transaction."""
        return self.raw.path

    @property
    def size(self) -> int:
        """Bytes in the file, without what is still buffered here."""
        return self.raw.size

    @property
    def fs(self) -> object:
        """The filesystem it is a file of."""
        return self.raw.fs

    @property
    def blocksize(self) -> int:
        """Bytes that a cache of fsspec's own keeps together."""
        return self.raw.block_size

    @property
    def cache(self) -> "_Cache | None":
        """What fsspec has put between the file and its reader."""
        return self.raw.cache

    @cache.setter
    def cache(self, cache: "_Cache | None") -> None:
        self.raw.cache = cache

    def _fetch_range(self, start: int, end: int) -> bytes:
        """Read for a cache of fsspec's own."""
        file = self.raw._file
        return self.raw._calls.run(partial(file.read, max(0, end - start), start))

    def in_transaction(self, finish: Callable[[bool], None]) -> None:
        """Make it one of a transaction, which calls `commit` or `discard`."""
        self.autocommit = False
        self._finish = finish

    def commit(self) -> None:
        """Put the file in its place. Raises: OSError."""
        if self._finish is not None:
            self._finish(True)

    def discard(self) -> None:
        """Leave nothing of the file behind. Raises: OSError."""
        if self._finish is not None:
            self._finish(False)


class NetReader(NetFile, io.BufferedReader):
    """A file opened for reading."""

    raw: RawFile

    @property
    def closed(self) -> bool:
        """True once it was closed. fsspec says so to a file as well, after it has closed it."""
        return self.raw.closed

    @closed.setter
    def closed(self, closed: bool) -> None:
        assert closed == self.raw.closed


class NetWriter(NetFile, io.BufferedWriter):
    """A file opened for writing."""

    raw: RawFile


class NetUpdater(NetFile, io.BufferedRandom):
    """A file opened for both."""

    raw: RawFile
