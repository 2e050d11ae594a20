"""Moving, cutting, counting and refusing: what an iterator does without touching its memory."""

import array
import ctypes
import errno
import mmap
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iov.address import address_of
from iov.bvec import PAGE_SIZE, BioVec, BvecNode, BvecQueue
from iov.copy_iter import copy_from_iter, copy_to_iter
from iov.debug import set_debug
from iov.device_memory import DeviceMemory
from iov.extract import extract_bvecs, extract_pages, extract_segments, peek_segments
from iov.folio import Folio, XArray
from iov.iov_iter import MAX_RW_COUNT, UIO_MAXIOV, Direction, IovIter, IterType

from .shapes import Maker, block, bvecs, every_kind, pattern, pieces

SIZE = 2 * PAGE_SIZE + 700
CUTS = st.lists(st.integers(0, SIZE), max_size=12)
SOURCE, DEST = Direction.SOURCE, Direction.DEST


def rest(it: IovIter) -> bytes:
    return b"".join(peek_segments(it, it.count))


@every_kind
@given(cuts=CUTS, steps=st.lists(st.integers(0, 5000), max_size=6))
def test_advance_is_clamped_and_lands_where_a_slice_would(make: Maker, cuts: list[int], steps: list[int]) -> None:
    memory = block(SIZE)
    memory[:] = data = pattern(SIZE)
    it = make(SOURCE, memory, cuts)
    for step, total in zip(steps, accumulate(steps), strict=True):
        it.advance(step)
        assert it.count == max(0, SIZE - total)
        assert rest(it) == data[total:]


@every_kind
@given(cuts=CUTS, first=st.integers(0, SIZE), keep=st.integers(0, SIZE))
def test_copy_truncate_reexpand_save_restore(make: Maker, cuts: list[int], first: int, keep: int) -> None:
    memory = block(SIZE)
    memory[:] = data = pattern(SIZE)
    it = make(SOURCE, memory, cuts)
    it.advance(first)
    twin, state = it.copy(), it.save_state()
    it.truncate(keep)
    left = min(keep, SIZE - first)
    assert it.count == left
    assert rest(it) == data[first : first + left]
    it.advance(left // 2)
    it.reexpand(SIZE - first - left // 2)
    assert rest(it) == data[first + left // 2 :]
    if it.iter_type is not IterType.XARRAY:  # an index knows no end
        with pytest.raises(ValueError):
            it.reexpand(it.count + 1)
    assert rest(twin) == data[first:]
    it.restore_state(state)
    assert rest(it) == data[first:]
    assert it.count == SIZE - first


@every_kind
@given(cuts=CUTS, sizes=st.lists(st.tuples(st.integers(0, 6000), st.integers(1, 4)), min_size=1, max_size=8))
def test_slices_tile_the_memory(make: Maker, cuts: list[int], sizes: list[tuple[int, int]]) -> None:
    memory = block(SIZE)
    memory[:] = data = pattern(SIZE)
    it, pos = make(SOURCE, memory, cuts), 0
    for max_size, max_segs in sizes:
        piece = it.slice(max_size, max_segs)
        assert piece.count <= max_size
        assert len(peek_segments(piece, piece.count)) <= max_segs
        assert piece.count or not max_size or pos == SIZE
        assert rest(piece) == data[pos : pos + piece.count]
        pos += piece.count
        assert rest(it) == data[pos:]


@given(cuts=CUTS, skip=st.integers(0, SIZE))
def test_counts_of_vectors(cuts: list[int], skip: int) -> None:
    memory = block(SIZE)
    for it, starts in (
        (IovIter.kvec(SOURCE, pieces(memory, cuts)), [(address_of(view), len(view)) for view in pieces(memory, cuts)]),
        (IovIter.bvec(SOURCE, bvecs(memory, cuts)), [(vec.off, vec.length) for vec in bvecs(memory, cuts)]),
    ):
        it.advance(skip)
        passed, left = skip, []
        for start, length in starts:
            gone = min(passed, length)
            passed -= gone
            if length > gone:
                left.append((start + gone, length - gone))
        bits = pages = 0
        for start, length in left:
            bits |= start | length
            pages += -(-(start % PAGE_SIZE + length) // PAGE_SIZE)
        assert it.alignment() == bits
        assert it.npages() == pages
        assert it.npages(2) == min(pages, 2)
        assert it.single_seg_count() == (left[0][1] if left else 0) or it.nr_segs == 1
        assert it.nr_segs >= len(left)


def test_the_last_segment_counts_all_that_is_left() -> None:
    it = IovIter.bvec(SOURCE, bvecs(block(100), [60]))
    assert (it.nr_segs, it.single_seg_count()) == (2, 60)
    it.advance(60)
    assert (it.nr_segs, it.single_seg_count()) == (1, 40)
    it.advance(40)
    assert (it.count, it.nr_segs, it.single_seg_count()) == (0, 0, 0)


def test_alignment_of_blocks() -> None:
    memory = block(3 * PAGE_SIZE)
    assert IovIter.ubuf(SOURCE, memory).alignment() & (PAGE_SIZE - 1) == 0
    assert IovIter.ubuf(SOURCE, memory[3:]).alignment() & 1
    assert IovIter.ubuf(SOURCE, memory[:0]).alignment() == 0
    views = [memory[: PAGE_SIZE + 8], memory[2 * PAGE_SIZE :]]
    assert IovIter.iovec(SOURCE, views).gap_alignment() & (PAGE_SIZE - 1) == 8
    assert IovIter.ubuf(SOURCE, memory).gap_alignment() == 0
    with pytest.raises(ValueError, match="KVEC"):
        IovIter.kvec(SOURCE, views).gap_alignment()


def test_discard_and_index_counts() -> None:
    it = IovIter.discard(9000)
    assert (it.npages(), it.single_seg_count(), it.nr_segs) == (0, 9000, 1)
    it.advance(9001)
    assert it.count == 0
    index = IovIter.xarray_range(DEST, XArray(), PAGE_SIZE + 5, 10)
    assert (index.npages(), index.single_seg_count(), index.alignment()) == (1, 10, (PAGE_SIZE + 5) | 10)


def test_one_vector_is_a_ubuf_and_none_is_nothing() -> None:
    assert IovIter.iovec(SOURCE, [b"abc"]).iter_type is IterType.UBUF
    assert IovIter.iovec(SOURCE, []).count == 0


def test_a_chain_grows_while_it_is_consumed() -> None:
    memory = block(40)
    memory[:] = bytes(range(40))
    queue = BvecQueue()
    first = queue.append(memory[:10])
    it = IovIter.bvecq(SOURCE, queue)
    out = bytearray(10)
    copy_from_iter(out, it)
    assert it.nr_segs == 0
    queue.append(memory[10:30])
    it.reexpand(20)
    assert copy_from_iter(out, it) == 10
    assert out == bytes(range(10, 20))
    released: list[int] = []
    first.on_release = lambda: released.append(1)
    assert it.node is not None
    queue.drop_spent(it.node)
    assert released == [1]
    queue.append(memory[30:])
    it.reexpand(20)
    assert rest(it) == bytes(range(20, 40))
    queue.release()
    assert released == [1]


def test_an_empty_chain_can_be_stood_on() -> None:
    queue = BvecQueue()
    it = IovIter.bvecq(DEST, queue)
    assert (it.count, it.nr_segs) == (0, 0)
    memory = block(4)
    queue.append(memory)
    it.reexpand(4)
    assert copy_to_iter(b"abcd", it) == 4
    assert bytes(memory) == b"abcd"


def test_a_gap_swallows_what_is_copied_there() -> None:
    memory = block(8)
    queue = BvecQueue()
    queue.append(memory[:4])
    queue.append_gap((1 << 20) + 3)
    queue.append(memory[4:])
    it = IovIter.bvecq(DEST, queue)
    data = b"abcd" + bytes((1 << 20) + 3) + b"efgh"
    assert copy_to_iter(data, it) == len(data)
    assert bytes(memory) == b"abcdefgh"
    with pytest.raises(ValueError, match="gap"):
        IovIter.bvecq(SOURCE, queue)


def test_a_gap_appended_to_a_source_is_refused_when_reached() -> None:
    queue = BvecQueue()
    queue.append(b"abcd")
    it = IovIter.bvecq(SOURCE, queue)
    queue.append_gap(4)
    it.reexpand(8)
    with pytest.raises(ValueError, match="gap"):
        copy_from_iter(bytearray(8), it)
    assert it.count == 8


def test_prepending_a_header() -> None:
    queue = BvecQueue()
    queue.append(b"body")
    queue.prepend(b"head:")
    assert rest(IovIter.bvecq(SOURCE, queue)) == b"head:body"
    assert queue.length == 9


def test_released_memory_is_refused() -> None:
    queue = BvecQueue()
    node = queue.append(block(10))
    it = IovIter.bvecq(DEST, queue)
    node.release()
    with pytest.raises(ValueError, match="use after release"):
        copy_to_iter(b"abc", it)
    with pytest.raises(ValueError, match="use after release"):
        IovIter.bvecq(DEST, queue)
    assert it.count == 10


def test_an_xarray_shifts_under_its_iterator() -> None:
    index, old, new = XArray(), Folio(block(PAGE_SIZE)), Folio(block(PAGE_SIZE))
    old.memory[:], new.memory[:] = b"o" * PAGE_SIZE, b"n" * PAGE_SIZE
    index.store(0, old)
    it = IovIter.xarray_range(SOURCE, index, 0, 2 * PAGE_SIZE)
    out = bytearray(4)
    assert copy_from_iter(out, it) == 4
    index.store(0, new)
    assert copy_from_iter(out, it) == 4
    assert out == b"nnnn"
    assert copy_from_iter(bytearray(2 * PAGE_SIZE), it) == PAGE_SIZE - 8  # page 1 is not there
    index.erase(0)
    assert copy_from_iter(out, IovIter.xarray_range(SOURCE, index, 0, 4)) == 0


def test_an_index_takes_aligned_folios_of_several_pages() -> None:
    index, big = XArray(), Folio(block(4 * PAGE_SIZE))
    with pytest.raises(ValueError):
        index.store(2, big)
    index.store(4, big)
    big.memory[:] = data = pattern(4 * PAGE_SIZE)
    it = IovIter.xarray_range(SOURCE, index, 5 * PAGE_SIZE + 7, 2 * PAGE_SIZE)
    assert rest(it) == data[PAGE_SIZE + 7 : 3 * PAGE_SIZE + 7]
    assert len(peek_segments(it, it.count)) == 1


def resized_while_lent() -> None:
    lent = bytearray(10)
    it = IovIter.ubuf(DEST, lent)
    try:
        lent.append(1)
    finally:
        del it


def circle() -> None:
    queue = BvecQueue()
    first = queue.append(b"a")
    queue.append(b"b").next = first
    IovIter.bvecq(SOURCE, queue)


def own_tail() -> None:
    queue = BvecQueue()
    node = queue.append(b"a")
    node.next = node
    IovIter.bvecq(SOURCE, queue)


def overlapping_nodes() -> None:
    queue = BvecQueue()
    queue.append(MEMORY[10:20])
    queue.append(MEMORY[19:30])
    IovIter.bvecq(DEST, queue)


def twice_exported() -> list[memoryview]:
    """Return views of the same bytes whose objects are not the same."""
    store = (ctypes.c_ubyte * 16)()
    return [memoryview((ctypes.c_ubyte * 8).from_buffer(store, off)).cast("B") for off in (0, 4)]


MEMORY = block(PAGE_SIZE)
REGION = DeviceMemory("gpu", 1 << 42, PAGE_SIZE)
BAD = {
    "read-only destination": (TypeError, lambda: IovIter.ubuf(DEST, b"abc")),
    "read-only among vectors": (TypeError, lambda: IovIter.iovec(DEST, [bytearray(3), b"abc"])),
    "read-only folio": (TypeError, lambda: IovIter.bvec(DEST, [BioVec(memoryview(b"abc"), 0, 3)])),
    "strided": (ValueError, lambda: IovIter.ubuf(SOURCE, MEMORY[::2])),
    "strided among vectors": (ValueError, lambda: IovIter.iovec(SOURCE, [MEMORY, MEMORY[::2]])),
    "not a buffer": (TypeError, lambda: IovIter.ubuf(SOURCE, "abc")),  # type: ignore[arg-type]
    "overlapping vectors": (ValueError, lambda: IovIter.iovec(DEST, [MEMORY[:10], MEMORY[9:20]])),
    "overlapping kernel vectors": (ValueError, lambda: IovIter.kvec(DEST, [MEMORY[50:60], MEMORY[:10], MEMORY[5:6]])),
    "overlapping bvecs": (ValueError, lambda: IovIter.bvec(DEST, [BioVec(MEMORY, 5, 5), BioVec(MEMORY, 0, 6)])),
    "overlapping views in bvecs": (ValueError, lambda: IovIter.bvec(DEST, [BioVec(MEMORY[:9], 0, 9), BioVec(MEMORY[4:], 4, 8)])),
    "bvecs that meet in a view": (ValueError, lambda: IovIter.bvec(DEST, [BioVec(MEMORY, 0, 9), BioVec(MEMORY[8:], 0, 8)])),
    "overlap across nodes": (ValueError, overlapping_nodes),
    "overlapping exporters": (ValueError, lambda: IovIter.iovec(DEST, twice_exported())),
    "bvecs of overlapping exporters": (ValueError, lambda: IovIter.bvec(DEST, [BioVec(v, 0, 8) for v in twice_exported()])),
    "overlap on a device": (ValueError, lambda: IovIter.bvec(DEST, [BioVec(REGION, 0, 9), BioVec(REGION, 8, 1)])),
    "too many vectors": (OSError, lambda: IovIter.iovec(SOURCE, [b"x"] * (UIO_MAXIOV + 1))),
    "negative discard": (ValueError, lambda: IovIter.discard(-1)),
    "negative advance": (ValueError, lambda: IovIter.ubuf(SOURCE, b"abc").advance(-1)),
    "negative truncate": (ValueError, lambda: IovIter.ubuf(SOURCE, b"abc").truncate(-1)),
    "negative bvec": (ValueError, lambda: IovIter.bvec(SOURCE, [BioVec(MEMORY, -1, 5)])),
    "bvec past its memory": (ValueError, lambda: IovIter.bvec(SOURCE, [BioVec(MEMORY, 1, PAGE_SIZE)])),
    "count past the memory": (ValueError, lambda: IovIter.bvec(SOURCE, [BioVec(MEMORY, 0, 5)], 6)),
    "negative count": (ValueError, lambda: IovIter.bvec(SOURCE, [BioVec(MEMORY, 0, 5)], -1)),
    "negative position": (ValueError, lambda: IovIter.xarray_range(SOURCE, XArray(), -1, 5)),
    "absurd expansion": (ValueError, lambda: IovIter.ubuf(SOURCE, b"abc").reexpand(1 << 63)),
    "negative gap": (ValueError, lambda: BvecQueue().append_gap(-1)),
    "circle": (ValueError, circle),
    "circle of one": (ValueError, own_tail),
    "resized while lent": (BufferError, resized_while_lent),
}


@pytest.mark.parametrize(("error", "attempt"), BAD.values(), ids=list(BAD))
def test_bad_input_has_its_error(error: type[Exception], attempt: "object") -> None:
    assert callable(attempt)
    with pytest.raises(error) as caught:
        attempt()
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.EINVAL


def test_pieces_that_touch_do_not_overlap() -> None:
    IovIter.bvec(DEST, [BioVec(MEMORY[8:16], 0, 8), BioVec(MEMORY, 0, 8), BioVec(MEMORY, 16, 4), BioVec(MEMORY, 3, 0)])
    IovIter.iovec(DEST, [MEMORY[8:16], MEMORY[:8], MEMORY[3:3]])
    IovIter.bvec(SOURCE, [BioVec(MEMORY, 0, 8), BioVec(MEMORY, 4, 8)])


@pytest.fixture
def huge(tmp_path: Path) -> Iterator[memoryview]:
    """A block longer than one read or write may be, of which no page is ever touched."""
    with (tmp_path / "sparse").open("w+b") as file:
        file.truncate(MAX_RW_COUNT + 3 * PAGE_SIZE)
        yield memoryview(mmap.mmap(file.fileno(), 0))


def test_a_callers_memory_is_cut_at_the_most_one_call_may_move(huge: memoryview) -> None:
    for direction in (SOURCE, DEST):
        it = IovIter.ubuf(direction, huge)
        assert it.count == it.single_seg_count() == MAX_RW_COUNT == 0x7FFFF000
        assert IovIter.iovec(direction, [huge]).count == MAX_RW_COUNT
        it = IovIter.iovec(direction, [huge[:10], huge[10:-10], huge[-10:]])
        assert (it.count, it.nr_segs) == (MAX_RW_COUNT, 3)
        assert [len(view) for view in peek_segments(it, 1 << 40)] == [10, MAX_RW_COUNT - 10]
        with pytest.raises(ValueError):  # what was cut off is not to be had again
            it.reexpand(MAX_RW_COUNT + 1)
        it.advance(MAX_RW_COUNT)
        assert it.count == 0


def test_one_extraction_gives_no_more_than_that(huge: memoryview) -> None:
    for it in (IovIter.kvec(SOURCE, [huge]), IovIter.bvec(SOURCE, [BioVec(huge, 0, len(huge))])):
        assert it.count == len(huge)
        assert sum(map(len, extract_segments(it.copy(), 1 << 40))) == MAX_RW_COUNT
        assert sum(bvec.length for bvec in extract_bvecs(it.copy(), 1 << 40, 9)) == MAX_RW_COUNT
        part = it.copy()
        assert extract_pages(part, 1 << 40, 1 << 40).length == MAX_RW_COUNT
        assert part.count == len(huge) - MAX_RW_COUNT


def test_other_items_than_bytes_are_cast() -> None:
    words = array.array("I", [1, 2, 3])
    it = IovIter.ubuf(SOURCE, words)  # type: ignore[arg-type]
    assert it.count == 3 * words.itemsize
    assert rest(it) == words.tobytes()


def test_a_chain_with_many_nodes_is_no_circle() -> None:
    queue = BvecQueue()
    for _ in range(100):
        queue.append(b"x")
    assert len(list(queue)) == 100
    assert all(isinstance(node, BvecNode) for node in queue)


def test_debug_mode_refuses_a_move_past_the_end() -> None:
    before = set_debug(True)
    try:
        it = IovIter.ubuf(SOURCE, b"abc")
        it.advance(3)
        with pytest.raises(ValueError, match="1 bytes forward where 0"):
            it.advance(1)
    finally:
        set_debug(before)


def test_a_state_of_other_memory_is_refused() -> None:
    one, two = IovIter.ubuf(SOURCE, b"abc"), IovIter.ubuf(SOURCE, b"abc")
    with pytest.raises(ValueError):
        one.restore_state(two.save_state())
    chain, other = IovIter.bvec(SOURCE, bvecs(MEMORY, [5])), IovIter.bvec(SOURCE, bvecs(MEMORY, [5]))
    with pytest.raises(ValueError):
        chain.restore_state(other.save_state())
