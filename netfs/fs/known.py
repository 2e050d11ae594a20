"""Sans-IO. Attributes that leases vouch for: a second look at a name costs nothing while nobody else can have changed it.

A name that is looked up again is worth a lease on its directory and one on what it stands for. While this client holds both, the
server lets nobody change a name in the directory or the object before this client has given them back, so what was seen is still
so, unless it was changed from here: whoever changes something says so before and after (`changing`). What somebody does to a
served folder past its server nobody tells of; therefore what is older than `FRESH_S` is asked for again. Without leases every
look asks the server. Owns no memory.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from transport.messages import EntryReply, FileType, Handle

__all__ = ["FRESH_S", "KnownAttributes"]

FRESH_S: Final = 5.0

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


class KnownAttributes:
    """The last `limit` names looked up. changes: how often something was changed from here."""

    def __init__(self, limit: int, holding: Holding, now: Callable[[], float]) -> None:
        self.changes = 0
        self._now = now
        self._limit = limit
        self._holding = holding
        self._known: OrderedDict[tuple[Handle, str], _Known] = OrderedDict()
        self._names: dict[Handle, tuple[Handle, str]] = {}

    def get(self, parent: Handle, name: str) -> EntryReply | None:
        """Return what a name stands for, if that is certain; the caller's to change."""
        known = self._known.get((parent, name))
        if known is None or known.leases is None:
            return None
        if known.until < self._now() or known.leases != (self._holding(parent), self._holding(known.entry.handle)):
            known.leases = None
            return None
        self._known.move_to_end((parent, name))
        return replace(known.entry, attr=replace(known.entry.attr))

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
    def changing(self, *objects: Handle, names: tuple[tuple[Handle, str], ...] = ()) -> Iterator[None]:
        """Change objects, and names in directories, from here: nothing that is seen meanwhile is certain."""
        self._changed(objects, names)
        try:
            yield
        finally:
            self._changed(objects, names)

    def clear(self) -> None:
        """Forget all."""
        self.changes += 1
        self._known.clear()
        self._names.clear()

    def _changed(self, objects: tuple[Handle, ...], names: tuple[tuple[Handle, str], ...]) -> None:
        for handle in objects:
            self.forget(handle)
        for name in names:
            self.forget(name[0])
            self._drop(name)

    def _drop(self, name: tuple[Handle, str]) -> None:
        known = self._known.pop(name, None)
        if known is not None and self._names.get(known.entry.handle) == name:
            del self._names[known.entry.handle]
