"""What every store must do with names, aux streams, records and transactions; each check takes a fresh store."""

import errno

from iov.extract import extract_segments
from servers.stores.base import RECORD_MAX, SIZE_MAX, Store
from tests.conformance.store_words import MIB, folder, get, names, new, put, refused, source, top
from transport.messages import FileType, Handle, Step, StepKind

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


def check_who_has_a_name(store: Store) -> None:
    root = top(store)
    sub = folder(store, "d")
    file = new(store, "f", parent=sub)
    assert store.who(root, "d") == sub and store.who(sub, "f") == file
    assert store.who(root, "f") is None and store.who(root, ".netfs") is None
    store.rename(sub, "f", root, "f")
    assert store.who(sub, "f") is None and store.who(root, "f") == file
    with refused(errno.ENOTDIR):
        store.who(file, "x")
    with refused(errno.EINVAL):
        store.who(root, "a/b")
    store.rmdir(root, "d")
    with refused(errno.ESTALE):
        store.who(sub, "f")


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
    assert not store.getattr(file).sealed
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
    seen = (store.getattr(file), store.open(file, write=False), store.lookup(top(store), entries[0].name).attr, entries[0].attr)
    assert all(attr.sealed for attr in seen)
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
    assert get(store, file, 0, MIB) == b"z" * MIB
