"""The root over a volume: lookups, splits, removals, what a server may change of it, and how large a change is."""

import random

import pytest

from crypto.errors import CryptoError, IntegrityError, Malformed, WrongKey
from crypto.keys import VolumeKey
from crypto.root import MOST_ROWS, NO_ROOT, PAGE_SIZE, PageAt, RootRecord, RootTree, digest_of, open_root, seal_root

KEY = VolumeKey(b"k" * 32, b"v" * 16, 1)


class Server:
    """The aux stream of a root."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    def load(self, tree: RootTree, file_id: bytes) -> int:
        count = 0
        while (page := tree.missing(file_id)) is not None:
            tree.supply(page, self.pages.get(page.pos, b""))
            count += 1
        return count

    def change(self, tree: RootTree, changes: dict[bytes, bytes | None]) -> int:
        for file_id in changes:
            self.load(tree, file_id)
        tree.root, stored = tree.changed(changes)
        self.pages.update(stored)
        return len(stored)


def name(n: int) -> bytes:
    return n.to_bytes(16, "big")


@pytest.mark.parametrize("count", [1, MOST_ROWS, MOST_ROWS + 1, 5000])
def test_what_is_put_is_found_by_who_has_only_the_root(count: int) -> None:
    server, tree = Server(), RootTree()
    for n in range(count):
        server.change(tree, {name(n): digest_of(name(n))})
    fresh = RootTree(tree.root)
    for n in range(0, count, max(1, count // 50)):
        server.load(fresh, name(n))
        assert fresh.get(name(n)) == digest_of(name(n))
    server.load(fresh, b"none of them....")
    assert fresh.get(b"none of them....") is None


def test_random_changes_agree_with_a_dictionary() -> None:
    rng = random.Random(3)
    server, tree = Server(), RootTree()
    expected: dict[bytes, bytes] = {}
    for step in range(400):
        changes: dict[bytes, bytes | None] = {}
        for _ in range(rng.randrange(1, 4)):
            file_id = name(rng.randrange(600))
            changes[file_id] = None if rng.random() < 0.3 else digest_of(bytes([step & 255]) + file_id)
        server.change(tree, changes)
        for file_id, digest in changes.items():
            if digest is None:
                expected.pop(file_id, None)
            else:
                expected[file_id] = digest
        if step % 40 == 0:
            tree = RootTree(tree.root)
    for n in range(600):
        server.load(tree, name(n))
        assert tree.get(name(n)) == expected.get(name(n))
    server.change(tree, dict.fromkeys(expected))
    for n in range(600):
        server.load(tree, name(n))
        assert tree.get(name(n)) is None


def test_a_commit_is_a_few_pages() -> None:
    server, tree = Server(), RootTree()
    server.change(tree, {name(n): digest_of(name(n)) for n in range(100_000)})
    assert server.change(tree, {name(77): digest_of(b"new")}) == 3
    assert server.load(RootTree(tree.root), name(77)) == 3


def test_pages_that_were_changed_or_are_old_are_refused() -> None:
    server, tree = Server(), RootTree()
    server.change(tree, {name(n): digest_of(name(n)) for n in range(200)})
    old = dict(server.pages)
    server.change(tree, {name(5): digest_of(b"new")})
    fresh = RootTree(tree.root)
    page = fresh.missing(name(5))
    assert page is not None
    for lie in (old[page.pos], b"", bytes(PAGE_SIZE), server.pages[page.pos][:-1] + b"\x01", server.pages[page.pos] + b"\0"):
        with pytest.raises(IntegrityError):
            fresh.supply(page, lie)
    with pytest.raises(IntegrityError):
        fresh.supply(PageAt(0, NO_ROOT), bytes(PAGE_SIZE))


def test_a_client_goes_back_to_an_older_root_without_asking() -> None:
    server, tree = Server(), RootTree()
    server.change(tree, {name(1): b"a" * 32})
    before = tree.root
    server.change(tree, {name(1): b"b" * 32})
    tree.root = before
    assert tree.missing(name(1)) is None
    assert tree.get(name(1)) == b"a" * 32


@pytest.mark.chosen_nonces
def test_the_record() -> None:
    sealed = seal_root(KEY, RootRecord(7, b"r" * 32), bytes(24))
    assert open_root(KEY, sealed) == RootRecord(7, b"r" * 32)
    later = VolumeKey(b"n" * 32, b"v" * 16, 2, older=(KEY,))
    assert open_root(later, sealed).generation == 7
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1 << at % 8
        with pytest.raises(CryptoError):
            open_root(KEY, bytes(changed))
    with pytest.raises(WrongKey):
        open_root(VolumeKey(b"x" * 32, b"v" * 16, 1), sealed)
    with pytest.raises(Malformed):
        open_root(KEY, sealed[:-1])
