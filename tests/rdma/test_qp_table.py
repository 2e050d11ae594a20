"""The state table is closed: for every pair of states and every mask the modify does what the table says, or nothing at all."""

import errno
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rdma.rig import Rig, make_rig
from transport.rdma.enums import AttrMask, EventType, QPState, QPType, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.profiles import CONNECTX, RXE, SIW
from transport.rdma.qp import QP, QPAttr, QPInit
from transport.rdma.qp_table import TABLE
from transport.rdma.wr import RecvWR, SendWR

M, S = AttrMask, QPState
# Every mask bit for which an attribute exists; what may be asked of an RC queue pair at all.
BITS = [bit for bit in AttrMask if bit not in (M.STATE, M.CUR_STATE, M.CAP, M.RATE_LIMIT)]
PATHS: dict[QPState, list[QPState]] = {
    S.RESET: [S.RESET],
    S.INIT: [S.RESET, S.INIT],
    S.RTR: [S.RESET, S.INIT, S.RTR],
    S.RTS: [S.RESET, S.INIT, S.RTR, S.RTS],
    S.SQD: [S.RESET, S.INIT, S.RTR, S.RTS, S.SQD],
    S.ERR: [S.RESET, S.INIT, S.ERR],
}


def good_attr(qp: QP, peer: QP) -> QPAttr:
    return replace(
        QPAttr(), port=1, access_flags=7, path_mtu=3, dest_qpn=peer.qp_num, rq_psn=5, sq_psn=9, max_rd_atomic=1,
        max_dest_rd_atomic=1, min_rnr_timer=1, timeout=1, retry_cnt=1, rnr_retry=1, av=replace(QPAttr().av, dgid=peer.device.gid),
    )  # fmt: skip


def fresh(profile_rig: Rig, state: QPState) -> QP:
    side = profile_rig.a
    qp = side.pd.create_qp(QPInit(side.cq, side.cq))
    qp.state = S.RESET
    attr = good_attr(qp, profile_rig.b.qp)
    for old, new in zip(PATHS[state], PATHS[state][1:], strict=False):
        attr.qp_state = new
        qp.modify(attr, TABLE[QPType.RC][old, new][0] | M.STATE)
    assert qp.state is state
    return qp


@pytest.mark.parametrize("old", list(PATHS))
@pytest.mark.parametrize("new", [state for state in QPState if state is not S.SQE])
def test_every_transition(old: QPState, new: QPState) -> None:
    rig = make_rig()
    row = TABLE[QPType.RC].get((old, new))
    masks = [0] if row is None else [int(row[0]), int(row[0] | row[1])]
    for mask in masks:
        qp = fresh(rig, old)
        attr = good_attr(qp, rig.b.qp)
        attr.qp_state = new
        # CUR_STATE is optional in some rows and then has to name a live state.
        attr.cur_state = old
        if row is None:
            with pytest.raises(VerbsError) as caught:
                qp.modify(attr, mask | M.STATE)
            assert caught.value.errno == errno.EINVAL
            assert qp.state is old
        else:
            qp.modify(attr, mask | M.STATE)
            assert qp.state is new
        qp.destroy()


@given(st.sampled_from(sorted(TABLE[QPType.RC])), st.sets(st.sampled_from(BITS)))
def test_every_mask(pair: tuple[QPState, QPState], bits: set[AttrMask]) -> None:
    """A modify succeeds exactly when all required bits and no foreign ones are in the mask; else nothing has changed."""
    old, new = pair
    if S.SQE in pair:
        return
    rig = make_rig()
    qp = fresh(rig, old)
    attr = good_attr(qp, rig.b.qp)
    attr.qp_state = new
    mask = sum(bits)
    required, optional = TABLE[QPType.RC][pair]
    legal = not int(required) & ~mask and not mask & ~int(required | optional)
    before = replace(qp.attr)
    if legal:
        qp.modify(attr, mask | M.STATE)
        assert qp.state is new
        return
    with pytest.raises(VerbsError) as caught:
        qp.modify(attr, mask | M.STATE)
    assert caught.value.errno == errno.EINVAL
    assert qp.attr == before and qp.state is old


@pytest.mark.parametrize(
    ("name", "value", "mask"),
    [
        ("retry_cnt", 8, M.RETRY_CNT), ("rnr_retry", 8, M.RNR_RETRY), ("min_rnr_timer", 32, M.MIN_RNR_TIMER),
        ("timeout", 32, M.TIMEOUT), ("port", 2, M.PORT), ("max_rd_atomic", 129, M.MAX_QP_RD_ATOMIC),
        ("max_dest_rd_atomic", 129, M.MAX_DEST_RD_ATOMIC), ("pkey_index", 1, M.PKEY_INDEX),
    ],
)  # fmt: skip
def test_ranges(name: str, value: int, mask: AttrMask) -> None:
    rig = make_rig()
    qp = fresh(rig, S.SQD)
    before = replace(qp.attr)
    attr = good_attr(qp, rig.b.qp)
    setattr(attr, name, value)
    with pytest.raises(VerbsError, match=name):
        qp.modify(attr, mask)
    assert qp.attr == before


def test_current_state_must_be_a_live_one() -> None:
    rig = make_rig()
    qp = fresh(rig, S.RTS)
    with pytest.raises(VerbsError, match="claimed"):
        qp.modify(QPAttr(qp_state=S.RTS, cur_state=S.INIT), M.STATE | M.CUR_STATE)
    qp.modify(QPAttr(qp_state=S.RTS, cur_state=S.RTS), M.STATE | M.CUR_STATE)


def test_born_in() -> None:
    for profile, state in ((RXE, S.RESET), (CONNECTX, S.RESET), (SIW, S.INIT)):
        side = make_rig(profile).a
        assert side.pd.create_qp(QPInit(side.cq, side.cq)).state is state


POSTS = [
    # state, post_recv: errno or None; post_send: errno or None
    (S.RESET, errno.EINVAL, errno.EINVAL),
    (S.INIT, None, errno.EINVAL),
    (S.RTR, None, errno.EINVAL),
    (S.RTS, None, None),
    (S.SQD, None, None),
    (S.ERR, None, None),
]


@pytest.mark.parametrize(("state", "recv_errno", "send_errno"), POSTS)
def test_posts(state: QPState, recv_errno: int | None, send_errno: int | None) -> None:
    rig = make_rig()
    qp = fresh(rig, state)
    recv, send = RecvWR(1), SendWR(2, sges=[rig.a.sge()])
    for post, expected in ((partial(qp.post_recv, recv), recv_errno), (partial(qp.post_send, send), send_errno)):
        if expected is None:
            post()
        else:
            with pytest.raises(VerbsError) as caught:
                post()
            assert caught.value.errno == expected and caught.value.bad_wr in (recv, send)
    if state is S.ERR:
        assert [(wc.wr_id, wc.status) for wc in rig.a.poll()] == [(1, WcStatus.WR_FLUSH_ERR), (2, WcStatus.WR_FLUSH_ERR)]
    else:
        assert not rig.a.poll()


def test_drained_queue_tells() -> None:
    """In SQD a new request waits; leaving SQD runs it."""
    rig = make_rig()
    rig.b.recv(1)
    rig.a.qp.modify(QPAttr(qp_state=S.SQD, en_sqd_async_notify=True), M.STATE | M.EN_SQD_ASYNC_NOTIFY)
    event = rig.a.context.get_async_event()
    assert event is not None and event.type is EventType.SQ_DRAINED
    rig.a.context.ack_async_event(event)
    rig.a.qp.post_send(SendWR(5, sges=[rig.a.sge()]))
    assert not rig.a.poll() and not rig.b.poll()
    rig.a.qp.modify(QPAttr(qp_state=S.RTS), M.STATE)
    assert [wc.wr_id for wc in rig.a.poll()] == [5]
    assert [wc.wr_id for wc in rig.b.poll()] == [1]


def test_reset_forgets_silently() -> None:
    rig = make_rig()
    rig.a.recv(1)
    rig.b.recv(2)
    rig.a.qp.post_send(SendWR(3, sges=[rig.a.sge()]))
    rig.a.qp.modify(QPAttr(qp_state=S.RESET), M.STATE)
    assert not rig.a.poll()
    assert rig.a.qp.requester.used == 0


def test_drain_markers_come_last() -> None:
    """With both queues full the spare slots still take the markers."""
    rig = make_rig()
    for n in range(rig.a.qp.cap.max_recv_wr):
        rig.a.recv(n)
    rig.a.qp.modify(QPAttr(qp_state=S.SQD), M.STATE)
    for n in range(rig.a.qp.cap.max_send_wr):
        rig.a.qp.post_send(SendWR(100 + n, sges=[rig.a.sge()], flags=0))
    rig.a.qp.drain(1000, 2000)
    wcs = rig.a.poll()
    assert {wc.status for wc in wcs} == {WcStatus.WR_FLUSH_ERR}
    sends = [wc.wr_id for wc in wcs if wc.opcode < 128]
    recvs = [wc.wr_id for wc in wcs if wc.opcode >= 128]
    assert sends == [*range(100, 132), 1000] and recvs == [*range(32), 2000]
    assert rig.a.qp.requester.used == 0
    rig.a.qp.destroy()
