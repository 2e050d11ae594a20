"""Sans-IO. EncryptedFile: record, tags and cipher of one file, as plans of what to read and what to commit.

Reading: `fetches()` names the parts of the aux stream that are missing, `supply()` takes them, `entries()` says how the blocks
are opened (`cipher.open`). Writing: `cipher.seal`, send the blocks, then `wrote()`; `begin_commit()` gives the steps of the
server's transaction: pages, cuts, record. A conflict is settled by `adopt()`, which takes the newer record, and `redo()`.
What was sealed here but not committed is not in the record: the server, or a crash, can make it unreadable but not wrong.
Owns its tag pages; payload it never sees.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from crypto.aead import Suite
from crypto.content import HOLE, ContentCipher
from crypto.errors import IntegrityError, Rollback
from crypto.keys import FileKey, VolumeKey
from crypto.layout import ENTRY_SIZE, PAGE_SIZE, PageId, aux_size, nr_blocks, padded_size, page_pos
from crypto.record import MAX_PLAIN_SIZE, Record, open_record, seal_record
from crypto.tagtree import NO_ROOT, TagTree

__all__ = ["CommitPlan", "EncryptedFile", "Fetch", "first_of_other_kind", "new_record"]

STATE_OFF = ENTRY_SIZE - 4


@dataclass(frozen=True, slots=True)
class Fetch:
    """Pages that lie end to end in the aux stream, to be read as one."""

    pos: int
    pages: tuple[PageId, ...]

    @property
    def length(self) -> int:
        """Bytes to read."""
        return len(self.pages) * PAGE_SIZE


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """One transaction: write the pages, cut the streams, put the record.

    writes: position in the aux stream and the pages that go there end to end. aux_size, data_size: what the streams are cut to,
    None to leave them.
    """

    writes: tuple[tuple[int, tuple[bytes, ...]], ...]
    aux_size: int | None
    data_size: int | None
    record: bytes


def new_record(file_id: bytes, file_key: bytes, *, log2bs: int, suite: Suite = Suite.AES_256_GCM) -> Record:
    """Return the record of an empty file; id and key are 16 and 32 fresh random bytes."""
    return Record(file_id, file_key, suite, log2bs, rekey=0, generation=1, size=0, root=NO_ROOT)


def first_of_other_kind(entries: bytes | bytearray) -> tuple[bool, int]:
    """Look at the entries of consecutive blocks. Returns: whether the first is a hole, how many in a row are like it."""
    states = entries[STATE_OFF::ENTRY_SIZE]
    if states[0] != HOLE:
        end = states.find(HOLE)
        return False, len(states) if end < 0 else end
    return True, len(states) - len(states.lstrip(b"\0"))


class EncryptedFile:
    """One encrypted file as its client knows it.

    size: plain bytes, as committed or set by `resize`. changes: grows with whatever may make an entry read earlier outdated.
    """

    __slots__ = ("_cut", "_pending", "_redo", "_wrote_last", "changes", "cipher", "key", "record", "sealed", "size", "tree")

    def __init__(self, key: VolumeKey, sealed: bytes) -> None:
        """Open the record as the server returned it. Raises: Malformed, WrongKey, IntegrityError."""
        self.key = key
        self.sealed = sealed
        self.record = record = open_record(key, sealed)
        self.cipher = ContentCipher(FileKey(record.file_key, record.file_id, suite=record.suite, log2bs=record.log2bs))
        self.tree = TagTree(record.file_id, nr_blocks(record.size, record.log2bs), record.root)
        self.size = record.size
        self.changes = 0
        self._cut = False
        self._wrote_last = False
        self._pending: tuple[Record, bytes] | None = None
        self._redo: list[tuple[int, bytes]] = []

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        return self.cipher.block_size

    # ---- tags

    def fetches(self, first: int, count: int, ahead: int = 0) -> list[Fetch]:
        """Return what to read before these blocks can be opened or set; if anything, then for `ahead` further blocks too."""
        self.tree.reserve(count + ahead)
        if not self.tree.missing_pages(first, count):
            return []
        return runs_of(self.tree.missing_pages(first, count + ahead))

    def supply(self, fetched: Iterable[tuple[Fetch, memoryview]]) -> None:
        """Take what fetches returned, which may be short where pages are absent. Raises: IntegrityError."""
        pages = [
            (page, data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]) for fetch, data in fetched for at, page in enumerate(fetch.pages)
        ]
        for page, part in sorted(pages, key=lambda item: -item[0].level):  # parents first
            self.tree.supply(page, part)

    def entries(self, first: int, count: int) -> bytearray:
        """Return a copy of the entries of these blocks, none of which may be missing."""
        return self.tree.entries(first, count)

    # ---- writing

    def wrote(self, first: int, entries: bytes | bytearray | memoryview) -> None:
        """Note that blocks sealed with these entries are on the server; the file grows by what lies behind its end."""
        end = first + len(entries) // ENTRY_SIZE
        if end > self.tree.blocks:
            self.tree.resize(end)
        self.tree.set_entries(first, entries)
        self._wrote_last = self._wrote_last or end == self.tree.blocks
        self.changes += 1

    def block_to_rewrite(self, size: int) -> int | None:
        """Return the block a cut to `size` goes through, to be sealed anew with its tail zero; None when there is none."""
        block = size >> self.record.log2bs
        if not size & (self.block_size - 1) or block >= self.tree.blocks:
            return None
        is_hole, _ = first_of_other_kind(self.entries(block, 1))
        return None if is_hole else block

    def resize(self, size: int) -> None:
        """Cut the file, or extend it by a hole; the path to the new last block must not be missing when it is cut."""
        assert size <= MAX_PLAIN_SIZE, "larger than an encrypted file can be"
        blocks = nr_blocks(size, self.record.log2bs)
        self._cut = self._cut or blocks < self.tree.blocks
        self.tree.resize(blocks)
        self.size = size
        self._wrote_last = False
        self.changes += 1

    # ---- commit

    def needs_commit(self, plain_size: int) -> bool:
        """Say whether the server's record is behind; `plain_size` as in `begin_commit`."""
        return self.tree.is_dirty or self._cut or self._size_with(plain_size) != self.record.size

    def begin_commit(self, plain_size: int, nonce: bytes, max_pages: int) -> CommitPlan:
        """Return the next transaction, of at most `max_pages` pages; as long as `needs_commit`, another one follows.

        plain_size: how far the user has written; it says where in the last block the file ends. nonce: 24 fresh bytes.
        """
        pages = self.tree.begin_commit(max_pages)
        size = self._size_with(plain_size)
        assert nr_blocks(size, self.record.log2bs) == self.tree.blocks, "the size lies in the last block"
        record = replace(self.record, generation=self.record.generation + 1, size=size, root=self.tree.root)
        sealed = seal_record(self.key, record, nonce)
        self._pending = record, sealed
        data = dict(pages)
        writes = tuple((run.pos, tuple(data[page] for page in run.pages)) for run in runs_of(data))
        if not self._cut:
            return CommitPlan(writes, None, None, sealed)
        return CommitPlan(writes, aux_size(self.tree.blocks), padded_size(size, record.log2bs), sealed)

    def end_commit(self, *, stored: bool) -> None:
        """Say whether the transaction was done."""
        assert self._pending is not None
        record, sealed = self._pending
        self._pending = None
        self.tree.end_commit(stored=stored)
        if stored:
            self.record, self.sealed, self.size = record, sealed, record.size
            self._cut = False

    def adopt(self, sealed: bytes) -> list[Fetch]:
        """Take the record another client has put; what was written here and not committed waits for `redo()`.

        Returns: what to supply before `redo()`.
        Raises: Malformed, WrongKey, IntegrityError for another file's record, Rollback for an older one.
        """
        record = open_record(self.key, sealed)
        mine = self.record
        if (record.file_id, record.file_key, record.suite, record.log2bs) != (
            mine.file_id,
            mine.file_key,
            mine.suite,
            mine.log2bs,
        ):
            raise IntegrityError("the record is another file's", file_id=mine.file_id)
        if record.generation < mine.generation or (record.generation == mine.generation and sealed != self.sealed):
            raise Rollback("the server returned an older state of the file than it did before")
        redo: list[tuple[int, bytes]] = []
        if record.generation > mine.generation:
            blocks = nr_blocks(record.size, record.log2bs)
            # A cut took what was written behind it, committed or not: those writes came before it.
            kept = blocks if record.size < mine.size else MAX_PLAIN_SIZE
            for first, entries in (*self._redo, *self.tree.written_entries()):
                if first < kept:
                    redo.append((first, entries[: (kept - first) * ENTRY_SIZE]))
            self._redo = redo
            self.record, self.sealed, self.size = record, sealed, record.size
            self.tree = TagTree(record.file_id, blocks, record.root, keep=self.tree.keep)
            self._cut = self._wrote_last = False
            self.changes += 1
        missing: dict[PageId, None] = {}
        for first, entries in self._redo:
            missing.update(dict.fromkeys(self.tree.missing_pages(first, len(entries) // ENTRY_SIZE)))
        return runs_of(missing)

    def redo(self) -> None:
        """Lay what was written here over the adopted record."""
        redo, self._redo = self._redo, []
        for first, entries in redo:
            self.wrote(first, entries)

    def close(self) -> None:
        """Forget the keys."""
        self.cipher.key.close()

    def _size_with(self, plain_size: int) -> int:
        """Return the size to commit: as it was, or where the user's bytes end in the last block if that was written here."""
        if not self._wrote_last:
            return self.size
        end = self.tree.blocks << self.record.log2bs
        return max(self.size, min(max(plain_size, end - self.block_size + 1), end))


def runs_of(pages: Iterable[PageId]) -> list[Fetch]:
    """Join pages that lie end to end in the aux stream."""
    runs: list[list[PageId]] = []
    end = -1
    for page in sorted(pages, key=page_pos):
        pos = page_pos(page)
        if pos == end:
            runs[-1].append(page)
        else:
            runs.append([page])
        end = pos + PAGE_SIZE
    return [Fetch(page_pos(run[0]), tuple(run)) for run in runs]
