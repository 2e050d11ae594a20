"""Sans-IO. Page-aligned memory for landing areas and bounces, leased and given back.

Every slot is a mapping of its own that starts on a page and has a page of slack behind it, for a cipher's tail. Aligned slots
also keep memcpy away from the copies whose addresses differ by 1 to 31 modulo a page, which are more than ten times slower.
Slots come back unzeroed, last one first, so that the next lease finds warm memory.

Ownership: the pool owns the mappings; a lease lends one until `release()`; `close()` insists that none is out.
"""

import mmap

from iov.bvec import PAGE_SIZE
from iov.debug import debugging
from iov.probe import Probe

__all__ = ["BufferPool", "Lease"]

TAIL_SLACK = PAGE_SIZE
MAX_KEPT_LARGE = 8
POISON = memoryview(b"\xdb" * 65536)


class Lease:
    """A slot lent out; `view` is its first `length` bytes."""

    __slots__ = ("_memory", "_pool", "view")

    def __init__(self, pool: "BufferPool", memory: memoryview, length: int) -> None:
        self._pool = pool
        self._memory: memoryview | None = memory
        self.view = memory[:length]

    def view_with_tail(self, length: int) -> memoryview:
        """Return the view made longer by `length` bytes, at most TAIL_SLACK."""
        if self._memory is None:
            raise ValueError("the lease was given back")
        if not 0 <= length <= TAIL_SLACK:
            raise ValueError(f"a tail has at most {TAIL_SLACK} bytes")
        return self._memory[: len(self.view) + length]

    def release(self) -> None:
        """Give the slot back; in debug mode the view is dead and the memory overwritten. Raises: ValueError the second time."""
        memory, self._memory = self._memory, None
        if memory is None:
            raise ValueError("the lease was given back before")
        if debugging():
            for start in range(0, len(self.view), len(POISON)):
                piece = self.view[start : start + len(POISON)]
                piece[:] = POISON[: len(piece)]
            self.view.release()
        self._pool.put_back(memory)


class BufferPool:
    """Lease memory of any length; up to `max_slots` slots of `slot_size` bytes are kept between leases, and a few larger ones."""

    __slots__ = ("_closed", "_free", "_kept_large", "_large", "_max_slots", "_slot_size", "leased", "probe")

    def __init__(self, probe: Probe, slot_size: int, max_slots: int) -> None:
        if slot_size <= 0 or max_slots < 0:
            raise ValueError("a pool needs a positive slot size and no negative number of slots")
        self.probe = probe
        self.leased = 0
        self._slot_size = slot_size
        self._max_slots = max_slots
        self._free: list[memoryview] = []
        self._large: dict[int, list[memoryview]] = {}
        self._kept_large = 0
        self._closed = False

    def get(self, length: int) -> Lease:
        """Lease `length` bytes that start on a page; what they hold is left from the last use.

        Ownership: the caller's until `release()`.
        """
        if length < 0 or self._closed:
            raise ValueError("the pool is closed" if self._closed else "a negative length")
        self.leased += 1
        if length <= self._slot_size:
            if self._free:
                return Lease(self, self._free.pop(), length)
            return Lease(self, self._map(self._slot_size), length)
        size = 1 << (length - 1).bit_length()
        kept = self._large.get(size)
        if kept:
            self._kept_large -= 1
            return Lease(self, kept.pop(), length)
        return Lease(self, self._map(size), length)

    def put_back(self, memory: memoryview) -> None:
        """Take a slot back; for `Lease.release` alone."""
        self.leased -= 1
        size = len(memory) - TAIL_SLACK
        if self._closed:
            return
        if size == self._slot_size:
            if len(self._free) < self._max_slots:
                self._free.append(memory)
        elif self._kept_large < MAX_KEPT_LARGE:
            self._kept_large += 1
            self._large.setdefault(size, []).append(memory)

    def close(self) -> None:
        """Forget all memory. Raises: AssertionError when a lease is still out."""
        assert not self.leased, f"{self.leased} leases were not given back"
        self._closed = True
        self._free.clear()
        self._large.clear()

    def _map(self, size: int) -> memoryview:
        self.probe.bounced(size)
        return memoryview(mmap.mmap(-1, size + TAIL_SLACK))
