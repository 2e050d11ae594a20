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
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from iov.iov_iter import IovIter
from servers.stores.intents import Intents
from transport.base import FileRange, Landing, Release
from transport.messages import (
    NOW_NS,
    Attr,
    DirEntry,
    EntryReply,
    FileType,
    Handle,
    RenameFlag,
    Setattr,
    StatfsReply,
    Step,
    StepKind,
    TransactReply,
    Whence,
    XattrMode,
)  # fmt: skip

__all__ = [
    "BLOB_SLOTS", "NAME_MAX", "NAME_STEPS", "PERMISSIONS", "RECORD_MAX", "SIZE_MAX", "TARGET_MAX", "XATTR_MAX", "Lent", "Store",
    "check_attributes", "check_copy", "check_flags", "check_name", "check_range", "check_record", "check_space", "check_steps",
    "check_target", "check_xattr", "fail", "is_own_xattr",
]  # fmt: skip

NAME_MAX: Final = 255
RECORD_MAX: Final = 1 << 16
SIZE_MAX: Final = (1 << 63) - 1
"""Of a file, in bytes; the largest position of a read."""
TARGET_MAX: Final = 4095
"""Bytes of a symlink's target."""
XATTR_MAX: Final = 1 << 16
"""Bytes of an extended attribute's value."""
PERMISSIONS: Final = 0o7777
BLOB_SLOTS: Final = (0, 1)
"""Of the opaque bytes beside a record: an entry's certificate, and one more."""
PAYLOAD_STEPS: Final = frozenset({StepKind.AUX_WRITE, StepKind.WRITE})
LENGTH_STEPS: Final = frozenset({StepKind.CREATE, StepKind.INTENT_PUT})
NAME_STEPS: Final = frozenset({StepKind.CREATE, StepKind.REMOVE, StepKind.MOVE})
_USER: Final = "user."
_OWN: Final = "user.netfs."
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
    intents: Intents
    """Who may write where; data writes are checked against it by whoever calls the store."""
    is_open: Callable[[Handle], bool] = staticmethod(lambda _: False)
    """Tells whether a client may have a file open, which then outlives its last name, until `closed`. Any thread may ask."""
    removed: deque[Handle]
    """The files that do so since somebody looked; for the thread of the loop to take out."""

    @abstractmethod
    def closed(self, handle: Handle) -> None:
        """Nobody has a file open any more: if it has no name it goes, at once or with the next `keep`. Never sleeps."""

    @abstractmethod
    def unnamed(self) -> list[Handle]:
        """Return the files that live on without a name."""

    def state_folder(self) -> Path | None:
        """Return a folder for what the server keeps over its own end, None where nothing is to be kept."""
        return None

    def keep(self) -> None:  # noqa: B027 - most stores have nothing to keep
        """Have the handles that were given out outlive the server, where that is possible. Called before a reply leaves."""

    def sync(self) -> None:  # noqa: B027 - most stores have nothing to make durable
        """Make durable what a server before this one did and perhaps did not get to. Raises: OSError."""

    def batch(self) -> AbstractContextManager[None]:
        """Return a block whose changes of names may all be made durable together, at its end. Raises there: OSError.

        For the thread that enters it. Answers to what was done in it may leave after it.
        """
        return nullcontext()

    @abstractmethod
    def root(self) -> EntryReply:
        """Return handle and attributes of the export's root."""

    @abstractmethod
    def lookup(self, parent: Handle, name: str) -> EntryReply:
        """Find a name. Raises: ENOENT, ENOTDIR, ESTALE, EINVAL for a name that is no name."""

    def who(self, parent: Handle, name: str) -> Handle | None:
        """Say who has a name, None for nobody; for notes, which need no attributes. Raises: as `lookup`, but for ENOENT."""
        try:
            return self.lookup(parent, name).handle
        except FileNotFoundError:
            return None

    def try_lookup(self, parent: Handle, name: str) -> EntryReply | None:
        """The same if it need not sleep, else None, also where it would fail."""
        return None if self.blocking else self.lookup(parent, name)

    @abstractmethod
    def getattr(self, handle: Handle) -> Attr:
        """Raises: ESTALE."""

    def try_getattr(self, handle: Handle, *, write: bool | None = None) -> Attr | None:
        """The same if it need not sleep, else None, also where it would fail. write: also check the access, as `open` does."""
        if self.blocking:
            return None
        return self.getattr(handle) if write is None else self.open(handle, write=write)

    @abstractmethod
    def setattr(self, change: Setattr) -> Attr:
        """Change what is not None. Raises: as `truncate` for a size; EOPNOTSUPP for the mode of a symlink."""

    @abstractmethod
    def create(self, parent: Handle, name: str, mode: int, *, exclusive: bool) -> EntryReply:
        """Create an empty file or find the one that is there. Raises: EEXIST when exclusive, EISDIR for a directory."""

    @abstractmethod
    def open(self, handle: Handle, *, write: bool) -> Attr:
        """Check that the object is a regular file and allows the access. Raises: EISDIR, EACCES, EROFS, ESTALE."""

    @abstractmethod
    def read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False, ranges: bool = True) -> Lent:
        """Lend up to `length` bytes at `pos` of the data (or aux) stream; holes read as zeros. ranges: also as a FileRange."""

    def try_read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Lent | None:
        """The same if it need not sleep, else None."""
        return None if self.blocking else self.read_source(handle, pos, length, aux=aux)

    @abstractmethod
    def write_landing(self, handle: Handle, pos: int, length: int, *, aux: bool = False, apart: bool = False) -> Landing:
        """Lend memory for the payload of a write; never sleeps. Raises: EFBIG, ENOSPC, ESTALE, EISDIR.

        apart: memory that is not the file's, which is as it was until `write`.
        """

    @abstractmethod
    def write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int:
        """Make the filled landing the content at `pos` and release it, also on an error. Returns: bytes written."""

    def try_write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int | None:
        """The same if it need not sleep, else None with the landing untouched."""
        return None if self.blocking else self.write(handle, pos, landing, stable=stable, aux=aux)

    @abstractmethod
    def write_from(self, handle: Handle, pos: int, payload: IovIter, *, stable: bool, aux: bool = False) -> int:
        """Write what landed elsewhere, because its file was not known yet. Returns: bytes written.

        Ownership: `payload` is lent for the call; its cursor is moved.
        """

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
    def rename(self, parent: Handle, name: str, new_parent: Handle, new_name: str, flags: RenameFlag = RenameFlag.NONE) -> None:
        """Rename as renameat2 does: a file replaces a file, a directory an empty directory; NOREPLACE and EXCHANGE are kept.

        Raises: EISDIR, ENOTDIR, ENOTEMPTY, EEXIST for NOREPLACE, EINVAL for a directory into itself.
        """

    @abstractmethod
    def link(self, handle: Handle, parent: Handle, name: str) -> EntryReply:
        """Give an object one more name. Raises: EPERM for a directory, EEXIST, ESTALE when it has lost its last one."""

    @abstractmethod
    def symlink(self, parent: Handle, name: str, target: bytes) -> EntryReply:
        """Create a symbolic link, which no store follows. Raises: EEXIST, ENOENT for an empty target, ENAMETOOLONG."""

    @abstractmethod
    def readlink(self, handle: Handle) -> bytes:
        """Return a symlink's target. Raises: EINVAL for what is none."""

    @abstractmethod
    def allocate(self, handle: Handle, pos: int, length: int, *, keep_size: bool) -> Attr:
        """Reserve room for a range and, unless `keep_size`, extend the file to hold it. Raises: EINVAL, EFBIG, ENOSPC."""

    @abstractmethod
    def punch(self, handle: Handle, pos: int, length: int) -> Attr:
        """Make a range read as zeros and give back what can be of its room; the size stays."""

    @abstractmethod
    def seek(self, handle: Handle, pos: int, whence: Whence) -> int:
        """Find the next data or hole, in the store's own grain. Raises: ENXIO at or behind the end, or for no more data."""

    @abstractmethod
    def copy_range(self, handle: Handle, pos: int, target: Handle, target_pos: int, length: int) -> int:
        """Copy from file to file, as much as the store likes at a time; 0 at the end of the source. Returns: bytes copied.

        Raises: EINVAL for ranges of one file that overlap.
        """

    @abstractmethod
    def xattr_get(self, handle: Handle, name: str) -> bytes:
        """Raises: ENODATA; EOPNOTSUPP for what does not begin with `user.`."""

    @abstractmethod
    def xattr_set(self, handle: Handle, name: str, value: bytes, mode: XattrMode) -> Attr:
        """Raises: EEXIST, ENODATA, E2BIG, ENOSPC, EPERM for a symlink and for names that are the server's own."""

    @abstractmethod
    def xattr_list(self, handle: Handle) -> list[str]:
        """Return the names that clients may know of, sorted."""

    @abstractmethod
    def xattr_remove(self, handle: Handle, name: str) -> Attr:
        """Raises: ENODATA, EPERM."""

    @abstractmethod
    def statfs(self, handle: Handle) -> StatfsReply:
        """Return the room there is where an object is."""

    @abstractmethod
    def record_get(self, handle: Handle) -> tuple[bytes, int]:
        """Return record and generation of a file or directory; (b"", 0) where none was ever put."""

    @abstractmethod
    def blob_get(self, handle: Handle, slot: int) -> bytes:
        """Return a blob of an object, empty where none was ever put. Raises: ESTALE, EINVAL for a slot there is not."""

    @abstractmethod
    def put_intent(self, handle: Handle, pos: int, length: int, session: int, under: int, record: bytes) -> int:
        """Put a write intent on what is to be written there by its session under an intent, 0 for none, as `apply` would.

        Returns: its key, when it would outlast a crash. Raises: EAGAIN when others are in the way, or the session's intents do
        not cover the range, ENOLCK, EFBIG, ESTALE, EISDIR.
        """

    @abstractmethod
    def apply(
        self, asserts: Sequence[tuple[Handle, int]], verifier: int, steps: Sequence[Step], payload: IovIter | None, session: int
    ) -> TransactReply:
        """Apply all steps or none, durable in the order data, aux, records. session: whose intents are meant.

        Raises: EAGAIN when a generation has moved or another session writes where an intent is wanted, ESTALE when `verifier` is
        neither 0 nor this boot's or an object is not what a step says; for names as `create`, `unlink`, `rmdir` and `rename`;
        nothing changed then.
        """

    def transact(
        self, asserts: Sequence[tuple[Handle, int]], verifier: int, steps: Sequence[Step], payload: IovIter | None
    ) -> list[int]:
        """As `apply`, for nobody's session. Returns: the new generations of the asserted."""
        return self.apply(asserts, verifier, steps, payload, 0).generations

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
    if not all(0 <= number <= _ID_MAX for number in ids):
        raise fail(errno.EINVAL)
    if not all(abs(moment) <= SIZE_MAX or moment == NOW_NS for moment in times):
        raise fail(errno.EINVAL)
    if change.size is not None:
        check_range(change.size, 0, write=True)


def check_steps(steps: Sequence[Step], payload: IovIter | None) -> None:
    """Refuse a transaction that cannot be applied, whatever the store holds. Raises: EINVAL, EFBIG; as `check_name`."""
    wanted, made = 0, False
    names: dict[tuple[Handle, str], None] = {}
    for step in steps:
        kind = step.kind
        check_range(step.pos, step.length, write=True)
        if kind in PAYLOAD_STEPS:
            wanted += step.length
        elif step.length and kind not in LENGTH_STEPS:
            raise fail(errno.EINVAL)
        check_record(step.record)
        if (kind is StepKind.BLOB_PUT and step.pos not in BLOB_SLOTS) or (not step.handle and not made):
            raise fail(errno.EINVAL)
        if kind in NAME_STEPS:
            for key in ((step.handle, step.name), (step.other, step.new_name))[: 2 if kind is StepKind.MOVE else 1]:
                check_name(key[1])
                if key in names or not key[0]:
                    raise OSError(errno.EINVAL, "a name is in two steps of a transaction, or of no directory", key[1])
                names[key] = None
        if kind is StepKind.CREATE:
            made = True
            if step.length not in {FileType.FILE, FileType.DIRECTORY}:
                raise fail(errno.EINVAL)
    if wanted != (0 if payload is None else payload.count):
        raise OSError(errno.EINVAL, "the payload is not as long as the steps say")


def check_record(record: bytes) -> None:
    """Refuse what is too long for a record or an intent. Raises: EFBIG."""
    if len(record) > RECORD_MAX:
        raise fail(errno.EFBIG)


def check_flags(flags: RenameFlag) -> None:
    """Refuse flags of a rename that exclude each other. Raises: EINVAL."""
    if flags == RenameFlag.NOREPLACE | RenameFlag.EXCHANGE:
        raise fail(errno.EINVAL)


def check_target(target: bytes) -> None:
    """Refuse what no symlink can hold. Raises: ENOENT, ENAMETOOLONG, EINVAL."""
    if not target:
        raise fail(errno.ENOENT)
    if len(target) > TARGET_MAX:
        raise fail(errno.ENAMETOOLONG)
    if b"\0" in target:
        raise fail(errno.EINVAL)


def check_space(pos: int, length: int) -> None:
    """Refuse a range that cannot be allocated or punched. Raises: EINVAL, EFBIG."""
    if length < 1:
        raise fail(errno.EINVAL)
    check_range(pos, length, write=True)


def check_copy(handle: Handle, pos: int, target: Handle, target_pos: int, length: int) -> None:
    """Refuse ranges that cannot be copied. Raises: EINVAL, EFBIG."""
    check_range(pos, 0)
    check_range(target_pos, 0, write=True)
    if handle == target and abs(pos - target_pos) < length:
        raise fail(errno.EINVAL)


def check_xattr(name: str, value: bytes = b"") -> None:
    """Refuse names and values no extended attribute can have. Raises: EOPNOTSUPP, EINVAL, ERANGE, E2BIG."""
    try:
        length = len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise fail(errno.EINVAL) from None
    if not length or length > NAME_MAX:
        raise fail(errno.ERANGE)
    if not name.startswith(_USER):
        raise fail(errno.EOPNOTSUPP)
    if name == _USER or "\0" in name:
        raise fail(errno.EINVAL)
    if len(value) > XATTR_MAX:
        raise fail(errno.E2BIG)


def is_own_xattr(name: str) -> bool:
    """Tell whether a name is one of the server's own attributes, which clients do not see."""
    return name.startswith(_OWN)
