"""Sans-IO. A device on a fabric and the contexts opened on it: key, address and queue number spaces, limits, async events.

Numbers are handed out in order, never at random and never from real addresses, so that a run repeats. Owns no memory.
"""

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from transport.rdma.cq import CQ, CompChannel
from transport.rdma.dm import DM
from transport.rdma.enums import EventType
from transport.rdma.errors import VerbsError
from transport.rdma.mr import MR
from transport.rdma.mw import MW
from transport.rdma.pd import PD
from transport.rdma.profiles import RXE, DeviceProfile
from transport.rdma.qp import QP

if TYPE_CHECKING:
    from transport.rdma.control import Control
    from transport.rdma.ledgers import Ledger
    from transport.rdma.memory_fabric import MemoryFabric
    from transport.rdma.placement import Placement

__all__ = ["AsyncEvent", "Context", "Device"]

PAGE = 4096
KEY_INDEXES = 0x40000


class Child(Protocol):
    """What a context closes."""

    alive: bool


@dataclass(frozen=True, slots=True)
class AsyncEvent:
    """Something that happened to `element` (a QP, CQ, SRQ) or to the device."""

    type: EventType
    element: object


class Device:
    """One adapter with one port; made by `MemoryFabric.add_device`."""

    __slots__ = (
        "contexts", "control", "counts", "fabric", "gid", "ledger", "lid", "mrs", "mws", "name", "next_addr", "next_key",
        "next_qpn", "placement", "profile", "qps", "resolver",
    )  # fmt: skip

    def __init__(self, fabric: "MemoryFabric", name: str, number: int, profile: DeviceProfile = RXE) -> None:
        self.fabric = fabric
        self.name = name
        self.profile = profile
        self.lid = number
        self.gid = b"\xfe\x80" + bytes(6) + number.to_bytes(8, "big")
        self.mrs: dict[int, MR] = {}
        self.mws: dict[int, MW] = {}
        self.qps: dict[int, QP] = {}
        self.control: Control | None = None
        self.ledger: Ledger | None = None
        self.placement: Placement | None = None
        self.resolver: Callable[[int, int], memoryview] | None = None
        self.counts: dict[str, int] = {}
        self.contexts: list[Context] = []
        self.next_addr = 0x10_0000_0000 * number
        self.next_key = 0
        self.next_qpn = 16

    def open(self) -> "Context":
        """Open the device."""
        context = Context(self)
        self.contexts.append(context)
        return context

    def count(self, kind: str, limit: int) -> None:
        """Account for an object.

        Raises: VerbsError ENOMEM at the limit.
        """
        count = self.counts.get(kind, 0)
        if count >= limit:
            raise VerbsError(errno.ENOMEM, f"the device has no {kind} left")
        self.counts[kind] = count + 1

    def uncount(self, kind: str) -> None:
        """Account for an object that is gone."""
        self.counts[kind] -= 1

    def count_bytes(self, kind: str, length: int, limit: int) -> None:
        """Account for bytes of a bounded kind.

        Raises: VerbsError ENOMEM beyond the limit.
        """
        used = self.counts.get(kind, 0)
        if used + length > limit:
            raise VerbsError(errno.ENOMEM, f"the device has not that much {kind} left")
        self.counts[kind] = used + length

    def new_key(self, mr: MR) -> int:
        """Pick the key of a region."""
        key = self._pick_key(0)
        self.mrs[key] = mr
        return key

    def new_window_key(self, mw: MW) -> int:
        """Pick the key of a window, from another range of indexes."""
        key = self._pick_key(KEY_INDEXES)
        self.mws[key] = mw
        return key

    def _pick_key(self, base: int) -> int:
        """Pick a key whose index no live object has: 24 bits of index, 8 that change with each life."""
        while True:
            self.next_key += 1
            lap, index = divmod(self.next_key - 1, KEY_INDEXES)
            key = (base + index + 1) << 8 | (self.next_key * 37 + lap) & 0xFF
            first = key & ~0xFF
            if not lap or not any(first | low in self.mrs or first | low in self.mws for low in range(256)):
                return key

    def new_addr(self, length: int) -> int:
        """Pick `length` bytes of device address space, page aligned, with an unmapped page behind them."""
        addr = self.next_addr
        self.next_addr += (length + 2 * PAGE - 1) // PAGE * PAGE
        return addr

    def find_memory(self, addr: int, length: int) -> memoryview | None:
        """Return memory by address alone, for inline data and implicit regions, whose key says nothing about it."""
        if self.resolver is not None:
            return self.resolver(addr, length)
        for mr in self.mrs.values():
            if mr.whole is not None and mr.covers(addr, length):
                return mr.whole[addr - mr.iova : addr - mr.iova + length]
        return None

    def new_qpn(self, qp: QP) -> int:
        """Give a queue pair its number."""
        qpn = self.next_qpn
        self.next_qpn += 1
        self.qps[qpn] = qp
        return qpn


class Context:
    """An open device: the parent of protection domains, completion queues and channels."""

    __slots__ = ("alive", "children", "device", "events", "on_event", "unacked")

    def __init__(self, device: Device) -> None:
        self.device = device
        self.children: list[Child] = []
        self.events: deque[AsyncEvent] = deque()
        self.unacked: dict[int, int] = {}
        self.on_event: Callable[[], None] | None = None
        self.alive = True

    def alloc_pd(self) -> PD:
        """Allocate a protection domain.

        Raises: VerbsError ENOMEM at the device's limit.
        """
        pd = PD(self)
        self.children.append(pd)
        return pd

    def create_channel(self, on_event: Callable[[], None] | None = None) -> CompChannel:
        """Create a completion channel; `on_event` is called inside the post that made the event, and must only take note."""
        channel = CompChannel(self, on_event)
        self.children.append(channel)
        return channel

    def create_cq(self, cqe: int, channel: CompChannel | None = None, comp_vector: int = 0) -> CQ:
        """Create a completion queue of at least `cqe` entries.

        Raises: VerbsError EINVAL beyond the device's limits, ENOMEM at its number of queues.
        """
        cq = CQ(self, cqe, channel, comp_vector)
        self.children.append(cq)
        return cq

    def alloc_dm(self, length: int) -> DM:
        """Allocate device memory.

        Raises: VerbsError EOPNOTSUPP on a device without, EINVAL for an impossible length, ENOMEM when it is used up.
        """
        dm = DM(self, length)
        self.children.append(dm)
        return dm

    def drop(self, child: Child) -> None:
        """Forget a child that was destroyed."""
        self.children.remove(child)

    def raise_event(self, kind: EventType, element: object) -> None:
        """Queue an asynchronous event (the device's side)."""
        self.events.append(AsyncEvent(kind, element))
        if self.on_event is not None:
            self.on_event()

    def get_async_event(self) -> AsyncEvent | None:
        """Take the next event, or None. Each must be acknowledged before its element can be destroyed."""
        if not self.events:
            return None
        event = self.events.popleft()
        key = id(event.element)
        self.unacked[key] = self.unacked.get(key, 0) + 1
        return event

    def ack_async_event(self, event: AsyncEvent) -> None:
        """Acknowledge an event.

        Raises: VerbsError EINVAL for one that was not delivered.
        """
        key = id(event.element)
        if not self.unacked.get(key):
            raise VerbsError(errno.EINVAL, "the event was not delivered")
        self.unacked[key] -= 1
        if not self.unacked[key]:
            del self.unacked[key]

    def check_acked(self, element: object) -> None:
        """Refuse to destroy an element with events not acknowledged (a driver would block), and forget undelivered ones.

        Raises: VerbsError EBUSY.
        """
        if self.unacked.get(id(element)):
            raise VerbsError(errno.EBUSY, "asynchronous events are not acknowledged")
        self.events = deque(event for event in self.events if event.element is not element)

    def close(self) -> None:
        """Close the context. Idempotent.

        Raises: VerbsError EBUSY while it has objects.
        """
        if not self.alive:
            return
        if self.children:
            raise VerbsError(errno.EBUSY, "the context has objects")
        self.alive = False
        self.device.contexts.remove(self)
