"""Retries: runs of parts tiled anew, sizes that changed meanwhile, boundaries, delays that grow, and ends without progress."""

import errno
import itertools
import random

import pytest

from netfs.cache.timers import Timers
from netfs.engine.request import IoRequest, IoSubrequest
from netfs.engine.retry import FIRST_DELAY_S, LONGEST_DELAY_S
from tests.netfs.scripted import FULL, Answer, Run, ScriptedOps

PART = 8
FILE = bytes(range(1, 101))
AGAIN = Answer(0, retry=True)


class Renegotiating(ScriptedOps):
    """After the first retry the server takes `later` bytes at a time. tiles: (start, length) of every issue."""

    def __init__(self, later: int, answers: dict[tuple[int, int], Answer], *, apart: bool = False) -> None:
        super().__init__(PART, FILE, answers, apart=apart)
        self.later = later
        self.tiles: list[tuple[int, int]] = []
        self.asked = 0
        self.boundary_at = 0

    def retry_request(self, rreq: IoRequest) -> None:
        assert not rreq.in_flight, "a retry begins when all is quiet"
        self.asked += 1
        self.rsize = self.wsize = self.later

    def prepare_read(self, subreq: IoSubrequest) -> None:
        super().prepare_read(subreq)
        subreq.boundary = subreq.start + PART == self.boundary_at

    def issue_read(self, subreq: IoSubrequest) -> None:
        self.tiles.append((subreq.start + subreq.transferred, subreq.iter.count))
        super().issue_read(subreq)
        _, answer = self.pending[-1]
        if answer.moved is not None and answer.moved > subreq.iter.count:
            self.pending[-1] = subreq, FULL

    issue_write = issue_read


def run(ops: ScriptedOps, parts: int, *, write: bool = False, seed: int = 0) -> Run:
    done = Run(ops, write=write, parts=parts)
    done.start()
    done.finish(random.Random(seed))
    return done


def test_surplus_parts_are_dropped_when_more_goes_in_one() -> None:
    ops = Renegotiating(20, {(part, 0): AGAIN for part in range(5)})
    done = run(ops, 5)
    assert bytes(done.memory) == FILE[:40]
    assert ops.tiles[5:] == [(0, 20), (20, 20)]
    assert ops.asked == 1
    assert done.rreq.nr_subrequests == 5


def test_parts_are_made_when_less_goes_in_one() -> None:
    ops = Renegotiating(3, {(part, 0): AGAIN for part in range(2)})
    done = run(ops, 2)
    assert bytes(done.memory) == FILE[:16]
    assert ops.tiles[2:] == [(0, 3), (3, 3), (6, 3), (9, 3), (12, 3), (15, 1)]
    assert done.rreq.nr_subrequests == 6


def test_a_run_keeps_what_its_first_part_has() -> None:
    ops = Renegotiating(20, {(0, 0): Answer(5), (1, 0): AGAIN, (2, 0): Answer(4)})
    done = run(ops, 3)
    assert bytes(done.memory) == FILE[:24]
    # What is left of the third does not lie at the end of the second's, so it is a run of its own.
    assert sorted(ops.tiles[3:]) == [(5, 11), (20, 4)]


def test_a_boundary_is_not_tiled_across() -> None:
    ops = Renegotiating(40, {(part, 0): AGAIN for part in range(4)})
    ops.boundary_at = 2 * PART
    done = run(ops, 4)
    assert bytes(done.memory) == FILE[:32]
    assert ops.tiles[4:] == [(0, 16), (16, 16)]


@pytest.mark.parametrize("later", range(1, 30))
@pytest.mark.parametrize("seed", range(4))
def test_any_size_before_and_after(later: int, seed: int) -> None:
    rng = random.Random(later * 100 + seed)
    answers = {
        (part, issue): rng.choice([AGAIN, Answer(rng.randrange(1, PART), retry=True), Answer(rng.randrange(1, PART))])
        for part in range(5)
        for issue in range(2)
    }
    for write in (False, True):
        ops = Renegotiating(later, answers)
        done = run(ops, 5, write=write, seed=seed)
        assert bytes(ops.written if write else done.memory)[:40] == FILE[:40]
        if write:
            assert set(ops.touched[:40]) == {1}, "bytes were sent once each"


def test_a_prepare_hook_that_fails_ends_the_request() -> None:
    class Broken(Renegotiating):
        def prepare_read(self, subreq: IoSubrequest) -> None:
            if self.asked:
                raise OSError(errno.ENOMEM, "no credits left")
            super().prepare_read(subreq)

    done = run(Broken(PART, {(1, 0): AGAIN}), 3)
    assert (done.rreq.transferred, done.rreq.error and done.rreq.error.errno) == (PART, errno.ENOMEM)  # type: ignore[attr-defined]


def test_retries_without_progress_wait_longer_and_longer_and_end() -> None:
    clock = [0.0]
    answers = {(0, issue): Answer(0, retry=True, error=OSError(errno.EAGAIN, "busy")) for issue in range(30)}
    ops = ScriptedOps(PART, FILE, answers)
    done = Run(ops)
    done.timers = Timers()
    done.timers.serve(lambda: clock[0])
    done.start()
    times = []
    while not done.woken:
        while ops.pending:
            times.append(clock[0])
            ops.end(0, write=False)
        if (due := done.timers.next_due()) is not None:
            clock[0] = due
            done.timers.run_due()
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits[:3] == pytest.approx([0.0, FIRST_DELAY_S, 2 * FIRST_DELAY_S])
    assert max(waits) <= LONGEST_DELAY_S
    assert isinstance(done.rreq.error, OSError)
    assert done.rreq.error.errno == errno.EAGAIN
    assert len(times) < 12


def test_a_retry_that_waits_ends_at_once_when_its_caller_leaves() -> None:
    answers = {(0, issue): AGAIN for issue in range(3)}
    ops = ScriptedOps(PART, FILE, answers)
    done = Run(ops)
    done.timers = Timers()
    done.timers.serve(float)
    done.start()
    ops.end(0, write=False)
    ops.end(0, write=False)
    assert not ops.pending
    assert not done.rreq.done
    done.rreq.abandon()
    assert done.woken == 1
