"""Extraction to views, bvecs, pages and private chains passes every byte once, in order, within its limits."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iov.address import address_of
from iov.bvec import PAGE_SIZE, BioVec, BvecQueue
from iov.copy_iter import copy_to_iter
from iov.device_memory import DeviceMemory
from iov.extract import decant, extract_bvecs, extract_pages, extract_segments, framed, peek_segments
from iov.iov_iter import Direction, IovIter

from .shapes import MAKERS, Maker, block, bvecs, every_kind, pattern

SIZE = 3 * PAGE_SIZE + 700
CUTS = st.lists(st.integers(0, SIZE), max_size=12)
SOURCE, DEST = Direction.SOURCE, Direction.DEST


@every_kind
@given(cuts=CUTS, sizes=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 4)), max_size=8))
def test_segments(make: Maker, cuts: list[int], sizes: list[tuple[int, int]]) -> None:
    memory = block(SIZE)
    memory[:] = data = pattern(SIZE)
    it, pos = make(SOURCE, memory, cuts), 0
    for max_size, max_segs in sizes:
        peeked = peek_segments(it, max_size, max_segs)
        views = extract_segments(it, max_size, max_segs)
        assert views == peeked
        assert len(views) <= max_segs
        assert all(len(view) for view in views)
        got = b"".join(views)
        assert len(got) <= max_size
        assert got == data[pos : pos + len(got)]
        assert len(got) == min(max_size, SIZE - pos) or len(views) == max_segs
        pos += len(got)
        assert it.count == SIZE - pos


@every_kind
@given(cuts=CUTS, sizes=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 4)), max_size=8))
def test_pages(make: Maker, cuts: list[int], sizes: list[tuple[int, int]]) -> None:
    memory = block(SIZE)
    base = address_of(memory)
    it, pos = make(SOURCE, memory, cuts), 0
    joined = make in (MAKERS["ubuf"], MAKERS["bvec"], MAKERS["bvecq"], MAKERS["folioq"], MAKERS["xarray"])
    for max_size, max_pages in sizes:
        run = extract_pages(it, max_size, max_pages)
        assert run.length <= max_size
        assert len(run.pages) <= max_pages
        assert run.length or not max_size or not max_pages or pos == SIZE
        if run.length and make is not MAKERS["scattered"]:
            assert run.off == pos % PAGE_SIZE
            first = base + pos - run.off
            assert run.pages == [first + n * PAGE_SIZE for n in range(-(-(run.off + run.length) // PAGE_SIZE))]
        if joined:
            fits = max_pages * PAGE_SIZE - pos % PAGE_SIZE if max_pages else 0
            assert run.length == min(max_size, fits, SIZE - pos)
        pos += run.length
        assert it.count == SIZE - pos


@every_kind
@given(cuts=CUTS, sizes=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 4)), max_size=8))
def test_bvecs(make: Maker, cuts: list[int], sizes: list[tuple[int, int]]) -> None:
    memory = block(SIZE)
    memory[:] = data = pattern(SIZE)
    it, pos = make(SOURCE, memory, cuts), 0
    for max_size, max_vecs in sizes:
        vecs = extract_bvecs(it, max_size, max_vecs)
        got = b"".join(vec.memory[vec.off : vec.off + vec.length] for vec in vecs)
        assert got == data[pos : pos + len(got)]
        assert len(got) == min(max_size, SIZE - pos) or len(vecs) == max_vecs
        pos += len(got)
        assert it.count == SIZE - pos


def test_bvecs_of_one_folio_are_merged_and_others_not() -> None:
    memory, other = block(PAGE_SIZE), block(PAGE_SIZE)
    it = IovIter.bvec(SOURCE, [*bvecs(memory, [100, 100, 200]), BioVec(other, 0, 50), BioVec(other, 60, 10)])
    assert [(vec.off, vec.length) for vec in extract_bvecs(it, 1 << 20, 10)] == [(0, PAGE_SIZE), (0, 50), (60, 10)]


def test_misaligned_bvecs_are_refused() -> None:
    memory = block(PAGE_SIZE)
    it = IovIter.bvec(SOURCE, [BioVec(memory, 0, 512), BioVec(memory, 1024, 100)])
    with pytest.raises(OSError) as caught:
        extract_bvecs(it, 1 << 20, 10, 511)
    assert caught.value.errno == errno.EINVAL
    assert it.count == 612
    assert len(extract_bvecs(it, 512, 10, 511)) == 1


def test_one_result_holds_device_memory_of_one_provider() -> None:
    memory = block(PAGE_SIZE)
    nic, gpu = DeviceMemory("nic", 1 << 42, PAGE_SIZE), DeviceMemory("gpu", 1 << 43, PAGE_SIZE)
    it = IovIter.bvec(DEST, [BioVec(memory, 0, 10), BioVec(nic, 0, 20), BioVec(nic, 40, 20), BioVec(gpu, 0, 30)])
    sizes = []
    while it.count:
        sizes.append([vec.length for vec in extract_bvecs(it, 1 << 20, 10)])
    assert sizes == [[10], [20, 20], [30]]


def test_pages_join_bvecs_only_at_page_boundaries() -> None:
    first, second = block(2 * PAGE_SIZE), block(2 * PAGE_SIZE)
    queue = BvecQueue()
    queue.append([BioVec(first, 100, 2 * PAGE_SIZE - 100)])
    queue.append([BioVec(second, 0, 300), BioVec(second, 400, 50)])
    it = IovIter.bvecq(SOURCE, queue)
    run = extract_pages(it, 1 << 20, 100)
    assert (run.off, run.length) == (100, 2 * PAGE_SIZE - 100 + 300)
    assert run.pages == [address_of(first), address_of(first) + PAGE_SIZE, address_of(second)]
    run = extract_pages(it, 1 << 20, 100)
    assert (run.pages, run.off, run.length) == ([address_of(second)], 400, 50)


@every_kind
@given(cuts=CUTS, skip=st.integers(0, SIZE))
def test_a_decanted_iterator_is_of_the_same_memory(make: Maker, cuts: list[int], skip: int) -> None:
    memory = block(SIZE)
    it = make(DEST, memory, cuts)
    it.advance(skip)
    private = decant(it)
    assert it.count == 0
    assert private.count == SIZE - skip
    assert copy_to_iter(pattern(SIZE), private) == SIZE - skip
    assert bytes(memory) == bytes(skip) + pattern(SIZE)[: SIZE - skip]


@every_kind
def test_header_and_trailer_are_not_copied(make: Maker) -> None:
    memory, header, trailer = block(SIZE), bytearray(b"header"), bytearray(b"trailer")
    it = framed(make(SOURCE, memory, [10, 10, 5000]), header, trailer)
    memory[:], header[0], trailer[0] = pattern(SIZE), ord("H"), ord("T")
    assert b"".join(peek_segments(it, it.count)) == b"Header" + pattern(SIZE) + b"Trailer"
    assert it.count == SIZE + 13


def test_private_chains_keep_the_marks_of_their_nodes() -> None:
    queue = BvecQueue()
    queue.append(block(8), copy_only=True)
    queue.append_gap(5)
    queue.append_gap(5)
    queue.append(block(8))
    it = IovIter.bvecq(DEST, queue)
    it.advance(3)
    node = decant(it).node
    marks = []
    while node is not None:
        marks.append((node.length, node.copy_only, node.gap))
        node = node.next
    assert marks == [(5, True, False), (5, False, True), (5, False, True), (8, False, False)]


def test_discard_has_no_memory() -> None:
    for attempt in (extract_segments, peek_segments):
        with pytest.raises(OSError) as caught:
            attempt(IovIter.discard(5), 5)
        assert caught.value.errno == errno.EFAULT
    with pytest.raises(OSError):
        extract_pages(IovIter.discard(5), 5, 1)
    assert decant(IovIter.discard(5)).count == 5


def test_device_memory_is_refused_before_anything_is_copied() -> None:
    memory = block(10)
    it = IovIter.bvec(DEST, [BioVec(memory, 0, 10), BioVec(DeviceMemory("gpu", 1 << 42, 10), 0, 10)])
    with pytest.raises(OSError, match="gpu") as caught:
        copy_to_iter(b"x" * 20, it)
    assert caught.value.errno == errno.EFAULT
    assert it.count == 20
    assert bytes(memory) == bytes(10)
    assert copy_to_iter(b"x" * 10, it) == 10
