"""Sans-IO. Shared receive queues: one pool of receives for many queue pairs, with a limit that raises an event once.

A queue pair that fails flushes only the receives it had taken; what is in the shared queue stays. Posted memory is the device's.
"""

import errno
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transport.rdma.enums import EventType
from transport.rdma.errors import VerbsError
from transport.rdma.sge import SGE
from transport.rdma.wr import RecvWR

if TYPE_CHECKING:
    from transport.rdma.pd import PD

__all__ = ["SRQ"]


class SRQ:
    """A shared receive queue; made by `PD.create_srq`."""

    __slots__ = ("alive", "limit", "max_sge", "max_wr", "nr_qps", "pd", "queue")

    def __init__(self, pd: "PD", max_wr: int, max_sge: int) -> None:
        profile = pd.device.profile
        if not profile.srq:
            raise VerbsError(errno.EOPNOTSUPP, "the device has no shared receive queues")
        if not 1 <= max_wr <= profile.max_srq_wr or not 0 <= max_sge <= profile.max_srq_sge:
            raise VerbsError(errno.EINVAL, "size of a shared receive queue")
        pd.count_child("srq", profile.max_srq)
        self.pd = pd
        self.max_wr = max_wr
        self.max_sge = max_sge
        self.limit = 0
        self.nr_qps = 0
        self.queue: deque[RecvWR] = deque()
        self.alive = True

    def post_recv(self, wrs: RecvWR | Sequence[RecvWR]) -> None:
        """Queue memory for incoming messages of any queue pair of the pool.

        Raises: VerbsError with `bad_wr`, ENOMEM when full, EINVAL for too many sges; those in front of it are posted.
        """
        for wr in (wrs,) if isinstance(wrs, RecvWR) else wrs:
            if len(wr.sges) > self.max_sge:
                raise VerbsError(errno.EINVAL, "more sges than max_sge of the shared queue", wr)
            if len(self.queue) >= self.max_wr:
                raise VerbsError(errno.ENOMEM, "the shared receive queue is full", wr)
            if self.pd.device.ledger is not None:
                self.pd.device.ledger.posted_recv(self, wr)
            self.queue.append(RecvWR(wr.wr_id, [SGE(sge.addr, sge.length, sge.lkey, sge.memory) for sge in wr.sges]))

    def take(self) -> RecvWR | None:
        """Take the next receive (the device's side); falling below the limit raises the event and disarms it."""
        if not self.queue:
            return None
        wr = self.queue.popleft()
        if len(self.queue) < self.limit:
            self.limit = 0
            self.pd.context.raise_event(EventType.SRQ_LIMIT_REACHED, self)
        return wr

    def modify(self, max_wr: int | None = None, limit: int | None = None) -> None:
        """Resize, or arm the limit.

        Raises: VerbsError EINVAL for a size below what is queued or beyond the device, for a limit beyond the size.
        """
        size = self.max_wr if max_wr is None else max_wr
        if not max(1, len(self.queue)) <= size <= self.pd.device.profile.max_srq_wr:
            raise VerbsError(errno.EINVAL, "size of a shared receive queue")
        if limit is not None and not 0 <= limit <= size:
            raise VerbsError(errno.EINVAL, "a limit beyond the size of the shared receive queue")
        self.max_wr = size
        if limit is not None:
            self.limit = limit

    def destroy(self) -> None:
        """Destroy the queue. Idempotent.

        Raises: VerbsError EBUSY while queue pairs use it or events of it are not acknowledged.
        """
        if not self.alive:
            return
        if self.nr_qps:
            raise VerbsError(errno.EBUSY, "queue pairs use the shared receive queue")
        self.pd.context.check_acked(self)
        self.alive = False
        if self.pd.device.ledger is not None:
            self.pd.device.ledger.forget_recvs(self)
        self.pd.drop_child("srq")
