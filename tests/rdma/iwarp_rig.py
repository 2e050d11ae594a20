"""Two queue pairs joined by iWARP engines, without a stream: bytes are carried by hand, in pieces of any size."""

from collections.abc import Callable

from transport.rdma.enums import Opcode, WcStatus
from transport.rdma.iwarp.ddp import MAX_ULPDU
from transport.rdma.iwarp.engine import Engine
from transport.rdma.iwarp.mpa import Crc, Settled
from transport.rdma.iwarp.operations import bind, make_ready
from transport.rdma.iwarp.roce import RoceEngine
from transport.rdma.iwarp.roce import bind as bind_roce
from transport.rdma.iwarp.terminate import Terminate
from transport.rdma.loopback import ALL_ACCESS, Side
from transport.rdma.memory_fabric import MemoryFabric
from transport.rdma.profiles import IWARP, DeviceProfile
from transport.rdma.qp import QPCap
from transport.rdma.wr import SendWR

__all__ = ["GUARD", "Joined", "statuses"]

GUARD = 64
"""Bytes in front of and behind each region that nobody may touch."""
SIZE = 1 << 16


class Joined:
    """`a` is the client, `b` the server; each has a region inside guard bytes. `carry` moves what both have to say."""

    def __init__(
        self,
        crc: Crc | None = None,
        mulpdu: int = MAX_ULPDU,
        step: int = 1 << 20,
        access: int = ALL_ACCESS,
        depth: int = 4,
        mr_access: int = ALL_ACCESS,
        profile: DeviceProfile = IWARP,
        rnr_retry: int = 0,
    ) -> None:
        self.step = step
        self.reasons: list[str] = []
        self.memories = [bytearray(b"\xee" * (SIZE + 2 * GUARD)) for _ in range(2)]
        sides = []
        for name, memory in zip("ab", self.memories, strict=True):
            window = memoryview(memory)[GUARD:-GUARD]
            window[:] = bytes(SIZE)
            device = MemoryFabric().add_device(name, profile)
            sides.append(Side(device, QPCap(32, 32, 4, 4, 64), mr_access, [window]))
        self.a, self.b = sides
        settled = Settled(crc is not None, depth, depth)
        self.engines = []
        for side, is_server in ((self.a, False), (self.b, True)):
            if profile.iwarp:
                engine = Engine(side.qp, crc, depth, is_server, lambda: None, mulpdu)
                bind(side.qp, engine)
            else:
                roce = RoceEngine(side.qp, crc, depth, is_server, lambda: None, mulpdu)
                bind_roce(side.qp, roce)
                engine = roce
            engine.on_end = self.reasons.append
            make_ready(side.qp, settled, access, rnr_retry)
            self.engines.append(engine)
        self.near, self.far = self.engines

    def to_peer(self, opcode: Opcode, length: int = 64, *, off: int = 0, wr_id: int = 7, flags: int = 2) -> SendWR:
        """Return a request of `a` from the start of its region, to or from `off` in b's."""
        return SendWR(wr_id, opcode, [self.a.sge(0, length)], flags, self.b.mr.iova + off, self.b.mr.rkey)

    def carry(self, between: Callable[[], None] | None = None) -> None:
        """Move bytes both ways until there are none; `between` is called after each piece."""
        moved = True
        while moved:
            moved = False
            for source, target in ((self.near, self.far), (self.far, self.near)):
                if not source.sender.busy:
                    continue
                batch = source.batch()
                if not batch:
                    continue
                data = b"".join(batch)[: self.step]
                source.sender.sent(len(data))
                self.feed(target, data)
                moved = True
                if between is not None:
                    between()

    def feed(self, target: Engine, data: bytes) -> None:
        """Have an engine receive bytes."""
        view = memoryview(data)
        target.paused()
        while view:
            wanted = target.wanted()
            if wanted is None:
                return
            count = 0
            for memory in wanted:
                length = min(len(memory), len(view), self.step - count)
                memory[:length] = view[:length]
                view = view[length:]
                count += length
            target.received(count)

    def guards_intact(self) -> bool:
        """Whether no byte outside the regions was written."""
        return all(m[:GUARD] == m[-GUARD:] == b"\xee" * GUARD for m in self.memories)

    def terminate(self) -> Terminate | None:
        """Return the Terminate that both ends know."""
        assert (self.near.terminated is None) is (self.far.terminated is None)
        if self.near.terminated is not None and self.far.terminated is not None:
            assert self.near.terminated.cause == self.far.terminated.cause
        return self.near.terminated


def statuses(side: Side) -> list[tuple[int, WcStatus]]:
    """Return (wr_id, status) of all completions."""
    return [(wc.wr_id, WcStatus(wc.status)) for wc in side.poll()]
