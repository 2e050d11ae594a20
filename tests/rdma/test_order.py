"""Order, time and disturbance: fences, read depth, timers on a virtual clock, duplicates, control points, ledgers."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rdma.rig import SIZE, Rig, make_rig
from transport.rdma.control import (
    Control,
    before,
    drop_request,
    drop_response,
    fail,
    hold,
    hold_completions,
    partial,
    release_completions,
    rnr,
)
from transport.rdma.enums import Opcode, QPState, SendFlag, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.ledgers import Ledger, LedgerError
from transport.rdma.memory_fabric import connect_pair
from transport.rdma.mr import MR
from transport.rdma.operations import LOST
from transport.rdma.profiles import RXE, SIW, DeviceProfile
from transport.rdma.qp import QPInit
from transport.rdma.requester import RNR_TIMERS_US
from transport.rdma.sge import move
from transport.rdma.wr import RecvWR, SendWR

W = WcStatus
BOTH = (RXE, SIW)
FENCED = int(SendFlag.FENCE | SendFlag.SIGNALED)


def ids(rig: Rig) -> list[int]:
    return [wc.wr_id for wc in rig.a.poll()]


# ---- timers


@pytest.mark.parametrize("code", range(32))
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_not_ready_waits_its_own_time(code: int, retries: int) -> None:
    """Exactly rnr_retry + 1 attempts, each after the responder's timer; the transport's retry count stays as it is."""
    rig = make_rig(rnr_retry=retries)
    rig.b.qp.attr.min_rnr_timer = code
    rig.a.qp.post_send(rig.to_peer(Opcode.SEND))
    for n in range(1, retries + 1):
        due = rig.fabric.next_deadline()
        assert due == pytest.approx(n * RNR_TIMERS_US[code] * 1e-6)
        assert due is not None
        rig.fabric.advance(due - 1e-9)
        assert not rig.a.poll()
        rig.fabric.advance(due)
    assert [wc.status for wc in rig.a.poll()] == [W.RNR_RETRY_EXC_ERR]
    assert rig.a.qp.requester.retry_left == rig.a.qp.attr.retry_cnt


def test_seven_means_for_ever_and_a_receive_ends_it() -> None:
    rig = make_rig(rnr_retry=7)
    rig.a.qp.post_send([rig.to_peer(Opcode.SEND, wr_id=n) for n in range(2)])
    for _ in range(50):
        due = rig.fabric.next_deadline()
        assert due is not None
        rig.fabric.advance(due)
    rig.b.recv(1)
    rig.b.recv(2)
    assert not rig.b.poll(), "a posted receive does not end the wait, only time does"
    due = rig.fabric.next_deadline()
    assert due is not None
    rig.fabric.advance(due)
    assert ids(rig) == [0, 1] and [wc.wr_id for wc in rig.b.poll()] == [1, 2]


def test_infinite_timeout_never_fires() -> None:
    rig = make_rig()
    rig.a.qp.attr.timeout = 0
    rig.b.qp.destroy()
    rig.a.qp.post_send(rig.to_peer(Opcode.WRITE))
    assert rig.fabric.next_deadline() is None
    rig.fabric.advance(1e9)
    assert not rig.a.poll()


def test_waiting_request_keeps_its_own_copy() -> None:
    """The structure and an inline payload may be reused as soon as the post returned."""
    rig = make_rig(rnr_retry=7)
    rig.a.memory[:4] = b"then"
    wr = SendWR(1, Opcode.SEND, [rig.a.sge(0, 4)], int(SendFlag.INLINE | SendFlag.SIGNALED))
    rig.a.qp.post_send(wr)
    wr.wr_id, wr.sges = 9, ()
    rig.a.memory[:4] = b"now!"
    rig.b.recv(1)
    rig.fabric.advance(1)
    assert ids(rig) == [1] and rig.b.memory[:4] == b"then"


# ---- order


def held_read(rig: Rig, depth: int = 4, wr_id: int = 1) -> object:
    for side in (rig.a, rig.b):
        side.qp.attr.max_rd_atomic = side.qp.attr.max_dest_rd_atomic = depth
    control = rig.a.device.control or Control.attach(rig.a.device)
    rule = control.add(hold(), opcode=Opcode.READ)
    rig.a.qp.post_send(rig.to_peer(Opcode.READ, wr_id=wr_id))
    return rule


@pytest.mark.parametrize("profile", BOTH, ids=lambda profile: profile.name)
def test_fence_waits_for_reads_only(profile: DeviceProfile) -> None:
    """An unfenced write overtakes the read's answer, a fenced one does not start; all complete in post order."""
    rig = make_rig(profile)
    rule = held_read(rig)
    rig.a.memory[256:260] = b"free"
    rig.a.qp.post_send([
        replace(rig.to_peer(Opcode.WRITE, 4, off=512, wr_id=2), sges=[rig.a.sge(256, 4)]),
        replace(rig.to_peer(Opcode.WRITE, 4, off=600, wr_id=3), sges=[rig.a.sge(256, 4)], flags=FENCED),
    ])  # fmt: skip
    assert rig.b.memory[512:516] == b"free" and rig.b.memory[600:604] == bytes(4)
    assert not rig.a.poll()
    rule.release()  # type: ignore[attr-defined]
    assert rig.b.memory[600:604] == b"free"
    assert ids(rig) == [1, 2, 3]


def test_fence_does_not_wait_for_a_write() -> None:
    rig = make_rig()
    rule = Control.attach(rig.a.device).add(hold(), opcode=Opcode.WRITE)
    rig.a.qp.post_send(rig.to_peer(Opcode.WRITE, wr_id=1))
    rig.a.memory[:1] = b"x"
    rig.a.qp.post_send(replace(rig.to_peer(Opcode.WRITE, 1, off=700, wr_id=2), flags=FENCED))
    assert rig.b.memory[700:701] == b"x" and not rig.a.poll()
    rule.release()
    assert ids(rig) == [1, 2]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("profile", BOTH, ids=lambda profile: profile.name)
def test_read_depth_stalls_the_queue(profile: DeviceProfile, depth: int) -> None:
    rig = make_rig(profile)
    rules = [held_read(rig, depth, n) for n in range(5)]
    rig.a.qp.post_send(rig.to_peer(Opcode.WRITE, wr_id=9))
    requester = rig.a.qp.requester
    assert requester.outstanding_reads() == depth and len(requester.todo) == 6 - depth
    for rule in rules:
        rule.release()  # type: ignore[attr-defined]
        assert requester.outstanding_reads() <= depth
    assert ids(rig) == [0, 1, 2, 3, 4, 9]


@pytest.mark.parametrize("profile", BOTH, ids=lambda profile: profile.name)
def test_held_read_is_flushed_when_the_queue_fails(profile: DeviceProfile) -> None:
    rig = make_rig(profile)
    rule = held_read(rig)
    rig.b.memory[:5] = b"later"
    rig.a.qp.enter_error()
    assert [wc.status for wc in rig.a.poll()] == [W.WR_FLUSH_ERR]
    rule.release()  # type: ignore[attr-defined]
    assert rig.a.memory[:5] == bytes(5) and not rig.a.poll()


def test_region_gone_while_the_read_is_out() -> None:
    rig = make_rig()
    rule = held_read(rig)
    rig.a.mr.dereg()
    rule.release()  # type: ignore[attr-defined]
    assert [wc.status for wc in rig.a.poll()] == [W.LOC_PROT_ERR]


# ---- duplicates


def test_lost_answers_are_not_executed_twice() -> None:
    """SEND and atomics are answered again from memory, a READ is read again."""
    rig = make_rig()
    control = Control.attach(rig.a.device)
    rig.b.recv(1)
    rig.b.recv(2)
    control.add(drop_response(), opcode=Opcode.SEND)
    rig.a.qp.post_send(rig.to_peer(Opcode.SEND, wr_id=1))
    rig.fabric.advance(1)
    assert ids(rig) == [1] and [wc.wr_id for wc in rig.b.poll()] == [1]
    control.add(drop_response(), opcode=Opcode.FETCH_AND_ADD)
    wr = replace(rig.to_peer(Opcode.FETCH_AND_ADD, 8, wr_id=2), compare_add=5)
    rig.b.memory[:8] = (7).to_bytes(8, "little")
    rig.a.qp.post_send(wr)
    rig.fabric.advance(2)
    assert ids(rig) == [2]
    assert int.from_bytes(rig.a.memory[:8], "little") == 7 and int.from_bytes(rig.b.memory[:8], "little") == 12
    control.add(drop_response(), opcode=Opcode.READ)
    rig.a.qp.post_send(rig.to_peer(Opcode.READ, 8, wr_id=3))
    rig.b.memory[:8] = b"newer..."
    rig.fabric.advance(3)
    assert ids(rig) == [3] and rig.a.memory[:8] == b"newer..."


def test_lost_request_is_sent_again() -> None:
    rig = make_rig()
    rule = Control.attach(rig.a.device).add(drop_request(), times=3)
    rig.a.qp.post_send(rig.to_peer(Opcode.WRITE))
    rig.fabric.advance(10)
    assert ids(rig) == [7] and rule.fired == 3


def test_atomic_older_than_the_ring_is_dropped() -> None:
    rig = make_rig()
    responder = rig.b.qp.responder
    wr = replace(rig.to_peer(Opcode.FETCH_AND_ADD, 8), compare_add=1)
    for _ in range(3):
        rig.a.qp.post_send(wr)
    psns = [psn for psn, _ in responder.replies]
    assert len(psns) == 1
    assert responder.atomic(wr, psns[0] - 1, True, 0)[0] == LOST
    assert responder.atomic(wr, psns[0], True, 0) == (0, (2).to_bytes(8, "little"))


# ---- control points


def test_not_ready_on_purpose() -> None:
    rig = make_rig(rnr_retry=3)
    Control.attach(rig.a.device).add(rnr(2), times=1)
    rig.b.recv(1)
    rig.a.qp.post_send(rig.to_peer(Opcode.SEND))
    waits = 0
    while (due := rig.fabric.next_deadline()) is not None:
        waits += 1
        rig.fabric.advance(due)
    assert waits == 2 and ids(rig) == [7]


@pytest.mark.parametrize("order", [None, lambda n: list(reversed(range(n)))], ids=["forwards", "backwards"])
def test_partial_placement(order: object) -> None:
    """Some of the bytes are there, the request failed, and nothing beside them has changed."""
    rig = make_rig()
    rig.a.memory[:2048] = b"n" * 2048
    rig.b.memory[:] = b"o" * SIZE
    Control.attach(rig.a.device).add(partial(1024, W.REM_OP_ERR, order))  # type: ignore[arg-type]
    rig.a.qp.post_send(rig.to_peer(Opcode.WRITE, 2048))
    assert [wc.status for wc in rig.a.poll()] == [W.REM_OP_ERR]
    forwards = b"n" * 1024 + b"o" * 1024
    assert rig.b.memory[:2048] == (forwards if order is None else forwards[::-1])
    assert rig.b.memory[2048:] == b"o" * (SIZE - 2048)


def test_invalidated_in_flight() -> None:
    rig = make_rig()
    Control.attach(rig.a.device).add(before(rig.b.mr.dereg), nth=2)
    rig.a.qp.post_send([rig.to_peer(Opcode.WRITE, wr_id=n) for n in range(3)])
    assert [wc.status for wc in rig.a.poll()] == [0, W.REM_ACCESS_ERR, W.WR_FLUSH_ERR]


def test_error_at_any_point() -> None:
    rig = make_rig()
    Control.attach(rig.a.device).add(before(rig.b.qp.enter_error), wr_id=2)
    rig.a.qp.attr.retry_cnt = rig.a.qp.requester.retry_left = 0
    rig.a.qp.post_send([rig.to_peer(Opcode.WRITE, wr_id=n) for n in (1, 2, 3)])
    rig.fabric.advance(10)
    assert [(wc.wr_id, wc.status) for wc in rig.a.poll()] == [(1, 0), (2, W.RETRY_EXC_ERR), (3, W.WR_FLUSH_ERR)]


def test_forced_receive_failure() -> None:
    rig = make_rig()
    Control.attach(rig.b.device).fail_receive(W.LOC_PROT_ERR)
    rig.b.recv(1)
    rig.a.qp.post_send(rig.to_peer(Opcode.SEND))
    assert [wc.status for wc in rig.a.poll()] == [W.REM_OP_ERR]
    assert [wc.status for wc in rig.b.poll()] == [W.LOC_PROT_ERR]


def test_completions_can_be_held_and_reordered_between_queues() -> None:
    """The reply's receive may be polled before the request's send; one queue's own order cannot be broken."""
    rig = make_rig()
    hold_completions(rig.a.cq)
    rig.a.recv(10)
    rig.b.recv(20)
    rig.a.qp.post_send([rig.to_peer(Opcode.SEND, wr_id=1), rig.to_peer(Opcode.WRITE, wr_id=2)])
    rig.b.qp.post_send(SendWR(3, Opcode.SEND, [rig.b.sge()]))
    assert not rig.a.poll()
    with pytest.raises(VerbsError, match="stay in order"):
        release_completions(rig.a.cq, [1, 0, 2])
    release_completions(rig.a.cq, [2, 0, 1])
    assert [wc.wr_id for wc in rig.a.poll()] == [10, 1, 2]


def test_notification_can_be_lost() -> None:
    rig = make_rig()
    channel = rig.a.context.create_channel()
    cq = rig.a.context.create_cq(8, channel)
    qp = rig.a.pd.create_qp(replace_init(rig, cq))
    cq.lose_events = 1
    for expected in (False, True):
        cq.req_notify()
        qp.state = QPState.ERR
        qp.post_recv(RecvWR(1))
        assert (channel.get_event() is cq) == expected


def replace_init(rig: Rig, cq: object) -> "QPInit":
    return QPInit(cq, cq)  # type: ignore[arg-type]


def test_detached_device_runs_free() -> None:
    rig = make_rig()
    control = Control.attach(rig.a.device)
    control.add(fail(W.FATAL_ERR))
    control.detach()
    rig.a.qp.post_send(rig.to_peer(Opcode.WRITE))
    assert [wc.status for wc in rig.a.poll()] == [0]


# ---- ledgers


def test_ledger_of_a_clean_run() -> None:
    rig = make_rig()
    ledgers = [Ledger.attach(side.device) for side in (rig.a, rig.b)]
    for n in range(5):
        rig.b.recv(n, 0, 64)
        rig.a.qp.post_send(rig.to_peer(Opcode.SEND, wr_id=n, flags=0 if n < 4 else 2))
        rig.b.poll()
    rig.a.poll()
    for side in (rig.a, rig.b):
        side.qp.destroy()
        side.mr.dereg()
    for ledger in ledgers:
        ledger.close()
    assert (ledgers[0].posted, ledgers[0].completed, ledgers[0].reclaimed) == (5, 1, 4)


def test_ledger_names_the_overlap() -> None:
    rig = make_rig()
    Ledger.attach(rig.a.device)
    rig.a.recv(1, 0, 64)
    with pytest.raises(LedgerError, match=r"receive 2 .* names memory that receive 1"):
        rig.a.recv(2, 63, 64)


def test_ledger_sees_a_source_changed_too_early() -> None:
    rig = make_rig(rnr_retry=7)
    Ledger.attach(rig.a.device)
    rig.a.qp.post_send(rig.to_peer(Opcode.SEND, wr_id=4))
    rig.a.memory[0] ^= 1
    rig.b.recv()
    with pytest.raises(LedgerError, match=r"memory of send 4 .* was changed"):
        rig.fabric.advance(1)


def test_ledger_guards_a_buffer_the_device_has() -> None:
    rig = make_rig()
    ledger = Ledger.attach(rig.a.device)
    rig.a.recv(1, 0, 64)
    ledger.check_free(rig.a.mr.iova + 64, 10, "read")
    with pytest.raises(LedgerError, match="read touches memory that receive 1"):
        ledger.check_free(rig.a.mr.iova + 60, 10, "read")


def test_ledger_sees_a_peer_write_to_posted_memory() -> None:
    rig = make_rig()
    Ledger.attach(rig.b.device)
    rig.b.recv(1, 100, 50)
    rig.a.qp.post_send(rig.to_peer(Opcode.WRITE, off=36))
    with pytest.raises(LedgerError, match=r"request 7 of the peer .* writes to memory that receive 1"):
        rig.a.qp.post_send(rig.to_peer(Opcode.WRITE, off=37))


def test_ledger_sees_a_key_that_was_not_changed() -> None:
    rig = make_rig()
    Ledger.attach(rig.a.device)
    mr = rig.a.pd.alloc_mr(1)
    for life in range(2):
        mr.map_sg([memoryview(bytearray(8))], 0)
        wr = SendWR(life, Opcode.REG_MR, mr=mr, key=mr.lkey)
        if life:
            with pytest.raises(LedgerError, match=r"REG_MR 1 .*of an earlier life"):
                rig.a.qp.post_send(wr)
        else:
            rig.a.qp.post_send([wr, SendWR(9, Opcode.LOCAL_INV, invalidate_rkey=mr.lkey)])


def test_ledger_tells_what_is_left() -> None:
    rig = make_rig()
    ledger = Ledger.attach(rig.a.device)
    rig.a.recv(1)
    with pytest.raises(LedgerError, match=r"still open: receive 1 .*region .*QP"):
        ledger.close()


def test_ledger_follows_shared_receives() -> None:
    """A receive of a shared queue is the device's from its post to its completion, whichever queue pair takes it."""
    rig = make_rig()
    srq = rig.b.pd.create_srq(8)
    qp = rig.b.pd.create_qp(QPInit(rig.b.cq, rig.b.cq, srq=srq))
    rig.a.qp.destroy()
    sender = rig.a.pd.create_qp(QPInit(rig.a.cq, rig.a.cq))
    connect_pair(sender, qp)
    ledger = Ledger.attach(rig.b.device)
    srq.post_recv([RecvWR(1, [rig.b.sge(0, 64)]), RecvWR(2, [rig.b.sge(64, 64)]), RecvWR(3, [rig.b.sge(128, 64)])])
    with pytest.raises(LedgerError, match=r"receive 4 on the shared queue names memory that receive 2"):
        srq.post_recv(RecvWR(4, [rig.b.sge(100, 1)]))
    sender.post_send(rig.to_peer(Opcode.SEND))
    ledger.check_free(rig.b.mr.iova, 64, "read")
    with pytest.raises(LedgerError, match=r"read touches memory that receive 2 on the shared queue"):
        ledger.check_free(rig.b.mr.iova + 64, 64, "read")
    assert ledger.completed == 1
    for dead in (qp, rig.b.qp, srq, rig.b.mr):
        (dead.dereg if isinstance(dead, MR) else dead.destroy)()
    ledger.close()


# ---- bytes


@given(
    source=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    spare=st.integers(0, 20),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
)
def test_move_equals_concatenation(source: list[int], spare: int, cuts: list[int]) -> None:
    total = sum(source)
    pieces = [memoryview(bytes([n + 1]) * length) for n, length in enumerate(source)]
    dest = [memoryview(bytearray(cut)) for cut in cuts]
    room = sum(cuts)
    if room < total + spare:
        dest.append(memoryview(bytearray(total + spare - room)))
    move(dest, pieces)
    flat = b"".join(dest)
    assert flat[:total] == b"".join(pieces) and not any(flat[total:])


@given(
    sends=st.lists(st.integers(0, 300), min_size=1, max_size=6),
    recvs=st.lists(st.integers(0, 300), min_size=1, max_size=6),
    sge=st.sampled_from([1, 2, 6, 32]),
)
@settings(max_examples=60)
def test_scatter_gather_round_trip(sends: list[int], recvs: list[int], sge: int) -> None:
    """Whatever the layout: all bytes in order, or LOC_LEN_ERR and not one byte."""
    rig = make_rig(replace(RXE, max_send_sge=sge, max_recv_sge=sge))
    cap = rig.a.qp.cap
    sends, recvs = sends[: cap.max_send_sge], recvs[: cap.max_recv_sge]
    rig.a.memory[:] = bytes(n * 7 % 251 for n in range(SIZE))
    offs = [n * 1000 for n in range(6)]
    rig.b.qp.post_recv(RecvWR(1, [rig.b.sge(off, size) for off, size in zip(offs, recvs, strict=False)]))
    rig.a.qp.post_send(SendWR(1, Opcode.SEND, [rig.a.sge(off, size) for off, size in zip(offs, sends, strict=False)]))
    (wc,) = rig.b.poll()
    sent = b"".join(bytes(rig.a.memory[off : off + size]) for off, size in zip(offs, sends, strict=False))
    got = b"".join(bytes(rig.b.memory[off : off + size]) for off, size in zip(offs, recvs, strict=False))
    if len(sent) > len(got):
        assert wc.status == W.LOC_LEN_ERR and not any(rig.b.memory)
    else:
        assert (wc.status, wc.byte_len) == (0, len(sent)) and got[: len(sent)] == sent and not any(got[len(sent) :])
