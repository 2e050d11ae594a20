"""Sans-IO. Where things lie: plain positions to blocks, blocks to the data stream, tag pages to the aux stream.

Data stream: block `i` of the ciphertext lies at `i << log2bs`; the last block is padded to a whole one. Tag stream: 4 KiB pages
in a tree of fan-out 128; a leaf page (level 0) holds 128 entries of 32 bytes, an upper page the SHA-256 of its 128 children.
The pages lie in the aux stream as a walk from the root visits them, parents before children, except that the leftmost page of
each level waits until the file needs it, right before its second child. So a page never moves when the file grows, the
stream has no gaps, ends with the last leaf, and needs no limit on the depth. docs/file-format.md has the picture. Owns no memory.
"""

from typing import Final, NamedTuple

__all__ = [
    "ENTRY_SIZE",
    "FAN_OUT",
    "MAX_LOG2BS",
    "MIN_LOG2BS",
    "PAGE_SIZE",
    "SEGMENT_BLOCKS",
    "PageId",
    "aux_size",
    "first_block",
    "nr_blocks",
    "padded_size",
    "page_pos",
    "path_of",
    "tree_depth",
]

ENTRY_SIZE: Final = 32
PAGE_SIZE: Final = 4096
FAN_OUT_SHIFT: Final = 7
FAN_OUT: Final = 1 << FAN_OUT_SHIFT
MIN_LOG2BS: Final = 12
MAX_LOG2BS: Final = 18
SEGMENT_SHIFT: Final = 16
SEGMENT_BLOCKS: Final = 1 << SEGMENT_SHIFT
"""Blocks that share one subkey."""


class PageId(NamedTuple):
    """A page of the tag tree: level 0 is a leaf page; index counts the pages of one level from the left."""

    level: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody looks for in a page


def nr_blocks(plain_size: int, log2bs: int) -> int:
    """Return how many blocks a file of `plain_size` bytes has."""
    return (plain_size + (1 << log2bs) - 1) >> log2bs


def padded_size(plain_size: int, log2bs: int) -> int:
    """Return the length of the data stream of a file of `plain_size` bytes."""
    return nr_blocks(plain_size, log2bs) << log2bs


def tree_depth(blocks: int) -> int:
    """Return the number of levels above the leaves: 0 while one leaf page is enough."""
    depth = 0
    leaves = (blocks + FAN_OUT - 1) >> FAN_OUT_SHIFT
    while leaves > 1:
        leaves = (leaves + FAN_OUT - 1) >> FAN_OUT_SHIFT
        depth += 1
    return depth


def first_block(page: PageId) -> int:
    """Return the first block below a page."""
    return page.index << FAN_OUT_SHIFT * (page.level + 1)


def path_of(index: int, height: int, level: int = 0) -> list[PageId]:
    """Return the pages from `height` levels above down to a page, by default a leaf."""
    return [PageId(level + up, index >> FAN_OUT_SHIFT * up) for up in range(height, -1, -1)]


def page_pos(page: PageId) -> int:
    """Return where a page lies in the aux stream, in bytes."""
    level, index = page
    # The leaf this page lies `level` pages before: its first one, or for the leftmost page of a level that of its second child.
    leaf = index << FAN_OUT_SHIFT * level if index or not level else 1 << FAN_OUT_SHIFT * (level - 1)
    before, rest = leaf, leaf
    while rest:
        rest >>= FAN_OUT_SHIFT
        before += rest + 1  # the pages of the next level that begin at or before the leaf, and the leftmost one
    return (before - level) * PAGE_SIZE


def aux_size(blocks: int) -> int:
    """Return the length of the aux stream of a file of so many blocks."""
    return page_pos(PageId(0, (blocks - 1) >> FAN_OUT_SHIFT)) + PAGE_SIZE if blocks else 0
