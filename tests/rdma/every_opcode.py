"""One request of every kind, for captures: posted to a pair, with the id it is to be found by; and a capture to hold them."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Protocol

from tests.rdma.captured import Packet, read_packets
from transport.rdma.capture import Capture
from transport.rdma.capture_fabric import capture_fabric
from transport.rdma.enums import Access, FlushType, Opcode
from transport.rdma.loopback import ALL_ACCESS, Loopback
from transport.rdma.loopback import Side as AnySide
from transport.rdma.profiles import CONNECTX, DeviceProfile
from transport.rdma.qp import QPCap
from transport.rdma.wr import SendWR

__all__ = ["IDS", "OPCODES", "RECV", "Ends", "Pair", "Recorder", "Side", "fabric_pair", "key_to_lose", "post_all"]

IDS = {
    "send": 0x101, "long send": 0x102, "solicited": 0x103, "invalidate": 0x104, "imm": 0x105, "write": 0x106,
    "long write": 0x107, "empty write": 0x108, "write imm": 0x109, "read": 0x10A, "long read": 0x10B, "swap": 0x10C, "add": 0x10D,
    "atomic write": 0x10E, "flush": 0x10F,
}  # fmt: skip


OPCODES = {
    "send": Opcode.SEND, "long send": Opcode.SEND, "solicited": Opcode.SEND, "invalidate": Opcode.SEND_WITH_INV,
    "imm": Opcode.SEND_WITH_IMM, "write": Opcode.WRITE, "long write": Opcode.WRITE, "empty write": Opcode.WRITE,
    "write imm": Opcode.WRITE_WITH_IMM, "read": Opcode.READ, "long read": Opcode.READ, "swap": Opcode.CMP_AND_SWP,
    "add": Opcode.FETCH_AND_ADD, "atomic write": Opcode.ATOMIC_WRITE, "flush": Opcode.FLUSH,
}  # fmt: skip
FLUSHING = int(ALL_ACCESS | Access.FLUSH_GLOBAL)
RECV = 0x100
"""What the id of a receive has more than that of its request."""


class Side(AnySide):
    """One end, whose memory is one bytearray."""

    memory: bytearray


class Ends(Protocol):
    """Two ends, however they are connected."""

    a: Side
    b: Side


def post_all(pair: Ends, key: int, *, iwarp: bool) -> Iterator[None]:
    """Post them one after the other, each to succeed before the next. key: a region of b's that is invalidated.

    Memory of `a` is `12345678` repeated, what b's has is put where it is read from.
    """
    pair.a.memory[:16384] = b"12345678" * 2048
    pair.b.memory[20000:20008] = (3).to_bytes(8, "little")
    pair.b.memory[20008:20016] = (7).to_bytes(8, "little")
    pair.b.memory[24576:40960] = b"abcdefgh" * 2048

    def go(
        name: str, opcode: Opcode, length: int = 8, *, off: int = 4096, recv: int = -1, flags: int = 2, **fields: int
    ) -> Iterator[None]:
        if recv >= 0:
            pair.b.recv(IDS[name] + RECV, length=recv)
        wr = SendWR(
            IDS[name],
            opcode,
            [pair.a.sge(0, length)] if opcode != Opcode.FLUSH else [],
            flags,
            pair.b.mr.iova + off,
            pair.b.mr.rkey,
        )
        for field, value in fields.items():
            setattr(wr, field, value)
        pair.a.qp.post_send(wr)
        yield
        assert [(wc.wr_id, wc.status) for wc in pair.a.poll()] == [(IDS[name], 0)], name
        assert all(wc.ok and wc.wr_id == IDS[name] + RECV for wc in pair.b.poll())

    yield from go("send", Opcode.SEND, 37, recv=64)
    yield from go("long send", Opcode.SEND, 9000, recv=9000)
    yield from go("solicited", Opcode.SEND, 64, recv=64, flags=2 | 4)
    yield from go("invalidate", Opcode.SEND_WITH_INV, 64, recv=64, invalidate_rkey=key)
    if not iwarp:
        yield from go("imm", Opcode.SEND_WITH_IMM, 64, recv=64, imm=0xA1B2C3D4)
    yield from go("write", Opcode.WRITE, 41)
    yield from go("long write", Opcode.WRITE, 9001)
    yield from go("empty write", Opcode.WRITE, 0)
    yield from go("write imm", Opcode.WRITE_WITH_IMM, 5, recv=0, imm=0x01020304)
    yield from go("read", Opcode.READ, 7, off=24576)
    yield from go("long read", Opcode.READ, 8200, off=24576)
    yield from go("swap", Opcode.CMP_AND_SWP, 8, off=20000, compare_add=3, swap=4)
    yield from go("add", Opcode.FETCH_AND_ADD, 8, off=20008, compare_add=5)
    if not iwarp:
        yield from go("atomic write", Opcode.ATOMIC_WRITE, 8)
        yield from go("flush", Opcode.FLUSH, 0, flush_type=int(FlushType.GLOBAL))


class Recorder:
    """A capture in memory; time goes on by a microsecond for each packet."""

    def __init__(self) -> None:
        self.data = bytearray()
        ticks = count(1_700_000_000_000_000_000, 1000)
        self.capture = Capture(self.write, lambda: next(ticks))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def packets(self) -> list[Packet]:
        return read_packets(bytes(self.data))

    def save(self, folder: Path) -> Path:
        path = folder / "run.pcapng"
        path.write_bytes(self.data)
        return path


class Pair(Loopback):
    a: Side
    b: Side


def fabric_pair(recorder: Recorder, profile: DeviceProfile = CONNECTX) -> Pair:
    access = FLUSHING if profile is CONNECTX else int(ALL_ACCESS)
    pair = Pair(profile, QPCap(16, 16, 4, 4, 0), access=access, qp_access=access)
    capture_fabric(pair.fabric, recorder.capture)
    return pair


def key_to_lose(side: Side) -> int:
    """Return the key of a region of a side that its peer may invalidate."""
    mr = side.pd.alloc_mr(1)
    mr.map_sg([memoryview(bytearray(64))], 0x5000)
    key = mr.lkey + 1
    side.qp.post_send(SendWR(0, Opcode.REG_MR, (), mr=mr, key=key, access=int(Access.LOCAL_WRITE | Access.REMOTE_READ)))
    side.poll()
    return key
