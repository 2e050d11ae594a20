"""Sans-IO. A small cache of names: which handle a name in a directory had when it was last looked up.

Only directories on the way are taken from it; the last name of a path is always asked for. What it says may be outdated: a walk
that fails after it was believed forgets it and asks again, unless it was asked so lately that the user wants it believed.
Owns no memory.
"""

from collections import OrderedDict

from transport.messages import Handle

__all__ = ["DentryCache"]


class DentryCache:
    """The last `limit` names looked up."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._handles: OrderedDict[tuple[Handle, str], tuple[Handle, float]] = OrderedDict()

    def get(self, parent: Handle, name: str) -> tuple[Handle, float] | None:
        """Return what the name was last, and when."""
        return self._handles.get((parent, name))

    def put(self, parent: Handle, name: str, handle: Handle, now: float) -> None:
        """Remember a name."""
        self._handles[parent, name] = handle, now
        self._handles.move_to_end((parent, name))
        if len(self._handles) > self._limit:
            self._handles.popitem(last=False)

    def forget(self, parent: Handle, name: str) -> None:
        """A name is gone or has changed."""
        self._handles.pop((parent, name), None)

    def clear(self) -> None:
        """Forget all."""
        self._handles.clear()
