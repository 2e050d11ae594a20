"""Absent pages end a copy exactly in front of them; counts, positions and bytes agree, and faulting in lets it go on."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iov.bvec import PAGE_SIZE
from iov.checksum import csum_iter
from iov.copy_iter import copy_from_iter, copy_from_iter_full, copy_to_iter, copy_to_iter_full, zero_iter
from iov.fault import FaultModel
from iov.iov_iter import Direction, IovIter
from iov.pin import PinLedger
from iov.walk import fault_in_iter, iterate_and_advance

from .shapes import MAKERS, Maker, block, pattern

SIZE = 5000
USER = pytest.mark.parametrize("make", [MAKERS["ubuf"], MAKERS["iovec"]], ids=["ubuf", "iovec"])
CUTS = st.lists(st.integers(0, SIZE), min_size=1, max_size=8)
SOURCE, DEST = Direction.SOURCE, Direction.DEST


@USER
@given(cuts=CUTS, hole=st.integers(0, SIZE - 1), skip=st.integers(0, SIZE))
def test_a_copy_stops_in_front_of_an_absent_byte(make: Maker, cuts: list[int], hole: int, skip: int) -> None:
    memory, model = block(SIZE), FaultModel(granule=1)
    model.evict(memory[hole : hole + 1])
    it = make(DEST, memory, cuts)
    it.faults = model
    it.advance(skip)
    want = max(0, hole - skip) if hole >= skip else SIZE - skip
    assert copy_to_iter(pattern(SIZE), it) == want
    assert it.count == SIZE - skip - want
    assert bytes(memory[skip : skip + want]) == pattern(SIZE)[:want]
    assert not any(memory[skip + want :])
    if it.count:
        assert not copy_to_iter_full(b"x" * it.count, it)
        assert fault_in_iter(it.count, it) == 0
        assert copy_to_iter_full(b"x" * it.count, it)


@USER
@given(cuts=CUTS, hole=st.integers(0, SIZE - 1))
def test_reads_and_zeroes_stop_there_too(make: Maker, cuts: list[int], hole: int) -> None:
    memory, model = block(SIZE), FaultModel(granule=1)
    memory[:] = pattern(SIZE)
    model.poison(memory[hole : hole + 1])
    for direction in (SOURCE, DEST):
        it = make(direction, memory, cuts)
        it.faults = model
        out = bytearray(SIZE)
        if direction is SOURCE:
            assert not copy_from_iter_full(out, it.copy())
            csum_iter(SIZE, twin := it.copy())
            assert twin.count == SIZE - hole
            assert copy_from_iter(out, it) == hole
            assert out == pattern(SIZE)[:hole] + bytes(SIZE - hole)
        else:
            assert zero_iter(SIZE, it) == hole
        assert it.count == SIZE - hole
        assert fault_in_iter(SIZE, it) == SIZE
        assert copy_to_iter(b"x", it) == copy_from_iter(bytearray(1), it) == 0


def test_pages_are_the_granule_unless_told() -> None:
    memory, model = block(3 * PAGE_SIZE), FaultModel()
    model.evict(memory[PAGE_SIZE + 10 : PAGE_SIZE + 11])
    it = IovIter.ubuf(SOURCE, memory[5:])
    it.faults = model
    assert copy_from_iter(bytearray(3 * PAGE_SIZE), it.copy()) == PAGE_SIZE - 5
    assert fault_in_iter(it.count + 7, it) == 7
    assert copy_from_iter(bytearray(3 * PAGE_SIZE), it) == 3 * PAGE_SIZE - 5


def test_what_is_not_the_callers_does_not_fault() -> None:
    for name in ("kvec", "bvec", "bvecq", "folioq", "xarray"):
        assert fault_in_iter(SIZE + 9, MAKERS[name](SOURCE, block(SIZE), [])) == 0
    assert fault_in_iter(9, IovIter.ubuf(SOURCE, b"abc")) == 6


def test_a_step_that_leaves_something_ends_the_walk() -> None:
    for make in MAKERS.values():
        it = make(SOURCE, block(SIZE), [100, 100, 4200])
        seen = 0

        def step(view: memoryview, progress: int) -> int:
            nonlocal seen
            assert progress == seen
            take = min(len(view), 4150 - progress)
            seen += take
            return len(view) - take

        assert iterate_and_advance(it, SIZE, step) == seen == 4150
        assert it.count == SIZE - 4150
    it = IovIter.discard(10)
    assert iterate_and_advance(it, 7, lambda view, progress: 1 // 0) == 7
    assert it.count == 3


def test_pins_bring_pages_in_or_are_shorter() -> None:
    memory, model, ledger = block(3 * PAGE_SIZE), FaultModel(), PinLedger()
    model.evict(memory[:1])
    model.poison(memory[PAGE_SIZE : PAGE_SIZE + 1])
    it = IovIter.ubuf(DEST, memory)
    it.faults = model
    pin = ledger.pin(it, it.count)
    assert (pin.iter.count, it.count) == (PAGE_SIZE, 2 * PAGE_SIZE)
    with pytest.raises(OSError) as caught:
        ledger.pin(it, it.count)
    assert caught.value.errno == errno.EFAULT
    assert it.count == 2 * PAGE_SIZE
    pin.release()
    ledger.close()
