"""Sans-IO. A bounded pool of fast-registration regions; an empty pool is back-pressure for its user, never an error.

A region taken is registered under a new key each life, so that a key of an earlier life matches nothing. The pool owns regions,
not memory: the memory is lent from the REG_MR request until the region was invalidated.
"""

from collections.abc import Sequence

from transport.rdma.mr import MR, inc_key
from transport.rdma.pd import PD

__all__ = ["MrPool"]

MAX_SPAN = 1 << 32


class MrPool:
    """Up to `size` regions of `max_segs` segments each, allocated as they are first needed, over `max_bytes` in all at a time.

    registered: bytes under regions that are out; most: the most there ever were.
    """

    __slots__ = ("bases", "free", "made", "max_bytes", "max_segs", "most", "pd", "registered", "size")

    def __init__(self, pd: PD, size: int, max_segs: int, max_bytes: int) -> None:
        self.pd = pd
        self.size = size
        self.max_segs = max_segs
        self.max_bytes = max_bytes
        self.registered = 0
        self.most = 0
        self.free: list[MR] = []
        self.made: list[MR] = []
        self.bases: dict[MR, int] = {}

    @property
    def available(self) -> int:
        """How many regions can be taken now."""
        return len(self.free) + self.size - len(self.made)

    @property
    def leased(self) -> int:
        """How many are out."""
        return len(self.made) - len(self.free)

    def has_room(self, count: int, length: int) -> bool:
        """Whether so many regions over so many bytes can be taken now."""
        return count <= self.available and self.registered + length <= self.max_bytes

    def take(self, views: Sequence[memoryview]) -> tuple[MR, int]:
        """Take a region, staged over the views, and the key its REG_MR request is to give it."""
        if self.free:
            mr = self.free.pop()
        else:
            assert len(self.made) < self.size, "the caller asks `has_room` first"
            mr = self.pd.alloc_mr(self.max_segs)
            self.made.append(mr)
            self.bases[mr] = self.pd.device.new_addr(MAX_SPAN)
        mr.map_sg(views, self.bases[mr])
        self.registered += mr.length
        self.most = max(self.most, self.registered)
        return mr, inc_key(mr.lkey)

    def give_back(self, mr: MR) -> None:
        """Take back a region that was invalidated."""
        self.registered -= mr.length
        self.free.append(mr)

    def retire(self, mr: MR) -> None:
        """Deregister a region that is out, at once; another may be made in its place."""
        self.registered -= mr.length
        self.made.remove(mr)
        del self.bases[mr]
        mr.dereg()

    def destroy(self) -> None:
        """Deregister every region, whatever its state: the memory is fenced when this returns."""
        for mr in self.made:
            mr.dereg()
        self.made.clear()
        self.free.clear()
        self.bases.clear()
        self.registered = 0
