"""A folder on a real disk: what is served without sleeping, and that what is promised to be durable is asked of the disk."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import netfs
import servers
from iov.probe import Probe
from servers.dispatch import Dispatcher
from servers.stores.directory import DirectoryStore
from servers.stores.syscalls import is_memory
from tests.conformance.store_words import folder, get, new, put, refused, source, top
from transport.base import Reply
from transport.env import system_env
from transport.messages import AttrReply, FileType, Getattr, Open, Step, StepKind

pytestmark = pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="the directory store needs Linux")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryStore]:
    made = DirectoryStore(tmp_path, Probe())
    if not made.blocking:
        pytest.skip("the test folder lives in memory")
    yield made
    made.close()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no memory filesystem to look at")
def test_memory_is_told_from_disk() -> None:
    for path, wanted in (("/dev/shm", True), ("/proc", False)):
        fd = os.open(path, os.O_RDONLY)
        assert is_memory(fd) == wanted
        os.close(fd)


def test_what_the_page_cache_holds_is_read_without_sleeping(store: DirectoryStore) -> None:
    file = new(store, data=b"x" * 10_000)
    lent = store.try_read_source(file, 0, 4096)
    if lent is None:
        pytest.skip("this filesystem knows no RWF_NOWAIT")
    assert (lent.length, lent.eof) == (4096, False)
    assert lent.release is not None
    lent.release()
    tail = store.try_read_source(file, 8192, 4096)
    assert tail is not None and tail.release is not None
    assert (tail.length, tail.eof) == (1808, True)
    tail.release()
    store._tree._files.drop(file)
    assert store.try_read_source(file, 0, 4096) is None


def test_an_open_file_is_looked_at_without_sleeping(store: DirectoryStore) -> None:
    file = new(store, data=b"x" * 10)
    for write in (None, False, True):
        attr = store.try_getattr(file, write=write)
        assert attr == store.getattr(file)
    reader = store._tree.file(file, write=False)
    store._tree.let_go(reader)
    store._tree._files.drop(file)
    for write in (None, False, True):
        assert store.try_getattr(file, write=write) is None, "it is not open any more"
    store._tree.let_go(store._tree.file(file, write=False))
    assert store.try_getattr(file, write=False) == store.getattr(file)
    assert store.try_getattr(file, write=True) is None, "it is open for reading alone"
    assert store.try_getattr(top(store)) is None
    store.open(file, write=True)
    store.unlink(top(store), "f")
    assert store.try_getattr(file) is None


async def test_getattr_and_open_of_an_open_file_take_no_hop(store: DirectoryStore) -> None:
    probe = Probe()
    handler = Dispatcher(store, system_env(), probe)
    file = new(store, data=b"x" * 10)
    for request in (Getattr(file), Open(file, write=True)):
        reply = handler.handle(request, None)
        assert isinstance(reply, Reply) and isinstance(reply.body, AttrReply) and reply.body.attr.size == 10
    before = probe.hops
    store._tree._files.drop(file)
    later = handler.handle(Getattr(file), None)
    assert not isinstance(later, Reply)
    assert (await later).status == 0
    assert (before, probe.hops) == (0, 1)
    handler.closed()


def test_page_cache_that_ends_early_is_not_the_end_of_the_file(store: DirectoryStore) -> None:
    file = new(store, data=b"x" * (1 << 20))
    store.commit(file)
    held = store._tree.opened(file)
    assert held is not None
    os.posix_fadvise(held.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(held.fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(held.fd, 4096, 0)
    store._tree.let_go(held)
    lent = store.try_read_source(file, 0, 1 << 20)
    if lent is not None:  # the kernel kept the pages after all
        assert lent.length == 1 << 20
        assert lent.release is not None
        lent.release()
    assert len(get(store, file)) == 1 << 20


def test_what_is_promised_is_synced(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def note(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "fdatasync", note)

    def since() -> set[str]:
        seen = set(synced)
        synced.clear()
        return seen

    root, directory = top(store), folder(store)
    home = Path(f"/proc/self/fd/{store._tree._root_descriptor.fd}").readlink().name
    assert since() == {home}
    file = new(store, "f", b"data", directory)
    assert since() == {"d"}
    put(store, file, 0, b"stable", stable=True)
    assert since() == {"f"}
    store.commit(file)
    assert since() == {"f"}
    store.rename(directory, "f", root, "g")
    assert since() == {"d", home}
    steps = [Step(StepKind.AUX_WRITE, file, 0, 3), Step(StepKind.RECORD_PUT, file, record=b"r")]
    store.transact([(file, 0)], 0, steps, source(b"aux"))
    assert synced[0] == "g"
    assert synced[1] == "journal"
    assert synced[-1] == "journal"
    assert since() == {"g", "journal", file.hex(), "aux", "records"}
    put(store, file, 0, b"more", aux=True)
    store.commit(file)
    assert since() == {"g", file.hex()}
    store.unlink(root, "g")
    assert since() == {home}


def test_names_the_kernel_knows_are_found_without_sleeping(store: DirectoryStore) -> None:
    directory = folder(store)
    file = new(store, "f", b"x" * 10, directory)
    found = store.try_lookup(directory, "f")
    if found is None:
        pytest.skip("this kernel knows no RESOLVE_CACHED")
    assert found == store.lookup(directory, "f")
    assert found.handle == file
    assert store.try_lookup(directory, "gone") is None, "what is not there is the slow way's to say"
    assert store.try_lookup(file, "x") is None
    assert store.try_lookup(top(store), ".netfs") is None
    store.symlink(directory, "l", b"f")
    link = store.try_lookup(directory, "l")
    assert link is not None and link.attr.type is FileType.SYMLINK
    with refused(errno.EINVAL):
        store.try_lookup(directory, "..")
    store.rename(directory, "f", top(store), "g")
    assert store.try_lookup(directory, "f") is None
    moved = store.try_lookup(top(store), "g")
    assert moved is not None and moved.handle == file


async def test_a_stat_costs_no_hop(store: DirectoryStore) -> None:
    probe = Probe()
    async with servers.serve(store, probe=probe) as server, netfs.open_client(server.url, leases=False) as client:
        await client.mkdir("/d")
        await client.write_bytes("/d/f", b"data")
        await client.stat("/d/f")
        hops = probe.hops
        for _ in range(10):
            assert (await client.stat("/d/f")).size == 4
        assert probe.hops == hops
