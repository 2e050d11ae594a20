"""Trio shell. Bugs of the server and its store. Owns no memory."""

from typing import Any

from servers.sharing import Sharing
from servers.stores.extents import Extents
from servers.stores.memory import MemoryStore
from servers.stores.memory_inode import Directory
from transport.base import Landing
from transport.messages import Attr, DirEntry, Handle
from trials.sim.patches import Patches
from trials.zoo.bug import bug

__all__: list[str] = []


@bug("commit-lies", "servers", "database", kinds=("S11", "S20"))
def _commit(patches: Patches) -> None:
    """COMMIT answers without making anything durable."""
    patches.set(MemoryStore, "commit", lambda self, handle: self._file(handle) and None)


@bug("change-is-not-counted", "servers", "sharing")
def _change(patches: Patches) -> None:
    """A write does not move the change attribute, by which other clients notice it."""
    patches.set(MemoryStore, "_touch", lambda self, inode: None)


@bug("lease-is-not-recalled", "servers", "sharing", operations=30, leases=1)
def _recall(patches: Patches) -> None:
    """A client that changes a file does not have the leases of others called back."""
    patches.set(Sharing, "free", lambda self, session, request: True)


@bug("rename-leaves-the-old-name", "servers", "metadata")
def _rename(patches: Patches) -> None:
    """The old name is still there after a rename."""
    rename = MemoryStore.rename

    def renamed(self: MemoryStore, parent: Handle, name: str, new_parent: Handle, new_name: str, *flags: Any) -> None:
        directory = self._directory(parent)
        child = self._child(directory, name)
        rename(self, parent, name, new_parent, new_name, *flags)
        if name != new_name:
            directory.put(name, child)

    patches.set(MemoryStore, "rename", renamed)


@bug("listing-stops-short", "servers", "metadata")
def _listing(patches: Patches) -> None:
    """The last of several entries of a directory is not listed."""
    readdir = MemoryStore.readdir

    def listed(self: MemoryStore, handle: Handle, cookie: int, count: int) -> tuple[list[DirEntry], bool]:
        entries, eof = readdir(self, handle, cookie, count)
        return (entries[:-1] if len(entries) > 2 else entries), eof

    patches.set(MemoryStore, "readdir", listed)


@bug("punch-takes-whole-pages", "servers", "fsx")
def _punch(patches: Patches) -> None:
    """A hole is rounded up to whole pages, over bytes that were to stay."""
    punch = MemoryStore.punch

    def punched(self: MemoryStore, handle: Handle, pos: int, length: int) -> Attr:
        start, end = pos & ~0xFFF, (pos + length + 0xFFF) & ~0xFFF
        return punch(self, handle, start, end - start)

    patches.set(MemoryStore, "punch", punched)


@bug("old-bytes-behind-the-end", "servers", "fsx")
def _scrub(patches: Patches) -> None:
    """A file that is cut keeps the bytes behind its end, and shows them when it grows again."""

    def kept(self: Extents, start: int, end: int) -> None:
        del self, start, end

    patches.set(Extents, "_scrub", kept)


@bug("verifier-outlives-a-crash", "servers", "fsx", first=36, kinds=("S11", "S20"))
def _stable(patches: Patches) -> None:
    """The write verifier stays the same over a crash that lost data, so that no client writes it again."""
    crash = MemoryStore.crash

    def crashed(self: MemoryStore, survives: Any = None) -> None:
        before = self.verifier
        crash(self, survives)
        self.verifier = before

    patches.set(MemoryStore, "crash", crashed)


@bug("write-lands-a-page-early", "servers", "sharing")
def _misplaced(patches: Patches) -> None:
    """A long write that does not begin at a page is put at the beginning of its page."""
    landing = MemoryStore.write_landing
    write = MemoryStore.write

    def early(pos: int, length: int) -> int:
        return pos & ~0xFFF if length > 8192 else pos

    def landed(self: MemoryStore, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Landing:
        return landing(self, handle, pos if aux else early(pos, length), length, aux=aux)

    def written(self: MemoryStore, handle: Handle, pos: int, landed: Any, *, stable: bool, aux: bool = False) -> int:
        span = getattr(landed, "span", (pos, pos))
        return write(self, handle, pos if aux else span[0], landed, stable=stable, aux=aux)

    patches.set(MemoryStore, "write_landing", landed)
    patches.set(MemoryStore, "write", written)


@bug("unlink-takes-the-neighbour", "servers", "metadata")
def _unlink(patches: Patches) -> None:
    """Where there is another name of the file, removing one removes the other."""
    remove = MemoryStore._remove

    def removed(self: MemoryStore, directory: Directory, name: str, child: Any) -> None:
        others = [other for other, (_, found) in directory.entries.items() if found is child and other != name]
        remove(self, directory, others[0] if others else name, child)

    patches.set(MemoryStore, "_remove", removed)
