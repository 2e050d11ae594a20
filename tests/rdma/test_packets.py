"""Headers and checksums of packets, and the blocks of a pcapng file, against worked bytes."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rdma.captured import read_packets
from transport.rdma.packets import ACK, PSH, SYN, TCP, UDP, file_header, ip_header, packet_block, tcp_header, udp_header
from transport.rdma.rocev2 import invariant_crc

HERE, THERE = ipaddress.ip_address("172.16.10.99"), ipaddress.ip_address("172.16.10.12")


def ones_sum(data: bytes) -> int:
    """Add 16-bit words with end-around carry, as the RFCs say it."""
    data += b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_ip_header() -> None:
    header = ip_header(HERE, THERE, TCP, 40, 0x1C46)
    assert header.hex() == "4500003c1c4640004006" + "b1e6" + "ac100a63ac100a0c"
    assert ones_sum(header) == 0xFFFF


def test_ip_header_of_version_6() -> None:
    here, there = ipaddress.ip_address("fe80::1"), ipaddress.ip_address("fe80::2")
    header = ip_header(here, there, UDP, 0x102)
    assert header == bytes.fromhex("60000000 0102 11 40") + here.packed + there.packed
    mapped = ip_header(HERE, there, UDP, 1)
    assert mapped[8:24] == ipaddress.ip_address("::ffff:172.16.10.99").packed


@given(st.lists(st.binary(max_size=9), max_size=5), st.sampled_from([ACK, ACK | PSH, SYN]))
def test_tcp_checksum_holds_for_any_pieces(pieces: list[bytes], flags: int) -> None:
    payload = b"".join(pieces)
    header = tcp_header((HERE, 1), (THERE, 2), 1 << 32, (1 << 32) + 5, flags, pieces, len(payload))
    assert header[4:12] == bytes.fromhex("00000000 00000005")
    assert len(header) == (header[12] >> 4) * 4
    pseudo = HERE.packed + THERE.packed + struct.pack(">HH", TCP, len(header) + len(payload))
    assert ones_sum(pseudo + header + payload) == 0xFFFF


def test_udp_header() -> None:
    assert udp_header(0xC010, 4791, 32).hex() == "c010" + "12b7" + "0028" + "0000"


def test_invariant_crc_is_that_of_an_adapter() -> None:
    """A congestion notification as a ConnectX-4 Lx sent it."""
    ip = bytes.fromhex("45c2003c 718c4000 40119161 0a001101 0a001201")
    udp = bytes.fromhex("000012b7 00280000")
    bth = bytes.fromhex("8100ffff 40000118 00000000")
    assert invariant_crc(ip, udp, bth, [bytes(16)]).hex() == "82fd002a"
    for changed in (1, 8, 10):  # what a router rewrites does not count
        other = bytearray(ip)
        other[changed] ^= 0x55
        assert invariant_crc(bytes(other), udp, bth, [bytes(16)]).hex() == "82fd002a"
    assert invariant_crc(ip, udp, bth, [bytes(15) + b"\1"]).hex() != "82fd002a"


def test_invariant_crc_of_version_6_masks_what_changes() -> None:
    ip = bytearray(ip_header(ipaddress.ip_address("fe80::1"), ipaddress.ip_address("fe80::2"), UDP, 24))
    udp, bth = udp_header(0xC000, 4791, 16), bytes(12)
    crc = invariant_crc(bytes(ip), udp, bth, [])
    ip[1:4], ip[7] = b"\x12\x34\x56", 1
    assert invariant_crc(bytes(ip), udp, bth, []) == crc
    ip[9] ^= 1
    assert invariant_crc(bytes(ip), udp, bth, []) != crc


def test_blocks_byte_by_byte() -> None:
    header = file_header("app", "if0")
    assert header.hex(" ", 4) == (
        "0a0d0d0a 28000000 4d3c2b1a 01000000 ffffffff ffffffff 04000300 61707000 00000000 28000000"
        " 01000000 28000000 65000000 00000000 02000300 69663000 09000100 09000000 00000000 28000000"
    )
    head, tail = packet_block(0x1_00000002, 5, "hi", 2)
    assert head.hex(" ", 4) == "06000000 3c000000 00000000 01000000 02000000 05000000 05000000"
    assert tail.hex() == "000000" + "0100020068690000" + "0200040002000000" + "00000000" + "3c000000"
    assert [(p.time_ns, p.data, p.comment, p.direction) for p in read_packets(header + head + b"12345" + tail)] == [
        (0x1_00000002, b"12345", "hi", 2)
    ]


@pytest.mark.parametrize("length", range(5))
def test_blocks_need_neither_comment_nor_direction(length: int) -> None:
    head, tail = packet_block(7, length)
    (packet,) = read_packets(file_header("", "") + head + b"x" * length + tail)
    assert packet.data == b"x" * length and packet.comment == "" and packet.direction == 0
