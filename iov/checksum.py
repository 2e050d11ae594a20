"""Sans-IO. Checksums and comparison over an iterator, in the same walk as a copy or on their own.

CRC32C uses the `crc32c` package when the extra `crc` is installed; without it a table in Python does about 4 MB/s, which is for
tests and small headers only. The Internet checksum adds pieces of odd length with their bytes swapped, so that cuts anywhere
give the sum of the whole. Owns no memory. Follows csum_and_copy_to_iter and hash_and_copy_to_iter of Linux, RFC 1071.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import cast

from iov.bvec import Buffer, byte_view
from iov.iov_iter import Direction, IovIter
from iov.walk import iterate_and_advance, take

__all__ = ["HAVE_FAST_CRC", "common_prefix", "crc32c", "crc32c_iter", "csum_fold", "csum_from_iter", "csum_iter", "csum_to_iter"]

CASTAGNOLI = 0x82F63B78
Crc = Callable[[memoryview, int], int]


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return table


def _slow_crc(view: memoryview, crc: int) -> int:
    table = _crc_table()
    crc ^= 0xFFFFFFFF
    for byte in view:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


HAVE_FAST_CRC = importlib.util.find_spec("crc32c") is not None


@functools.cache
def _crc() -> Crc:
    """Return what computes it. The package takes longer to import than all of this one, and most programs sum nothing."""
    return cast("Crc", importlib.import_module("crc32c").crc32c) if HAVE_FAST_CRC else _slow_crc


def crc32c(data: Buffer, crc: int = 0) -> int:
    """Return the CRC32C of `data`, continued from `crc`."""
    return _crc()(byte_view(data), crc)


def crc32c_iter(length: int, it: IovIter, crc: int = 0) -> int:
    """Return the CRC32C of the next `length` bytes, continued from `crc`, and move past what could be read."""
    box, compute = [crc], _crc()

    def step(view: memoryview, progress: int) -> int:
        box[0] = compute(view, box[0])
        return 0

    iterate_and_advance(it, length, step)
    return box[0]


def csum_fold(total: int) -> int:
    """Return the Internet checksum field (network order) of a sum made here: its complement, bytes swapped into place."""
    low = ~total & 0xFFFF
    return (low & 0xFF) << 8 | low >> 8


def _csum_add(total: int, view: memoryview, at: int) -> int:
    """Add a piece that starts `at` bytes into the data to a ones' complement sum of little-endian words."""
    value = int.from_bytes(view, "little")
    if not value:
        return total
    # 65536 is 1 modulo 65535, so the remainder is the folded sum; a remainder of 0 stands for 65535, ones' complement zero.
    piece = value % 0xFFFF or 0xFFFF
    if at & 1:
        piece = (piece & 0xFF) << 8 | piece >> 8
    total += piece
    return (total & 0xFFFF) + (total >> 16)


def csum_iter(length: int, it: IovIter, total: int = 0) -> int:
    """Return the ones' complement sum of the next `length` bytes, added to `total`, and move past what could be read."""
    box = [total]

    def step(view: memoryview, progress: int) -> int:
        box[0] = _csum_add(box[0], view, progress)
        return 0

    iterate_and_advance(it, length, step)
    return box[0]


def csum_to_iter(src: Buffer, it: IovIter, total: int = 0) -> tuple[int, int]:
    """Copy `src` into the iterator and sum it in the same walk. Returns: bytes copied, and the sum added to `total`."""
    if it.direction is Direction.SOURCE:
        return 0, total
    data = byte_view(src)
    box = [total]

    def step(view: memoryview, progress: int) -> int:
        piece = data[progress : progress + len(view)]
        view[:] = piece
        box[0] = _csum_add(box[0], piece, progress)
        return 0

    done = iterate_and_advance(it, len(data), step)
    return done, box[0]


def csum_from_iter(dst: Buffer, it: IovIter, total: int = 0) -> tuple[int, int]:
    """Fill `dst` from the iterator and sum it in the same walk. Returns: bytes copied, and the sum added to `total`."""
    if it.direction is not Direction.SOURCE:
        return 0, total
    data = byte_view(dst)
    box = [total]

    def step(view: memoryview, progress: int) -> int:
        data[progress : progress + len(view)] = view
        box[0] = _csum_add(box[0], view, progress)
        return 0

    done = iterate_and_advance(it, len(data), step)
    return done, box[0]


def common_prefix(first: IovIter, second: IovIter, length: int) -> int:
    """Return how many of the next `length` bytes of both are equal before they differ or one ends; neither moves."""
    first, second = first.copy(), second.copy()
    length = min(length, first.count, second.count)
    done = 0
    while done < length:
        one = take(first, length - done, 1)
        two = take(second, len(one[0]), 1) if one else []
        if not two:
            break
        piece, other = one[0], two[0]
        while len(other) < len(piece):
            if piece[: len(other)] != other:
                break
            done += len(other)
            piece = piece[len(other) :]
            two = take(second, len(piece), 1)
            if not two:
                return done
            other = two[0]
        if piece[: len(other)] != other:
            return done + _first_difference(piece, other)
        done += len(other)
    return done


def _first_difference(first: memoryview, second: memoryview) -> int:
    """Return where two pieces that differ begin to, by halving."""
    low, high = 0, min(len(first), len(second))
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low
