"""Two connected queue pairs and what belongs to them, for the tests of the device."""

from dataclasses import dataclass, field

from transport.rdma.cq import CQ
from transport.rdma.device import Context, Device
from transport.rdma.enums import Access, Opcode
from transport.rdma.memory_fabric import MemoryFabric, connect_pair
from transport.rdma.mr import MR
from transport.rdma.pd import PD
from transport.rdma.profiles import RXE, DeviceProfile
from transport.rdma.qp import QP, QPCap, QPInit
from transport.rdma.sge import SGE
from transport.rdma.wr import WC, RecvWR, SendWR

ALL_ACCESS = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
SIZE = 1 << 16


@dataclass
class Side:
    """One end: a device with one of everything."""

    device: Device
    cap: QPCap
    access: int = ALL_ACCESS
    context: Context = field(init=False)
    pd: PD = field(init=False)
    cq: CQ = field(init=False)
    qp: QP = field(init=False)
    memory: bytearray = field(init=False)
    mr: MR = field(init=False)

    def __post_init__(self) -> None:
        self.context = self.device.open()
        self.pd = self.context.alloc_pd()
        self.cq = self.context.create_cq(min(256, self.device.profile.max_cqe))
        self.qp = self.pd.create_qp(QPInit(self.cq, self.cq, self.cap))
        self.memory = bytearray(SIZE)
        self.mr = self.pd.reg_mr(self.memory, self.access)

    def sge(self, off: int = 0, length: int = 64) -> SGE:
        """Return an entry over this side's region."""
        return SGE(self.mr.iova + off, length, self.mr.lkey)

    def recv(self, wr_id: int = 0, off: int = 0, length: int = 64) -> None:
        """Post one receive."""
        self.qp.post_recv(RecvWR(wr_id, [self.sge(off, length)]))

    def poll(self) -> list[WC]:
        """Take all completions."""
        return self.cq.poll(1 << 20)


@dataclass
class Rig:
    """A connected pair; `a` is usually the requester."""

    fabric: MemoryFabric
    a: Side
    b: Side

    def to_peer(self, opcode: Opcode, length: int = 64, *, off: int = 0, wr_id: int = 7, flags: int = 2) -> SendWR:
        """Return a one-sided request from the start of a's region to `off` in b's."""
        return SendWR(wr_id, opcode, [self.a.sge(0, length)], flags, self.b.mr.iova + off, self.b.mr.rkey)


def make_rig(
    profile: DeviceProfile = RXE,
    cap: QPCap | None = None,
    access: int = ALL_ACCESS,
    qp_access: int = ALL_ACCESS,
    rnr_retry: int = 0,
) -> Rig:
    """Connect two sides over a fresh fabric."""
    fabric = MemoryFabric()
    cap = cap or QPCap(32, 32, min(4, profile.max_send_sge), min(4, profile.max_recv_sge), min(64, profile.max_inline))
    a, b = (Side(fabric.add_device(name, profile), cap, access) for name in "ab")
    connect_pair(a.qp, b.qp, qp_access, qp_access, rnr_retry=rnr_retry)
    return Rig(fabric, a, b)
