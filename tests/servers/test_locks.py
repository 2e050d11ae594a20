"""Byte-range locks against a table of every byte; who waits, who is called, who would wait for ever."""

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.locks import MAX_LOCKS, LockTable, Range, span
from tests.conformance.store_words import refused
from transport.messages import Handle, LockFree, LockKind

READ, WRITE = LockKind
H, G = Handle(b"file one"), Handle(b"file two")
A, B, C = (1, 1), (2, 1), (2, 2)
END = 1 << 63


def lock(table: LockTable, owner: tuple[int, int], start: int, end: int, kind: LockKind = WRITE, wait: bool = False) -> None:
    table.lock(owner, H, kind, start, end, wait=wait)


def test_sharing_and_excluding() -> None:
    table = LockTable()
    lock(table, A, 0, 10, READ)
    lock(table, B, 5, 15, READ)
    with refused(errno.EAGAIN):
        lock(table, B, 9, 20)
    assert table.test(B, H, WRITE, 9, 20) == Range(A, READ, 0, 10)
    assert table.test(B, H, READ, 9, 20) is None
    assert table.test(B, G, WRITE, 0, END) is None
    lock(table, B, 10, 20)
    assert table.of(H) == [Range(A, READ, 0, 10), Range(B, READ, 5, 10), Range(B, WRITE, 10, 20)]


def test_two_owners_of_one_session_exclude_each_other() -> None:
    table = LockTable()
    lock(table, B, 0, 5)
    with refused(errno.EAGAIN):
        lock(table, C, 4, 5)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.sampled_from([READ, WRITE, None]), st.integers(0, 11), st.integers(1, 12)),
        max_size=25,
    )
)
def test_like_a_table_of_every_byte(script: list[tuple[tuple[int, int], LockKind | None, int, int]]) -> None:
    table = LockTable()
    model: list[dict[tuple[int, int], LockKind]] = [{} for _ in range(12)]
    for owner, kind, start, length in script:
        end = min(start + length, 12)
        cells = model[start:end]
        if kind is None:
            table.unlock(owner, H, start, end)
            for cell in cells:
                cell.pop(owner, None)
        else:
            free = all(other == owner or WRITE not in (kind, held) for cell in cells for other, held in cell.items())
            if not free:
                with refused(errno.EAGAIN):
                    lock(table, owner, start, end, kind)
                continue
            lock(table, owner, start, end, kind)
            for cell in cells:
                cell[owner] = kind
        held = table.of(H)
        for pos, cell in enumerate(model):
            assert {each.owner: each.kind for each in held if each.overlaps(pos, pos + 1)} == cell
        for one in held:
            assert one.start < one.end
            touching = [each for each in held if each.owner == one.owner and each.start == one.end]
            assert all(each.kind is not one.kind for each in touching), "neighbours of one kind are one"


def test_who_waits_is_called_once_it_can_go_on() -> None:
    table = LockTable()
    lock(table, A, 0, 10)
    with refused(errno.EAGAIN):
        lock(table, B, 5, 15, wait=True)
    assert table.unlock(A, H, 0, 3) == []
    assert table.unlock(A, H, 3, 10) == [(2, LockFree(H, 1))]
    assert table.unlock(A, H, 0, 10) == []
    lock(table, B, 5, 15, wait=True)
    with refused(errno.EAGAIN):
        lock(table, A, 5, 6, wait=True)
    table.unlock(A, H, 0, END)  # gives up waiting
    assert table.end(2) == []
    assert table.of(H) == []


def test_the_end_of_a_session_frees_and_calls() -> None:
    table = LockTable()
    lock(table, B, 0, 10)
    table.lock(C, G, WRITE, 0, END, wait=False)
    for number, handle in enumerate((H, G)):
        with refused(errno.EAGAIN):
            table.lock((1, number), handle, WRITE, 3, 4, wait=True)
    assert {event.handle for _, event in table.end(2)} == {H, G}
    assert table.of(H) == table.of(G) == []


def test_a_circle_is_a_deadlock() -> None:
    table = LockTable()
    for owner, at in ((A, 0), (B, 1), (C, 2)):
        lock(table, owner, at, at + 1)
    for owner, at in ((A, 1), (B, 2)):
        with refused(errno.EAGAIN):
            lock(table, owner, at, at + 1, wait=True)
    with refused(errno.EDEADLK):
        lock(table, C, 0, 1, wait=True)
    with refused(errno.EAGAIN):
        lock(table, C, 0, 1)
    table.end(1)
    lock(table, C, 0, 1, wait=True)


def test_ranges_of_requests() -> None:
    assert span(5, 10) == (5, 15)
    assert span(5, 0) == (5, END)
    assert span(0, END - 1) == (0, END - 1)
    for pos, length, code in ((-1, 1, errno.EINVAL), (0, -1, errno.EINVAL), (1, END - 1, errno.EOVERFLOW)):
        with refused(code):
            span(pos, length)


@pytest.mark.slow
def test_there_is_an_end_to_what_one_session_may_lock() -> None:
    table = LockTable()
    for number in range(MAX_LOCKS):
        lock(table, A, 2 * number, 2 * number + 1)
    with refused(errno.ENOLCK):
        lock(table, A, 2 * MAX_LOCKS, 2 * MAX_LOCKS + 1)
    table.unlock(A, H, 0, 1)
    lock(table, A, 2 * MAX_LOCKS, 2 * MAX_LOCKS + 1)
