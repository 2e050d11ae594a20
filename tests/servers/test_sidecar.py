"""`.netfs/`: what is kept beside the files, who may see it, and what a crash in the middle of a transaction leaves."""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from iov.probe import Field, Probe
from servers.dispatch import Dispatcher
from servers.stores.directory import DirectoryStore
from servers.stores.journal import write_all
from tests.conformance.store_words import folder, get, names, new, put, refused, source, top
from transport.base import Landing, Reply
from transport.env import system_env
from transport.messages import Handle, Setattr, Step, StepKind, Write

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


# ---- .netfs


def test_sidecar_cannot_be_named(home: Path, store: DirectoryStore) -> None:
    root, file = top(store), new(store)
    assert (home / ".netfs").is_dir()
    assert names(store, root) == ["f"]
    for code, call in (
        (errno.ENOENT, lambda: store.lookup(root, ".netfs")),
        (errno.ENOENT, lambda: store.unlink(root, ".netfs")),
        (errno.ENOENT, lambda: store.rmdir(root, ".netfs")),
        (errno.ENOENT, lambda: store.rename(root, ".netfs", root, "x")),
        (errno.EACCES, lambda: store.rename(root, "f", root, ".netfs")),
        (errno.EACCES, lambda: store.mkdir(root, ".netfs", 0o700)),
        (errno.EACCES, lambda: store.create(root, ".netfs", 0o600, exclusive=False)),
    ):
        with refused(code):
            call()
    assert store.lookup(root, "f").handle == file
    inner = folder(store)
    new(store, ".netfs", b"a name like another here", inner)
    assert names(store, inner) == [".netfs"]


def test_nothing_is_left_beside_a_removed_file(home: Path, store: DirectoryStore) -> None:
    file = new(store)
    store.transact([], 0, [Step(StepKind.AUX_WRITE, file, 0, 3), Step(StepKind.RECORD_PUT, file, record=b"r")], source(b"aux"))
    kept = [home / ".netfs" / kind / file.hex() for kind in ("aux", "records")]
    assert all(path.exists() for path in kept)
    store.unlink(top(store), "f")
    assert not any(path.exists() for path in kept)


def test_one_server_at_a_time(home: Path, store: DirectoryStore) -> None:
    assert store.verifier
    before = open_descriptors()
    with refused(errno.EBUSY):
        DirectoryStore(home, Probe())
    assert open_descriptors() == before


def test_each_boot_has_its_verifier_and_keeps_the_records(home: Path) -> None:
    seen = []
    for boot in range(3):
        store = DirectoryStore(home, Probe())
        seen.append(store.verifier)
        file = store.create(top(store), "f", 0o600, exclusive=False).handle
        assert store.record_get(file)[1] == boot
        store.transact([(file, boot)], 0, [Step(StepKind.RECORD_PUT, file, record=b"r")], None)
        store.close()
    assert len(set(seen)) == 3


def test_read_only(home: Path) -> None:
    (home / "f").write_text("data")
    untouched = DirectoryStore(home, Probe(), read_only=True)
    assert not (home / ".netfs").exists()
    assert get(untouched, untouched.lookup(top(untouched), "f").handle, aux=True) == b""
    untouched.close()
    writer = DirectoryStore(home, Probe())
    file = writer.lookup(top(writer), "f").handle
    writer.transact([], 0, [Step(StepKind.AUX_WRITE, file, 0, 3), Step(StepKind.RECORD_PUT, file, record=b"r")], source(b"aux"))
    writer.close()
    store = DirectoryStore(home, Probe(), read_only=True)
    root, file = top(store), store.lookup(top(store), "f").handle
    assert (get(store, file), get(store, file, aux=True), store.record_get(file)) == (b"data", b"aux", (b"r", 1))
    store.open(file, write=False)
    store.commit(file)
    for call in (
        lambda: store.open(file, write=True),
        lambda: store.create(root, "g", 0o600, exclusive=False),
        lambda: store.mkdir(root, "d", 0o700),
        lambda: store.unlink(root, "f"),
        lambda: store.rmdir(root, "f"),
        lambda: store.rename(root, "f", root, "g"),
        lambda: store.truncate(file, 0),
        lambda: store.write_landing(file, 0, 1),
        lambda: store.setattr(Setattr(file, mode=0)),
        lambda: store.transact([(file, 1)], 0, [], None),
    ):
        with refused(errno.EROFS):
            call()
    store.close()


def test_missing_and_wrong_folders(home: Path) -> None:
    before = open_descriptors()
    with refused(errno.ENOENT):
        DirectoryStore(home / "missing", Probe())
    (home / "file").touch()
    with refused(errno.ENOTDIR):
        DirectoryStore(home / "file", Probe())
    (home / ".netfs").symlink_to("/tmp")
    with refused(errno.ENOTDIR):
        DirectoryStore(home, Probe())
    assert open_descriptors() == before


# ---- crashes


class Crash(BaseException):
    """The process ends here."""


class CrashAt:
    """A probe sink that ends the process at the n-th step of a transaction."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, event: str, fields: tuple[Field, ...]) -> None:
        assert event == "transact" and fields
        if not self.left:
            raise Crash
        self.left -= 1


def die(store: DirectoryStore) -> None:
    """Lose everything but the files, as a kill does."""
    store.close()


def steps(file: Handle, other: Handle) -> list[Step]:
    return [
        Step(StepKind.AUX_WRITE, file, 5, 6),
        Step(StepKind.AUX_TRUNCATE, file, 9),
        Step(StepKind.TRUNCATE, file, 4),
        Step(StepKind.RECORD_PUT, file, record=b"new"),
        Step(StepKind.RECORD_PUT, other, record=b"other"),
    ]


@pytest.mark.parametrize("at", range(8))
def test_crash_between_journal_and_apply(home: Path, at: int) -> None:
    store = DirectoryStore(home, Probe())
    inner = folder(store)
    file, other = new(store, "f", b"datadata", inner), new(store, "other")
    put(store, file, 0, b"old aux", aux=True)
    store.transact([(file, 0)], 0, [Step(StepKind.RECORD_PUT, file, record=b"old")], None)
    store._probe.sink = CrashAt(at)
    crashed = False
    try:
        store.transact([(file, 1)], 0, steps(file, other), source(b"newaux"))
    except Crash:
        crashed = True
    assert crashed == (at < 7)
    die(store)
    for _ in range(2):  # replaying twice is replaying once
        again = DirectoryStore(home, Probe())
        found = again.lookup(again.lookup(top(again), "d").handle, "f").handle
        assert found == file
        assert get(again, file, aux=True) == b"old anewa"
        assert get(again, file) == b"data"
        assert again.record_get(file) == (b"new", 2)
        assert again.record_get(again.lookup(top(again), "other").handle) == (b"other", 1)
        again.close()


@pytest.mark.parametrize("kept", [0, 1, 23, 24, 25, 60, 100])
def test_journal_torn_while_written_says_nothing_had_begun(home: Path, kept: int) -> None:
    store = DirectoryStore(home, Probe())
    file = new(store, data=b"datadata")
    other = new(store, "other")
    store._probe.sink = CrashAt(0)
    with pytest.raises(Crash):
        store.transact([(file, 0)], 0, steps(file, other), source(b"newaux"))
    die(store)
    journal = home / ".netfs" / "journal"
    written = journal.read_bytes()
    assert len(written) > 100
    journal.write_bytes(written[:kept] + bytes(len(written) - kept))
    again = DirectoryStore(home, Probe())
    found = again.lookup(top(again), "f").handle
    assert (get(again, found, aux=True), get(again, found), again.record_get(found)) == (b"", b"datadata", (b"", 0))
    again.close()


def rows(store: DirectoryStore, file: Handle) -> list[tuple[int, bytes]]:
    return [(row.pos, row.record) for row in store.intents.rows(file, 0)]


@pytest.mark.parametrize("torn", [1, 99, 100, 119])
def test_an_intent_that_was_being_added_when_the_power_went_is_none(home: Path, torn: int) -> None:
    store = DirectoryStore(home, Probe())
    file, session = new(store), store.intents.new_session()
    for pos in (0, 10):
        (key,) = store.apply([], 0, [Step(StepKind.INTENT_PUT, file, pos, 10, b"r" * 100)], None, session).intents
    die(store)
    (kept,) = (home / ".netfs" / "intents").iterdir()
    content = kept.read_bytes()
    kept.write_bytes(content[:-torn])
    again = DirectoryStore(home, Probe())
    file = again.lookup(top(again), "f").handle
    assert rows(again, file) == [(0, b"r" * 100)]
    again.apply([], 0, [Step(StepKind.INTENT_PUT, file, 20, 10, b"s")], None, again.intents.new_session())
    again.close()
    kept.write_bytes(kept.read_bytes() + bytes(60))  # blocks that were allocated and not written
    last = DirectoryStore(home, Probe())
    file = last.lookup(top(last), "f").handle
    assert rows(last, file) == [(0, b"r" * 100), (20, b"s")]
    keys = [row.key for row in last.intents.rows(file, 0)]
    last.apply([], 0, [Step(StepKind.INTENT_DROP, file, key) for key in keys], None, 1)
    assert not list((home / ".netfs" / "intents").iterdir())
    assert key not in keys
    last.close()


async def test_an_intent_is_durable_before_the_write_that_brings_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dies before it writes: of what the disk has then the intent says what the block was to be."""
    monkeypatch.setattr("servers.stores.directory_files.is_memory", lambda _: False)
    store = DirectoryStore(home, Probe())
    file, session = new(store, data=b"old"), store.intents.new_session()
    (key,) = store.apply([], 0, [Step(StepKind.INTENT_PUT, file, 0, 10)], None, session).intents
    synced: list[str] = []
    sync = os.fdatasync

    def noted(fd: int) -> None:
        sync(fd)
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().parent.name)

    def dies(fd: int, views: Sequence[memoryview], pos: int) -> int:
        assert synced == ["intents"]
        raise Crash

    monkeypatch.setattr("servers.stores.sidecar.os.fdatasync", noted)
    monkeypatch.setattr("servers.stores.directory_files.write_all", dies)
    dispatcher = Dispatcher(store, system_env(), Probe(), session=session)
    request = Write(file, 0, intent=key, record=b"word")
    landing = dispatcher.admit(request, 3)
    assert isinstance(landing, Landing)
    answer = dispatcher.handle(request, landing)
    assert not isinstance(answer, Reply)
    with pytest.raises(Crash):
        await answer
    die(store)
    monkeypatch.undo()
    again = DirectoryStore(home, Probe())
    file = again.lookup(top(again), "f").handle
    assert rows(again, file) == [(0, b"word")]
    assert get(again, file) == b"old"
    again.close()


def test_the_last_of_many_intents_costs_as_much_as_the_first(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def counted(fd: int, views: Sequence[memoryview], pos: int) -> int:
        written.append(sum(len(view) for view in views))
        return write_all(fd, views, pos)

    monkeypatch.setattr("servers.stores.sidecar.write_all", counted)
    monkeypatch.setattr("servers.stores.journal.write_all", counted)
    file, session = new(store), store.intents.new_session()
    keys: list[int] = []
    for pos in range(300):
        keys += store.apply([(file, 0)], 0, [Step(StepKind.INTENT_PUT, file, pos, 1, b"r" * 100)], None, session).intents
    assert written == [120] * 300
    store.apply([(file, 0)], 0, [Step(StepKind.INTENT_DROP, file, key) for key in keys[1:]], None, session)
    assert rows(store, file) == [(0, b"r" * 100)]


def test_transaction_that_stuck_is_finished_by_the_next_look(store: DirectoryStore) -> None:
    file, other = new(store, data=b"datadata"), new(store, "other")
    store._probe.sink = CrashAt(2)
    with pytest.raises(Crash):
        store.transact([(file, 0)], 0, steps(file, other), source(b"newaux"))
    store._probe.sink = None
    assert store.record_get(file) == (b"new", 1)
    assert get(store, file, aux=True) == bytes(5) + b"newa"
    assert get(store, file) == b"data"


def test_read_only_server_refuses_half_a_transaction(home: Path) -> None:
    store = DirectoryStore(home, Probe())
    file, other = new(store), new(store, "other")
    store._probe.sink = CrashAt(0)
    with pytest.raises(Crash):
        store.transact([(file, 0)], 0, steps(file, other), source(b"newaux"))
    die(store)
    with refused(errno.EROFS):
        DirectoryStore(home, Probe(), read_only=True)
    DirectoryStore(home, Probe()).close()
    DirectoryStore(home, Probe(), read_only=True).close()


def test_what_an_earlier_server_kept_is_found_and_goes_with_its_file(home: Path) -> None:
    first = DirectoryStore(home, Probe())
    root, file = top(first), new(first)
    put(first, file, 0, b"tags", aux=True)
    first.transact([], 0, [Step(StepKind.BLOB_PUT, file, record=b"certificate")], None)
    first.close()
    kept = home / ".netfs"
    (kept / "aux" / "not a handle").touch()
    second = DirectoryStore(home, Probe())
    assert second.lookup(root, "f").handle == file
    assert get(second, file, aux=True) == b"tags"
    assert second.blob_get(file, 0) == b"certificate"
    second.unlink(root, "f")
    second.close()
    assert [path.name for path in (kept / "aux").iterdir()] == ["not a handle"]
    assert not list((kept / "blobs0").iterdir())
