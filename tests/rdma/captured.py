"""Reading captures: by a small reader of our own, and by tshark, which knows more than we do."""

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Packet", "complaints", "needs_tshark", "read_packets", "shown", "streams"]

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed: apt-get install tshark")
"""Where tests gate a change `.ci/run` installs it."""
OPTIONS = ("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "--disable-protocol", "rpcordma")
"""RPC over RDMA is guessed from any SEND that is short, and is then malformed: see docs/rdma.md."""
BAD = (
    "_ws.malformed or _ws.unreassembled or _ws.expert.severity == error or _ws.expert.severity == warning or iwarp_mpa.bad_length"
)


@dataclass(frozen=True)
class Packet:
    """A packet of a capture. direction: 1 inbound, 2 outbound, 0 unknown."""

    time_ns: int
    data: bytes
    comment: str
    direction: int


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    off = 0
    while off < len(data):
        code, length = struct.unpack_from("<HH", data, off)
        if not code:
            break
        found[code] = data[off + 4 : off + 4 + length]
        off += 4 + (length + 3 & ~3)
    return found


def read_packets(data: bytes) -> list[Packet]:
    """Take a file apart, strictly: a section, an interface of raw IP with nanoseconds, packets."""
    blocks = []
    off = 0
    while off < len(data):
        kind, size = struct.unpack_from("<II", data, off)
        assert size % 4 == 0 and struct.unpack_from("<I", data, off + size - 4) == (size,)
        blocks.append((kind, data[off + 8 : off + size - 4]))
        off += size
    assert off == len(data) and [kind for kind, _ in blocks[:2]] == [0x0A0D0D0A, 1]
    assert blocks[0][1][:16] == struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    assert blocks[1][1][:8] == struct.pack("<HHI", 101, 0, 0) and _options(blocks[1][1][8:])[9] == b"\x09"
    packets = []
    for kind, body in blocks[2:]:
        assert kind == 6
        interface, high, low, length, original = struct.unpack_from("<IIIII", body)
        assert interface == 0 and length == original
        options = _options(body[20 + (length + 3 & ~3) :])
        flags = int.from_bytes(options.get(2, b""), "little")
        packets.append(Packet(high << 32 | low, body[20 : 20 + length], options.get(1, b"").decode(), flags))
    return packets


def streams(packets: list[Packet]) -> dict[tuple[bytes, bytes], bytes]:
    """Put TCP streams together, checking that numbers and acknowledgements fit. Returns: bytes by (source, target)."""
    found: dict[tuple[bytes, bytes], bytearray] = {}
    following: dict[tuple[bytes, bytes], int] = {}
    for packet in packets:
        data = packet.data
        size = (data[0] & 15) * 4
        source = data[12:16] + data[size : size + 2]
        target = data[16:20] + data[size + 2 : size + 4]
        seq, ack = struct.unpack_from(">II", data, size + 4)
        head, flags = (data[size + 12] >> 4) * 4, data[size + 13]
        payload = data[size + head :]
        key, back = (source, target), (target, source)
        if flags & 2:
            following[key] = seq
            found[key] = bytearray()
        assert following[key] == seq, "a segment that does not follow"
        if flags & 16:
            assert ack == following[back], "an acknowledgement of what was not sent"
        found[key] += payload
        following[key] = seq + len(payload) + bool(flags & 3)
    return {key: bytes(value) for key, value in found.items()}


def _tshark(path: Path, *arguments: str) -> list[str]:
    command = ["tshark", "-n", "-r", str(path), *OPTIONS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def complaints(path: Path) -> list[str]:
    """Return the lines of packets that tshark finds something wrong with."""
    sums = [line for line in _tshark(path, "-O", "iwarp_mpa", "-Y", "iwarp_mpa.fpdu") if "CRC32" in line]
    return _tshark(path, "-Y", BAD) + [line for line in sums if "Good" not in line]


def shown(path: Path, *fields: str, where: str = "") -> list[tuple[str, ...]]:
    """Return the fields of each packet as tshark shows them, of several with one name the first."""
    arguments = ["-T", "fields", "-E", "occurrence=f", *(word for field in fields for word in ("-e", field))]
    return [tuple(line.split("\t")) for line in _tshark(path, *arguments, *(("-Y", where) if where else ()))]
