"""Every operation × every violation → the status on each side, under both semantics and several sge limits."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.rdma.rig import ALL_ACCESS, SIZE, Rig, Side, make_rig
from transport.rdma.control import Control, fail
from transport.rdma.enums import Access, EventType, MwType, Opcode, QPState, SendFlag, WcFlag, WcOpcode, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.profiles import CONNECTX, RXE, SIW, DeviceProfile
from transport.rdma.qp import QPCap
from transport.rdma.sge import SGE
from transport.rdma.wr import MwBind, RecvWR, SendWR

W = WcStatus
SIGNALED = int(SendFlag.SIGNALED)
ROCE = [replace(RXE, max_send_sge=n, max_recv_sge=n, max_sge_rd=n) for n in (1, 2, 6, 32)]
ONE_SIDED = [Opcode.WRITE, Opcode.READ, Opcode.CMP_AND_SWP, Opcode.FETCH_AND_ADD, Opcode.ATOMIC_WRITE, Opcode.WRITE_WITH_IMM]
SENDS = [Opcode.SEND, Opcode.SEND_WITH_IMM]


def request(rig: Rig, op: Opcode, sges: list[SGE] | None = None) -> SendWR:
    """Return a legal request of any kind."""
    length = 8 if op in (Opcode.CMP_AND_SWP, Opcode.FETCH_AND_ADD, Opcode.ATOMIC_WRITE) else 64
    return SendWR(7, op, sges or [rig.a.sge(0, length)], SIGNALED, rig.b.mr.iova, rig.b.mr.rkey, imm=5)


def events(side: Side) -> list[EventType]:
    out = []
    while (event := side.context.get_async_event()) is not None:
        out.append(event.type)
        side.context.ack_async_event(event)
    return out


def outcome(rig: Rig) -> tuple[list[int], list[int]]:
    """Return the statuses that each side polls."""
    return [wc.status for wc in rig.a.poll()], [wc.status for wc in rig.b.poll()]


def other_pd_key(side: Side) -> int:
    return side.context.alloc_pd().reg_mr(bytearray(SIZE), ALL_ACCESS, side.mr.iova).rkey


def freed_key(side: Side) -> int:
    mr = side.pd.reg_mr(bytearray(SIZE), ALL_ACCESS, side.mr.iova)
    mr.dereg()
    return mr.rkey


def read_only_key(side: Side) -> int:
    return side.pd.reg_mr(bytearray(SIZE), Access.LOCAL_WRITE, side.mr.iova).rkey


BAD_REMOTE: dict[str, Callable[[Rig, SendWR], None]] = {
    "key": lambda rig, wr: setattr(wr, "rkey", wr.rkey ^ 1),
    "state": lambda rig, wr: setattr(wr, "rkey", freed_key(rig.b)),
    "pd": lambda rig, wr: setattr(wr, "rkey", other_pd_key(rig.b)),
    "permission": lambda rig, wr: setattr(wr, "rkey", read_only_key(rig.b)),
    "below": lambda rig, wr: setattr(wr, "remote_addr", rig.b.mr.iova - 8),
    "above": lambda rig, wr: setattr(wr, "remote_addr", rig.b.mr.iova + SIZE),
    "across": lambda rig, wr: setattr(wr, "remote_addr", rig.b.mr.iova + SIZE - (0 if wr.opcode in (5, 6, 15) else 8)),
    "wrap": lambda rig, wr: setattr(wr, "remote_addr", (1 << 64) - 8),
}


@pytest.mark.parametrize("profile", ROCE, ids=lambda profile: f"sge{profile.max_send_sge}")
@pytest.mark.parametrize("bad", list(BAD_REMOTE))
@pytest.mark.parametrize("op", ONE_SIDED, ids=lambda op: op.name)
def test_remote_violation(profile: DeviceProfile, op: Opcode, bad: str) -> None:
    """The requester learns of it, the responder fails too; not a byte has changed; what is behind is flushed."""
    rig = make_rig(profile)
    with_recv = op is Opcode.WRITE_WITH_IMM
    if with_recv:
        rig.b.recv()
    wr = request(rig, op)
    BAD_REMOTE[bad](rig, wr)
    rig.a.qp.post_send([wr, request(rig, Opcode.WRITE)])
    expected = [W.LOC_ACCESS_ERR] if with_recv else []
    assert outcome(rig) == ([W.REM_ACCESS_ERR, W.WR_FLUSH_ERR], expected)
    assert (rig.a.qp.state, rig.b.qp.state) == (QPState.ERR, QPState.ERR)
    assert events(rig.b) == ([] if with_recv else [EventType.QP_ACCESS_ERR])
    assert not any(rig.b.memory) and not any(rig.a.memory)


@pytest.mark.parametrize("op", ONE_SIDED, ids=lambda op: op.name)
def test_queue_pair_permission_comes_first(op: Opcode) -> None:
    """A queue pair that allows nothing answers "invalid request" before it looks at the key."""
    rig = make_rig(qp_access=0)
    wr = request(rig, op)
    wr.rkey ^= 1
    rig.a.qp.post_send(wr)
    assert outcome(rig) == ([W.REM_INV_REQ_ERR], [])
    assert events(rig.b) == [EventType.QP_REQ_ERR]


BAD_LOCAL: dict[str, Callable[[Side], SGE]] = {
    "key": lambda side: SGE(side.mr.iova, 8, side.mr.lkey ^ 1),
    "state": lambda side: SGE(side.mr.iova, 8, freed_key(side)),
    "pd": lambda side: SGE(side.mr.iova, 8, other_pd_key(side)),
    "bounds": lambda side: SGE(side.mr.iova + SIZE - 7, 8, side.mr.lkey),
}


@pytest.mark.parametrize("profile", [RXE, SIW], ids=lambda profile: profile.name)
@pytest.mark.parametrize("bad", list(BAD_LOCAL))
@pytest.mark.parametrize("op", [*SENDS, *ONE_SIDED], ids=lambda op: op.name)
def test_local_violation(profile: DeviceProfile, op: Opcode, bad: str) -> None:
    """Nothing reaches the peer, which stays as it was."""
    if op not in profile.ops:
        return
    rig = make_rig(profile)
    rig.b.recv()
    rig.a.qp.post_send(request(rig, op, [BAD_LOCAL[bad](rig.a)]))
    assert outcome(rig) == ([W.LOC_QP_OP_ERR if profile.iwarp else W.LOC_PROT_ERR], [])
    assert rig.b.qp.state is QPState.RTS


@pytest.mark.parametrize("op", [Opcode.READ, Opcode.CMP_AND_SWP, Opcode.FETCH_AND_ADD], ids=lambda op: op.name)
def test_sink_needs_local_write(op: Opcode) -> None:
    rig = make_rig()
    mr = rig.a.pd.reg_mr(bytearray(64), 0)
    rig.a.qp.post_send(request(rig, op, [SGE(mr.iova, 8, mr.lkey)]))
    assert outcome(rig) == ([W.LOC_PROT_ERR], [])


@pytest.mark.parametrize("op", SENDS, ids=lambda op: op.name)
def test_receive_too_small(op: Opcode) -> None:
    rig = make_rig()
    rig.b.recv(1, 0, 63)
    rig.b.recv(2)
    rig.a.qp.post_send(request(rig, op))
    assert outcome(rig) == ([W.REM_INV_REQ_ERR], [W.LOC_LEN_ERR, W.WR_FLUSH_ERR])
    assert not any(rig.b.memory)


@pytest.mark.parametrize("bad", list(BAD_LOCAL))
def test_receive_memory_bad(bad: str) -> None:
    rig = make_rig()
    sge = BAD_LOCAL[bad](rig.b)
    rig.b.qp.post_recv(RecvWR(1, [sge]))
    rig.a.qp.post_send(request(rig, Opcode.SEND, [rig.a.sge(0, 8)]))
    assert outcome(rig) == ([W.REM_OP_ERR], [W.LOC_PROT_ERR])


def test_zero_length_checks_no_key() -> None:
    rig = make_rig()
    for op in (Opcode.WRITE, Opcode.READ):
        rig.a.qp.post_send(SendWR(1, op, [SGE(0, 0, 0xBAD)], SIGNALED, 0, 0xBAD))
        assert outcome(rig) == ([W.SUCCESS], [])


def test_zero_length_send_is_received() -> None:
    rig = make_rig()
    rig.b.recv(3)
    rig.a.qp.post_send(SendWR(1, Opcode.SEND))
    (wc,) = rig.b.poll()
    assert (wc.wr_id, wc.status, wc.byte_len) == (3, 0, 0)


def test_not_ready_without_patience() -> None:
    rig = make_rig()
    rig.a.qp.post_send(request(rig, Opcode.SEND))
    assert outcome(rig) == ([W.RNR_RETRY_EXC_ERR], [])
    assert rig.b.qp.state is QPState.RTS


def test_peer_gone() -> None:
    rig = make_rig()
    rig.b.qp.destroy()
    rig.a.qp.post_send(request(rig, Opcode.WRITE))
    tries = 0
    while (deadline := rig.fabric.next_deadline()) is not None:
        tries += 1
        rig.fabric.advance(deadline)
    assert [wc.status for wc in rig.a.poll()] == [W.RETRY_EXC_ERR]
    assert tries == rig.a.qp.attr.retry_cnt + 1


@pytest.mark.parametrize("op", [Opcode.SEND, Opcode.WRITE, Opcode.READ], ids=lambda op: op.name)
def test_longer_than_the_port_allows(op: Opcode) -> None:
    """The limit is the profile's: at it a message passes, beyond it nothing leaves."""
    rig = make_rig(replace(RXE, max_msg=100))
    rig.b.recv(1, 0, 200)
    for length, status in ((100, W.SUCCESS), (101, W.LOC_LEN_ERR)):
        rig.b.poll()
        rig.a.qp.post_send(request(rig, op, [rig.a.sge(0, length)]))
        assert outcome(rig)[0] == [status]
    assert rig.b.qp.state is QPState.RTS


def test_too_many_reads_for_the_responder() -> None:
    rig = make_rig()
    rig.b.qp.attr.max_dest_rd_atomic = 0
    rig.a.qp.post_send(request(rig, Opcode.READ))
    assert outcome(rig) == ([W.REM_INV_REQ_ERR], [])


def test_bind_violation() -> None:
    rig = make_rig()
    mw = rig.a.pd.alloc_mw(MwType.TYPE_2)
    bind = MwBind(rig.a.mr, rig.a.mr.iova, 64, Access.REMOTE_READ)
    rig.a.qp.post_send(SendWR(1, Opcode.BIND_MW, mw=mw, key=mw.rkey + 1, bind=bind))
    assert outcome(rig) == ([W.MW_BIND_ERR], [])


def test_local_inv_of_an_unknown_key() -> None:
    rig = make_rig()
    rig.a.qp.post_send(SendWR(1, Opcode.LOCAL_INV, invalidate_rkey=0xBAD))
    assert outcome(rig) == ([W.LOC_QP_OP_ERR], [])


def test_send_with_inv_of_a_region_that_is_not_fast() -> None:
    rig = make_rig()
    rig.b.recv()
    rig.a.qp.post_send(SendWR(1, Opcode.SEND_WITH_INV, [rig.a.sge()], invalidate_rkey=rig.b.mr.rkey))
    assert outcome(rig) == ([W.REM_ACCESS_ERR], [W.REM_INV_REQ_ERR])
    assert rig.b.pd.device.mrs[rig.b.mr.rkey] is rig.b.mr


@pytest.mark.parametrize("status", [status for status in WcStatus if status], ids=lambda status: status.name)
def test_any_status_can_be_forced(status: WcStatus) -> None:
    rig = make_rig()
    Control.attach(rig.a.device).add(fail(status), nth=2)
    rig.a.qp.post_send([request(rig, Opcode.WRITE) for _ in range(3)])
    assert outcome(rig)[0] == [W.SUCCESS, status, W.WR_FLUSH_ERR]


def test_iwarp_sender_does_not_learn() -> None:
    """The send is complete when the stream has it; the responder's refusal ends the connection instead."""
    rig = make_rig(SIW)
    rig.a.qp.post_send([request(rig, Opcode.SEND), request(rig, Opcode.SEND)])
    assert outcome(rig) == ([W.SUCCESS, W.WR_FLUSH_ERR], [])
    assert events(rig.a) == [EventType.QP_FATAL]
    assert (rig.a.qp.state, rig.b.qp.state) == (QPState.ERR, QPState.ERR)


def test_iwarp_reader_sees_the_terminate() -> None:
    rig = make_rig(SIW)
    wr = request(rig, Opcode.READ)
    wr.rkey ^= 1
    rig.a.qp.post_send(wr)
    assert outcome(rig) == ([W.GENERAL_ERR], [])


def test_iwarp_read_sink_needs_remote_write() -> None:
    rig = make_rig(SIW, access=Access.LOCAL_WRITE | Access.REMOTE_READ)
    rig.a.qp.post_send(request(rig, Opcode.READ))
    assert outcome(rig) == ([W.LOC_QP_OP_ERR], [])


IMMEDIATE: list[tuple[str, DeviceProfile, Callable[[Rig], SendWR]]] = [
    ("inline read", RXE, lambda rig: replace(request(rig, Opcode.READ), flags=int(SendFlag.INLINE))),
    ("too much inline", RXE, lambda rig: SendWR(1, Opcode.SEND, [rig.a.sge(0, 65)], int(SendFlag.INLINE))),
    ("misaligned atomic", RXE, lambda rig: replace(request(rig, Opcode.FETCH_AND_ADD), remote_addr=rig.b.mr.iova + 1)),
    ("short atomic", RXE, lambda rig: request(rig, Opcode.CMP_AND_SWP, [rig.a.sge(0, 4)])),
    ("too many sges", RXE, lambda rig: request(rig, Opcode.SEND, [rig.a.sge(n, 1) for n in range(5)])),
    ("opcode", RXE, lambda rig: SendWR(1, Opcode.TSO)),
    ("an sge over 2 GiB", RXE, lambda rig: request(rig, Opcode.SEND, [replace(rig.a.sge(0, 1), length=(1 << 31) + 1)])),
    ("over 2 GiB in all", RXE, lambda rig: request(rig, Opcode.WRITE, [replace(rig.a.sge(0, 1), length=1 << 30)] * 3)),
    ("atomic on iwarp", SIW, lambda rig: request(rig, Opcode.FETCH_AND_ADD)),
    ("imm on iwarp", SIW, lambda rig: request(rig, Opcode.SEND_WITH_IMM)),
    ("two sges to a read on iwarp", SIW, lambda rig: request(rig, Opcode.READ, [rig.a.sge(0, 1), rig.a.sge(1, 1)])),
    ("fenced read on iwarp", SIW, lambda rig: replace(request(rig, Opcode.READ), flags=int(SendFlag.FENCE))),
]


@pytest.mark.parametrize(("profile", "make"), [row[1:] for row in IMMEDIATE], ids=[row[0] for row in IMMEDIATE])
def test_refused_at_the_post(profile: DeviceProfile, make: Callable[[Rig], SendWR]) -> None:
    """`bad_wr` is the first one refused: those in front of it are posted, those behind are not."""
    rig = make_rig(profile)
    bad = make(rig)
    with pytest.raises(VerbsError) as caught:
        rig.a.qp.post_send([replace(request(rig, Opcode.WRITE), wr_id=1), bad, replace(request(rig, Opcode.WRITE), wr_id=3)])
    assert caught.value.bad_wr is bad
    assert [wc.wr_id for wc in rig.a.poll()] == [1]
    assert rig.a.qp.state is QPState.RTS


def test_unsignaled_chain_fills_the_queue_for_good() -> None:
    """Slots of unsignaled requests come back only when a later signaled one is polled."""
    rig = make_rig(cap=QPCap(4, 4))
    quiet = replace(request(rig, Opcode.WRITE), flags=0)
    rig.a.qp.post_send([quiet] * 4)
    with pytest.raises(VerbsError, match="full"):
        rig.a.qp.post_send(request(rig, Opcode.WRITE))
    rig = make_rig(cap=QPCap(4, 4))
    rig.a.qp.post_send([quiet] * 3 + [request(rig, Opcode.WRITE)])
    with pytest.raises(VerbsError, match="full"):
        rig.a.qp.post_send(quiet)
    assert len(rig.a.poll()) == 1
    rig.a.qp.post_send([quiet] * 4)


@pytest.mark.parametrize("k", range(6))
def test_unsignaled_ones_complete_on_error_too(k: int) -> None:
    """A batch of six, only the last signaled; the k-th fails: it and all behind it complete, in order."""
    rig = make_rig()
    Control.attach(rig.a.device).add(fail(W.REM_OP_ERR), nth=k + 1)
    wrs = [replace(request(rig, Opcode.WRITE), wr_id=n, flags=SIGNALED if n == 5 else 0) for n in range(6)]
    rig.a.qp.post_send(wrs)
    wcs = rig.a.poll()
    assert [(wc.wr_id, wc.status) for wc in wcs] == [(n, W.REM_OP_ERR if n == k else W.WR_FLUSH_ERR) for n in range(k, 6)]
    assert rig.a.qp.requester.used == 0


def test_immediate_and_kinds() -> None:
    rig = make_rig(CONNECTX)
    for op, kind, flags in (
        (Opcode.SEND, WcOpcode.RECV, 0),
        (Opcode.SEND_WITH_IMM, WcOpcode.RECV, WcFlag.WITH_IMM),
        (Opcode.WRITE_WITH_IMM, WcOpcode.RECV_RDMA_WITH_IMM, WcFlag.WITH_IMM),
    ):
        rig.b.recv()
        rig.a.qp.post_send(request(rig, op))
        (wc,) = rig.b.poll()
        assert (wc.status, wc.opcode, wc.wc_flags, wc.byte_len, wc.imm) == (0, kind, flags, 64, 5 if flags else 0)
