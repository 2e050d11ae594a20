"""Trio shell. Room and attributes of the objects of a real folder: allocate, punch, seek, copy, statfs, extended attributes.

Memory: a copy goes through the kernel, or where it will not, through a slot of the store's pool.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from servers.stores.base import NAME_MAX, check_copy, check_range, check_space, check_xattr, fail, is_own_xattr
from servers.stores.directory_files import POOL_SLOT, DirectoryFiles
from servers.stores.handles import anchor, raw_name
from servers.stores.journal import write_all
from servers.stores.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, fallocate
from transport.messages import Attr, FileType, Handle, StatfsReply, Whence, XattrMode

__all__ = ["DirectorySpace"]

COPY_MAX: Final = 64 << 20
"""Copied by one request on the server, so that no worker is away for long."""
INLINE_COPY_MAX: Final = 4 << 20
_NO_COPY: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


class DirectorySpace(DirectoryFiles):
    """What can be done to an object beyond its bytes and its names."""

    def allocate(self, handle: Handle, pos: int, length: int, *, keep_size: bool) -> Attr:
        return self._fallocate(handle, FALLOC_KEEP_SIZE if keep_size else 0, pos, length)

    def punch(self, handle: Handle, pos: int, length: int) -> Attr:
        return self._fallocate(handle, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, pos, length)

    def _fallocate(self, handle: Handle, mode: int, pos: int, length: int) -> Attr:
        self._check_writable()
        node = self._tree.file_node(handle)
        check_space(pos, length)
        held = self._tree.file(handle, write=True)
        try:
            fallocate(held.fd, mode, pos, length)
        finally:
            self._tree.let_go(held)
        node.changes += 1
        return self.getattr(handle)

    def seek(self, handle: Handle, pos: int, whence: Whence) -> int:
        check_range(pos, 0)
        held = self._tree.file(handle, write=False)
        try:
            return os.lseek(held.fd, pos, os.SEEK_DATA if whence is Whence.DATA else os.SEEK_HOLE)
        finally:
            self._tree.let_go(held)

    def copy_range(self, handle: Handle, pos: int, target: Handle, target_pos: int, length: int) -> int:
        self._check_writable()
        source = self._tree.file(handle, write=False)
        try:
            dest = self._tree.file(target, write=True)
            try:
                check_copy(handle, pos, target, target_pos, length)
                length = min(length, max(0, os.fstat(source.fd).st_size - pos), COPY_MAX if self.blocking else INLINE_COPY_MAX)
                check_range(target_pos, length, write=True)
                count = self._copy(source.fd, pos, dest.fd, target_pos, length)
            finally:
                self._tree.let_go(dest)
        finally:
            self._tree.let_go(source)
        self._tree.node(target).changes += 1
        return count

    def _copy(self, source: int, pos: int, dest: int, target_pos: int, length: int) -> int:
        """Copy in the kernel, or through the pool where it will not."""
        count = 0
        try:
            while count < length:
                step = os.copy_file_range(source, dest, length - count, pos + count, target_pos + count)
                if not step:
                    return count
                count += step
        except OSError as error:
            if count:
                return count
            if error.errno not in _NO_COPY:
                raise
        else:
            return count
        with self._pool_lock:
            lease = self._pool.get(min(length, POOL_SLOT))
        try:
            got = os.preadv(source, [lease.view], pos)
            self._probe.copied(got)
            return write_all(dest, [lease.view[:got]], target_pos)
        finally:
            self._put_back(lease)

    def statfs(self, handle: Handle) -> StatfsReply:
        self._tree.node(handle)
        seen = os.fstatvfs(self._tree.root_fd)
        return StatfsReply(
            seen.f_frsize, seen.f_blocks, seen.f_bfree, seen.f_bavail, seen.f_files, seen.f_ffree, NAME_MAX,
            read_only=self.read_only or bool(seen.f_flag & os.ST_RDONLY),
        )  # fmt: skip

    # ---- attributes of clients

    def xattr_get(self, handle: Handle, name: str) -> bytes:
        with self._xattrs(handle, name, missing=errno.ENODATA) as path:
            return os.getxattr(path, raw_name(name))

    def xattr_set(self, handle: Handle, name: str, value: bytes, mode: XattrMode) -> Attr:
        self._check_writable()
        check_xattr(name, value)
        with self._xattrs(handle, name, missing=errno.EPERM) as path:
            os.setxattr(path, raw_name(name), value, int(mode))
        return self._attributed(handle)

    def xattr_list(self, handle: Handle) -> list[str]:
        node = self._tree.node(handle)
        if node.type not in (FileType.FILE, FileType.DIRECTORY):
            return []
        with self._tree.held(node) as fd:
            found = os.listxattr(anchor(fd))
        return sorted(name for name in found if name.startswith("user.") and not is_own_xattr(name))

    def xattr_remove(self, handle: Handle, name: str) -> Attr:
        self._check_writable()
        with self._xattrs(handle, name, missing=errno.EPERM) as path:
            os.removexattr(path, raw_name(name))
        return self._attributed(handle)

    @contextlib.contextmanager
    def _xattrs(self, handle: Handle, name: str, *, missing: int) -> Iterator[str]:
        """Yield a path to an object's attributes. missing: the errno where clients have none, as on symlinks and pipes."""
        node = self._tree.node(handle)
        check_xattr(name)
        if node.type not in (FileType.FILE, FileType.DIRECTORY) or is_own_xattr(name):
            raise fail(missing, name)
        with self._tree.held(node) as fd:
            yield anchor(fd)

    def _attributed(self, handle: Handle) -> Attr:
        self._tree.node(handle).changes += 1
        return self.getattr(handle)
