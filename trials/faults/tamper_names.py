"""Trio shell. Lies about names: swapped, left out, brought back, made up, in other directories, in other spellings.

Memory: the answers they are given are copies, and theirs to change.
"""

import errno
import os
from dataclasses import replace

from transport.messages import DirEntry, EntryReply, FileType, Handle
from trials.faults.tamper import Attack, attack


def not_there(name: str) -> OSError:
    """Return the error for a name that is not there."""
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)


class NameAttack(Attack):
    """A lie about entries of one kind in one directory."""

    kind = FileType.FILE

    def entries_of(self, parent: Handle) -> list[DirEntry]:
        """Return the entries of a directory that can be lied about, in the server's order."""
        entries, _ = self.server.inner.readdir(parent, 0, 1 << 20)
        return [entry for entry in entries if entry.attr.type is self.kind and not entry.name.startswith(".")]


@attack
class SwapNames(NameAttack):
    """A12."""

    ID = "A12"
    TEXT = "exchange what two names stand for: two files of one directory, or with one of another directory"
    VARIANTS = ("one-directory", "two-directories", "directories", "own certificate")

    def partner(self, parent: Handle, name: str) -> DirEntry | None:
        """Return the entry to show in place of a name."""
        self.kind = FileType.DIRECTORY if self.variant == "directories" else FileType.FILE
        if self.variant == "two-directories":
            folders = [each for each, past in self.server.kept.items() if past and past[-1].listing and each != parent]
            return next((entry for folder in folders for entry in self.entries_of(folder)), None)
        entries = self.entries_of(parent)
        names = [entry.name for entry in entries]
        if name not in names or len(names) < 2:
            return None
        return entries[names.index(name) ^ 1] if names.index(name) ^ 1 < len(entries) else None

    def lookup(self, parent: Handle, name: str, found: EntryReply) -> EntryReply:
        partner = self.partner(parent, name) if found.attr.type is not FileType.SYMLINK else None
        if partner is None or partner.attr.type is not found.attr.type:
            return found
        self.strike()
        record, generation = self.server.inner.record_get(partner.handle)
        return EntryReply(partner.handle, partner.attr, record, generation, self.certificate(found, partner))

    def certificate(self, found: EntryReply | DirEntry, partner: DirEntry) -> bytes:
        """Return the certificate that is shown: the name's own, or the one that belongs to the other object."""
        return found.certificate if self.variant.endswith("own certificate") else partner.certificate

    def listing(self, handle: Handle, entries: list[DirEntry]) -> list[DirEntry]:
        shown: list[DirEntry] = []
        for entry in entries:
            partner = self.partner(handle, entry.name)
            if partner is not None and partner.attr.type is entry.attr.type and self.aims_at(entry.handle):
                self.strike()
                shown_as = self.certificate(entry, partner)
                entry = replace(partner, name=entry.name, cookie=entry.cookie, certificate=shown_as)
            shown.append(entry)
        return shown


@attack
class LeaveOut(NameAttack):
    """A15."""

    ID = "A15"
    TEXT = "leave an entry out of a listing, or say that a name is not there"
    VARIANTS = ("listing", "lookup", "both")

    def lookup(self, parent: Handle, name: str, found: EntryReply) -> EntryReply:
        if self.variant == "listing" or found.attr.type is not FileType.FILE:
            return found
        self.strike()
        raise not_there(name)

    def listing(self, handle: Handle, entries: list[DirEntry]) -> list[DirEntry]:
        files = [entry for entry in entries if entry.attr.type is FileType.FILE and self.aims_at(entry.handle)]
        files = [entry for entry in files if not entry.name.startswith(".")]
        if self.variant == "lookup" or not files:
            return entries
        self.strike()
        return [entry for entry in entries if entry is not files[0]]


@attack
class BadNames(NameAttack):
    """A17."""

    ID = "A17"
    TEXT = "list a name in another spelling, of another directory, or one that would lead out of it"
    VARIANTS = ("garbage", "line-end", "padding", "case", "dots", "slash", "nul", "empty", "foreign", "twice")

    def listing(self, handle: Handle, entries: list[DirEntry]) -> list[DirEntry]:
        files = [entry for entry in entries if entry.attr.type is FileType.FILE and not entry.name.startswith(".")]
        if not files:
            return entries
        name = files[0].name
        folders = [each for each, past in self.server.kept.items() if past and past[-1].listing and each != handle]
        foreign = next((entry.name for folder in folders for entry in self.entries_of(folder)), name[::-1])
        lie = {
            "garbage": "%%%" + name[3:],
            "line-end": name + "\r\n",
            "padding": name + "==",
            "case": name.swapcase(),
            "dots": "..",
            "slash": name[:4] + "/" + name[4:],
            "nul": name[:4] + "\0" + name[4:],
            "empty": "",
            "foreign": foreign,
            "twice": name,
        }[self.variant]
        self.strike()
        if self.variant == "twice":
            return [*entries, replace(files[0])]
        return [replace(entry, name=lie) if entry is files[0] else entry for entry in entries]


@attack
class InjectFolder(NameAttack):
    """A18."""

    ID = "A18"
    TEXT = "add a directory that is a copy of one in the volume"
    kind = FileType.DIRECTORY

    def listing(self, handle: Handle, entries: list[DirEntry]) -> list[DirEntry]:
        mine = [entry for entry in entries if entry.attr.type is self.kind and not entry.name.startswith(".")]
        return entries if not mine else self.added(entries, mine[0])

    def added(self, entries: list[DirEntry], model: DirEntry) -> list[DirEntry]:
        """Return a listing with a copy of an entry under a name that looks like the others."""
        self.strike()
        return [*entries, replace(model, name=model.name[::-1])]


@attack
class InjectFile(InjectFolder):
    """A19."""

    ID = "A19"
    TEXT = "add a file made of known pieces, to make its owner responsible for it"
    kind = FileType.FILE


@attack
class Resurrect(NameAttack):
    """A45."""

    ID = "A45"
    TEXT = "bring a removed file back, in the listing and by its name"

    def gone(self, parent: Handle) -> list[DirEntry]:
        """Return entries that were there once and are not now."""
        now = {entry.name for entry in self.server.inner.readdir(parent, 0, 1 << 20)[0]}
        past = {entry.name: entry for kept in self.server.versions(parent) for entry in kept.listing}
        return [entry for name, entry in past.items() if name not in now]

    def missed(self, parent: Handle, name: str, error: OSError) -> EntryReply:
        for entry in self.gone(parent):
            if entry.name == name:
                self.strike()
                return EntryReply(entry.handle, entry.attr, entry.record or b"", 1, entry.certificate)
        raise error

    def listing(self, handle: Handle, entries: list[DirEntry]) -> list[DirEntry]:
        gone = [replace(entry) for entry in self.gone(handle)]
        if gone:
            self.strike()
        return [*entries, *gone]
