"""Sans-IO. The tag tree of one file: entries under a SHA-256 tree, loaded lazily, verified on arrival; the record has its root.

          level 1     [ h0 h1 h2 .. ]                  h = SHA-256(child page), zero: nothing below but holes
                       /  |
          level 0   [e0..e127] [e128..e255]            e = nonce 12 | tag 16 | u32 {state:2, rekey:30}, zero: a hole

The shell asks `missing_pages()`, reads what is named and hands it to `supply()`, parents first; then entries can be read and set.
Setting an entry makes its page and all above it dirty; `begin_commit()` computes the new root. Dirty pages stay until the
commit that stores them is reported; of clean leaves the least recently used go first when there are too many (pages above
them are one in 128, and stay). Owns its pages; what it is given is copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from crypto.errors import IntegrityError
from crypto.layout import ENTRY_SIZE, FAN_OUT, FAN_OUT_SHIFT, PAGE_SIZE, PageId, first_block, path_of, tree_depth

__all__ = ["NO_ROOT", "TagTree"]

HASH_SIZE: Final = 32
NO_ROOT: Final = bytes(HASH_SIZE)
"""The root of a file in which every block is a hole."""
EMPTY_PAGE: Final = bytes(PAGE_SIZE)
CLEAN_PAGES_KEPT: Final = 512


@dataclass(slots=True)
class TagPage:
    """One page. written: a bit per entry of a leaf set since a commit; dirty: to be stored; stored: as it is on the server."""

    data: bytearray
    written: int = 0
    dirty: bool = False
    stored: bytes = b""


class TagTree:
    """The entries of a file of `blocks` blocks."""

    __slots__ = ("_committing", "_dirty", "_pages", "blocks", "depth", "file_id", "keep", "root")

    def __init__(self, file_id: bytes, blocks: int, root: bytes, *, keep: int = CLEAN_PAGES_KEPT) -> None:
        self.file_id = file_id
        self.blocks = blocks
        self.depth = tree_depth(blocks)
        self.root = root
        self.keep = keep
        self._pages: dict[PageId, TagPage] = {}
        self._dirty: dict[PageId, TagPage] = {}
        self._committing: dict[PageId, bytes] = {}

    @property
    def is_dirty(self) -> bool:
        """True when pages wait for a commit."""
        return bool(self._dirty)

    @property
    def dirty_count(self) -> int:
        """Pages that wait for a commit, none of which can be dropped."""
        return len(self._dirty)

    # ---- loading

    def missing_pages(self, first: int, count: int) -> list[PageId]:
        """Return the pages to supply before these blocks, some of them perhaps behind the end of the file, can be read or set.

        Pages known to be absent (nothing but holes below) are not named; some whose parent is missing too may turn out to be.
        """
        wanted: dict[PageId, None] = {}
        leaves = (self.blocks + FAN_OUT - 1) >> FAN_OUT_SHIFT
        start, end = first >> FAN_OUT_SHIFT, (first + count + FAN_OUT - 1) >> FAN_OUT_SHIFT
        # A file that grows does so from the path to its last leaf.
        for leaf in range(min(start, leaves - 1), min(end, leaves)) if leaves else ():
            if self._touch(PageId(0, leaf)) is not None:  # and so are those above it, which are never dropped
                continue
            for page in path_of(leaf, self.depth):
                if page not in self._pages:
                    if self._expected(page) == NO_ROOT:
                        break
                    wanted[page] = None
        return list(wanted)

    def supply(self, page: PageId, data: bytes | bytearray | memoryview) -> None:
        """Take a page as the server returned it and verify it against its parent, which must be there.

        Raises: IntegrityError; the page is not taken.
        """
        expected = self._expected(page)
        if page in self._pages or expected == NO_ROOT:
            return
        assert expected is not None, "pages are supplied parents first"
        if len(data) != PAGE_SIZE or sha256(data).digest() != expected:
            raise IntegrityError("a tag page is not what was written", file_id=self.file_id, block_no=first_block(page))
        self._pages[page] = TagPage(bytearray(data))
        self._shrink_cache()

    def reserve(self, count: int) -> None:
        """Keep enough clean pages that all leaves of `count` consecutive blocks can be there at once."""
        self.keep = max(self.keep, (count + 2 * FAN_OUT) >> FAN_OUT_SHIFT)

    def rest(self) -> None:
        """Drop what is not dirty, as nobody is using the file; with anything dirty, the leaves alone."""
        self.keep = 0
        if self._dirty:
            self._shrink_cache()
        else:
            self._pages.clear()
        self.keep = CLEAN_PAGES_KEPT

    # ---- entries

    def entries(self, first: int, count: int) -> bytearray:
        """Return a copy of the entries of these blocks; those behind the end of the file are holes."""
        out = bytearray(count * ENTRY_SIZE)
        for leaf, off, n, at in pieces(first, count):
            page = self._leaf(leaf)
            if page is not None:
                out[at * ENTRY_SIZE : (at + n) * ENTRY_SIZE] = page.data[off * ENTRY_SIZE : (off + n) * ENTRY_SIZE]
        return out

    def possible_entries(self, block: int) -> list[bytes]:
        """Return what the entry of a block may be in the tree on the server, now or by a commit to come, each once.

        That is what it is here, what the last commit stored, and what the one that is under way stores.
        """
        leaf, off = divmod(block, FAN_OUT)
        page = self._leaf(leaf)
        part = slice(off * ENTRY_SIZE, (off + 1) * ENTRY_SIZE)
        pages = [b"" if page is None else page.data]
        if page is not None and page.dirty:
            pages += [page.stored, self._committing.get(PageId(0, leaf), page.stored)]
        return list(dict.fromkeys(bytes(data[part]) or EMPTY_PAGE[part] for data in pages))

    def set_entries(self, first: int, entries: bytes | bytearray | memoryview) -> None:
        """Set the entries of consecutive blocks inside the file; the pages they lie in must not be missing."""
        count = len(entries) // ENTRY_SIZE
        assert first + count <= self.blocks, "entries are set inside the file: resize it before"
        view = memoryview(entries)
        for leaf, off, n, at in pieces(first, count):
            page = self._dirty_path(leaf)
            page.data[off * ENTRY_SIZE : (off + n) * ENTRY_SIZE] = view[at * ENTRY_SIZE : (at + n) * ENTRY_SIZE]
            page.written |= ((1 << n) - 1) << off

    def unset_entry(self, block: int, entry: bytes | bytearray) -> None:
        """Take back what `set_entries` set for one block, which was `entry` before; it is not among what was written then."""
        leaf, off = divmod(block, FAN_OUT)
        page = self._dirty_path(leaf)
        page.data[off * ENTRY_SIZE : (off + 1) * ENTRY_SIZE] = entry
        page.written &= ~(1 << off)

    def written_entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield (first block, entries) of what was set since the last commit, for a redo on a newer tree."""
        for page_id, page in sorted(self._dirty.items()):
            if page_id.level:
                continue
            off, mask = 0, page.written
            while mask:
                skip = (mask & -mask).bit_length() - 1
                mask >>= skip
                off += skip
                n = ((mask + 1) & ~mask).bit_length() - 1
                yield (page_id.index << FAN_OUT_SHIFT) + off, bytes(page.data[off * ENTRY_SIZE : (off + n) * ENTRY_SIZE])
                mask >>= n
                off += n

    # ---- size

    def missing_for_resize(self, blocks: int) -> list[PageId]:
        """Return the pages to supply before `resize(blocks)`: those on the path to the new last block when the file shrinks."""
        return self.missing_pages(blocks - 1, 1) if 0 < blocks < self.blocks else []

    def resize(self, blocks: int) -> None:
        """Cut the file to `blocks` blocks, or extend it by holes."""
        if blocks < self.blocks:
            self._cut(blocks)
        depth = tree_depth(blocks)
        while self.depth < depth:
            top = self._pages.get(PageId(self.depth, 0))
            self.depth += 1
            if self.root != NO_ROOT or (top is not None and top.dirty):
                page = TagPage(bytearray(PAGE_SIZE), dirty=True)
                page.data[:HASH_SIZE] = self.root
                self._dirty[PageId(self.depth, 0)] = self._pages[PageId(self.depth, 0)] = page
        self.blocks = blocks

    def _cut(self, blocks: int) -> None:
        assert not self.missing_for_resize(blocks), "the path to the new last block must be there"
        for pages in (self._pages, self._dirty):
            for page_id in [p for p in pages if first_block(p) >= blocks]:
                del pages[page_id]
        if not blocks:
            self.root, self.depth = NO_ROOT, 0
            return
        for level in range(self.depth + 1):
            last = (blocks - 1) >> FAN_OUT_SHIFT * level
            page = self._pages.get(PageId(level, last >> FAN_OUT_SHIFT))
            kept = ((last & (FAN_OUT - 1)) + 1) * ENTRY_SIZE
            if page is not None and page.data[kept:] != EMPTY_PAGE[kept:]:
                self._dirty_path((blocks - 1) >> FAN_OUT_SHIFT)
                page.data[kept:] = EMPTY_PAGE[kept:]
                page.written &= (1 << kept // ENTRY_SIZE) - 1
        depth = tree_depth(blocks)
        if depth < self.depth:
            above = self._pages.get(PageId(depth + 1, 0))
            self.root = NO_ROOT if above is None else bytes(above.data[:HASH_SIZE])
            for level in range(depth + 1, self.depth + 1):
                self._pages.pop(PageId(level, 0), None)
                self._dirty.pop(PageId(level, 0), None)
            self.depth = depth

    # ---- commit

    def begin_commit(self, max_pages: int) -> list[tuple[PageId, bytes]]:
        """Choose at most `max_pages` pages to store and bring the root up to date with them; entries may be set again at once.

        What is left out is not in the root either: commits of a part at a time each leave a whole tree on the server.
        Returns: copies of the pages, parents after their children; empty when nothing is dirty.
        """
        chosen = self._choose(max_pages)
        self._hash(chosen)
        self._committing = {page_id: bytes(self._pages[page_id].data) for page_id in chosen}
        return list(self._committing.items())

    def end_commit(self, *, stored: bool) -> None:
        """Say whether the pages of `begin_commit` were stored; if so, those not changed since are clean."""
        committing, self._committing = self._committing, {}
        if not stored:
            return
        for page_id, data in committing.items():
            page = self._dirty.get(page_id)
            if page is None:
                continue
            if page.data == data:
                page.dirty = False
                page.written = 0
                page.stored = b""
                del self._dirty[page_id]
            elif not page_id.level:
                page.stored = data
        self._shrink_cache()

    def _choose(self, max_pages: int) -> list[PageId]:
        """Return dirty leaves with all pages above them, and first the dirty pages that no dirty leaf lies below.

        Growth and cuts leave such pages; there are a few at most.
        """
        leaves = sorted(page_id for page_id in self._dirty if not page_id.level)
        carried = {above for leaf in leaves for above in path_of(leaf.index, self.depth)}
        chosen: dict[PageId, None] = {}
        for page_id in self._dirty:
            if page_id.level and page_id not in carried:
                chosen.update((above, None) for above in path_of(page_id.index, self.depth - page_id.level, page_id.level))
        for leaf in leaves:
            path = [above for above in path_of(leaf.index, self.depth) if above not in chosen]
            if chosen and len(chosen) + len(path) > max_pages:
                break
            chosen.update(dict.fromkeys(path))
        return sorted(chosen)

    def _hash(self, chosen: list[PageId]) -> None:
        """Bring the hashes of these pages up to the root; they come with all pages above them."""
        for page_id in chosen:
            data = self._pages[page_id].data
            digest = NO_ROOT if data == EMPTY_PAGE else sha256(data).digest()
            if page_id.level == self.depth:
                self.root = digest
            else:
                above = self._pages[PageId(page_id.level + 1, page_id.index >> FAN_OUT_SHIFT)]
                off = (page_id.index & (FAN_OUT - 1)) * HASH_SIZE
                above.data[off : off + HASH_SIZE] = digest

    # ---- inside

    def _expected(self, page: PageId) -> bytes | None:
        """Return the hash a page must have, None when its parent is not known."""
        if page.level == self.depth:
            return self.root
        above = self._pages.get(PageId(page.level + 1, page.index >> FAN_OUT_SHIFT))
        if above is not None:
            off = (page.index & (FAN_OUT - 1)) * HASH_SIZE
            return bytes(above.data[off : off + HASH_SIZE])
        return NO_ROOT if self._expected(PageId(page.level + 1, page.index >> FAN_OUT_SHIFT)) == NO_ROOT else None

    def _touch(self, page_id: PageId) -> TagPage | None:
        """Return a page if it is there, and make it the last that will be dropped."""
        page = self._pages.get(page_id)
        if page is not None and not page.dirty:
            self._pages[page_id] = self._pages.pop(page_id)
        return page

    def _leaf(self, leaf: int) -> TagPage | None:
        """Return a leaf page, None when it is absent."""
        page = self._touch(PageId(0, leaf))
        if page is None:
            assert leaf << FAN_OUT_SHIFT >= self.blocks or self._expected(PageId(0, leaf)) == NO_ROOT, "a page is missing"
        return page

    def _dirty_path(self, leaf: int) -> TagPage:
        """Make a leaf and all pages above it dirty, and those that are absent real. Returns: the leaf."""
        page = self._pages.get(PageId(0, leaf))
        if page is not None and page.dirty:
            return page
        for page_id in path_of(leaf, self.depth):
            page = self._pages.get(page_id)
            if page is None:
                assert self._expected(page_id) == NO_ROOT, "a page is missing"
                page = self._pages[page_id] = TagPage(bytearray(PAGE_SIZE))
            if not (page_id.level or page.dirty):
                page.stored = bytes(page.data)
            page.dirty = True
            self._dirty[page_id] = page
        assert page is not None
        return page

    def _shrink_cache(self) -> None:
        if len(self._pages) - len(self._dirty) > self.keep:
            clean = [page_id for page_id, page in self._pages.items() if not (page.dirty or page_id.level)]
            for page_id in clean[: max(0, len(clean) - self.keep)]:
                del self._pages[page_id]


def pieces(first: int, count: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (leaf, entry in the leaf, entries, entries before) for a range of blocks."""
    at = 0
    while at < count:
        leaf, off = divmod(first + at, FAN_OUT)
        n = min(count - at, FAN_OUT - off)
        yield leaf, off, n, at
        at += n
