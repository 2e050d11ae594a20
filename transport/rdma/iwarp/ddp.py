"""Sans-IO. DDP: tagged and untagged segment headers, and how messages are cut into FPDUs. Follows RFC 5041 and RFC 5044 4.

    FPDU      | ULPDU length u16 | ULPDU | pad to 4 | CRC32C, little-endian, or zero |
    tagged    | T L rsvd DV u8 | RDMAP u8 | STag u32 | TO u64 | payload |
    untagged  | T L rsvd DV u8 | RDMAP u8 | u32 | QN u32 | MSN u32 | MO u32 | payload |

Lengths of segments but the last are multiples of 4 and need no pad. Memory is lent by the message's owner until it is sent.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from transport.rdma.iwarp.mpa import Crc

__all__ = [
    "FRAME_TAGGED", "FRAME_UNTAGGED", "LAST", "MAX_ULPDU", "MSN_MASK", "TAGGED", "TAGGED_BYTES", "UNTAGGED_BYTES", "VERSION",
    "cut", "pad_of", "tagged_room", "trailer", "untagged_room",
]  # fmt: skip

FRAME_TAGGED: Final = struct.Struct(">HBBIQ")
FRAME_UNTAGGED: Final = struct.Struct(">HBBIIII")
"""Headers with the FPDU's length in front."""
TAGGED: Final = 0x80
LAST: Final = 0x40
VERSION: Final = 0x01
TAGGED_BYTES, UNTAGGED_BYTES = 14, 18
MAX_ULPDU: Final = 0xFFFF
MSN_MASK: Final = 0xFFFFFFFF
NO_CRC: Final = tuple(b"\0" * (pad + 4) for pad in range(4))
PADS: Final = tuple(b"\0" * pad for pad in range(4))


def tagged_room(mulpdu: int) -> int:
    """Return the most payload of a tagged segment."""
    return (mulpdu - TAGGED_BYTES) & ~3


def untagged_room(mulpdu: int) -> int:
    """Return the most payload of an untagged segment."""
    return (mulpdu - UNTAGGED_BYTES) & ~3


def pad_of(ulpdu_length: int) -> int:
    """Return the bytes of padding behind a ULPDU."""
    return -(ulpdu_length + 2) & 3


def trailer(crc: Crc | None, ulpdu_length: int, head: bytes, views: Sequence[memoryview]) -> bytes:
    """Return padding and checksum of an FPDU."""
    pad = pad_of(ulpdu_length)
    if crc is None:
        return NO_CRC[pad]
    value = crc(head, 0)
    for view in views:
        value = crc(view, value)
    return PADS[pad] + crc(PADS[pad], value).to_bytes(4, "little")


def cut(views: Sequence[memoryview], room: int) -> Iterator[tuple[int, int, list[memoryview], bool]]:
    """Yield the segments of a message: offset, length, memory, whether it is the last. An empty message is one segment."""
    total = sum(map(len, views))
    index = start = 0
    off = 0
    while True:
        length = min(room, total - off)
        pieces: list[memoryview] = []
        left = length
        while left:
            view = views[index]
            step = min(left, len(view) - start)
            if step:
                pieces.append(view[start : start + step] if step != len(view) else view)
            left -= step
            start += step
            if start == len(view):
                index += 1
                start = 0
        last = off + length == total
        yield off, length, pieces, last
        if last:
            return
        off += length
