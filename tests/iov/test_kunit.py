"""The kernel's own test matrix for iterators, its fixtures restated: 17 cases, and each of them for the mixed chain too.

Memory is one MiB of page-sized folios scattered by a seed; the ranges have empty segments, neighbours, page edges and whole
pages among them. What a case must hold is in its name and its asserts.
"""

import itertools
from collections.abc import Callable

import pytest

from iov.address import address_of
from iov.bvec import PAGE_SIZE, BioVec, BvecQueue, MemType
from iov.copy_iter import copy_from_iter, copy_to_iter
from iov.extract import extract_pages
from iov.folio import Folio, FolioQueue, XArray
from iov.iov_iter import Direction, IovIter
from iov.phys import PhysMemory
from iov.pin import PinLedger, extract_will_pin
from transport.scatterlist import SgTable, extract_iter_to_sg

from .shapes import block, pattern

SIZE = 1 << 20
NR_PAGES = SIZE // PAGE_SIZE
SOURCE, DEST = Direction.SOURCE, Direction.DEST
KVEC_RANGES = (
    (0x2, 0x2), (0x27, 0x3000), (0x5193, 0x18794), (0x20000, 0x20000), (0x20000, 0x24000), (0x24000, 0x27001),
    (0x29000, 0xFFFFB), (0xFFFFD, 0xFFFFE),
)  # fmt: skip
BVEC_RANGES = (
    (0, 0x2, 0x2), (1, 0x27, 0x893), (2, 0x193, 0x794), (3, 0, 0x1000), (4, 0, 0x1000), (5, 0, 0x1000),
    (6, 0, 0xFFB), (6, 0xFFD, 0xFFE),
)  # fmt: skip


class Fixture:
    """Scattered pages, and a flat image of what each page holds in file order."""

    def __init__(self) -> None:
        self.phys = PhysMemory(2 * NR_PAGES, seed=5)
        self.folios = [self.phys.alloc() for _ in range(NR_PAGES)]
        self._flat: memoryview | None = None

    def fill(self) -> None:
        data = pattern(SIZE)
        for n, folio in enumerate(self.folios):
            folio.memory[:] = data[n * PAGE_SIZE : (n + 1) * PAGE_SIZE]

    def image(self) -> bytes:
        return b"".join(folio.memory for folio in self.folios)

    def flat(self) -> memoryview:
        """Return virtually contiguous memory, which takes the place of the folios: vmalloc, or a caller's."""
        if self._flat is None:
            self._flat = flat = block(SIZE)
            flat[:] = self.image()
            self.folios = [Folio(flat[n * PAGE_SIZE : (n + 1) * PAGE_SIZE]) for n in range(NR_PAGES)]
        return self._flat

    def pieces(self, start: int, end: int) -> list[BioVec]:
        """The file range as pieces of pages; the empty range keeps one empty piece."""
        found: list[BioVec] = []
        while start < end or not found:
            page, off = divmod(start, PAGE_SIZE)
            length = min(PAGE_SIZE - off, end - start)
            found.append(BioVec(self.folios[page].memory, off, length))
            start += length
            if not length:
                break
        return found

    def queue(self) -> FolioQueue:
        queue = FolioQueue(13)
        for folio in self.folios:
            queue.append_folio(folio)
        return queue

    def index(self) -> XArray:
        index = XArray()
        for n, folio in enumerate(self.folios):
            index.store(n, folio)
        return index


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


def kvec(fixture: Fixture, direction: Direction) -> tuple[IovIter, list[tuple[int, int]]]:
    flat = fixture.flat()
    return IovIter.kvec(direction, [flat[start:end] for start, end in KVEC_RANGES]), list(KVEC_RANGES)


def iovec(fixture: Fixture, direction: Direction) -> tuple[IovIter, list[tuple[int, int]]]:
    flat = fixture.flat()
    return IovIter.iovec(direction, [flat[start:end] for start, end in KVEC_RANGES]), list(KVEC_RANGES)


def bvec(fixture: Fixture, direction: Direction) -> tuple[IovIter, list[tuple[int, int]]]:
    vecs = [BioVec(fixture.folios[page].memory, start, end - start) for page, start, end in BVEC_RANGES]
    return IovIter.bvec(direction, vecs), [(page * PAGE_SIZE + start, page * PAGE_SIZE + end) for page, start, end in BVEC_RANGES]


def chain(fixture: Fixture, direction: Direction) -> tuple[IovIter, list[tuple[int, int]]]:
    """A mixed chain: a node of each lifetime class in turn, empty nodes between."""
    queue = BvecQueue()
    for n, (start, end) in enumerate(KVEC_RANGES):
        queue.append(fixture.pieces(start, end), MemType(n % 4))
        queue.append([])
    return IovIter.bvecq(direction, queue), list(KVEC_RANGES)


Ranges = list[tuple[int, int]]
Maker = Callable[[Fixture, Direction], tuple[IovIter, Ranges]]
VECTORS = pytest.mark.parametrize("make", [kvec, iovec, bvec, chain])


@VECTORS
def test_copy_to_vectors(fixture: Fixture, make: Maker) -> None:
    """Cases 1 and 3."""
    it, ranges = make(fixture, DEST)
    size = sum(end - start for start, end in ranges)
    assert copy_to_iter(pattern(SIZE)[: it.count], it) == size
    assert (it.count, it.nr_segs) == (0, 0)
    oracle, pos = bytearray(SIZE), 0
    for start, end in ranges:
        oracle[start:end] = pattern(SIZE)[pos : pos + end - start]
        pos += end - start
    assert fixture.image() == oracle


@VECTORS
def test_copy_from_vectors(fixture: Fixture, make: Maker) -> None:
    """Cases 2 and 4."""
    it, ranges = make(fixture, SOURCE)
    fixture.fill()
    out = bytearray(SIZE)
    size = sum(end - start for start, end in ranges)
    assert copy_from_iter(out, it) == size
    assert (it.count, it.nr_segs) == (0, 0)
    assert out == b"".join(pattern(SIZE)[start:end] for start, end in ranges) + bytes(SIZE - size)


def ranged(fixture: Fixture, direction: Direction, kind: str, start: int, end: int) -> IovIter:
    if kind == "xarray":
        return IovIter.xarray_range(direction, fixture.index(), start, end - start)
    if kind == "ubuf":
        it = IovIter.ubuf(direction, fixture.flat()[:end])
        it.advance(start)
        return it
    it = (
        IovIter.folioq(direction, fixture.queue(), end)
        if kind == "folioq"
        else IovIter.bvecq(direction, small_chain(fixture), end)
    )
    it.advance(start)
    return it


def small_chain(fixture: Fixture) -> BvecQueue:
    queue = BvecQueue()
    for n in range(0, NR_PAGES, 13):
        queue.append([BioVec(folio.memory, 0, PAGE_SIZE) for folio in fixture.folios[n : n + 13]], MemType(n % 4))
    return queue


STREAMS = pytest.mark.parametrize("kind", ["folioq", "bvecq", "xarray", "ubuf"])


@STREAMS
def test_copy_to_streams(fixture: Fixture, kind: str) -> None:
    """Cases 5 and 7."""
    oracle = bytearray(SIZE)
    for start, end in KVEC_RANGES:
        it = ranged(fixture, DEST, kind, start, end)
        assert copy_to_iter(pattern(SIZE)[: end - start], it) == end - start
        assert it.count == 0
        if kind == "xarray":
            assert it.off == end - start
        oracle[start:end] = pattern(SIZE)[: end - start]
    assert fixture.image() == oracle


@STREAMS
def test_copy_from_streams(fixture: Fixture, kind: str) -> None:
    """Cases 6 and 8."""
    fixture.fill()
    for start, end in KVEC_RANGES:
        it = ranged(fixture, SOURCE, kind, start, end)
        out = bytearray(end - start)
        assert copy_from_iter(out, it) == end - start
        assert it.count == 0
        if kind == "xarray":
            assert it.off == end - start
        assert out == pattern(SIZE)[start:end]


def check_pages(fixture: Fixture, it: IovIter, ranges: Ranges) -> None:
    """Extract with an array of 8 and a cap of 100 KiB until nothing is left; the pages must be the ranges' own, in order."""
    places = iter([(start, end) for start, end in ranges if end > start])
    start, end = next(places)
    while it.count:
        before = it.count
        run = extract_pages(it, 100 * 1024, 8)
        assert 0 < run.length <= min(before, 100 * 1024)
        assert before - it.count == run.length
        assert 0 <= run.off < PAGE_SIZE
        assert run.off == start % PAGE_SIZE
        left = run.length
        for n, page in enumerate(run.pages):
            if start == end:
                start, end = next(places)
            off = start % PAGE_SIZE
            assert page == address_of(fixture.folios[start // PAGE_SIZE].memory)
            assert off == (run.off if n == 0 else 0)
            size = min(PAGE_SIZE - off, end - start, left)
            start += size
            left -= size
        assert left == 0
        if start == end:
            start, end = next(places, (0, 0))
    assert next(places, None) is None


@VECTORS
def test_extract_pages_of_vectors(fixture: Fixture, make: Maker) -> None:
    """Cases 9 and 10."""
    it, ranges = make(fixture, DEST)
    check_pages(fixture, it, ranges)


@STREAMS
def test_extract_pages_of_streams(fixture: Fixture, kind: str) -> None:
    """Cases 11 and 12."""
    for start, end in KVEC_RANGES:
        it = ranged(fixture, DEST, kind, start, end)
        if end > start:
            check_pages(fixture, it, [(start, end)])


def sg_iters(fixture: Fixture) -> dict[str, IovIter]:
    flat = block(SIZE)
    flat[:] = pattern(SIZE)
    edges = [0, 0, 0x27, 0x5193, 0x5193, 0x20000, 0x24001, SIZE]
    return {
        "kvec": IovIter.kvec(SOURCE, [flat[start:end] for start, end in itertools.pairwise(edges)]),
        "iovec": IovIter.iovec(SOURCE, [flat[start:end] for start, end in itertools.pairwise(edges)]),
        "ubuf": IovIter.ubuf(SOURCE, flat),
        "bvec": IovIter.bvec(SOURCE, fixture.pieces(0, SIZE)),
        "folioq": IovIter.folioq(SOURCE, fixture.queue()),
        "bvecq": IovIter.bvecq(SOURCE, small_chain(fixture)),
        "xarray": IovIter.xarray_range(SOURCE, fixture.index(), 0, SIZE),
    }


@pytest.mark.parametrize("kind", ["kvec", "bvec", "folioq", "xarray", "ubuf", "iovec", "bvecq"])
def test_iter_to_sg(fixture: Fixture, kind: str) -> None:
    """Extraction to a scatterlist, with the arithmetic of a part-filled table."""
    fixture.fill()
    it = sg_iters(fixture)[kind]
    npages = it.npages()
    table = SgTable()
    assert extract_iter_to_sg(it, SIZE, table, 0) == 0
    assert table.nents == 0
    total = extract_iter_to_sg(it, SIZE, table, 1)
    assert table.nents == 1
    assert 0 < total <= SIZE
    for sg_max in (3, 7, 100, NR_PAGES + 10):
        total += extract_iter_to_sg(it, SIZE - total, table, sg_max)
    assert (total, it.count) == (SIZE, 0)
    assert table.nents <= npages
    assert b"".join(entry.memory[entry.off : entry.off + entry.length] for entry in table.entries) == pattern(SIZE)


@pytest.mark.parametrize("kind", ["ubuf", "iovec"])
def test_what_was_pinned_for_a_scatterlist_is_unpinned_at_teardown(fixture: Fixture, kind: str) -> None:
    """Cases 13 to 17, of the caller's memory: the owner pins above the extraction, and unpins after it."""
    ledger = PinLedger(fixture.phys)
    it = sg_iters(fixture)[kind]
    assert extract_will_pin(it)
    pin = ledger.pin(it, SIZE)
    assert not extract_will_pin(pin.iter)
    table = SgTable()
    assert extract_iter_to_sg(pin.iter, SIZE, table, NR_PAGES) == SIZE
    vecs = [vec for entry in table.entries for vec in fixture.phys.translate(entry.memory, entry.off, entry.off + entry.length)]
    assert b"".join(view for vec in vecs for view in fixture.phys.bytes_at(vec.paddr, vec.length)) == pattern(SIZE)
    pin.release()
    ledger.close()
    for entry in table.entries:
        with pytest.raises(OSError, match="not pinned"):
            fixture.phys.translate(entry.memory, entry.off, entry.off + entry.length)
