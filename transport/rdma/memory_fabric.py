"""Sans-IO. A fabric inside one process: devices that reach each other by call, and a clock that only moves when told.

Posting and polling make all progress that is possible at `now`; what waits for time (RNR and retry timers) is done by `advance`,
and `next_deadline` says when that is worth calling; `listeners` are called when it may have changed. Nothing is serialised: a
transfer is one copy from view to view.
"""

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from transport.rdma.ah import AddressVector
from transport.rdma.device import Device
from transport.rdma.enums import AttrMask, Mtu, QPState
from transport.rdma.profiles import RXE, DeviceProfile
from transport.rdma.qp import QP, QPAttr

if TYPE_CHECKING:
    from transport.rdma.requester import Requester
    from transport.rdma.wr import SendWR

__all__ = ["TICK_S", "MemoryFabric", "connect_pair"]

TICK_S: Final = 1e-6
"""The shortest wait for `next_deadline`: one that ends a rounding early finds nothing due, and is the same again for ever."""


class Timed(Protocol):
    """Who is called by the clock; `wake_at` says whether it still wants to be."""

    wake_at: float | None

    def on_timer(self, deadline: float, transport: bool) -> None:
        """Act on a deadline that has come."""


class MemoryFabric:
    """Devices of one process and their timers. handlers: what carries requests out, if it is not what does so by itself."""

    __slots__ = ("by_gid", "by_lid", "devices", "handlers", "listeners", "now", "serial", "timers")

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.devices: list[Device] = []
        self.by_gid: dict[bytes, Device] = {}
        self.by_lid: dict[int, Device] = {}
        self.timers: list[tuple[float, int, Timed, bool]] = []
        self.serial = 0
        self.listeners: list[Callable[[], None]] = []
        self.handlers: dict[int, Callable[[Requester, SendWR], int]] | None = None

    def add_device(self, name: str, profile: DeviceProfile = RXE) -> Device:
        """Plug a device in."""
        device = Device(self, name, len(self.devices) + 1, profile)
        self.devices.append(device)
        self.by_gid[device.gid] = device
        self.by_lid[device.lid] = device
        return device

    def _find(self, av: AddressVector) -> Device | None:
        return self.by_lid.get(av.dlid) if av.dgid is None else self.by_gid.get(av.dgid)

    def has_address(self, av: AddressVector) -> bool:
        """Whether a device answers to the address."""
        return self._find(av) is not None

    def find_qp(self, av: AddressVector, qpn: int) -> QP | None:
        """Return the queue pair at an address, if any."""
        device = self._find(av)
        return None if device is None else device.qps.get(qpn)

    def set_timer(self, deadline: float, requester: Timed, transport: bool) -> None:
        """Have `requester.on_timer` called when the clock reaches the deadline."""
        self.serial += 1
        heapq.heappush(self.timers, (deadline, self.serial, requester, transport))
        for listener in self.listeners:
            listener()

    def next_deadline(self) -> float | None:
        """Return when `advance` has work to do, or None."""
        timers = self.timers
        while timers and timers[0][2].wake_at != timers[0][0]:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def advance(self, now: float) -> None:
        """Move the clock to `now` and fire what is due, in order of time."""
        timers = self.timers
        while timers and timers[0][0] <= now:
            deadline, _, requester, transport = heapq.heappop(timers)
            self.now = max(self.now, deadline)
            requester.on_timer(deadline, transport)
        self.now = max(self.now, now)


def connect_pair(
    left: QP, right: QP, left_access: int = 0, right_access: int = 0, *, rd_atomic: int = 1, rnr_retry: int = 0
) -> None:
    """Connect two RC queue pairs of one fabric, from RESET or INIT to RTS, as a connection manager would.

    Raises: VerbsError EINVAL when the state or a limit does not allow it.
    """
    for qp, peer, access in ((left, right, left_access), (right, left, right_access)):
        attr = QPAttr(
            qp_state=QPState.INIT,
            port=1,
            access_flags=int(access),
            av=AddressVector(dlid=peer.device.lid, dgid=peer.device.gid),
            path_mtu=Mtu.MTU_4096,
            dest_qpn=peer.qp_num,
            rq_psn=peer.qp_num,
            sq_psn=qp.qp_num,
            max_rd_atomic=rd_atomic,
            max_dest_rd_atomic=rd_atomic,
            min_rnr_timer=12,
            timeout=14,
            retry_cnt=6,
            rnr_retry=rnr_retry,
        )
        mask = AttrMask.STATE
        qp.modify(attr, mask | AttrMask.PKEY_INDEX | AttrMask.PORT | AttrMask.ACCESS_FLAGS)
        attr.qp_state = QPState.RTR
        qp.modify(
            attr,
            mask | AttrMask.AV | AttrMask.PATH_MTU | AttrMask.DEST_QPN | AttrMask.RQ_PSN | AttrMask.MAX_DEST_RD_ATOMIC
            | AttrMask.MIN_RNR_TIMER,
        )  # fmt: skip
        attr.qp_state = QPState.RTS
        qp.modify(
            attr,
            mask | AttrMask.TIMEOUT | AttrMask.RETRY_CNT | AttrMask.RNR_RETRY | AttrMask.SQ_PSN | AttrMask.MAX_QP_RD_ATOMIC,
        )
