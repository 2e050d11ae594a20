"""Copies in and out of every kind of iterator equal slices of bytes, wherever the memory is cut."""

from hypothesis import given
from hypothesis import strategies as st

from iov.copy_iter import copy_from_iter, copy_from_iter_full, copy_to_iter, copy_to_iter_full, zero_iter
from iov.iov_iter import Direction, IovIter

from .shapes import Maker, block, every_kind, pattern

SIZE = 2 * 4096 + 600
CUTS = st.lists(st.integers(0, SIZE), max_size=12)
STEPS = st.lists(st.integers(0, 4000), max_size=8)


@every_kind
@given(cuts=CUTS, steps=STEPS, skip=st.integers(0, SIZE))
def test_copy_to_iter_fills_what_a_slice_would(make: Maker, cuts: list[int], steps: list[int], skip: int) -> None:
    memory, data = block(SIZE), pattern(SIZE + 32000)
    oracle, pos = bytearray(SIZE), skip
    it = make(Direction.DEST, memory, cuts)
    it.advance(skip)
    for step in steps:
        fits = min(step, SIZE - pos)
        assert copy_to_iter(data[pos : pos + step], it) == fits
        oracle[pos : pos + fits] = data[pos : pos + fits]
        pos += fits
        assert it.count == SIZE - pos
    assert memory == oracle


@every_kind
@given(cuts=CUTS, steps=STEPS, skip=st.integers(0, SIZE))
def test_copy_from_iter_reads_what_a_slice_would(make: Maker, cuts: list[int], steps: list[int], skip: int) -> None:
    memory = block(SIZE)
    memory[:] = data = pattern(SIZE)
    it = make(Direction.SOURCE, memory, cuts)
    it.advance(skip)
    pos = skip
    for step in steps:
        out = bytearray(step)
        fits = min(step, SIZE - pos)
        assert copy_from_iter(out, it) == fits
        assert out == data[pos : pos + fits] + bytes(step - fits)
        pos += fits
        assert it.count == SIZE - pos


@every_kind
@given(cuts=CUTS, steps=STEPS)
def test_zero_iter(make: Maker, cuts: list[int], steps: list[int]) -> None:
    memory = block(SIZE)
    memory[:] = oracle = bytearray(pattern(SIZE))
    it = make(Direction.DEST, memory, cuts)
    pos = 0
    for step in steps:
        fits = min(step, SIZE - pos)
        assert zero_iter(step, it) == fits
        oracle[pos : pos + fits] = bytes(fits)
        pos += fits
    assert memory == oracle


@every_kind
def test_full_copies_leave_the_position_when_they_fail(make: Maker) -> None:
    memory = block(SIZE)
    it = make(Direction.DEST, memory, [100, 100, 300])
    it.advance(150)
    assert not copy_to_iter_full(bytes(SIZE - 149), it)
    assert it.count == SIZE - 150
    assert copy_to_iter_full(b"x" * (SIZE - 150), it)
    assert it.count == 0
    assert memory == bytes(150) + b"x" * (SIZE - 150)
    it = make(Direction.SOURCE, memory, [100, 100, 300])
    it.advance(150)
    assert not copy_from_iter_full(bytearray(SIZE - 149), it)
    out = bytearray(SIZE - 150)
    assert copy_from_iter_full(out, it)
    assert out == b"x" * (SIZE - 150)


@every_kind
def test_the_wrong_direction_copies_nothing(make: Maker) -> None:
    memory = block(8)
    assert copy_to_iter(b"abc", make(Direction.SOURCE, memory, [2])) == 0
    assert zero_iter(3, make(Direction.SOURCE, memory, [2])) == 0
    it = make(Direction.DEST, memory, [2])
    assert copy_from_iter(bytearray(3), it) == 0
    assert it.count == 8
    assert memory == bytes(8)


def test_discard_swallows() -> None:
    it = IovIter.discard(10)
    assert copy_to_iter(bytes(4), it) == 4
    assert zero_iter(3, it) == 3
    assert copy_to_iter(bytes(9), it) == 3
    assert it.count == 0
