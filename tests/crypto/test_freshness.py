"""Marks and their log: what is seen as a rollback, what a crash leaves, what a change of the log is, how long it gets."""

import os
import random

import pytest

from crypto.errors import IntegrityError, Malformed, Rollback, WrongKey
from crypto.freshness import (
    ENTRY,
    LOG_HEADER_SIZE,
    LOG_NONCE_SIZE,
    MOST_FRAME_BYTES,
    FrameKind,
    LogReader,
    Marks,
    Seen,
    new_log,
)
from crypto.keys import VolumeKey

KEY = VolumeKey(b"k" * 32)
ONE, TWO = b"1" * 16, b"2" * 16


def written(marks: Marks, log: bytes = b"", key: VolumeKey = KEY) -> bytes:
    """Return a log with what is waiting appended to it."""
    log = log or new_log(key, b"n" * LOG_NONCE_SIZE)
    reader = LogReader(key, log[:LOG_HEADER_SIZE])
    assert sum(1 for _ in reader.frames(log[LOG_HEADER_SIZE:])) >= 0
    assert reader.writer.pos == len(log)
    for kind, entries in marks.waiting_frames():
        log += reader.writer.frame(kind, entries)
    marks.written()
    assert not marks.waiting
    return log


def read(log: bytes, key: VolumeKey = KEY) -> tuple[Marks, int]:
    marks = Marks()
    reader = LogReader(key, log[:LOG_HEADER_SIZE])
    for kind, entries in reader.frames(log[LOG_HEADER_SIZE:]):
        marks.merge(kind, entries)
    return marks, reader.writer.pos


# ---- marks


def test_older_and_other_states_are_rollbacks() -> None:
    marks = Marks()
    assert marks.observe(ONE, 5, b"five", marks.clock)
    assert marks.observe(ONE, 5, b"five", marks.clock)
    assert marks.observe(ONE, 6, b"six", marks.clock)
    assert marks.observe(TWO, 1, b"one", marks.clock)
    for generation, record in ((5, b"five"), (6, b"another six"), (0, b"")):
        with pytest.raises(Rollback, match=ONE.hex()):
            marks.observe(ONE, generation, record, marks.clock)
    assert marks.tainted == [Seen(ONE, 5), Seen(ONE, 6), Seen(ONE, 0)]
    with pytest.raises(Rollback, match="accept-rollback"):
        marks.check()
    marks.accept(77)
    marks.check()
    assert marks.observe(ONE, 5, b"five", marks.clock)


def test_an_answer_that_was_overtaken_is_nobodys_fault() -> None:
    marks = Marks()
    marks.committed(ONE, 1, b"one")
    asked = marks.clock
    marks.committed(ONE, 2, b"two")
    assert not marks.observe(ONE, 1, b"one", asked)
    assert not marks.tainted
    with pytest.raises(Rollback):
        marks.observe(ONE, 1, b"one", marks.clock)
    # Another file's commit is no excuse.
    asked = marks.clock
    marks.committed(TWO, 1, b"one")
    with pytest.raises(Rollback):
        marks.observe(ONE, 1, b"one", asked)


def test_commits_do_not_lower_a_mark_and_removed_files_are_forgotten() -> None:
    marks = Marks()
    marks.committed(ONE, 9, b"nine")
    marks.committed(ONE, 3, b"three")
    assert marks.generation(ONE) == 9
    marks.removed(ONE)
    marks.removed(TWO)
    assert marks.generation(ONE) == 0
    assert not marks.observe(ONE, 1, b"one", 0), "it was asked for before the removal"
    with pytest.raises(Rollback, match="removed"):
        marks.observe(ONE, 9, b"nine", marks.clock)
    back, _ = read(written(marks))
    assert back.observe(ONE, 1, b"one", 0), "the log only forgets"


# ---- the log


def test_what_is_written_is_read() -> None:
    marks = Marks()
    rng = random.Random(4)
    expected: dict[bytes, int] = {}
    log = b""
    for _ in range(40):
        for _ in range(rng.randrange(1, 300)):
            file_id = rng.randrange(500).to_bytes(16, "big")
            if rng.random() < 0.2:
                marks.removed(file_id)
                expected.pop(file_id, None)
            else:
                expected[file_id] = expected.get(file_id, 0) + 1
                marks.committed(file_id, expected[file_id], b"record")
        log = written(marks, log)
    back, pos = read(log)
    assert pos == len(log)
    assert {file_id: back.generation(file_id) for file_id in (n.to_bytes(16, "big") for n in range(500))} == {
        n.to_bytes(16, "big"): expected.get(n.to_bytes(16, "big"), 0) for n in range(500)
    }


def test_a_taint_stays_until_it_is_accepted() -> None:
    marks = Marks()
    marks.committed(ONE, 2, b"two")
    with pytest.raises(Rollback):
        marks.observe(ONE, 1, b"one", marks.clock)
    log = written(marks)
    back, _ = read(log)
    assert back.tainted == [Seen(ONE, 1)]
    with pytest.raises(Rollback):
        back.check()
    back.accept(1234)
    again = b"".join(
        LogReader(KEY, new_log(KEY, b"m" * LOG_NONCE_SIZE)).writer.frame(kind, entries) for kind, entries in back.everything()
    )
    last, _ = read(new_log(KEY, b"m" * LOG_NONCE_SIZE) + again)
    assert (last.tainted, last.accepted_ns, len(last)) == ([], [1234], 0)


def test_a_crash_at_any_byte_loses_the_last_append_and_no_other() -> None:
    marks = Marks()
    marks.committed(ONE, 1, b"one")
    first = written(marks)
    marks.committed(ONE, 2, b"two")
    marks.committed(TWO, 1, b"one")
    second = written(marks, first)
    for end in range(len(first), len(second)):
        for tail in (b"", bytes(100), bytes(MOST_FRAME_BYTES + 1), os.urandom(60)):
            back, pos = read(second[:end] + tail)
            assert (back.generation(ONE), back.generation(TWO), pos) == (1, 0, len(first))
    assert read(second)[0].generation(ONE) == 2


def test_every_changed_bit_is_noticed() -> None:
    marks = Marks()
    marks.committed(ONE, 1, b"one")
    log = written(marks)
    for n in range(3000):
        marks.committed(n.to_bytes(16, "big"), 1, b"one")
    log = written(marks, log)
    assert len(log) > 2 * MOST_FRAME_BYTES
    for at in [*range(LOG_HEADER_SIZE + 4 + ENTRY.size + 16), len(log) // 2]:
        changed = bytearray(log)
        changed[at] ^= 1 << at % 8
        with pytest.raises((IntegrityError, Malformed, WrongKey)):
            read(bytes(changed))


def test_frames_are_good_in_one_place_of_one_log() -> None:
    marks = Marks()
    marks.committed(ONE, 1, b"one")
    log = written(marks)
    frame = log[LOG_HEADER_SIZE:]
    other = new_log(KEY, b"o" * LOG_NONCE_SIZE)
    assert read(other + frame)[1] == LOG_HEADER_SIZE
    assert read(log + frame)[1] == len(log)
    with pytest.raises(IntegrityError):
        read(other + frame * 1000)


def test_a_log_belongs_to_one_volume_and_follows_its_epochs() -> None:
    marks = Marks()
    marks.committed(ONE, 7, b"seven")
    log = written(marks)
    with pytest.raises(WrongKey):
        read(log, VolumeKey(b"x" * 32))
    rotated = VolumeKey(b"r" * 32, epoch=1, older=(KEY,))
    back, _ = read(log, rotated)
    assert back.generation(ONE) == 7
    assert LogReader(rotated, log[:LOG_HEADER_SIZE]).is_outdated
    assert not LogReader(KEY, log[:LOG_HEADER_SIZE]).is_outdated
    for bad in (b"", b"IOVM", b"x" * 80, log[:79]):
        with pytest.raises(Malformed):
            LogReader(KEY, bad)


def test_two_processes_append_to_one_log() -> None:
    mine, theirs = Marks(), Marks()
    mine.committed(ONE, 5, b"five")
    log = written(mine)
    theirs.observe(ONE, 4, b"four", 0)
    reader = LogReader(KEY, log[:LOG_HEADER_SIZE])
    for kind, entries in reader.frames(log[LOG_HEADER_SIZE:]):
        theirs.merge(kind, entries)
    assert theirs.generation(ONE) == 5
    assert not theirs.waiting, "a lower mark is not appended behind a higher one"


def test_a_log_that_is_mostly_outdated_is_begun_anew() -> None:
    marks = Marks()
    log = b""
    for generation in range(1, 60):
        for n in range(100):
            marks.committed(n.to_bytes(16, "big"), generation, b"record")
        log = written(marks, log)
    assert marks.wants_new_log(len(log))
    assert sum(len(entries) for kind, entries in marks.everything() if kind is FrameKind.SEEN) == 100 * ENTRY.size
    assert not marks.wants_new_log(100 * ENTRY.size)
