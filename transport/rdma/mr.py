"""Sans-IO. Memory regions: keys, permissions, bounds, and the way from an address to the views that hold its bytes.

A region covers a list of memoryviews at a chosen iova: one buffer, or the segments of an iterator (fast registration with
gaps). The memory is lent by whoever registered it until deregistration or invalidation; the region holds views, never copies.

    iova            iova + length
     |  view 0  |view 1|  view 2 |         starts = [0, 4096, 6000]; off = addr - iova

Checks at use run in the order key, state, PD, permission, bounds (IBA 10.6.3, Linux siw_check_mem and rxe lookup_mr).
"""

import errno
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transport.rdma.enums import Access, MrState, ReregFlag
from transport.rdma.errors import VerbsError

if TYPE_CHECKING:
    from transport.rdma.dm import DM
    from transport.rdma.pd import PD

__all__ = ["KNOWN_ACCESS", "MR", "check_access", "inc_key"]

LOCAL_WRITE = int(Access.LOCAL_WRITE)
REMOTE_MODIFY = int(Access.REMOTE_WRITE | Access.REMOTE_ATOMIC)
PAGE = 4096
OPTIONAL_ACCESS = 0x3FF << 20
KNOWN_ACCESS = sum(int(flag) for flag in Access) | OPTIONAL_ACCESS


def inc_key(key: int) -> int:
    """Return the key of the next life: only the low 8 bits change."""
    return (key & ~0xFF) | ((key + 1) & 0xFF)


def check_access(access: int) -> None:
    """Refuse a set of permissions no region can have.

    Raises: VerbsError EINVAL.
    """
    if access & ~KNOWN_ACCESS:
        raise VerbsError(errno.EINVAL, "unknown access flag")
    if access & REMOTE_MODIFY and not access & LOCAL_WRITE:
        raise VerbsError(errno.EINVAL, "remote write and atomic need local write")


class MR:
    """A memory region; made by `PD.reg_mr` (valid until `dereg`) or `PD.alloc_mr` (fast registration by REG_MR requests)."""

    __slots__ = (
        "access", "alive", "device", "dm", "fast", "faults", "implicit", "iova", "length", "lkey", "max_segs", "nr_windows",
        "pages", "pd", "starts", "state", "views", "whole",
    )  # fmt: skip

    def __init__(self, pd: "PD", fast: bool, max_segs: int = 0) -> None:
        pd.count_child("mr", pd.device.profile.max_mr)
        self.pd = pd
        self.device = pd.device
        self.fast = fast
        self.max_segs = max_segs
        self.lkey = pd.device.new_key(self)
        self.state = MrState.FREE
        self.access = 0
        self.iova = 0
        self.length = 0
        self.nr_windows = 0
        self.dm: DM | None = None
        self.implicit = False
        self.pages: bytearray | None = None
        self.faults = 0
        self.views: list[memoryview] = []
        self.starts: list[int] = []
        self.whole: memoryview | None = None
        self.alive = True

    @property
    def rkey(self) -> int:
        """The key a peer names the region by; the same number as `lkey`, of use only with a remote permission."""
        return self.lkey

    def set_memory(self, views: Sequence[memoryview], iova: int) -> None:
        """Cover the views, in order, from `iova` on. Ownership: lent until `dereg`, the next `set_memory` or an invalidation."""
        self.views = list(views)
        self.iova = iova
        if len(self.views) == 1:
            self.whole = self.views[0]
            self.length = len(self.whole)
            return
        self.whole = None
        self.starts = []
        length = 0
        for view in self.views:
            self.starts.append(length)
            length += len(view)
        self.length = length

    def map_sg(self, views: Sequence[memoryview], iova: int) -> int:
        """Stage the memory of the next REG_MR request; return how many bytes are covered. Gaps between pages are allowed.

        Raises: VerbsError EINVAL on a region made by `reg_mr`, one that is still valid, or on more than `max_segs` segments.
        """
        if not self.fast or self.state != MrState.FREE:
            raise VerbsError(errno.EINVAL, "only a free fast-registration region can be mapped")
        if len(views) > self.max_segs:
            raise VerbsError(errno.EINVAL, "more segments than the region was allocated for")
        self.set_memory(views, iova)
        return self.length

    def set_on_demand(self) -> None:
        """Have every page fault in at its first use, where it is counted."""
        self.pages = bytearray(-(-self.length // PAGE))
        self.starts = [0]
        self.whole = None

    def fault(self, off: int, length: int) -> None:
        """Bring the pages of a range in."""
        assert self.pages is not None
        for page in range(off // PAGE, -(-(off + length) // PAGE)):
            self.faults += not self.pages[page]
            self.pages[page] = 1

    def prefetch(self, addr: int, length: int, no_fault: bool = False) -> None:
        """Advise that a range of an on-demand region will be used; with `no_fault` only what is there already counts.

        Raises: VerbsError EINVAL for a region that is not on demand, EFAULT outside of it.
        """
        if not self.access & Access.ON_DEMAND:
            raise VerbsError(errno.EINVAL, "only an on-demand region takes advice")
        if not self.covers(addr, length):
            raise VerbsError(errno.EFAULT, "the range leaves the region")
        if self.pages is not None and not no_fault:
            self.fault(addr - self.iova, length)

    def append_views(self, addr: int, length: int, out: list[memoryview]) -> bool:
        """Append the views of a range that has been checked; False when there is nothing at an implicit region's address."""
        off = addr - self.iova
        if self.whole is not None:
            out.append(self.whole[off : off + length])
            return True
        if self.implicit:
            view = self.device.find_memory(addr, length)
            if view is None:
                return False
            out.append(view)
            return True
        if self.pages is not None:
            self.fault(off, length)
        index = bisect_right(self.starts, off) - 1
        off -= self.starts[index]
        while length:
            view = self.views[index]
            step = min(length, len(view) - off)
            if step:
                out.append(view[off : off + step])
            length -= step
            off = 0
            index += 1
        return True

    def covers(self, addr: int, length: int) -> bool:
        """Whether the range lies inside."""
        return self.iova <= addr and addr + length <= self.iova + self.length

    def read(self, length: int, off: int = 0) -> bytes:
        """Return a copy of bytes of the region, for programs and tests."""
        out: list[memoryview] = []
        if length:
            self.append_views(self.iova + off, length, out)
        return b"".join(out)  # door: a program looks at its memory

    def write(self, data: bytes, off: int = 0) -> None:
        """Overwrite bytes of the region from the program's side."""
        out: list[memoryview] = []
        if data:
            self.append_views(self.iova + off, len(data), out)
        start = 0
        for view in out:
            view[:] = data[start : start + len(view)]
            start += len(view)

    def set_key(self, key: int) -> None:
        """Take another key of the same index (REG_MR)."""
        if key != self.lkey:
            mrs = self.device.mrs
            del mrs[self.lkey]
            mrs[key] = self
            self.lkey = key

    def invalidate(self) -> None:
        """End the registration; the memory is the owner's again, the region may be registered anew."""
        self.state = MrState.FREE
        self.views = []
        self.whole = None

    def rereg(
        self,
        flags: int,
        pd: "PD | None" = None,
        memory: "memoryview | bytearray | None" = None,
        iova: int | None = None,
        access: int = 0,
    ) -> None:
        """Change memory, domain or permissions of a region made by `reg_mr`, keeping its keys.

        Raises: VerbsError EOPNOTSUPP where not supported, EINVAL for flags or arguments that do not fit, EBUSY with
        windows bound.
        After a failure the region is as it was and still has to be deregistered.
        """
        if not self.device.profile.rereg:
            raise VerbsError(errno.EOPNOTSUPP, "the device cannot re-register")
        if not flags or flags & ~int(ReregFlag.TRANSLATION | ReregFlag.PD | ReregFlag.ACCESS) or self.fast or self.dm is not None:
            raise VerbsError(errno.EINVAL, "nothing that can be re-registered")
        if self.nr_windows:
            raise VerbsError(errno.EBUSY, "a memory window is bound to the region")
        if flags & ReregFlag.ACCESS:
            check_access(access)
        if flags & ReregFlag.PD and (pd is None or pd.device is not self.device):
            raise VerbsError(errno.EINVAL, "no domain of the device")
        if flags & ReregFlag.TRANSLATION:
            if memory is None or not len(memory):
                raise VerbsError(errno.EINVAL, "no memory to register")
            views = [memoryview(memory).cast("B")]
            self.set_memory(views, self.device.new_addr(len(views[0])) if iova is None else iova)
            if self.pages is not None:
                self.set_on_demand()
        if flags & ReregFlag.ACCESS:
            self.access = int(access)
        if flags & ReregFlag.PD and pd is not None:
            pd.count_child("mr", self.device.profile.max_mr + 1)
            self.pd.drop_child("mr")
            self.pd = pd

    def dereg(self) -> None:
        """Deregister. Idempotent.

        Raises: VerbsError EBUSY while a memory window is bound to the region.
        """
        if not self.alive:
            return
        if self.nr_windows:
            raise VerbsError(errno.EBUSY, "a memory window is bound to the region")
        self.alive = False
        self.invalidate()
        self.state = MrState.INVALID
        del self.device.mrs[self.lkey]
        if self.dm is not None:
            self.dm.nr_mrs -= 1
        self.pd.drop_child("mr")
