"""Sans-IO. RDMAP: opcodes, the queues they use, and the bodies of its own messages. Follows RFC 5040 4 and RFC 7306.

    READ request      | sink STag u32 | sink TO u64 | size u32 | source STag u32 | source TO u64 |
    atomic request    | op u32 | id u32 | STag u32 | TO u64 | add or swap u64 | mask u64 | compare u64 | mask u64 |
    atomic response   | id u32 | original value u64 |        immediate   | 8 bytes |

Owns no memory.
"""

import enum
import struct
from typing import Final

__all__ = [
    "ACK", "ALL_BITS", "ATOMIC_REQUEST", "ATOMIC_RESPONSE", "BODY_BYTES", "CMP_SWAP", "CONTROL", "FETCH_ADD", "IMMEDIATE",
    "MAX_BODY", "PRIVATE_OPS", "QUEUES", "READ_REQUEST", "RV", "RV_MASK", "SENDS", "TAGGED_OPS", "Op", "Queue",
]  # fmt: skip


class Op(enum.IntEnum):
    """RDMAP opcodes; from IMMEDIATE on those of RFC 7306, from ACK on our own, for `roce.py`."""

    WRITE = 0
    READ_REQUEST = 1
    READ_RESPONSE = 2
    SEND = 3
    SEND_INV = 4
    SEND_SE = 5
    SEND_SE_INV = 6
    TERMINATE = 7
    IMMEDIATE = 8
    IMMEDIATE_SE = 9
    ATOMIC_REQUEST = 10
    ATOMIC_RESPONSE = 11
    ACK = 12
    CONTROL = 13
    SEND_IMM = 14
    SEND_SE_IMM = 15


class Queue(enum.IntEnum):
    """Untagged queues; each direction of each numbers its messages from 1."""

    SEND = 0
    REQUEST = 1
    TERMINATE = 2
    ATOMIC = 3
    PRIVATE = 4


RV: Final = 0x40
RV_MASK: Final = 0xC0
TAGGED_OPS: Final = frozenset({int(Op.WRITE), int(Op.READ_RESPONSE)})
PRIVATE_OPS: Final = frozenset({int(Op.ACK), int(Op.CONTROL), int(Op.SEND_IMM), int(Op.SEND_SE_IMM)})
SENDS: Final = frozenset(map(int, (Op.SEND, Op.SEND_INV, Op.SEND_SE, Op.SEND_SE_INV, Op.SEND_IMM, Op.SEND_SE_IMM)))
QUEUES: Final[dict[int, int]] = {
    **dict.fromkeys(SENDS, int(Queue.SEND)),
    int(Op.IMMEDIATE): int(Queue.SEND),
    int(Op.IMMEDIATE_SE): int(Queue.SEND),
    int(Op.READ_REQUEST): int(Queue.REQUEST),
    int(Op.ATOMIC_REQUEST): int(Queue.REQUEST),
    int(Op.TERMINATE): int(Queue.TERMINATE),
    int(Op.ATOMIC_RESPONSE): int(Queue.ATOMIC),
    int(Op.ACK): int(Queue.PRIVATE),
    int(Op.CONTROL): int(Queue.PRIVATE),
}
READ_REQUEST: Final = struct.Struct(">IQIIQ")
ATOMIC_REQUEST: Final = struct.Struct(">IIIQQQQQ")
ATOMIC_RESPONSE: Final = struct.Struct(">IQ")
IMMEDIATE: Final = struct.Struct(">II")
"""RFC 7306 has eight bytes; a verbs immediate is the last four of them."""
ACK: Final = struct.Struct(">II")
CONTROL: Final = struct.Struct(">BBBxIIQI")
FETCH_ADD, CMP_SWAP = 0, 2
ALL_BITS: Final = (1 << 64) - 1
BODY_BYTES: Final[dict[int, int]] = {
    int(Op.READ_REQUEST): READ_REQUEST.size,
    int(Op.ATOMIC_REQUEST): ATOMIC_REQUEST.size,
    int(Op.ATOMIC_RESPONSE): ATOMIC_RESPONSE.size,
    int(Op.IMMEDIATE): IMMEDIATE.size,
    int(Op.IMMEDIATE_SE): IMMEDIATE.size,
    int(Op.ACK): ACK.size,
    int(Op.CONTROL): CONTROL.size,
}
"""Bodies of fixed length. A Terminate's is at most `MAX_BODY`."""
MAX_BODY: Final = 64
