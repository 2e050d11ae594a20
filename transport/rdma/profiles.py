"""Sans-IO. What a device can do: two semantics and the named capability profiles; owns no memory.

The figures of `rxe` and `siw` follow those Linux drivers, `connectx` a common adapter, `tiny` the least that still works:
a program that runs on `tiny` holds no hidden assumption about sizes.
"""

import enum
from dataclasses import dataclass
from typing import Final

from transport.rdma.enums import NodeType, Opcode

__all__ = ["CONNECTX", "IWARP", "PROFILES", "RXE", "SIW", "TINY", "DeviceProfile", "Semantics"]


class Semantics(enum.Enum):
    """Whose rules hold where the two families differ.

    ROCE: a SEND or WRITE completes when the responder has acknowledged it; a QP is born in RESET; a missing receive is an RNR
    NAK.
    IWARP: it completes when its bytes are handed to the stream; a QP is born in INIT; the responder's complaint is a TERMINATE
    that ends the connection; a READ has one sge, whose region needs REMOTE_WRITE.
    """

    ROCE = "roce"
    IWARP = "iwarp"


ROCE_OPS: Final = frozenset(
    {
        Opcode.WRITE,
        Opcode.WRITE_WITH_IMM,
        Opcode.SEND,
        Opcode.SEND_WITH_IMM,
        Opcode.SEND_WITH_INV,
        Opcode.READ,
        Opcode.CMP_AND_SWP,
        Opcode.FETCH_AND_ADD,
        Opcode.LOCAL_INV,
        Opcode.BIND_MW,
        Opcode.REG_MR,
        Opcode.FLUSH,
        Opcode.ATOMIC_WRITE,
    }
)
IWARP_OPS: Final = frozenset({Opcode.WRITE, Opcode.SEND, Opcode.SEND_WITH_INV, Opcode.READ, Opcode.LOCAL_INV, Opcode.REG_MR})


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """Capabilities of a device. Sizes in bytes, the rest are counts."""

    name: str
    semantics: Semantics = Semantics.ROCE
    max_qp: int = 65536
    max_qp_wr: int = 16384
    max_send_sge: int = 32
    max_recv_sge: int = 32
    max_sge_rd: int = 32
    max_inline: int = 400
    max_msg: int = 1 << 31
    max_cq: int = 65536
    max_cqe: int = 32767
    max_mr: int = 0x40000
    max_mr_size: int = 1 << 62
    max_mw: int = 0x40000
    max_pd: int = 65536
    max_srq: int = 65536
    max_srq_wr: int = 16384
    max_srq_sge: int = 27
    max_ah: int = 65536
    max_rd_atom: int = 128
    max_fast_reg_segs: int = 1024
    num_comp_vectors: int = 2
    dm_size: int = 0
    odp: bool = False
    srq: bool = True
    mw: bool = True
    ud: bool = True
    resize_cq: bool = True
    rereg: bool = True
    ops: frozenset[Opcode] = ROCE_OPS

    @property
    def mtu_bytes(self) -> int:
        """The largest datagram."""
        return 4096

    @property
    def iwarp(self) -> bool:
        """Whether iWARP's rules hold."""
        return self.semantics is Semantics.IWARP

    @property
    def node_type(self) -> NodeType:
        """CA for RoCE, RNIC for iWARP."""
        return NodeType.RNIC if self.iwarp else NodeType.CA


RXE: Final = DeviceProfile("rxe", max_msg=8 << 20)
SIW: Final = DeviceProfile(
    "siw",
    semantics=Semantics.IWARP,
    max_qp_wr=32768,
    max_send_sge=6,
    max_recv_sge=6,
    max_sge_rd=1,
    max_inline=80,
    max_srq_sge=6,
    mw=False,
    ud=False,
    resize_cq=False,
    rereg=False,
    ops=IWARP_OPS,
)
IWARP: Final = DeviceProfile(
    "iwarp",
    semantics=Semantics.IWARP,
    max_qp_wr=32768,
    max_send_sge=16,
    max_recv_sge=16,
    max_sge_rd=1,
    max_srq_sge=16,
    ud=False,
    ops=IWARP_OPS | {Opcode.WRITE_WITH_IMM, Opcode.CMP_AND_SWP, Opcode.FETCH_AND_ADD, Opcode.BIND_MW},
)
"""What the stream fabric can do: siw's semantics with the atomics and immediates of RFC 7306."""
CONNECTX: Final = DeviceProfile(
    "connectx",
    max_qp_wr=32768,
    max_send_sge=30,
    max_recv_sge=30,
    max_sge_rd=30,
    max_inline=956,
    max_cqe=4194303,
    max_rd_atom=16,
    dm_size=1 << 17,
    odp=True,
)
TINY: Final = DeviceProfile(
    "tiny",
    max_qp=8,
    max_qp_wr=4,
    max_send_sge=1,
    max_recv_sge=1,
    max_sge_rd=1,
    max_inline=0,
    max_cq=4,
    max_cqe=8,
    max_mr=1,
    max_mw=1,
    max_pd=2,
    max_srq=1,
    max_srq_wr=4,
    max_srq_sge=1,
    max_ah=2,
    max_rd_atom=1,
    max_fast_reg_segs=1,
    num_comp_vectors=1,
)

PROFILES: Final = {profile.name: profile for profile in (RXE, SIW, IWARP, CONNECTX, TINY)}
