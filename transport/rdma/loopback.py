"""Sans-IO. Two connected queue pairs with one of everything, in one line: for tests, experiments and benches.

    pair = Loopback()
    pair.b.recv()
    pair.a.qp.post_send(pair.to_peer(Opcode.SEND))
    assert pair.a.poll()[0].ok and pair.b.poll()[0].ok

Each side owns its memory, which is registered whole.
"""

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

__all__ = ["ALL_ACCESS", "Loopback", "Side"]

ALL_ACCESS = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
SIZE = 1 << 16
MAX_CQE = 256


class Side:
    """One end: a device with a context, a domain, a completion queue, a queue pair and a region."""

    def __init__(self, device: Device, cap: QPCap, access: int, memory: bytearray | list[memoryview]) -> None:
        self.device = device
        self.context: Context = device.open()
        self.pd: PD = self.context.alloc_pd()
        self.cq: CQ = self.context.create_cq(min(MAX_CQE, device.profile.max_cqe))
        self.qp: QP = self.pd.create_qp(QPInit(self.cq, self.cq, cap))
        self.memory = memory
        self.mr: MR = self.pd.reg_mr(memory, access)

    def sge(self, off: int = 0, length: int = 64) -> SGE:
        """Return an entry over the region."""
        return SGE(self.mr.iova + off, length, self.mr.lkey)

    def recv(self, wr_id: int = 0, off: int = 0, length: int = 64) -> None:
        """Post one receive."""
        self.qp.post_recv(RecvWR(wr_id, [self.sge(off, length)]))

    def poll(self) -> list[WC]:
        """Take all completions."""
        return self.cq.poll(MAX_CQE)


class Loopback:
    """A fabric with two devices of a profile; `a` and `b` are connected and in RTS."""

    def __init__(
        self,
        profile: DeviceProfile = RXE,
        cap: QPCap | None = None,
        access: int = ALL_ACCESS,
        qp_access: int = ALL_ACCESS,
        rnr_retry: int = 0,
        blocks: tuple[list[memoryview], list[memoryview]] | None = None,
    ) -> None:
        """Connect two sides; `blocks` gives each its memory, else it has 64 KiB in `memory`."""
        self.fabric = MemoryFabric()
        slots = min(32, profile.max_qp_wr)
        cap = cap or QPCap(slots, slots, min(4, profile.max_send_sge), min(4, profile.max_recv_sge), min(64, profile.max_inline))
        memories = blocks if blocks is not None else (bytearray(SIZE), bytearray(SIZE))
        self.a = Side(self.fabric.add_device("a", profile), cap, access, memories[0])
        self.b = Side(self.fabric.add_device("b", profile), cap, access, memories[1])
        connect_pair(self.a.qp, self.b.qp, qp_access, qp_access, rnr_retry=rnr_retry)

    def to_peer(self, opcode: Opcode, length: int = 64, *, off: int = 0, wr_id: int = 7, flags: int = 2) -> SendWR:
        """Return a request of `a` from the start of its region, to or from `off` in b's."""
        return SendWR(wr_id, opcode, [self.a.sge(0, length)], flags, self.b.mr.iova + off, self.b.mr.rkey)
