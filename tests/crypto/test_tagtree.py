"""The tag tree against a list of entries: writes, growth, cuts and commits in part over a fake aux stream; bad pages refused."""

import random
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crypto.errors import IntegrityError
from crypto.layout import PAGE_SIZE, PageId, aux_size, page_pos, path_of, tree_depth
from crypto.tagtree import NO_ROOT, TagTree

FILE_ID = b"f" * 16
EMPTY = bytes(32)


def root_of(entries: list[bytes]) -> bytes:
    """Compute the root the slow way."""
    level = entries
    while level:
        pages = [b"".join(level[at : at + 128]).ljust(PAGE_SIZE, b"\0") for at in range(0, len(level), 128)]
        level = [NO_ROOT if not any(page) else sha256(page).digest() for page in pages]
        if len(level) == 1:
            return level[0]
    return NO_ROOT


class Store:
    """An aux stream and the tree over it, checked against `entries`."""

    def __init__(self, seed: int, keep: int = 8) -> None:
        self.rng = random.Random(seed)
        self.keep = keep
        self.aux: dict[int, bytes] = {}
        self.entries: list[bytes] = []
        self.tree = TagTree(FILE_ID, 0, NO_ROOT, keep=keep)

    def load(self, missing: list[PageId]) -> None:
        for page in missing:
            self.tree.supply(page, self.aux.get(page_pos(page), b""))

    def write(self, first: int, count: int) -> None:
        fresh = [self.rng.randbytes(28) + b"\1\0\0\0" for _ in range(count)]
        self.load(self.tree.missing_pages(first, count))
        assert not self.tree.missing_pages(first, count)
        if first + count > len(self.entries):
            self.entries += [EMPTY] * (first + count - len(self.entries))
            self.tree.resize(first + count)
        self.entries[first : first + count] = fresh
        self.tree.set_entries(first, b"".join(fresh))

    def resize(self, blocks: int) -> None:
        if blocks:
            self.load(self.tree.missing_pages(blocks - 1, 1))
        self.tree.resize(blocks)
        self.entries = self.entries[:blocks] + [EMPTY] * (blocks - len(self.entries))

    def read(self, first: int, count: int) -> None:
        self.load(self.tree.missing_pages(first, count))
        expected = b"".join(self.entries[first : first + count]).ljust(32 * count, b"\0")
        assert self.tree.entries(first, count) == expected

    def commit(self, max_pages: int = 1000) -> None:
        while self.tree.is_dirty:
            pages = self.tree.begin_commit(max_pages)
            assert 0 < len(pages) <= max(max_pages, self.tree.depth + 3)
            if self.rng.random() < 0.2:
                self.tree.end_commit(stored=False)
                continue
            # Every commit, also of a part, leaves on the server a whole tree that verifies.
            self.aux |= {page_pos(page): data for page, data in pages}
            other = TagTree(FILE_ID, self.tree.blocks, self.tree.root)
            leaf = self.rng.randrange(max(1, self.tree.blocks))
            for page in other.missing_pages(leaf, 1):
                other.supply(page, self.aux.get(page_pos(page), b""))
            self.tree.end_commit(stored=True)
        assert self.tree.root == root_of(self.entries)
        assert all(pos < aux_size(self.tree.blocks) for pos in self.aux if pos < aux_size(len(self.entries)))

    def step(self) -> None:
        size = len(self.entries)
        match self.rng.choice("wwwwgtcror"):
            case "w":
                self.write(
                    self.rng.choice([self.rng.randrange(size + 1), size, self.rng.randrange(size + 300)]),
                    self.rng.choice([1, 127, 200]),
                )
            case "g":
                self.resize(size + self.rng.choice([1, 500, 20_000]))
            case "t":
                self.resize(self.rng.choice([0, self.rng.randrange(size + 1), size // 128 * 128]))
            case "c":
                self.commit(self.rng.choice([4, 8, 1000]))
            case "o":
                self.commit()
                self.tree = TagTree(FILE_ID, size, self.tree.root, keep=self.keep)
            case _:
                self.read(self.rng.randrange(size + 1), self.rng.randrange(1, 300))


@given(st.integers(0, 1 << 32))
@example(3342)  # a cut to fewer levels with pages that wait, then a commit of a part of them
def test_against_a_list(seed: int) -> None:
    store = Store(seed)
    for _ in range(25):
        store.step()
    store.commit()
    store.tree = TagTree(FILE_ID, len(store.entries), store.tree.root)
    for first in range(0, len(store.entries), 5000):
        store.read(first, 200)


def committed(blocks: int) -> Store:
    store = Store(1)
    store.write(0, blocks)
    store.commit()
    store.tree = TagTree(FILE_ID, blocks, store.tree.root)
    return store


@pytest.mark.parametrize("blocks", [5, 128, 300])
def test_changed_pages_are_refused(blocks: int) -> None:
    store = committed(blocks)
    depth = tree_depth(blocks)
    for page in path_of(0, depth):
        good = store.aux[page_pos(page)]
        for pos in (0, 11, 12, 27, 28, 31, 32, 4095):
            bad = bytearray(good)
            bad[pos] ^= 0x10
            with pytest.raises(IntegrityError) as caught:
                store.tree.supply(page, bad)
            assert (caught.value.file_id, caught.value.block_no) == (FILE_ID, 0)
        for wrong in (b"", good[:-1], good + b"\0", bytes(PAGE_SIZE)):
            with pytest.raises(IntegrityError):
                store.tree.supply(page, wrong)
        store.tree.supply(page, good)
    store.read(0, blocks)


def test_swapped_pages_are_refused() -> None:
    store = committed(300)
    top, one, two = PageId(1, 0), PageId(0, 1), PageId(0, 2)
    store.tree.supply(top, store.aux[page_pos(top)])
    with pytest.raises(IntegrityError):
        store.tree.supply(one, store.aux[page_pos(two)])


def test_clean_pages_are_bounded_and_dirty_ones_stay() -> None:
    store = Store(3, keep=4)
    store.write(0, 128 * 40)
    assert store.tree.dirty_count == 41
    store.commit()
    for leaf in range(40):
        store.read(128 * leaf, 128)
        assert sum(not page.level for page in store.tree._pages) <= 4
    store.tree.reserve(128 * 10)
    store.read(0, 128 * 10)


def test_what_was_written_can_be_told() -> None:
    store = committed(300)
    for first, count in ((0, 1), (2, 3), (126, 4), (299, 1)):
        store.write(first, count)
    told = list(store.tree.written_entries())
    assert [(first, len(entries) // 32) for first, entries in told] == [(0, 1), (2, 3), (126, 2), (128, 2), (299, 1)]
    assert all(entries == b"".join(store.entries[first : first + len(entries) // 32]) for first, entries in told)
    store.commit()
    assert not list(store.tree.written_entries())


def test_what_is_set_during_a_commit_stays_dirty() -> None:
    store = Store(5)
    store.write(0, 3)
    pages = store.tree.begin_commit(10)
    store.write(1, 1)
    store.tree.end_commit(stored=True)
    assert store.tree.is_dirty
    assert pages[0][1] != bytes(store.tree._pages[PageId(0, 0)].data)
    store.commit()


def test_at_rest_only_what_is_dirty_stays() -> None:
    store = committed(300)
    store.read(0, 300)
    store.write(0, 1)
    store.tree.rest()
    assert {page.level for page in store.tree._pages} == {0, 1}
    assert sum(not page.level for page in store.tree._pages) == 1
    store.commit()
    store.tree.rest()
    assert not store.tree._pages
    store.read(0, 300)
