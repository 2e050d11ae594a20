"""Trio shell. `.netfs/` at the root of a real folder: aux streams and records by handle, the journal, the lock, the boot count.

    .netfs/lock             one server at a time
    .netfs/boot             how often a server was started here; the verifier of unstable writes
    .netfs/journal          see journal.py
    .netfs/state.db, slots/ sessions and their answers, see servers/state.py
    .netfs/aux/<handle>     the aux stream
    .netfs/records/<handle> generation and record
    .netfs/blobs0/<handle>  the certificate of the entry
    .netfs/blobs1/<handle>  one more opaque blob
    .netfs/intents/<handle> write intents that are to outlast a crash
    .netfs/removed/<handle> a file without a name that a client has open
    .netfs/making/<handle>  what a transaction makes, until the journal moves it to its place

Nothing here is reachable by name through the store. A file of a name that no live file has is left by a crash between two
steps of a removal and harms nobody, because a handle is never given out again. Owns no payload memory.
"""

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from servers.stores.base import RECORD_MAX
from servers.stores.descriptors import Descriptor, Descriptors
from servers.stores.journal import Entry, Journal, write_all
from servers.stores.syscalls import list_names, open_beneath
from transport.messages import Handle, StepKind

__all__ = ["INTENTS", "SIDECAR_NAME", "Sidecar"]

SIDECAR_NAME: Final = b".netfs"
BLOB_DIRS: Final = (b"blobs0", b"blobs1", b"intents")
INTENTS: Final = 2
"""The slot of the blob that has write intents."""
_GENERATION: Final = struct.Struct("<Q")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_KEEP: Final = os.O_RDWR | os.O_CREAT


class Sidecar:
    """What is kept beside the files of a folder. Missing on a folder that was only ever served read-only.

    lock: held for anything that must not see half a transaction. home: `.netfs/`, None on a folder served read-only. Which
    handles anything is kept of is known (true: a record), so that plain files cost no look.
    """

    def __init__(self, root_fd: int, *, read_only: bool, durable: bool, capacity: int) -> None:
        self.lock = threading.RLock()
        self.verifier = 1
        self._durable = durable
        self._aux: Descriptors[Handle] = Descriptors(capacity)
        self._fds: list[int] = []
        self._journal: Journal | None = None
        self._unfinished = False
        self._kept: dict[Handle, bool] = {}
        self.home: int | None = None
        self.removed: int | None = None
        try:
            self._open(root_fd, read_only=read_only)
        except BaseException:
            self._close_fds()
            raise

    def _open(self, root_fd: int, *, read_only: bool) -> None:
        if read_only:
            try:
                home = self._keep(open_beneath(root_fd, SIDECAR_NAME, _DIRECTORY))
                self._aux_dir = self._keep(open_beneath(home, b"aux", _DIRECTORY))
                self._record_dir = self._keep(open_beneath(home, b"records", _DIRECTORY))
                self._blob_dirs = tuple(self._keep(open_beneath(home, name, _DIRECTORY)) for name in BLOB_DIRS)
            except FileNotFoundError:
                self._aux_dir = self._record_dir = -1
                self._blob_dirs = ()
                return
            journal = Journal(open_beneath(home, b"journal", os.O_RDONLY), durable=False)
            unfinished = journal.read()
            journal.close()
            if unfinished:
                raise OSError(errno.EROFS, "a transaction was cut short here; serve the folder writable once to finish it")
        else:
            self.home = home = self._keep(self._make_directory(root_fd, SIDECAR_NAME))
            self._take_lock(home)
            self._aux_dir = self._keep(self._make_directory(home, b"aux"))
            self._record_dir = self._keep(self._make_directory(home, b"records"))
            self._blob_dirs = tuple(self._keep(self._make_directory(home, name)) for name in BLOB_DIRS)
            self.making = self._keep(self._make_directory(home, b"making"))
            self.removed = self._keep(self._make_directory(home, b"removed"))
            self.verifier = self._count_boot(home)
            self._journal = Journal(open_beneath(home, b"journal", _KEEP, 0o600), durable=self._durable)
            self._unfinished = bool(self._journal.read())
            self._sync(home)
        for directory in (self._aux_dir, *self._blob_dirs, self._record_dir):
            with os.scandir(directory) as listed:
                for entry in listed:
                    with suppress(ValueError):  # not a name of ours
                        self._kept[Handle(bytes.fromhex(entry.name))] = directory == self._record_dir

    # ---- aux

    def aux(self, handle: Handle, *, create: bool) -> Descriptor | None:
        """Pin the aux stream of a file; None if it has none and none is to be made."""
        held = self._aux.pin(handle)
        if held is not None or self._aux_dir < 0:
            return held
        if not create and not self._may_keep(handle):
            return None
        writable = self._journal is not None
        flags = os.O_RDWR if writable else os.O_RDONLY
        name = _name(handle)
        try:
            fd = open_beneath(self._aux_dir, name, flags)
        except FileNotFoundError:
            if not create:
                return None
            self._kept.setdefault(handle, False)
            fd = open_beneath(self._aux_dir, name, _KEEP, 0o600)
            self._sync(self._aux_dir)
        return self._aux.add(handle, fd, writable=writable)

    def opened(self, handle: Handle) -> Descriptor | None:
        """Pin an aux stream that is open already; never sleeps."""
        return self._aux.pin(handle)

    def let_go(self, descriptor: Descriptor) -> None:
        """Unpin what `aux` or `opened` gave."""
        self._aux.unpin(descriptor)

    # ---- records

    def is_recorded(self, handle: Handle) -> bool:
        """Tell whether a file has a record; never sleeps."""
        return self._kept.get(handle, False)

    def _may_keep(self, handle: Handle) -> bool:
        """Tell whether there may be anything of a file here; where another server may write, there may always be."""
        return handle in self._kept or self._journal is None

    def record(self, handle: Handle) -> tuple[bytes, int]:
        """Return record and generation; (b"", 0) without one."""
        if not self.is_recorded(handle):
            return b"", 0
        name = _name(handle)
        with self.lock:
            try:
                fd = open_beneath(self._record_dir, name, os.O_RDONLY)
            except FileNotFoundError:
                return b"", 0
            try:
                kept = os.pread(fd, _GENERATION.size + RECORD_MAX, 0)
            finally:
                os.close(fd)
        if len(kept) < _GENERATION.size:
            raise OSError(errno.EIO, "a record is damaged")
        return kept[_GENERATION.size :], _GENERATION.unpack_from(kept)[0]

    def blob(self, handle: Handle, slot: int) -> bytes:
        """Return a blob, empty where there is none."""
        if not self._blob_dirs or not self._may_keep(handle):
            return b""
        try:
            fd = open_beneath(self._blob_dirs[slot], _name(handle), os.O_RDONLY)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def left_behind(self) -> Iterator[tuple[Handle, bytes]]:
        """Yield what was noted of the intents on files."""
        if self._blob_dirs:
            for name, _ in list_names(self._blob_dirs[INTENTS], 0):
                handle = Handle(bytes.fromhex(name.decode()))
                yield handle, self.blob(handle, INTENTS)

    def clear_making(self) -> None:
        """Remove what was being made when a crash came."""
        if self._journal is not None:
            for name, _ in list(list_names(self.making, 0)):
                self.unmake(name)

    def unmake(self, name: bytes) -> None:
        """Remove something that is not going to be moved to its place."""
        try:
            os.unlink(name, dir_fd=self.making)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=self.making)

    # ---- transactions

    @property
    def is_unfinished(self) -> bool:
        """Say whether a transaction was cut short."""
        return self._unfinished

    def write_journal(self, entries: list[Entry]) -> None:
        """Decide to do all entries; `lock` is held. Raises: OSError, after which none is."""
        assert self._journal is not None
        self._journal.write(entries)
        self._unfinished = True

    def settle(self, redo: Callable[[Entry], None]) -> None:
        """Finish a transaction that a crash or a full disk cut short. Raises: what keeps it from being finished."""
        if self._unfinished:
            with self.lock:
                assert self._journal is not None
                self.finish(self._journal.read(), redo, lambda _: None)

    def finish(self, entries: list[Entry], redo: Callable[[Entry], None], reached: Callable[[str], None]) -> None:
        """Do what was decided; `lock` is held.

        redo: does what concerns data and names. reached: told of every step. An error leaves the transaction to `settle`.
        """
        assert self._journal is not None
        for entry in entries:
            match entry.kind:
                case StepKind.RECORD_PUT:
                    self._put_record(entry)
                case StepKind.BLOB_PUT:
                    self._put_blob(entry)
                case StepKind.AUX_WRITE | StepKind.AUX_TRUNCATE:
                    self._put_aux(entry)
                case _:
                    redo(entry)
            reached("apply")
        self._journal.clear()
        self._unfinished = False
        reached("clear")

    def _put_aux(self, entry: Entry) -> None:
        held = self.aux(entry.handle, create=True)
        assert held is not None
        try:
            if entry.kind is StepKind.AUX_TRUNCATE:
                os.ftruncate(held.fd, entry.pos)
            elif write_all(held.fd, entry.payload, entry.pos) != sum(len(view) for view in entry.payload):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._durable:
                os.fdatasync(held.fd)
        finally:
            self._aux.unpin(held)

    def _put_record(self, entry: Entry) -> None:
        name = _name(entry.handle)
        self._put(self._record_dir, name, _GENERATION.pack(entry.generation) + entry.record)
        if not self.is_recorded(entry.handle):
            self._sync(self._record_dir)
            self._kept[entry.handle] = True

    def _put_blob(self, entry: Entry) -> None:
        directory = self._blob_dirs[entry.pos]
        if entry.record:
            self._kept.setdefault(entry.handle, False)
            self._put(directory, _name(entry.handle), entry.record)
        else:
            with suppress(FileNotFoundError):
                os.unlink(_name(entry.handle), dir_fd=directory)
        self._sync(directory)

    def append_blob(self, handle: Handle, slot: int, pos: int, more: bytes) -> None:
        """Add to a blob that is `pos` bytes long, outside of transactions: a crash may leave a part. `lock` is held."""
        directory = self._blob_dirs[slot]
        self._kept.setdefault(handle, False)
        self._put(directory, _name(handle), more, pos)
        if not pos:
            self._sync(directory)

    def _put(self, directory: int, name: bytes, content: bytes, pos: int = 0) -> None:
        fd = open_beneath(directory, name, _KEEP, 0o600)
        try:
            if write_all(fd, [memoryview(content)], pos) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(fd, pos + len(content))
            if self._durable:
                os.fdatasync(fd)
        finally:
            os.close(fd)

    # ---- the end of a file, and of the server

    def forget(self, handle: Handle) -> None:
        """Remove what is kept of a file that is gone."""
        if not self._may_keep(handle):
            return
        self._aux.drop(handle)
        name = _name(handle)
        with self.lock:
            for directory in (self._aux_dir, self._record_dir, *self._blob_dirs):
                try:
                    os.unlink(name, dir_fd=directory)
                except FileNotFoundError:
                    continue
            self._kept.pop(handle, None)

    def close(self) -> None:
        """Close all. Asserts that no aux stream is in use."""
        self._aux.close()
        if self._journal is not None:
            self._journal.close()
        self._close_fds()

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _make_directory(self, parent_fd: int, name: bytes) -> int:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        return open_beneath(parent_fd, name, _DIRECTORY)

    def _take_lock(self, home: int) -> None:
        fd = self._keep(open_beneath(home, b"lock", _KEEP, 0o600))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "another server has this folder") from None

    def _count_boot(self, home: int) -> int:
        fd = open_beneath(home, b"boot", _KEEP, 0o600)
        try:
            text = os.pread(fd, 20, 0)
            boot = int(text) + 1 if text.strip().isdigit() else 1
            os.pwrite(fd, b"%019d\n" % boot, 0)
            if self._durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        return boot

    def _sync(self, directory: int) -> None:
        if self._durable:
            os.fsync(directory)


def _name(handle: Handle) -> bytes:
    return handle.hex().encode()
