"""Trio shell. A directory of an encrypted volume in use, and what is found in one.

What a whole listing has shown, verified against the directory's record, is remembered as long as the record is the same: then
the server cannot deny one of its names, nor show another. Owns no memory.
"""

from dataclasses import dataclass, field
from typing import Final

import trio

from crypto.names import Entry, Names
from crypto.record import NOBODY, Folder, Kind, Record
from transport.messages import Attr, EntryReply, FileType, Handle

__all__ = ["Found", "SealedFolder", "attr_of"]

LISTED_MAX: Final = 4096
"""Names of one directory that are remembered, at most."""
TYPES: Final = {Kind.FILE: FileType.FILE, Kind.DIRECTORY: FileType.DIRECTORY, Kind.SYMLINK: FileType.SYMLINK}


@dataclass(slots=True, eq=False)
class SealedFolder:
    """A directory in use. record, sealed, generation: as this client knows them; lock: one change at a time from here."""

    handle: Handle
    record: Record
    sealed: bytes
    generation: int
    names: Names
    lock: trio.Lock = field(default_factory=trio.Lock)
    _listed: frozenset[str] = frozenset()
    _listed_at: bytes = b""

    @property
    def folder(self) -> Folder:
        """What the record says of the entries."""
        assert self.record.folder is not None
        return self.record.folder

    def was_listed(self, sealed: bytes, shown: list[str]) -> None:
        """All names were seen and verified against this record; of directories that are too large they are not kept."""
        fits = len(shown) <= LISTED_MAX
        self._listed, self._listed_at = (frozenset(shown), sealed) if fits else (frozenset(), b"")

    def knows_of(self, shown: str) -> bool | None:
        """Say whether there is a name, as far as a listing of the directory as it is now has shown; None: not known."""
        return shown in self._listed if self._listed_at == self.sealed else None


@dataclass(frozen=True, slots=True)
class Found:
    """A name looked up and verified: the entry, the object's record, and what the server said."""

    entry: Entry
    record: Record
    reply: EntryReply


def attr_of(attr: Attr, record: Record) -> Attr:
    """Return attributes as the record has them; what only the server knows is the server's word."""
    attr.type = TYPES[record.kind]
    if record.kind is not Kind.DIRECTORY:
        attr.size = record.size
    attr.mode = record.mode
    attr.mtime_ns, attr.ctime_ns = record.mtime_ns, record.ctime_ns
    if record.uid != NOBODY:
        attr.uid = record.uid
    if record.gid != NOBODY:
        attr.gid = record.gid
    return attr
