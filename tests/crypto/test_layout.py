"""Positions: the aux stream has no gaps, no page moves when the file grows, and the last page is the last leaf."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.layout import FAN_OUT, PAGE_SIZE, PageId, aux_size, first_block, nr_blocks, padded_size, page_pos, path_of, tree_depth


def pages_of(leaves: int) -> set[PageId]:
    depth = tree_depth(leaves * FAN_OUT)
    return {page for leaf in range(leaves) for page in path_of(leaf, depth)}


@pytest.mark.parametrize("leaves", [0, 1, 2, 3, 127, 128, 129, 130, 257, 128 * 128, 128 * 128 + 1, 128 * 128 + 130])
def test_pages_fill_the_aux_stream(leaves: int) -> None:
    places = sorted(page_pos(page) for page in pages_of(leaves))
    assert places == list(range(0, aux_size(leaves * FAN_OUT), PAGE_SIZE))


def test_first_pages_by_hand() -> None:
    order = {page_pos(page) // PAGE_SIZE: page for page in pages_of(130)}
    assert order[0] == (0, 0)
    assert order[1] == (1, 0)
    assert order[2] == (0, 1)
    assert [order[n] for n in range(128, 133)] == [(0, 127), (2, 0), (1, 1), (0, 128), (0, 129)]


@given(st.integers(0, 1 << 36), st.integers(0, 4))
def test_positions_are_distinct_and_ordered(index: int, level: int) -> None:
    page, after = PageId(level, index), PageId(level, index + 1)
    assert page_pos(page) < page_pos(after)
    if index and level:
        child = PageId(level - 1, index * FAN_OUT)
        assert page_pos(child) == page_pos(page) + PAGE_SIZE
    assert first_block(page) == index * FAN_OUT ** (level + 1)


@pytest.mark.parametrize(
    ("blocks", "depth"), [(0, 0), (1, 0), (128, 0), (129, 1), (16384, 1), (16385, 2), (1 << 21, 2), ((1 << 21) + 1, 3)]
)
def test_depth(blocks: int, depth: int) -> None:
    assert tree_depth(blocks) == depth


@given(st.integers(0, 1 << 62), st.integers(12, 18))
def test_blocks_and_padding(size: int, log2bs: int) -> None:
    blocks = nr_blocks(size, log2bs)
    assert padded_size(size, log2bs) == blocks << log2bs
    assert 0 <= padded_size(size, log2bs) - size < 1 << log2bs
