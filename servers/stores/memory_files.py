"""Sans-IO. The memory store's inodes by handle, and all that is done to one of them: bytes, attributes, records.

`memory.py` adds the names. Memory: the pages belong to the files' streams (`extents.py`); what is lent is counted.
"""

import errno
import struct
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from iov.copy_iter import copy_from_iter
from iov.extract import extract_segments
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from servers.stores.base import (
    BLOB_SLOTS,
    NAME_MAX,
    NAME_STEPS,
    PERMISSIONS,
    Lent,
    Store,
    check_attributes,
    check_copy,
    check_range,
    check_record,
    check_space,
    check_steps,
    check_xattr,
    fail,
    is_own_xattr,
)
from servers.stores.extents import CHUNK, Extents, Span
from servers.stores.intents import Intents
from servers.stores.memory_inode import Directory, File, Inode, Symlink, attr_of, entry_of
from servers.stores.overlay import Overlay, Survives
from transport.base import Landing
from transport.messages import (
    NOW_NS,
    Attr,
    EntryReply,
    FileType,
    Handle,
    Setattr,
    StatfsReply,
    Step,
    StepKind,
    TransactReply,
    Whence,
    XattrMode,
)

__all__ = ["DEFAULT_CAPACITY", "NOT_A_FILE", "MemoryFiles"]

_HANDLE: Final = struct.Struct("<QQ")
_ROOT_INO: Final = 1
_BLOCK: Final = 4096
_COPY_MAX: Final = 8 << 20
_XATTRS_MAX: Final = 1 << 20
NOT_A_FILE: Final = {FileType.DIRECTORY: errno.EISDIR, FileType.SYMLINK: errno.ELOOP}
DEFAULT_CAPACITY: Final = 1 << 40


@dataclass(slots=True)
class _Landing(Landing):
    stream: Extents = field(kw_only=True)
    span: Span = field(kw_only=True)


@dataclass(slots=True)
class _Apart(Landing):
    memory: memoryview = field(kw_only=True)


class MemoryFiles(Store):
    """Inodes and their content. capacity: bytes that STATFS reports as the whole."""

    def __init__(
        self, probe: Probe, now_ns: Callable[[], int] | None, boot: int, uid: int, gid: int, capacity: int, crashable: bool
    ) -> None:
        self.intents = Intents(boot)
        self.verifier = boot
        self.lent = 0
        self._probe = probe
        self._ticks = 0
        self._now = now_ns or self._tick
        self._owner = (uid, gid)
        self._capacity = capacity
        self._crashable = crashable
        self._next_ino = _ROOT_INO
        self._files: dict[Handle, File] = {}
        self._others: dict[Handle, Directory | Symlink] = {}
        self._unnamed: dict[Handle, File] = {}
        self.removed = deque()
        self._unlend = self._give_back

    def getattr(self, handle: Handle) -> Attr:
        return attr_of(self._inode(handle))

    def setattr(self, change: Setattr) -> Attr:
        check_attributes(change)
        inode = self._inode(change.handle)
        if change.mode is not None and isinstance(inode, Symlink):
            raise fail(errno.EOPNOTSUPP)
        if change.size is not None:
            self.truncate(change.handle, change.size)
        now = self._now()
        if change.mode is not None:
            inode.mode = change.mode & PERMISSIONS
        if change.uid is not None:
            inode.uid = change.uid
        if change.gid is not None:
            inode.gid = change.gid
        if change.atime_ns is not None:
            inode.atime_ns = now if change.atime_ns == NOW_NS else change.atime_ns
        if change.mtime_ns is not None:
            inode.mtime_ns = now if change.mtime_ns == NOW_NS else change.mtime_ns
        inode.ctime_ns = now
        inode.change += 1
        return attr_of(inode)

    def closed(self, handle: Handle) -> None:
        file = self._unnamed.pop(handle, None)
        if file is not None:
            del self._files[handle]
            self.intents.forget(handle)

    def unnamed(self) -> list[Handle]:
        return list(self._unnamed)

    def open(self, handle: Handle, *, write: bool) -> Attr:
        return attr_of(self._file(handle))

    def read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False, ranges: bool = True) -> Lent:
        file = self._files.get(handle) or self._file(handle)
        stream = file.aux if aux else file.data
        check_range(pos, length)
        left = stream.size - pos
        if length >= left:
            length, eof = max(left, 0), True
        else:
            eof = False
        if length == 0:
            return Lent(None, 0, eof)
        self.lent += 1
        return Lent(stream.source(pos, length), length, eof, self._unlend)

    def write_landing(self, handle: Handle, pos: int, length: int, *, aux: bool = False, apart: bool = False) -> Landing:
        file = self._file(handle)
        check_range(pos, length, write=True)
        if length == 0:
            return Landing(IovIter.ubuf(Direction.DEST, bytearray()))
        if apart:
            memory = memoryview(bytearray(length))
            return _Apart(IovIter.ubuf(Direction.DEST, memory), memory=memory)
        stream = file.aux if aux else file.data
        dest, span = stream.land(pos, length)
        self.lent += 1
        return _Landing(dest, partial(self._abandon, stream, span), stream=stream, span=span)

    def write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int:
        file = self._files.get(handle)
        if file is None:
            if landing.release is not None:
                landing.release()
            file = self._file(handle)
        if isinstance(landing, _Apart):
            return self.write_from(handle, pos, IovIter.ubuf(Direction.SOURCE, landing.memory), stable=stable, aux=aux)
        if not isinstance(landing, _Landing):
            return 0
        assert landing.span[0] == pos and landing.stream is (file.aux if aux else file.data)
        landing.stream.finish(landing.span)
        if stable:
            self._commit(file)
        self.lent -= 1
        if not aux:
            self._touch(file)
        return landing.span[1] - pos

    def write_from(self, handle: Handle, pos: int, payload: IovIter, *, stable: bool, aux: bool = False) -> int:
        count = payload.count
        landing = self.write_landing(handle, pos, count, aux=aux)
        for view in extract_segments(landing.iter.copy(), count):
            copy_from_iter(view, payload)
        self._probe.copied(count)
        return self.write(handle, pos, landing, stable=stable, aux=aux)

    def commit(self, handle: Handle) -> None:
        self._commit(self._file(handle))

    @staticmethod
    def _commit(file: File) -> None:
        for stream in (file.data, file.aux):
            if isinstance(stream, Overlay):
                stream.commit()

    def truncate(self, handle: Handle, size: int) -> Attr:
        file = self._file(handle)
        check_range(size, 0, write=True)
        file.data.resize(size)
        self._touch(file)
        return attr_of(file)

    def allocate(self, handle: Handle, pos: int, length: int, *, keep_size: bool) -> Attr:
        file = self._file(handle)
        check_space(pos, length)
        if not keep_size and pos + length > file.data.size:
            file.data.resize(pos + length)
        self._touch(file)
        return attr_of(file)

    def punch(self, handle: Handle, pos: int, length: int) -> Attr:
        file = self._file(handle)
        check_space(pos, length)
        file.data.punch(pos, pos + length)
        self._touch(file)
        return attr_of(file)

    def seek(self, handle: Handle, pos: int, whence: Whence) -> int:
        data = self._file(handle).data
        check_range(pos, 0)
        found = data.data_from(pos) if whence is Whence.DATA else data.hole_from(pos)
        if found is None:
            raise fail(errno.ENXIO)
        return found

    def copy_range(self, handle: Handle, pos: int, target: Handle, target_pos: int, length: int) -> int:
        source, dest = self._file(handle), self._file(target)
        check_copy(handle, pos, target, target_pos, length)
        length = min(length, max(0, source.data.size - pos), _COPY_MAX)
        check_range(target_pos, length, write=True)
        if not length:
            return 0
        copied, span = dest.data.land(target_pos, length)
        payload = source.data.source(pos, length)
        for view in extract_segments(copied, length):
            copy_from_iter(view, payload)
        self._probe.copied(length)
        dest.data.finish(span)
        self._touch(dest)
        return length

    # ---- attributes of clients, and room

    def xattr_get(self, handle: Handle, name: str) -> bytes:
        inode = self._inode(handle)
        check_xattr(name)
        if name not in inode.xattrs:
            raise fail(errno.ENODATA, name)
        return inode.xattrs[name]

    def xattr_set(self, handle: Handle, name: str, value: bytes, mode: XattrMode) -> Attr:
        inode = self._xattrs_of(handle, name, value)
        if mode is XattrMode.CREATE and name in inode.xattrs:
            raise fail(errno.EEXIST, name)
        if mode is XattrMode.REPLACE and name not in inode.xattrs:
            raise fail(errno.ENODATA, name)
        others = sum(len(other) + len(kept) for other, kept in inode.xattrs.items() if other != name)
        if others + len(name) + len(value) > _XATTRS_MAX:
            raise fail(errno.ENOSPC, name)
        inode.xattrs[name] = value
        inode.ctime_ns = self._now()
        inode.change += 1
        return attr_of(inode)

    def xattr_list(self, handle: Handle) -> list[str]:
        return sorted(self._inode(handle).xattrs)

    def xattr_remove(self, handle: Handle, name: str) -> Attr:
        inode = self._xattrs_of(handle, name)
        if name not in inode.xattrs:
            raise fail(errno.ENODATA, name)
        del inode.xattrs[name]
        inode.ctime_ns = self._now()
        inode.change += 1
        return attr_of(inode)

    def _xattrs_of(self, handle: Handle, name: str, value: bytes = b"") -> Inode:
        inode = self._inode(handle)
        check_xattr(name, value)
        if isinstance(inode, Symlink) or is_own_xattr(name):
            raise fail(errno.EPERM, name)
        return inode

    def statfs(self, handle: Handle) -> StatfsReply:
        self._inode(handle)
        chunks = sum(len(file.data.chunks) + len(file.aux.chunks) for file in self._files.values())
        blocks = self._capacity // _BLOCK
        free = max(0, blocks - chunks * (CHUNK // _BLOCK))
        inodes = len(self._files) + len(self._others)
        return StatfsReply(_BLOCK, blocks, free, free, blocks, max(0, blocks - inodes), NAME_MAX, read_only=False)

    # ---- records

    def record_get(self, handle: Handle) -> tuple[bytes, int]:
        inode = self._recorded(handle)
        return inode.record, inode.generation

    def blob_get(self, handle: Handle, slot: int) -> bytes:
        if slot not in BLOB_SLOTS:
            raise fail(errno.EINVAL)
        return self._inode(handle).blobs.get(slot, b"")

    def put_intent(self, handle: Handle, pos: int, length: int, session: int, under: int, record: bytes) -> int:
        self._file(handle)
        check_range(pos, length, write=True)
        check_record(record)
        planned = self.intents.plan_write(handle, pos, length, session, under, record)
        self.intents.done(planned, [])
        return planned.keys[0]

    def apply(
        self, asserts: Sequence[tuple[Handle, int]], verifier: int, steps: Sequence[Step], payload: IovIter | None, session: int
    ) -> TransactReply:
        if verifier not in (0, self.verifier):
            raise OSError(errno.ESTALE, "the unstable writes were made in another boot")
        asserted = [(self._recorded(handle), generation) for handle, generation in asserts]
        check_steps(steps, payload)
        for step in steps:
            if step.kind in NAME_STEPS:
                self._check_names(step)
            elif step.handle:
                self._check_object(step)
        if any(inode.generation != generation for inode, generation in asserted):
            raise OSError(errno.EAGAIN, "a record has moved")
        planned = self.intents.plan(steps, session)
        made: list[EntryReply] = []
        for step in steps:  # nothing below can fail
            if step.kind in NAME_STEPS:
                entry = self._do_names(step)
                made += [entry] if entry is not None else []
            else:
                self._apply(self._inode(step.handle or made[-1].handle), step, payload)
        self.intents.done(planned, [entry.handle for entry in made])
        for step in steps:
            changed = self._files.get(step.handle)
            if changed is not None:
                self._commit(changed)
        made = [entry_of(self._inode(entry.handle)) for entry in made]
        return TransactReply([inode.generation for inode, _ in asserted], made, planned.keys)

    def crash(self, survives: Survives | None = None) -> None:
        """Lose what a power cut would take: data that no commit, stable write or transaction made durable. Names are kept.

        survives: asked for each page, whether it was written all the same. The store goes on in another boot.
        """
        assert self._crashable, "the store was not made to crash"
        assert self.lent == 0, f"{self.lent} leases are still out"
        for file in self._files.values():
            for stream in (file.data, file.aux):
                assert isinstance(stream, Overlay)
                stream.crash(survives)
        self.verifier += 1
        self.intents = self.intents.restarted(self.verifier)

    # ---- inside

    @abstractmethod
    def _check_names(self, step: Step) -> None:
        """Refuse a step that changes names and cannot be done. Raises: OSError."""

    @abstractmethod
    def _do_names(self, step: Step) -> EntryReply | None:
        """Do a step that changes names. Returns: what it made."""

    def _check_object(self, step: Step) -> None:
        if step.kind in {StepKind.RECORD_PUT, StepKind.BLOB_PUT}:
            self._recorded(step.handle)
        else:
            self._file(step.handle)

    def _recorded(self, handle: Handle) -> Inode:
        """Return a file or directory. Raises: ESTALE, ELOOP for a symlink."""
        inode = self._inode(handle)
        return self._file(handle) if isinstance(inode, Symlink) else inode

    def _apply(self, inode: Inode, step: Step, payload: IovIter | None) -> None:
        match step.kind:
            case StepKind.RECORD_PUT:
                inode.record = step.record
                inode.generation += 1
                inode.ctime_ns = self._now()
                inode.change += 1
            case StepKind.BLOB_PUT:
                inode.blobs[step.pos] = step.record
            case StepKind.AUX_WRITE | StepKind.WRITE if isinstance(inode, File):
                stream = inode.aux if step.kind is StepKind.AUX_WRITE else inode.data
                if step.length and payload is not None:
                    dest, span = stream.land(step.pos, step.length)
                    for view in extract_segments(dest, step.length):
                        copy_from_iter(view, payload)
                    self._probe.copied(step.length)
                    stream.finish(span)
                if step.kind is StepKind.WRITE:
                    self._touch(inode)
            case StepKind.AUX_TRUNCATE if isinstance(inode, File):
                inode.aux.resize(step.pos)
            case StepKind.TRUNCATE if isinstance(inode, File):
                inode.data.resize(step.pos)
                self._touch(inode)
            case _:
                assert step.kind in {StepKind.INTENT_PUT, StepKind.INTENT_DROP}, "a step for a file on a directory"

    def _give_back(self) -> None:
        self.lent -= 1

    def _abandon(self, stream: Extents, span: Span) -> None:
        stream.abandon(span)
        self.lent -= 1

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def _new_handle(self) -> tuple[int, Handle]:
        ino = self._next_ino
        self._next_ino += 1
        return ino, Handle(_HANDLE.pack(ino, self.verifier))

    def _inode(self, handle: Handle) -> Inode:
        inode: Inode | None = self._files.get(handle) or self._others.get(handle)
        if inode is None:
            raise fail(errno.ESTALE)
        return inode

    def _file(self, handle: Handle) -> File:
        file = self._files.get(handle)
        if file is None:
            raise fail(NOT_A_FILE[self._inode(handle).type])
        return file

    def _touch(self, inode: Inode) -> None:
        inode.mtime_ns = inode.ctime_ns = self._now()
        inode.change += 1
