"""Trio shell. What an open file's attributes are, and changing them. A part of `File`.

Owns no memory.
"""

from typing import TYPE_CHECKING

import trio

from iov.probe import Probe
from netfs.errors import translate
from netfs.fs.inode import Inode
from netfs.fs.own import attributes, heard, hold_back
from netfs.fs.settling import change_behind, settle
from netfs.fs.told import told
from transport.messages import Attr, Handle, Setattr

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["FileAttributes"]


class FileAttributes:
    """The part of `File` that is about its attributes."""

    __slots__ = ()
    path: str
    _inode: Inode
    _client: "Client"

    def _check_open(self) -> None:
        raise NotImplementedError

    @property
    def probe(self) -> Probe:
        """See `File`."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """See `File`."""
        raise NotImplementedError

    @property
    def handle(self) -> Handle:
        """See `File`."""
        raise NotImplementedError

    async def fsync(self) -> None:
        """See `File`."""
        raise NotImplementedError

    @property
    def holds_back(self) -> bool:
        """A change of attributes is not at the server yet, so that times may be other ones then."""
        return self._inode.own is not None and self._inode.own.held is not None

    async def _settled(self) -> None:
        """Have what is held back of the attributes go before what is to come."""
        if self._inode.own is not None and self._inode.own.held is not None:
            await settle(self._client, self._inode)

    @told
    async def stat(self) -> Attr:
        """Return the attributes, with the size as this client sees it."""
        self._check_open()
        inode, client = self._inode, self._client
        attr = None if inode.own is None else attributes(client, inode)
        if attr is not None:
            await trio.lowlevel.checkpoint()
        else:
            await self._settled()
            modified = inode.modified
            try:
                attr = await inode.file_ops.getattr()
            except Exception as error:
                raise translate(error, self.path, inode.probe) from error
            if inode.own is not None and inode.modified == modified and not inode.mapping.writeback:
                heard(client, inode, attr)
        attr.size = self.size
        return attr

    @told
    async def setattr(
        self, *, mode: int | None = None, uid: int | None = None, gid: int | None = None,
        atime_ns: int | None = None, mtime_ns: int | None = None, later: bool = False,
    ) -> Attr:  # fmt: skip
        """Change attributes that are not None; what was written is sent before a time is set, which it would move.

        later: it may go with the next flush, fsync or close, which then tells what failed; only what the server will not refuse.
        Returns: the attributes, with the size as this client sees it. Raises: OSError. Cancellation: may have happened.
        """
        self._check_open()
        inode, client = self._inode, self._client
        change = Setattr(inode.handle, mode, uid, gid, atime_ns, mtime_ns)
        if later and hold_back(client, inode, change):
            held = attributes(client, inode)
            if held is not None:
                await trio.lowlevel.checkpoint()
                held.size = self.size
                return held
        await self._settled()
        try:
            attr = await self._changed(change)
        except Exception as error:
            raise translate(error, self.path, inode.probe) from error
        attr.size = self.size
        return attr

    async def _changed(self, change: Setattr) -> Attr:
        inode = self._inode
        dirty = len(inode.mapping.dirty)
        if dirty and inode.ops.seals and change.mtime_ns is not None:
            await self.fsync()
        elif not inode.ops.seals and (dirty == 1 or (dirty and change.mtime_ns is not None)):
            return await change_behind(self._client, inode, change)
        modified = inode.modified
        if inode.ops.seals:
            with self._client.known.changing(inode.handle):
                return await inode.file_ops.setattr(change)
        attr = await inode.file_ops.setattr(change)
        if modified == inode.modified and not inode.mapping.writeback:
            heard(self._client, inode, attr)
        return attr

    async def set_mtime(self, mtime_ns: int) -> None:
        """Set the time of the last change, in nanoseconds since 1970; later writes move it. Cancellation: may have happened."""
        self._check_open()
        await self._settled()
        self._inode.own = None
        try:
            await self._inode.file_ops.set_mtime(mtime_ns)
        except Exception as error:
            raise translate(error, self.path, self._inode.probe) from error
