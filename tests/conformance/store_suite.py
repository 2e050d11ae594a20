"""What every store must do with objects and bytes; each check takes a fresh store. `test_store.py` runs them over every store."""

import errno

from iov.copy_iter import copy_to_iter
from servers.stores.base import SIZE_MAX, Store
from tests.conformance.store_words import MIB, folder, get, names, new, put, refused, taken, top
from transport.messages import FileType, Handle, Setattr

STALE_HANDLES = (Handle(b""), Handle(b"nonsense"), Handle(bytes(24)), Handle(bytes(64)))
BAD_NAMES = {
    "": errno.EINVAL,
    ".": errno.EINVAL,
    "..": errno.EINVAL,
    "/": errno.EINVAL,
    "a/b": errno.EINVAL,
    "/etc/passwd": errno.EINVAL,
    "../x": errno.EINVAL,
    "a\0b": errno.EINVAL,
    "x" * 256: errno.ENAMETOOLONG,
    "é" * 150: errno.ENAMETOOLONG,
    "x" * 5000: errno.ENAMETOOLONG,
    "\ud800": errno.EINVAL,
}
GOOD_NAMES = ("a", "x" * 255, "é" * 127, "...", " ", "\n", "a b", "-rf", "*", "\udcff", "naïve", "\u202e", ".hidden", "con")


# ---- objects


def check_root(store: Store) -> None:
    root = store.root()
    assert root.attr.type is FileType.DIRECTORY
    assert store.root().handle == root.handle
    assert store.getattr(root.handle).ino == root.attr.ino
    assert 0 < len(root.handle) <= 64
    assert store.verifier != 0
    assert names(store, root.handle) == []


def check_create_and_lookup(store: Store) -> None:
    root = top(store)
    made = store.create(root, "f", 0o640, exclusive=True)
    assert (made.attr.type, made.attr.mode, made.attr.size, made.attr.nlink) == (FileType.FILE, 0o640, 0, 1)
    assert store.lookup(root, "f").handle == made.handle
    assert store.create(root, "f", 0o600, exclusive=False).handle == made.handle
    assert store.getattr(made.handle).mode == 0o640
    with refused(errno.EEXIST):
        store.create(root, "f", 0o600, exclusive=True)
    with refused(errno.ENOENT):
        store.lookup(root, "g")
    folder(store, "d")
    with refused(errno.EISDIR):
        store.create(root, "d", 0o600, exclusive=False)
    with refused(errno.EEXIST):
        store.create(root, "d", 0o600, exclusive=True)


def check_modes_are_the_clients(store: Store) -> None:
    root = top(store)
    for mode in (0o777, 0o666, 0o600, 0o000, 0o755):
        assert store.create(root, f"f{mode:o}", mode, exclusive=True).attr.mode == mode
        assert store.mkdir(root, f"d{mode:o}", mode).attr.mode == mode


def check_file_is_no_directory(store: Store) -> None:
    file = new(store)
    for call in (
        lambda: store.lookup(file, "x"),
        lambda: store.create(file, "x", 0o600, exclusive=False),
        lambda: store.mkdir(file, "x", 0o700),
        lambda: store.readdir(file, 0, 10),
        lambda: store.unlink(file, "x"),
        lambda: store.rmdir(file, "x"),
        lambda: store.rename(file, "x", top(store), "y"),
    ):
        with refused(errno.ENOTDIR):
            call()


def check_directory_is_no_file(store: Store) -> None:
    directory = folder(store)
    for call in (
        lambda: store.open(directory, write=False),
        lambda: store.read_source(directory, 0, 1),
        lambda: store.read_source(directory, 0, 1, aux=True),
        lambda: store.write_landing(directory, 0, 1),
        lambda: store.commit(directory),
        lambda: store.truncate(directory, 0),
    ):
        with refused(errno.EISDIR):
            call()


def check_nonsense_handles_are_stale(store: Store) -> None:
    for handle in STALE_HANDLES:
        for call in (
            lambda h: store.lookup(h, "x"),
            store.getattr,
            lambda h: store.setattr(Setattr(h, mode=0o600)),
            lambda h: store.create(h, "x", 0o600, exclusive=True),
            lambda h: store.open(h, write=False),
            lambda h: store.read_source(h, 0, 1),
            lambda h: store.write_landing(h, 0, 1),
            store.commit,
            lambda h: store.truncate(h, 0),
            lambda h: store.mkdir(h, "x", 0o700),
            lambda h: store.readdir(h, 0, 1),
            lambda h: store.unlink(h, "x"),
            lambda h: store.rmdir(h, "x"),
            lambda h: store.rename(h, "x", top(store), "x"),
            store.record_get,
            lambda h: store.transact([(h, 0)], 0, [], None),
        ):
            with refused(errno.ESTALE):
                call(handle)


def check_setattr(store: Store) -> None:
    file = new(store)
    before = store.getattr(file)
    after = store.setattr(Setattr(file, mode=0o4751, mtime_ns=1_234_567_890_123_456_789))
    assert (after.mode, after.mtime_ns, after.atime_ns) == (0o4751, 1_234_567_890_123_456_789, before.atime_ns)
    assert after.change > before.change
    assert store.setattr(Setattr(file, atime_ns=5)).atime_ns == 5
    assert store.getattr(file).mtime_ns == 1_234_567_890_123_456_789
    assert store.setattr(Setattr(top(store), mode=0o700)).mode == 0o700
    with refused(errno.EINVAL):
        store.setattr(Setattr(file, uid=1 << 32))
    with refused(errno.EINVAL):
        store.setattr(Setattr(file, uid=-1))
    with refused(errno.EINVAL):
        store.setattr(Setattr(file, mtime_ns=1 << 64))


def check_owner(store: Store) -> None:
    file = new(store)
    before = store.getattr(file)
    after = store.setattr(Setattr(file, uid=before.uid, gid=before.gid))
    assert (after.uid, after.gid) == (before.uid, before.gid)


def check_change_grows(store: Store) -> None:
    file, directory = new(store), top(store)
    seen = [store.getattr(file).change]
    put(store, file, 0, b"x")
    seen.append(store.getattr(file).change)
    put(store, file, 0, b"x")
    seen.append(store.getattr(file).change)
    store.truncate(file, 9)
    seen.append(store.getattr(file).change)
    store.setattr(Setattr(file, mode=0o600))
    seen.append(store.getattr(file).change)
    assert seen == sorted(set(seen))
    changes = [store.getattr(directory).change]
    store.mkdir(directory, "d", 0o700)
    changes.append(store.getattr(directory).change)
    store.rename(directory, "d", directory, "e")
    changes.append(store.getattr(directory).change)
    store.rmdir(directory, "e")
    changes.append(store.getattr(directory).change)
    store.unlink(directory, "f")
    changes.append(store.getattr(directory).change)
    assert changes == sorted(set(changes))


def check_hostile_names(store: Store) -> None:
    root = top(store)
    new(store, "x")
    for name, code in BAD_NAMES.items():
        for call in (
            lambda n: store.lookup(root, n),
            lambda n: store.create(root, n, 0o600, exclusive=False),
            lambda n: store.mkdir(root, n, 0o700),
            lambda n: store.unlink(root, n),
            lambda n: store.rmdir(root, n),
            lambda n: store.rename(root, n, root, "y"),
            lambda n: store.rename(root, "x", root, n),
        ):
            with refused(code):
                call(name)
    assert names(store, root) == ["x"]


def check_odd_names_are_names(store: Store) -> None:
    root = top(store)
    for name in GOOD_NAMES:
        assert store.lookup(root, name).handle == new(store, name) if name in names(store, root) else new(store, name)
        assert store.lookup(root, name).attr.type is FileType.FILE
    assert sorted(names(store, root)) == sorted(GOOD_NAMES)
    for name in GOOD_NAMES:
        store.rename(root, name, root, "moved")
        store.unlink(root, "moved")
    assert names(store, root) == []


# ---- data


def check_write_and_read(store: Store) -> None:
    file = new(store)
    assert put(store, file, 0, b"hello world") == 11
    assert get(store, file) == b"hello world"
    assert put(store, file, 6, b"there", stable=True) == 5
    assert get(store, file, 3, 4) == b"lo t"
    assert store.getattr(file).size == 11
    store.commit(file)
    assert store.open(file, write=True).size == 11


def check_end_of_file(store: Store) -> None:
    file = new(store, data=b"0123456789")
    for pos, length, data, eof in (
        (0, 10, b"0123456789", True),
        (0, 9, b"012345678", False),
        (0, 11, b"0123456789", True),
        (9, 1, b"9", True),
        (10, 1, b"", True),
        (10, 0, b"", True),
        (9, 0, b"", False),
        (SIZE_MAX, 4096, b"", True),
        (SIZE_MAX - 1, 1, b"", True),
        (5000, MIB, b"", True),
    ):
        lent = store.read_source(file, pos, length)
        assert (lent.length, lent.eof) == (len(data), eof), (pos, length)
        assert taken(lent) == data
    with refused(errno.EINVAL):
        store.read_source(file, SIZE_MAX + 1, 1)
    with refused(errno.EINVAL):
        store.read_source(file, -1, 1)


def check_empty_file(store: Store) -> None:
    lent = store.read_source(new(store), 0, 4096)
    assert (lent.length, lent.eof, taken(lent)) == (0, True, b"")


def check_write_limits(store: Store) -> None:
    file = new(store)
    assert put(store, file, 7, b"") == 0
    assert store.getattr(file).size == 0
    for pos in (SIZE_MAX, SIZE_MAX - 1):
        with refused(errno.EFBIG):
            store.write_landing(file, pos, 2)
    with refused(errno.EINVAL):
        store.write_landing(file, -1, 1)
    with refused(errno.EFBIG):
        store.truncate(file, SIZE_MAX + 1)
    with refused(errno.EINVAL):
        store.truncate(file, -1)
    assert store.getattr(file).size == 0


def check_holes(store: Store) -> None:
    file = new(store)
    put(store, file, 3 * MIB + 5, b"end")
    assert store.getattr(file).size == 3 * MIB + 8
    assert get(store, file, 0) == bytes(MIB)
    assert get(store, file, 3 * MIB - 3, 20) == bytes(8) + b"end"
    put(store, file, MIB - 2, b"across")
    assert get(store, file, MIB - 4, 10) == b"\0\0across\0\0"


def check_huge_sparse_file(store: Store) -> None:
    file = new(store)
    store.truncate(file, 4 << 30)
    put(store, file, (4 << 30) - 4, b"last")
    put(store, file, 2 << 30, b"middle")
    assert store.getattr(file).size == 4 << 30
    assert get(store, file, (4 << 30) - 8, 100) == bytes(4) + b"last"
    assert get(store, file, (2 << 30) - 2, 10) == b"\0\0middle\0\0"
    assert get(store, file, 3 << 30) == bytes(MIB)
    store.truncate(file, 1)
    store.truncate(file, 4 << 30)
    assert get(store, file, 2 << 30, 10) == bytes(10)


def check_truncate(store: Store) -> None:
    file = new(store, data=b"abcdefgh")
    assert store.truncate(file, 3).size == 3
    assert get(store, file) == b"abc"
    assert store.truncate(file, 6).size == 6
    assert get(store, file) == b"abc\0\0\0"
    put(store, file, 2 * MIB, b"x" * 10)
    store.truncate(file, MIB + 1)
    store.truncate(file, 2 * MIB + 10)
    assert get(store, file, 2 * MIB - 1, 20) == bytes(11)


def check_truncate_while_lent(store: Store) -> None:
    file = new(store, data=b"x" * 100_000)
    lent = store.read_source(file, 0, 100_000)
    store.truncate(file, 0)
    assert len(taken(lent)) == 100_000
    put(store, file, 0, b"new")
    assert get(store, file) == b"new"


def check_unlink_while_lent(store: Store) -> None:
    file = new(store, data=b"x" * 100_000)
    lent = store.read_source(file, 0, 100_000)
    landing = store.write_landing(file, 0, 10)
    store.unlink(top(store), "f")
    assert taken(lent) == b"x" * 100_000
    with refused(errno.ESTALE):
        store.write(file, 0, landing, stable=False)


def check_landing_released(store: Store) -> None:
    file = new(store, data=b"keep")
    for pos in (0, 2, 4, 100, 3 * MIB):
        landing = store.write_landing(file, pos, 1 if pos < 4 else 5000)
        copy_to_iter(b"\xee" * (0 if pos < 4 else 1234), landing.iter.copy())
        assert landing.release is not None
        landing.release()
    assert store.getattr(file).size == 4
    assert get(store, file) == b"keep"
    store.truncate(file, 4 * MIB)
    assert get(store, file, 0, 8000) == b"keep" + bytes(7996)
    assert get(store, file, 3 * MIB) == bytes(MIB)


def check_landings_do_not_disturb_each_other(store: Store) -> None:
    file = new(store, data=b"head")
    kept = store.write_landing(file, 100, 50)
    lost = store.write_landing(file, 50, 200)
    copy_to_iter(b"k" * 50, kept.iter.copy())
    copy_to_iter(b"l" * 40, lost.iter.copy())
    assert lost.release is not None
    lost.release()
    assert store.write(file, 100, kept, stable=False) == 50
    assert get(store, file) == b"head" + bytes(96) + b"k" * 50


def check_truncate_under_a_landing(store: Store) -> None:
    file = new(store, data=b"x" * (2 * MIB))
    landing = store.write_landing(file, MIB - 10, 20)
    copy_to_iter(b"n" * 20, landing.iter.copy())
    store.truncate(file, 5)
    assert store.write(file, MIB - 10, landing, stable=False) == 20
    assert store.getattr(file).size == MIB + 10
    assert get(store, file, 0, 20) == b"x" * 5 + bytes(15)
    assert get(store, file, MIB - 20, 100) == bytes(10) + b"n" * 20


def check_big_write_is_one_landing(store: Store) -> None:
    file = new(store)
    data = bytes(range(256)) * (3 * MIB // 256)
    assert put(store, file, 12345, data) == len(data)
    assert get(store, file, 12345, len(data)) == data


def check_times_move(store: Store) -> None:
    file = new(store)
    store.setattr(Setattr(file, mtime_ns=1000))
    put(store, file, 0, b"x")
    assert store.getattr(file).mtime_ns > 1000 or store.getattr(file).change > 1
