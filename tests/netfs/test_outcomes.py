"""Every end of a subrequest at every position of a request of one to five, in every combination, in both directions.

full       all of it                    eof        some of it, where the file ends
short      some of it, nothing else     error      nothing, for good
retry      nothing, but try again       duplicate  all of it, said twice
late       all of it, when all others have ended, and said again when the request is over
"""

import errno
import itertools
import random

import pytest

from netfs.engine.request import IoSubrequest
from tests.netfs.scripted import FULL, Answer, Run, ScriptedOps

PART = 8
FILE = bytes(range(1, 41))
EIO = OSError(errno.EIO, "broken")
ENDS = {
    "full": FULL,
    "short": Answer(3),
    "eof": Answer(5, eof=True),
    "error": Answer(0, error=EIO),
    "retry": Answer(0, retry=True),
    "duplicate": Answer(twice=True),
    "late": FULL,
}
WRITE_ENDS = [name for name in ENDS if name != "eof"]


def run(names: tuple[str, ...], *, write: bool, apart: bool, in_flight: int) -> None:
    """Drive one request, with what is late ended last, and check what it comes to."""
    ops = ScriptedOps(PART, FILE, {(part, 0): ENDS[name] for part, name in enumerate(names)}, in_flight=in_flight, apart=apart)
    driven = Run(ops, write=write, parts=len(names))
    driven.start()
    late: list[IoSubrequest] = []
    rng = random.Random(repr(names))
    for _ in range(200):
        if not ops.pending:
            break
        early = [n for n, (subreq, _) in enumerate(ops.pending) if names[subreq.start // PART] != "late"]
        index = rng.choice(early) if early else 0
        if not early:
            late.append(ops.pending[index][0])
        ops.end(index, write=write)
    rreq = driven.rreq
    assert driven.woken == 1 and rreq.done and not rreq.in_flight and not rreq.subrequests, names
    ended = rreq.transferred, rreq.error
    for subreq in late:
        subreq.terminated(PART)
    assert (rreq.transferred, rreq.error, driven.woken) == (*ended, 1), "changed when it was over"

    whole = list(itertools.takewhile(lambda name: name not in {"eof", "error"}, names))
    stop = names[len(whole)] if len(whole) < len(names) else ""
    total = len(whole) * PART + (5 if stop == "eof" else 0)
    assert rreq.transferred == total, names
    assert rreq.error is (EIO if stop == "error" else None), names
    if write:
        assert ops.written[:total] == FILE[:total] and not any(ops.touched[total:]), names
        assert ops.most_in_flight == 1
    else:
        assert driven.memory[:total] == FILE[:total], names


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_every_combination(parts: int, write: bool) -> None:
    for names in itertools.product(WRITE_ENDS if write else ENDS, repeat=parts):
        run(names, write=write, apart=True, in_flight=16)


@pytest.mark.slow
@pytest.mark.parametrize(("write", "in_flight"), [(False, 1), (False, 2), (False, 16), (True, 1)])
@pytest.mark.parametrize("apart", [False, True], ids=["joined", "apart"])
def test_every_combination_of_five(write: bool, apart: bool, in_flight: int) -> None:
    for names in itertools.product(WRITE_ENDS if write else ENDS, repeat=5):
        # Joined, a retry of several parts is one issue, which ends as its first part is to end the second time: well.
        run(names, write=write, apart=apart, in_flight=in_flight)
