"""Sparse streams against a list of cells: landings in flight, finished and abandoned in any order, cuts and holes between."""

from hypothesis import given
from hypothesis import strategies as st

from iov.copy_iter import copy_to_iter
from iov.extract import extract_segments
from servers.stores.extents import CHUNK, Extents, Span

CELL = CHUNK // 4
CELLS = 14

ROWS = st.one_of(
    st.tuples(st.just("land"), st.integers(0, CELLS - 1), st.integers(1, 6)),
    st.tuples(st.just("finish"), st.integers(0, 9), st.integers(1, 255)),
    st.tuples(st.just("abandon"), st.integers(0, 9), st.integers(0, 6)),
    st.tuples(st.just("resize"), st.integers(0, CELLS), st.just(0)),
)


class Model:
    """One byte stands for a cell; None for a cell whose bytes an unfinished or abandoned write may have left behind."""

    def __init__(self) -> None:
        self.size = 0
        self.cells: list[int | None] = [0] * (2 * CELLS)
        self.flying: list[range] = []

    def free(self, cell: int) -> bool:
        return not any(cell in other for other in self.flying)

    def scrub(self, cells: range) -> None:
        for cell in cells:
            self.cells[cell] = 0 if self.free(cell) else None

    def finish(self, cells: range, value: int) -> None:
        self.flying.remove(cells)
        self.size = max(self.size, cells.stop)
        for cell in cells:
            self.cells[cell] = value

    def abandon(self, cells: range, filled: int) -> None:
        self.flying.remove(cells)
        for cell in cells[:filled]:
            self.cells[cell] = None
        self.scrub(range(max(self.size, cells.start), max(self.size, cells.stop)))

    def resize(self, size: int) -> None:
        old, self.size = self.size, size
        self.scrub(range(size, old))


@given(script=st.lists(ROWS, max_size=30))
def test_cells(script: list[tuple[str, int, int]]) -> None:
    stream, model = Extents(), Model()
    landings = []
    for name, first, second in script:
        if name == "land":
            cells = range(first, first + second)
            model.flying.append(cells)
            landings.append((cells, *stream.land(cells.start * CELL, len(cells) * CELL)))
        elif name == "resize":
            stream.resize(first * CELL)
            model.resize(first)
        elif landings:
            cells, dest, span = landings.pop(first % len(landings))
            if name == "finish":
                copy_to_iter(bytes([second]) * dest.count, dest)
                stream.finish(span)
                model.finish(cells, second)
            else:
                filled = min(second, len(cells))
                copy_to_iter(b"\xff" * (filled * CELL), dest)
                stream.abandon(span)
                model.abandon(cells, filled)
        check(stream, model)
    for cells, _, span in landings:
        stream.abandon(span)
        model.abandon(cells, 0)
    check(stream, model)
    stream.resize(0)
    assert not stream.chunks
    assert not stream.spans


def check(stream: Extents, model: Model) -> None:
    assert stream.size == model.size * CELL
    for cell in range(model.size):
        wanted = model.cells[cell]
        if wanted is not None:
            (view,) = extract_segments(stream.source(cell * CELL, CELL), CELL)
            assert view[0] == view[CELL - 1] == view[CELL // 2] == wanted, cell
    if model.size:
        whole = stream.source(0, model.size * CELL)
        assert whole.count == model.size * CELL


def test_hole_costs_nothing() -> None:
    stream = Extents()
    stream.resize(1 << 60)
    assert extract_segments(stream.source((1 << 59) + 5, 100), 100) == [memoryview(bytes(100))]
    assert not stream.chunks


def test_memory_is_aligned_and_one_piece_per_chunk() -> None:
    stream = Extents()
    dest, span = stream.land(CHUNK - 10, 20)
    assert [len(view) for view in extract_segments(dest, 20)] == [10, 10]
    stream.finish(span)
    dest, span = stream.land(0, CHUNK)
    assert (dest.alignment() & 4095, dest.nr_segs) == (0, 1)
    stream.abandon(span)
    assert stream.size == CHUNK + 10


def test_equal_landings_are_told_apart() -> None:
    stream = Extents()
    one: Span
    two: Span
    (_, one), (dest, two) = stream.land(0, 10), stream.land(0, 10)
    stream.abandon(one)
    copy_to_iter(b"x" * 10, dest)
    stream.finish(two)
    assert extract_segments(stream.source(0, 10), 10) == [memoryview(b"x" * 10)]
    assert stream.spans == []
