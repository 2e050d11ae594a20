"""What every store must do; each check takes a fresh store. `test_store.py` runs them over every implementation."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from iov.copy_iter import copy_from_iter, copy_to_iter
from iov.extract import extract_segments
from iov.iov_iter import Direction, IovIter
from servers.stores.base import RECORD_MAX, SIZE_MAX, Lent, Store
from transport.base import FileRange
from transport.messages import FileType, Handle, Setattr, Step, StepKind

Check = Callable[[Store], None]
MIB = 1 << 20
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


# ---- words of the suite


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    got = caught.value.errno or 0
    assert got == code, f"{errno.errorcode[got]}, not {errno.errorcode[code]}"


def taken(lent: Lent) -> bytes:
    """Copy out what was lent, and give it back."""
    if lent.source is None:
        assert lent.length == 0
        return b""
    if isinstance(lent.source, FileRange):
        data = os.pread(lent.source.fd, lent.source.length, lent.source.pos)
    else:
        assert lent.source.count == lent.length
        data = b"".join(bytes(view) for view in extract_segments(lent.source, lent.length))
    assert len(data) == lent.length
    assert lent.release is not None
    lent.release()
    return data


def get(store: Store, handle: Handle, pos: int = 0, length: int = MIB, *, aux: bool = False) -> bytes:
    return taken(store.read_source(handle, pos, length, aux=aux))


def put(store: Store, handle: Handle, pos: int, data: bytes, *, aux: bool = False, stable: bool = False) -> int:
    landing = store.write_landing(handle, pos, len(data), aux=aux)
    assert copy_to_iter(data, landing.iter.copy()) == len(data)
    return store.write(handle, pos, landing, stable=stable, aux=aux)


def top(store: Store) -> Handle:
    return store.root().handle


def new(store: Store, name: str = "f", data: bytes = b"", parent: Handle | None = None) -> Handle:
    handle = store.create(top(store) if parent is None else parent, name, 0o644, exclusive=True).handle
    if data:
        put(store, handle, 0, data)
    return handle


def folder(store: Store, name: str = "d", parent: Handle | None = None) -> Handle:
    return store.mkdir(top(store) if parent is None else parent, name, 0o755).handle


def names(store: Store, handle: Handle, step: int = 1000) -> list[str]:
    found: list[str] = []
    cookie, eof = 0, False
    while not eof:
        entries, eof = store.readdir(handle, cookie, step)
        assert len(entries) <= step and (entries or eof)
        found += [entry.name for entry in entries]
        cookie = entries[-1].cookie if entries else cookie
    return found


def source(data: bytes) -> IovIter:
    return IovIter.ubuf(Direction.SOURCE, data)


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
        lambda: store.record_get(directory),
        lambda: store.transact([(directory, 0)], 0, [], None),
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


# ---- names


def check_mkdir_and_rmdir(store: Store) -> None:
    root = top(store)
    made = store.mkdir(root, "d", 0o750)
    assert (made.attr.type, made.attr.mode) == (FileType.DIRECTORY, 0o750)
    with refused(errno.EEXIST):
        store.mkdir(root, "d", 0o700)
    new(store, "f", parent=made.handle)
    with refused(errno.EEXIST):
        store.mkdir(made.handle, "f", 0o700)
    with refused(errno.ENOTEMPTY):
        store.rmdir(root, "d")
    with refused(errno.ENOTDIR):
        store.rmdir(made.handle, "f")
    with refused(errno.EISDIR):
        store.unlink(root, "d")
    store.unlink(made.handle, "f")
    store.rmdir(root, "d")
    with refused(errno.ENOENT):
        store.rmdir(root, "d")
    for call in (
        lambda: store.lookup(made.handle, "x"),
        lambda: store.create(made.handle, "x", 0o600, exclusive=True),
        lambda: store.getattr(made.handle),
        lambda: store.readdir(made.handle, 0, 1),
    ):
        with refused(errno.ESTALE):
            call()


def check_unlinked_is_stale_for_ever(store: Store) -> None:
    root = top(store)
    dead = []
    for number in range(50):
        handle = new(store, data=b"%d" % number)
        dead.append(handle)
        store.unlink(root, "f")
        for old in dead:
            with refused(errno.ESTALE):
                store.getattr(old)
            with refused(errno.ESTALE):
                store.read_source(old, 0, 1)
    assert len(set(dead)) == len(dead)
    with refused(errno.ENOENT):
        store.unlink(root, "f")


def check_handles_follow_renames(store: Store) -> None:
    root = top(store)
    outer = folder(store, "outer")
    inner = folder(store, "inner", outer)
    file = new(store, "f", b"data", inner)
    store.rename(root, "outer", root, "elsewhere")
    store.rename(outer, "inner", root, "in")
    assert get(store, file) == b"data"
    put(store, file, 4, b"!")
    store.rename(inner, "f", outer, "g")
    assert get(store, file) == b"data!"
    assert store.lookup(store.lookup(root, "elsewhere").handle, "g").handle == file
    assert store.getattr(file).size == 5
    assert names(store, inner) == []


def check_rename_matrix(store: Store) -> None:
    kinds = ("nothing", "file", "empty", "full")
    expected = {
        ("file", "nothing"): 0, ("file", "file"): 0, ("file", "empty"): errno.EISDIR, ("file", "full"): errno.EISDIR,
        ("empty", "nothing"): 0, ("empty", "file"): errno.ENOTDIR, ("empty", "empty"): 0, ("empty", "full"): errno.ENOTEMPTY,
        ("full", "nothing"): 0, ("full", "file"): errno.ENOTDIR, ("full", "empty"): 0, ("full", "full"): errno.ENOTEMPTY,
    }  # fmt: skip

    def build(kind: str, parent: Handle, name: str) -> Handle | None:
        if kind == "nothing":
            return None
        if kind == "file":
            return new(store, name, b"data", parent)
        made = folder(store, name, parent)
        if kind == "full":
            new(store, "inside", b"", made)
        return made

    for number, same in enumerate((True, False)):
        for old in kinds:
            for target in kinds:
                here = folder(store, f"{number}{old}{target}")
                there = here if same else folder(store, "there", here)
                moved, replaced = build(old, here, "a"), build(target, there, "b")
                code = expected.get((old, target), errno.ENOENT)
                if code:
                    with refused(code):
                        store.rename(here, "a", there, "b")
                    if moved is not None:
                        assert store.lookup(here, "a").handle == moved
                    if replaced is not None:
                        assert store.lookup(there, "b").handle == replaced
                    continue
                store.rename(here, "a", there, "b")
                assert store.lookup(there, "b").handle == moved
                with refused(errno.ENOENT):
                    store.lookup(here, "a")
                if replaced is not None:
                    with refused(errno.ESTALE):
                        store.getattr(replaced)


def check_rename_oddities(store: Store) -> None:
    root = top(store)
    file, outer = new(store), folder(store)
    inner = folder(store, "e", outer)
    store.rename(root, "f", root, "f")
    assert store.getattr(file).nlink == 1
    assert store.lookup(root, "f").handle == file
    store.rename(root, "d", root, "d")
    assert store.lookup(outer, "e").handle == inner
    new(store, "child", b"", outer)
    with refused(errno.ENOTEMPTY):
        store.rename(outer, "child", root, "d")
    with refused(errno.EINVAL):
        store.rename(root, "d", outer, "x")
    with refused(errno.EINVAL):
        store.rename(root, "d", inner, "x")
    with refused(errno.ENOTEMPTY):
        store.rename(outer, "e", root, "d")
    with refused(errno.ENOTDIR):
        store.rename(root, "f", file, "x")
    with refused(errno.ENOENT):
        store.rename(root, "g", root, "f")
    assert store.lookup(root, "f").handle == file


def check_readdir(store: Store) -> None:
    root = top(store)
    wanted = [f"n{number:03}" for number in range(300)]
    handles = {name: new(store, name, name.encode()) for name in wanted}
    folder(store, "sub")
    for step in (1, 7, 100, 301, 5000):
        assert sorted(names(store, root, step)) == [*wanted, "sub"]
    entries, eof = store.readdir(root, 0, 5000)
    assert eof
    assert {entry.name: entry.handle for entry in entries if entry.name != "sub"} == handles
    assert all(entry.attr.size == 4 for entry in entries if entry.name != "sub")
    assert all(0 < entry.cookie < 1 << 63 and entry.record is None for entry in entries)
    assert store.readdir(root, entries[-1].cookie, 10) == ([], True)
    assert store.readdir(store.lookup(root, "sub").handle, 0, 10) == ([], True)


def check_readdir_is_stable(store: Store) -> None:
    root = top(store)
    staying = {f"stay{number}" for number in range(100)}
    for number in range(100):
        new(store, f"stay{number}")
        new(store, f"go{number}")
    seen: list[str] = []
    cookie, eof, round_nr = 0, False, 0
    while not eof:
        entries, eof = store.readdir(root, cookie, 7)
        seen += [entry.name for entry in entries]
        cookie = entries[-1].cookie if entries else cookie
        if round_nr < 100:
            store.unlink(root, f"go{round_nr}")
            new(store, f"come{round_nr}")
            new(store, "temporary")
            store.rename(root, "temporary", root, f"come{round_nr}")
        round_nr += 1
    assert sorted(name for name in seen if name in staying) == sorted(staying)


def check_readdir_sees_what_was_replaced(store: Store) -> None:
    root = top(store)
    for number in range(40):
        new(store, f"n{number}")
    seen: set[str] = set()
    cookie, eof, round_nr = 0, False, 0
    while not eof:
        entries, eof = store.readdir(root, cookie, 3)
        seen.update(entry.name for entry in entries)
        cookie = entries[-1].cookie if entries else cookie
        if round_nr < 40:
            new(store, "temporary")
            store.rename(root, "temporary", root, f"n{round_nr}")
        round_nr += 1
    assert seen - {"temporary"} == {f"n{number}" for number in range(40)}


# ---- aux, records, transactions


def check_aux_stream(store: Store) -> None:
    file = new(store, data=b"data")
    lent = store.read_source(file, 0, 100, aux=True)
    assert (lent.length, lent.eof) == (0, True)
    put(store, file, 10, b"tags", aux=True)
    assert get(store, file, aux=True) == bytes(10) + b"tags"
    assert get(store, file) == b"data"
    assert store.getattr(file).size == 4
    put(store, file, 2 * MIB, b"far", aux=True)
    assert get(store, file, 2 * MIB - 1, 9, aux=True) == b"\0far"
    landing = store.write_landing(file, 0, 3, aux=True)
    assert landing.release is not None
    landing.release()
    store.commit(file)


def check_record(store: Store) -> None:
    file = new(store)
    assert store.record_get(file) == (b"", 0)
    step = Step(StepKind.RECORD_PUT, file, record=b"first")
    assert store.transact([(file, 0)], 0, [step], None) == [1]
    assert store.record_get(file) == (b"first", 1)
    assert store.transact([(file, 1)], store.verifier, [Step(StepKind.RECORD_PUT, file, record=b"2")], None) == [2]
    assert store.record_get(file) == (b"2", 2)
    with refused(errno.EAGAIN):
        store.transact([(file, 1)], 0, [Step(StepKind.RECORD_PUT, file, record=b"late")], None)
    with refused(errno.ESTALE):
        store.transact([(file, 2)], store.verifier + 1, [Step(StepKind.RECORD_PUT, file, record=b"boot")], None)
    with refused(errno.EFBIG):
        store.transact([(file, 2)], 0, [Step(StepKind.RECORD_PUT, file, record=bytes(RECORD_MAX + 1))], None)
    assert store.record_get(file) == (b"2", 2)
    entries, _ = store.readdir(top(store), 0, 10)
    assert [entry.record for entry in entries] == [b"2"]
    assert store.transact([(file, 2)], 0, [Step(StepKind.RECORD_PUT, file, record=b"")], None) == [3]
    assert store.record_get(file) == (b"", 3)
    big = bytes(range(256)) * (RECORD_MAX // 256)
    store.transact([(file, 3)], 0, [Step(StepKind.RECORD_PUT, file, record=big)], None)
    assert store.record_get(file) == (big, 4)


def check_transact_applies_all(store: Store) -> None:
    one, two = new(store, "one", b"data one"), new(store, "two", b"data two")
    generations = store.transact(
        [(two, 0), (one, 0)],
        store.verifier,
        [
            Step(StepKind.AUX_WRITE, one, 0, 4),
            Step(StepKind.TRUNCATE, two, 4),
            Step(StepKind.AUX_WRITE, two, 100, 6),
            Step(StepKind.AUX_TRUNCATE, one, 2),
            Step(StepKind.RECORD_PUT, one, record=b"r1"),
            Step(StepKind.RECORD_PUT, two, record=b"r2"),
            Step(StepKind.RECORD_PUT, two, record=b"r3"),
        ],
        source(b"AAAAbbbbbb"),
    )
    assert generations == [2, 1]
    assert get(store, one, aux=True) == b"AA"
    assert get(store, two, aux=True) == bytes(100) + b"bbbbbb"
    assert get(store, one) == b"data one"
    assert get(store, two) == b"data"
    assert (store.record_get(one), store.record_get(two)) == ((b"r1", 1), (b"r3", 2))


def check_transact_applies_none(store: Store) -> None:
    file, dead = new(store, "f", b"data"), new(store, "dead")
    store.unlink(top(store), "dead")
    good = Step(StepKind.AUX_WRITE, file, 0, 3)
    record = Step(StepKind.RECORD_PUT, file, record=b"no")
    for code, asserts, verifier, steps, payload in (
        (errno.EAGAIN, [(file, 1)], 0, [good, record], b"abc"),
        (errno.ESTALE, [(file, 0)], store.verifier + 1, [good, record], b"abc"),
        (errno.ESTALE, [(file, 0), (dead, 0)], 0, [good, record], b"abc"),
        (errno.ESTALE, [(file, 0)], 0, [good, record, Step(StepKind.RECORD_PUT, dead, record=b"")], b"abc"),
        (errno.EINVAL, [(file, 0)], 0, [good, record], b"ab"),
        (errno.EINVAL, [(file, 0)], 0, [good, record], b"abcd"),
        (errno.EINVAL, [(file, 0)], 0, [good, record], None),
        (errno.EINVAL, [(file, 0)], 0, [record], b"abc"),
        (errno.EISDIR, [(file, 0)], 0, [good, Step(StepKind.TRUNCATE, top(store), 0)], b"abc"),
        (errno.EFBIG, [(file, 0)], 0, [good, Step(StepKind.AUX_TRUNCATE, file, SIZE_MAX + 1)], b"abc"),
    ):
        with refused(code):
            store.transact(asserts, verifier, steps, None if payload is None else source(payload))
        assert get(store, file, aux=True) == b""
        assert store.record_get(file) == (b"", 0)
        assert get(store, file) == b"data"


def check_transact_of_nothing(store: Store) -> None:
    file = new(store)
    assert store.transact([], 0, [], None) == []
    assert store.transact([(file, 0)], 0, [], None) == [0]


def check_aux_and_record_end_with_the_file(store: Store) -> None:
    root = top(store)
    for end in (lambda: store.unlink(root, "f"), lambda: (new(store, "g"), store.rename(root, "g", root, "f"))):
        file = new(store)
        store.transact(
            [], 0, [Step(StepKind.AUX_WRITE, file, 0, 3), Step(StepKind.RECORD_PUT, file, record=b"r")], source(b"aux")
        )
        end()
        with refused(errno.ESTALE):
            store.record_get(file)
        with refused(errno.ESTALE):
            store.read_source(file, 0, 1, aux=True)
        if "f" in names(store, root):
            store.unlink(root, "f")
        again = new(store)
        assert store.record_get(again) == (b"", 0)
        assert get(store, again, aux=True) == b""
        store.unlink(root, "f")


def check_record_follows_renames(store: Store) -> None:
    file, directory = new(store), folder(store)
    store.transact([], 0, [Step(StepKind.RECORD_PUT, file, record=b"r")], None)
    put(store, file, 0, b"aux", aux=True)
    store.rename(top(store), "f", directory, "g")
    assert store.record_get(file) == (b"r", 1)
    assert get(store, file, aux=True) == b"aux"
    assert [entry.record for entry in store.readdir(directory, 0, 10)[0]] == [b"r"]


def check_nothing_is_copied(store: Store) -> None:
    """The payload of a read and a write is where the store's own call or page put it: not one byte more of ours."""
    file = new(store)
    landing = store.write_landing(file, 0, MIB)
    for view in extract_segments(landing.iter.copy(), MIB):
        view[:] = b"z" * len(view)
    store.write(file, 0, landing, stable=False)
    lent = store.read_source(file, 0, MIB)
    assert isinstance(lent.source, IovIter)
    out = bytearray(MIB)
    copy_from_iter(out, lent.source)
    assert lent.release is not None
    lent.release()
    assert out == b"z" * MIB


CHECKS: tuple[Check, ...] = tuple(value for name, value in sorted(globals().items()) if name.startswith("check_"))
