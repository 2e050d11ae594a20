"""Sans-IO. Pins: the caller's memory held in place, by a token its owner releases, for as long as a device may touch it.

Only user-backed iterators take pins; other memory is kept by whoever lent it, and nothing below takes a reference on it. The
owner pins at the top, passes `pin.iter` (a private chain, no longer user-backed) down, and releases when the I/O is complete.

Ownership: a pin is its taker's; `PinLedger.close()` insists that none is left. A bytearray cannot be resized while pinned.
Follows iov_iter_extract_will_pin and FOLL_PIN of Linux.
"""

import errno

from iov.bvec import BioVec, BvecNode, MemType
from iov.iov_iter import ALL_SEGS, IovIter, IterType
from iov.phys import PhysMemory
from iov.walk import take

__all__ = ["Pin", "PinLedger", "extract_will_pin"]


def extract_will_pin(it: IovIter) -> bool:
    """Tell whether the iterator's memory has to be pinned before a device may have it."""
    return it.user_backed


class Pin:
    """A token: memory of a caller, held until `release()`; `views` are its blocks, `iter` stands at its start."""

    __slots__ = ("_ledger", "_node", "iter", "views")

    def __init__(self, ledger: "PinLedger", views: list[memoryview], it: IovIter) -> None:
        self._ledger: PinLedger | None = ledger
        self.views = views
        self._node = node = BvecNode([BioVec(view, 0, len(view)) for view in views], MemType.PINNED)
        # Straight to the chain: the memory was checked when the caller's iterator was made.
        self.iter = IovIter(IterType.BVECQ, it.direction, node.length, None, None, node)

    def release(self) -> None:
        """Let the memory go; iterators over it are refused from here on. Raises: ValueError the second time."""
        ledger, self._ledger = self._ledger, None
        if ledger is None:
            raise ValueError("the pin was released before")
        self._node.release()
        ledger.unpin(self.views)


class PinLedger:
    """The pins of one owner; with a physical memory, pinned pages have addresses in it."""

    __slots__ = ("_phys", "pinned")

    def __init__(self, phys: PhysMemory | None = None) -> None:
        self._phys = phys
        self.pinned = 0

    def pin(self, it: IovIter, max_size: int, max_segs: int = ALL_SEGS) -> Pin:
        """Pin the next bytes of a user-backed iterator and move past them; absent pages are brought in.

        Less is pinned than asked when a page cannot be brought in.
        Raises: ValueError for memory that is not the caller's; OSError(EFAULT) when the first byte cannot be brought in.
        Ownership: the pin is the caller's to release.
        """
        if not extract_will_pin(it):
            raise ValueError(f"{it.iter_type.name} memory is not pinned: its owner keeps it")
        views = self._views(it, max_size, max_segs)
        pin = Pin(self, views, it)
        if self._phys is not None:
            for view in views:
                self._phys.map_user(view)
        self.pinned += 1
        return pin

    def unpin(self, views: list[memoryview]) -> None:
        """Take a pin back; for `Pin.release` alone."""
        self.pinned -= 1
        if self._phys is not None:
            for view in views:
                self._phys.unmap_user(view)

    def close(self) -> None:
        """Insist that every pin was released."""
        assert not self.pinned, f"{self.pinned} pins were not released"

    def _views(self, it: IovIter, max_size: int, max_segs: int) -> list[memoryview]:
        if it.faults is not None:
            present = 0
            ahead = take(it.copy(), max_size, max_segs)
            for view in ahead:
                length = it.faults.fault_in(view)
                present += length
                if length < len(view):
                    break
            if ahead and not present:
                raise OSError(errno.EFAULT, "a page of the caller's memory cannot be brought in")
            max_size = present
        return take(it, max_size, max_segs)
