"""Sans-IO. RoCEv2 packets: the transport headers of InfiniBand in UDP, and the checksum over what no router changes.

    BTH     | opcode u8 | SE M pad tver u8 | P_Key u16 | u8 | QPN u24 | A u8 | PSN u24 |
    RETH    | address u64 | rkey u32 | length u32 |                 AETH    | syndrome u8 | MSN u24 |
    ATMETH  | address u64 | rkey u32 | swap or add u64 | compare u64 |        ATMACK  | old value u64 |
    IMMDT   | immediate u32 |    IETH  | rkey u32 |    DETH  | Q_Key u32 | u8 | source QPN u24 |
    FETH    | selectivity and placement u32 |

Behind them the payload, padding to a multiple of four, and the invariant CRC: that of Ethernet over eight bytes of ones and the
packet in which all that may change on the way is ones, stored little-endian. Follows IBA 9 and annexes A17, A19. Owns no memory.
"""

import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from transport.rdma.packets import PADS, UDP, Place, View, ip_header, udp_header

__all__ = [
    "NO_CREDITS",
    "PORT",
    "Nak",
    "Packet",
    "RcOp",
    "ack_header",
    "atomic_header",
    "datagram_header",
    "invariant_crc",
    "remote_header",
]

PORT: Final = 4791
BTH: Final = struct.Struct(">BBHII")
RETH: Final = struct.Struct(">QII")
AETH: Final = struct.Struct(">I")
ATMETH: Final = struct.Struct(">QIQQ")
DETH: Final = struct.Struct(">II")
ICRC: Final = struct.Struct("<I")
P_KEY: Final = 0xFFFF
MIGRATED: Final = 0x40
SOLICITED: Final = 0x80
ACK_REQUEST: Final = 1 << 31
PSN_MASK: Final = 0xFFFFFF
NO_CREDITS: Final = 0x1F
"""The syndrome of an ACK that says nothing about receives."""
ONES: Final = b"\xff" * 8


class RcOp(IntEnum):
    """Opcodes of the reliable connection, and those of datagrams."""

    SEND_FIRST = 0x00
    SEND_MIDDLE = 0x01
    SEND_LAST = 0x02
    SEND_LAST_IMM = 0x03
    SEND_ONLY = 0x04
    SEND_ONLY_IMM = 0x05
    WRITE_FIRST = 0x06
    WRITE_MIDDLE = 0x07
    WRITE_LAST = 0x08
    WRITE_LAST_IMM = 0x09
    WRITE_ONLY = 0x0A
    WRITE_ONLY_IMM = 0x0B
    READ_REQUEST = 0x0C
    READ_FIRST = 0x0D
    READ_MIDDLE = 0x0E
    READ_LAST = 0x0F
    READ_ONLY = 0x10
    ACKNOWLEDGE = 0x11
    ATOMIC_ACKNOWLEDGE = 0x12
    COMPARE_SWAP = 0x13
    FETCH_ADD = 0x14
    SEND_LAST_INV = 0x16
    SEND_ONLY_INV = 0x17
    FLUSH = 0x1C
    ATOMIC_WRITE = 0x1D
    UD_SEND_ONLY = 0x64
    UD_SEND_ONLY_IMM = 0x65


class Nak(IntEnum):
    """Syndromes that are no ACK; the low bits of RNR are a timer's code."""

    RNR = 0x20
    SEQUENCE = 0x60
    INVALID_REQUEST = 0x61
    REMOTE_ACCESS = 0x62
    REMOTE_OPERATIONAL = 0x63


def remote_header(addr: int, rkey: int, length: int) -> bytes:
    """Return a RETH."""
    return RETH.pack(addr, rkey, length)


def ack_header(syndrome: int, msn: int) -> bytes:
    """Return an AETH. msn: messages the responder has completed."""
    return AETH.pack(syndrome << 24 | msn & PSN_MASK)


def atomic_header(addr: int, rkey: int, swap_add: int, compare: int) -> bytes:
    """Return an AtomicETH."""
    mask = (1 << 64) - 1
    return ATMETH.pack(addr, rkey, swap_add & mask, compare & mask)


def datagram_header(qkey: int, qpn: int) -> bytes:
    """Return a DETH."""
    return DETH.pack(qkey, qpn)


class Packet:
    """A packet of one queue pair to another: `views` is the whole of it, IP and checksum included.

    qpn: the receiver's; headers: what stands between BTH and payload; payload: lent to whoever reads `views`.
    """

    __slots__ = ("views",)

    def __init__(
        self,
        source: Place,
        target: Place,
        op: int,
        qpn: int,
        psn: int,
        headers: bytes = b"",
        payload: Sequence[View] = (),
        *,
        ack_request: bool = False,
        solicited: bool = False,
        number: int = 0,
    ) -> None:
        length = sum(map(len, payload))
        pad = PADS[length & 3]
        flags = MIGRATED | SOLICITED * solicited | len(pad) << 4
        bth = bytearray(BTH.pack(op, flags, P_KEY, qpn, ACK_REQUEST * ack_request | psn & PSN_MASK))
        size = len(bth) + len(headers) + length + len(pad) + ICRC.size
        udp = udp_header(source[1], target[1], size)
        ip = ip_header(source[0], target[0], UDP, len(udp) + size, number)
        rest: list[View] = [headers, *payload, pad]
        self.views: list[View] = [ip, udp, bth, *rest, invariant_crc(ip, udp, bth, rest)]


def invariant_crc(ip: bytes, udp: bytes, bth: bytes | bytearray, rest: Sequence[View]) -> bytes:
    """Return the checksum of a packet. rest: what follows the BTH, padding included."""
    crc = zlib.crc32(_masked(ip, udp, bth))
    for view in rest:
        crc = zlib.crc32(view, crc)
    return ICRC.pack(crc)


def _masked(ip: bytes, udp: bytes, bth: bytes | bytearray) -> bytes:
    """Return the headers with ones where routers and switches may write."""
    masked = bytearray(ip)
    if ip[0] >> 4 == 4:
        masked[1] = masked[8] = masked[10] = masked[11] = 0xFF
    else:
        masked[0:4] = (0x6FFFFFFF).to_bytes(4, "big")
        masked[7] = 0xFF
    masked += udp[:6] + b"\xff\xff" + bth
    masked[len(ip) + len(udp) + 4] = 0xFF
    return ONES + masked
