"""Sans-IO. Which pages of the caller's memory are absent: the reason a copy can end early, and a pin can fail.

A model is hung on a user-backed iterator (`it.faults = model`); copies then stop exactly in front of the first absent byte, as
copy_from_user does with page faults disabled, and `fault_in` brings pages back unless they were poisoned.
Owns no memory; it keeps addresses, so the memory named must outlive the model. Follows fault_in_iov_iter_readable of Linux.
"""

from iov.address import address_of
from iov.bvec import PAGE_SIZE

__all__ = ["FaultModel"]


class FaultModel:
    """A set of absent granules of `granule` bytes each, by default pages."""

    __slots__ = ("_absent", "_poisoned", "granule")

    def __init__(self, granule: int = PAGE_SIZE) -> None:
        if granule <= 0:
            raise ValueError("a granule has at least one byte")
        self.granule = granule
        self._absent: set[int] = set()
        self._poisoned: set[int] = set()

    def evict(self, view: memoryview) -> None:
        """Make the granules the view touches absent until they are faulted in."""
        self._absent.update(self._granules(view))

    def poison(self, view: memoryview) -> None:
        """Make the granules the view touches absent for ever."""
        self._poisoned.update(self._granules(view))

    def present(self, view: memoryview) -> int:
        """Return how many bytes at the front of the view can be touched."""
        return self._front(view, self._absent | self._poisoned)

    def fault_in(self, view: memoryview) -> int:
        """Bring in what can be. Returns: how many bytes at the front can be touched now."""
        length = self._front(view, self._poisoned)
        self._absent.difference_update(self._granules(view[:length]))
        return length

    def _granules(self, view: memoryview) -> range:
        if not len(view):
            return range(0)
        start = address_of(view)
        return range(start // self.granule, (start + len(view) - 1) // self.granule + 1)

    def _front(self, view: memoryview, missing: set[int]) -> int:
        for granule in self._granules(view) if missing else ():
            if granule in missing:
                return max(0, granule * self.granule - address_of(view))
        return len(view)
