"""Trio shell. What a client does by path beside opening and listing: links, modes, times, extended attributes, room.

A path is never followed through a symlink, here or on the server: a symlink is an object of its own, as with lstat.
Owns no memory.
"""

import errno
import os
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar, cast

from netfs.fs.calls import ask
from netfs.fs.inode import Inode
from netfs.fs.leases import Leases
from netfs.fs.path import names_of
from netfs.fs.told import told
from netfs.fs.volume import Change
from netfs.fs.walk import Walk
from netfs.fs.walking import Walking
from transport.messages import (
    NOW_NS,
    Attr,
    EntryReply,
    FileType,
    Handle,
    RecordGet,
    RecordReply,
    RenameFlag,
    Setattr,
    Statfs,
    StatfsReply,
    XattrMode,
)

__all__ = ["PosixCalls"]

T = TypeVar("T")
TRIES: Final = 8


class PosixCalls(Walking):
    """What a client offers beyond files and listings. _leasing: it asks for leases."""

    leases: Leases
    _leasing: bool

    @abstractmethod
    def _get_inode(self, handle: Handle, path: str) -> Inode: ...

    @abstractmethod
    def put_inode(self, inode: Inode) -> None:
        """Give back what `_get_inode` gave."""

    async def entry(self, path: str) -> EntryReply:
        """Return what a path names, as the server calls it, with its record if it has one. Cancellation: no effect."""

        async def found(walk: Walk) -> EntryReply:
            entry = await self._found(walk, path)
            if entry.handle == walk.root:
                entry.record = (await ask(self.transport, RecordGet(walk.root), RecordReply)).record
            return entry

        return await self._translated(found, path)

    @abstractmethod
    async def stat(self, path: str) -> Attr:
        """See `Client`."""

    # ---- names

    @told
    async def mkdir(self, path: str, mode: int = 0o755, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a directory, with `parents` also the ones above it. Raises: OSError. Cancellation: may have happened."""
        if parents:
            names = names_of(path)
            for depth in range(len(names) - len(self._names(path)) + 1, len(names)):
                await self.mkdir("/".join(names[:depth]), exist_ok=True)

        async def made(walk: Walk) -> None:
            names, name = self._split(path)
            parent = await walk.directory(names)
            entry: EntryReply | None = None
            with self.known.changing(names=((parent, name),)) as change:
                if self._leasing and self._volume.compounds:
                    with suppress(BlockingIOError):  # another client is to give the directory above back first
                        entry, above = await self.leases.mkdir(parent, name, mode)
                        change.noted(parent, above)
                if entry is None:
                    await self._volume.mkdir(parent, name, mode)
            if entry is not None:
                self.known.made(parent, name, entry)
                self._dentries.put(parent, name, entry.handle, self.env.now())

        try:
            await self._translated(made, path)
        except FileExistsError:
            if not exist_ok or (await self.stat(path)).type is not FileType.DIRECTORY:
                raise

    @told
    async def unlink(self, path: str) -> None:
        """Remove a name that is not a directory; who has the file open, by a lease, keeps it. Cancellation: may have happened."""

        async def removed(walk: Walk) -> None:
            names, name = self._split(path)
            parent = await walk.directory(names)
            with self.known.changing(names=((parent, name),)):
                await self._volume.unlink(parent, name)

        await self._translated(removed, path)

    @told
    async def rmdir(self, path: str) -> None:
        """Remove an empty directory. Cancellation: may have happened."""

        async def removed(walk: Walk) -> None:
            names, name = self._split(path)
            parent = await walk.directory(names)
            self._dentries.forget(parent, name)
            with self.known.changing(names=((parent, name),)):
                await self._volume.rmdir(parent, name)

        await self._translated(removed, path)

    # ---- links

    @told
    async def symlink(self, target: str | bytes, path: str) -> None:
        """Create a symbolic link at `path`; `target` is stored as it is. Raises: OSError. Cancellation: may have happened."""
        raw = os.fsencode(target)

        async def made(walk: Walk) -> EntryReply:
            names, name = self._split(path)
            parent = await walk.directory(names)
            with self.known.changing(names=((parent, name),)):
                return await self._volume.symlink(parent, name, raw)

        await self._translated(made, path)

    @told
    async def readlink(self, path: str) -> str:
        """Return where a symbolic link leads, undecodable bytes kept as surrogates. Raises: OSError(EINVAL) for no link."""

        async def read(walk: Walk) -> bytes:
            return await self._volume.readlink(await self._found(walk, path))

        return os.fsdecode(await self._translated(read, path))

    @told
    async def link(self, path: str, new_path: str) -> None:
        """Give a file one more name. Raises: PermissionError for a directory. Cancellation: may have happened."""

        async def linked(walk: Walk) -> EntryReply:
            names, name = self._split(new_path)
            entry, parent = await self._found(walk, path), await walk.directory(names)
            with self.known.changing(entry.handle, names=((parent, name),)):
                return await self._volume.link(entry, parent, name)

        await self._translated(linked, new_path)

    @told
    async def rename(self, path: str, new_path: str, *, replace: bool = True, exchange: bool = False) -> None:
        """Rename as POSIX does: what had the new name is replaced. Cancellation: may have happened.

        Args: replace: False: raise FileExistsError instead. exchange: each gets the other's name.
        """
        flags = (RenameFlag.NONE if replace or exchange else RenameFlag.NOREPLACE) | (
            RenameFlag.EXCHANGE if exchange else RenameFlag.NONE
        )

        async def renamed(walk: Walk) -> None:
            names, name = self._split(path)
            new_names, new_name = self._split(new_path)
            parent, new_parent = await walk.directory(names), await walk.directory(new_names)
            self._dentries.forget(parent, name)
            self._dentries.forget(new_parent, new_name)
            with self.known.changing(names=((parent, name), (new_parent, new_name))):
                await self._volume.rename(parent, name, new_parent, new_name, flags)

        await self._translated(renamed, path)

    # ---- attributes

    @told
    async def chmod(self, path: str, mode: int) -> None:
        """Change the permissions. Raises: OSError(EOPNOTSUPP) for a symlink. Cancellation: may have happened."""
        await self.setattr(path, mode=mode)

    @told
    async def chown(self, path: str, uid: int = -1, gid: int = -1) -> None:
        """Change the owner; -1 leaves one as it is. Cancellation: may have happened."""
        await self.setattr(path, uid=None if uid == -1 else uid, gid=None if gid == -1 else gid)

    @told
    async def utime(self, path: str, ns: tuple[int | None, int | None] | None = None) -> None:
        """Set the times of access and change, in nanoseconds since 1970; None leaves one, no times at all: now on the server.

        Cancellation: may have happened.
        """
        atime_ns, mtime_ns = (NOW_NS, NOW_NS) if ns is None else ns
        await self.setattr(path, atime_ns=atime_ns, mtime_ns=mtime_ns)

    @told
    async def setattr(
        self, path: str, *, mode: int | None = None, uid: int | None = None, gid: int | None = None,
        atime_ns: int | None = None, mtime_ns: int | None = None,
    ) -> Attr:  # fmt: skip
        """Change attributes that are not None, all at once. Returns: those after it. Cancellation: may have happened."""
        known: Attr | None = None

        async def changed(walk: Walk) -> bool:
            nonlocal known
            entry = await self._found(walk, path)
            await self._settled(entry.handle)
            with self.known.changing(entry.handle):
                rest = await self._volume.setattr(entry, Setattr(entry.handle, mode, uid, gid, atime_ns, mtime_ns))
            if isinstance(rest, Attr):
                known = self._as_seen(entry.handle, rest)
                return True
            return await self._rest(entry, path, rest)

        await self._until_done(changed, path, self._translated)
        return known or await self.stat(path)

    @abstractmethod
    def _as_seen(self, handle: Handle, attr: Attr) -> Attr: ...

    @abstractmethod
    async def _settled(self, handle: Handle) -> None: ...

    async def _rest(self, entry: EntryReply, path: str, rest: Change | None) -> bool:
        """Do what a volume leaves to the table of the file. Returns: false when it has to be looked up and begun again."""
        if rest is None:
            return True
        inode = self._get_inode(entry.handle, path)
        try:
            await inode.file_ops.opened(entry, write=True)
            return await inode.file_ops.change(rest)
        finally:
            self.put_inode(inode)

    @staticmethod
    async def _until_done(
        change: Callable[[Walk], Awaitable[bool]],
        path: str,
        run: Callable[[Callable[[Walk], Awaitable[bool]], str], Awaitable[bool]],
    ) -> None:
        for _ in range(TRIES):
            if await run(change, path):
                return
        raise OSError(errno.EAGAIN, "other clients are faster at changing the file", path)

    @told
    async def getxattr(self, path: str, name: str) -> bytes:
        """Return an extended attribute. Raises: OSError(ENODATA), EOPNOTSUPP for what does not begin with `user.`."""

        async def got(walk: Walk) -> bytes:
            return await self._volume.xattr_get(await self._found(walk, path), name)

        return await self._attributed(got, path)

    @told
    async def setxattr(self, path: str, name: str, value: bytes, *, create: bool = False, replace: bool = False) -> None:
        """Set an extended attribute. create: it must be new; replace: it must be there. Cancellation: may have happened."""
        mode = XattrMode.CREATE if create else XattrMode.REPLACE if replace else XattrMode.EITHER

        async def put(walk: Walk) -> bool:
            entry = await self._found(walk, path)
            with self.known.changing(entry.handle):
                rest = await self._volume.xattr_set(entry, name, value, mode)
            return await self._rest(entry, path, rest)

        await self._until_done(put, path, self._attributed)

    @told
    async def listxattr(self, path: str) -> list[str]:
        """Return the names of the extended attributes, sorted."""

        async def listed(walk: Walk) -> list[str]:
            return await self._volume.xattr_list(await self._found(walk, path))

        return await self._translated(listed, path)

    @told
    async def removexattr(self, path: str, name: str) -> None:
        """Remove an extended attribute. Raises: OSError(ENODATA). Cancellation: may have happened."""

        async def removed(walk: Walk) -> bool:
            entry = await self._found(walk, path)
            with self.known.changing(entry.handle):
                rest = await self._volume.xattr_remove(entry, name)
            return await self._rest(entry, path, rest)

        await self._until_done(removed, path, self._attributed)

    async def _attributed(self, action: Callable[[Walk], Awaitable[T]], path: str) -> T:
        """Do something with an extended attribute: that it is not there is ENODATA, which elsewhere would be a read's failure."""
        missing = False

        async def noticing(walk: Walk) -> T | None:
            nonlocal missing
            try:
                return await action(walk)
            except OSError as error:
                missing = error.errno == errno.ENODATA
                if not missing:
                    raise
                return None

        found = await self._translated(noticing, path)
        if missing:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), path)
        return cast("T", found)

    @told
    async def statfs(self, path: str = "/") -> StatfsReply:
        """Return the room of the filesystem that an object is on. Cancellation: no effect."""

        async def asked(walk: Walk) -> StatfsReply:
            return await ask(self.transport, Statfs((await self._found(walk, path)).handle), StatfsReply)

        return await self._translated(asked, path)
