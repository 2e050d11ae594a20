"""Trio shell. pyverbs.pd: protection domains, their import, parent domains with a program's own allocators. Owns no memory."""

import errno
from collections.abc import Callable, Sequence
from typing import Final

from transport.rdma.enums import MrState
from transport.rdma.pd import PD as Domain  # noqa: N811 - a class
from transport.rdma.pyverbs.base import PyverbsObject
from transport.rdma.pyverbs.device import Context
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError, translated
from transport.rdma.sge import SGE

__all__ = ["PD", "ParentDomain", "ParentDomainContext", "ParentDomainInitAttr"]

USE_DEFAULT: Final = (1 << 64) - 1
QUEUE_BYTES: Final = 4096
PREFETCH_NO_FAULT: Final = 2

Allocator = Callable[["PD", "ParentDomainContext", int, int, int], int]
Freer = Callable[["PD", "ParentDomainContext", int, int], object]


class PD(PyverbsObject):
    """A protection domain, or an import of another context's by its handle."""

    rank = 5

    def __init__(self, creator: Context, handle: int | None = None) -> None:
        super().__init__()
        self.ctx = creator
        self.imported = handle is not None
        if handle is not None:
            shared = creator.objects.get(handle)
            if not isinstance(shared, Domain):
                raise PyverbsRDMAError("Failed to import PD", errno.ENOENT)
            self.pd = shared
            self.handle = handle
        else:
            self.pd = self._make(creator)
            self.handle = creator.remember(self.pd)
        self.hang_on(creator)

    def _make(self, creator: Context) -> Domain:
        with translated("Failed to allocate PD"):
            return creator.handle.alloc_pd()

    def advise_mr(self, advice: int, flags: int, sg_list: Sequence[SGE], num_sge: int = 0) -> None:
        """Prefetch ranges of on-demand regions.

        Raises: PyverbsRDMAError EFAULT or EINVAL for a range or key that does not fit.
        """
        for sge in sg_list:
            mr = self.pd.device.mrs.get(sge.lkey)
            if mr is None or mr.state is not MrState.VALID:
                raise PyverbsRDMAError("Failed to advise MR", errno.EFAULT)
            with translated("Failed to advise MR"):
                mr.prefetch(sge.addr, sge.length, advice == PREFETCH_NO_FAULT)

    def unimport(self) -> None:
        """Give an import up; the domain stays with its owner."""
        self.imported = True

    def queue_memory(self) -> "QueueMemory | None":
        """Return memory for a queue from the program's allocator, if the domain has one."""
        return None

    def destroy(self) -> None:
        """Free the domain."""
        if not self.imported:
            with translated("Failed to dealloc PD"):
                self.pd.dealloc()


class ParentDomainContext:
    """A program's allocators and what they want to remember."""

    def __init__(self, pd: PD, alloc_func: Allocator, free_func: Freer, user_data: object = None) -> None:
        self.pd = pd
        self.p_alloc = alloc_func
        self.p_free = free_func
        self.user_data = user_data


class ParentDomainInitAttr:
    """What a parent domain is made of."""

    def __init__(self, pd: PD, pd_context: ParentDomainContext | None = None) -> None:
        self.pd = pd
        self.pd_context = pd_context


class ParentDomain(PD):
    """A protection domain with allocators for the memory of queues; it shares the domain it was made from."""

    rank = 4

    def __init__(self, creator: Context, attr: ParentDomainInitAttr) -> None:
        self.attr = attr
        super().__init__(creator)
        attr.pd.children.append(self)

    def _make(self, creator: Context) -> Domain:
        return self.attr.pd.pd

    def queue_memory(self) -> "QueueMemory | None":
        """See `PD.queue_memory`."""
        context = self.attr.pd_context
        return None if context is None else QueueMemory(self, context)

    def destroy(self) -> None:
        """Leave the shared domain."""
        if self in self.attr.pd.children:
            self.attr.pd.children.remove(self)


class QueueMemory:
    """Memory of one queue from a program's allocator, which may leave it to the driver."""

    def __init__(self, pd: PD, context: ParentDomainContext) -> None:
        self.pd = pd
        self.context = context
        self.address = context.p_alloc(pd, context, QUEUE_BYTES, QUEUE_BYTES, 0)
        if self.address == 0:
            raise PyverbsRDMAError("The allocator has no memory", errno.ENOMEM)

    def free(self) -> None:
        """Give it back to the program."""
        if self.address != USE_DEFAULT:
            self.context.p_free(self.pd, self.context, self.address, 0)
