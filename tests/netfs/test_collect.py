"""Every end of a subrequest, at every position of a request of one to five, in many orders, against what it comes to."""

import errno
import itertools
import random

import pytest

from netfs.engine.request import IoSubrequest
from netfs.engine.write_collect import MIXED
from tests.netfs.scripted import FULL, Answer, Run, ScriptedOps
from transport.errors import TransportError

PART = 8
FILE = bytes(range(1, 201))
EIO = OSError(errno.EIO, "broken")
LOST = TransportError(errno.ECONNRESET, "gone", retryable=True)

# name: (answers to the issues of the part, bytes of the part that count, errno the request ends with there or None to go on)
READ_ENDS: dict[str, tuple[list[Answer], int, int | None]] = {
    "full": ([FULL], PART, None),
    "short": ([Answer(3)], PART, None),
    "short twice": ([Answer(3), Answer(4)], PART, None),
    "one by one": ([Answer(1)] * 7, PART, None),
    "eof": ([Answer(3, eof=True)], 3, 0),
    "eof at once": ([Answer(0, eof=True)], 0, 0),
    "full and eof": ([Answer(eof=True)], PART, None),
    "short, then eof": ([Answer(3), Answer(2, eof=True)], 5, 0),
    "error": ([Answer(0, error=EIO)], 0, errno.EIO),
    "error with data": ([Answer(3, error=EIO)], 3, errno.EIO),
    "connection lost": ([Answer(0, error=LOST)], 0, errno.ECONNRESET),
    "short, then error": ([Answer(3), Answer(0, error=EIO)], 3, errno.EIO),
    "too much": ([Answer(PART + 1)], 0, errno.EIO),
    "nothing": ([Answer(0)], 0, errno.ENODATA),
    "short, then nothing": ([Answer(3), Answer(0)], 3, errno.ENODATA),
    "asks for a retry": ([Answer(0, retry=True)], PART, None),
    "error that asks for a retry": ([Answer(2, error=EIO, retry=True)], PART, None),
    "asks for ever": ([Answer(0, retry=True, error=EIO)] * 30, 0, errno.EIO),
    "twice": ([Answer(twice=True)], PART, None),
    "short and twice": ([Answer(3, twice=True)], PART, None),
}
WRITE_ENDS: dict[str, tuple[list[Answer], int, int | None]] = {
    "full": ([FULL], PART, None),
    "short": ([Answer(3)], PART, None),
    "one by one": ([Answer(1)] * 7, PART, None),
    "error": ([Answer(0, error=EIO)], 0, errno.EIO),
    "no space with data": ([Answer(3, error=OSError(errno.ENOSPC, "full"))], 3, errno.ENOSPC),
    "short, then no space": ([Answer(3), Answer(0, error=OSError(errno.ENOSPC, "full"))], 3, errno.ENOSPC),
    "again": ([Answer(0, error=OSError(errno.EAGAIN, "later"))] * 3, PART, None),
    "again for ever": ([Answer(0, error=OSError(errno.EAGAIN, "later"))] * 30, 0, errno.EAGAIN),
    "nothing": ([Answer(0)], 0, errno.EIO),
    "too much": ([Answer(PART + 5)], PART, None),
    "connection lost": ([Answer(0, error=LOST)], 0, errno.ECONNRESET),
    "twice": ([Answer(twice=True)], PART, None),
}
Ends = dict[str, tuple[list[Answer], int, int | None]]


def expected(ends: Ends, names: list[str]) -> tuple[int, int]:
    """Return (bytes, errno or 0) a request comes to whose parts end as named."""
    total = 0
    for name in names:
        _, counted, code = ends[name]
        total += counted
        if code is not None:
            return total, code
    return total, 0


def check(ends: Ends, names: list[str], seed: int, in_flight: int, *, write: bool) -> None:
    answers = {(part, n): a for part, name in enumerate(names) for n, a in enumerate(ends[name][0])}
    ops = ScriptedOps(PART, FILE, answers, in_flight=in_flight)
    run = Run(ops, write=write, parts=len(names))
    run.start()
    run.finish(random.Random(seed))
    total, code = expected(ends, names)
    rreq = run.rreq
    assert rreq.transferred == total
    assert getattr(rreq.error, "errno", 0) == code
    if write:
        assert ops.written[:total] == FILE[:total]
        assert not any(ops.touched[total:]), "bytes behind the count were written"
        assert ops.most_in_flight == 1
    else:
        assert run.memory[:total] == FILE[:total]
        assert ops.most_in_flight <= in_flight


@pytest.mark.parametrize("in_flight", [1, 2, 16])
@pytest.mark.parametrize("name", READ_ENDS)
def test_every_end_of_a_read_at_every_position(name: str, in_flight: int) -> None:
    for parts in range(1, 6):
        for position in range(parts):
            names = ["full"] * parts
            names[position] = name
            for seed in range(8):
                check(READ_ENDS, names, seed, in_flight, write=False)


@pytest.mark.parametrize("name", WRITE_ENDS)
def test_every_end_of_a_write_at_every_position(name: str) -> None:
    for parts in range(1, 6):
        for position in range(parts):
            names = ["full"] * parts
            names[position] = name
            check(WRITE_ENDS, names, 0, 16, write=True)


@pytest.mark.parametrize("first", READ_ENDS)
def test_two_ends_in_one_read(first: str) -> None:
    for second, third in itertools.product(READ_ENDS, ["full", "error", "eof"]):
        for seed in range(3):
            check(READ_ENDS, [first, second, third], seed, 16, write=False)


def test_nothing_is_issued_after_a_failure_was_seen() -> None:
    ops = ScriptedOps(PART, FILE, {(0, 0): Answer(0, error=EIO)}, in_flight=2)
    run = Run(ops, parts=5)
    run.start()
    assert len(ops.pending) == 2
    ops.end(0, write=False)
    assert len(ops.pending) == 1 and not run.woken
    ops.end(0, write=False)
    assert run.rreq.done and len(ops.issues) == 2


def test_a_retry_waits_until_all_is_quiet_and_is_cut_anew() -> None:
    ops = ScriptedOps(PART, FILE, {(0, 0): Answer(1), (1, 0): Answer(2)})
    run = Run(ops, parts=3)
    run.start()
    ops.end(0, write=False)
    ops.end(0, write=False)
    assert [subreq.index for subreq, _ in ops.pending] == [2]
    ops.rsize = 3
    ops.end(0, write=False)
    # 7 bytes and 6 bytes left, three at a time: cut into 3+3+1 and 3+3.
    assert [(subreq.start + subreq.transferred, subreq.iter.count) for subreq, _ in ops.pending] == [
        (1, 3), (4, 3), (7, 1), (10, 3), (13, 3),
    ]  # fmt: skip
    run.finish(random.Random(1))
    assert run.rreq.transferred == 3 * PART and run.memory == FILE[: 3 * PART]
    assert run.probe.retries == 5


def test_termination_inside_issue() -> None:
    ops = ScriptedOps(PART, FILE, {(1, 0): Answer(5), (3, 0): Answer(2, eof=True)})
    ops.on_issue = lambda _: ops.end(0, write=False)
    run = Run(ops, parts=5)
    run.start()
    assert run.woken == 1
    assert (run.rreq.transferred, run.rreq.error) == (3 * PART + 2, None)


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("after", range(4))
def test_abandoned_request_ends_when_its_parts_have(after: int, write: bool) -> None:
    ops = ScriptedOps(PART, FILE, {}, in_flight=2)
    run = Run(ops, write=write, parts=4)
    run.start()
    for _ in range(after):
        ops.end(0, write=write)
    pending = len(ops.pending)
    asked: list[int] = []

    class Call:
        def abandon(self) -> None:
            asked.append(1)

    for subreq, _ in ops.pending:
        subreq.call = Call()
    run.rreq.abandon()
    assert len(asked) == pending
    while ops.pending:
        subreq, _ = ops.pending.pop()
        subreq.terminated(0, TransportError(errno.ECANCELED, "abandoned"))
    assert run.woken == 1
    assert run.rreq.transferred == after * PART
    assert getattr(run.rreq.error, "errno", 0) == (errno.ECANCELED if pending else 0)


def test_nothing_is_asked_behind_the_end() -> None:
    ops = ScriptedOps(PART, FILE, {(1, 0): Answer(3, eof=True)}, in_flight=1)
    run = Run(ops, parts=5)
    run.start()
    run.finish(random.Random(1))
    assert sorted(ops.issues) == [0, 1]


@pytest.mark.parametrize(("verifiers", "known"), [([7, 7, 7], 7), ([7, 8, 8], MIXED), ([7, 7, 8], MIXED), ([0, 0, 0], 0)])
def test_verifiers_of_a_write_are_one_or_mixed(verifiers: list[int], known: int) -> None:
    ops = ScriptedOps(PART, FILE, {(0, 0): Answer(3)})
    run = Run(ops, write=True, parts=2)
    run.start()
    for verifier in verifiers:
        ops.pending[0][0].verifier = verifier
        ops.end(0, write=True)
    assert run.rreq.done and run.rreq.verifier == known


@pytest.mark.parametrize("write", [False, True])
def test_an_issue_that_raises_ends_its_part_and_waits_for_the_others(write: bool) -> None:
    ops = ScriptedOps(10, bytes(range(40)), {})

    def refuse(subreq: IoSubrequest) -> None:
        if subreq.start == 20:
            ops.pending.pop()
            raise ValueError("not like this")

    ops.on_issue = refuse
    run = Run(ops, write=write, parts=4)
    run.start()
    assert not run.woken
    run.finish(random.Random(0))
    assert run.rreq.transferred == 20
    assert str(run.rreq.error) == "not like this"
