"""Sans-IO. Data that names itself: 16-byte cells that say which write they belong to, where they lie, and whether they are whole.

    | op id, 6 bytes | cell index, 6 bytes | crc32 of the 12 bytes, 4 bytes |        little-endian, the cell index is pos // 16

Whatever 16 bytes are read back tell their write, their intended place and their integrity, so a reader learns not only that data
is wrong but why. A CRC is affine over GF(2): the cells of a write are those of write 0 with one constant laid over each, so
that a megabyte of them is made by one exclusive or of two long numbers and compared without looking at single cells. Sixteen
zero bytes are a hole. Owns no memory that a caller could see: patterns are cached, results are the caller's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from typing import Final
from zlib import crc32

__all__ = ["CELL", "HOLE", "Cause", "Run", "content", "explain", "fill", "parse"]

CELL: Final = 16
HOLE: Final = 0
"""The op id of sixteen zero bytes; writes are numbered from 1."""
MAX_ID: Final = 1 << 48
_ZERO_CRC: Final = crc32(bytes(12))


class Cause(Enum):
    """What a cell turned out to be."""

    GOOD = "good"
    MISDIRECTED = "misdirected"  # whole, and written for another place
    FOREIGN = "foreign"  # whole, of a write that was not to this file
    TORN = "torn"  # its bytes are of two writes of this place
    ROTTEN = "rotten"  # no cell, nor parts of two


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring cells of one write and one kind. first: cell index where they were read; op: 0 for holes, -1 for none.

    shift: cells by which they are away from where they were written for. data: the bytes, of a cell that is none.
    """

    first: int
    count: int
    op: int
    cause: Cause = Cause.GOOD
    shift: int = 0
    data: bytes = b""

    @property
    def end(self) -> int:
        """The cell index behind the last one."""
        return self.first + self.count


PIECE: Final = 1 << 12
"""Cells of the cached pattern: 64 KiB."""


@cache
def _pattern() -> memoryview:
    """Return the cells of write 0 at the first piece of a file."""
    return memoryview(b"".join(_head(0, index) + crc32(_head(0, index)).to_bytes(4, "little") for index in range(PIECE)))


def _head(op: int, index: int) -> bytes:
    return op.to_bytes(6, "little") + index.to_bytes(6, "little")


@lru_cache(maxsize=64)
def _comb(count: int) -> int:
    """Return a number with a one at the start of each cell."""
    return int.from_bytes((b"\1" + bytes(CELL - 1)) * count, "little")


@lru_cache(maxsize=4096)
def _unit(op: int, base: int) -> int:
    """Return what is laid over each cell of the first piece of write 0 to make those of another write in another piece."""
    head = _head(op, base)
    return int.from_bytes(head + (crc32(head) ^ _ZERO_CRC).to_bytes(4, "little"), "little")


def fill(op: int, first: int, count: int) -> bytearray:
    """Return the `count` cells that the write `op` puts at cell index `first`."""
    assert 0 < op < MAX_ID and 0 <= first < MAX_ID - count, (op, first, count)
    out = bytearray()
    end = first + count
    while first < end:
        # Within a piece, the bits of an index that differ are those in which it differs from the piece's first.
        base = first // PIECE * PIECE
        step = min(end, base + PIECE) - first
        cells = int.from_bytes(_pattern()[(first - base) * CELL : (first - base + step) * CELL], "little")
        out += (cells ^ _comb(step) * _unit(op, base)).to_bytes(step * CELL, "little")
        first += step
    return out


def content(op: int, pos: int, length: int) -> memoryview:
    """Return the bytes that the write `op` puts at `pos`, which need not be at the edge of a cell."""
    first, last = pos // CELL, (pos + length + CELL - 1) // CELL
    return memoryview(fill(op, first, last - first))[pos % CELL :][:length]


def parse(data: bytes | bytearray | memoryview, first: int, is_of: Callable[[int], bool] | None = None) -> list[Run]:
    """Read cells that lie at cell index `first`; a last part of a cell is left out.

    is_of: tells whether a write was to this file; without it, none is foreign. Returns: runs, in order, without gaps.
    """
    view = memoryview(data).cast("B")
    total = len(view) // CELL
    runs: list[Run] = []
    at = 0
    while at < total:
        op, index = _decode(view, at)
        if op < 0:
            count, cause, index = 1, Cause.ROTTEN, first + at
        else:
            count = _extent(view, at, total, op, index)
            if op == HOLE:
                cause, index = Cause.GOOD, first + at
            elif is_of is not None and not is_of(op):
                cause = Cause.FOREIGN
            else:
                cause = Cause.GOOD if index == first + at else Cause.MISDIRECTED
        odd = bytes(view[at * CELL : (at + 1) * CELL]) if cause is Cause.ROTTEN else b""
        run = Run(first + at, count, op, cause, index - first - at, odd)
        last = runs[-1] if runs else None
        if last is not None and not odd and (last.op, last.cause, last.shift) == (run.op, run.cause, run.shift):
            runs[-1] = Run(last.first, last.count + count, op, cause, run.shift)
        else:
            runs.append(run)
        at += count
    return runs


def _decode(view: memoryview, at: int) -> tuple[int, int]:
    """Return the op and the index a cell names, (-1, -1) if it is none."""
    cell = view[at * CELL : (at + 1) * CELL]
    if crc32(cell[:12]) != int.from_bytes(cell[12:], "little"):
        return (HOLE, 0) if not any(cell) else (-1, -1)
    return int.from_bytes(cell[:6], "little"), int.from_bytes(cell[6:12], "little")


def _extent(view: memoryview, at: int, total: int, op: int, index: int) -> int:
    """Return how many cells from here on go on as the first one says, looking ahead ever further."""
    count, step = 1, 16
    while at + count < total:
        step = min(step, total - at - count)
        have = view[(at + count) * CELL : (at + count + step) * CELL]
        want = memoryview(bytes(step * CELL) if op == HOLE else fill(op, index + count, step))
        if have != want:
            differ = int.from_bytes(have, "little") ^ int.from_bytes(want, "little")
            return count + ((differ & -differ).bit_length() - 1) // (CELL * 8)
        count += step
        step = min(step * 4, PIECE)
    return count


def explain(cell: bytes | bytearray | memoryview, index: int, candidates: list[int]) -> tuple[Cause, str, tuple[int, ...]]:
    """Say of 16 bytes that are no cell, found at cell `index`, what they are, and whose. candidates: of that place."""
    view = bytes(cell)
    for left in candidates:
        for right in candidates:
            if left == right:
                continue
            head, tail = _cell(left, index), _cell(right, index)
            for cut in range(1, CELL):
                if view == head[:cut] + tail[cut:]:
                    return Cause.TORN, f"its first {cut} bytes are of {_name(left)}, the rest of {_name(right)}", (left, right)
    near = [(sum((a ^ b).bit_count() for a, b in zip(view, _cell(op, index), strict=True)), op) for op in candidates]
    bits, op = min(near, default=(999, -1))
    if bits <= 8:
        return Cause.ROTTEN, f"{_name(op)} with {bits} bits flipped", (op,)
    return Cause.ROTTEN, f"bytes of no write: {view.hex()}", ()


def _cell(op: int, index: int) -> bytes:
    return bytes(CELL) if op == HOLE else bytes(fill(op, index, 1))


def _name(op: int) -> str:
    return "a hole" if op == HOLE else f"write #{op}"
