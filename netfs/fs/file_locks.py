"""Trio shell. What a descriptor can lock: ranges of its file, advisory as those of fcntl, against other descriptors and clients.

A descriptor is the owner of its locks, as with open file description locks of Linux, and gives them up when it is closed.
Owns no memory.
"""

from typing import TYPE_CHECKING

from netfs.errors import translate
from netfs.fs.calls import ask
from netfs.fs.inode import Inode
from transport.messages import Lock, LockKind, LockReply, LockTest, Unlock

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["FileLocks"]


class FileLocks:
    """The part of `File` that locks."""

    __slots__ = ()
    path: str
    _client: "Client"
    _inode: Inode
    _owner: int

    def _check_open(self) -> None:
        raise NotImplementedError

    async def lock(self, pos: int = 0, length: int = 0, *, exclusive: bool = True, wait: bool = True) -> None:
        """Lock a range, to the end of the file for length 0, in the place of what this descriptor has of it.

        Args: exclusive: else others may share it. wait: for others; else raise BlockingIOError.
        Raises: OSError: EDEADLK when those waited for wait for this one. Cancellation: it may be locked.
        """
        self._check_open()
        kind = LockKind.WRITE if exclusive else LockKind.READ
        try:
            await self._client.leases.lock(Lock(self._inode.handle, self._owner, kind, pos, length, wait))
        except Exception as error:
            raise translate(error, self.path) from error

    async def unlock(self, pos: int = 0, length: int = 0) -> None:
        """Give up what this descriptor has locked of a range. Cancellation: may have happened."""
        self._check_open()
        await self._unlock(pos, length)

    async def test_lock(self, pos: int = 0, length: int = 0, *, exclusive: bool = True) -> LockReply:
        """Say what would be in the way of a lock; `kind` None: nothing. Cancellation: no effect."""
        self._check_open()
        kind = LockKind.WRITE if exclusive else LockKind.READ
        try:
            return await ask(self._client.transport, LockTest(self._inode.handle, self._owner, kind, pos, length), LockReply)
        except Exception as error:
            raise translate(error, self.path) from error

    async def _unlock(self, pos: int = 0, length: int = 0) -> None:
        try:
            await self._client.leases.unlock(Unlock(self._inode.handle, self._owner, pos, length))
        except Exception as error:
            raise translate(error, self.path) from error
