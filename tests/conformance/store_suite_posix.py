"""What every store must do with links, room in files, extended attributes and rename's flags."""

import errno

from iov.copy_iter import copy_to_iter
from servers.stores.base import SIZE_MAX, TARGET_MAX, XATTR_MAX, Store
from tests.conformance.store_suite import BAD_NAMES, STALE_HANDLES
from tests.conformance.store_words import MIB, folder, get, names, new, put, refused, source, top
from transport.messages import NOW_NS, FileType, Handle, RenameFlag, Setattr, Whence, XattrMode

EITHER, CREATE, REPLACE = XattrMode
NOREPLACE, EXCHANGE = RenameFlag.NOREPLACE, RenameFlag.EXCHANGE


def link(store: Store, name: str = "l", target: bytes = b"target") -> Handle:
    return store.symlink(top(store), name, target).handle


# ---- links


def check_symlink(store: Store) -> None:
    root = top(store)
    made = store.symlink(root, "l", b"../else/where \xff")
    assert (made.attr.type, made.attr.size, made.attr.nlink) == (FileType.SYMLINK, 15, 1)
    assert store.readlink(made.handle) == b"../else/where \xff"
    assert store.lookup(root, "l").handle == made.handle
    assert store.readdir(root, 0, 10)[0][0].attr.type is FileType.SYMLINK
    with refused(errno.EEXIST):
        store.symlink(root, "l", b"x")
    with refused(errno.ENOENT):
        store.symlink(root, "m", b"")
    with refused(errno.ENAMETOOLONG):
        store.symlink(root, "m", b"x" * (TARGET_MAX + 1))
    with refused(errno.EINVAL):
        store.symlink(root, "m", b"a\0b")
    assert store.readlink(store.symlink(root, "m", b"y" * TARGET_MAX).handle) == b"y" * TARGET_MAX
    with refused(errno.EINVAL):
        store.readlink(new(store))
    with refused(errno.EINVAL):
        store.readlink(root)


def check_open_files_outlive_their_last_name(store: Store) -> None:
    root = top(store)
    removed, replaced, closed = new(store, "a", b"data"), new(store, "b", b"old"), new(store, "c", b"gone")
    new(store, "d", b"new")
    folder(store, "e")
    store.link(removed, root, "a2")
    store.is_open = lambda handle: handle != closed
    try:
        with refused(errno.ENOTDIR):
            store.rename(root, "e", root, "b")
        store.unlink(root, "a")
        assert not store.unnamed(), "it has another name"
        for name in ("a2", "c"):
            store.unlink(root, name)
        store.rename(root, "d", root, "b")
    finally:
        del store.is_open
    assert sorted(names(store, root)) == ["b", "e"]
    assert store.unnamed() == list(store.removed) == [removed, replaced]
    store.removed.clear()
    assert get(store, replaced) == b"old"
    put(store, removed, 4, b"more")
    assert get(store, removed) == b"datamore"
    attr = store.truncate(removed, 6)
    assert (attr.nlink, attr.size, store.getattr(removed).nlink) == (0, 6, 0)
    with refused(errno.ESTALE):
        store.link(removed, root, "again")
    with refused(errno.ESTALE):
        store.getattr(closed)
    for handle in (removed, replaced, closed):
        store.closed(handle)
        store.keep()
        with refused(errno.ESTALE):
            store.getattr(handle)
    assert not store.unnamed()


def check_symlinks_are_not_followed(store: Store) -> None:
    """A symlink is an object of its own: it is neither the file nor the directory it names."""
    root = top(store)
    file = new(store, "f", b"data")
    folder(store, "d")
    for target in (b"f", b"d", b"/", b"..", b"/etc/passwd", b"l", b"nowhere"):
        handle = link(store, "l", target)
        for as_file in (
            lambda h: store.open(h, write=False),
            lambda h: store.read_source(h, 0, 1),
            lambda h: store.write_landing(h, 0, 1),
            lambda h: store.truncate(h, 0),
            lambda _: store.create(root, "l", 0o600, exclusive=False),
            store.record_get,
        ):
            with refused(errno.ELOOP):
                as_file(handle)
        for as_directory in (
            lambda h: store.lookup(h, "x"),
            lambda h: store.create(h, "x", 0o600, exclusive=True),
            lambda h: store.readdir(h, 0, 10),
            lambda h: store.symlink(h, "x", b"y"),
            lambda h: store.link(file, h, "x"),
        ):
            with refused(errno.ENOTDIR):
                as_directory(handle)
        store.unlink(root, "l")
        assert get(store, store.lookup(root, "f").handle) == b"data"


def check_symlink_attributes(store: Store) -> None:
    handle = link(store)
    with refused(errno.EOPNOTSUPP):
        store.setattr(Setattr(handle, mode=0o600))
    assert store.setattr(Setattr(handle, mtime_ns=5_000_000_001)).mtime_ns == 5_000_000_001
    before = store.getattr(handle)
    assert store.setattr(Setattr(handle, uid=before.uid, gid=before.gid)).uid == before.uid


def check_symlink_moves_and_goes(store: Store) -> None:
    root, directory = top(store), folder(store)
    handle = link(store)
    store.rename(root, "l", directory, "m")
    assert store.readlink(handle) == b"target"
    store.unlink(directory, "m")
    with refused(errno.ESTALE):
        store.readlink(handle)


def check_link(store: Store) -> None:
    root, directory = top(store), folder(store)
    file = new(store, "f", b"shared")
    before = store.getattr(file)
    made = store.link(file, directory, "g")
    assert made.handle == file
    assert (made.attr.nlink, made.attr.ino) == (2, before.ino)
    assert made.attr.change > before.change
    assert store.lookup(directory, "g").handle == file
    put(store, file, 0, b"SHARED")
    with refused(errno.EEXIST):
        store.link(file, directory, "g")
    with refused(errno.EPERM):
        store.link(directory, root, "dd")
    store.unlink(root, "f")
    assert store.getattr(file).nlink == 1
    assert get(store, file) == b"SHARED"
    store.link(file, root, "back")
    store.unlink(directory, "g")
    assert get(store, store.lookup(root, "back").handle) == b"SHARED"
    store.unlink(root, "back")
    with refused(errno.ESTALE):
        store.link(file, root, "again")


def check_links_of_symlinks(store: Store) -> None:
    root = top(store)
    handle = link(store, "l", b"nowhere")
    assert store.link(handle, root, "m").attr.type is FileType.SYMLINK
    store.unlink(root, "l")
    assert store.readlink(store.lookup(root, "m").handle) == b"nowhere"


def check_replacing_one_of_two_names(store: Store) -> None:
    root = top(store)
    file = new(store, "f", b"kept")
    store.link(file, root, "g")
    new(store, "h", b"new")
    store.rename(root, "h", root, "f")
    assert get(store, file) == b"kept"
    assert store.getattr(file).nlink == 1
    store.rename(root, "g", root, "g")
    store.link(file, root, "i")
    store.rename(root, "g", root, "i")  # two names of one file: nothing happens
    assert sorted(names(store, root)) == ["f", "g", "i"]


def check_hostile_names_of_links(store: Store) -> None:
    root, file = top(store), new(store, "x")
    for name, code in BAD_NAMES.items():
        with refused(code):
            store.symlink(root, name, b"t")
        with refused(code):
            store.link(file, root, name)
    assert names(store, root) == ["x"]


def check_new_calls_know_stale_handles(store: Store) -> None:
    file = new(store)
    for handle in STALE_HANDLES:
        for call in (
            lambda h: store.symlink(h, "x", b"t"),
            lambda h: store.link(h, top(store), "x"),
            lambda h: store.link(file, h, "x"),
            store.readlink,
            lambda h: store.allocate(h, 0, 1, keep_size=False),
            lambda h: store.punch(h, 0, 1),
            lambda h: store.seek(h, 0, Whence.DATA),
            lambda h: store.copy_range(h, 0, file, 0, 1),
            lambda h: store.copy_range(file, 0, h, 0, 1),
            lambda h: store.xattr_get(h, "user.a"),
            lambda h: store.xattr_set(h, "user.a", b"", EITHER),
            store.xattr_list,
            lambda h: store.xattr_remove(h, "user.a"),
            store.statfs,
        ):
            with refused(errno.ESTALE):
                call(handle)


# ---- rename's flags


def check_rename_noreplace(store: Store) -> None:
    root = top(store)
    one, two = new(store, "one"), new(store, "two")
    with refused(errno.EEXIST):
        store.rename(root, "one", root, "two", NOREPLACE)
    with refused(errno.EEXIST):
        store.rename(root, "one", root, "one", NOREPLACE)
    store.rename(root, "one", root, "three", NOREPLACE)
    assert store.lookup(root, "three").handle == one
    assert store.lookup(root, "two").handle == two
    with refused(errno.EINVAL):
        store.rename(root, "two", root, "three", NOREPLACE | EXCHANGE)


def check_rename_exchange(store: Store) -> None:
    root, directory = top(store), folder(store)
    one = new(store, "one", b"1")
    inner = folder(store, "inner", directory)
    below = new(store, "below", b"2", inner)
    with refused(errno.ENOENT):
        store.rename(root, "one", root, "nothing", EXCHANGE)
    with refused(errno.EINVAL):
        store.rename(root, "d", directory, "inner", EXCHANGE)
    with refused(errno.EINVAL):
        store.rename(directory, "inner", root, "d", EXCHANGE)
    store.rename(root, "one", directory, "inner", EXCHANGE)
    assert store.lookup(root, "one").handle == inner
    assert store.lookup(directory, "inner").handle == one
    assert get(store, one) == b"1"
    assert get(store, below) == b"2"
    assert get(store, store.lookup(inner, "below").handle) == b"2"
    assert store.getattr(directory).nlink == 2
    store.rename(root, "one", root, "one", EXCHANGE)
    assert store.lookup(root, "one").handle == inner


# ---- room


def check_allocate(store: Store) -> None:
    file = new(store, data=b"data")
    assert store.allocate(file, 0, MIB, keep_size=True).size == 4
    assert store.allocate(file, 2, 10, keep_size=False).size == 12
    assert get(store, file) == b"data" + bytes(8)
    assert store.allocate(file, 0, 5, keep_size=False).size == 12
    for pos, length, code in (
        (0, 0, errno.EINVAL),
        (-1, 5, errno.EINVAL),
        (0, -1, errno.EINVAL),
        (SIZE_MAX, 1, errno.EFBIG),
        (1, SIZE_MAX, errno.EFBIG),
    ):
        with refused(code):
            store.allocate(file, pos, length, keep_size=False)
        with refused(code):
            store.punch(file, pos, length)
    with refused(errno.EISDIR):
        store.allocate(top(store), 0, 1, keep_size=False)


def check_punch(store: Store) -> None:
    file = new(store)
    put(store, file, 0, b"x" * (4 * MIB))
    before = store.getattr(file).change
    after = store.punch(file, 100, 3 * MIB)
    assert after.size == 4 * MIB
    assert after.change > before
    assert get(store, file, 0, 200) == b"x" * 100 + bytes(100)
    assert get(store, file, MIB) == bytes(MIB)
    assert get(store, file, 3 * MIB + 90, 20) == bytes(10) + b"x" * 10
    store.punch(file, 4 * MIB - 5, 100)
    assert store.getattr(file).size == 4 * MIB
    assert get(store, file, 4 * MIB - 10) == b"x" * 5 + bytes(5)
    store.punch(file, 9 * MIB, 100)
    assert store.getattr(file).size == 4 * MIB


def check_punch_leaves_landings_alone(store: Store) -> None:
    file = new(store, data=b"x" * (2 * MIB))
    landing = store.write_landing(file, 10, 4)
    views = landing.iter.copy()
    copy_to_iter(b"new!", views)
    store.punch(file, 0, 2 * MIB)
    store.write(file, 10, landing, stable=False)
    assert get(store, file, 0, 20) == bytes(10) + b"new!" + bytes(6)


def check_seek(store: Store) -> None:
    file = new(store)
    for whence in Whence:
        with refused(errno.ENXIO):
            store.seek(file, 0, whence)
    put(store, file, 0, b"a" * MIB)
    store.truncate(file, 8 * MIB)
    put(store, file, 4 * MIB, b"b" * MIB)
    find = store.seek
    assert (find(file, 0, Whence.DATA), find(file, 10, Whence.DATA)) == (0, 10)
    assert (find(file, 0, Whence.HOLE), find(file, MIB, Whence.DATA)) == (MIB, 4 * MIB)
    assert (find(file, 2 * MIB, Whence.HOLE), find(file, 4 * MIB, Whence.HOLE)) == (2 * MIB, 5 * MIB)
    with refused(errno.ENXIO):
        find(file, 5 * MIB, Whence.DATA)
    assert find(file, 8 * MIB - 1, Whence.HOLE) == 8 * MIB - 1
    with refused(errno.ENXIO):
        find(file, 8 * MIB, Whence.HOLE)
    store.punch(file, 0, MIB)
    assert (find(file, 0, Whence.DATA), find(file, 0, Whence.HOLE)) == (4 * MIB, 0)
    put(store, file, 8 * MIB - 5, b"tail!")
    assert find(file, 8 * MIB - 2, Whence.HOLE) == 8 * MIB
    with refused(errno.EISDIR):
        find(top(store), 0, Whence.DATA)


def check_copy_range(store: Store) -> None:
    one, two = new(store, "one", bytes(range(256)) * 20_000), new(store, "two", b"keep")
    copied = 0
    while copied < 5_000_000:
        count = store.copy_range(one, copied, two, 3 + copied, 5_000_000 - copied)
        assert count > 0
        copied += count
    assert store.getattr(two).size == 5_000_003
    assert get(store, two, 0, 1000) == b"kee" + (bytes(range(256)) * 4)[:997]
    assert get(store, two, 5_000_003 - 10) == (bytes(range(256)) * 20_000)[4_999_990:5_000_000]
    assert store.copy_range(one, 5_119_990, two, 0, 100) == 10
    assert store.copy_range(one, 5_120_000, two, 0, 100) == 0
    assert store.copy_range(one, SIZE_MAX, two, 0, 100) == 0
    assert store.copy_range(one, 0, one, 256 * 30, 512) == 512
    with refused(errno.EINVAL):
        store.copy_range(one, 0, one, 100, 101)
    assert store.copy_range(one, 0, one, 101, 101) == 101
    with refused(errno.EFBIG):
        store.copy_range(one, 0, two, SIZE_MAX, 1)
    with refused(errno.EISDIR):
        store.copy_range(one, 0, top(store), 0, 1)


def check_write_from(store: Store) -> None:
    file = new(store, data=b"........")
    assert store.write_from(file, 2, source(b"abc"), stable=True) == 3
    assert store.write_from(file, 6, source(b"tail"), stable=False) == 4
    assert get(store, file) == b"..abc.tail"
    assert store.write_from(file, 0, source(b"aux"), stable=False, aux=True) == 3
    assert get(store, file, aux=True) == b"aux"
    with refused(errno.EFBIG):
        store.write_from(file, SIZE_MAX, source(b"x"), stable=False)


def check_setattr_size_and_now(store: Store) -> None:
    file = new(store, data=b"0123456789")
    assert store.setattr(Setattr(file, size=4)).size == 4
    assert get(store, file) == b"0123"
    both = store.setattr(Setattr(file, mode=0o600, size=6, mtime_ns=77))
    assert (both.mode, both.size, both.mtime_ns) == (0o600, 6, 77)
    store.setattr(Setattr(file, mtime_ns=NOW_NS))
    assert store.getattr(file).mtime_ns not in (77, NOW_NS)
    with refused(errno.EISDIR):
        store.setattr(Setattr(top(store), size=0))
    with refused(errno.EFBIG):
        store.setattr(Setattr(file, size=SIZE_MAX + 1))


def check_statfs(store: Store) -> None:
    found = store.statfs(top(store))
    assert found.block_size >= 512
    assert 0 < found.available <= found.free <= found.blocks
    assert 0 < found.files_free <= found.files or found.files == 0
    assert found.name_max == 255
    assert not found.read_only


# ---- extended attributes


def check_xattrs(store: Store) -> None:
    for handle in (new(store), folder(store)):
        assert store.xattr_list(handle) == []
        before = store.getattr(handle).change
        assert store.xattr_set(handle, "user.b", b"\0value\xff", EITHER).change > before
        store.xattr_set(handle, "user.a", b"", CREATE)
        assert store.xattr_list(handle) == ["user.a", "user.b"]
        assert (store.xattr_get(handle, "user.a"), store.xattr_get(handle, "user.b")) == (b"", b"\0value\xff")
        store.xattr_set(handle, "user.a", b"again", REPLACE)
        assert store.xattr_get(handle, "user.a") == b"again"
        with refused(errno.EEXIST):
            store.xattr_set(handle, "user.a", b"", CREATE)
        with refused(errno.ENODATA):
            store.xattr_set(handle, "user.c", b"", REPLACE)
        changed = store.getattr(handle).change
        assert store.xattr_remove(handle, "user.a").change > changed
        for call in (store.xattr_get, store.xattr_remove):
            with refused(errno.ENODATA):
                call(handle, "user.a")


def check_xattr_names(store: Store) -> None:
    file = new(store)
    for name, code in {
        "": errno.ERANGE,
        "user.": errno.EINVAL,
        "plain": errno.EOPNOTSUPP,
        "trusted.a": errno.EOPNOTSUPP,
        "security.capability": errno.EOPNOTSUPP,
        "system.posix_acl_access": errno.EOPNOTSUPP,
        "user." + "x" * 251: errno.ERANGE,
    }.items():
        with refused(code):
            store.xattr_set(file, name, b"x", EITHER)
        with refused(code):
            store.xattr_get(file, name)
        with refused(code):
            store.xattr_remove(file, name)
    with refused(errno.E2BIG):
        store.xattr_set(file, "user.big", bytes(XATTR_MAX + 1), EITHER)
    longest = "user." + "x" * 250
    store.xattr_set(file, longest, b"x", EITHER)
    odd = "user.caf\udce9 é"
    store.xattr_set(file, odd, b"y", EITHER)
    assert store.xattr_list(file) == sorted([longest, odd])
    assert store.xattr_get(file, odd) == b"y"


def check_xattrs_of_our_own_are_hidden(store: Store) -> None:
    file = new(store)
    with refused(errno.EPERM):
        store.xattr_set(file, "user.netfs.id", b"12345678", EITHER)
    with refused(errno.ENODATA):
        store.xattr_get(file, "user.netfs.id")
    with refused(errno.EPERM):
        store.xattr_remove(file, "user.netfs.id")
    assert store.xattr_list(file) == []


def check_xattrs_of_symlinks(store: Store) -> None:
    handle = link(store)
    with refused(errno.EPERM):
        store.xattr_set(handle, "user.a", b"x", EITHER)
    with refused(errno.ENODATA):
        store.xattr_get(handle, "user.a")
    assert store.xattr_list(handle) == []
