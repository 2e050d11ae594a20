"""Cells name their write, their place and their damage."""

import random

import pytest

from trials.cells import CELL, HOLE, Cause, Run, content, explain, fill, parse


def slow_cell(op: int, index: int) -> bytes:
    from zlib import crc32

    head = op.to_bytes(6, "little") + index.to_bytes(6, "little")
    return head + crc32(head).to_bytes(4, "little")


@pytest.mark.parametrize("first, count", [(0, 1), (3, 7), (4090, 20), (0, 4096), (4095, 4098), (1 << 36, 3), (70_000, 9000)])
def test_a_fill_is_what_its_cells_are_one_by_one(first: int, count: int) -> None:
    for op in (1, 255, 1 << 40, (1 << 48) - 1):
        made = bytes(fill(op, first, count))
        picks = {0, count - 1, count // 2, *range(min(count, 40))}
        assert len(made) == count * CELL
        assert all(made[at * CELL :][:CELL] == slow_cell(op, first + at) for at in picks)
        assert parse(made, first) == [Run(first, count, op)]


def test_content_need_not_begin_at_a_cell() -> None:
    whole = bytes(fill(9, 0, 100))
    for pos, length in ((0, 0), (1, 5), (15, 2), (16, 16), (33, 1000)):
        assert bytes(content(9, pos, length)) == whole[pos : pos + length]


def test_runs_of_many_writes() -> None:
    rng = random.Random(3)
    for _ in range(200):
        at, wanted, data = 5, [], bytearray()
        last = -1
        while at < 300:
            op = rng.choice([each for each in (HOLE, 1, 2, 3) if each != last])
            last = op
            count = rng.choice((1, 2, 15, 16, 17, 100))
            data += bytes(count * CELL) if op == HOLE else fill(op, at, count)
            wanted.append(Run(at, count, op))
            at += count
        assert parse(data, 5) == wanted
        assert parse(bytes(data) + b"rest", 5) == wanted


def test_a_cause_is_named() -> None:
    data = fill(1, 0, 4) + fill(2, 90, 2) + fill(3, 6, 2) + bytes(CELL) + fill(1, 9, 1)
    data[9 * CELL + 3] ^= 64
    assert parse(data, 0, lambda op: op != 3) == [
        Run(0, 4, 1),
        Run(4, 2, 2, Cause.MISDIRECTED, 86),
        Run(6, 2, 3, Cause.FOREIGN),
        Run(8, 1, HOLE),
        Run(9, 1, -1, Cause.ROTTEN, 0, bytes(data[9 * CELL :])),
    ]
    flipped = bytes(data[9 * CELL :])
    assert explain(flipped, 9, [HOLE, 1, 2]) == (Cause.ROTTEN, "write #1 with 1 bits flipped", (1,))
    half = bytes(fill(1, 9, 1)[:7] + fill(2, 9, 1)[7:])
    cause, why, whose = explain(half, 9, [1, 2])
    assert cause is Cause.TORN and whose == (1, 2) and "write #1" in why and "write #2" in why
    assert explain(bytes(range(CELL)), 9, [1, 2])[1].startswith("bytes of no write")
