"""Checksums over cut memory equal those of the whole; comparison finds the first difference."""

from hypothesis import given
from hypothesis import strategies as st

from iov import checksum
from iov.checksum import common_prefix, crc32c, crc32c_iter, csum_fold, csum_from_iter, csum_iter, csum_to_iter
from iov.iov_iter import Direction, IovIter

from .shapes import MAKERS, Maker, block, every_kind, pattern

SIZE = 4096 + 301
CUTS = st.lists(st.integers(0, SIZE), max_size=8)
SOURCE, DEST = Direction.SOURCE, Direction.DEST


def internet_checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_known_answers() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's polynomial, the usual check value
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 B.4
    assert crc32c(bytes(range(32))) == 0x46DD794E
    words = bytes.fromhex("0001f203f4f5f6f7")  # RFC 1071, section 3
    assert csum_fold(csum_iter(8, IovIter.ubuf(SOURCE, words))) == 0x220D


@given(data=st.binary(max_size=200))
def test_the_table_equals_the_fast_package_or_itself_cut(data: bytes) -> None:
    half = len(data) // 2
    slow = checksum._slow_crc
    assert slow(memoryview(data), 0) == crc32c(data) == slow(memoryview(data)[half:], slow(memoryview(data)[:half], 0))


@every_kind
@given(cuts=CUTS, skip=st.integers(0, SIZE), length=st.integers(0, SIZE))
def test_sums_of_cut_memory(make: Maker, cuts: list[int], skip: int, length: int) -> None:
    memory = block(SIZE)
    memory[:] = data = pattern(SIZE)
    it = make(SOURCE, memory, cuts)
    it.advance(skip)
    part = data[skip : skip + length]
    assert csum_fold(csum_iter(length, it.copy())) == internet_checksum(part)
    out = bytearray(length)
    done, total = csum_from_iter(out, it.copy())
    assert (done, csum_fold(total)) == (len(part), internet_checksum(part))
    assert out[:done] == part
    if length < 600:
        twin = it.copy()
        assert crc32c_iter(length, twin) == crc32c(part)
        assert twin.count == it.count - len(part)
    target = block(SIZE)
    dest = make(DEST, target, cuts)
    dest.advance(skip)
    done, total = csum_to_iter(data[:length], dest)
    assert (done, csum_fold(total)) == (len(part), internet_checksum(data[:done]))
    assert bytes(target) == bytes(skip) + data[:done] + bytes(SIZE - skip - done)


@given(data=st.binary(max_size=40).filter(any))
def test_sums_of_zeros_and_ones_complement_zero(data: bytes) -> None:
    padded = data + b"\xff\xff" * 3 + bytes(2 * len(data))
    assert csum_fold(csum_iter(len(padded), IovIter.ubuf(SOURCE, padded))) == internet_checksum(padded)


def test_wrong_direction_sums_nothing() -> None:
    assert csum_to_iter(b"abc", IovIter.ubuf(SOURCE, b"abc"), 7) == (0, 7)
    assert csum_from_iter(bytearray(3), IovIter.ubuf(DEST, bytearray(3)), 7) == (0, 7)


@every_kind
@given(cuts=CUTS, other=CUTS, at=st.integers(0, SIZE), length=st.integers(0, SIZE + 5))
def test_common_prefix(make: Maker, cuts: list[int], other: list[int], at: int, length: int) -> None:
    one, two = block(SIZE), block(SIZE)
    one[:] = two[:] = pattern(SIZE)
    if at < SIZE:
        two[at] ^= 1
    first, second = make(SOURCE, one, cuts), MAKERS["scattered"](SOURCE, two, other)
    assert common_prefix(first, second, length) == min(at, length, SIZE)
    assert common_prefix(second, first, length) == min(at, length, SIZE)
    assert first.count == second.count == SIZE
