"""What a server finds out after it was killed in the middle of a request: at every place between the two notes."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from iov.probe import Probe
from servers.once import Doubt, Names, Running, look, settle
from servers.sessions import Kept
from servers.state import SLOT_BYTES, ServerState
from servers.stores.memory import MemoryStore
from transport.base import Reply
from transport.messages import (
    Ack,
    Compound,
    CompoundStep,
    Create,
    EntryReply,
    Handle,
    Link,
    Mkdir,
    Rename,
    RenameFlag,
    Request,
    Rmdir,
    Sequenced,
    SequencedReply,
    Setattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
    XattrMode,
    XattrRemove,
    XattrSet,
)

NAME = b"n" * 16
Change = Callable[[MemoryStore, Handle, Handle], tuple[Request, Callable[[], object]]]


def world() -> tuple[MemoryStore, Handle, Handle]:
    store = MemoryStore(Probe())
    root = store.root().handle
    file = store.create(root, "old", 0o644, exclusive=True).handle
    store.mkdir(root, "dir", 0o755)
    store.xattr_set(file, "user.a", b"1", XattrMode.EITHER)
    return store, root, file


CHANGES: dict[str, Change] = {
    "create": lambda s, r, _: (Create(r, "n", exclusive=True), lambda: s.create(r, "n", 0o644, exclusive=True)),
    "mkdir": lambda s, r, _: (Mkdir(r, "n"), lambda: s.mkdir(r, "n", 0o755)),
    "symlink": lambda s, r, _: (Symlink(r, "n", b"t"), lambda: s.symlink(r, "n", b"t")),
    "link": lambda s, r, f: (Link(f, r, "n"), lambda: s.link(f, r, "n")),
    "unlink": lambda s, r, _: (Unlink(r, "old"), lambda: s.unlink(r, "old")),
    "rmdir": lambda s, r, _: (Rmdir(r, "dir"), lambda: s.rmdir(r, "dir")),
    "rename": lambda s, r, _: (Rename(r, "old", r, "new"), lambda: s.rename(r, "old", r, "new")),
    "exchange": lambda s, r, _: (
        Rename(r, "old", r, "dir", RenameFlag.EXCHANGE),
        lambda: s.rename(r, "old", r, "dir", RenameFlag.EXCHANGE),
    ),
    "truncate": lambda s, _, f: (Truncate(f, 9), lambda: s.truncate(f, 9)),
    "setattr": lambda s, _, f: (Setattr(f, mode=0o600), lambda: s.setattr(Setattr(f, mode=0o600))),
    "xattr": lambda s, _, f: (
        XattrSet(f, "user.b", b"2", XattrMode.CREATE),
        lambda: s.xattr_set(f, "user.b", b"2", XattrMode.CREATE),
    ),
    "no xattr": lambda s, _, f: (XattrRemove(f, "user.a"), lambda: s.xattr_remove(f, "user.a")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_done_or_not_done(name: str) -> None:
    store, root, file = world()
    request, do = CHANGES[name](store, root, file)
    doubt = Doubt(request, look(store, request))
    assert settle(store, doubt) is None, "not done yet"
    do()
    answer = settle(store, doubt)
    assert answer is not None and answer.status == 0
    assert isinstance(answer.body, SequencedReply) and answer.body.of is request.op


def test_what_would_have_failed_fails_again() -> None:
    store, root, file = world()
    requests: list[Request] = [Create(root, "old", exclusive=True), Unlink(root, "nothing"), Rename(root, "nothing", root, "new"),
                               XattrRemove(file, "user.b"), Rename(root, "old", root, "old")]  # fmt: skip
    for request in requests:
        assert settle(store, Doubt(request, look(store, request))) is None


def test_the_steps_of_a_compound_are_told_apart() -> None:
    store, root, _ = world()
    request = Compound([CompoundStep(Mkdir(root, "d")), CompoundStep(Create(Handle(b"\0"), "f", exclusive=True)),
                        CompoundStep(Unlink(root, "old"))])  # fmt: skip
    doubt = Doubt(request, look(store, request))
    folder = store.mkdir(root, "d", 0o755).handle
    store.create(folder, "f", 0o644, exclusive=True)
    assert settle(store, doubt) is None
    assert sorted(doubt.done) == [0, 1]
    assert isinstance(doubt.done[1], EntryReply)


# ---- notes on a disk


def kept_by(home: Path, boot: str = "boot") -> Kept:
    state = ServerState(home, boot)
    (kept,) = state.load()
    return kept


def noted(home: Path, notes: Sequence[Callable[["ServerState"], object]]) -> None:
    """Keep one session with two slots, make notes in it, and end without a word, as a killed server does."""
    home.mkdir()
    state = ServerState(home, "boot")
    state.add(NAME, "somebody", 2)
    for note in notes:
        note(state)
    state._db.close()


def test_a_kill_at_each_place(tmp_path: Path) -> None:
    store, root, _ = world()
    request = Create(root, "n", exclusive=True)
    answer = Reply(0, SequencedReply(request.op, store.lookup(root, "old")))
    steps: list[Callable[[ServerState], object]] = [
        lambda state: state.find(NAME).intend(1, 1, request, look(store, request)),
        lambda state: state.find(NAME).answer(1, 1, Reply(errno.EEXIST)),
        lambda state: state.find(NAME).intend(1, 5, request, [b""]),
        lambda state: state.find(NAME).answer(1, 5, answer),
    ]
    expected: list[tuple[int, object]] = [
        (0, None), (1, Doubt(request, [b""])), (1, Reply(errno.EEXIST)), (5, Doubt(request, [b""])), (5, answer),
    ]  # fmt: skip
    for count, wanted in enumerate(expected):
        noted(tmp_path / str(count), steps[:count])
        kept = kept_by(tmp_path / str(count))
        assert (kept.name, kept.principal) == (NAME, "somebody")
        assert kept.slots[0] == (0, None)
        assert kept.slots[1] == wanted


@pytest.mark.parametrize("torn", range(0, 60, 3))
def test_a_note_torn_by_the_kill_says_that_nothing_had_begun(tmp_path: Path, torn: int) -> None:
    _, root, _ = world()
    noted(tmp_path / "h", [lambda state: state.find(NAME).intend(1, 3, Unlink(root, "a"), [b"x" * 24])])
    path = tmp_path / "h" / "slots" / NAME.hex()
    content = bytearray(path.read_bytes())
    content[SLOT_BYTES + torn] ^= 0x55
    path.write_bytes(content)
    _, found = kept_by(tmp_path / "h").slots[1]
    assert not isinstance(found, Reply)
    assert found is None or found == Doubt(Unlink(root, "a"), [b"x" * 24])


def test_long_notes_are_kept_too(tmp_path: Path) -> None:
    _, root, _ = world()
    request = Compound([CompoundStep(Unlink(root, f"{n:0200}")) for n in range(60)])
    before = [b"h" * 24] * 60
    noted(tmp_path / "h", [lambda state: state.find(NAME).intend(0, 1, request, before)])
    assert kept_by(tmp_path / "h").slots[0] == (1, Doubt(request, before))


def test_another_boot_of_the_machine_forgets_unless_the_stop_was_in_order(tmp_path: Path) -> None:
    noted(tmp_path / "h", [])
    assert ServerState(tmp_path / "h", "another boot").load() == []
    assert list((tmp_path / "h" / "slots").iterdir()) == []
    noted(tmp_path / "i", [])
    state = ServerState(tmp_path / "i", "boot")
    state.load()
    state.close()
    assert len(ServerState(tmp_path / "i", "another boot").load()) == 1


def test_without_a_name_for_the_boot_nothing_outlives_a_kill(tmp_path: Path) -> None:
    noted(tmp_path / "h", [])
    assert ServerState(tmp_path / "h", "").load() == []


def test_a_damaged_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(OSError) as caught:
        ServerState(tmp_path, "boot")
    assert caught.value.errno == errno.EIO and "damaged" in str(caught.value)


def test_places(tmp_path: Path) -> None:
    state = ServerState(tmp_path, "boot")
    state.remember_places([(Handle(b"one"), Handle(b"root"), b"a"), (Handle(b"two"), Handle(b"one"), b"\xff")])
    state.remember_places([(Handle(b"one"), Handle(b"root"), b"b")])
    state.close()
    state = ServerState(tmp_path, "boot")
    assert state.place(Handle(b"one")) == (b"root", b"b")
    assert state.place(Handle(b"two")) == (b"one", b"\xff")
    state.forget_places([Handle(b"one")])
    assert state.place(Handle(b"one")) is None
    state.close()


# ---- doing it


def test_only_the_wanted_names_are_held() -> None:
    names = Names()
    with names.held([b"b", b"a", b"a"]), names.held([b"c"]):
        assert sorted(names._table) == [b"a", b"b", b"c"]
    assert names._table == {}


def test_notes_come_before_and_after() -> None:
    store, root, _ = world()
    told: list[str] = []

    class Told:
        def intend(self, slot: int, seq: int, request: Request, before: Sequence[bytes]) -> None:
            told.append("intend")

        def answer(self, slot: int, seq: int, reply: Reply) -> None:
            told.append("answer")

    def work() -> Reply:
        told.append("work")
        return Reply(0, Ack())

    running = Running(Sequenced(0, 1, Unlink(root, "old")), store, Names(), Told(), None)
    assert running(work) == Reply(0, SequencedReply(Unlink.op, Ack()))
    assert told == ["intend", "work", "answer"]


@pytest.mark.parametrize("behind", [True, False])
def test_times_set_behind_a_write_that_will_be_done_again_are_set_again(behind: bool) -> None:
    store, _, file = world()
    change = Setattr(file, mtime_ns=7)
    store.setattr(change)
    steps = [CompoundStep(Write(file, 0, stable=True), 5), CompoundStep(change)]
    doubt = Doubt(Compound(steps if behind else steps[::-1]), [])
    assert settle(store, doubt) is None
    assert list(doubt.done) == ([] if behind else [0])
