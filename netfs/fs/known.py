"""Sans-IO. Attributes that leases vouch for: a second look at a name costs nothing while nobody else can have changed it.

A name that is looked up again is worth a lease on its directory and one on what it stands for. While this client holds both, the
server lets nobody change a name in the directory or the object before this client has given them back, so what was seen is still
so, unless it was changed from here: whoever changes something says so before and after (`changing`), and what the server says
of a directory in the same answer is believed at once. A directory that was made here, or listed as a whole, has no other names
than those, so that a look at one that is not there asks nobody either. What somebody does to a served folder past its server
nobody tells of; therefore what is older than `FRESH_S` is asked for again. Without leases every look asks the server. Owns no
memory.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from transport.messages import Attr, EntryReply, FileType, Handle

__all__ = ["FRESH_S", "Changing", "KnownAttributes"]

FRESH_S: Final = 5.0
MAX_COMPLETE: Final = 256
"""Directories of which all names are known."""
MAX_NAMES: Final = 4096
"""Names of one of them."""

Holding = Callable[[Handle], object]
"""Returns what stands for the lease held on an object, another one when it was lost and given again; None without one."""


@dataclass(slots=True)
class _Known:
    """What a name stood for. leases: those that vouched for it, on the directory and on the object; None: nobody did.

    until: then it is asked for again.
    """

    entry: EntryReply
    leases: tuple[object, object] | None
    until: float


@dataclass(slots=True)
class _Complete:
    """A directory in which no name is but perhaps these. lease: that vouches for it; until: then it is not certain any more."""

    names: set[str]
    lease: object
    until: float


@dataclass(slots=True)
class Changing:
    """A change that is under way. told: what the server said, in its answer, of directories after it."""

    told: dict[Handle, Attr] = field(default_factory=dict)

    def noted(self, directory: Handle, attr: Attr | None) -> None:
        """Note what the server said of a directory, if it did."""
        if attr is not None:
            self.told[directory] = attr


class KnownAttributes:
    """The last `limit` names looked up. changes: how often something was changed from here."""

    def __init__(self, limit: int, holding: Holding, now: Callable[[], float]) -> None:
        self.changes = 0
        self._now = now
        self._limit = limit
        self._holding = holding
        self._known: OrderedDict[tuple[Handle, str], _Known] = OrderedDict()
        self._names: dict[Handle, tuple[Handle, str]] = {}
        self._complete: OrderedDict[Handle, _Complete] = OrderedDict()
        self._under_way = 0

    def get(self, parent: Handle, name: str) -> EntryReply | None:
        """Return what a name stands for, if that is certain; the caller's to change."""
        known = self._certain(parent, name)
        if known is None:
            return None
        self._known.move_to_end((parent, name))
        return replace(known.entry, attr=replace(known.entry.attr))

    def directory(self, parent: Handle, name: str) -> Handle | None:
        """Return the directory that a name stands for, if that is certain."""
        known = self._certain(parent, name)
        return known.entry.handle if known is not None and known.entry.attr.type is FileType.DIRECTORY else None

    def _certain(self, parent: Handle, name: str) -> _Known | None:
        known = self._known.get((parent, name))
        if known is None or known.leases is None:
            return None
        if known.until < self._now() or known.leases != (self._holding(parent), self._holding(known.entry.handle)):
            known.leases = None
            return None
        return known

    def absent(self, parent: Handle, name: str) -> bool:
        """Tell whether it is certain that a directory has no such name."""
        complete = self._complete.get(parent)
        if complete is None or name in complete.names:
            return False
        if complete.until < self._now() or complete.lease is not self._holding(parent):
            del self._complete[parent]
            return False
        return True

    def listed(self, directory: Handle, names: set[str], lease: object, changes: int) -> None:
        """Note that a directory has no other names than these.

        lease: the one that was held on it all the time, None without one; changes: as it was when the look began.
        """
        if lease is None or lease is not self._holding(directory) or changes != self.changes or self._under_way:
            return
        self._complete.pop(directory, None)
        if len(names) <= MAX_NAMES:
            self._complete[directory] = _Complete(names, lease, self._now() + FRESH_S)
            if len(self._complete) > MAX_COMPLETE:
                self._complete.popitem(last=False)

    def handle(self, parent: Handle, name: str) -> Handle | None:
        """Return what a name stood for when it was last looked up; None: it was not, so that nothing is worth a lease yet."""
        known = self._known.get((parent, name))
        return None if known is None else known.entry.handle

    def put(self, parent: Handle, name: str, entry: EntryReply, changes: int | None) -> None:
        """Note what a look gave.

        changes: as it was when the look began, for what was changed from here since may not be in it; None: it is not certain.
        """
        leases = (self._holding(parent), self._holding(entry.handle))
        # A file of several names can change by a name that nobody told us of.
        sole = entry.attr.nlink == 1 or entry.attr.type is FileType.DIRECTORY
        vouched = changes == self.changes and sole and None not in leases
        self._drop((parent, name))
        kept = replace(entry, attr=replace(entry.attr))
        self._known[parent, name] = _Known(kept, leases if vouched else None, self._now() + FRESH_S)
        self._names[entry.handle] = (parent, name)
        if len(self._known) > self._limit:
            self._drop(next(iter(self._known)))

    def forget(self, handle: Handle) -> None:
        """Be certain of an object's attributes no more: it is changed from here."""
        self.changes += 1
        name = self._names.get(handle)
        if name is not None:
            self._known[name].leases = None

    @contextmanager
    def changing(self, *objects: Handle, names: tuple[tuple[Handle, str], ...] = ()) -> Iterator[Changing]:
        """Change objects, and names in directories, from here: nothing that is seen meanwhile is certain.

        What the answer to the change says of a directory is, if it goes into `told` and nothing else is under way.
        """
        before = {name[0]: self._holding(name[0]) for name in names}
        self._changed(objects, names)
        changes = self.changes
        self._under_way += 1
        change = Changing()
        try:
            yield change
        finally:
            self._under_way -= 1
            alone = changes == self.changes and not self._under_way
            self._changed(objects, names)
            if alone:
                for directory, attr in change.told.items():
                    self._refreshed(directory, attr, before.get(directory))

    def _refreshed(self, directory: Handle, attr: Attr, lease: object) -> None:
        """Believe what the server said of a directory after a change. lease: the one that was held on it before."""
        name = self._names.get(directory)
        if name is None or lease is None or lease is not self._holding(directory):
            return
        above = self._holding(name[0])
        if above is not None:
            known = self._known[name]
            known.entry.attr, known.leases, known.until = replace(attr), (above, lease), self._now() + FRESH_S

    def made(self, parent: Handle, name: str, entry: EntryReply) -> None:
        """Note a directory that was just made from here, with a lease: there is nothing in it."""
        self.put(parent, name, entry, self.changes)
        self.listed(entry.handle, set(), self._holding(entry.handle), self.changes)

    def clear(self) -> None:
        """Forget all."""
        self.changes += 1
        self._known.clear()
        self._names.clear()
        self._complete.clear()

    def _changed(self, objects: tuple[Handle, ...], names: tuple[tuple[Handle, str], ...]) -> None:
        for handle in objects:
            self.forget(handle)
        for name in names:
            self.forget(name[0])
            self._drop(name)
            complete = self._complete.get(name[0])
            if complete is not None:
                complete.names.add(name[1])
                if len(complete.names) > MAX_NAMES:
                    del self._complete[name[0]]

    def _drop(self, name: tuple[Handle, str]) -> None:
        known = self._known.pop(name, None)
        if known is not None and self._names.get(known.entry.handle) == name:
            del self._names[known.entry.handle]
