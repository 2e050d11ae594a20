"""Mistakes made before us, each as a property: retry positions, table arithmetic, copies across pages, one walk cut anywhere."""

import errno
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iov.bvec import PAGE_SIZE, BioVec, BvecQueue
from iov.copy_iter import copy_from_iter, copy_to_iter
from iov.debug import set_debug
from iov.extract import decant, extract_segments
from iov.fault import FaultModel
from iov.folio import Folio
from iov.iov_iter import Direction, IovIter
from iov.walk import fault_in_iter
from transport.scatterlist import ScatterEntry, SgTable, extract_iter_to_sg

from .shapes import MAKERS, Maker, block, every_kind, pattern

SIZE = 3 * PAGE_SIZE + 123
CUTS = st.lists(st.integers(0, SIZE), max_size=10)
SOURCE, DEST = Direction.SOURCE, Direction.DEST


@every_kind
@given(cuts=CUTS, tries=st.lists(st.tuples(st.integers(1, 6000), st.integers(0, 6000)), max_size=10))
def test_trap_4_partial_writes_of_changing_sizes(make: Maker, cuts: list[int], tries: list[tuple[int, int]]) -> None:
    """A retry starts from a copy moved by what was accepted; nothing is ever moved back, and the pieces make the source."""
    memory = block(SIZE)
    memory[:] = data = pattern(SIZE)
    whole, server = decant(make(SOURCE, memory, cuts)), bytearray()
    before = set_debug(True)
    try:
        while whole.count:
            wsize, accepted = tries.pop(0) if tries else (SIZE, SIZE)
            attempt = whole.copy()
            attempt.truncate(wsize)
            sent = b"".join(extract_segments(attempt, attempt.count))[:accepted]
            server += sent
            whole.advance(len(sent))
            assert whole.count == SIZE - len(server)
    finally:
        set_debug(before)
    assert server == data


@every_kind
@given(cuts=CUTS, filled=st.integers(0, 5), calls=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 5)), max_size=10))
def test_trap_12_tables_part_filled(make: Maker, cuts: list[int], filled: int, calls: list[tuple[int, int]]) -> None:
    """Scatterlist arithmetic: what was in the table stays, sg_max and max_size hold, every byte is entered once."""
    memory, other = block(SIZE), block(8)
    memory[:] = data = pattern(SIZE)
    it = make(SOURCE, memory, cuts)
    old = [ScatterEntry(other, n, 1) for n in range(filled)]
    table, pos = SgTable(list(old)), 0
    for max_size, sg_max in [*calls, (SIZE, 100)]:
        nents = table.nents
        added = extract_iter_to_sg(it, max_size, table, sg_max)
        assert table.entries[:filled] == old
        assert table.nents - nents <= sg_max
        assert added <= max_size
        assert added == sum(entry.length for entry in table.entries[nents:])
        assert added == min(max_size, SIZE - pos) or table.nents - nents == sg_max
        pos += added
        assert it.count == SIZE - pos
    assert b"".join(entry.memory[entry.off : entry.off + entry.length] for entry in table.entries[filled:]) == data


def test_trap_12_no_entry_of_a_block_spans_pages() -> None:
    memory = block(SIZE)
    table = SgTable()
    assert extract_iter_to_sg(IovIter.ubuf(SOURCE, memory[100:]), SIZE, table, 100) == SIZE - 100
    assert [entry.length for entry in table.entries] == [PAGE_SIZE - 100, PAGE_SIZE, PAGE_SIZE, 123]
    with pytest.raises(OSError) as caught:
        extract_iter_to_sg(IovIter.discard(5), 5, table, 5)
    assert caught.value.errno == errno.EIO
    assert table.nents == 4


@given(cuts=CUTS, off=st.integers(0, SIZE), length=st.integers(0, SIZE), holes=st.sets(st.integers(0, SIZE - 1), max_size=4))
def test_trap_13_copies_into_a_folio_of_several_pages(cuts: list[int], off: int, length: int, holes: set[int]) -> None:
    """With faults disabled a copy is short; faulting in and going on gives what one copy would have, at any offset."""
    memory, folio, model = block(SIZE), Folio(block(4 * PAGE_SIZE)), FaultModel(granule=1)
    memory[:] = data = pattern(SIZE)
    for hole in sorted(holes):
        model.evict(memory[hole : hole + 1])
    it = MAKERS["iovec"](SOURCE, memory, [7, *cuts])
    it.faults = model
    done = 0
    want = min(length, SIZE, folio.size - off)
    for _ in range(len(holes) + 1):
        got = copy_from_iter(folio.memory[off + done : off + want], it)
        done += got
        assert it.count == SIZE - done
        if done < want:
            assert fault_in_iter(1, it) == 0
    assert done == want
    assert bytes(folio.memory) == bytes(off) + data[:want] + bytes(4 * PAGE_SIZE - off - want)


@every_kind
@given(cuts=CUTS, left=CUTS, right=CUTS)
def test_where_a_walk_is_cut_changes_nothing(make: Maker, cuts: list[int], left: list[int], right: list[int]) -> None:
    images = []
    for steps in (left, right):
        memory, pos = block(SIZE), 0
        it = make(DEST, memory, cuts)
        for edge in [*sorted(steps), SIZE]:
            assert copy_to_iter(pattern(SIZE)[pos:edge], it) == edge - pos
            pos = edge
        images.append(bytes(memory))
    assert images[0] == images[1] == pattern(SIZE)


def test_spent_nodes_are_dropped_but_never_the_last() -> None:
    queue, memory = BvecQueue(), block(30)
    released: list[int] = []
    for n in range(3):
        queue.append([BioVec(memory, 10 * n, 10)], on_release=partial(released.append, n))
    it = IovIter.bvecq(DEST, queue)
    seen = []
    while it.count:
        copy_to_iter(b"x" * 7, it)
        assert it.node is not None
        queue.drop_spent(it.node)
        seen.append(list(released))
    assert seen == [[], [0], [0, 1], [0, 1], [0, 1]]
    assert queue.length == 10
    with pytest.raises(AssertionError):
        queue.drop_spent(BvecQueue().append(b""))
