"""Sans-IO. The two sides a copy can have, behind one interface: this machine's files and a server's.

A sink writes to a temporary name beside its target and renames at the end, so a copy that fails leaves nothing under the name.
Every error leaves as a `CommandError` that knows which side failed. Buffers are the caller's, lent for the length of a call.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Final

from netfs.cli.place import Place

__all__ = ["PERMISSIONS", "Item", "Kind", "Side", "Sink", "Source"]

PERMISSIONS: Final = 0o777
"""What a copy keeps of a mode: a server must not be able to plant a set-user-id program."""


class Kind(Enum):
    """What a name stands for."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "special file"


@dataclass(frozen=True, slots=True)
class Item:
    """A name and what a copy must know of it. mode: permission bits; size: bytes; mtime_ns: None where it is not to be kept."""

    name: str
    kind: Kind
    mode: int
    size: int
    mtime_ns: int | None = None


class Source(ABC):
    """A file being read."""

    @abstractmethod
    async def read_into(self, view: memoryview, pos: int) -> int:
        """Fill `view` from `pos`, short only at the end of the file. Returns: bytes."""

    async def data(self, pos: int, length: int) -> list[tuple[int, int]]:
        """Return where in a range there is data, as (pos, length); the rest are holes, which read as zeros."""
        return [(pos, length)]

    @abstractmethod
    async def aclose(self) -> None:
        """Give the file back."""


class Sink(ABC):
    """A file being written under a temporary name. One that may be resumed goes on with what an earlier one has left there."""

    @abstractmethod
    async def write(self, view: memoryview, pos: int) -> None:
        """Write all of `view` at `pos`."""

    async def copy_from(self, source: Source, pos: int, length: int) -> bool:
        """Have a range of another file copied where both are, without its bytes coming here. Returns: whether that was done."""
        return False

    @abstractmethod
    async def reach_size(self) -> None:
        """Make the file as long as it is to be, where what is behind its last data is a hole."""

    @abstractmethod
    async def read_back(self, view: memoryview, pos: int) -> int:
        """Fill `view` with what has been written at `pos`, short where there is nothing. Returns: bytes."""

    @abstractmethod
    async def aclose(self) -> None:
        """Leave the unfinished file as it is, to be resumed."""

    @abstractmethod
    async def commit(self) -> None:
        """Give the finished file its name."""

    @abstractmethod
    async def discard(self) -> None:
        """Remove the unfinished file; harmless after an unsuccessful commit."""


class Side(ABC):
    """Where files are copied from or to."""

    @abstractmethod
    async def find(self, place: Place) -> Item | None:
        """Return what is there, None when nothing is; symlinks on this machine are followed."""

    @abstractmethod
    async def entries(self, place: Place) -> list[Item]:
        """List a directory in order of names."""

    @abstractmethod
    async def make_directory(self, place: Place, mode: int, *, top: bool = True) -> None:
        """Create a directory; one that exists is as good, and so is a symlink to one only at the top of what is copied."""

    @abstractmethod
    async def read_link(self, place: Place) -> str:
        """Return what a symlink says."""

    @abstractmethod
    async def make_link(self, place: Place, text: str, temporary: str) -> None:
        """Make a symlink that says `text`; a file or symlink that has its name is replaced."""

    @abstractmethod
    def source(self, place: Place) -> Source:
        """Prepare to read a file; the first read opens it."""

    @abstractmethod
    def sink(self, place: Place, item: Item, temporary: str, *, resumed: bool = False) -> Sink:
        """Prepare to write a file that is to be like `item`; the first use creates it as `temporary` in the same folder.

        resumed: it may be there already.
        """

    @abstractmethod
    async def remove(self, place: Place, item: Item) -> None:
        """Remove what is there, a directory with all it holds."""
