"""Two connected queue pairs over memory of known type, for the tests of the device."""

from transport.rdma.loopback import ALL_ACCESS, SIZE, Loopback
from transport.rdma.loopback import Side as AnySide
from transport.rdma.profiles import RXE, DeviceProfile
from transport.rdma.qp import QPCap

__all__ = ["ALL_ACCESS", "SIZE", "Rig", "Side", "make_rig"]


class Side(AnySide):
    """One end, whose memory is one bytearray."""

    memory: bytearray


class Rig(Loopback):
    """A connected pair; `a` is usually the requester."""

    a: Side
    b: Side


def make_rig(
    profile: DeviceProfile = RXE,
    cap: QPCap | None = None,
    access: int = ALL_ACCESS,
    qp_access: int = ALL_ACCESS,
    rnr_retry: int = 0,
) -> Rig:
    """Connect two sides over a fresh fabric."""
    return Rig(profile, cap, access, qp_access, rnr_retry)
