"""Every opcode × every violation it can commit → the status on each side, under both semantics and with 1 to 32 entries."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, cast

import pytest

from tests.rdma.rig import ALL_ACCESS, SIZE, Rig, Side, make_rig
from transport.rdma.enums import Access, AttrMask, FlushLevel, FlushType, MrState, MwType, Opcode, QPState, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.mr import MR
from transport.rdma.profiles import IWARP, RXE, SIW, DeviceProfile
from transport.rdma.qp import QPAttr, QPCap, QPInit
from transport.rdma.sge import SGE
from transport.rdma.wr import MwBind, RecvWR, SendWR

W = WcStatus
Break = Callable[[Rig, SendWR], None]
FULL: Final = ALL_ACCESS | Access.MW_BIND | Access.FLUSH_GLOBAL | Access.FLUSH_PERSISTENT
PROFILES: Final = [
    replace(profile, max_send_sge=count, max_recv_sge=count, max_sge_rd=min(count, profile.max_sge_rd))
    for profile in (RXE, IWARP)
    for count in (1, 2, 6, 32)
]
SENDS: Final = (Opcode.SEND, Opcode.SEND_WITH_IMM, Opcode.SEND_WITH_INV)
WRITES: Final = (Opcode.WRITE, Opcode.WRITE_WITH_IMM)
ATOMICS: Final = (Opcode.CMP_AND_SWP, Opcode.FETCH_AND_ADD)
EIGHT: Final = (*ATOMICS, Opcode.ATOMIC_WRITE)
WITH_DATA: Final = (*SENDS, *WRITES, Opcode.READ, *EIGHT)
ONE_SIDED: Final = (*WRITES, Opcode.READ, *EIGHT, Opcode.FLUSH)
SILENT: Final = (*SENDS, *WRITES)
"""What an iWARP requester has completed before the peer can refuse it."""


def rig_of(profile: DeviceProfile, qp_access: int = FULL) -> Rig:
    rig = make_rig(profile, QPCap(8, 8, profile.max_send_sge, profile.max_recv_sge), FULL, qp_access)
    rig.b.recv(1)
    return rig


def legal(rig: Rig, op: Opcode) -> SendWR:
    """Return a request that would succeed, over as many entries as it may have."""
    length = 8 if op in EIGHT else 64
    count = min(rig.a.qp.op_sges[op], length)
    step = length // max(1, count)
    sges = [rig.a.sge(n * step, step if n < count - 1 else length - n * step) for n in range(count)]
    wr = SendWR(7, op, sges, 2, rig.b.mr.iova, rig.b.mr.rkey, length=64)
    if op is Opcode.SEND_WITH_INV:
        wr.invalidate_rkey = fast_key(rig.b, Access.REMOTE_READ)
    elif op is Opcode.LOCAL_INV:
        wr.invalidate_rkey = fast_key(rig.a, 0)
    elif op is Opcode.REG_MR:
        wr.mr = rig.a.pd.alloc_mr(2)
        wr.key = wr.mr.lkey
    elif op is Opcode.BIND_MW:
        wr.mw = rig.a.pd.alloc_mw(MwType.TYPE_2)
        wr.key, wr.bind = wr.mw.rkey, MwBind(rig.a.mr, rig.a.mr.iova, 64, Access.REMOTE_READ)
    return wr


def fast(side: Side, access: int, pd_of: Side | None = None) -> MR:
    mr = (pd_of or side).pd.alloc_mr(1)
    mr.map_sg([memoryview(bytearray(64))], 0)
    mr.access, mr.state = int(access), MrState.VALID
    return mr


def fast_key(side: Side, access: int) -> int:
    return fast(side, access).rkey


def foreign(side: Side) -> MR:
    """Return a region of another domain of the same device."""
    return side.context.alloc_pd().reg_mr(bytearray(SIZE), FULL, side.mr.iova)


def freed(side: Side) -> int:
    mr = fast(side, FULL)
    mr.dereg()
    return mr.rkey


def windowed(side: Side) -> int:
    """Return the key of a fast region with a window bound to it."""
    mr = fast(side, FULL)
    side.pd.alloc_mw(MwType.TYPE_1).bind(side.qp, MwBind(mr, 0, 8, Access.REMOTE_READ), 0x7000_0000)
    return mr.rkey


def other_window(side: Side) -> int:
    """Return the key of a window that another queue pair bound."""
    mw = side.pd.alloc_mw(MwType.TYPE_2)
    mw.bind(side.pd.create_qp(QPInit(side.cq, side.cq)), MwBind(side.mr, side.mr.iova, 8, 0), mw.rkey)
    return mw.rkey


def set_entry(lkey: Callable[[Side], int], shift: int = 0) -> Break:
    """Break the last entry of a request."""

    def act(rig: Rig, wr: SendWR) -> None:
        last = wr.sges[-1]
        wr.sges = [*wr.sges[:-1], SGE(last.addr + shift, last.length, lkey(rig.a))]

    return act


LOCAL: Final[dict[str, Break]] = {
    "local key": set_entry(lambda side: side.mr.lkey ^ 1),
    "local state": set_entry(freed),
    "local pd": set_entry(lambda side: foreign(side).lkey),
    "local bounds": set_entry(lambda side: side.mr.lkey, SIZE),
}
REMOTE: Final[dict[str, Break]] = {
    "key": lambda rig, wr: setattr(wr, "rkey", wr.rkey ^ 1),
    "state": lambda rig, wr: setattr(wr, "rkey", freed(rig.b)),
    "pd": lambda rig, wr: setattr(wr, "rkey", foreign(rig.b).rkey),
    "permission": lambda rig, wr: setattr(wr, "rkey", rig.b.pd.reg_mr(bytearray(SIZE), 1, rig.b.mr.iova).rkey),
    "below": lambda rig, wr: setattr(wr, "remote_addr", rig.b.mr.iova - 8),
    "across": lambda rig, wr: setattr(wr, "remote_addr", rig.b.mr.iova + SIZE - (0 if wr.opcode in EIGHT else 8)),
    "wrap": lambda rig, wr: setattr(wr, "remote_addr", (1 << 64) - 8),
}
INVALIDATE: Final[dict[str, Callable[[Side], int]]] = {
    "unknown key": lambda side: 0xBAD,
    "stale key": freed,
    "not fast": lambda side: side.mr.rkey,
    "pd": lambda side: foreign(side).rkey,
    "window bound": windowed,
    "window of another QP": other_window,
    "type 1 window": lambda side: side.pd.alloc_mw(MwType.TYPE_1).rkey,
}


def bind_length(length: int) -> Break:
    def act(rig: Rig, wr: SendWR) -> None:
        assert wr.bind is not None
        wr.bind = replace(wr.bind, length=length)

    return act


def bind_over(make: Callable[[Side], MR], access: int = Access.REMOTE_READ) -> Break:
    def act(rig: Rig, wr: SendWR) -> None:
        mr = make(rig.a)
        wr.bind = MwBind(mr, mr.iova, 8, access)

    return act


def bind_twice(rig: Rig, wr: SendWR) -> None:
    assert wr.mw is not None and wr.bind is not None
    wr.mw.bind(rig.a.qp, wr.bind, wr.key)


BINDS: Final[dict[str, Break]] = {
    "no window": lambda rig, wr: setattr(wr, "mw", None),
    "window of another pd": lambda rig, wr: setattr(wr, "mw", rig.a.context.alloc_pd().alloc_mw(MwType.TYPE_2)),
    "bound already": bind_twice,
    "empty": bind_length(0),
    "index": lambda rig, wr: setattr(wr, "key", wr.key + 0x100),
    "region of another pd": bind_over(foreign),
    "region not valid": bind_over(lambda side: side.pd.alloc_mr(1)),
    "region allows none": bind_over(lambda side: side.pd.reg_mr(bytearray(8), ALL_ACCESS)),
    "zero-based region": bind_over(lambda side: side.pd.reg_mr(bytearray(8), FULL | Access.ZERO_BASED)),
    "not writable": bind_over(lambda side: side.pd.reg_mr(bytearray(8), Access.MW_BIND), Access.REMOTE_WRITE),
    "bounds": bind_length(SIZE + 1),
}


def register_user_region(rig: Rig, wr: SendWR) -> None:
    wr.mr, wr.key = rig.a.mr, rig.a.mr.lkey


REGISTRATIONS: Final[dict[str, Break]] = {
    "no region": lambda rig, wr: setattr(wr, "mr", None),
    "not fast": register_user_region,
    "valid": lambda rig, wr: setattr(wr.mr, "state", MrState.VALID),
    "pd": lambda rig, wr: setattr(wr, "mr", rig.a.context.alloc_pd().alloc_mr(1)),
    "index": lambda rig, wr: setattr(wr, "key", wr.key + 0x100),
}


def invalidation(make: Callable[[Side], int], side: str) -> Break:
    return lambda rig, wr: setattr(wr, "invalidate_rkey", make(getattr(rig, side)))


def cases() -> Iterator[tuple[Opcode, str, Break, int, list[int]]]:
    """Yield opcode, violation, how to commit it, the RoCE requester's status, the responder's."""
    for op in WITH_DATA:
        yield from ((op, name, act, W.LOC_PROT_ERR, []) for name, act in LOCAL.items())
    for op in ONE_SIDED:
        recvs = [int(W.LOC_ACCESS_ERR)] if op is Opcode.WRITE_WITH_IMM else [int(W.WR_FLUSH_ERR)]
        yield from ((op, name, act, W.REM_ACCESS_ERR, recvs) for name, act in REMOTE.items())
    for op in (Opcode.READ, *ATOMICS):
        depth: Break = lambda rig, wr: setattr(rig.b.qp.attr, "max_dest_rd_atomic", 0)  # noqa: E731 - one of a row of them
        yield op, "depth", depth, W.REM_INV_REQ_ERR, [W.WR_FLUSH_ERR]
    flush: Break = lambda rig, wr: setattr(wr, "flush_type", 0)  # noqa: E731
    yield Opcode.FLUSH, "type", flush, W.REM_INV_REQ_ERR, [W.WR_FLUSH_ERR]
    for name, make in INVALIDATE.items():
        yield Opcode.LOCAL_INV, name, invalidation(make, "a"), W.LOC_QP_OP_ERR, []
        yield Opcode.SEND_WITH_INV, name, invalidation(make, "b"), W.REM_ACCESS_ERR, [W.REM_INV_REQ_ERR]
    local_only = invalidation(lambda side: fast_key(side, Access.LOCAL_WRITE), "b")
    yield Opcode.SEND_WITH_INV, "local only", local_only, W.REM_ACCESS_ERR, [W.REM_INV_REQ_ERR]
    yield from ((Opcode.REG_MR, name, act, W.LOC_QP_OP_ERR, []) for name, act in REGISTRATIONS.items())
    yield from ((Opcode.BIND_MW, name, act, W.MW_BIND_ERR, []) for name, act in BINDS.items())


CASES: Final = list(cases())


def requester_sees(profile: DeviceProfile, op: Opcode, status: int) -> int:
    """Turn RoCE's status into iWARP's, where they differ."""
    if not profile.iwarp or status == W.MW_BIND_ERR:
        return status
    if status in (W.LOC_PROT_ERR, W.LOC_QP_OP_ERR):
        return W.LOC_QP_OP_ERR
    return W.SUCCESS if op in SILENT else W.GENERAL_ERR


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.name}{profile.max_send_sge}")
@pytest.mark.parametrize(
    ("op", "act", "status", "recvs"), [(c[0], *c[2:]) for c in CASES], ids=[f"{c[0].name}-{c[1]}" for c in CASES]
)
def test_violation(profile: DeviceProfile, op: Opcode, act: Break, status: int, recvs: list[int]) -> None:
    """Each side's status; what is behind is flushed; no byte has changed; a local mistake does not concern the peer."""
    if op not in profile.ops:
        return
    rig = rig_of(profile)
    wr = legal(rig, op)
    act(rig, wr)
    rig.a.memory[:64] = b"\xaa" * 64
    rig.a.qp.post_send([wr, legal(rig, Opcode.WRITE)])
    assert [wc.status for wc in rig.a.poll()] == [requester_sees(profile, op, status), W.WR_FLUSH_ERR]
    assert [wc.status for wc in rig.b.poll()] == recvs
    assert rig.a.qp.state is QPState.ERR and rig.b.qp.state is (QPState.ERR if recvs else QPState.RTS)
    if op is not Opcode.SEND_WITH_INV or not recvs:
        assert not any(rig.b.memory)
    assert rig.a.memory[:64] == b"\xaa" * 64 and not any(rig.a.memory[64:])


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.name}{profile.max_send_sge}")
@pytest.mark.parametrize("op", list(Opcode), ids=lambda op: op.name)
def test_legal_requests_and_opcodes_that_are_not_there(profile: DeviceProfile, op: Opcode) -> None:
    """The request that the violations start from is legal; one the profile has not is refused at the post."""
    rig = rig_of(profile)
    if op not in profile.ops:
        bad = SendWR(1, op, [rig.a.sge(0, 8)])
        with pytest.raises(VerbsError, match="not supported") as caught:
            rig.a.qp.post_send(bad)
        assert (caught.value.errno, caught.value.bad_wr, rig.a.qp.state) == (22, bad, QPState.RTS)
        return
    rig.a.qp.post_send(legal(rig, op))
    assert [(wc.wr_id, wc.status) for wc in rig.a.poll()] == [(7, W.SUCCESS)]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.name}{profile.max_send_sge}")
@pytest.mark.parametrize("op", ONE_SIDED, ids=lambda op: op.name)
def test_queue_pair_that_allows_nothing(profile: DeviceProfile, op: Opcode) -> None:
    """The queue pair's permission is looked at before the key, and before a receive is taken."""
    if op not in profile.ops:
        return
    rig = rig_of(profile, 0)
    rig.a.qp.post_send(replace(legal(rig, op), rkey=0xBAD))
    assert [wc.status for wc in rig.a.poll()] == [requester_sees(profile, op, W.REM_INV_REQ_ERR)][:1]
    assert [wc.status for wc in rig.b.poll()] == [W.WR_FLUSH_ERR]


@pytest.mark.parametrize("op", sorted(set(RXE.ops) - set(SIW.ops)), ids=lambda op: Opcode(op).name)
def test_what_siw_has_not(op: Opcode) -> None:
    rig = make_rig(SIW)
    with pytest.raises(VerbsError, match="not supported"):
        rig.a.qp.post_send(SendWR(1, op, [rig.a.sge(0, 8)]))


@pytest.mark.parametrize("kind", [FlushType.GLOBAL, FlushType.PERSISTENT, FlushType.GLOBAL | FlushType.PERSISTENT])
@pytest.mark.parametrize("level", list(FlushLevel))
def test_flush_needs_its_own_permission(kind: int, level: FlushLevel) -> None:
    """Of the queue pair first, then of the region; at the level of the region its bounds are not the request's."""
    for qp_access, access, status in ((ALL_ACCESS, FULL, 9), (FULL, ALL_ACCESS, 10), (FULL, FULL, 0)):
        rig = make_rig(access=access, qp_access=qp_access)
        off = SIZE if level is FlushLevel.MR else 0
        wr = SendWR(1, Opcode.FLUSH, (), 2, rig.b.mr.iova + off, rig.b.mr.rkey, length=64, flush_type=kind, flush_level=level)
        rig.a.qp.post_send(wr)
        assert [wc.status for wc in rig.a.poll()] == [status]


def modify_the_gone(rig: Rig) -> None:
    rig.a.qp.destroy()
    rig.a.qp.modify(QPAttr(), AttrMask.STATE)


def complete_to_the_gone(rig: Rig) -> None:
    spare = rig.a.context.create_cq(1)
    spare.destroy()
    rig.a.pd.create_qp(QPInit(spare, spare))


MISUSE: Final[dict[str, Callable[[Rig], object]]] = {
    "no such state": lambda rig: rig.a.qp.modify(QPAttr(qp_state=cast(QPState, 99)), AttrMask.STATE),
    "no such window": lambda rig: rig.a.pd.alloc_mw(cast(MwType, 9)),
    "queue pair is gone": modify_the_gone,
    "queue is gone": complete_to_the_gone,
}


@pytest.mark.parametrize("what", list(MISUSE))
def test_misuse_is_einval(what: str) -> None:
    rig = make_rig()
    with pytest.raises(VerbsError) as caught:
        MISUSE[what](rig)
    assert caught.value.errno == 22
    assert len(rig.a.device.qps) == (0 if what == "queue pair is gone" else 1) and not rig.a.device.mws


def test_numbers_that_no_structure_of_c_holds() -> None:
    """A negative length is bad memory, whoever names it; an operand is taken modulo 2**64."""
    rig = make_rig()
    rig.a.qp.post_send(replace(legal(rig, Opcode.ATOMIC_WRITE), sges=(), swap=(1 << 64) + 5))
    assert [wc.status for wc in rig.a.poll()] == [0] and rig.b.memory[:8] == (5).to_bytes(8, "little")
    rig.b.qp.post_recv(RecvWR(1, [SGE(rig.b.mr.iova, -1, rig.b.mr.lkey)]))
    rig.a.qp.post_send(legal(rig, Opcode.SEND))
    assert [wc.status for wc in rig.a.poll()] == [W.REM_OP_ERR] and [wc.status for wc in rig.b.poll()] == [W.LOC_PROT_ERR]
    rig = make_rig()
    rig.a.qp.post_send(replace(legal(rig, Opcode.WRITE), sges=[SGE(rig.a.mr.iova, -5, rig.a.mr.lkey)]))
    assert [wc.status for wc in rig.a.poll()] == [W.LOC_PROT_ERR] and not any(rig.b.memory)
