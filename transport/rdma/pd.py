"""Sans-IO. Protection domains: the parent of regions, windows, shared receive queues and queue pairs; owns no memory."""

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transport.rdma.ah import AH, AddressVector
from transport.rdma.dm import DM
from transport.rdma.enums import Access, MrState, MwType
from transport.rdma.errors import VerbsError
from transport.rdma.mr import LOCAL_WRITE, MR, check_access
from transport.rdma.mw import MW
from transport.rdma.qp import QP, QPInit
from transport.rdma.srq import SRQ

if TYPE_CHECKING:
    from transport.rdma.device import Context

__all__ = ["PD"]


class PD:
    """A protection domain; made by `Context.alloc_pd`."""

    __slots__ = ("alive", "children", "context", "device")

    def __init__(self, context: "Context") -> None:
        context.device.count("pd", context.device.profile.max_pd)
        self.context = context
        self.device = context.device
        self.children: dict[str, int] = {}
        self.alive = True

    def count_child(self, kind: str, limit: int) -> None:
        """Account for a new object of the domain.

        Raises: VerbsError ENOMEM at the device's limit, EINVAL after `dealloc`.
        """
        if not self.alive:
            raise VerbsError(errno.EINVAL, "the protection domain is gone")
        self.device.count(kind, limit)
        self.children[kind] = self.children.get(kind, 0) + 1

    def drop_child(self, kind: str) -> None:
        """Account for an object that was destroyed."""
        self.device.uncount(kind)
        self.children[kind] -= 1

    def reg_mr(self, memory: memoryview | bytearray | Sequence[memoryview], access: int, iova: int | None = None) -> MR:
        """Register memory; the device picks an address when `iova` is None, 0 makes it zero-based.

        Raises: VerbsError EINVAL for impossible permissions or no memory, EFAULT when it is read-only but to be written,
        ENOMEM at the device's limit. Ownership: lent until `MR.dereg`.
        """
        check_access(access)
        views = [memoryview(memory).cast("B")] if isinstance(memory, memoryview | bytearray) else list(memory)
        length = sum(len(view) for view in views)
        if not views or length > self.device.profile.max_mr_size:
            raise VerbsError(errno.EINVAL, "no memory to register, or more than the device can")
        if access & LOCAL_WRITE and any(view.readonly for view in views):
            raise VerbsError(errno.EFAULT, "the memory is read-only")
        self._check_odp(access)
        mr = MR(self, fast=False)
        if access & Access.ZERO_BASED:
            iova = 0
        mr.set_memory(views, self.device.new_addr(length) if iova is None else iova)
        if access & Access.ON_DEMAND:
            mr.set_on_demand()
        mr.access = int(access)
        mr.state = MrState.VALID
        return mr

    def alloc_mr(self, max_segs: int) -> MR:
        """Allocate a region for fast registration of up to `max_segs` segments.

        Raises: VerbsError EINVAL beyond the device's page list, ENOMEM at its limit.
        """
        if not 1 <= max_segs <= self.device.profile.max_fast_reg_segs:
            raise VerbsError(errno.EINVAL, "segments of a fast-registration region")
        return MR(self, fast=True, max_segs=max_segs)

    def reg_dm_mr(self, dm: DM, off: int, length: int, access: int) -> MR:
        """Register device memory; such a region is always zero-based.

        Raises: VerbsError EINVAL without ZERO_BASED or outside the memory.
        """
        check_access(access)
        if not access & Access.ZERO_BASED:
            raise VerbsError(errno.EINVAL, "a region over device memory is zero-based")
        if off < 0 or length < 0 or off + length > dm.length:
            raise VerbsError(errno.EINVAL, "the range leaves the device memory")
        mr = self.reg_mr(dm.memory[off : off + length], access)
        mr.dm = dm
        dm.nr_mrs += 1
        return mr

    def reg_implicit_mr(self, access: int) -> MR:
        """Register all memory there is, on demand (address 0, length SIZE_MAX).

        Raises: VerbsError EINVAL without ON_DEMAND, EOPNOTSUPP on a device without it.
        """
        check_access(access)
        if not access & Access.ON_DEMAND:
            raise VerbsError(errno.EINVAL, "an implicit region is on demand")
        self._check_odp(access)
        mr = MR(self, fast=False)
        mr.length = (1 << 64) - 1
        mr.implicit = True
        mr.access = int(access)
        mr.state = MrState.VALID
        return mr

    def _check_odp(self, access: int) -> None:
        if access & Access.ON_DEMAND and not self.device.profile.odp:
            raise VerbsError(errno.EOPNOTSUPP, "the device has no on-demand paging")

    def alloc_mw(self, mw_type: MwType) -> MW:
        """Allocate a memory window.

        Raises: VerbsError EOPNOTSUPP on a device without windows, EINVAL for another type, ENOMEM at its limit.
        """
        if not self.device.profile.mw:
            raise VerbsError(errno.EOPNOTSUPP, "the device has no memory windows")
        if mw_type not in (MwType.TYPE_1, MwType.TYPE_2):
            raise VerbsError(errno.EINVAL, "no such type of window")
        return MW(self, mw_type)

    def create_srq(self, max_wr: int, max_sge: int = 1) -> SRQ:
        """Create a shared receive queue.

        Raises: VerbsError EINVAL for its size, EOPNOTSUPP, ENOMEM at the device's limit.
        """
        return SRQ(self, max_wr, max_sge)

    def create_ah(self, av: AddressVector) -> AH:
        """Create an address handle; see `AH`."""
        return AH(self, av)

    def create_qp(self, init: QPInit) -> QP:
        """Create a queue pair.

        Raises: VerbsError EINVAL for capabilities beyond the device or objects of another device, EOPNOTSUPP for a service
        that is not emulated, ENOMEM at the device's limit.
        """
        return QP(self, init)

    def dealloc(self) -> None:
        """Free the domain. Idempotent.

        Raises: VerbsError EBUSY while anything belongs to it.
        """
        if not self.alive:
            return
        if any(self.children.values()):
            raise VerbsError(errno.EBUSY, "the protection domain has objects")
        self.alive = False
        self.device.uncount("pd")
        self.context.drop(self)
