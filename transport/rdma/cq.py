"""Sans-IO. Completion queues and completion channels: capacity, overrun, one-shot arming, events that must be acknowledged.

Arming a queue that already holds completions does not fire: the order is always arm, poll again, sleep. Owns no memory.
"""

import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from transport.rdma.enums import EventType, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.wr import WC

if TYPE_CHECKING:
    from transport.rdma.device import Context
    from transport.rdma.qp import QP

__all__ = ["CQ", "CompChannel"]

_SUCCESS = int(WcStatus.SUCCESS)
_UNARMED, _SOLICITED, _ANY = 0, 1, 2


class CompChannel:
    """A queue of completion events of one or more CQs; `on_event` is called after an event was queued."""

    __slots__ = ("alive", "context", "events", "nr_cqs", "on_event")

    def __init__(self, context: "Context", on_event: Callable[[], None] | None = None) -> None:
        self.context = context
        self.events: deque[CQ] = deque()
        self.nr_cqs = 0
        self.on_event = on_event
        self.alive = True

    def get_event(self) -> "CQ | None":
        """Take the next event: the queue it is for, or None. Each must be acknowledged by `CQ.ack_events`."""
        if not self.events:
            return None
        cq = self.events.popleft()
        cq.unacked += 1
        return cq

    def destroy(self) -> None:
        """Destroy the channel. Idempotent.

        Raises: VerbsError EBUSY while a CQ uses it.
        """
        if self.alive and self.nr_cqs:
            raise VerbsError(errno.EBUSY, "completion queues use the channel")
        if self.alive:
            self.alive = False
            self.context.drop(self)


class CQ:
    """A completion queue; made by `Context.create_cq`."""

    __slots__ = (
        "alive", "armed", "broken", "channel", "context", "cqe", "device", "entries", "held", "lose_events", "nr_users", "qps",
        "unacked",
    )  # fmt: skip

    def __init__(self, context: "Context", cqe: int, channel: CompChannel | None = None, comp_vector: int = 0) -> None:
        profile = context.device.profile
        if not 1 <= cqe <= profile.max_cqe:
            raise VerbsError(errno.EINVAL, "entries of a completion queue")
        if not 0 <= comp_vector < profile.num_comp_vectors:
            raise VerbsError(errno.EINVAL, "completion vector")
        context.device.count("cq", profile.max_cq)
        self.context = context
        self.device = context.device
        self.cqe = cqe
        self.channel = channel
        self.entries: deque[WC] = deque()
        self.armed = _UNARMED
        self.broken = False
        self.held: list[tuple[WC, bool]] | None = None
        self.lose_events = 0
        self.unacked = 0
        self.nr_users = 0
        self.qps: list[QP] = []
        self.alive = True
        if channel is not None:
            channel.nr_cqs += 1

    def push(self, wc: WC, solicited: bool = False) -> None:
        """Add a completion (the device's side). On overrun it is lost, and every queue pair of the queue goes to ERR."""
        if self.held is not None:
            self.held.append((wc, solicited))
            return
        if len(self.entries) >= self.cqe or self.broken:
            self.overrun()
            return
        self.entries.append(wc)
        if self.armed and (self.armed == _ANY or solicited or wc.status != _SUCCESS):
            self._fire()

    def _fire(self) -> None:
        self.armed = _UNARMED
        if self.lose_events:
            self.lose_events -= 1
            return
        channel = self.channel
        if channel is not None:
            channel.events.append(self)
            if channel.on_event is not None:
                channel.on_event()

    def overrun(self) -> None:
        """Break the queue: an event on it, and every queue pair of it goes to ERR."""
        if self.broken:
            return
        self.broken = True
        self.context.raise_event(EventType.CQ_ERR, self)
        for qp in list(self.qps):
            qp.fail(EventType.QP_FATAL)

    def poll(self, count: int = 1) -> list[WC]:
        """Take up to `count` completions; polling a signaled send frees its slots of the send queue."""
        entries = self.entries
        if not entries:
            return []
        if count >= len(entries):
            out = list(entries)
            entries.clear()
        else:
            out = [entries.popleft() for _ in range(count)]
        for wc in out:
            if wc.slots and wc.qp is not None:
                wc.qp.requester.used -= wc.slots
        return out

    def req_notify(self, solicited_only: bool = False) -> None:
        """Arm for one event: any completion, or only solicited and failed ones. Two arms are or-ed."""
        self.armed = max(self.armed, _SOLICITED if solicited_only else _ANY)

    def ack_events(self, count: int) -> None:
        """Acknowledge events taken from the channel.

        Raises: VerbsError EINVAL for more than were delivered.
        """
        if count > self.unacked:
            raise VerbsError(errno.EINVAL, "more events acknowledged than delivered")
        self.unacked -= count

    def resize(self, cqe: int) -> None:
        """Change the capacity.

        Raises: VerbsError EINVAL below the completions it holds or beyond the device, EOPNOTSUPP where not supported.
        """
        if not self.device.profile.resize_cq:
            raise VerbsError(errno.EOPNOTSUPP, "the device cannot resize")
        if not max(1, len(self.entries)) <= cqe <= self.device.profile.max_cqe:
            raise VerbsError(errno.EINVAL, "entries of a completion queue")
        self.cqe = cqe

    def purge(self, qp: "QP") -> None:
        """Drop the completions of a queue pair that was reset or destroyed."""
        self.entries = deque(wc for wc in self.entries if wc.qp is not qp)

    def destroy(self) -> None:
        """Destroy the queue. Idempotent.

        Raises: VerbsError EBUSY while queue pairs use it, or while events are not acknowledged (a driver would block).
        """
        if not self.alive:
            return
        if self.nr_users:
            raise VerbsError(errno.EBUSY, "queue pairs use the completion queue")
        if self.unacked:
            raise VerbsError(errno.EBUSY, "events of the completion queue are not acknowledged")
        self.alive = False
        if self.channel is not None:
            self.channel.nr_cqs -= 1
            self.channel.events = deque(cq for cq in self.channel.events if cq is not self)
        self.device.uncount("cq")
        self.context.drop(self)
