"""Mistakes that real adapters, drivers and their users have made, as properties: both semantics, 1 to 32 entries, tiny queues.

docs/rdma.md says which property is tested where; those of a message's bytes are in `test_placement.py`, those of the transport in
`test_endpoint.py`.
"""

import random
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rdma.rig import ALL_ACCESS, SIZE, Rig, make_rig
from transport.rdma.control import (
    Control,
    Rule,
    before,
    drop_request,
    drop_response,
    fail,
    hold,
    hold_completions,
    release_completions,
    rnr,
)
from transport.rdma.enums import Access, MrState, Opcode, QPState, SendFlag, WcFlag, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.ledgers import Ledger
from transport.rdma.memory_fabric import connect_pair
from transport.rdma.mr import inc_key
from transport.rdma.profiles import RXE, SIW, DeviceProfile
from transport.rdma.qp import QPAttr, QPCap, QPInit
from transport.rdma.requester import RNR_TIMERS_US
from transport.rdma.sge import SGE
from transport.rdma.wr import RecvWR, SendWR

W = WcStatus
SIGNALED: Final = int(SendFlag.SIGNALED)
FENCED: Final = int(SendFlag.FENCE | SendFlag.SIGNALED)
PROFILES: Final = [
    replace(profile, max_send_sge=count, max_recv_sge=count, max_sge_rd=min(count, profile.max_sge_rd))
    for profile in (RXE, SIW)
    for count in (1, 2, 6, 32)
]
ROCE: Final = [profile for profile in PROFILES if not profile.iwarp]
either = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.name}{profile.max_send_sge}")
roce = pytest.mark.parametrize("profile", ROCE, ids=lambda profile: f"{profile.name}{profile.max_send_sge}")
any_profile = st.sampled_from(PROFILES)


def tiny(profile: DeviceProfile, slots: int = 4, rnr_retry: int = 0, access: int = ALL_ACCESS) -> Rig:
    """Connect a pair with queues of a few slots."""
    cap = QPCap(slots, slots, profile.max_send_sge, profile.max_recv_sge, min(64, profile.max_inline))
    return make_rig(profile, cap, access, rnr_retry=rnr_retry)


def entries(rig: Rig, length: int, reverse: bool = False) -> list[SGE]:
    """Cover `length` bytes by as many entries as a request may have."""
    count = max(1, min(rig.a.qp.cap.max_send_sge, length))
    step = length // count
    sges = [rig.a.sge(n * step, step if n < count - 1 else length - n * step) for n in range(count)]
    return sges[::-1] if reverse else sges


@either
@pytest.mark.parametrize("k", range(4))
def test_trap_1_unsignaled_requests_complete_on_error(profile: DeviceProfile, k: int) -> None:
    """A batch that fills the queue, the last signaled: from the k-th on each completes once, in order, and all slots are back."""
    rig = tiny(profile)
    ledger = Ledger.attach(rig.a.device)
    Control.attach(rig.a.device).add(fail(W.REM_OP_ERR), nth=k + 1)
    rig.a.qp.post_send([rig.to_peer(Opcode.WRITE, wr_id=n, flags=SIGNALED if n == 3 else 0) for n in range(4)])
    assert [(wc.wr_id, wc.status) for wc in rig.a.poll()] == [
        (n, W.REM_OP_ERR if n == k else W.WR_FLUSH_ERR) for n in range(k, 4)
    ]
    assert (rig.a.qp.requester.used, ledger.posted, ledger.completed, ledger.reclaimed) == (0, 4, 4 - k, k)
    rig.a.memory[:64] = b"mine again" + bytes(54)
    assert not rig.a.poll()


@given(
    profile=any_profile,
    depth=st.integers(1, 3),
    program=st.lists(st.sampled_from(["read", "write", "fenced"]), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
@settings(max_examples=80)
def test_trap_2_fence_and_read_depth(profile: DeviceProfile, depth: int, program: list[str], seed: int) -> None:
    """A fenced request starts when no READ before it is out, the depth is kept, a plain write waits for neither."""
    rig = make_rig(profile)
    for side in (rig.a, rig.b):
        side.qp.attr.max_rd_atomic = side.qp.attr.max_dest_rd_atomic = depth
    control = Control.attach(rig.a.device)
    rules = [control.add(hold(), opcode=Opcode.READ) for kind in program if kind == "read"]
    wrs = []
    early: list[int] = []
    for n, kind in enumerate(program):
        if kind == "fenced":
            control.add(before(lambda: early.append(rig.a.qp.requester.outstanding_reads())), wr_id=n)
        op = Opcode.READ if kind == "read" else Opcode.WRITE
        wrs.append(rig.to_peer(op, 8, off=8 * n, wr_id=n, flags=FENCED if kind == "fenced" else SIGNALED))
    rig.a.qp.post_send(wrs)
    requester = rig.a.qp.requester
    rng = random.Random(seed)

    def check() -> None:
        started = len(program) - len(requester.todo)
        out = requester.outstanding_reads()
        assert out <= depth
        if requester.todo:
            kind = program[started]
            assert (kind == "fenced" and out) or (kind == "read" and out == depth), "held up for no reason"

    check()
    while held := [rule for rule in rules if rule.held is not None]:
        rule: Rule = rng.choice(held)
        rule.release()
        check()
    assert not any(early), "a fenced request started while READs were out"
    assert len(early) == program.count("fenced")
    assert [(wc.wr_id, wc.status) for wc in rig.a.poll()] == [(n, 0) for n in range(len(program))]


@given(profile=st.sampled_from(ROCE), code=st.integers(0, 31), retries=st.integers(0, 7), refusals=st.integers(0, 9))
@settings(max_examples=60)
def test_trap_3_not_ready_is_not_silence(profile: DeviceProfile, code: int, retries: int, refusals: int) -> None:
    """Each attempt comes when the responder's timer is over and not before; the transport's count has no part in it."""
    rig = tiny(profile, rnr_retry=retries)
    rig.b.qp.attr.min_rnr_timer = code
    rig.a.qp.attr.timeout = 1
    if refusals:
        Control.attach(rig.a.device).add(rnr(refusals))
    rig.b.recv(1)
    rig.a.qp.post_send(rig.to_peer(Opcode.SEND))
    waits = 0
    while (due := rig.fabric.next_deadline()) is not None:
        assert due - rig.fabric.now == pytest.approx(RNR_TIMERS_US[code] * 1e-6)
        rig.fabric.advance(rig.fabric.now + (due - rig.fabric.now) / 2)
        assert rig.fabric.next_deadline() == due and not rig.a.poll()
        rig.fabric.advance(due)
        waits += 1
    patient = retries == 7 or refusals <= retries
    assert waits == (refusals if patient else retries)
    assert [wc.status for wc in rig.a.poll()] == [W.SUCCESS if patient else W.RNR_RETRY_EXC_ERR]
    assert rig.a.qp.requester.retry_left == rig.a.qp.attr.retry_cnt


@given(
    profile=st.sampled_from(ROCE),
    op=st.sampled_from([Opcode.SEND, Opcode.WRITE, Opcode.READ]),
    drops=st.lists(st.booleans(), min_size=1, max_size=5),
    length=st.integers(0, 3000),
)
@settings(max_examples=80)
def test_trap_4_a_retry_starts_at_the_first_byte(profile: DeviceProfile, op: Opcode, drops: list[bool], length: int) -> None:
    """Whatever is lost on either way, over any layout of entries: the bytes placed are the bytes posted, once."""
    rig = tiny(profile)
    control = Control.attach(rig.a.device)
    for lost_answer in drops:
        control.add(drop_response() if lost_answer else drop_request())
    source = rig.b.memory if op is Opcode.READ else rig.a.memory
    source[:length] = expected = random.Random(length).randbytes(length)
    rig.b.recv(1, 0, 4000)
    rig.b.recv(2, 8000, 4000)
    rig.a.qp.post_send(SendWR(1, op, entries(rig, length), SIGNALED, rig.b.mr.iova, rig.b.mr.rkey))
    rig.fabric.advance(100)
    assert [(wc.status, wc.byte_len) for wc in rig.a.poll()] == [(W.SUCCESS, length)]
    sink = rig.a.memory if op is Opcode.READ else rig.b.memory
    assert sink[:length] == expected and not any(sink[length:])
    assert [wc.wr_id for wc in rig.b.poll()] == ([1] if op is Opcode.SEND else [])


@given(profile=any_profile, count=st.integers(1, 3), data=st.data())
@settings(max_examples=60)
def test_trap_5_the_reply_may_come_before_the_send(profile: DeviceProfile, count: int, data: st.DataObject) -> None:
    """Completions of the two queues interleave in any way; each queue's own stay in order, and none is lost."""
    rig = tiny(profile)
    hold_completions(rig.a.cq)
    for n in range(count):
        rig.a.recv(10 + n)
        rig.b.recv(20 + n)
    for n in range(count):
        rig.a.qp.post_send(rig.to_peer(Opcode.SEND, wr_id=n))
        rig.b.qp.post_send(SendWR(30 + n, Opcode.SEND, [rig.b.sge()]))
    held = [item[0].wr_id for item in rig.a.cq.held or []]
    sends, recvs = list(range(count)), [10 + n for n in range(count)]
    assert sorted(held) == [*sends, *recvs]
    turns = data.draw(st.permutations([True] * count + [False] * count))
    left, right = iter(sends), iter(recvs)
    wanted = [next(left) if turn else next(right) for turn in turns]
    release_completions(rig.a.cq, [held.index(wr_id) for wr_id in wanted])
    assert [wc.wr_id for wc in rig.a.poll()] == wanted


@either
@pytest.mark.parametrize("which", ["mine", "another request's", "stale", "other domain", "local only", "user region", "unknown"])
def test_trap_6_only_a_key_that_was_offered_is_invalidated(profile: DeviceProfile, which: str) -> None:
    """SEND_WITH_INV ends the region it names, if that may be ended, and no other region changes; else the connection ends."""
    rig = tiny(profile)

    def offer(access: int = Access.REMOTE_READ) -> int:
        mr = rig.b.pd.alloc_mr(1)
        mr.map_sg([memoryview(bytearray(8))], 0)
        rig.b.qp.post_send(SendWR(0, Opcode.REG_MR, mr=mr, key=inc_key(mr.lkey), access=access))
        return mr.rkey

    mine, another, local = offer(), offer(), offer(Access.LOCAL_WRITE)
    stranger = rig.b.context.alloc_pd().reg_mr(bytearray(8), ALL_ACCESS)
    keys = {"mine": mine, "another request's": another, "local only": local, "user region": rig.b.mr.rkey, "unknown": 0xBAD}
    keys |= {"stale": mine - 1, "other domain": stranger.rkey}
    rig.b.poll()
    rig.b.recv(9)
    rig.a.qp.post_send(SendWR(1, Opcode.SEND_WITH_INV, [rig.a.sge()], invalidate_rkey=keys[which]))
    ended = {key for key, mr in rig.b.device.mrs.items() if mr.state is not MrState.VALID}
    (wc,) = rig.b.poll()
    if which in ("mine", "another request's"):
        assert ended == {keys[which]} and (wc.status, wc.imm, wc.wc_flags) == (0, keys[which], WcFlag.WITH_INV)
    else:
        assert not ended and wc.status == W.REM_INV_REQ_ERR and rig.b.qp.state is QPState.ERR


@either
def test_trap_7_a_fenced_region_is_out_of_reach(profile: DeviceProfile) -> None:
    """After the completion of LOCAL_INV a late WRITE is refused and the memory is as it was, on this connection and the next."""
    rig = tiny(profile)
    memory = bytearray(64)
    mr = rig.b.pd.alloc_mr(1)
    mr.map_sg([memoryview(memory)], 0)
    key = inc_key(mr.lkey)
    rig.b.qp.post_send([
        SendWR(1, Opcode.REG_MR, mr=mr, key=key, access=ALL_ACCESS),
        SendWR(2, Opcode.LOCAL_INV, invalidate_rkey=key),
    ])  # fmt: skip
    assert [wc.status for wc in rig.b.poll()] == [0, 0]
    for again in (False, True):
        if again:
            for side in (rig.a, rig.b):
                side.qp.modify(QPAttr(qp_state=QPState.RESET), 1)
                side.poll()
            connect_pair(rig.a.qp, rig.b.qp, int(ALL_ACCESS), int(ALL_ACCESS))
        rig.a.memory[:8] = b"too late"
        rig.a.qp.post_send(SendWR(3, Opcode.WRITE, [rig.a.sge(0, 8)], SIGNALED, 0, key))
        assert [wc.status for wc in rig.a.poll()] == [W.SUCCESS if profile.iwarp else W.REM_ACCESS_ERR]
        assert rig.b.qp.state is QPState.ERR and not any(memory)


@either
def test_trap_8_keys_of_other_lives_are_dead(profile: DeviceProfile) -> None:
    """The key of a life opens nothing in the 255 that follow; no two regions share one; a failed REG_MR changes nothing."""
    rig = tiny(profile)
    mr, other = rig.b.pd.alloc_mr(1), rig.b.pd.alloc_mr(1)
    old: list[int] = []
    for _ in range(256):
        mr.map_sg([memoryview(bytearray(8))], 0)
        staged = mr.lkey
        assert rig.b.device.mrs[staged] is mr, "staging without a post changes no key"
        rig.b.qp.post_send(SendWR(1, Opcode.REG_MR, mr=mr, key=inc_key(staged), access=Access.REMOTE_READ))
        assert rig.b.poll()[0].status == 0 and mr.rkey not in old[-255:] and mr.rkey != other.rkey
        assert rig.b.qp.responder.remote_views(mr.rkey, 0, 8, Access.REMOTE_READ) is not None
        assert all(rig.b.qp.responder.remote_views(key, 0, 8, Access.REMOTE_READ) is None for key in old[-255:])
        old.append(mr.rkey)
        mr.invalidate()
    assert len(set(old)) == 256
    state = (other.lkey, other.state)
    rig.b.qp.post_send(SendWR(1, Opcode.REG_MR, mr=other, key=other.lkey + 0x100))
    assert rig.b.poll()[0].status == W.LOC_QP_OP_ERR and (other.lkey, other.state) == state


@either
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_trap_9_a_full_queue_can_be_drained(profile: DeviceProfile, slots: int) -> None:
    """With both queues full the markers come, behind every other completion, and all can be destroyed."""
    rig = tiny(profile, slots)
    for n in range(slots):
        rig.a.recv(n)
    rig.a.qp.modify(QPAttr(qp_state=QPState.SQD), 1)
    rig.a.qp.post_send([rig.to_peer(Opcode.WRITE, wr_id=100 + n, flags=0) for n in range(slots)])
    with pytest.raises(VerbsError, match="full"):
        rig.a.qp.post_send(rig.to_peer(Opcode.WRITE))
    rig.a.qp.drain(1000, 2000)
    wcs = rig.a.poll()
    assert {wc.status for wc in wcs} == {W.WR_FLUSH_ERR}
    assert [wc.wr_id for wc in wcs if wc.wr_id >= 100 and wc.wr_id != 2000] == [*range(100, 100 + slots), 1000]
    assert [wc.wr_id for wc in wcs if wc.wr_id < 100 or wc.wr_id == 2000] == [*range(slots), 2000]
    rig.a.qp.destroy()
    rig.a.mr.dereg()
    rig.a.cq.destroy()
    rig.a.pd.dealloc()


@given(
    profile=any_profile,
    shorter=st.integers(0, 40),
    layout=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    inline=st.booleans(),
)
@settings(max_examples=100)
def test_trap_14_lengths_are_not_believed(profile: DeviceProfile, shorter: int, layout: list[int], inline: bool) -> None:
    """A receive that is short by any number of bytes: its status on each side, and not one byte anywhere."""
    rig = tiny(profile)
    layout = layout[: rig.a.qp.cap.max_send_sge]
    length = sum(layout)
    inline = inline and length <= rig.a.qp.cap.max_inline
    rig.a.memory[:512] = random.Random(length).randbytes(512)
    offs = [n * 64 + n for n in range(len(layout))]
    sges = [rig.a.sge(off, size) for off, size in zip(offs, layout, strict=True)]
    posted = b"".join(bytes(rig.a.memory[off : off + size]) for off, size in zip(offs, layout, strict=True))
    room = max(0, length - shorter)
    rig.b.recv(1, 100, room)
    flags = int(SendFlag.SIGNALED | SendFlag.INLINE) if inline else SIGNALED
    rig.a.qp.post_send(SendWR(1, Opcode.SEND, sges, flags))
    (wc,) = rig.b.poll()
    fits = room == length
    assert wc.status == (W.SUCCESS if fits else W.LOC_LEN_ERR)
    assert [wc.status for wc in rig.a.poll()] == [W.SUCCESS if fits or profile.iwarp else W.REM_INV_REQ_ERR]
    assert not any(rig.b.memory[:100]) and not any(rig.b.memory[100 + length :])
    assert rig.b.memory[100 : 100 + length] == (posted if fits else bytes(length))


@either
@pytest.mark.parametrize("op", [Opcode.WRITE, Opcode.READ], ids=lambda op: op.name)
@pytest.mark.parametrize("start", [SIZE - 63, SIZE, (1 << 64) - 64, (1 << 64) - 1])
def test_trap_14_an_end_beyond_64_bits_is_no_end(profile: DeviceProfile, op: Opcode, start: int) -> None:
    rig = tiny(profile)
    wr = replace(rig.to_peer(op), remote_addr=rig.b.mr.iova + start if start <= SIZE else start)
    rig.a.qp.post_send(wr)
    status = W.REM_ACCESS_ERR if not profile.iwarp else W.SUCCESS if op is Opcode.WRITE else W.GENERAL_ERR
    assert [wc.status for wc in rig.a.poll()] == [status] and rig.b.qp.state is QPState.ERR
    assert not any(rig.b.memory) and not any(rig.a.memory)


@either
def test_trap_16_a_region_outlives_its_connection(profile: DeviceProfile) -> None:
    """The queue pair goes first; the region is still registered, of use to the next one, and goes when it is told."""
    rig = tiny(profile)
    rig.b.qp.destroy()
    qp = rig.b.pd.create_qp(QPInit(rig.b.cq, rig.b.cq))
    rig.a.qp.modify(QPAttr(qp_state=QPState.RESET), 1)
    connect_pair(rig.a.qp, qp, int(ALL_ACCESS), int(ALL_ACCESS))
    rig.a.memory[:4] = b"used"
    rig.a.qp.post_send(rig.to_peer(Opcode.WRITE))
    assert [wc.status for wc in rig.a.poll()] == [0] and rig.b.memory[:4] == b"used"
    with pytest.raises(VerbsError, match="has objects"):
        rig.b.pd.dealloc()
    qp.destroy()
    rig.b.mr.dereg()
    rig.b.pd.dealloc()


@either
@pytest.mark.parametrize("limit", range(4))
def test_trap_17_the_limit_of_a_shared_queue_is_not_its_size(profile: DeviceProfile, limit: int) -> None:
    rig = tiny(profile)
    srq = rig.b.pd.create_srq(2)
    if limit > 2:
        with pytest.raises(VerbsError, match="limit"):
            srq.modify(limit=limit)
    else:
        srq.modify(limit=limit)
    assert (srq.max_wr, srq.limit) == (2, limit if limit <= 2 else 0)
    srq.post_recv([RecvWR(1), RecvWR(2)])
    with pytest.raises(VerbsError, match="size"):
        srq.modify(max_wr=1)
    assert srq.max_wr == 2


@either
def test_trap_19_a_posted_structure_is_not_read_again(profile: DeviceProfile) -> None:
    """Requests and receives may be overwritten as soon as the post has returned, whether they ran at once or wait."""
    rig = tiny(profile)
    recv = RecvWR(1, [rig.b.sge(0, 64)])
    rig.b.qp.post_recv(recv)
    recv.wr_id, recv.sges = 99, []
    rig.a.qp.modify(QPAttr(qp_state=QPState.SQD), 1)
    wrs = [rig.to_peer(Opcode.SEND, wr_id=2)]
    rig.a.qp.post_send(wrs)
    wrs[0].wr_id, wrs[0].sges[0].length = 99, 1
    wrs.clear()
    rig.a.qp.modify(QPAttr(qp_state=QPState.RTS), 1)
    assert [wc.wr_id for wc in rig.a.poll()] == [2]
    assert [(wc.wr_id, wc.byte_len) for wc in rig.b.poll()] == [(1, 64)]


@either
@pytest.mark.parametrize("solicited_only", [False, True])
def test_trap_20_arm_then_poll_then_sleep(profile: DeviceProfile, solicited_only: bool) -> None:
    """Arming a queue that is not empty tells nothing: who polls once more loses no completion."""
    rig = tiny(profile)
    channel = rig.b.context.create_channel()
    cq = rig.b.context.create_cq(4, channel)
    qp = rig.b.pd.create_qp(QPInit(cq, cq))
    rig.a.qp.modify(QPAttr(qp_state=QPState.RESET), 1)
    connect_pair(rig.a.qp, qp, int(ALL_ACCESS), int(ALL_ACCESS))
    qp.post_recv([RecvWR(n, [rig.b.sge()]) for n in range(2)])
    solicited = int(SendFlag.SOLICITED | SendFlag.SIGNALED)
    rig.a.qp.post_send(rig.to_peer(Opcode.SEND, flags=solicited))
    cq.req_notify(solicited_only)
    assert channel.get_event() is None
    assert [wc.wr_id for wc in cq.poll(4)] == [0], "the second look finds what came before the arming"
    rig.a.qp.post_send(rig.to_peer(Opcode.SEND, flags=solicited))
    assert channel.get_event() is cq and [wc.wr_id for wc in cq.poll(4)] == [1]
