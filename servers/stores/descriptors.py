"""Trio shell. Open descriptors by key, the least recently used closed first, none closed while somebody works on it.

Thread-safe: a worker may open and so evict while the loop's thread reads from another descriptor.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Descriptor", "Descriptors"]

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True, eq=False)
class Descriptor:
    """An open file; `pins` counts who works on it, `doomed` says it is closed with the last of them."""

    fd: int
    writable: bool
    pins: int = 1
    doomed: bool = False


class Descriptors(Generic[K]):
    """At most `capacity` descriptors, and those that are pinned."""

    def __init__(self, capacity: int) -> None:
        assert capacity > 0
        self._capacity = capacity
        self._lock = threading.Lock()
        self._open: OrderedDict[K, Descriptor] = OrderedDict()

    def pin(self, key: K) -> Descriptor | None:
        """Return the descriptor of a key, which stays open until `unpin`."""
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                found.pins += 1
                self._open.move_to_end(key)
            return found

    def has(self, key: K) -> bool:
        """Tell whether a key's descriptor is open."""
        return key in self._open

    def hold(self, descriptor: Descriptor) -> Descriptor:
        """Pin a descriptor that is somebody else's to close, so that it can be let go like any other."""
        with self._lock:
            descriptor.pins += 1
            return descriptor

    def unpin(self, descriptor: Descriptor) -> None:
        """Let a descriptor go."""
        with self._lock:
            assert descriptor.pins > 0
            descriptor.pins -= 1
            if descriptor.doomed and not descriptor.pins:
                os.close(descriptor.fd)

    def add(self, key: K, fd: int, *, writable: bool) -> Descriptor:
        """Take over a descriptor, which replaces one the key had. Returns: it, pinned."""
        added = Descriptor(fd, writable)
        with self._lock:
            old = self._open.pop(key, None)
            if old is not None:
                self._doom(old)
            self._open[key] = added
            while len(self._open) > self._capacity:
                self._doom(self._open.popitem(last=False)[1])
        return added

    def drop(self, key: K) -> None:
        """Close what a key has, now or when it is let go."""
        with self._lock:
            found = self._open.pop(key, None)
            if found is not None:
                self._doom(found)

    def close(self) -> None:
        """Close all. Asserts that none is pinned."""
        with self._lock:
            assert not any(descriptor.pins for descriptor in self._open.values()), "a descriptor is still in use"
            while self._open:
                self._doom(self._open.popitem()[1])

    def _doom(self, descriptor: Descriptor) -> None:
        descriptor.doomed = True
        if not descriptor.pins:
            os.close(descriptor.fd)
