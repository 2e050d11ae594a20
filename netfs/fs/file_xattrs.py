"""Trio shell. Extended attributes of an open file, whatever its name is now: also of one that has none any more.

Owns no memory.
"""

import errno
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from netfs.errors import translate
from netfs.fs.inode import Inode
from netfs.fs.volume import Change
from transport.messages import EntryReply, XattrMode

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["FileXattrs"]

T = TypeVar("T")
TRIES: Final = 8


class FileXattrs:
    """The part of `File` that is about extended attributes."""

    __slots__ = ()
    path: str
    _inode: Inode
    _client: "Client"

    def _check_open(self) -> None:
        raise NotImplementedError

    async def getxattr(self, name: str) -> bytes:
        """Return an extended attribute. Raises: as `Client.getxattr`. Cancellation: no effect."""
        return await self._attributed(lambda entry: self._client.volume.xattr_get(entry, name))

    async def listxattr(self) -> list[str]:
        """Return the names of the extended attributes, sorted. Cancellation: no effect."""
        return await self._attributed(self._client.volume.xattr_list)

    async def setxattr(self, name: str, value: bytes, *, create: bool = False, replace: bool = False) -> None:
        """Set an extended attribute. create: it must be new; replace: it must be there. Cancellation: may have happened."""
        mode = XattrMode.CREATE if create else XattrMode.REPLACE if replace else XattrMode.EITHER
        await self._put(lambda entry: self._client.volume.xattr_set(entry, name, value, mode))

    async def removexattr(self, name: str) -> None:
        """Remove an extended attribute. Raises: OSError(ENODATA). Cancellation: may have happened."""
        await self._put(lambda entry: self._client.volume.xattr_remove(entry, name))

    async def _put(self, action: Callable[[EntryReply], Awaitable[Change | None]]) -> None:
        async def done(entry: EntryReply) -> bool:
            change = await action(entry)
            return change is None or await self._inode.file_ops.change(change)

        for _ in range(TRIES):
            with self._client.known.changing(self._inode.handle):
                if await self._attributed(done):
                    return
        raise OSError(errno.EAGAIN, "other clients are faster at changing the file", self.path)

    async def _attributed(self, action: Callable[[EntryReply], Awaitable[T]]) -> T:
        self._check_open()
        try:
            return await action(await self._inode.file_ops.entry())
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENODATA:  # elsewhere that would be a read's failure
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), self.path) from None
            raise translate(error, self.path, self._inode.probe) from error
