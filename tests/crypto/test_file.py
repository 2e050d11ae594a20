"""A whole encrypted file over the smallest store there is, against plain bytes; conflicts; a reader that shares no code."""

import os
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import IntegrityError, KeyUnavailable, Rollback, WrongKey
from crypto.file import CommitPlan, EncryptedFile, Fetch, first_of_other_kind, new_record
from crypto.keys import VolumeKey
from crypto.layout import nr_blocks, padded_size
from crypto.record import seal_record
from iov.iov_iter import Direction, IovIter
from tests.crypto.reader import Volume

SECRET = b"k" * 32
KEY = VolumeKey(SECRET)
LOG2BS = 12
B = 1 << LOG2BS


@dataclass
class Store:
    """What a server keeps of one file."""

    record: bytes = b""
    generation: int = 0
    data: bytearray = field(default_factory=bytearray)
    aux: bytearray = field(default_factory=bytearray)

    def put(self, stream: bytearray, pos: int, new: bytes | memoryview) -> None:
        stream.extend(bytes(max(0, pos - len(stream))))
        stream[pos : pos + len(new)] = new

    def transact(self, generation: int, plan: CommitPlan) -> bool:
        if generation != self.generation:
            return False
        if plan.data_size is not None and plan.aux_size is not None:
            for stream, size in ((self.data, plan.data_size), (self.aux, plan.aux_size)):
                stream[:] = stream[:size].ljust(size, b"\0")
        for pos, pages in plan.writes:
            self.put(self.aux, pos, b"".join(pages))
        self.record = plan.record
        self.generation += 1
        return True


class Client:
    """The smallest shell around EncryptedFile: every call to the store is a slice."""

    def __init__(self, store: Store, key: VolumeKey = KEY) -> None:
        self.store = store
        self.file = EncryptedFile(key, store.record)
        self.generation = store.generation
        self.size = self.file.size

    def load(self, fetches: list[Fetch]) -> None:
        self.file.supply(
            [(fetch, memoryview(self.store.aux)[fetch.pos : fetch.pos + fetch.length].toreadonly()) for fetch in fetches]
        )

    def refresh(self) -> None:
        if self.store.record != self.file.sealed:
            self.load(self.file.adopt(self.store.record))
            self.file.redo()
        self.generation = self.store.generation
        self.size = max(self.size, self.file.size)

    def read(self, pos: int, length: int) -> bytes:
        length = max(0, min(length, self.size - pos))
        if not length:
            return b""
        first, end = pos // B, nr_blocks(pos + length, LOG2BS)
        self.load(self.file.fetches(first, end - first))
        entries = self.file.entries(first, end - first)
        area = memoryview(bytearray((end - first) * B + 16))
        stored = self.store.data[first * B : end * B]
        area[: len(stored)] = stored
        out = bytearray(length)
        self.file.cipher.open(area, entries, first, end - first, IovIter.ubuf(Direction.DEST, out), pos % B)
        return bytes(out)

    def write(self, pos: int, data: bytes) -> None:
        first, end = pos // B, nr_blocks(pos + len(data), LOG2BS)
        plain = bytearray(self.read(first * B, (end - first) * B).ljust((end - first) * B, b"\0"))
        plain[pos - first * B : pos - first * B + len(data)] = data
        self.write_blocks(first, plain)
        self.size = max(self.size, pos + len(data))

    def write_blocks(self, first: int, plain: bytes | bytearray) -> None:
        count = len(plain) // B
        area, entries = memoryview(bytearray(len(plain) + 16)), bytearray(32 * count)
        nonces = os.urandom(12 * count)
        self.file.cipher.seal(IovIter.ubuf(Direction.SOURCE, plain), area, first, count, nonces, entries)
        self.store.put(self.store.data, first * B, area[:-16])
        self.load(self.file.fetches(first, count))
        self.file.wrote(first, entries)

    def truncate(self, size: int) -> None:
        self.load(self.file.fetches(max(0, size - 1) // B, 2))
        if size < self.size and (block := self.file.block_to_rewrite(size)) is not None:
            kept = self.read(block * B, size % B)
            self.size = block * B
            self.write(block * B, kept)
        self.file.resize(size)
        self.size = size
        assert self.commit()

    def commit(self, max_pages: int = 100) -> bool:
        while self.file.needs_commit(self.size):
            stored = self.store.transact(self.generation, self.file.begin_commit(self.size, os.urandom(24), max_pages))
            self.file.end_commit(stored=stored)
            if not stored:
                return False
            self.generation += 1
        return True


def new_store() -> Store:
    record = new_record(os.urandom(16), os.urandom(32), log2bs=LOG2BS)
    return Store(seal_record(KEY, record, os.urandom(24)), 1)


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("seed", range(40))
def test_against_plain_bytes(seed: int) -> None:
    rng = random.Random(seed)
    store, oracle = new_store(), bytearray()
    client = Client(store)
    for _ in range(40):
        size = len(oracle)
        match rng.choice("wwwartco"):
            case "w" | "a":
                pos = rng.choice([size, rng.randrange(size + 1), rng.randrange(size + 3 * B), size // B * B])
                data = rng.randbytes(rng.choice([1, 100, B - 1, B, 2 * B + 5]))
                client.write(pos, data)
                oracle.extend(bytes(max(0, pos + len(data) - size)))
                oracle[pos : pos + len(data)] = data
            case "r":
                pos, length = rng.randrange(size + 10), rng.randrange(4 * B)
                assert client.read(pos, length) == oracle[pos : pos + length]
            case "t":
                size = rng.choice([0, rng.randrange(size + 1), size // B * B, size + rng.randrange(200 * B)])
                client.truncate(size)
                oracle[:] = oracle[:size].ljust(size, b"\0")
            case "c":
                assert client.commit(rng.choice([3, 100]))
            case _:
                assert client.commit()
                client = Client(store)
        assert client.size == len(oracle)
    client.write(0, b"end")
    oracle[:3] = b"end"
    assert client.commit()
    assert read_by_hand(store) == oracle
    assert len(store.data) <= padded_size(len(oracle), LOG2BS)


def read_by_hand(store: Store) -> bytes:
    """Decrypt a stored file with the reader that shares no code with the product."""
    volume = Volume({0: SECRET})
    record = volume.record(store.record, store.record[28:44])
    assert record.kind == "file"
    return volume.content(record, bytes(store.data), bytes(store.aux))


def two_writers() -> tuple[Store, Client, Client]:
    store = new_store()
    one = Client(store)
    one.write(0, b"\1" * 5 * B)
    one.commit()
    return store, one, Client(store)


def test_a_conflict_is_settled_by_laying_over() -> None:
    store, one, two = two_writers()
    one.write(0, b"a" * B)
    one.write(9 * B, b"A")
    two.write(2 * B, b"b" * B)
    assert two.commit()
    assert not one.commit()
    one.refresh()
    assert one.commit()
    two.refresh()
    expected = b"a" * B + b"\1" * B + b"b" * B + b"\1" * 2 * B + bytes(4 * B) + b"A"
    assert one.read(0, 1 << 20) == two.read(0, 1 << 20) == expected == read_by_hand(store)


def test_a_head_that_goes_beyond_the_size_its_writer_tells_of() -> None:
    """A direct append is in the head before its writer knows; another descriptor's commit neither cuts it nor puts too much."""
    store = new_store()
    file = Client(store).file
    file.wrote_head(b"r" * 100, [(0, 100)])
    assert not file.must_spill(0)
    assert store.transact(1, file.begin_commit(0, os.urandom(24), 100))
    file.end_commit(stored=True)
    again = EncryptedFile(KEY, store.record)
    assert (again.size, again.head) == (100, b"r" * 100)
    file.wrote_head(b"r" * B, [(100, B)])
    assert file.must_spill(100)


def test_what_a_conflict_needs_is_asked_for_again() -> None:
    """The pages for the redo did not come: they are still missing, and what was written meanwhile is the newer."""
    store = new_store()
    first = Client(store)
    first.write(0, b"a" * (2 * B))
    first.write(300 * B, b"a" * B)
    assert first.commit()
    second = Client(store)
    second.write(300 * B, b"x" * B)
    second.write(B, b"x" * B)
    first.write(150 * B, b"b" * B)
    assert first.commit()
    assert second.file.adopt(store.record)
    second.generation = store.generation
    assert second.file.needs_commit(second.size)
    assert second.file.has_redo
    second.write_blocks(1, b"y" * B)
    second.load(second.file.missing_for_redo())
    second.file.redo()
    assert not second.file.has_redo
    assert second.commit()
    assert Client(store).read(B, B) == b"y" * B
    assert Client(store).read(300 * B, B) == b"x" * B
    assert Client(store).read(150 * B, B) == b"b" * B


def test_a_block_that_was_sealed_for_a_transaction_that_does_not_come() -> None:
    store = new_store()
    client = Client(store)
    client.write(0, b"x" * (2 * B))
    client.commit()
    client = Client(store)
    file = client.file
    client.load(file.fetches(1, 1))
    file.stage(1, b"e" * 32)
    file.revert()
    file.set_attributes(mtime_ns=5)
    file.begin_commit(2 * B, os.urandom(24), 100)
    file.end_commit(stored=False)


def test_a_foreign_cut_and_a_foreign_growth() -> None:
    store, one, two = two_writers()
    one.write(0, b"x")
    one.write(4 * B, b"x")  # the cut takes it, as it came before
    two.truncate(B + 1)
    assert not one.commit()
    one.refresh()
    assert one.commit()
    assert read_by_hand(store) == b"x" + b"\1" * B
    one.truncate(3 * B)
    two.refresh()
    assert two.read(0, 1 << 20) == b"x" + b"\1" * B + bytes(2 * B - 1) == read_by_hand(store)


def test_older_and_foreign_records_are_refused() -> None:
    store, one, two = two_writers()
    old = store.record
    two.write(0, b"n")
    two.commit()
    newer = store.record
    one.refresh()
    with pytest.raises(Rollback):
        one.file.adopt(old)
    other = new_store().record
    with pytest.raises(IntegrityError):
        one.file.adopt(other)
    with pytest.raises(WrongKey):
        EncryptedFile(VolumeKey(b"x" * 32), newer)
    fork = Client(Store(old, 1, bytearray(store.data), bytearray(store.aux)))
    fork.file.resize(10 * B)
    fork.size = 10 * B
    fork.commit()
    with pytest.raises(Rollback):
        one.file.adopt(fork.store.record)  # of the same generation, and another content


def test_old_blocks_with_old_tags_are_refused() -> None:
    store, one, _ = two_writers()
    data, aux = bytearray(store.data), bytearray(store.aux)
    one.write(B, b"new" * 100)
    one.commit()
    for with_tags in (False, True):
        reader = Client(Store(store.record, store.generation, bytearray(data), aux if with_tags else bytearray(store.aux)))
        with pytest.raises(IntegrityError):
            reader.read(B, 10)


def test_closed_file_gives_no_new_keys() -> None:
    _, one, _ = two_writers()
    one.file.close()
    with pytest.raises(KeyUnavailable):
        one.read(0, 1)


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_first_of_other_kind(holes: list[bool]) -> None:
    entries = b"".join(bytes(32) if hole else b"n" * 28 + b"\1\0\0\0" for hole in holes)
    is_hole, count = first_of_other_kind(entries)
    assert is_hole == holes[0]
    assert len(set(holes[:count])) == 1
    assert count == len(holes) or holes[count] != is_hole
