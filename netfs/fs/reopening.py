"""Trio shell. What a client does with a file that is open already, whatever its name is: opening it once more, cutting it.

Owns no memory.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from netfs.engine.park import acquire_exclusive
from netfs.engine.writeback import resize
from netfs.errors import translate
from netfs.fs.file import File, OpenMode, parse_mode
from netfs.fs.inode import Inode
from netfs.fs.listing import Listings
from netfs.fs.volume import Volume
from transport.messages import Attr, EntryReply

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["Reopening"]


class Reopening(Listings):
    """The part of a client that opens what is open."""

    @property
    def volume(self) -> Volume:
        """What kind of files there are."""
        return self._volume

    @abstractmethod
    async def _revalidate(self, inode: Inode, entry: EntryReply, sent: Attr | None, *, write: bool) -> Attr: ...

    async def reopen(self, file: File, mode: str, *, direct: bool = False) -> File:
        """Open once more what another descriptor has open, also when it has no name any more. mode: r, w or a, perhaps with +.

        Raises: as `open`; nothing is created. Cancellation: not open.
        """
        how = replace(parse_mode(mode), create=False)
        inode = self._get_inode(file.handle, file.path)
        try:
            attr = await self._revalidate(inode, await inode.file_ops.entry(), None, write=how.write)
            await self._cut(inode, how)
        except Exception as error:
            self.put_inode(inode)
            raise translate(error, file.path, self.probe) from error
        except BaseException:
            self.put_inode(inode)
            raise
        client = cast("Client", self)  # of which this is a part
        return File(client, inode, file.path, how, attr, direct=direct, buffers=self.page_cache.wanted)

    @staticmethod
    async def _cut(inode: Inode, how: OpenMode) -> None:
        if how.truncate and inode.sizes.i_size:
            await acquire_exclusive(inode.lock)
            try:
                await resize(inode, 0)
            finally:
                inode.lock.release_exclusive()
