"""How many objects a folder's store knows at a time is bounded, and no handle suffers from it."""

import errno
import tempfile
import threading
from collections.abc import Iterator, Sequence

import pytest

from iov.probe import Probe
from servers.stores import handles
from servers.stores.directory import DirectoryStore
from tests.conformance.store_words import folder, get, new, put, refused, top
from transport.messages import Handle


class Remembered:
    """Where objects were seen, in memory."""

    def __init__(self) -> None:
        self.known: dict[Handle, tuple[Handle, bytes]] = {}

    def remember_places(self, places: Sequence[tuple[Handle, Handle, bytes]]) -> None:
        self.known.update({handle: (parent, name) for handle, parent, name in places})

    def forget_places(self, gone: Sequence[Handle]) -> None:
        for handle in gone:
            self.known.pop(handle, None)

    def place(self, handle: Handle) -> tuple[Handle, bytes] | None:
        return self.known.get(handle)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[DirectoryStore]:
    monkeypatch.setattr(handles, "MAX_NODES", 50)
    monkeypatch.setattr(handles, "EVICT_MORE", 10)
    with tempfile.TemporaryDirectory() as home:
        store = DirectoryStore(home, Probe(), max_open=32)
        yield store
        store.close()


def test_what_is_forgotten_is_found_again(store: DirectoryStore) -> None:
    store.remember_in(Remembered())
    directory = folder(store)
    files = []
    for number in range(400):
        files.append(new(store, f"f{number}", b"%d" % number, directory))
        store.keep()
    known = store._tree._nodes
    assert len(known) <= 50 + 32 + 10
    assert [get(store, file) for file in files] == [b"%d" % number for number in range(400)]
    store.rename(directory, "f0", top(store), "moved")
    store.link(files[1], top(store), "hard")
    store.unlink(directory, "f1")
    store.unlink(directory, "f2")
    for number in range(400, 600):
        new(store, f"f{number}", b"", directory)
        store.keep()
    assert files[0] not in known or len(known) < 100
    put(store, files[0], 0, b"still")
    assert get(store, files[0]) == b"still"
    assert get(store, files[1]) == b"1"
    with refused(errno.ESTALE):
        store.getattr(files[2])


def test_without_a_memory_elsewhere_nothing_is_forgotten(store: DirectoryStore) -> None:
    files = [new(store, f"f{number}", b"%d" % number) for number in range(200)]
    store.keep()
    assert [get(store, file) for file in files] == [b"%d" % number for number in range(200)]


def test_nobody_is_answered_while_another_thread_still_writes_what_he_saw(store: DirectoryStore) -> None:
    """Both threads' objects are in the hands of the one that writes; a server killed now would know neither."""
    memory = SlowMemory()
    store.remember_in(memory)
    file = new(store, "file")
    writer = threading.Thread(target=store.keep)
    writer.start()
    assert memory.begun.wait(5)
    other = threading.Thread(target=store.keep)
    other.start()
    other.join(0.05)
    answered = not other.is_alive()
    memory.go.set()
    writer.join()
    other.join()
    assert not answered
    assert memory.place(file) is not None


def test_what_could_not_be_written_is_written_the_next_time(store: DirectoryStore) -> None:
    memory = FullMemory()
    store.remember_in(memory)
    file = new(store, "file")
    with refused(errno.EIO):
        store.keep()
    memory.full = False
    store.keep()
    assert memory.place(file) is not None


class SlowMemory(Remembered):
    """Memory that waits to be told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go = threading.Event()

    def remember_places(self, places: Sequence[tuple[Handle, Handle, bytes]]) -> None:
        self.begun.set()
        self.go.wait()
        super().remember_places(places)


class FullMemory(Remembered):
    """Memory that takes nothing for a while."""

    full = True

    def remember_places(self, places: Sequence[tuple[Handle, Handle, bytes]]) -> None:
        if self.full:
            raise OSError(errno.EIO, "full")
        super().remember_places(places)
