"""Objects beside the queue pair: completion queues, channels, shared receives, windows, device memory, regions, events."""

import errno
from dataclasses import replace

import pytest

from tests.rdma.rig import ALL_ACCESS, Rig, make_rig
from transport.rdma.ah import AddressVector
from transport.rdma.enums import Access, EventType, MrState, MwType, Opcode, QPState, QPType, ReregFlag, SendFlag, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.memory_fabric import MemoryFabric
from transport.rdma.mr import inc_key
from transport.rdma.profiles import CONNECTX, PROFILES, RXE, SIW, TINY
from transport.rdma.qp import QPAttr, QPCap, QPInit
from transport.rdma.sge import SGE
from transport.rdma.wr import WC, MwBind, RecvWR, SendWR

W = WcStatus


def write(rig: Rig, rkey: int, addr: int, length: int = 8) -> list[int]:
    """WRITE from a to b and return a's statuses."""
    rig.a.qp.post_send(SendWR(1, Opcode.WRITE, [rig.a.sge(0, length)], 2, addr, rkey))
    return [wc.status for wc in rig.a.poll()]


# ---- completion queues


def test_overrun_breaks_the_queue_and_its_queue_pairs() -> None:
    rig = make_rig()
    rig.a.cq.cqe = 2
    for _ in range(3):
        rig.a.qp.post_send(rig.to_peer(Opcode.WRITE))
    assert [wc.status for wc in rig.a.poll()] == [0, 0]
    assert rig.a.qp.state is QPState.ERR
    kinds = []
    while (event := rig.a.context.get_async_event()) is not None:
        kinds.append(event.type)
        rig.a.context.ack_async_event(event)
    assert kinds == [EventType.CQ_ERR, EventType.QP_FATAL]


def test_resize() -> None:
    rig = make_rig()
    rig.a.qp.post_send([rig.to_peer(Opcode.WRITE)] * 3)
    for cqe in (0, 2, RXE.max_cqe + 1):
        with pytest.raises(VerbsError) as caught:
            rig.a.cq.resize(cqe)
        assert caught.value.errno == errno.EINVAL
    rig.a.cq.resize(3)
    assert rig.a.cq.cqe == 3 and len(rig.a.poll()) == 3
    with pytest.raises(VerbsError) as unsupported:
        make_rig(SIW).a.cq.resize(7)
    assert unsupported.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize(
    ("arms", "flags", "status", "fires"),
    [
        ([True], 0, 0, False), ([True], int(SendFlag.SOLICITED), 0, True), ([True], 0, 1, True), ([False], 0, 0, True),
        ([True, False], 0, 0, True), ([False, True], 0, 0, True), ([], 0, 0, False),
    ],
)  # fmt: skip
def test_what_fires(arms: list[bool], flags: int, status: int, fires: bool) -> None:
    """Solicited-only fires for solicited messages and failures; arms are or-ed; without an arm nothing fires."""
    rig = make_rig()
    seen: list[int] = []
    channel = rig.b.context.create_channel(lambda: seen.append(1))
    cq = rig.b.context.create_cq(8, channel)
    for solicited_only in arms:
        cq.req_notify(solicited_only)
    cq.push(WC(1, status, 128, 1), bool(flags))
    cq.push(WC(2, status, 128, 1), bool(flags))
    assert bool(seen) == fires and len(seen) <= 1
    assert (channel.get_event() is cq) == fires


def test_arming_a_queue_that_is_not_empty_does_not_fire() -> None:
    rig = make_rig()
    channel = rig.a.context.create_channel()
    cq = rig.a.context.create_cq(8, channel)
    cq.push(WC(1, 0, 0, 1))
    cq.req_notify()
    assert channel.get_event() is None
    cq.push(WC(2, 0, 0, 1))
    assert channel.get_event() is cq


def test_destroy_order() -> None:
    """Whatever still has users or unacknowledged events says EBUSY and stays."""
    rig = make_rig()
    side = rig.a
    channel = side.context.create_channel()
    cq = side.context.create_cq(4, channel)
    srq = side.pd.create_srq(4)
    qp = side.pd.create_qp(QPInit(cq, cq, srq=srq))
    mw = side.pd.alloc_mw(MwType.TYPE_2)
    for busy in (channel.destroy, cq.destroy, srq.destroy, side.pd.dealloc, side.context.close):
        with pytest.raises(VerbsError) as caught:
            busy()
        assert caught.value.errno == errno.EBUSY
    cq.req_notify()
    cq.push(WC(1, 0, 0, 1))
    assert channel.get_event() is cq
    qp.destroy()
    qp.destroy()
    with pytest.raises(VerbsError, match="acknowledged"):
        cq.destroy()
    with pytest.raises(VerbsError, match="delivered"):
        cq.ack_events(2)
    cq.ack_events(1)
    for gone in (cq.destroy, channel.destroy, srq.destroy, mw.dealloc, side.qp.destroy, side.cq.destroy, side.mr.dereg):
        gone()
        gone()
    side.pd.dealloc()
    side.context.close()


def test_asynchronous_events_hold_their_element() -> None:
    rig = make_rig(qp_access=0)
    assert write(rig, rig.b.mr.rkey, rig.b.mr.iova) == [W.REM_INV_REQ_ERR]
    event = rig.b.context.get_async_event()
    assert event is not None and event.element is rig.b.qp
    with pytest.raises(VerbsError, match="acknowledged"):
        rig.b.qp.destroy()
    rig.b.context.ack_async_event(event)
    with pytest.raises(VerbsError, match="delivered"):
        rig.b.context.ack_async_event(event)
    rig.b.qp.destroy()


# ---- shared receive queues


def test_shared_receives_and_the_limit() -> None:
    """The event comes once, when the count falls below the limit; the receives left stay when a queue pair fails."""
    rig = make_rig()
    srq = rig.b.pd.create_srq(10)
    qp = rig.b.pd.create_qp(QPInit(rig.b.cq, rig.b.cq, srq=srq))
    qp.state, qp.attr = rig.b.qp.state, replace(rig.b.qp.attr)
    rig.a.qp.attr.dest_qpn = qp.qp_num
    rig.a.qp.requester.peer_cache = None
    qp.responder.psn = rig.b.qp.responder.psn
    srq.post_recv([RecvWR(n, [rig.b.sge(0, 64)]) for n in range(10)])
    with pytest.raises(VerbsError, match="full"):
        srq.post_recv(RecvWR(11))
    with pytest.raises(VerbsError, match="shared"):
        qp.post_recv(RecvWR(1))
    srq.modify(limit=7)
    for n in range(5):
        rig.a.qp.post_send(SendWR(n, Opcode.SEND, [rig.a.sge()]))
        event = rig.b.context.get_async_event()
        assert (event is not None and event.type is EventType.SRQ_LIMIT_REACHED) == (n == 3)
    assert [wc.wr_id for wc in rig.b.poll()] == [0, 1, 2, 3, 4]
    qp.enter_error()
    last = rig.b.context.get_async_event()
    assert last is not None and last.type is EventType.QP_LAST_WQE_REACHED
    assert not rig.b.poll() and len(srq.queue) == 5
    with pytest.raises(VerbsError, match="size"):
        srq.modify(max_wr=4)
    with pytest.raises(VerbsError, match="limit"):
        srq.modify(max_wr=8, limit=9)


# ---- memory windows


@pytest.fixture
def window_rig() -> Rig:
    return make_rig(access=ALL_ACCESS | Access.MW_BIND)


def bind(rig: Rig, mw_type: MwType, off: int = 64, length: int = 64, access: int = Access.REMOTE_WRITE) -> tuple[int, int]:
    """Bind a window on b; return its key and b's status."""
    mw = rig.b.pd.alloc_mw(mw_type)
    key = inc_key(mw.rkey)
    rig.b.qp.post_send(SendWR(1, Opcode.BIND_MW, mw=mw, key=key, bind=MwBind(rig.b.mr, rig.b.mr.iova + off, length, access)))
    (wc,) = rig.b.poll()
    return key, wc.status


@pytest.mark.parametrize("mw_type", list(MwType))
@pytest.mark.parametrize(("off", "length", "expected"), [(64, 64, 0), (63, 8, 10), (120, 9, 10), (127, 1, 0), (128, 1, 10)])
def test_window_bounds(window_rig: Rig, mw_type: MwType, off: int, length: int, expected: int) -> None:
    key, status = bind(window_rig, mw_type)
    assert status == 0
    assert write(window_rig, key, window_rig.b.mr.iova + off, length) == [expected]


def test_zero_based_window(window_rig: Rig) -> None:
    key, _ = bind(window_rig, MwType.TYPE_2, access=Access.REMOTE_WRITE | Access.ZERO_BASED)
    window_rig.a.memory[:4] = b"data"
    assert write(window_rig, key, 0, 4) == [0]
    assert window_rig.b.memory[64:68] == b"data"


def test_window_permission(window_rig: Rig) -> None:
    key, _ = bind(window_rig, MwType.TYPE_1, access=Access.REMOTE_READ)
    assert write(window_rig, key, window_rig.b.mr.iova + 64) == [W.REM_ACCESS_ERR]


def test_region_with_a_window_cannot_go(window_rig: Rig) -> None:
    key, _ = bind(window_rig, MwType.TYPE_2)
    with pytest.raises(VerbsError) as caught:
        window_rig.b.mr.dereg()
    assert caught.value.errno == errno.EBUSY
    window_rig.b.device.mws[key].dealloc()
    window_rig.b.mr.dereg()


def test_type_2_is_bound_once_and_invalidated(window_rig: Rig) -> None:
    rig = window_rig
    key, _ = bind(rig, MwType.TYPE_2)
    mw = rig.b.device.mws[key]
    again = MwBind(rig.b.mr, rig.b.mr.iova, 8, Access.REMOTE_WRITE)
    assert mw.refusal(rig.b.qp, again, inc_key(key)) is not None
    rig.b.recv()
    rig.a.qp.post_send(SendWR(1, Opcode.SEND_WITH_INV, [rig.a.sge()], invalidate_rkey=key))
    assert [wc.status for wc in rig.a.poll()] == [0]
    (wc,) = rig.b.poll()
    assert wc.imm == key and mw.state is MrState.FREE
    assert write(rig, key, rig.b.mr.iova + 64) == [W.REM_ACCESS_ERR]


def test_rebinding_type_1_kills_the_old_key(window_rig: Rig) -> None:
    rig = window_rig
    key, _ = bind(rig, MwType.TYPE_1)
    mw = rig.b.device.mws[key]
    rig.b.qp.post_send(SendWR(1, Opcode.BIND_MW, mw=mw, key=inc_key(key), bind=MwBind(rig.b.mr, 0, 0, 0)))
    assert [wc.status for wc in rig.b.poll()] == [0]
    assert rig.b.mr.nr_windows == 0
    assert write(rig, key, rig.b.mr.iova + 64) == [W.REM_ACCESS_ERR]


@pytest.mark.parametrize(
    ("access", "bind_access"),
    [(Access.LOCAL_WRITE, Access.REMOTE_WRITE), (Access.MW_BIND, Access.REMOTE_WRITE)],
    ids=["no bind permission", "not writable here"],
)
def test_window_needs_a_region_that_allows_it(access: Access, bind_access: Access) -> None:
    rig = make_rig(access=access)
    assert bind(rig, MwType.TYPE_2, access=bind_access)[1] == W.MW_BIND_ERR


# ---- fast registration


def test_fast_registration_lives() -> None:
    """A key of one life is dead in all the others; only the low byte changes; the memory is what was mapped, gaps included."""
    rig = make_rig()
    mr = rig.b.pd.alloc_mr(4)
    first = mr.lkey
    keys = []
    for life in range(5):
        memory = [memoryview(bytearray(3 + life)), memoryview(bytearray(5))]
        assert mr.map_sg(memory, 0x5000) == 8 + life
        key = inc_key(mr.lkey)
        rig.b.qp.post_send(SendWR(1, Opcode.REG_MR, mr=mr, key=key, access=Access.LOCAL_WRITE | Access.REMOTE_WRITE))
        assert [wc.status for wc in rig.b.poll()] == [0]
        rig.a.memory[:8] = b"abcdefgh"
        assert write(rig, key, 0x5000) == [0]
        assert bytes(memory[0]) + bytes(memory[1]) == b"abcdefgh" + bytes(life)
        with pytest.raises(VerbsError):
            mr.map_sg(memory, 0x5000)
        rig.b.qp.post_send(SendWR(2, Opcode.LOCAL_INV, invalidate_rkey=key))
        assert [wc.status for wc in rig.b.poll()] == [0]
        keys.append(key)
    assert len(set(keys)) == 5 and {key >> 8 for key in keys} == {first >> 8}
    with pytest.raises(VerbsError):
        mr.map_sg([memoryview(bytearray(1))] * 5, 0)
    assert mr.state is MrState.FREE
    assert write(rig, keys[2], 0x5000) == [W.REM_ACCESS_ERR]


@pytest.mark.parametrize("bad", ["index", "valid", "pd", "user region"])
def test_bad_registration(bad: str) -> None:
    rig = make_rig()
    pd = rig.a.context.alloc_pd() if bad == "pd" else rig.a.pd
    mr = rig.a.mr if bad == "user region" else pd.alloc_mr(1)
    if bad == "valid":
        mr.state = MrState.VALID
    key = mr.lkey + (0x100 if bad == "index" else 0)
    rig.a.qp.post_send(SendWR(1, Opcode.REG_MR, mr=mr, key=key, access=0))
    assert [wc.status for wc in rig.a.poll()] == [W.LOC_QP_OP_ERR]


# ---- registration


@pytest.mark.parametrize("access", [Access.REMOTE_WRITE, Access.REMOTE_ATOMIC, 1 << 15])
def test_impossible_permissions(access: int) -> None:
    with pytest.raises(VerbsError) as caught:
        make_rig().a.pd.reg_mr(bytearray(8), access)
    assert caught.value.errno == errno.EINVAL


def test_read_only_memory_is_not_written() -> None:
    rig = make_rig()
    with pytest.raises(VerbsError) as caught:
        rig.a.pd.reg_mr([memoryview(b"constant")], Access.LOCAL_WRITE)
    assert caught.value.errno == errno.EFAULT
    assert rig.a.pd.reg_mr([memoryview(b"constant")], Access.REMOTE_READ).read(8) == b"constant"


def test_zero_based_and_chosen_addresses() -> None:
    rig = make_rig()
    rig.a.memory[:4] = b"zero"
    for mr in (
        rig.b.pd.reg_mr(bytearray(64), ALL_ACCESS | Access.ZERO_BASED),
        rig.b.pd.reg_mr(bytearray(64), ALL_ACCESS, iova=0x1234_5678),
    ):
        assert write(rig, mr.rkey, mr.iova, 4) == [0]
        assert mr.read(4) == b"zero"


def test_rereg() -> None:
    rig = make_rig()
    mr = rig.b.mr
    fresh = bytearray(64)
    mr.rereg(ReregFlag.TRANSLATION, memory=fresh, iova=0x9000)
    rig.a.memory[:3] = b"new"
    assert write(rig, mr.rkey, 0x9000, 3) == [0]
    assert fresh[:3] == b"new"
    for flags, access in ((0, 0), (8, 0), (ReregFlag.PD, 0), (ReregFlag.TRANSLATION, 0), (ReregFlag.ACCESS, 2)):
        with pytest.raises(VerbsError) as caught:
            mr.rereg(int(flags), access=access)
        assert caught.value.errno == errno.EINVAL and mr.iova == 0x9000
    mr.rereg(ReregFlag.ACCESS, access=Access.LOCAL_WRITE)
    assert write(rig, mr.rkey, 0x9000, 3) == [W.REM_ACCESS_ERR]
    with pytest.raises(VerbsError) as unsupported:
        make_rig(SIW).a.mr.rereg(ReregFlag.ACCESS)
    assert unsupported.value.errno == errno.EOPNOTSUPP


def test_on_demand_pages() -> None:
    """Pages fault in at their first use; advice brings them in, but not with `no_fault`."""
    rig = make_rig(CONNECTX)
    mr = rig.b.pd.reg_mr(bytearray(5 * 4096), ALL_ACCESS | Access.ON_DEMAND)
    mr.prefetch(mr.iova, 4096, no_fault=True)
    assert mr.faults == 0
    assert write(rig, mr.rkey, mr.iova + 4090, 16) == [0]
    assert mr.faults == 2
    mr.prefetch(mr.iova, 3 * 4096)
    assert mr.faults == 3
    with pytest.raises(VerbsError):
        mr.prefetch(mr.iova + 5 * 4096, 1)
    with pytest.raises(VerbsError):
        rig.b.mr.prefetch(rig.b.mr.iova, 1)
    with pytest.raises(VerbsError) as caught:
        make_rig(RXE).a.pd.reg_mr(bytearray(8), Access.ON_DEMAND)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_device_memory() -> None:
    rig = make_rig(CONNECTX)
    dm = rig.b.context.alloc_dm(128)
    for off, length in ((1, 4), (0, 3), (128, 4), (0, 132)):
        with pytest.raises(VerbsError):
            dm.copy_to(off, bytes(length))
        with pytest.raises(VerbsError):
            dm.copy_from(off, length)
    with pytest.raises(VerbsError, match="zero-based"):
        rig.b.pd.reg_dm_mr(dm, 0, 128, ALL_ACCESS)
    with pytest.raises(VerbsError, match="leaves"):
        rig.b.pd.reg_dm_mr(dm, 64, 65, ALL_ACCESS | Access.ZERO_BASED)
    mr = rig.b.pd.reg_dm_mr(dm, 64, 64, ALL_ACCESS | Access.ZERO_BASED)
    rig.a.memory[:4] = b"onit"
    assert write(rig, mr.rkey, 4, 4) == [0]
    assert dm.copy_from(68, 4) == b"onit"
    with pytest.raises(VerbsError) as caught:
        dm.free()
    assert caught.value.errno == errno.EBUSY
    mr.dereg()
    dm.free()
    for length in (0, CONNECTX.dm_size + 1):
        with pytest.raises(VerbsError):
            rig.b.context.alloc_dm(length)
    with pytest.raises(VerbsError) as unsupported:
        make_rig(RXE).a.context.alloc_dm(4)
    assert unsupported.value.errno == errno.EOPNOTSUPP


# ---- datagrams


def test_datagram() -> None:
    """It comes behind 40 bytes of header; a wrong queue key or a missing receive drops it, and the sender does not learn."""
    rig = make_rig()
    attr = QPAttr(qp_state=QPState.INIT, port=1, qkey=0x11)
    qps = []
    for side in (rig.a, rig.b):
        qp = side.pd.create_qp(QPInit(side.cq, side.cq, QPCap(8, 8), QPType.UD))
        for state, mask in ((QPState.INIT, 1 | 16 | 32 | 64), (QPState.RTR, 1), (QPState.RTS, 1 | 1 << 16)):
            qp.modify(replace(attr, qp_state=state), mask)
        qps.append(qp)
    ah = rig.a.pd.create_ah(AddressVector(dgid=rig.b.device.gid))
    rig.a.memory[:5] = b"hello"
    wr = SendWR(1, Opcode.SEND, [rig.a.sge(0, 5)], 2, ah=ah, remote_qpn=qps[1].qp_num, remote_qkey=0x11)
    for case, recv, expected in ((wr, True, 1), (replace(wr, remote_qkey=0x12), True, 0), (wr, True, 1)):
        if recv:
            qps[1].post_recv(RecvWR(2, [rig.b.sge(0, 64)]))
        qps[0].post_send(case)
        assert [wc.status for wc in rig.a.poll()] == [0]
        wcs = rig.b.poll()
        assert [(wc.status, wc.byte_len, wc.src_qp, wc.wc_flags) for wc in wcs] == [(0, 45, qps[0].qp_num, 1)] * expected
    assert rig.b.memory[40:45] == b"hello" and rig.b.memory[8:24] == rig.a.device.gid
    qps[0].post_send(replace(wr, sges=[rig.a.sge(0, 4097)]))
    assert [wc.status for wc in rig.a.poll()] == [W.LOC_LEN_ERR]
    with pytest.raises(VerbsError):
        rig.a.pd.create_ah(AddressVector())


# ---- limits


@pytest.mark.parametrize("name", list(PROFILES))
def test_limits_are_kept(name: str) -> None:
    """One object more than the device has is ENOMEM, and one destroyed makes room for another."""
    profile = replace(PROFILES[name], max_pd=2, max_mr=2, max_qp=2, max_cq=2)
    device = MemoryFabric().add_device("x", profile)
    context = device.open()
    pds = [context.alloc_pd(), context.alloc_pd()]
    with pytest.raises(VerbsError) as caught:
        context.alloc_pd()
    assert caught.value.errno == errno.ENOMEM
    pds[1].dealloc()
    context.alloc_pd()
    cqs = [context.create_cq(1), context.create_cq(profile.max_cqe)]
    with pytest.raises(VerbsError):
        context.create_cq(1)
    for cap in (
        QPCap(profile.max_qp_wr + 1), QPCap(1, profile.max_qp_wr + 1), QPCap(1, 1, profile.max_send_sge + 1),
        QPCap(1, 1, 1, profile.max_recv_sge + 1), QPCap(1, 1, 1, 1, profile.max_inline + 1), QPCap(-1),
    ):  # fmt: skip
        with pytest.raises(VerbsError) as caught:
            pds[0].create_qp(QPInit(cqs[0], cqs[1], cap))
        assert caught.value.errno == errno.EINVAL
    for _ in range(2):
        pds[0].create_qp(QPInit(cqs[0], cqs[1], QPCap(1, 1)))
    with pytest.raises(VerbsError) as caught:
        pds[0].create_qp(QPInit(cqs[0], cqs[1], QPCap(1, 1)))
    assert caught.value.errno == errno.ENOMEM


def test_tiny_still_moves_bytes() -> None:
    rig = make_rig(TINY, QPCap(4, 4))
    rig.a.memory[:4] = b"tiny"
    rig.b.recv(1, 0, 4)
    rig.a.qp.post_send(SendWR(1, Opcode.SEND, [SGE(rig.a.mr.iova, 4, rig.a.mr.lkey)]))
    assert rig.b.memory[:4] == b"tiny" and [wc.status for wc in rig.b.poll()] == [0]
