"""Sans-IO. Packets nobody sent, as a capture shows them: IP with TCP or UDP around given bytes, and the blocks of a pcapng file.

    | section | interface: raw IP, nanoseconds | packet: time, IP packet, comment, direction | packet | …

Addresses decide between IPv4 and IPv6. Checksums of IP and TCP are right; that of UDP is 0, as RoCE adapters send it over IPv4.
Follows RFC 9293, RFC 768 and draft-ietf-opsawg-pcapng. Owns no memory.
"""

import ipaddress
import struct
from collections.abc import Sequence
from typing import Final

__all__ = [
    "ACK", "FIN", "INBOUND", "MAX_SEGMENT", "OUTBOUND", "PADS", "PSH", "SYN", "TCP", "UDP", "IPAddress", "Place", "View",
    "file_header", "ip_header", "packet_block", "tcp_header", "udp_header",
]  # fmt: skip

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Place = tuple[IPAddress, int]
"""An address and a port."""
View = bytes | bytearray | memoryview

FIN, SYN, PSH, ACK = 1, 2, 8, 16
TCP, UDP = 6, 17
IP4: Final = struct.Struct(">BBHHHBBH4s4s")
IP6: Final = struct.Struct(">IHBB16s16s")
TCP_HEAD: Final = struct.Struct(">HHIIBBHHH")
UDP_HEAD: Final = struct.Struct(">HHHH")
HOPS: Final = 64
DONT_FRAGMENT: Final = 0x4000
WINDOW: Final = 0xFFFF
MAX_SEGMENT: Final = 65535 - IP6.size - TCP_HEAD.size
"""Payload that fits one packet of either version."""
SYN_OPTIONS: Final = struct.pack(">BBHBBBB", 2, 4, MAX_SEGMENT, 1, 3, 3, 14)
"""Segment size, and a window scaled to 1 GiB, which no capture fills."""

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
LINKTYPE_RAW: Final = 101
INBOUND, OUTBOUND = 1, 2
OPT_END, OPT_COMMENT, OPT_FLAGS = 0, 1, 2
SECTION_APPLICATION, INTERFACE_NAME, INTERFACE_RESOLUTION = 4, 2, 9
NANOSECONDS: Final = b"\x09"
BLOCK: Final = struct.Struct("<II")
OPTION: Final = struct.Struct("<HH")
SECTION_BODY: Final = struct.Struct("<IHHq")
INTERFACE_BODY: Final = struct.Struct("<HHI")
PACKET_BODY: Final = struct.Struct("<IIIII")
LENGTH: Final = struct.Struct("<I")
PADS: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
MAX_COMMENT: Final = 0xFFFF


# ---- Internet protocols


def _folded(total: int) -> int:
    """Return a sum of 16-bit words as the checksum that stands for it; words add up modulo 65535."""
    rest = total % 0xFFFF
    return 0xFFFF - rest


def _words(views: Sequence[View]) -> int:
    """Return the sum of the 16-bit words of some bytes, modulo 65535."""
    total = 0
    odd = False
    for view in views:
        value = int.from_bytes(view, "big")
        if (len(view) & 1) != odd:
            value <<= 8
        odd ^= bool(len(view) & 1)
        total += value % 0xFFFF
    return total


def ip_header(source: IPAddress, target: IPAddress, protocol: int, length: int, number: int = 0) -> bytes:
    """Return the header in front of `length` bytes. number: of the packet, for IPv4."""
    if source.version == 6 or target.version == 6:
        return IP6.pack(6 << 28, length, protocol, HOPS, _packed16(source), _packed16(target))
    fields = [0x45, 0, IP4.size + length, number & 0xFFFF, DONT_FRAGMENT, HOPS, protocol, 0, source.packed, target.packed]
    fields[7] = _folded(_words([IP4.pack(*fields)]))
    return IP4.pack(*fields)


def _packed16(address: IPAddress) -> bytes:
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def tcp_header(
    source: tuple[IPAddress, int],
    target: tuple[IPAddress, int],
    seq: int,
    ack: int,
    flags: int,
    views: Sequence[View] = (),
    length: int = 0,
) -> bytes:
    """Return the header in front of `views`, which are `length` bytes."""
    options = SYN_OPTIONS if flags & SYN else b""
    size = TCP_HEAD.size + len(options)
    fields = [source[1], target[1], seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, size << 2, flags, WINDOW, 0, 0]
    head = TCP_HEAD.pack(*fields) + options
    pseudo = _words([source[0].packed, target[0].packed]) + TCP + size + length
    fields[7] = _folded(pseudo + _words([head, *views]))
    return TCP_HEAD.pack(*fields) + options


def udp_header(source_port: int, target_port: int, length: int) -> bytes:
    """Return the header in front of `length` bytes."""
    return UDP_HEAD.pack(source_port, target_port, UDP_HEAD.size + length, 0)


# ---- the file


def _option(code: int, value: bytes) -> bytes:
    return OPTION.pack(code, len(value)) + value + PADS[len(value) & 3]


def _block(kind: int, body: bytes) -> bytes:
    size = BLOCK.size + len(body) + LENGTH.size
    return BLOCK.pack(kind, size) + body + LENGTH.pack(size)


def file_header(application: str, interface: str) -> bytes:
    """Return what a file begins with: a section of one interface."""
    end = _option(OPT_END, b"")
    section = SECTION_BODY.pack(0x1A2B3C4D, 1, 0, -1) + _option(SECTION_APPLICATION, application.encode()) + end
    options = _option(INTERFACE_NAME, interface.encode()) + _option(INTERFACE_RESOLUTION, NANOSECONDS) + end
    return _block(SECTION, section) + _block(INTERFACE, INTERFACE_BODY.pack(LINKTYPE_RAW, 0, 0) + options)


def packet_block(time_ns: int, length: int, comment: str = "", direction: int = 0) -> tuple[bytes, bytes]:
    """Return what stands in front of and behind a packet of `length` bytes. time_ns: since 1970. direction: INBOUND, OUTBOUND."""
    options = b""
    if comment:
        options += _option(OPT_COMMENT, comment.encode()[:MAX_COMMENT])
    if direction:
        options += _option(OPT_FLAGS, LENGTH.pack(direction))
    if options:
        options += _option(OPT_END, b"")
    pad = PADS[length & 3]
    size = BLOCK.size + PACKET_BODY.size + length + len(pad) + len(options) + LENGTH.size
    head = BLOCK.pack(PACKET, size) + PACKET_BODY.pack(0, time_ns >> 32, time_ns & 0xFFFFFFFF, length, length)
    return head, pad + options + LENGTH.pack(size)
