"""Trio shell. The objects of a real folder by handle, and all that is done to one of them: bytes, room, attributes, records.

`directory.py` adds the names, and says how the store treats the folder and the disk.
Memory: payload lands in and is sent from a pool of pages; `preadv` and `pwritev` are the only copies.
"""

import contextlib
import errno
import os
import resource
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from iov.extract import extract_segments
from iov.iov_iter import Direction, IovIter
from iov.pool import BufferPool, Lease
from iov.probe import Probe
from servers.stores.base import (
    SIZE_MAX,
    Lent,
    Store,
    check_attributes,
    check_range,
    fail,
)
from servers.stores.descriptors import Descriptor
from servers.stores.handles import Node, Places, Tree, anchor
from servers.stores.intents import Intents
from servers.stores.journal import Entry, write_all
from servers.stores.mapping import AS_ASKED, NamesAndModes
from servers.stores.sidecar import SIDECAR_NAME, Sidecar
from servers.stores.syscalls import (
    Statx,
    change_owner,
    is_memory,
    require_linux,
    set_times,
    statx,
    sync_filesystem,
)
from servers.stores.unnamed import Unnamed
from transport.base import FileRange, Landing
from transport.messages import (
    NOW_NS,
    Attr,
    EntryReply,
    FileType,
    Handle,
    Setattr,
)

__all__ = ["DirectoryFiles", "reading"]

POOL_SLOT: Final = 1 << 20
POOL_SLOTS: Final = 64
MAX_OPEN: Final = 8192
SENDFILE_MIN: Final = 64 << 10
"""A read of so many bytes of a file in memory is lent as a range of the file, which the kernel sends without our touching it."""


class _Batch(threading.local):
    """What one thread has changed the names of and not yet made durable; None outside of a batch."""

    nodes: dict[Handle, Node] | None = None


@dataclass(slots=True)
class _Landing(Landing):
    lease: Lease = field(kw_only=True)


class DirectoryFiles(Store):
    """A folder. max_open: descriptors kept, by default half of what the process may have. mapping: of permissions and names.

    Raises: ENOENT, ENOTDIR, EACCES; EBUSY when another server has the folder; ENOTSUP outside Linux.
    """

    def __init__(
        self, path: str | os.PathLike[str], probe: Probe, *, read_only: bool = False, max_open: int | None = None,
        mapping: NamesAndModes = AS_ASKED,
    ) -> None:  # fmt: skip
        require_linux()
        if max_open is None:
            max_open = min(MAX_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self.read_only = read_only
        self._mapping = mapping
        self._probe = probe
        self._pool = BufferPool(probe, POOL_SLOT, POOL_SLOTS)
        self._pool_lock = threading.Lock()
        self._batch = _Batch()
        root_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.blocking = not is_memory(root_fd)
        try:
            self._sidecar = Sidecar(root_fd, read_only=read_only, durable=self.blocking, capacity=max(8, max_open // 4))
        except BaseException:
            os.close(root_fd)
            raise
        self.verifier = self._sidecar.verifier
        self._minted = self.verifier << 32
        self._tree = Tree(root_fd, max_open - max_open // 4, None if read_only else self._mint)
        self.intents = Intents(self.verifier, threading.Lock())
        self.removed = deque()
        self._unnamed = None if self._sidecar.removed is None else Unnamed(self._tree, self._sidecar.removed, self._forget)
        self.is_open = lambda _: True  # what a client has open it says in the grace period; until then it may have everything
        self._settle()
        del self.is_open
        self._sidecar.clear_making()
        for handle, lasting in self._sidecar.left_behind():
            self.intents.restore(handle, lasting)

    def state_folder(self) -> Path | None:
        home = self._sidecar.home
        return None if home is None else Path(f"/proc/self/fd/{home}")

    def remember_in(self, places: Places) -> None:
        """Have handles outlive the server; called before the first request."""
        self._tree.places = places

    def keep(self) -> None:
        self._tree.keep()
        if self._unnamed is not None and self._unnamed.due:
            self._unnamed.reap()

    def closed(self, handle: Handle) -> None:
        if self._unnamed is not None and handle in self._unnamed:
            self._unnamed.due.append(handle)
            if not self.blocking:
                self._unnamed.reap()

    def unnamed(self) -> list[Handle]:
        return [] if self._unnamed is None else self._unnamed.handles()

    def sync(self) -> None:
        home = self._sidecar.home
        if self.blocking and home is not None:
            sync_filesystem(home)

    # ---- objects

    def getattr(self, handle: Handle) -> Attr:
        node = self._tree.node(handle)
        return self._attr(node, self._tree.statx(node))

    def try_getattr(self, handle: Handle, *, write: bool | None = None) -> Attr | None:
        if not self.blocking:
            return super().try_getattr(handle, write=write)
        held = self._tree.opened(handle)  # what is open is in the kernel's memory
        if held is None:
            return None
        try:
            if (write and (self.read_only or not held.writable)) or not self._tree.knows(handle):
                return None
            found = statx(held.fd)
            return self._attr(self._tree.node(handle), found) if found.nlink else None
        finally:
            self._tree.let_go(held)

    def setattr(self, change: Setattr) -> Attr:
        self._check_writable()
        check_attributes(change)
        node = self._tree.node(change.handle)
        if change.mode is not None and node.type is FileType.SYMLINK:
            raise fail(errno.EOPNOTSUPP)
        if change.size is not None:
            self.truncate(change.handle, change.size)
        with self._tree.held(node) as fd:
            if change.uid is not None or change.gid is not None:
                change_owner(fd, change.uid, change.gid)
            if change.mode is not None:  # behind chown, which clears the set-id bits
                os.chmod(anchor(fd), change.mode & self._mapping.mode_mask)
            if change.atime_ns is not None or change.mtime_ns is not None:
                set_times(fd, change.atime_ns, change.mtime_ns, NOW_NS)
        node.changes += 1
        return self.getattr(change.handle)

    def open(self, handle: Handle, *, write: bool) -> Attr:
        if write:
            self._check_writable()
        held = self._tree.file(handle, write=write)
        self._tree.let_go(held)
        return self.getattr(handle)

    # ---- data

    def read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False, ranges: bool = True) -> Lent:
        check_range(pos, length)
        held = self._pin(handle, aux=aux, write=False)
        if held is None:
            return Lent(None, 0, eof=True)
        if ranges and length >= SENDFILE_MIN and not self.blocking:
            left = os.fstat(held.fd).st_size - pos
            if left >= SENDFILE_MIN:  # the descriptor stays pinned until the range is sent
                count = min(left, length)
                return Lent(FileRange(held.fd, pos, count), count, left <= length, partial(self._unpin, held, aux=aux))
        try:
            lent = self._read(held.fd, pos, length, 0)
        finally:
            self._unpin(held, aux=aux)
        assert lent is not None
        return lent

    def try_read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Lent | None:
        if not self.blocking:
            return self.read_source(handle, pos, length, aux=aux)
        check_range(pos, length)
        held = self._sidecar.opened(handle) if aux else self._tree.opened(handle)
        if held is None:
            return None
        try:
            return self._read(held.fd, pos, length, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        finally:
            self._unpin(held, aux=aux)

    def _read(self, fd: int, pos: int, length: int, flags: int) -> Lent | None:
        """Read into the pool, one byte more than asked: whether it is there tells the end of the file without another call."""
        if pos + length >= SIZE_MAX:  # the kernel refuses to ask for what no file can have
            length = max(SIZE_MAX - 1 - pos, 0)
        with self._pool_lock:
            lease = self._pool.get(length)
        try:
            got = os.preadv(fd, [lease.view_with_tail(1)], pos, flags) if pos < SIZE_MAX else 0
        except BaseException:
            self._put_back(lease)
            raise
        if got > length:
            return Lent(IovIter.ubuf(Direction.SOURCE, lease.view), length, False, partial(self._put_back, lease))
        if flags and pos + got < os.fstat(fd).st_size:  # the page cache ended, not the file
            self._put_back(lease)
            return None
        if not got:
            self._put_back(lease)
            return Lent(None, 0, eof=True)
        return Lent(IovIter.ubuf(Direction.SOURCE, lease.view[:got]), got, True, partial(self._put_back, lease))

    def write_landing(self, handle: Handle, pos: int, length: int, *, aux: bool = False, apart: bool = False) -> Landing:
        self._check_writable()
        check_range(pos, length, write=True)
        self._tree.file_node(handle)
        with self._pool_lock:
            lease = self._pool.get(length)
        return _Landing(IovIter.ubuf(Direction.DEST, lease.view), partial(self._put_back, lease), lease=lease)

    def write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int:
        assert isinstance(landing, _Landing)
        try:
            return self._write_views(handle, pos, [landing.lease.view], stable=stable, aux=aux)
        finally:
            self._put_back(landing.lease)

    def write_from(self, handle: Handle, pos: int, payload: IovIter, *, stable: bool, aux: bool = False) -> int:
        self._check_writable()
        check_range(pos, payload.count, write=True)
        return self._write_views(handle, pos, extract_segments(payload, payload.count), stable=stable, aux=aux)

    def _write_views(self, handle: Handle, pos: int, views: Sequence[memoryview], *, stable: bool, aux: bool) -> int:
        held = self._pin(handle, aux=aux, write=True)
        assert held is not None
        try:
            count = write_all(held.fd, views, pos)
            if stable and self.blocking:
                os.fdatasync(held.fd)
        finally:
            self._unpin(held, aux=aux)
        if not aux:
            self._tree.node(handle).changes += 1
        return count

    def commit(self, handle: Handle) -> None:
        for aux in (False, True) if self.blocking else (False,):  # in memory there is nothing to do but to see that it is there
            held = self._pin(handle, aux=aux, write=False)
            if held is not None:
                try:
                    if self.blocking:
                        os.fsync(held.fd)
                finally:
                    self._unpin(held, aux=aux)

    def truncate(self, handle: Handle, size: int) -> Attr:
        self._check_writable()
        check_range(size, 0, write=True)
        held = self._tree.file(handle, write=True)
        try:
            os.ftruncate(held.fd, size)
        finally:
            self._tree.let_go(held)
        self._tree.node(handle).changes += 1
        return self.getattr(handle)

    @abstractmethod
    def _redo(self, entry: Entry) -> None:
        """Do an entry of the journal that is not the sidecar's own, perhaps a second time."""

    def _settle(self) -> None:
        """Finish a transaction that was cut short."""
        if self._sidecar.is_unfinished:
            with self._tree.names:
                self._sidecar.settle(self._redo)

    def close(self) -> None:
        self._pool.close()
        self._sidecar.close()
        self._tree.close()

    # ---- inside

    def _pin(self, handle: Handle, *, aux: bool, write: bool) -> Descriptor | None:
        if not aux:
            return self._tree.file(handle, write=write)
        self._tree.file_node(handle)
        self._settle()
        return self._sidecar.aux(handle, create=write)

    def _unpin(self, held: Descriptor, *, aux: bool) -> None:
        if aux:
            self._sidecar.let_go(held)
        else:
            self._tree.let_go(held)

    def _put_back(self, lease: Lease) -> None:
        with self._pool_lock:
            lease.release()

    def _attr(self, node: Node, seen: Statx) -> Attr:
        if self._unnamed is not None and node.handle in self._unnamed:
            seen.nlink = 0
        return seen.attr(node.changes, sealed=node.type is FileType.FILE and self._sidecar.is_recorded(node.handle))

    def _entry(self, node: Node, seen: Statx) -> EntryReply:
        if not self._sidecar.is_recorded(node.handle):
            return EntryReply(node.handle, self._attr(node, seen))
        record, generation = self._sidecar.record(node.handle)
        return EntryReply(node.handle, self._attr(node, seen), record, generation, self._sidecar.blob(node.handle, 0))

    def _keep_open(self, node: Node, seen: Statx, fd: int, raw: bytes) -> bool:
        """Have a file outlive the name it is to lose, if that is its last and somebody has it open. Returns: whether it will."""
        return self._unnamed is not None and self.is_open(node.handle) and self._unnamed.keep(node, seen, fd, raw)

    def _forget(self, handle: Handle) -> None:
        """Give back what is kept beside a file that is gone."""
        self.intents.forget(handle)
        self._sidecar.forget(handle)

    def _is_ours(self, node: Node, raw: bytes) -> bool:
        return node.parent is None and raw == SIDECAR_NAME

    def _check_writable(self) -> None:
        if self.read_only:
            raise fail(errno.EROFS)

    def _changed(self, node: Node, fd: int) -> None:
        """Note that the names in a directory changed, and make that durable."""
        node.changes += 1
        self._sync_names(fd)

    def _sync_names(self, fd: int) -> None:
        if self.blocking:
            with reading(fd) as readable:
                os.fsync(readable)

    def _mint(self) -> int:
        with self._pool_lock:
            self._minted += 1
            return self._minted


@contextlib.contextmanager
def reading(fd: int) -> Iterator[int]:
    """Open for reading the directory an O_PATH descriptor stands for."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        yield readable
    finally:
        os.close(readable)
