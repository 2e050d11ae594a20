"""Trio shell. An encrypted volume: names by `sealed_names.py`, files by `sealed_ops.py`, and what both of them share.

The server sees encrypted names, records, tags and blocks. Permissions and extended attributes of a file are changed by the
table of that file, as they are in its record. Owns the pool of landing areas.
"""

import errno
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from crypto.aead import NONCE_SIZE
from crypto.keys import VolumeKey
from crypto.layout import MAX_LOG2BS, MIN_LOG2BS
from crypto.names import NAME_MAX
from crypto.record import Kind, Record, open_record
from crypto.volume import HEADER_NAME
from crypto.xattrs import XATTRS_MAX, open_xattrs, seal_xattrs
from iov.pool import BufferPool
from iov.probe import Probe
from netfs.fs.calls import ask
from netfs.fs.freshness import Freshness
from netfs.fs.rooted import RootedTransport
from netfs.fs.sealed_ageing import Ageing
from netfs.fs.sealed_folder import attr_of
from netfs.fs.sealed_names import SealedNames, failed
from netfs.fs.sealed_ops import EncryptedOps
from netfs.fs.volume import Change, FileOps, Volume
from transport.base import Transport
from transport.env import Env
from transport.messages import (
    NOW_NS,
    Attr,
    AttrReply,
    BlobGet,
    DirEntry,
    EntryReply,
    FileType,
    Getattr,
    Handle,
    RenameFlag,
    Setattr,
    XattrMode,
    XattrReply,
)

if TYPE_CHECKING:
    from netfs.fs.inode import Inode

__all__ = ["DEFAULT_BLOCK_SIZE", "EncryptedVolume"]

DEFAULT_BLOCK_SIZE: Final = 1 << 14
MAX_AREAS: Final = 16
MAX_DIRTY_PAGES: Final = 4096
"""Tag pages of one file held back for its next commit: 16 MiB, for 8 GiB of blocks of 16 KiB."""
WRITER_SIZE: Final = 16


class EncryptedVolume(Volume):
    """An export, or a folder of one, whose names and files are encrypted under one key."""

    def __init__(
        self,
        transport: Transport,
        key: VolumeKey,
        env: Env,
        probe: Probe,
        rsize: int,
        wsize: int,
        block_size: int = DEFAULT_BLOCK_SIZE,
        freshness: Freshness | None = None,
    ) -> None:
        log2bs = block_size.bit_length() - 1
        if block_size != 1 << log2bs or not MIN_LOG2BS <= log2bs <= MAX_LOG2BS:
            raise ValueError(f"a block has {1 << MIN_LOG2BS} to {1 << MAX_LOG2BS} bytes, a power of two")
        self.freshness = freshness or Freshness()
        self._rooted = RootedTransport(transport, key, env, self.freshness, probe) if key.rooted else None
        self.transport = transport = self._rooted or transport
        self.key = key
        self.env = env
        self.probe = probe
        self.rsize = rsize
        self.wsize = wsize
        self.log2bs = log2bs
        self.max_dirty_pages = MAX_DIRTY_PAGES
        self.ageing = Ageing(env.now)
        self.pool = BufferPool(probe, max(rsize, wsize), MAX_AREAS)
        self.writer = env.nonces(WRITER_SIZE)
        self.names = SealedNames(transport, key, env, self.freshness, log2bs, self.writer)

    async def tend(self) -> None:
        """Commit what was written under claims that have grown old, until cancelled."""
        await self.ageing.run()

    def file_ops(self, inode: "Inode") -> FileOps:
        """Make the table of a file."""
        return EncryptedOps(self, inode)

    # ---- names

    async def root(self, handle: Handle) -> None:
        """Take a directory for the volume's top."""
        if self._rooted is not None:
            await self._rooted.begin(handle)
        await self.names.root(handle)

    async def lookup(self, parent: Handle, name: str) -> EntryReply:
        """Find a name and verify what is said of it."""
        return (await self.names.lookup(parent, name)).reply

    async def getattr(self, handle: Handle) -> Attr:
        """Send GETATTR; what the record says counts."""
        attr = (await ask(self.transport, Getattr(handle), AttrReply)).attr
        return attr_of(attr, self.names.record(handle))

    async def create(self, parent: Handle, name: str, mode: int, *, exclusive: bool) -> EntryReply:
        """Make a file with a record and key of its own."""
        while True:
            try:
                return await self.names.create(parent, name, Kind.FILE, mode)
            except FileExistsError:
                if exclusive:
                    raise
            try:
                entry = await self.lookup(parent, name)
            except FileNotFoundError:
                continue  # removed between the two calls
            if entry.attr.type is FileType.DIRECTORY:
                raise failed(errno.EISDIR)
            return entry

    async def mkdir(self, parent: Handle, name: str, mode: int) -> EntryReply:
        """Make a directory with an id of its own."""
        return await self.names.create(parent, name, Kind.DIRECTORY, mode)

    async def symlink(self, parent: Handle, name: str, target: bytes) -> EntryReply:
        """Make a link, whose target is in its record."""
        if not target:
            raise failed(errno.ENOENT)
        return await self.names.create(parent, name, Kind.SYMLINK, 0o777, target)

    async def readlink(self, entry: EntryReply) -> bytes:
        """Return the target that the record has."""
        if entry.attr.type is not FileType.SYMLINK:
            raise failed(errno.EINVAL)
        return open_record(self.key, entry.record).inline

    async def unlink(self, parent: Handle, name: str) -> None:
        """Remove a file or link."""
        await self.names.remove(parent, name, directory=False)

    async def rmdir(self, parent: Handle, name: str) -> None:
        """Remove an empty directory."""
        await self.names.remove(parent, name, directory=True)

    async def rename(
        self, parent: Handle, name: str, new_parent: Handle, new_name: str, flags: RenameFlag = RenameFlag.NONE
    ) -> None:
        """Rename, with a new certificate; two names are not exchanged here."""
        if flags & RenameFlag.EXCHANGE:
            raise failed(errno.EOPNOTSUPP)
        await self.names.rename(parent, name, new_parent, new_name, replace=not flags & RenameFlag.NOREPLACE)

    async def entries(self, handle: Handle) -> AsyncIterator[DirEntry]:
        """Yield the entries of a directory once all of them have been verified."""
        for row, entry, _ in await self.names.listing(handle):
            row.name = entry.name.plain
            yield row

    async def examine(self, handle: Handle) -> tuple[list[DirEntry], Sequence[tuple[str, Exception]]]:
        """Return the entries of a directory that verify, and what is wrong with the others."""
        return await self.names.examine(handle)

    def hides(self, name: str) -> bool:
        """Say whether a name is that of the volume's header, or of one being written."""
        return name.startswith(HEADER_NAME)

    # ---- attributes

    async def setattr(self, entry: EntryReply, change: Setattr) -> Change | None:
        """Put permissions, owner and time into the record; when something was last read is not kept."""
        if change.mode is not None and entry.attr.type is FileType.SYMLINK:
            raise failed(errno.EOPNOTSUPP)
        values = self.values_of(change)
        return await self._change(entry, Change(values)) if values else None

    def values_of(self, change: Setattr) -> dict[str, int]:
        """Return what goes into a record."""
        values: dict[str, int] = {}
        if change.mode is not None:
            values["mode"] = change.mode & 0o7777
        if change.uid is not None:
            values["uid"] = change.uid
        if change.gid is not None:
            values["gid"] = change.gid
        if change.mtime_ns is not None:
            values["mtime_ns"] = self.env.wall_ns() if change.mtime_ns == NOW_NS else change.mtime_ns
        return values

    async def xattr_get(self, entry: EntryReply, name: str) -> bytes:
        """Find one in the sealed set."""
        values = await self._xattrs(entry, name)
        if name not in values:
            raise failed(errno.ENODATA)
        return values[name]

    async def xattr_list(self, entry: EntryReply) -> list[str]:
        """List the sealed set."""
        return sorted(await self._xattrs(entry))

    async def xattr_set(self, entry: EntryReply, name: str, value: bytes, mode: XattrMode) -> Change | None:
        """Put another sealed set, and its digest into the record."""
        values = await self._xattrs(entry, name)
        if mode is XattrMode.CREATE and name in values:
            raise failed(errno.EEXIST)
        if mode is XattrMode.REPLACE and name not in values:
            raise failed(errno.ENODATA)
        return await self._put_xattrs(entry, {**values, name: value})

    async def xattr_remove(self, entry: EntryReply, name: str) -> Change | None:
        """Put a smaller set."""
        values = await self._xattrs(entry, name)
        if name not in values:
            raise failed(errno.ENODATA)
        return await self._put_xattrs(entry, {known: value for known, value in values.items() if known != name})

    async def _xattrs(self, entry: EntryReply, name: str = "user.any") -> dict[str, bytes]:
        if not name.startswith("user."):
            raise failed(errno.EOPNOTSUPP)
        if not 0 < len(name.encode("utf-8", "surrogateescape")) <= NAME_MAX:
            raise failed(errno.ERANGE)
        sealed = (await ask(self.transport, BlobGet(entry.handle, 1), XattrReply)).value
        return open_xattrs(self._record(entry), sealed)

    async def _put_xattrs(self, entry: EntryReply, values: dict[str, bytes]) -> Change | None:
        if entry.attr.type is FileType.SYMLINK:
            raise failed(errno.EPERM)
        sealed, digest = seal_xattrs(self._record(entry), values, self.env.nonces(len(values) * NONCE_SIZE))
        if len(sealed) > XATTRS_MAX:
            raise failed(errno.ENOSPC)
        return await self._change(entry, Change({"xattrs": digest}, sealed))

    def _record(self, entry: EntryReply) -> Record:
        """Return the record of what was looked up, or of a directory that is known."""
        if entry.attr.type is FileType.DIRECTORY:
            return self.names.record(entry.handle)
        return open_record(self.key, entry.record)

    async def _change(self, entry: EntryReply, change: Change) -> Change | None:
        if entry.attr.type is FileType.SYMLINK:
            await self.names.change_link(entry, **change.values)
            return None
        if entry.attr.type is not FileType.DIRECTORY:
            return change
        await self.names.change(entry.handle, change.blob, **change.values)
        return None

    def close(self) -> None:
        """Insist that every landing area was given back, and close the log of what was seen. Raises: OSError of the log."""
        self.pool.close()
        self.freshness.close()
