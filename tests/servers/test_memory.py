"""What the memory store promises beyond the suite: the caller's clock, one cookie for a name, links, its own pages lent."""

import errno

import pytest

from iov.extract import extract_segments
from iov.iov_iter import IovIter
from iov.probe import Probe
from servers.stores.memory import MemoryStore
from tests.conformance.store_words import folder, get, new, put, refused, top


def test_times_are_the_callers() -> None:
    now = [1000]
    store = MemoryStore(Probe(), lambda: now[0])
    file = new(store)
    now[0] = 2000
    put(store, file, 0, b"x")
    attr = store.getattr(file)
    assert (attr.atime_ns, attr.mtime_ns, attr.ctime_ns) == (1000, 2000, 2000)
    assert store.getattr(top(store)).mtime_ns == 1000
    now[0] = 3000
    store.rename(top(store), "f", top(store), "g")
    attr = store.getattr(file)
    assert (attr.mtime_ns, attr.ctime_ns) == (2000, 3000)
    assert store.getattr(top(store)).mtime_ns == 3000


def test_another_boot_knows_none_of_the_handles() -> None:
    old = MemoryStore(Probe(), boot=1)
    file, root = new(old), top(old)
    store = MemoryStore(Probe(), boot=2)
    new(store)
    assert store.verifier == 2
    for handle in (file, root):
        with refused(errno.ESTALE):
            store.getattr(handle)


def test_replaced_name_keeps_its_place_in_a_listing() -> None:
    store = MemoryStore(Probe())
    root = top(store)
    for name in ("a", "b", "c"):
        new(store, name)
    first, _ = store.readdir(root, 0, 1)
    new(store, "x")
    store.rename(root, "x", root, "a")
    rest, eof = store.readdir(root, first[0].cookie, 10)
    assert [entry.name for entry in [*first, *rest]] == ["a", "b", "c"]
    assert eof


def test_links_of_a_directory_are_counted() -> None:
    store = MemoryStore(Probe())
    root = top(store)
    one, _ = folder(store, "one"), folder(store, "two")
    assert store.getattr(root).nlink == 4
    store.rename(root, "two", one, "two")
    assert (store.getattr(root).nlink, store.getattr(one).nlink) == (3, 3)
    folder(store, "three")
    store.rename(root, "three", one, "two")
    assert (store.getattr(root).nlink, store.getattr(one).nlink) == (3, 3)
    store.rmdir(one, "two")
    store.rmdir(root, "one")
    assert store.getattr(root).nlink == 2


def test_reads_and_writes_share_the_files_own_pages() -> None:
    probe = Probe()
    store = MemoryStore(probe)
    file = new(store, data=b"before")
    lent = store.read_source(file, 0, 6)
    put(store, file, 0, b"after!")
    assert isinstance(lent.source, IovIter)
    assert bytes(extract_segments(lent.source, 6)[0]) == b"after!"
    assert lent.release is not None
    lent.release()
    assert (probe.payload_copies, probe.bounce_allocations) == (0, 0)


def test_close_insists_on_its_leases() -> None:
    store = MemoryStore(Probe())
    file = new(store, data=b"x")
    lent = store.read_source(file, 0, 1)
    with pytest.raises(AssertionError, match="1 leases"):
        store.close()
    assert lent.release is not None
    lent.release()
    assert get(store, file) == b"x"
    store.close()
