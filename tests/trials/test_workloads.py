"""The workloads: their oracles hold without faults and under them, and notice what is wrong."""

import errno
from typing import Final

import pytest

from trials.case import IN_PROCESS, Case, run_case
from trials.faults.plan import Plan
from trials.workloads import SCENARIOS
from trials.workloads.bytes_model import BytesModel


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_trial_without_faults(scenario: str) -> None:
    outcome = run_case(Case(scenario, 3, "stream", encrypt=True, operations=12, plan=Plan()))
    assert outcome.failure is None
    assert outcome.history is not None
    # An encrypted volume has no hard links, and a file that was replaced is not kept for those who have it open.
    if scenario != "tamper":
        assert {op.error for op in outcome.history.ops} <= {0, errno.EOPNOTSUPP, errno.ESTALE}


def check_seeds(scenario: str, encrypt: bool, seeds: range, operations: int) -> None:
    for seed in seeds:
        transport = IN_PROCESS[seed % len(IN_PROCESS)]
        outcome = run_case(Case(scenario, seed, transport, encrypt, operations=operations))
        assert outcome.failure is None, f"{outcome.case}: {outcome.failure}"


COMBINATIONS: Final = [
    pytest.param(scenario, encrypt, id=f"{scenario}-{'encrypted' if encrypt else 'plain'}")
    for scenario in SCENARIOS
    for encrypt in (False, True)
]


@pytest.mark.parametrize("scenario, encrypt", COMBINATIONS)
def test_trials_under_faults(scenario: str, encrypt: bool) -> None:
    check_seeds(scenario, encrypt, range(100, 103), operations=8)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario, encrypt", COMBINATIONS)
def test_more_trials_under_faults(scenario: str, encrypt: bool) -> None:
    check_seeds(scenario, encrypt, range(200, 230), operations=15)


def test_bytes_that_may_be_there() -> None:
    model = BytesModel()
    model.put(0, b"a" * 10)
    model.made_safe()
    model.put(5, b"b" * 10)
    assert model.check(0, 20, b"aaaaabbbbbbbbbb") is None
    assert model.check(0, 20, b"aaaaabbbbbbbbbc") == 14
    assert model.check(0, 20, b"aaaaa") == "5 bytes, where 15 are there"
    model.may_have_lost()
    for right in (b"aaaaaaaaaa", b"aaaaabbabb", b"aaaaabbbbbbbb\0b"):
        assert model.check(0, 20, right) is None
    assert model.check(0, 20, b"abaaaaaaaa") == 1
    assert model.check(0, 20, b"aaaaaaaaa") == "9 bytes, not 10 to 15"
    model.may_have_resized(3)
    assert model.check(0, 20, b"aaa") is None
    assert model.check(0, 20, b"aaa\0\0bbbbb") is None
    assert model.check(0, 20, b"aa\0") == 2
    model.may_have_put(18, b"c")
    assert model.check(0, 20, b"aaaaabbbbbbbbbb\0\0\0c") is None
    assert not model.sure


def test_sizes_that_a_crash_may_leave() -> None:
    model = BytesModel()
    model.put(0, b"a" * 10)
    model.made_safe()
    model.put(10, b"b" * 20)
    model.resize(4)
    model.put(0, b"c" * 8)
    assert model.sizes == (8, 8)
    model.may_have_lost()
    assert model.sizes == (4, 30), "what made it longer was kept and what cut it lost, or the other way round"


FOUND = (
    # A folio whose unstable bytes were dropped while a commit was under way: the server's restart was told to nobody.
    Case("append-log", 1006, "rdma-memory", operations=14, plan=Plan.from_json(
        '[[["S9","nth(commit, 3)","",{"restart_s":1.8577,"unsynced":"none"}],["S9","nth(commit, 9)","",{"restart_s":1.3747}]],'
        '{"rsize":16384,"timeout_s":5.0}]'
    )),
    # A lease that came with an open vouched for what had been cached before it, and one of an earlier boot for everything.
    Case("sharing", 1, "stream", clients=3, operations=14, plan=Plan.from_json(
        '[[["S22","at(0.0195)","",{"restart_s":0.9475,"unsynced":"all"}],["S26","p(await, 0.9287)","",{"for_s":0.1856}],'
        '["S13","after(write, 3)","",{"restart_s":0.1269,"unsynced":"prefix"}],'
        '["S13","after(write, 10)","",{"restart_s":1.2976,"unsynced":"prefix"}]],{"channels":3,"leases":1,"timeout_s":15.0}]'
    )),
    # A close beside another task's commit said that all was safe before the commit had failed.
    Case("append-log", 38, "stream", operations=5),
    # A crash takes a truncation that was not safe, but not the write before it, which the next open had made so.
    Case("own-files", 202, "rdma-memory", operations=15),
    # A file that was made, and removed by another client before it was open, was made a second time by the same call.
    Case("metadata", 203, "rdma-stream", operations=15),
    # A server that writes somewhere else into what was offered was taken for one that writes outside of it.
    Case("rename-swap", 45, "rdma-memory", operations=5),
    # A crash beside a write takes a truncation that was not safe: a direct read ends earlier, which is nobody's fault.
    Case("own-files", 44, "rdma-stream", operations=5),
    # A connection that ended right behind the answer to its BIND was used, and the calls on it waited for ever.
    Case("stream-copy", 210, "stream", operations=15),
    # Two writes that overlap in time and land piece by piece leave a cell of both.
    Case("racing", 204, "stream", operations=15),
    # What an earlier start of the server left behind was settled together with a small file's first block, which had grown.
    Case("stream-copy", 36, "rdma-memory", encrypt=True, operations=2, plan=Plan.from_json(
        '[[["S11","after(write, 3)","",{"restart_s":0.55,"unsynced":"any"}]],{}]'
    )),
    # A server that forgets a commit is noticed by the client that made it, not by one that comes new.
    Case("own-files", 47, "rdma-memory", encrypt=True, operations=1, plan=Plan.from_json(
        '[[["S15","nth(request, 1)","",{"attack":"A35:tags-only","for_s":0.0051}]],{}]'
    )),
    Case("racing", 6007, "rdma-memory", encrypt=True, operations=30, keep=(2, 24, 25, 28), schedule=(), plan=Plan.from_json(
        '[[["P4","at(0)","",{}],["K8","nth(request, 1)","",{"attack":"A04:block+entry","for_s":0.0171}],'
        '["S15","nth(request, 1)","",{"attack":"A35:dropped","for_s":0.01}]],{}]'
    )),
    # An answer to the recall of a lease that was revoked took the one that had been given since.
    Case("sharing", 1000, "stream", clients=3, operations=15),
    # A claim of this start of the server was forgotten with those of the one before: nobody else could write there.
    Case("racing", 1002, "stream", encrypt=True, operations=30),
    # A write that was sent again to the next start of the server, which knew nothing of its claim, undid another client's.
    Case("racing", 7146, "stream", encrypt=True, operations=20),
    # A block was taken for lost in a power cut, since the read that looked for it was a short one.
    Case("stream-copy", 9, "rdma-stream", encrypt=True, operations=2, plan=Plan.from_json(
        '[[["S13","after(write, 3)","",{"restart_s":0.6657,"unsynced":"prefix"}],["S1","p(read, 0.287)"]],'
        '{"cache_bytes":65536,"channels":3,"keepalive_s":3.0}]'
    )),
    # The claim under which a block was read went with a start of the server, and the block was written under the next one.
    Case("mixed", 27, "stream", encrypt=True, keep=(54, 59, 60, 77, 82, 99), schedule=(), plan=Plan.from_json(
        '[[["S21","nth(request, 39)","",{"notes":"lost","restart_s":0.0,"unsynced":"all"}]]]'
    )),
    # A write that failed had taken the place of one that was not committed, and whoever was to settle it did not look there.
    Case("append-log", 1020, "stream", encrypt=True, operations=20),
    # What a client had not committed when the server was started again was laid over what another client wrote there since.
    Case("fsx", 2032, "rdma-memory", encrypt=True, operations=20),
    # A block written after a start of the server passed for one that had been lost in it, since a read of it went wrong.
    Case("append-log", 3010, "rdma-memory", encrypt=True, operations=25),
    # A lying server's status that is no error's number came out as errno.
    Case("tamper", 1045, "rdma-memory", encrypt=True, operations=20),
    # An attack that was disturbed by a fault itself kept the memory that was lent for the write.
    Case("tamper", 1052, "rdma-stream", encrypt=True, operations=20),
)  # fmt: skip


@pytest.mark.parametrize("case", FOUND, ids=lambda case: f"{case.scenario}-{case.seed}")
def test_what_trials_have_found(case: Case) -> None:
    outcome = run_case(case)
    assert outcome.failure is None, outcome.failure
