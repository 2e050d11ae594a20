"""Sans-IO. The seam between the client and what its files are: plain ones, or the files of an encrypted volume.

The client walks paths, opens and closes; a `Volume` gives each regular file its operations table and says what size the user
sees. Owns no memory.
"""

import errno
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netfs.engine.ops import NetfsOps
from transport.messages import Attr, DirEntry, EntryReply, Handle, Whence, XattrMode

if TYPE_CHECKING:
    from netfs.fs.inode import Inode

__all__ = ["CacheIdentity", "FileOps", "Volume"]


@dataclass(frozen=True, slots=True)
class CacheIdentity:
    """What a local cache knows a file by.

    volume: where `key` is unique, None for the server's own name. coherency: changes when the content does; empty where the
    content answers for itself. size: bytes of the file as it is stored.
    """

    volume: str | None
    key: bytes
    coherency: bytes
    size: int


class FileOps(NetfsOps):
    """The operations table of a file of a client."""

    @abstractmethod
    def cache_identity(self, attr: Attr, size: int) -> CacheIdentity:
        """Say what a local cache is to know the file by; called after `revalidate`, which returned `size`."""

    @abstractmethod
    async def revalidate(self, attr: Attr) -> int:
        """Learn the state of the file when it is opened; `attr` came with the server's answer to OPEN.

        Nothing of the file is dirty or in flight unless another descriptor is at work on it.
        Returns: the size the user sees, in bytes.
        """

    async def allocate(self, pos: int, length: int, *, keep_size: bool) -> None:
        """Have the server reserve room. Raises: EOPNOTSUPP where the server is not to; the caller then does without."""
        raise _unsupported()

    async def punch(self, pos: int, length: int) -> None:
        """Have the server make a hole. Raises: as `allocate`."""
        raise _unsupported()

    async def copy_from(self, source: Handle, source_pos: int, pos: int, length: int) -> int:
        """Have the server copy a range from another file. Returns: bytes. Raises: as `allocate`."""
        raise _unsupported()

    async def seek(self, pos: int, whence: Whence, size: int) -> int:
        """Find data or a hole in a file of `size` bytes; one that knows no holes is all data. Raises: ENXIO."""
        if pos >= size:
            raise OSError(errno.ENXIO, "no more data")
        return pos if whence is Whence.DATA else size

    async def strays(self) -> list[int]:
        """Return the numbers of blocks for which the server keeps bytes that are no part of the file; for verification."""
        return []

    def idle(self) -> None:
        """Give up memory that can be had again: the last descriptor was closed."""


class Volume(ABC):
    """What kind of files an export holds. rsize, wsize: most bytes of one read or write.

    compounds: files may be read and written past their operations table, as bytes of the server.
    """

    rsize: int
    wsize: int
    compounds = False

    @abstractmethod
    def file_ops(self, inode: "Inode") -> FileOps:
        """Make the table of a file that was not open yet; `inode.handle` names it, `inode.sizes` are its sizes."""

    @abstractmethod
    async def created(self, entry: EntryReply) -> None:
        """Give a regular file what it needs before it can be opened; called after each CREATE, also when the file was there."""

    @abstractmethod
    async def file_size(self, handle: Handle, attr: Attr) -> int:
        """Return the size the user sees of a regular file that is not open."""

    @abstractmethod
    def entry_size(self, entry: DirEntry, asked: int) -> int:
        """Return the size the user sees of a regular file in a listing. asked: `clock` when the listing was asked for."""

    @property
    def clock(self) -> int:
        """A number that grows with what is known of the volume; noted when something is asked of the server."""
        return 0

    async def symlink(self, parent: Handle, name: str, target: bytes) -> EntryReply:
        """Create a symlink. Raises: OSError; EOPNOTSUPP where the volume has none."""
        raise _unsupported()

    async def readlink(self, handle: Handle) -> bytes:
        """Return a symlink's target. Raises: as `symlink`."""
        raise _unsupported()

    async def xattr_get(self, handle: Handle, name: str) -> bytes:
        """Return an extended attribute. Raises: OSError; EOPNOTSUPP where the volume has none."""
        raise _unsupported()

    async def xattr_set(self, handle: Handle, name: str, value: bytes, mode: XattrMode) -> None:
        """Set an extended attribute. Raises: as `xattr_get`."""
        raise _unsupported()

    async def xattr_list(self, handle: Handle) -> list[str]:
        """Return the names of extended attributes. Raises: as `xattr_get`."""
        raise _unsupported()

    async def xattr_remove(self, handle: Handle, name: str) -> None:
        """Remove an extended attribute. Raises: as `xattr_get`."""
        raise _unsupported()

    def hides(self, name: str) -> bool:
        """Say whether a name is the volume's own and never shown, in any directory."""
        del name
        return False

    def close(self) -> None:  # noqa: B027 (most volumes own nothing)
        """Insist that no memory of the volume is lent any more; called when the connection is closed."""


def _unsupported() -> OSError:
    return OSError(errno.EOPNOTSUPP, "not in a volume of this kind")
