"""The memory store and a power cut: what was committed is there, what was not is gone or not, page by page, and nothing else."""

import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iov.probe import Probe
from servers.stores.memory import MemoryStore
from servers.stores.overlay import PAGE
from tests.conformance.store_words import MIB, get, names, new, put, refused, source, top
from transport.messages import Handle, Step, StepKind


def crashable() -> MemoryStore:
    return MemoryStore(Probe(), crashable=True)


def test_what_no_commit_covers_is_gone() -> None:
    store = crashable()
    file = new(store, "f", b"committed")
    store.commit(file)
    put(store, file, 3, b"VOLATILE, and longer than it was")
    put(store, file, 5 * MIB, b"far")
    new(store, "g", b"never committed")
    boot = store.verifier
    store.crash()
    assert get(store, file) == b"committed"
    assert names(store, top(store)) == ["f", "g"]
    assert get(store, store.lookup(top(store), "g").handle) == b""
    assert store.verifier != boot
    assert not store._files[file].data.data_from(MIB)
    put(store, file, 0, b"again")
    store.crash()
    assert get(store, file) == b"committed"


def test_what_makes_durable() -> None:
    store = crashable()
    file = new(store)
    put(store, file, 0, b"stable", stable=True)
    store.crash()
    assert get(store, file) == b"stable"
    steps = [Step(StepKind.AUX_WRITE, file, 0, 4), Step(StepKind.RECORD_PUT, file, record=b"r")]
    put(store, file, 0, b"STABLE")
    store.transact([(file, 0)], store.verifier, steps, source(b"tags"))
    store.crash()
    assert (get(store, file), get(store, file, aux=True), store.record_get(file)) == (b"STABLE", b"tags", (b"r", 1))


def test_of_intents_a_crash_leaves_those_with_a_word() -> None:
    """The word is what others settle by; a claim without one was for nothing that could be on the disk. Keys are new ones."""
    store = crashable()
    file = new(store)
    mine = store.intents.new_session()
    steps = [Step(StepKind.INTENT_PUT, file, 0, 10), Step(StepKind.INTENT_PUT, file, 20, 10, b"word")]
    keys = store.apply([], 0, steps, None, mine).intents
    store.crash()
    yours = store.intents.new_session()
    (left,) = store.intents.rows(file, yours)
    assert (left.pos, left.length, left.live, left.record) == (20, 10, False, b"word")
    assert store.intents.may_write(file, 0, 10, yours)
    assert not store.intents.may_write(file, 20, 10, yours)
    (made,) = store.apply([], 0, [Step(StepKind.INTENT_PUT, file, 0, 10)], None, yours).intents
    assert made not in keys


def test_a_transaction_that_makes_nothing_has_nothing_to_say_of_what_it_made() -> None:
    store = crashable()
    assert store.transact([], store.verifier, [], None) == []
    for kind in (StepKind.RECORD_PUT, StepKind.TRUNCATE, StepKind.INTENT_PUT):
        with refused(errno.EINVAL):
            store.transact([], store.verifier, [Step(kind, Handle(b""), record=b"r")], None)


@pytest.mark.parametrize("cut", ["truncate", "punch", "extend"])
def test_cuts_are_undone_too(cut: str) -> None:
    store = crashable()
    data = bytes(range(256)) * (3 * MIB // 256)
    file = new(store, "f", data[: 1 << 20])
    put(store, file, 1 << 20, data[1 << 20 :])
    store.commit(file)
    if cut == "truncate":
        store.truncate(file, 100)
    elif cut == "punch":
        store.punch(file, 5, 2 * MIB)
    else:
        store.truncate(file, 9 * MIB)
    store.crash()
    assert store.getattr(file).size == len(data)
    assert get(store, file, 0, 3 * MIB) == data


def test_a_landing_under_a_commit_is_not_durable() -> None:
    store = crashable()
    file = new(store, "f", b"old old old")
    landing = store.write_landing(file, 0, 3)
    store.commit(file)
    for view in [landing.iter.mem]:
        assert view is not None
        view[:3] = b"new"
    store.write(file, 0, landing, stable=False)
    assert get(store, file) == b"new old old"
    store.crash()
    assert get(store, file) == b"old old old"


def test_only_a_store_made_for_it_crashes() -> None:
    with pytest.raises(AssertionError):
        MemoryStore(Probe()).crash()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3 * PAGE), st.booleans()), max_size=12))
def test_each_page_is_the_old_or_the_new(seed: int, writes: list[tuple[int, int, bool]]) -> None:
    rng = random.Random(seed)
    store = crashable()
    file = new(store, "f", bytes(50 * PAGE))
    store.commit(file)
    durable = volatile = bytearray(50 * PAGE)
    for number, (page, length, commits) in enumerate(writes, 1):
        put(store, file, page * PAGE, bytes([number]) * length)
        volatile = bytearray(volatile)
        volatile[page * PAGE : page * PAGE + length] = bytes([number]) * length
        if commits:
            store.commit(file)
            durable = volatile
    store.crash(lambda: rng.random() < 0.5)
    got = get(store, file)
    for at in range(0, len(got), PAGE):
        assert got[at : at + PAGE] in (bytes(durable[at : at + PAGE]), bytes(volatile[at : at + PAGE]))
