"""What transactions may change besides records: names, blobs, data; and write intents. All or nothing, in every store."""

import errno

from iov.copy_iter import copy_to_iter
from servers.stores.base import Store
from tests.conformance.store_words import folder, get, names, new, refused, source, top
from transport.messages import NO_HANDLE, FileType, Handle, IntentRow, Step, StepKind

K = StepKind


def create(parent: Handle, name: str, kind: FileType = FileType.FILE, mode: int = 0o640) -> Step:
    return Step(K.CREATE, parent, mode, kind, name=name)


def record(handle: Handle, content: bytes) -> Step:
    return Step(K.RECORD_PUT, handle, record=content)


def rows(store: Store, handle: Handle, session: int = 0) -> list[IntentRow]:
    return store.intents.rows(handle, session)


def check_a_directory_has_a_record(store: Store) -> None:
    inner = folder(store)
    for directory in (top(store), inner):
        assert store.record_get(directory) == (b"", 0)
        assert store.transact([(directory, 0)], 0, [record(directory, b"dir")], None) == [1]
        assert store.record_get(directory) == (b"dir", 1)
        assert not store.getattr(directory).sealed
    found = store.lookup(top(store), "d")
    assert (found.record, found.generation, found.certificate) == (b"dir", 1, b"")
    for step in (Step(K.AUX_TRUNCATE, inner, 0), Step(K.TRUNCATE, inner, 0), Step(K.INTENT_PUT, inner, 0, 1)):
        with refused(errno.EISDIR):
            store.transact([], 0, [step], None)


def check_transact_creates(store: Store) -> None:
    parent = folder(store, "parent")
    store.transact([(parent, 0)], 0, [record(parent, b"p")], None)
    steps = [
        create(parent, "file"),
        Step(K.WRITE, NO_HANDLE, 3, 4),
        Step(K.AUX_WRITE, NO_HANDLE, 0, 3),
        record(NO_HANDLE, b"r"),
        Step(K.BLOB_PUT, NO_HANDLE, 0, record=b"certificate"),
        create(top(store), "sub", FileType.DIRECTORY, 0o750),
        record(NO_HANDLE, b"d"),
        record(parent, b"p2"),
    ]
    done = store.apply([(parent, 1)], 0, steps, source(b"dataaux"), 0)
    assert done.generations == [2]
    file, sub = done.made
    assert (file.record, file.generation, file.certificate) == (b"r", 1, b"certificate")
    assert (sub.record, sub.generation, sub.attr.type, sub.attr.mode) == (b"d", 1, FileType.DIRECTORY, 0o750)
    assert (file.attr.type, file.attr.mode, file.attr.size, file.attr.sealed) == (FileType.FILE, 0o640, 7, True)
    assert get(store, file.handle) == bytes(3) + b"data"
    assert get(store, file.handle, aux=True) == b"aux"
    found = store.lookup(parent, "file")
    assert (found.handle, found.record, found.certificate) == (file.handle, b"r", b"certificate")
    (listed,) = store.readdir(parent, 0, 10)[0]
    assert (listed.name, listed.handle, listed.record, listed.certificate) == ("file", file.handle, b"r", b"certificate")
    assert store.lookup(top(store), "sub").handle == sub.handle
    assert names(store, sub.handle) == []


def check_transact_removes_and_moves(store: Store) -> None:
    one, two = folder(store, "one"), folder(store, "two")
    a, b = new(store, "a", b"A", one), new(store, "b", b"B", two)
    inner = folder(store, "inner", one)
    store.transact([], 0, [record(b, b"old"), Step(K.BLOB_PUT, b, 1, record=b"x"), record(inner, b"i")], None)
    store.transact([], 0, [Step(K.MOVE, one, name="a", other=two, new_name="b"), record(a, b"moved")], None)
    assert (names(store, one), names(store, two)) == (["inner"], ["b"])
    assert store.lookup(two, "b").handle == a
    assert (get(store, a), store.record_get(a)) == (b"A", (b"moved", 1))
    with refused(errno.ESTALE):
        store.record_get(b)
    store.transact([], 0, [Step(K.MOVE, one, name="inner", other=two, new_name="outer")], None)
    assert store.lookup(two, "outer").handle == inner
    assert store.record_get(inner) == (b"i", 1)
    c = new(store, "c", b"C", inner)
    with refused(errno.ESTALE):
        store.transact([], 0, [Step(K.REMOVE, inner, name="c", other=a)], None)
    store.transact([], 0, [Step(K.REMOVE, inner, name="c", other=c), record(inner, b"i2")], None)
    store.transact([], 0, [Step(K.REMOVE, two, name="outer", other=inner)], None)
    assert names(store, two) == ["b"]
    again = folder(store, "outer", two)
    assert store.record_get(again) == (b"", 0)


def check_names_of_a_transact_are_refused_as_a_whole(store: Store) -> None:
    one, two = folder(store, "one"), folder(store, "two")
    file, inner = new(store, "f", b"F", one), folder(store, "in", one)
    new(store, "deep", b"", inner)
    store.transact([], 0, [record(one, b"r")], None)
    first = [create(two, "made"), record(one, b"r2"), Step(K.BLOB_PUT, file, 0, record=b"b"), Step(K.INTENT_PUT, file, 0, 9)]
    cases: list[tuple[int, Step]] = [
        (errno.EEXIST, create(one, "f")),
        (errno.EEXIST, create(one, "in", FileType.DIRECTORY)),
        (errno.EINVAL, create(one, "x", FileType.SYMLINK)),
        (errno.EINVAL, create(one, "a/b")),
        (errno.EINVAL, create(two, "made")),
        (errno.EINVAL, Step(K.MOVE, one, name="f", other=two, new_name="made")),
        (errno.ENOTDIR, create(file, "x")),
        (errno.ENOENT, Step(K.REMOVE, one, name="no")),
        (errno.ESTALE, Step(K.REMOVE, one, name="f", other=inner)),
        (errno.ENOTEMPTY, Step(K.REMOVE, one, name="in")),
        (errno.ENOENT, Step(K.MOVE, one, name="no", other=two, new_name="x")),
        (errno.EISDIR, Step(K.MOVE, one, name="f", other=one, new_name="in")),
        (errno.ENOTDIR, Step(K.MOVE, one, name="in", other=one, new_name="f")),
        (errno.EINVAL, Step(K.MOVE, one, name="in", other=inner, new_name="x")),
        (errno.EINVAL, Step(K.BLOB_PUT, file, 2, record=b"b")),
        (errno.EINVAL, Step(K.INTENT_DROP, file, 77)),
        (errno.EINVAL, Step(K.CREATE, NO_HANDLE, 0o600, FileType.FILE, name="x")),
        (errno.ESTALE, record(Handle(b"nonsense"), b"r")),
    ]
    for code, step in cases:
        with refused(code):
            store.apply([(one, 1)], 0, [*first, step], None, 1)
    with refused(errno.EAGAIN):
        store.apply([(one, 2)], 0, first, None, 1)
    with refused(errno.EINVAL):
        store.apply([], 0, [record(NO_HANDLE, b"of what?")], None, 1)
    assert (sorted(names(store, one)), names(store, two)) == (["f", "in"], [])
    assert (store.record_get(one), store.blob_get(file, 0), rows(store, file)) == ((b"r", 1), b"", [])
    store.apply([(one, 1)], 0, first, None, 1)
    assert (names(store, two), store.record_get(one), store.blob_get(file, 0)) == (["made"], (b"r2", 2), b"b")


def check_blobs(store: Store) -> None:
    file = new(store)
    assert [store.blob_get(file, slot) for slot in (0, 1)] == [b"", b""]
    store.transact([], 0, [Step(K.BLOB_PUT, file, 0, record=b"zero"), Step(K.BLOB_PUT, file, 1, record=b"one" * 999)], None)
    assert [store.blob_get(file, slot) for slot in (0, 1)] == [b"zero", b"one" * 999]
    store.transact([], 0, [Step(K.BLOB_PUT, file, 1)], None)
    assert [store.blob_get(file, slot) for slot in (0, 1)] == [b"zero", b""]
    for slot in (2, 99):
        with refused(errno.EINVAL):
            store.blob_get(file, slot)


def check_transact_writes_data(store: Store) -> None:
    file = new(store, data=b"0123456789")
    steps = [Step(K.WRITE, file, 8, 4), Step(K.WRITE, file, 2, 1), record(file, b"r")]
    before = store.getattr(file).change
    store.transact([], 0, steps, source(b"WXYZ-"))
    assert get(store, file) == b"01-34567WXYZ"
    assert store.getattr(file).change > before
    with refused(errno.EINVAL):
        store.transact([], 0, steps, source(b"WXYZ"))


def check_intents_are_exclusive(store: Store) -> None:
    file, other = new(store, "file"), new(store, "other")
    mine, yours = store.intents.new_session(), store.intents.new_session()
    (key,) = store.apply([], 0, [Step(K.INTENT_PUT, file, 100, 50, b"note")], None, mine).intents
    assert rows(store, file, mine) == [IntentRow(key, 100, 50, True, True, b"note")]
    assert rows(store, file, yours) == [IntentRow(key, 100, 50, True, False, b"note")]
    for pos, length, free in ((0, 100, True), (0, 101, False), (149, 1, False), (150, 9, True), (120, 5, False), (0, 999, False)):
        assert store.intents.may_write(file, pos, length, yours) == free
        assert store.intents.may_write(file, pos, length, mine)
        covered = pos >= 100 and pos + length <= 150
        assert store.intents.may_write(file, pos, length, mine, key) == covered, "it names an intent that it has, for its range"
        assert not store.intents.may_write(file, pos, length, yours, key), "it names another session's"
        assert not store.intents.may_write(file, pos, length, mine, key - 1), "it names one that nobody has"
        assert not store.intents.may_write(other, pos, length, mine, key), "it names one of another file"
        assert store.intents.may_write(other, pos, length, yours)
        if not free:
            with refused(errno.EAGAIN):
                store.apply([], 0, [Step(K.INTENT_PUT, file, pos, length), record(file, b"r")], None, yours)
    assert store.record_get(file) == (b"", 0)
    with refused(errno.EINVAL):
        store.apply([], 0, [Step(K.INTENT_DROP, file, key)], None, yours)
    (twice,) = store.apply([], 0, [Step(K.INTENT_PUT, file, 100, 50)], None, mine).intents
    drops = [Step(K.INTENT_DROP, file, key), Step(K.INTENT_DROP, file, twice)]
    store.apply([], 0, [*drops, record(file, b"r")], None, mine)
    assert rows(store, file) == []
    assert store.intents.may_write(file, 0, 999, yours)


def check_an_intent_that_comes_with_a_write(store: Store) -> None:
    file = new(store)
    mine, yours = store.intents.new_session(), store.intents.new_session()
    left, right = store.apply([], 0, [Step(K.INTENT_PUT, file, pos, 50) for pos in (0, 50)], None, mine).intents
    key = store.put_intent(file, 40, 20, mine, left, b"word")
    assert key not in (left, right)
    assert rows(store, file, yours)[-1] == IntentRow(key, 40, 20, True, False, b"word")
    for pos, session, under in ((90, mine, left), (0, yours, left), (0, yours, 0), (0, mine, 7), (150, mine, left)):
        with refused(errno.EAGAIN):
            store.put_intent(file, pos, 20, session, under, b"word")
    with refused(errno.EFBIG):
        store.put_intent(file, 0, 20, mine, left, b"w" * 65537)
    with refused(errno.EISDIR):
        store.put_intent(top(store), 0, 20, mine, 0, b"word")
    store.apply([], 0, [Step(K.INTENT_DROP, file, left)], None, mine)
    with refused(errno.EAGAIN):
        store.put_intent(file, 30, 20, mine, key, b"word")  # its left half is nobody's
    store.put_intent(file, 45, 50, mine, right, b"more")  # of two intents, none of which has all of it
    store.intents.end_session(mine)
    assert [(row.pos, row.live, row.record) for row in rows(store, file)] == [(40, False, b"word"), (45, False, b"more")]
    for pos in range(100, 100 + 1022):
        store.put_intent(file, pos, 1, yours, 0, b"w")
    with refused(errno.ENOLCK):
        store.put_intent(file, 0, 1, yours, 0, b"w")
    store.unlink(top(store), "f")
    with refused(errno.ESTALE):
        store.put_intent(file, 100, 20, yours, 0, b"word")


def check_a_landing_apart(store: Store) -> None:
    """Until it is written the file is as it was, also while the payload is coming."""
    file = new(store, data=b"old content")
    for done in (False, True):
        landing = store.write_landing(file, 0, 3, apart=True)
        assert copy_to_iter(b"new", landing.iter.copy()) == 3
        assert get(store, file) == b"old content"
        if done:
            assert store.write(file, 0, landing, stable=False) == 3
            assert get(store, file) == b"new content"
        elif landing.release is not None:
            landing.release()


def check_intents_end_with_their_session(store: Store) -> None:
    file = new(store)
    mine, yours = store.intents.new_session(), store.intents.new_session()
    steps = [Step(K.INTENT_PUT, file, 0, 10), Step(K.INTENT_PUT, file, 20, 10, b"word")]
    _, key = store.apply([], 0, steps, None, mine).intents
    store.intents.end_session(mine)
    assert rows(store, file, mine) == [IntentRow(key, 20, 10, False, False, b"word")]
    assert store.intents.may_write(file, 0, 10, yours)
    assert not store.intents.may_write(file, 20, 1, yours)
    put = Step(K.INTENT_PUT, file, 15, 10)
    with refused(errno.EAGAIN):
        store.apply([], 0, [put], None, yours)
    store.apply([], 0, [Step(K.INTENT_DROP, file, key), put], None, yours)
    assert [(row.pos, row.live) for row in rows(store, file)] == [(15, True)]
    store.unlink(top(store), "f")
    assert rows(store, file) == []


def check_intent_on_what_is_made(store: Store) -> None:
    session = store.intents.new_session()
    steps = [
        create(top(store), "a"),
        Step(K.INTENT_PUT, NO_HANDLE, 0, 9),
        create(top(store), "b"),
        Step(K.INTENT_PUT, NO_HANDLE, 5, 9),
    ]
    done = store.apply([], 0, steps, None, session)
    assert len(done.intents) == 2
    assert [rows(store, entry.handle)[0].pos for entry in done.made] == [0, 5]
    many = [Step(K.INTENT_PUT, done.made[0].handle, 0, 1) for _ in range(1024)]
    with refused(errno.ENOLCK):
        store.apply([], 0, many, None, session)
