"""Sans-IO. Message bodies of links, space in files, extended attributes and the filesystem's numbers. Owns no memory.

As `messages.py`, which gives these and the others their union.
"""

from dataclasses import dataclass
from typing import ClassVar

from transport.opcodes import Handle, Op, Whence, XattrMode

__all__ = [
    "Allocate",
    "CopyRange",
    "Link",
    "Punch",
    "Readlink",
    "Seek",
    "SeekReply",
    "Statfs",
    "StatfsReply",
    "Symlink",
    "TargetReply",
    "XattrGet",
    "XattrList",
    "XattrListReply",
    "XattrRemove",
    "XattrReply",
    "XattrSet",
]


@dataclass(slots=True)
class Link:
    """Give an object that is no directory one more name. Reply: EntryReply."""

    op: ClassVar[Op] = Op.LINK
    handle: Handle
    parent: Handle
    name: str


@dataclass(slots=True)
class Symlink:
    """Create a symbolic link, which the server stores and never follows. Reply: EntryReply."""

    op: ClassVar[Op] = Op.SYMLINK
    parent: Handle
    name: str
    target: bytes


@dataclass(slots=True)
class Readlink:
    """Ask where a symbolic link leads. Reply: TargetReply."""

    op: ClassVar[Op] = Op.READLINK
    handle: Handle


@dataclass(slots=True)
class Allocate:
    """Reserve room for a range; the file grows to hold it unless `keep_size`. Reply: AttrReply."""

    op: ClassVar[Op] = Op.ALLOCATE
    handle: Handle
    pos: int
    length: int
    keep_size: bool = False


@dataclass(slots=True)
class Punch:
    """Make a range a hole; the size stays. Reply: AttrReply."""

    op: ClassVar[Op] = Op.PUNCH
    handle: Handle
    pos: int
    length: int


@dataclass(slots=True)
class Seek:
    """Find the next data or hole at or behind `pos`; the end of the file is a hole. Reply: SeekReply."""

    op: ClassVar[Op] = Op.SEEK
    handle: Handle
    pos: int
    whence: Whence


@dataclass(slots=True)
class CopyRange:
    """Copy a range from file to file on the server; short at the end of the source. Reply: WriteReply, as of unstable writes."""

    op: ClassVar[Op] = Op.COPY_RANGE
    handle: Handle
    pos: int
    target: Handle
    target_pos: int
    length: int


@dataclass(slots=True)
class XattrGet:
    """Reply: XattrReply."""

    op: ClassVar[Op] = Op.XATTR_GET
    handle: Handle
    name: str


@dataclass(slots=True)
class XattrSet:
    """Set an extended attribute. Reply: AttrReply."""

    op: ClassVar[Op] = Op.XATTR_SET
    handle: Handle
    name: str
    value: bytes
    mode: XattrMode = XattrMode.EITHER


@dataclass(slots=True)
class XattrList:
    """Reply: XattrListReply."""

    op: ClassVar[Op] = Op.XATTR_LIST
    handle: Handle


@dataclass(slots=True)
class XattrRemove:
    """Reply: AttrReply."""

    op: ClassVar[Op] = Op.XATTR_REMOVE
    handle: Handle
    name: str


@dataclass(slots=True)
class Statfs:
    """Ask for the room of the filesystem that an object is on. Reply: StatfsReply."""

    op: ClassVar[Op] = Op.STATFS
    handle: Handle


@dataclass(slots=True)
class TargetReply:
    """Where a symbolic link leads, as it was stored."""

    target: bytes


@dataclass(slots=True)
class SeekReply:
    """Where data or hole begins."""

    pos: int


@dataclass(slots=True)
class XattrReply:
    """The value of an extended attribute."""

    value: bytes


@dataclass(slots=True)
class XattrListReply:
    """The names of extended attributes."""

    names: list[str]


@dataclass(slots=True)
class StatfsReply:
    """Room, in blocks of `block_size` bytes, and in files; `available` is what is free for those without privileges."""

    block_size: int
    blocks: int
    free: int
    available: int
    files: int
    files_free: int
    name_max: int
    read_only: bool
