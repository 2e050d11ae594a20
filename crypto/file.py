"""Sans-IO. EncryptedFile: record, tags and cipher of one file, as plans of what to read and what to commit.

Reading: `fetches()` names the parts of the aux stream that are missing, `supply()` takes them, `entries()` says how the blocks
are opened (`cipher.open`). Writing: `cipher.seal`, send the blocks, then `wrote()`; `begin_commit()` gives the steps of the
server's transaction: pages, cuts, record. A conflict is settled by `adopt()`, which takes the newer record, and `redo()`.
What was sealed here but not committed is not in the record; write intents (`intent.py`) name it.
A small file has a *head*: its first block in plain, which goes into the record, or with the commit that tells of it into the data
stream. Owns its tag pages and its head; other payload it never sees.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from crypto.aead import Suite
from crypto.content import HOLE, ContentCipher
from crypto.errors import IntegrityError, Rollback
from crypto.keys import FileKey, VolumeKey
from crypto.layout import ENTRY_SIZE, FAN_OUT, PAGE_SIZE, PageId, aux_size, nr_blocks, padded_size, page_pos
from crypto.record import INLINE_MAX, MAX_PLAIN_SIZE, MAX_REKEY, NO_HASH, Record, open_record, seal_record
from crypto.tagtree import TagTree

__all__ = ["KEY_USES_MAX", "CommitPlan", "EncryptedFile", "Fetch", "file_key_of", "first_of_other_kind", "new_record"]

STATE_OFF = ENTRY_SIZE - 4
NO_ENTRY: Final = bytes(ENTRY_SIZE)
KEY_USES_MAX: Final = 1 << 28
"""Blocks encrypted under one rekey number before the next is begun; no subkey can have been used more often."""


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
    None to leave them. has_head: the first block changes with the record, so nobody else may be writing to it.
    """

    writes: tuple[tuple[int, tuple[bytes, ...]], ...]
    aux_size: int | None
    data_size: int | None
    record: bytes
    has_head: bool = False


def new_record(file_id: bytes, file_key: bytes, *, log2bs: int, suite: Suite = Suite.AES_256_GCM, **values: Any) -> Record:
    """Return the record of an empty file; id and key are 16 and 32 fresh random bytes, `values` further fields."""
    return Record(file_id, file_key, suite, log2bs, **values)


def file_key_of(record: Record) -> FileKey:
    """Return what the blocks of a file are under."""
    return FileKey(record.file_key, record.file_id, suite=record.suite, log2bs=record.log2bs)


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
    rekey: the number new blocks are encrypted under. head: the first block in plain, perhaps without its last zeros; what the
    tree says of that block does not count then. wants_merge: it was changed here and by another client; until `merge_head`
    has settled it there is no commit.
    """

    __slots__ = (
        "_attrs", "_committing_head", "_committing_parts", "_cut", "_head_is_new", "_head_parts", "_pending", "_redo", "_staged",
        "_uses", "_wrote_last",
        "changes", "cipher", "head", "key", "record", "rekey", "sealed", "size", "tree", "wants_merge",
    )  # fmt: skip

    def __init__(self, key: VolumeKey, sealed: bytes, file_id: bytes | None = None) -> None:
        """Open the record as the server returned it. Raises: Malformed, WrongKey, IntegrityError."""
        self.key = key
        self.sealed = sealed
        self.record = record = open_record(key, sealed, file_id)
        self.cipher = ContentCipher(file_key_of(record))
        self.rekey = record.rekey
        self.head: bytes | None = record.inline or None
        self._head_is_new = False
        self._committing_head: bytes | None = None
        self._uses = 0
        self._attrs: dict[str, Any] = {}
        self._head_parts: list[tuple[int, int]] = []
        self._committing_parts: list[tuple[int, int]] = []
        self.wants_merge = False
        self._staged: list[tuple[int, bytearray, bytes | None]] = []
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

    def possible_entries(self, block: int) -> list[bytes]:
        """Return what the entry of a block may be on the server, now or by a commit to come, each once; it is not missing."""
        return self.tree.possible_entries(block)

    def written_blocks(self) -> list[int]:
        """Return the blocks that were written here since the last commit, ascending; those that wait for `redo()` too."""
        written = (*self._redo, *self.tree.written_entries())
        return sorted({first + at for first, entries in written for at in range(len(entries) // ENTRY_SIZE)})

    def lost(self, block: int, entry: bytes) -> None:
        """What was written of a block and not committed is not there; it is under this entry."""
        self.tree.unset_entry(block, entry)
        self.changes += 1

    # ---- writing

    def wrote(self, first: int, entries: bytes | bytearray | memoryview) -> None:
        """Note that blocks sealed with these entries are on the server; the file grows by what lies behind its end."""
        end = first + len(entries) // ENTRY_SIZE
        if end > self.tree.blocks:
            self.tree.resize(end)
        self.tree.set_entries(first, entries)
        if not first:
            self.head, self._head_is_new, self._head_parts, self.wants_merge = None, False, [], False
        self._wrote_last = self._wrote_last or end == self.tree.blocks
        self.changes += 1

    def use_key(self, count: int) -> int:
        """Reckon with `count` blocks about to be sealed. Returns: the rekey number they are sealed under."""
        if self.record.uses + self._uses + count > KEY_USES_MAX and self.rekey + 1 < MAX_REKEY:
            self.rekey += 1
            self._uses = -self.record.uses
        self._uses += count
        return self.rekey

    def takes_head(self, first: int, count: int) -> bool:
        """Say whether what is written to these blocks can be the head: they are all the file has."""
        return not first and count == 1 and self.tree.blocks <= 1

    def wrote_head(self, block: bytes, parts: Iterable[tuple[int, int]]) -> None:
        """Take the first block in plain; trailing zeros may be left out. `parts`: (start, end) of what was written of it."""
        if not self.tree.blocks:
            self.tree.resize(1)
        self._head_parts = joined([*self._head_parts, *parts])
        self.head = block
        self._head_is_new = True
        self._wrote_last = self._wrote_last or self.tree.blocks == 1
        self.changes += 1

    def must_spill(self, plain_size: int) -> bool:
        """Say whether the head does not fit into the record that the next commit puts, and has to be sealed as a block."""
        return self.head is not None and self._size_with(plain_size) > INLINE_MAX

    def stage(self, block: int, entry: bytes | bytearray) -> None:
        """A block inside the file was sealed with this entry and goes to the server in the transaction that is planned next.

        The first block takes the place of the head. If the transaction is not done, all is as it was; if it was not even
        begun, `unstage` sees to that.
        """
        self._staged.append((block, self.tree.entries(block, 1), self.head))
        if not block:
            self.head = None
        self.tree.set_entries(block, entry)
        self.changes += 1

    @property
    def is_uncommitted(self) -> bool:
        """Say whether something was written here that no record tells of."""
        return self.tree.is_dirty or self._head_is_new or self.has_redo

    @property
    def has_redo(self) -> bool:
        """Say whether `redo()` is still to come, so that a commit now would not tell of all that was written here."""
        return bool(self._redo)

    @property
    def has_new_head(self) -> bool:
        """Say whether the next commit changes the first block with the record, or as a block of its own."""
        return self._head_is_new

    def cuts(self, plain_size: int) -> bool:
        """Say whether the next commit cuts the data stream."""
        inline = self.head is not None and self._size_with(plain_size) <= INLINE_MAX
        return self._cut or (inline and (self.record.root != NO_HASH or self.tree.is_dirty))

    def unstage(self) -> None:
        """Forget the blocks that were sealed for a transaction that does not come."""
        for block, entry, head in reversed(self._staged):
            if block < self.tree.blocks:
                self.tree.unset_entry(block, entry)
            if not block and self.head is None:
                self.head = head
        self._staged.clear()

    def merge_head(self, theirs: bytes) -> None:
        """Lay what was written here over the first block as another client has it."""
        assert self.wants_merge and self.head is not None
        self.wants_merge = False
        mine, merged = self.head.ljust(self.block_size, b"\0"), bytearray(theirs.ljust(self.block_size, b"\0"))
        for start, end in self._head_parts:
            merged[start:end] = mine[start:end]
        self.head = bytes(merged).rstrip(b"\0")  # header: what fits into a small file's only block
        self.changes += 1

    def set_attributes(self, **values: Any) -> None:
        """Change further fields of the record with the next commit."""
        self._attrs.update(values)

    def forget_attributes(self) -> None:
        """Change no further fields after all, where no commit has."""
        self._attrs.clear()

    def block_to_rewrite(self, size: int) -> int | None:
        """Return the block a cut to `size` goes through, to be sealed anew with its tail zero; None when there is none."""
        block = size >> self.record.log2bs
        if not size & (self.block_size - 1) or block >= self.tree.blocks or (not block and self.head is not None):
            return None
        is_hole, _ = first_of_other_kind(self.entries(block, 1))
        return None if is_hole else block

    def resize(self, size: int) -> None:
        """Cut the file, or extend it by a hole; the path to the new last block must not be missing when it is cut."""
        assert size <= MAX_PLAIN_SIZE, "larger than an encrypted file can be"
        blocks = nr_blocks(size, self.record.log2bs)
        self._cut = self._cut or blocks < self.tree.blocks
        if self.head is not None and size < len(self.head):
            self.head = self.head[:size] or None
            self._head_is_new = self.head is not None
            self._head_parts = joined([*self._head_parts, (size, self.block_size)]) if self._head_is_new else []
        self.tree.resize(blocks)
        self.size = size
        self._wrote_last = False
        self.changes += 1

    def revert(self) -> None:
        """Forget what was changed since the last commit, but for attributes."""
        record = self.record
        self.size = record.size
        self.head = record.inline or None
        self._head_is_new = self.wants_merge = self._cut = self._wrote_last = False
        self._head_parts, self._redo = [], []
        self._staged.clear()
        self.tree = TagTree(record.file_id, nr_blocks(record.size, record.log2bs), record.root, keep=self.tree.keep)
        self.changes += 1

    # ---- commit

    def needs_commit(self, plain_size: int) -> bool:
        """Say whether the server's record is behind; `plain_size` as in `begin_commit`."""
        return (
            self.tree.is_dirty
            or self._cut
            or self._head_is_new
            or self.has_redo
            or bool(self._attrs)
            or self._size_with(plain_size) != self.record.size
        )

    def begin_commit(self, plain_size: int, nonce: bytes, max_pages: int, **values: Any) -> CommitPlan:
        """Return the next transaction, of at most `max_pages` pages; as long as `needs_commit`, another one follows.

        plain_size: how far the user has written; it says where in the last block the file ends. nonce: 24 fresh bytes. values:
        fields that change with every commit. A head that does not fit has been spilled.
        """
        size = self._size_with(plain_size)
        inline = b""
        if self.head is not None:
            assert size <= INLINE_MAX, "a head that does not fit into the record is spilled"
            inline = self.head.ljust(size, b"\0")
            if self.record.root != NO_HASH or self.tree.is_dirty:
                self._cut = True
                self.tree.resize(0)
                self.tree.resize(1)
        pages = self.tree.begin_commit(max_pages)
        assert nr_blocks(size, self.record.log2bs) == self.tree.blocks, "the size lies in the last block"
        record = replace(
            self.record,
            generation=self.record.generation + 1,
            size=size,
            root=self.tree.root,
            inline=inline,
            rekey=self.rekey,
            uses=self.record.uses + self._uses,
            before=sha256(self.sealed).digest(),
            epoch=self.key.epoch,
            **{**values, **self._attrs},
        )
        sealed = seal_record(self.key, record, nonce)
        self._pending = record, sealed
        self._committing_head = self.head
        self._committing_parts, self._head_parts = self._head_parts, []
        data = dict(pages)
        writes = tuple((run.pos, tuple(data[page] for page in run.pages)) for run in runs_of(data))
        if not self._cut:
            return CommitPlan(writes, None, None, sealed, self._head_is_new)
        stored = 0 if inline else size
        return CommitPlan(
            writes, aux_size(nr_blocks(stored, record.log2bs)), padded_size(stored, record.log2bs), sealed, self._head_is_new
        )  # fmt: skip

    def end_commit(self, *, stored: bool) -> None:
        """Say whether the transaction was done."""
        assert self._pending is not None
        record, sealed = self._pending
        self._pending = None
        self.tree.end_commit(stored=stored)
        if not stored:
            self.unstage()
            self._head_parts = joined([*self._committing_parts, *self._head_parts]) if self._head_is_new else []
        else:
            self._staged.clear()
            self._uses -= record.uses - self.record.uses
            self.record, self.sealed, self.size = record, sealed, record.size
            self._cut = False
            self._head_is_new = self._head_is_new and self.head is not self._committing_head
            self._attrs = {name: value for name, value in self._attrs.items() if getattr(record, name) != value}

    def adopt(self, sealed: bytes) -> list[Fetch]:
        """Take the record another client has put; what was written here and not committed waits for `redo()`.

        Returns: what to supply before `redo()`.
        Raises: Malformed, WrongKey, IntegrityError for another file's record, Rollback for an older one.
        """
        mine = self.record
        record = open_record(self.key, sealed, mine.file_id)
        if (record.kind, record.suite, record.log2bs, record.file_key) != (mine.kind, mine.suite, mine.log2bs, mine.file_key):
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
            self.rekey = max(self.rekey, record.rekey)
            if self._head_is_new:
                self.wants_merge = True
            else:
                self.head = record.inline or None
            self.tree = TagTree(record.file_id, blocks, record.root, keep=self.tree.keep)
            self._cut = False
            self._wrote_last = self._head_is_new and blocks <= 1
            if self._wrote_last and not blocks:
                self.tree.resize(1)
            self.changes += 1
        return self.missing_for_redo()

    def missing_for_redo(self) -> list[Fetch]:
        """Return what to supply before `redo()`: that of a record adopted before, if supplying it failed."""
        missing: dict[PageId, None] = {}
        for first, entries in self._redo:
            missing.update(dict.fromkeys(self.tree.missing_pages(first, len(entries) // ENTRY_SIZE)))
        self.tree.reserve(len(missing) * FAN_OUT)
        return runs_of(missing)

    def redo(self) -> None:
        """Lay what was written here over the adopted record, and what was written since then over that."""
        if self._redo:
            redo, self._redo = [*self._redo, *self.tree.written_entries()], []
            for first, entries in redo:
                self.wrote(first, entries)

    def close(self) -> None:
        """Forget the keys."""
        self.cipher.key.close()

    def _size_with(self, plain_size: int) -> int:
        """Return the size to commit: as it was, or where the user's bytes end in the last block if that was written here.

        A write that nobody has been told of yet may go beyond `plain_size`; what of it is in the head is not cut off.
        """
        if not self._wrote_last:
            return self.size
        end = self.tree.blocks << self.record.log2bs
        least = max(end - self.block_size + 1, len(self.head or b""))
        return max(self.size, min(max(plain_size, least), end))


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


def joined(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order; those that touch are one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(parts):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
