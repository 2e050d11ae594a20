"""Trio shell. A store that is a real folder: its files are plain files, and nothing in it leads outside.

Every call is relative to a descriptor of a directory and names one component; symlinks are shown and never followed
(`handles.py`, `syscalls.py`). Aux streams and records live in `.netfs/` (`sidecar.py`), which clients cannot name.
On a memory filesystem nothing here sleeps. On a disk the store is `blocking`: workers call it, except for reads of what the
page cache holds, which RWF_NOWAIT serves at once. Created, renamed and removed names are durable on return, data after a
commit or a stable write. What is done to one object is in `directory_files.py` and
`directory_space.py`, transactions in `directory_transact.py`; here are the names.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from servers.stores.base import check_flags, check_name, check_target, fail
from servers.stores.directory_files import reading
from servers.stores.directory_transact import DirectoryTransact
from servers.stores.handles import Node, anchor, raw_name
from servers.stores.syscalls import Statx, list_names, rename_beneath
from transport.messages import DirEntry, EntryReply, FileType, Handle, RenameFlag

__all__ = ["DirectoryStore"]

_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryStore(DirectoryTransact):
    """A folder. max_open: descriptors kept, by default half of what the process may have.

    Raises: ENOENT, ENOTDIR, EACCES; EBUSY when another server has the folder; ENOTSUP outside Linux.
    """

    def root(self) -> EntryReply:
        return EntryReply(self._tree.root.handle, self.getattr(self._tree.root.handle))

    def lookup(self, parent: Handle, name: str) -> EntryReply:
        check_name(name)
        raw = raw_name(name)
        with self._tree.directory(parent) as (node, fd):
            if self._is_ours(node, raw):
                raise fail(errno.ENOENT, name)
            return self._entry(*self._tree.look(node, fd, raw))

    def who(self, parent: Handle, name: str) -> Handle | None:
        check_name(name)
        node = self._tree.directory_node(parent)
        return None if self._is_ours(node, raw_name(name)) else self._tree.who(node, raw_name(name))

    def try_lookup(self, parent: Handle, name: str) -> EntryReply | None:
        if not self.blocking:
            return self.lookup(parent, name)
        check_name(name)
        found = self._tree.peek(parent, raw_name(name))
        return None if found is None else self._entry(*found)

    def create(self, parent: Handle, name: str, mode: int, *, exclusive: bool) -> EntryReply:
        self._check_writable()
        self._check_new(name)
        raw = raw_name(name)
        with self._tree.directory(parent) as (node, fd):
            if self._is_ours(node, raw):
                raise fail(errno.EACCES, name)
            try:
                made = os.open(raw, _CREATE | os.O_EXCL, mode & self._mapping.mode_mask, dir_fd=fd)
            except FileExistsError:
                if exclusive:
                    raise fail(errno.EEXIST, name) from None
                try:
                    found, seen = self._tree.look(node, fd, raw)
                except FileNotFoundError:  # removed between the two calls
                    return self.create(parent, name, mode, exclusive=False)
                if found.type is not FileType.FILE:
                    self._tree.file_node(found.handle)
                return self._entry(found, seen)
            try:
                os.fchmod(made, mode & self._mapping.mode_mask)  # the mode is the client's; our umask has no say
                child, seen = self._tree.look(node, fd, raw)
            except BaseException:
                os.close(made)
                raise
            self._tree.adopt(child, made)
            self._changed_names(node, fd)
            return self._entry(child, seen)

    def mkdir(self, parent: Handle, name: str, mode: int) -> EntryReply:
        self._check_writable()
        self._check_new(name)
        raw = raw_name(name)
        with self._tree.directory(parent) as (node, fd):
            if self._is_ours(node, raw):
                raise fail(errno.EACCES, name)
            os.mkdir(raw, mode & self._mapping.mode_mask, dir_fd=fd)
            child, seen = self._tree.look(node, fd, raw)
            if seen.mode & 0o777 != mode & self._mapping.mode_mask & 0o777:
                with self._tree.held(child) as made:
                    os.chmod(anchor(made), seen.mode & ~0o777 | mode & self._mapping.mode_mask)
                child, seen = self._tree.look(node, fd, raw)
            self._changed_names(node, fd)
            return self._entry(child, seen)

    def readdir(self, handle: Handle, cookie: int, count: int) -> tuple[list[DirEntry], bool]:
        listed: list[DirEntry] = []
        with self._tree.directory(handle) as (node, fd), reading(fd) as listing:
            for raw, behind in list_names(listing, cookie):
                if self._is_ours(node, raw):
                    continue
                if len(listed) >= count:
                    return listed, False
                try:
                    child, seen = self._tree.look(node, fd, raw)
                except FileNotFoundError:  # gone between the listing and the look
                    continue
                name = raw.decode("utf-8", "surrogateescape")
                entry = DirEntry(name, behind, child.handle, self._attr(child, seen))
                if self._sidecar.is_recorded(child.handle):
                    entry.record, _ = self._sidecar.record(child.handle)
                    entry.certificate = self._sidecar.blob(child.handle, 0)
                listed.append(entry)
        return listed, True

    def unlink(self, parent: Handle, name: str) -> None:
        with self._removing(parent, name) as (node, fd, raw, child, seen):
            if child.type is FileType.DIRECTORY:
                raise fail(errno.EISDIR, name)
            kept = self._keep_open(child, seen, fd, raw)
            os.unlink(raw, dir_fd=fd)
            self._changed_names(node, fd)
            self._gone(child, seen, node, raw, kept=kept)

    def rmdir(self, parent: Handle, name: str) -> None:
        with self._removing(parent, name) as (node, fd, raw, child, _):
            os.rmdir(raw, dir_fd=fd)
            self._changed_names(node, fd)
            self._tree.forget(child)
            self._sidecar.forget(child.handle)

    def rename(self, parent: Handle, name: str, new_parent: Handle, new_name: str, flags: RenameFlag = RenameFlag.NONE) -> None:
        check_flags(flags)
        self._tree.directory_node(new_parent)
        with self._removing(parent, name) as (node, fd, raw, child, seen), self._tree.directory(new_parent) as (target, new_fd):
            self._check_new(new_name)
            raw_new = raw_name(new_name)
            if self._is_ours(target, raw_new):
                raise fail(errno.EEXIST if flags else errno.EACCES, new_name)
            try:
                replaced, replaced_seen = self._tree.look(target, new_fd, raw_new)
            except FileNotFoundError:
                replaced, replaced_seen = None, seen
            if replaced is not None and replaced.handle == child.handle and not flags & RenameFlag.NOREPLACE:
                return
            kept = replaced is not None and not flags and self._keep_open(replaced, replaced_seen, new_fd, raw_new)
            try:
                rename_beneath(fd, raw, new_fd, raw_new, flags)
            except BaseException:
                if kept and replaced is not None and self._unnamed is not None:
                    self._unnamed.undo(replaced)
                raise
            self._tree.moved(child, target, raw_new)
            child.changes += 1
            self._changed_names(target, new_fd)
            if target is not node:
                self._changed_names(node, fd)
            if replaced is None:
                return
            if flags & RenameFlag.EXCHANGE:
                self._tree.moved(replaced, node, raw)
                replaced.changes += 1
            elif replaced.type is FileType.DIRECTORY:
                self._tree.forget(replaced)
                self._sidecar.forget(replaced.handle)
            else:
                self._gone(replaced, replaced_seen, target, raw_new, kept=kept)

    def link(self, handle: Handle, parent: Handle, name: str) -> EntryReply:
        self._check_writable()
        self._check_new(name)
        raw = raw_name(name)
        child = self._tree.node(handle)
        with self._tree.names, self._tree.directory(parent) as (node, fd):
            if self._is_ours(node, raw):
                raise fail(errno.EACCES, name)
            if child.type is FileType.DIRECTORY:
                raise fail(errno.EPERM if not self._exists(fd, raw) else errno.EEXIST, name)
            if self._unnamed is not None and child.handle in self._unnamed:
                raise fail(errno.ESTALE if not self._exists(fd, raw) else errno.EEXIST, name)
            with self._tree.held(child) as held:
                # The path leads to this very object, a symlink included, and not on.
                os.link(anchor(held), raw, dst_dir_fd=fd, follow_symlinks=True)
            child.changes += 1
            self._changed_names(node, fd)
            return self._entry(*self._tree.look(node, fd, raw))

    def symlink(self, parent: Handle, name: str, target: bytes) -> EntryReply:
        self._check_writable()
        self._check_new(name)
        check_target(target)
        raw = raw_name(name)
        with self._tree.directory(parent) as (node, fd):
            if self._is_ours(node, raw):
                raise fail(errno.EACCES, name)
            os.symlink(target, raw, dir_fd=fd)
            self._changed_names(node, fd)
            return self._entry(*self._tree.look(node, fd, raw))

    def readlink(self, handle: Handle) -> bytes:
        node = self._tree.node(handle)
        if node.type is not FileType.SYMLINK:
            raise fail(errno.EINVAL)
        with self._tree.held(node) as fd:
            return os.readlink(b"", dir_fd=fd)

    def _check_new(self, name: str) -> None:
        check_name(name)
        self._mapping.check_new(name)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        batch = self._batch
        if not self.blocking:
            yield
            return
        batch.nodes = {}
        try:
            yield
        finally:
            nodes, batch.nodes = batch.nodes, None
        for node in nodes.values():
            try:
                with self._tree.directory(node.handle) as (_, fd):
                    self._sync_names(fd)
            except OSError as error:
                if error.errno != errno.ESTALE:  # removed since, which its parent knows
                    raise

    def _changed_names(self, node: Node, fd: int) -> None:
        """Note that the names in a directory changed; it is durable now, or at the end of the thread's batch."""
        nodes = self._batch.nodes
        if nodes is None:
            self._changed(node, fd)
            return
        node.changes += 1
        nodes[node.handle] = node

    @staticmethod
    def _exists(fd: int, raw: bytes) -> bool:
        try:
            os.lstat(raw, dir_fd=fd)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _removing(self, parent: Handle, name: str) -> Iterator[tuple[Node, int, bytes, Node, Statx]]:
        """Find what a name is to lose, with names held still."""
        self._check_writable()
        check_name(name)
        raw = raw_name(name)
        with self._tree.names, self._tree.directory(parent) as (node, fd):
            if self._is_ours(node, raw):
                raise fail(errno.ENOENT, name)
            yield node, fd, raw, *self._tree.look(node, fd, raw)

    def _gone(self, child: Node, seen: Statx, parent: Node, raw: bytes, *, kept: bool) -> None:
        """Forget a file with its last name; with names left it is known by one of them. kept: it lives on without one."""
        if seen.nlink > 1:
            self._tree.lost_name(child, parent, raw)
        elif kept and self._unnamed is not None:
            self._unnamed.kept(child)
            self.removed.append(child.handle)
        else:
            self._tree.forget(child)
            self.intents.forget(child.handle)
            if child.type is FileType.FILE:
                self._sidecar.forget(child.handle)
