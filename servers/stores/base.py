"""Sans-IO. The contract of a store: what a server keeps files in; one conformance suite holds every store to it.

All methods are synchronous and raise `OSError` with a POSIX errno. A store whose `blocking` is true may sleep on a disk: the
dispatcher calls its methods in a worker thread, except those a `try_` name marks as never sleeping. Methods of such a store may
be called from several threads; it serialises what must be serialised. One that never blocks is called from one thread alone.

Memory. `read_source` lends memory (or a file range) that stays valid until its release; `write_landing` lends memory in which the
payload of a write is to land and which `write` then makes the file's content without a copy beyond the store's own I/O call.
The same holds for the aux stream. A landing that is released instead of written leaves the file's size unchanged.
Aux stream and record are opaque bytes kept beside the data stream of a file and removed with it.
"""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from iov.iov_iter import IovIter
from transport.base import FileRange, Landing, Release
from transport.messages import Attr, DirEntry, EntryReply, Handle, Setattr, Step, StepKind

__all__ = [
    "NAME_MAX", "PERMISSIONS", "RECORD_MAX", "SIZE_MAX", "Lent", "Store",
    "check_attributes", "check_name", "check_range", "check_steps", "fail",
]  # fmt: skip

NAME_MAX: Final = 255
RECORD_MAX: Final = 1 << 16
SIZE_MAX: Final = (1 << 63) - 1
"""Of a file, in bytes; the largest position of a read."""
PERMISSIONS: Final = 0o7777
_ID_MAX: Final = (1 << 32) - 2


@dataclass(slots=True)
class Lent:
    """Bytes of a stream, lent until `release`; `length` is short at the end of the stream, `eof` says that they reach it."""

    source: IovIter | FileRange | None
    length: int
    eof: bool
    release: Release | None = None


class Store(ABC):
    """Files, directories, aux streams and records under stable handles."""

    blocking: bool = False
    verifier: int
    """Boot verifier of unstable writes: another value after a restart that may have lost them; never 0."""

    @abstractmethod
    def root(self) -> EntryReply:
        """Return handle and attributes of the export's root."""

    @abstractmethod
    def lookup(self, parent: Handle, name: str) -> EntryReply:
        """Find a name. Raises: ENOENT, ENOTDIR, ESTALE, EINVAL for a name that is no name."""

    @abstractmethod
    def getattr(self, handle: Handle) -> Attr:
        """Raises: ESTALE."""

    @abstractmethod
    def setattr(self, change: Setattr) -> Attr:
        """Change what is not None."""

    @abstractmethod
    def create(self, parent: Handle, name: str, mode: int, *, exclusive: bool) -> EntryReply:
        """Create an empty file or find the one that is there. Raises: EEXIST when exclusive, EISDIR for a directory."""

    @abstractmethod
    def open(self, handle: Handle, *, write: bool) -> Attr:
        """Check that the object is a regular file and allows the access. Raises: EISDIR, EACCES, EROFS, ESTALE."""

    @abstractmethod
    def read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Lent:
        """Lend up to `length` bytes at `pos` of the data (or aux) stream; holes read as zeros."""

    def try_read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Lent | None:
        """The same if it need not sleep, else None."""
        return None if self.blocking else self.read_source(handle, pos, length, aux=aux)

    @abstractmethod
    def write_landing(self, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Landing:
        """Lend memory for the payload of a write; never sleeps. Raises: EFBIG, ENOSPC, ESTALE, EISDIR."""

    @abstractmethod
    def write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int:
        """Make the filled landing the content at `pos` and release it, also on an error. Returns: bytes written."""

    def try_write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int | None:
        """The same if it need not sleep, else None with the landing untouched."""
        return None if self.blocking else self.write(handle, pos, landing, stable=stable, aux=aux)

    @abstractmethod
    def commit(self, handle: Handle) -> None:
        """Make all earlier writes of the file durable."""

    @abstractmethod
    def truncate(self, handle: Handle, size: int) -> Attr:
        """Cut the data stream, or extend it with a hole."""

    @abstractmethod
    def mkdir(self, parent: Handle, name: str, mode: int) -> EntryReply:
        """Raises: EEXIST."""

    @abstractmethod
    def readdir(self, handle: Handle, cookie: int, count: int) -> tuple[list[DirEntry], bool]:
        """Return up to `count` entries behind `cookie`, and whether the listing is complete.

        A name present during the whole listing is returned exactly once, whatever else comes and goes meanwhile; one that a
        rename replaced meanwhile may be returned again, as it is another object now.
        """

    @abstractmethod
    def unlink(self, parent: Handle, name: str) -> None:
        """Raises: EISDIR, ENOENT."""

    @abstractmethod
    def rmdir(self, parent: Handle, name: str) -> None:
        """Raises: ENOTDIR, ENOTEMPTY, ENOENT."""

    @abstractmethod
    def rename(self, parent: Handle, name: str, new_parent: Handle, new_name: str) -> None:
        """Rename as POSIX does: a file replaces a file, a directory an empty directory.

        Raises: EISDIR, ENOTDIR, ENOTEMPTY, EINVAL for a directory into itself.
        """

    @abstractmethod
    def record_get(self, handle: Handle) -> tuple[bytes, int]:
        """Return record and generation; (b"", 0) where none was ever put."""

    @abstractmethod
    def transact(
        self, asserts: Sequence[tuple[Handle, int]], verifier: int, steps: Sequence[Step], payload: IovIter | None
    ) -> list[int]:
        """Apply all steps or none, durable in the order data, aux, records. Returns: the new generations of the asserted.

        Raises: EAGAIN when a generation has moved, ESTALE when `verifier` is neither 0 nor this boot's; nothing changed then.
        """

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Asserts that nothing is lent any more."""


def fail(code: int, name: str = "") -> OSError:
    """Return the OSError of an errno in the system's words."""
    return OSError(code, os.strerror(code), name) if name else OSError(code, os.strerror(code))


def check_name(name: str) -> None:
    """Refuse what is not one path component. Raises: EINVAL, ENAMETOOLONG."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, "not a file name", name)
    try:
        length = len(name) if name.isascii() else len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise OSError(errno.EINVAL, "not a file name", ascii(name)) from None
    if length > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, "file name too long", name[:64])


def check_range(pos: int, length: int, *, write: bool = False) -> None:
    """Refuse a range no file can have. Raises: EINVAL; EFBIG for a write behind SIZE_MAX."""
    if pos < 0 or length < 0:
        raise fail(errno.EINVAL)
    if pos + length > SIZE_MAX and (write or pos > SIZE_MAX):
        raise fail(errno.EFBIG if write else errno.EINVAL)


def check_attributes(change: Setattr) -> None:
    """Refuse attributes no file can have. Raises: EINVAL."""
    ids = [number for number in (change.uid, change.gid) if number is not None]
    times = [moment for moment in (change.atime_ns, change.mtime_ns) if moment is not None]
    if not all(0 <= number <= _ID_MAX for number in ids) or not all(abs(moment) <= SIZE_MAX for moment in times):
        raise fail(errno.EINVAL)


def check_steps(steps: Sequence[Step], payload: IovIter | None) -> None:
    """Refuse a transaction that cannot be applied. Raises: EINVAL, EFBIG."""
    wanted = 0
    for step in steps:
        check_range(step.pos, step.length, write=True)
        if step.kind is StepKind.AUX_WRITE:
            wanted += step.length
        elif step.length:
            raise fail(errno.EINVAL)
        if len(step.record) > RECORD_MAX:
            raise fail(errno.EFBIG)
    if wanted != (0 if payload is None else payload.count):
        raise OSError(errno.EINVAL, "the payload is not as long as the steps say")
