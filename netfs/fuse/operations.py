"""Trio shell. What the kernel asks of a mount, done by the client.

Each handler answers with what the client gives or with the errno of what it raises; no exception but `FUSEError` leaves one, as
any other ends the whole mount. Names are bytes to the kernel and text to the client. A file that is removed while it is open is
kept by the server until it is closed; until then it has no path, and is used through what has it open. `read` lends the page
cache's memory to the kernel; a write goes from the kernel's request straight into the client.
"""

import contextlib
import errno
import functools
import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from netfs.fuse.attributes import MountOptions, dot_attributes, entry_attributes, left_of_mode, made_by, nameless
from netfs.fuse.nodes import Node, Nodes
from transport.messages import NOW_NS, Attr, FileType, Handle

if TYPE_CHECKING:
    from netfs.fs.client import Client, Entry
    from netfs.fs.file import File

__all__ = ["MountOps"]

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(__name__)
RECALL_TIMEOUT_S: Final = 10
CLOSE_TIMEOUT_S: Final = 5


def answering(
    handler: Callable[Concatenate["MountOps", P], Awaitable[R]],
) -> Callable[Concatenate["MountOps", P], Awaitable[R]]:
    """Return a handler that ends with an answer or a FUSEError."""

    @functools.wraps(handler)
    async def answer(self: "MountOps", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from error
        except Exception as error:
            log.exception("a defect in %s", handler.__name__)
            raise FUSEError(errno.EIO) from error

    return answer


@dataclass(slots=True)
class Listing:
    """An open directory: the entries as they were when reading began."""

    node: Node
    entries: "list[Entry] | None" = None


@dataclass(slots=True)
class Opened:
    """An open file. maker: the thread that made it with this very call, 0 for one that was there."""

    node: Node
    file: "File"
    maker: int = 0


class MountOps(pyfuse3.Operations):
    """The handlers of one mount."""

    supports_dot_lookup = False

    def __init__(self, client: "Client", top: str, options: MountOptions) -> None:
        super().__init__()
        self._client = client
        client.names_fresh_s = options.timeout_s
        client.on_recall = self.recalled
        self.enable_writeback_cache = options.writeback
        self._top = top.rstrip("/")
        self._options = options
        self._nodes = Nodes()
        self._handles = count(1)
        self._files: dict[int, Opened] = {}
        self._listings: dict[int, Listing] = {}

    async def recalled(self, handle: Handle) -> None:
        """Have the kernel send what it has of a file that somebody else wants, and forget it.

        In a thread, as the kernel asks things of this mount before it has done so.
        """
        node = self._nodes.of(handle)
        if node is None:
            return
        node.change = -1
        with trio.move_on_after(RECALL_TIMEOUT_S) as waiting, contextlib.suppress(OSError):
            await trio.to_thread.run_sync(pyfuse3.invalidate_inode, node.number, abandon_on_cancel=True)
        if waiting.cancelled_caught:
            log.warning("the kernel did not give back %s in time", node.number)

    async def aclose(self) -> None:
        """Close what the kernel has left open."""
        for handle in tuple(self._files):
            try:
                await self.release(handle)
            except FUSEError as error:
                log.warning("a file that was left open could not be closed: %s", os.strerror(error.errno))

    # ---- names

    @answering
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a name."""
        parent = self._nodes.get(parent_inode)
        return await self._entry(parent, _text(name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Take lookups back."""
        for number, lookups in inode_list:
            self._nodes.forget(number, lookups)

    @answering
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """Read the target of a symlink."""
        return _bytes(await self._client.readlink(self._path(self._nodes.get(inode))))

    @answering
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """Make a directory."""
        parent = self._nodes.get(parent_inode)
        await self._client.mkdir(self._child(parent, name), mode & ~ctx.umask & 0o7777)
        return await self._made(parent, name, ctx)

    @answering
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        """Make an empty file; nothing else is to be had."""
        if not stat.S_ISREG(mode):
            raise OSError(errno.EOPNOTSUPP, "no fifos, sockets and devices on a netfs mount")
        parent = self._nodes.get(parent_inode)
        path = self._child(parent, name)
        async with await self._client.open(path, "x", create_mode=mode & ~ctx.umask & 0o7777):
            pass
        return await self._made(parent, name, ctx)

    @answering
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """Make a symlink."""
        parent = self._nodes.get(parent_inode)
        await self._client.symlink(_text(target), self._child(parent, name))
        return await self._made(parent, name, ctx)

    @answering
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Give an object a further name."""
        parent = self._nodes.get(new_parent_inode)
        await self._client.link(self._path(self._nodes.get(inode)), self._child(parent, new_name))
        return await self._entry(parent, _text(new_name))

    @answering
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a name; the server keeps a file that is open."""
        parent = self._nodes.get(parent_inode)
        await self._client.unlink(self._child(parent, name))
        self._nodes.gone(parent, _text(name))

    @answering
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an empty directory."""
        parent = self._nodes.get(parent_inode)
        await self._client.rmdir(self._child(parent, name))
        self._nodes.gone(parent, _text(name))

    @answering
    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int, ctx: RequestContext
    ) -> None:
        """Rename; the server keeps an open file that is replaced."""
        old, new = self._nodes.get(parent_inode_old), self._nodes.get(parent_inode_new)
        source, target = self._child(old, name_old), self._child(new, name_new)
        if flags & pyfuse3.RENAME_EXCHANGE:
            await self._client.rename(source, target, exchange=True)
            self._nodes.exchanged(old, _text(name_old), new, _text(name_new))
            return
        await self._client.rename(source, target, replace=not flags & pyfuse3.RENAME_NOREPLACE)
        self._nodes.moved(old, _text(name_old), new, _text(name_new))

    # ---- attributes

    @answering
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Return the attributes of an object."""
        node = self._nodes.get(inode)
        opened = self._any_open(node)
        if opened is None:
            return self._attributes(node, await self._attr(node))
        attr = await opened.file.stat()
        return self._attributes(node, attr, certain=not opened.file.holds_back)

    @answering
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Change attributes; a size cuts or extends the file."""
        node = self._nodes.get(inode)
        if fields.update_size:
            opened = self._files.get(fh) if fh is not None else self._any_open(node, write=True)
            if opened is not None:
                await opened.file.truncate(attr.st_size)
            else:
                await self._client.truncate(self._path(node), attr.st_size)
        changes: dict[str, int] = {
            name: value
            for name, asked, value in (
                ("mode", fields.update_mode, stat.S_IMODE(attr.st_mode)),
                ("uid", fields.update_uid, attr.st_uid),
                ("gid", fields.update_gid, attr.st_gid),
                ("atime_ns", fields.update_atime, attr.st_atime_ns),
                ("mtime_ns", fields.update_mtime, attr.st_mtime_ns),
            )
            if asked
        }
        if not changes:
            return self._attributes(node, await self._attr(node))
        opened = self._any_open(node, write=True) or self._any_open(node)
        if opened is not None:
            # Who makes a file gives it an owner, a mode and times next; it is told at the close if that failed.
            now = await opened.file.setattr(**changes, later=opened.maker == ctx.pid)
            return self._attributes(node, now, certain=not opened.file.holds_back)
        if node.gone and not changes.keys() - {"atime_ns", "mtime_ns"}:  # a kernel that gathers writes tells of times late
            return self._attributes(node, nameless(node))
        found = await self._client.setattr(self._path(node), **changes)
        return self._attributes(node, found)

    @answering
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Return the size of the export and what is free."""
        found = await self._client.statfs(self._top or "/")
        data = StatvfsData()
        data.f_bsize = data.f_frsize = found.block_size
        data.f_blocks, data.f_bfree, data.f_bavail = found.blocks, found.free, found.available
        data.f_files, data.f_ffree, data.f_favail = found.files, found.files_free, found.files_free
        data.f_namemax = found.name_max
        return data

    @answering
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """Return an extended attribute. The kernel asks for its own before each write; a server has none of those."""
        if not name.startswith(b"user."):
            raise FUSEError(errno.EOPNOTSUPP)
        file, path = self._named(inode)
        return await (file.getxattr(_text(name)) if file is not None else self._client.getxattr(path, _text(name)))

    @answering
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute."""
        file, path = self._named(inode)
        await (file.setxattr(_text(name), value) if file is not None else self._client.setxattr(path, _text(name), value))

    @answering
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an extended attribute."""
        file, path = self._named(inode)
        await (file.removexattr(_text(name)) if file is not None else self._client.removexattr(path, _text(name)))

    @answering
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """List extended attributes."""
        file, path = self._named(inode)
        found = await (file.listxattr() if file is not None else self._client.listxattr(path))
        return [_bytes(name) for name in found]

    # ---- files

    @answering
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open a file."""
        node = self._nodes.get(inode)
        writes = flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
        mode, direct = self._mode(flags, writes=writes), self._options.direct
        unnamed = self._any_open(node) if node.gone else None
        if unnamed is not None:  # through /proc, as nothing else leads there any more
            file = await self._client.reopen(unnamed.file, mode, direct=direct)
        else:
            file = await self._client.open(self._path(node), mode, direct=direct)
        if flags & os.O_TRUNC:
            async with _closed_by_failure(file):
                await self._emptied(file, ctx)
        return await self._opened(node, file)

    @answering
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Open a file that may have to be made."""
        parent = self._nodes.get(parent_inode)
        path = self._child(parent, name)
        permissions = mode & ~ctx.umask & 0o7777
        maker = ctx.pid
        try:
            file = await self._client.open(path, "x+", create_mode=permissions, direct=self._options.direct)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            maker = 0
            file = await self._client.open(path, self._mode(flags, writes=True), direct=self._options.direct)
            if flags & os.O_TRUNC:
                async with _closed_by_failure(file):
                    await self._emptied(file, ctx)
            attr = file.attr
        else:
            attr = file.attr
            changes = made_by(attr, parent, ctx, self._options)
            if changes:
                async with _closed_by_failure(file):
                    with contextlib.suppress(PermissionError):
                        attr = await file.setattr(**changes, later=False)
        attr.size = file.size
        node = self._nodes.found(parent, _text(name), attr.ino)
        return await self._opened(node, file, maker), self._attributes(node, attr)

    @answering
    async def read(self, fh: int, off: int, size: int) -> memoryview | bytes:
        """Read from an open file. The kernel takes the bytes before anybody else gets a turn, so they are lent."""
        file = self._files[fh].file
        view = file.cached(size, off)
        return await file.lent(size, off) if view is None else view

    @answering
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write to an open file."""
        return await self._file(fh).write(buf, off)

    @answering
    async def flush(self, fh: int) -> None:
        """Send what was written, as each close does; what fails is told to who closes."""
        file = self._file(fh)
        if file.writable:
            await file.flush()

    @answering
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Make what was written durable."""
        file = self._file(fh)
        if file.writable:
            await file.fsync()

    @answering
    async def release(self, fh: int) -> None:
        """Close an open file."""
        opened = self._files.pop(fh)
        opened.node.opens -= 1
        await opened.file.aclose()

    # ---- directories

    @answering
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open a directory."""
        handle = next(self._handles)
        self._listings[handle] = Listing(self._nodes.get(inode))
        return handle

    @answering
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        """Return entries behind a position; each that the kernel takes counts as looked up."""
        listing, node = self._listings[fh], self._listings[fh].node
        if listing.entries is None or not start_id:
            listing.entries = [entry async for entry in self._client.scandir(self._path(node))]
        for at, (name, number) in enumerate(((b".", node.number), (b"..", node.above)), 1):
            if at > start_id and not pyfuse3.readdir_reply(token, name, dot_attributes(number), at):
                return
        for at in range(max(0, start_id - 2), len(listing.entries)):
            entry = listing.entries[at]
            found = self._nodes.found(node, entry.name, entry.attr.ino)
            if not pyfuse3.readdir_reply(token, _bytes(entry.name), self._attributes(found, entry.attr), at + 3):
                await self.forget([(found.number, 1)])
                return

    async def releasedir(self, fh: int) -> None:
        """Close a directory."""
        self._listings.pop(fh, None)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Do nothing: names are durable when they are there."""

    # ---- parts of the above

    def _path(self, node: Node) -> str:
        path = node.path()
        return self._top + path if path != "/" else self._top or "/"

    def _child(self, parent: Node, name: bytes) -> str:
        return self._top + parent.child_path(_text(name))

    def _mode(self, flags: int, *, writes: bool) -> str:
        # A kernel that gathers writes appends by itself.
        return "r" if not writes else "a+" if flags & os.O_APPEND and not self._options.writeback else "r+"

    def _file(self, fh: int) -> "File":
        return self._files[fh].file

    def _any_open(self, node: Node, *, write: bool = False) -> Opened | None:
        if not node.opens:
            return None
        found = (opened for opened in self._files.values() if opened.node is node and (not write or opened.file.writable))
        return next(found, None)

    def _named(self, inode: int) -> "tuple[File | None, str]":
        """Return how to come by an object: through a descriptor if it has no name any more, else by its path."""
        node = self._nodes.get(inode)
        opened = self._any_open(node) if node.gone else None
        return (opened.file, "") if opened is not None else (None, self._path(node))

    async def _attr(self, node: Node) -> Attr:
        opened = self._any_open(node)
        if opened is None and node.gone:
            return nameless(node)
        if opened is not None:
            return await opened.file.stat()
        path = self._path(node)
        attr = await self._client.stat(path)
        if not node.gone and path == self._path(node) and self._nodes.replaced(node, attr):
            # So told, the kernel looks for the name again.
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return attr

    async def _entry(self, parent: Node, name: str) -> EntryAttributes:
        attr = await self._client.stat(self._top + parent.child_path(name))
        return self._attributes(self._nodes.found(parent, name, attr.ino), attr)

    async def _made(self, parent: Node, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Look up what was just made, and see that it is its maker's. What the server does not allow stays as it is."""
        path = self._child(parent, name)
        attr = await self._client.stat(path)
        changes = made_by(attr, parent, ctx, self._options)
        if changes:
            with contextlib.suppress(PermissionError):
                attr = await self._client.setattr(path, **changes)
        return self._attributes(self._nodes.found(parent, _text(name), attr.ino), attr)

    async def _emptied(self, file: "File", ctx: RequestContext) -> None:
        """Do what O_TRUNC asks for; it moves the times of an empty file too."""
        if file.size:
            await file.truncate(0)
        else:
            await file.setattr(mtime_ns=NOW_NS)
        mode = left_of_mode(file.attr.mode, ctx)
        if mode is not None:
            await file.setattr(mode=mode)

    async def _opened(self, node: Node, file: "File", maker: int = 0) -> FileInfo:
        handle = next(self._handles)
        node.opens += 1
        self._files[handle] = Opened(node, file, maker)
        self._nodes.opened(node, file.handle)
        change = file.attr.change
        kept, node.change = node.change == change, change
        return FileInfo(fh=handle, direct_io=self._options.direct, keep_cache=kept)

    def _attributes(self, node: Node, attr: Attr, *, certain: bool = True) -> EntryAttributes:
        node.type = attr.type
        if attr.type is FileType.DIRECTORY:
            node.attr = attr
        return entry_attributes(node.number, attr, self._options, certain=certain)


@contextlib.asynccontextmanager
async def _closed_by_failure(file: "File") -> AsyncIterator[None]:
    """Close a file when what is done before anybody has a descriptor of it fails."""
    try:
        yield
    except BaseException:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S), contextlib.suppress(OSError):
            await file.aclose()
        raise


def _text(name: bytes) -> str:
    return os.fsdecode(name)


def _bytes(name: str) -> bytes:
    return os.fsencode(name)
