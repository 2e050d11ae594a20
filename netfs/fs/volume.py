"""Sans-IO. The seam between the client and what its files are: plain ones, or the files of an encrypted volume.

The client walks paths, opens and closes; a `Volume` looks names up and changes them, gives each regular file its operations table
and says what the user sees of attributes. Owns no memory.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netfs.engine.ops import NetfsOps
from transport.messages import Attr, DirEntry, EntryReply, Handle, RenameFlag, Setattr, Whence, WriteReply, XattrMode

if TYPE_CHECKING:
    from netfs.fs.inode import Inode

__all__ = ["CacheIdentity", "Change", "FileOps", "Volume"]


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


@dataclass(frozen=True, slots=True)
class Change:
    """Fields of a file's record that are to be changed, and a blob that goes with them."""

    values: dict[str, Any]
    blob: bytes | None = None


class FileOps(NetfsOps):
    """The operations table of a file of a client."""

    @abstractmethod
    async def opened(self, entry: EntryReply, sent: Attr | None = None, *, write: bool) -> tuple[Attr, int]:
        """Learn the state of the file when it is opened; `entry` is what `Volume.lookup` or `create` has just returned.

        sent: what OPEN was answered, if it has been sent since, for a lease.

        Nothing of the file is dirty or in flight unless another descriptor is at work on it.
        Returns: the attributes, and the size the user sees, in bytes.
        Raises: OSError when it may not be read or written as asked.
        """

    @abstractmethod
    async def getattr(self) -> Attr:
        """Return the attributes of the open file; its size is not the one to believe."""

    @abstractmethod
    async def setattr(self, change: Setattr) -> Attr:
        """Change attributes of the open file. Returns: the new ones. Cancellation: may have happened."""

    @abstractmethod
    async def entry(self) -> EntryReply:
        """Return the open file as a lookup of its name would, also when it has none any more. Cancellation: no effect."""

    def gather(self, pos: int, length: int, change: Setattr | None) -> None:
        """Have the next write, if it is of these bytes, be durable at once, and take a change of attributes along."""

    def gathered(self) -> Attr | None:
        """Return the attributes after the change that a write took along; None where none has. Raises: OSError for a refusal."""
        return None

    def gather_no_more(self) -> None:
        """Let the next write be one like any other."""

    @abstractmethod
    async def set_mtime(self, mtime_ns: int) -> None:
        """Set the time of the last change, in nanoseconds since 1970. Cancellation: may have happened."""

    @abstractmethod
    def cache_identity(self, attr: Attr, size: int) -> CacheIdentity:
        """Say what a local cache is to know the file by; called after `opened`, which returned `attr` and `size`."""

    async def allocate(self, pos: int, length: int, *, keep_size: bool) -> None:
        """Have the server reserve room. Raises: EOPNOTSUPP where the server is not to; the caller then does without."""
        raise _unsupported()

    async def punch(self, pos: int, length: int) -> None:
        """Have the server make a hole. Raises: as `allocate`."""
        raise _unsupported()

    async def copy_from(self, source: Handle, source_pos: int, pos: int, length: int) -> WriteReply:
        """Have the server copy a range from another file. Returns: bytes and the boot that did it. Raises: as `allocate`."""
        raise _unsupported()

    async def seek(self, pos: int, whence: Whence, size: int) -> int:
        """Find data or a hole in a file of `size` bytes; one that knows no holes is all data. Raises: ENXIO."""
        if pos >= size:
            raise OSError(errno.ENXIO, "no more data")
        return pos if whence is Whence.DATA else size

    async def strays(self) -> list[int]:
        """Return the numbers of blocks for which the server keeps bytes that are no part of the file; for verification."""
        return []

    async def change(self, change: Change) -> bool:
        """Change what a volume has left to do. Returns: false when another client has changed the file meanwhile."""
        raise NotImplementedError(f"{type(self).__name__} leaves nothing to do: {change}")

    async def written(self) -> None:
        """A descriptor that may write is being closed and all is durable, or a write or fsync has failed: others may go on.

        Cancellation: may have happened.
        """

    def idle(self) -> None:
        """Give up memory that can be had again: the last descriptor was closed."""


class Volume(ABC):
    """What kind of files an export holds. rsize, wsize: most bytes of one read or write.

    compounds: files may be read and written past their operations table, as bytes of the server.

    Changes of names raise OSError with the errno of the system call; when one is cancelled it may have happened.
    """

    rsize: int
    wsize: int
    compounds = False

    @abstractmethod
    def file_ops(self, inode: "Inode") -> FileOps:
        """Make the table of a file that was not open yet; `inode.handle` names it, `inode.sizes` are its sizes."""

    @abstractmethod
    async def root(self, handle: Handle) -> None:
        """Take a directory for the top of what the user sees; called before anything below it is looked up."""

    @abstractmethod
    async def lookup(self, parent: Handle, name: str) -> EntryReply:
        """Find a name in a directory. Returns: attributes as the user sees them."""

    @abstractmethod
    async def getattr(self, handle: Handle) -> Attr:
        """Return the attributes of the top directory."""

    @abstractmethod
    async def create(self, parent: Handle, name: str, mode: int, *, exclusive: bool) -> EntryReply:
        """Create an empty file, or find the one that is there unless `exclusive`."""

    @abstractmethod
    async def mkdir(self, parent: Handle, name: str, mode: int) -> EntryReply:
        """Make a directory."""

    async def symlink(self, parent: Handle, name: str, target: bytes) -> EntryReply:
        """Create a symlink, which nobody follows here. Raises: EOPNOTSUPP where the volume has none."""
        raise _unsupported()

    async def readlink(self, entry: EntryReply) -> bytes:
        """Return the target of a symlink that was looked up. Raises: EINVAL for what is none; as `symlink`."""
        raise _unsupported()

    async def link(self, entry: EntryReply, parent: Handle, name: str) -> EntryReply:
        """Give what was looked up one more name. Raises: EOPNOTSUPP where objects have one name only."""
        raise _unsupported()

    @abstractmethod
    async def unlink(self, parent: Handle, name: str) -> None:
        """Remove a name that is not a directory."""

    @abstractmethod
    async def rmdir(self, parent: Handle, name: str) -> None:
        """Remove an empty directory."""

    @abstractmethod
    async def rename(
        self, parent: Handle, name: str, new_parent: Handle, new_name: str, flags: RenameFlag = RenameFlag.NONE
    ) -> None:
        """Rename as renameat2 does. Raises: EOPNOTSUPP for EXCHANGE where the volume has no such thing."""

    @abstractmethod
    def entries(self, handle: Handle) -> AsyncIterator[DirEntry]:
        """Yield the entries of a directory, with names and attributes as the user sees them."""

    async def examine(self, handle: Handle) -> tuple[list[DirEntry], Sequence[tuple[str, Exception]]]:
        """Return the entries of a directory that are what was written, and what is wrong, by name; "" for the listing itself."""
        return [entry async for entry in self.entries(handle)], []

    # A change of what was looked up returns what is left to do by the table of the file.

    @abstractmethod
    async def setattr(self, entry: EntryReply, change: Setattr) -> Change | Attr | None:
        """Change attributes; `change.size` is none of them here. Returns: also the new ones, where the server tells them."""

    async def xattr_get(self, entry: EntryReply, name: str) -> bytes:
        """Return an extended attribute. Raises: ENODATA; EOPNOTSUPP where the volume has none."""
        raise _unsupported()

    async def xattr_set(self, entry: EntryReply, name: str, value: bytes, mode: XattrMode) -> Change | None:
        """Set an extended attribute. Raises: EEXIST, ENODATA; as `xattr_get`."""
        raise _unsupported()

    async def xattr_list(self, entry: EntryReply) -> list[str]:
        """Return the names of extended attributes. Raises: as `xattr_get`."""
        raise _unsupported()

    async def xattr_remove(self, entry: EntryReply, name: str) -> Change | None:
        """Remove an extended attribute. Raises: as `xattr_get`."""
        raise _unsupported()

    def hides(self, name: str) -> bool:
        """Say whether a name is the volume's own and never shown, in any directory."""
        del name
        return False

    async def tend(self) -> None:  # noqa: B027 (most volumes have nothing of the kind)
        """Do what has to be done as time goes by, until cancelled."""

    def close(self) -> None:  # noqa: B027 (most volumes own nothing)
        """Insist that no memory of the volume is lent any more; called when the connection is closed."""


def _unsupported() -> OSError:
    return OSError(errno.EOPNOTSUPP, "not in a volume of this kind")
