"""What only a real folder has: links and strangers behind our back, descriptors that run out, several threads."""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from iov.probe import Probe
from servers.stores.directory import DirectoryStore
from servers.stores.syscalls import Statx, open_beneath, statx
from tests.conformance.store_words import folder, get, names, new, put, refused, taken, top
from transport.base import FileRange
from transport.messages import FileType, Handle, Setattr, Step, StepKind

pytestmark = pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="the directory store needs Linux")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a disk."""
    monkeypatch.setattr("servers.stores.directory_files.is_memory", lambda _: True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "export"
    path.mkdir()
    return path


@pytest.fixture
def store(home: Path) -> Iterator[DirectoryStore]:
    made = DirectoryStore(home, Probe())
    yield made
    made.close()


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_large_read_from_memory_is_a_range_of_the_file(store: DirectoryStore) -> None:
    file = new(store, data=b"x" * 200_000)
    for pos, length, count, eof in (
        (0, 65_536, 65_536, False),
        (1000, 1 << 20, 199_000, True),
        (100_000, 100_000, 100_000, True),
    ):
        lent = store.read_source(file, pos, length)
        assert isinstance(lent.source, FileRange)
        assert (lent.source.pos, lent.source.length, lent.length, lent.eof) == (pos, count, count, eof)
        taken(lent)
    for pos, length in ((0, 65_535), (150_000, 65_536), (200_000, 65_536)):
        lent = store.read_source(file, pos, length)
        assert not isinstance(lent.source, FileRange)
        taken(lent)


# ---- links and strangers


def test_symlink_is_shown_and_never_followed(home: Path, store: DirectoryStore) -> None:
    (home.parent / "secret").write_text("secret")
    (home / "inside").write_text("inside")
    (home / "dir").mkdir()
    for name, target in {"out": "../secret", "absolute": "/etc/passwd", "in": "inside", "dirlink": "dir", "loop": "loop"}.items():
        (home / name).symlink_to(target)
        entry = store.lookup(top(store), name)
        assert entry.attr.type is FileType.SYMLINK
        for call in (
            lambda h: store.open(h, write=False),
            lambda h: store.read_source(h, 0, 10),
            lambda h: store.write_landing(h, 0, 10),
            lambda h: store.truncate(h, 0),
            lambda h: store.record_get(h),  # noqa: PLW0108
        ):
            with refused(errno.ELOOP):
                call(entry.handle)
        with refused(errno.EOPNOTSUPP):
            store.setattr(Setattr(entry.handle, mode=0o777))
        with refused(errno.ENOTDIR):
            store.lookup(entry.handle, "x")
        with refused(errno.ELOOP):
            store.create(top(store), name, 0o600, exclusive=False)
        with refused(errno.EEXIST):
            store.create(top(store), name, 0o600, exclusive=True)
    store.rename(top(store), "out", top(store), "moved")
    store.unlink(top(store), "moved")
    assert (home.parent / "secret").read_text() == "secret"
    assert (home / "inside").read_text() == "inside"


def test_file_swapped_for_a_symlink_is_stale(home: Path, store: DirectoryStore) -> None:
    (home.parent / "secret").write_text("secret")
    (home / "f").write_text("f")
    handle = store.lookup(top(store), "f").handle
    (home / "f").unlink()
    (home / "f").symlink_to("../secret")
    with refused(errno.ESTALE):
        store.read_source(handle, 0, 10)
    with refused(errno.ESTALE):
        store.getattr(handle)


def test_directory_swapped_for_a_symlink_is_stale(home: Path, store: DirectoryStore) -> None:
    (home / "d").mkdir()
    (home / "d" / "f").write_text("f")
    directory = store.lookup(top(store), "d").handle
    (home / "d").rename(home.parent / "elsewhere")
    (home / "d").symlink_to("../elsewhere")
    with refused(errno.ESTALE):
        store.lookup(directory, "f")


def test_inode_used_again_is_another_object(home: Path, store: DirectoryStore) -> None:
    old: dict[int, Handle] = {}
    reused = 0
    for _ in range(20):
        (home / "f").write_text("x")
        entry = store.lookup(top(store), "f")
        reused += entry.attr.ino in old
        assert entry.handle not in old.values()
        for handle in old.values():
            with refused(errno.ESTALE):
                store.read_source(handle, 0, 1)
        old[entry.attr.ino] = entry.handle
        (home / "f").unlink()
    assert len(old) + reused == 20


def test_open_file_replaced_behind_our_back_is_never_another_file(home: Path, store: DirectoryStore) -> None:
    handle = new(store, data=b"old")
    (home / "g").write_text("new")
    (home / "g").rename(home / "f")
    assert get(store, handle) == b"old"
    with refused(errno.ESTALE):
        store.getattr(handle)
    assert get(store, store.lookup(top(store), "f").handle) == b"new"


def test_devices_and_pipes_are_not_opened(home: Path, store: DirectoryStore) -> None:
    os.mkfifo(home / "pipe")
    entry = store.lookup(top(store), "pipe")
    assert entry.attr.type is FileType.OTHER
    with refused(errno.EINVAL):
        store.open(entry.handle, write=True)
    with refused(errno.EINVAL):
        store.create(top(store), "pipe", 0o600, exclusive=False)


def test_hard_links_share_a_handle(home: Path, store: DirectoryStore) -> None:
    handle = new(store, data=b"data")
    put(store, handle, 0, b"aux", aux=True)
    os.link(home / "f", home / "g")
    assert store.lookup(top(store), "g").handle == handle
    store.unlink(top(store), "g")
    assert store.lookup(top(store), "f").handle == handle
    assert get(store, handle) == b"data"
    assert get(store, handle, aux=True) == b"aux"
    store.unlink(top(store), "f")
    with refused(errno.ESTALE):
        store.getattr(handle)


def test_bytes_that_are_no_text_are_names(home: Path, store: DirectoryStore) -> None:
    Path(os.fsdecode(os.fsencode(home) + b"/\xff\xfe")).touch()
    (name,) = names(store, top(store))
    assert name == "\udcff\udcfe"
    store.unlink(top(store), name)
    assert list(home.iterdir()) == [home / ".netfs"]


def test_what_we_write_is_there_for_everybody(home: Path, store: DirectoryStore) -> None:
    directory = folder(store)
    new(store, "f", b"data", directory)
    assert (home / "d" / "f").read_bytes() == b"data"
    (home / "d" / "g").write_bytes(b"from outside")
    assert get(store, store.lookup(directory, "g").handle) == b"from outside"


def test_no_way_up(home: Path) -> None:
    fd = os.open(home, os.O_PATH)
    for name in (b"..", b"../secret", b"a/b", b"", b"/"):
        with refused(errno.EINVAL):
            open_beneath(fd, name, os.O_RDONLY)
    os.close(fd)


def test_no_descriptor_ever_leaves_the_root_under_renames_and_links(home: Path, store: DirectoryStore) -> None:
    """A stranger swaps a folder for a link to the outside and back while threads walk through it."""
    outside = home.parent / "outside"
    outside.mkdir()
    (outside / "f").write_text("outside")
    (home / "d").mkdir()
    (home / "d" / "f").write_text("inside")
    handle = store.lookup(store.lookup(top(store), "d").handle, "f").handle
    stop = threading.Event()

    def swap() -> None:
        for _ in range(300):
            (home / "d").rename(home / "e")
            (home / "d").symlink_to(outside)
            (home / "d").unlink()
            (home / "e").rename(home / "d")
        stop.set()

    def walk() -> int:
        served = 0
        while not stop.is_set():
            try:
                fresh = store.lookup(store.lookup(top(store), "d").handle, "f").handle
                store._tree._directories.drop(store.lookup(top(store), "d").handle)
                store._tree._files.drop(handle)
                assert get(store, fresh) == b"inside"
                assert get(store, handle) == b"inside"
                served += 1
            except OSError as error:
                assert error.errno in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ELOOP)  # noqa: PT017
        return served

    with ThreadPoolExecutor(3) as pool:
        walkers = [pool.submit(walk) for _ in range(2)]
        pool.submit(swap).result()
        for walker in walkers:
            walker.result()


# ---- descriptors, identity, threads


def test_few_descriptors_serve_many_files(home: Path) -> None:
    store = DirectoryStore(home, Probe(), max_open=16)
    before = open_descriptors()
    deep = top(store)
    for level in range(40):
        deep = folder(store, f"level{level}", deep)
    files = [new(store, f"f{number}", b"%d" % number, deep) for number in range(200)]
    for number, file in enumerate(files):
        put(store, file, 0, b"aux", aux=True)
        assert get(store, file) == b"%d" % number
    assert open_descriptors() - before <= 40
    for number, file in enumerate(files):
        store.rename(deep, f"f{number}", top(store), f"g{number}")
        assert get(store, file) == b"%d" % number
    store.close()


def test_descriptor_in_use_survives_its_eviction(home: Path) -> None:
    store = DirectoryStore(home, Probe(), max_open=8)
    file = new(store, data=b"data")
    held = store._tree.file(file, write=False)
    for number in range(100):
        new(store, f"f{number}")
    assert os.pread(held.fd, 10, 0) == b"data"
    store._tree.let_go(held)
    with pytest.raises(OSError) as gone:
        os.fstat(held.fd)
    assert gone.value.errno == errno.EBADF
    store.close()


def test_deep_trees_are_walked_without_recursion(home: Path) -> None:
    store = DirectoryStore(home, Probe(), max_open=8)
    deep = top(store)
    for _ in range(400):
        deep = folder(store, "d", deep)
    file = new(store, "f", b"deep", deep)
    new(store, "evicts", b"x")
    assert get(store, file) == b"deep"
    while deep != top(store):
        store.unlink(deep, "f") if "f" in names(store, deep) else None
        parent = store._tree.node(deep).parent
        assert parent is not None
        store.rmdir(parent.handle, "d")
        deep = parent.handle
    store.close()


def test_identity_without_birth_times(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(fd: int, name: bytes = b"") -> Statx:
        found = statx(fd, name)
        found.birth_ns = None
        return found

    monkeypatch.setattr("servers.stores.handles.statx", without)
    store = DirectoryStore(home, Probe(), max_open=8)
    try:
        os.setxattr(home, "user.netfs.test", b"")
    except OSError:
        pytest.skip("no user attributes on this filesystem")
    one, two = new(store, "one", b"1"), new(store, "two", b"2")
    directory = folder(store)
    third = new(store, "three", b"3", directory)
    assert len({one, two, third}) == 3
    assert [get(store, handle) for handle in (one, two, third)] == [b"1", b"2", b"3"]
    store.unlink(top(store), "one")
    with refused(errno.ESTALE):
        store.getattr(one)
    (home / "two").unlink()
    (home / "two").write_text("x")
    with refused(errno.ESTALE):
        store.getattr(Handle(bytes(two)))
    store.close()


def test_threads_in_one_folder(store: DirectoryStore) -> None:
    def work(me: int) -> None:
        root = top(store)
        for round_nr in range(30):
            file = new(store, f"w{me}", b"%d" % me)
            assert get(store, file) == b"%d" % me
            directory = store.create(root, f"shared{round_nr}", 0o600, exclusive=False)
            store.rename(root, f"w{me}", root, f"moved{me}")
            assert get(store, file) == b"%d" % me
            store.transact([(file, 0)], 0, [Step(StepKind.RECORD_PUT, file, record=b"%d" % me)], None)
            assert store.lookup(root, f"shared{round_nr}").handle == directory.handle
            names(store, root)
            store.unlink(root, f"moved{me}")

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, me) for me in range(6)]:
            done.result()
    assert names(store, top(store)) and len(names(store, top(store))) == 30


def test_walk_that_met_half_a_rename_is_repeated(home: Path, store: DirectoryStore) -> None:
    file = new(store, data=b"data")
    store._tree._files.drop(file)
    with ThreadPoolExecutor(1) as pool:
        with store._tree.names:
            (home / "f").rename(home / "g")  # the kernel's half
            reading = pool.submit(get, store, file)
            with pytest.raises(TimeoutError):
                reading.result(0.05)
            store._tree.moved(store._tree.node(file), store._tree.root, b"g")
        assert reading.result() == b"data"


def test_look_that_met_a_rename_does_not_remember_the_old_place(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    file = new(store, data=b"data")
    pending = [True]

    def overtaken(fd: int, name: bytes = b"") -> Statx:
        found = statx(fd, name)
        if name == b"f" and pending:
            pending.clear()
            store.rename(top(store), "f", top(store), "g")
        return found

    monkeypatch.setattr("servers.stores.handles.statx", overtaken)
    with refused(errno.ENOENT):
        store.lookup(top(store), "f")
    store._tree._files.drop(file)
    assert get(store, file) == b"data"


def test_elsewhere_than_on_linux_it_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(OSError, match="needs Linux; use the memory store") as refused_here:
        DirectoryStore(home, Probe())
    assert refused_here.value.errno == errno.ENOTSUP


@pytest.mark.slow
def test_a_hundred_thousand_files_take_no_more_descriptors_than_they_may(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, Probe(), max_open=100)
    root = top(store)
    before = len(list(Path("/proc/self/fd").iterdir()))
    count = 100_000
    handles = [store.create(root, f"{number:06}", 0o600, exclusive=True).handle for number in range(count)]
    for handle in handles[:: count // 1000]:
        put(store, handle, 0, b"data")
        assert get(store, handle) == b"data"
    listed, cookie, eof = 0, 0, False
    while not eof:
        page, eof = store.readdir(root, cookie, 5000)
        listed, cookie = listed + len(page), page[-1].cookie
    assert listed == count
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 100
    store.close()
