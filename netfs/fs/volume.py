"""Sans-IO. The seam between the client and what its files are: plain ones, or the files of an encrypted volume.

The client walks paths, opens and closes; a `Volume` gives each regular file its operations table and says what size the user
sees. Owns no memory.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netfs.engine.ops import NetfsOps
from transport.messages import Attr, DirEntry, EntryReply, Handle

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

    def idle(self) -> None:
        """Give up memory that can be had again: the last descriptor was closed."""


class Volume(ABC):
    """What kind of files an export holds. rsize, wsize: most bytes of one read or write."""

    rsize: int
    wsize: int

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

    def hides(self, name: str) -> bool:
        """Say whether a name is the volume's own and never shown, in any directory."""
        del name
        return False

    def close(self) -> None:  # noqa: B027 (most volumes own nothing)
        """Insist that no memory of the volume is lent any more; called when the connection is closed."""
