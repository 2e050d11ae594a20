"""Trio shell. Transactions on a real folder: worked out as a whole, written to the journal, done, and done again after a crash.

What a transaction makes is made in `.netfs/making` first, where nobody sees it, and moved to its place by the journal; so its
handle is known before anything has happened. An entry of the journal says which object is to be where, so that it may be done
twice. Locks are taken in this order: names, then the sidecar's. Payload is written from the memory it landed in.
"""

import errno
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from iov.extract import extract_segments
from iov.iov_iter import IovIter
from servers.stores.base import BLOB_SLOTS, NAME_STEPS, check_range, check_record, check_steps, fail
from servers.stores.directory_space import DirectorySpace
from servers.stores.handles import Node, raw_name
from servers.stores.intents import Intent, Planned
from servers.stores.journal import Entry, write_all
from servers.stores.sidecar import INTENTS
from servers.stores.syscalls import Statx, list_names, statx
from transport.messages import FileType, Handle, Step, StepKind, TransactReply

__all__ = ["DirectoryTransact"]

_NEW_NAMES: Final = frozenset({StepKind.CREATE, StepKind.MOVE})
_MAKE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})


class DirectoryTransact(DirectorySpace):
    """Records, blobs and transactions."""

    def record_get(self, handle: Handle) -> tuple[bytes, int]:
        self._recorded(handle)
        self._settle()
        return self._sidecar.record(handle)

    def blob_get(self, handle: Handle, slot: int) -> bytes:
        if slot not in BLOB_SLOTS:
            raise fail(errno.EINVAL)
        self._recorded(handle)
        self._settle()
        return self._sidecar.blob(handle, slot)

    def apply(
        self, asserts: Sequence[tuple[Handle, int]], verifier: int, steps: Sequence[Step], payload: IovIter | None, session: int
    ) -> TransactReply:
        self._check_writable()
        if verifier not in (0, self.verifier):
            raise OSError(errno.ESTALE, "the unstable writes were made in another boot")
        check_steps(steps, payload)
        for step in steps:
            if step.kind in _NEW_NAMES:
                self._mapping.check_new(step.new_name if step.kind is StepKind.MOVE else step.name)
        for handle, _ in asserts:
            self._tree.statx(self._recorded(handle))
        for step in steps:
            if step.handle and step.kind not in NAME_STEPS:
                either = step.kind in {StepKind.RECORD_PUT, StepKind.BLOB_PUT}
                self._tree.statx(self._recorded(step.handle) if either else self._tree.file_node(step.handle))
        with self._tree.names, self._sidecar.lock:
            self._settle()
            generations = {handle: self._sidecar.record(handle)[1] for handle, _ in asserts}
            if any(generations[handle] != generation for handle, generation in asserts):
                raise OSError(errno.EAGAIN, "a record has moved")
            planned = self.intents.plan(steps, session)
            if all(step.kind is StepKind.INTENT_PUT and step.handle for step in steps):
                self._tell_of(planned)
                return TransactReply([generations[handle] for handle, _ in asserts], [], planned.keys)
            made: list[tuple[Handle, Step]] = []
            try:
                entries = self._plan(steps, payload, generations, made)
                entries += self._plan_intents(planned, [handle for handle, _ in made])
                if self.blocking:
                    self._sync(steps)
                self._sidecar.write_journal(entries)
            except BaseException:
                for handle, _ in made:
                    self._sidecar.unmake(handle.hex().encode())
                raise
            self._probe.emit("transact", "journal")
            self._sidecar.finish(entries, self._redo, lambda step: self._probe.emit("transact", step))
            self.intents.done(planned, [handle for handle, _ in made])
            replies = [self.lookup(step.handle, step.name) for _, step in made]
        return TransactReply([generations[handle] for handle, _ in asserts], replies, planned.keys)

    def put_intent(self, handle: Handle, pos: int, length: int, session: int, under: int, record: bytes) -> int:
        self._check_writable()
        check_range(pos, length, write=True)
        check_record(record)
        with self._tree.names, self._sidecar.lock:
            self._tree.file_node(handle)
            self._settle()
            planned = self.intents.plan_write(handle, pos, length, session, under, record)
            self._tell_of(planned)
        return planned.keys[0]

    @abstractmethod
    def _gone(self, child: Node, seen: Statx, parent: Node, raw: bytes, *, kept: bool) -> None:
        """Forget an object that has lost a name."""

    def _recorded(self, handle: Handle) -> Node:
        """Return the node of a file or directory. Raises: ESTALE, ELOOP, EINVAL."""
        node = self._tree.node(handle)
        return node if node.type is FileType.DIRECTORY else self._tree.file_node(handle)

    # ---- working out

    def _plan(
        self, steps: Sequence[Step], payload: IovIter | None, generations: dict[Handle, int], made: list[tuple[Handle, Step]]
    ) -> list[Entry]:
        """Turn steps into entries that say what is to be there; `generations` becomes what they will be."""
        entries = []
        for step in steps:
            if step.kind in NAME_STEPS:
                entries.append(self._plan_names(step, made))
                continue
            handle = step.handle or made[-1][0]
            views = extract_segments(payload, step.length) if payload is not None and step.length else []
            path = b""
            match step.kind:
                case StepKind.RECORD_PUT:
                    before = generations[handle] if handle in generations else self._sidecar.record(handle)[1]
                    generations[handle] = before + 1
                case StepKind.WRITE if not step.length:
                    continue  # only asks whether it may
                case StepKind.TRUNCATE | StepKind.WRITE:
                    if step.handle:
                        self._tree.let_go(self._tree.file(handle, write=True))
                        path = self._tree.node(handle).path()
                    else:
                        made_in = made[-1][1]
                        path = _join(self._tree.node(made_in.handle).path(), raw_name(made_in.name))
                case StepKind.INTENT_PUT | StepKind.INTENT_DROP:
                    continue
                case _:
                    pass
            entries.append(Entry(step.kind, handle, step.pos, views, step.record, generations.get(handle, 0), path))
        return entries

    def _plan_names(self, step: Step, made: list[tuple[Handle, Step]]) -> Entry:
        raw = raw_name(step.name)
        with self._tree.directory(step.handle) as (node, fd):
            if self._is_ours(node, raw):
                raise fail(errno.EACCES, step.name)
            if step.kind is StepKind.CREATE:
                if _at(fd, raw) is not None:
                    raise fail(errno.EEXIST, step.name)
                handle = self._make(step, fd)
                made.append((handle, step))
                return Entry(step.kind, handle, 0, [], _join(node.path(), raw), 0, handle.hex().encode())
            child, _ = self._tree.look(node, fd, raw)
            path = _join(node.path(), raw)
            if step.kind is StepKind.REMOVE:
                if step.other and step.other != child.handle:
                    raise fail(errno.ESTALE, step.name)
                self._check_empty(child)
                return Entry(step.kind, child.handle, 0, [], b"", 0, path)
        raw_new = raw_name(step.new_name)
        with self._tree.directory(step.other) as (target, new_fd):
            if self._is_ours(target, raw_new):
                raise fail(errno.EACCES, step.new_name)
            above: Node | None = target
            while above is not None:
                if above is child:
                    raise OSError(errno.EINVAL, "a directory cannot move into itself", step.name)
                above = above.parent
            if _at(new_fd, raw_new) is not None:
                replaced, _ = self._tree.look(target, new_fd, raw_new)
                if (replaced.type is FileType.DIRECTORY) != (child.type is FileType.DIRECTORY):
                    raise fail(errno.EISDIR if replaced.type is FileType.DIRECTORY else errno.ENOTDIR, step.new_name)
                if replaced is not child:
                    self._check_empty(replaced)
            return Entry(step.kind, child.handle, 0, [], _join(target.path(), raw_new), 0, path)

    def _check_empty(self, node: Node) -> None:
        if node.type is FileType.DIRECTORY:
            with self._tree.directory(node.handle) as (_, fd):
                readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                try:
                    if next(iter(list_names(readable, 0)), None) is not None:
                        raise fail(errno.ENOTEMPTY)
                finally:
                    os.close(readable)

    def _make(self, step: Step, parent_fd: int) -> Handle:
        """Make a new object where nobody sees it. Returns: its handle, after which it is named there."""
        making = self._sidecar.making
        if statx(making).dev != statx(parent_fd).dev:
            raise OSError(errno.EXDEV, "another filesystem is mounted there", step.name)
        temporary = b"new%d" % self._mint()
        mode = step.pos & self._mapping.mode_mask
        if step.length == FileType.DIRECTORY:
            os.mkdir(temporary, 0o700, dir_fd=making)
            fd = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=making)
        else:
            fd = os.open(temporary, _MAKE, 0o600, dir_fd=making)
        try:
            os.fchmod(fd, mode)
            handle = self._tree.identify(fd)
            if self.blocking:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, handle.hex().encode(), src_dir_fd=making, dst_dir_fd=making)
        return handle

    def _tell_of(self, planned: Planned) -> None:
        """Put intents and do nothing else: what is to outlast a crash is added to what was, so that each costs as much."""
        new: dict[Handle, list[Intent]] = {}
        for handle, intent in planned.new:
            assert not isinstance(handle, int)
            new.setdefault(handle, []).append(intent)
        for handle, intents in new.items():
            rows = self.intents.lasting(intents)
            if rows:
                self._sidecar.append_blob(handle, INTENTS, self.intents.lasting_size(handle), rows)
        self.intents.done(planned, [])

    def _plan_intents(self, planned: Planned, made: Sequence[Handle]) -> list[Entry]:
        """Return entries for the intents that are to outlast a crash, of the files where those change."""
        entries = []
        changed = [*(file for file, _ in planned.new), *(file for file, _ in planned.dropped)]
        for file in dict.fromkeys(changed):
            handle = made[file] if isinstance(file, int) else file
            after = self.intents.after(planned, file)
            if not (any(intent.record for intent in after) or self.intents.lasting_size(handle)):
                continue
            lasting = self.intents.lasting(after)
            if lasting != self._sidecar.blob(handle, INTENTS):
                entries.append(Entry(StepKind.BLOB_PUT, handle, INTENTS, [], lasting))
        return entries

    def _sync(self, steps: Sequence[Step]) -> None:
        """Make the data durable that a transaction covers, except where it only tells of an intent."""
        intents = {StepKind.INTENT_PUT, StepKind.INTENT_DROP}
        for handle in dict.fromkeys(step.handle for step in steps if step.handle and step.kind not in NAME_STEPS | intents):
            if self._tree.node(handle).type is FileType.FILE:
                held = self._tree.file(handle, write=False)
                try:
                    os.fdatasync(held.fd)
                finally:
                    self._tree.let_go(held)

    # ---- doing

    def _redo(self, entry: Entry) -> None:
        with suppress_gone():
            if entry.kind in {StepKind.TRUNCATE, StepKind.WRITE}:
                self._redo_data(entry)
            elif entry.kind is StepKind.REMOVE:
                with self._place(entry.path) as (node, fd, raw):
                    self._remove(entry.handle, node, fd, raw)
            elif entry.kind is StepKind.CREATE:
                with self._place(entry.record) as (node, fd, raw):
                    if self._is_at(entry.handle, node, fd, raw):
                        return
                    os.rename(entry.path, raw, src_dir_fd=self._sidecar.making, dst_dir_fd=fd)
                    self._tree.look(node, fd, raw)
                    self._changed(node, fd)
            else:
                self._redo_move(entry)

    def _redo_data(self, entry: Entry) -> None:
        """Cut or write a file; at a start it is looked up by its path, and left alone when it is no longer there."""
        if not self._tree.knows(entry.handle):
            with self._place(entry.path) as (node, fd, raw):
                self._tree.look(node, fd, raw)
        held = self._tree.file(entry.handle, write=True)
        try:
            if entry.kind is StepKind.TRUNCATE:
                os.ftruncate(held.fd, entry.pos)
            elif write_all(held.fd, entry.payload, entry.pos) != sum(len(view) for view in entry.payload):
                raise fail(errno.ENOSPC)
            if self.blocking:
                os.fsync(held.fd)
        finally:
            self._tree.let_go(held)
        self._tree.node(entry.handle).changes += 1

    def _redo_move(self, entry: Entry) -> None:
        with self._place(entry.path) as (node, fd, raw), self._place(entry.record) as (target, new_fd, raw_new):
            if self._is_at(entry.handle, target, new_fd, raw_new) or not self._is_at(entry.handle, node, fd, raw):
                return
            child, _ = self._tree.look(node, fd, raw)
            replaced = self._tree.look(target, new_fd, raw_new) if _at(new_fd, raw_new) is not None else None
            kept = replaced is not None and self._keep_open(*replaced, new_fd, raw_new)
            os.rename(raw, raw_new, src_dir_fd=fd, dst_dir_fd=new_fd)
            self._tree.moved(child, target, raw_new)
            child.changes += 1
            self._changed(target, new_fd)
            if target is not node:
                self._changed(node, fd)
            if replaced is not None:
                self._lost(*replaced, target, raw_new, kept=kept)

    def _remove(self, handle: Handle, node: Node, fd: int, raw: bytes) -> None:
        if not self._is_at(handle, node, fd, raw):
            return
        child, seen = self._tree.look(node, fd, raw)
        kept = self._keep_open(child, seen, fd, raw)
        if child.type is FileType.DIRECTORY:
            os.rmdir(raw, dir_fd=fd)
        else:
            os.unlink(raw, dir_fd=fd)
        self._changed(node, fd)
        self._lost(child, seen, node, raw, kept=kept)

    def _lost(self, child: Node, seen: Statx, parent: Node, raw: bytes, *, kept: bool) -> None:
        if child.type is FileType.DIRECTORY:
            self._tree.forget(child)
            self._sidecar.forget(child.handle)
        else:
            self._gone(child, seen, parent, raw, kept=kept)

    def _is_at(self, handle: Handle, node: Node, fd: int, raw: bytes) -> bool:
        return _at(fd, raw) is not None and self._tree.look(node, fd, raw)[0].handle == handle

    @contextmanager
    def _place(self, path: bytes) -> Iterator[tuple[Node, int, bytes]]:
        """Open the directory a path from the root ends in. Raises: ENOENT, ENOTDIR."""
        *above, last = path.split(b"/")
        parent = self._tree.root.handle
        for name in above:
            with self._tree.directory(parent) as (node, fd):
                parent = self._tree.look(node, fd, name)[0].handle
        with self._tree.directory(parent) as (node, fd):
            yield node, fd, last


@contextmanager
def suppress_gone() -> Iterator[None]:
    """What an entry speaks of may have been removed behind our back; nothing is left to do then."""
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def _at(fd: int, raw: bytes) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.lstat(raw, dir_fd=fd)
    return None
