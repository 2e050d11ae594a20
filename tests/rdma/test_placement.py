"""Placement in seeded random order: a program that trusts the order of bytes is caught, one that waits for completions is not."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.rdma.rig import SIZE, Rig, make_rig
from transport.rdma.enums import Opcode, QPState, WcStatus
from transport.rdma.placement import Placement
from transport.rdma.profiles import RXE, SIW, DeviceProfile
from transport.rdma.qp import QPCap
from transport.rdma.sge import SGE
from transport.rdma.wr import SendWR

W = WcStatus
LENGTH = 4096
PROFILES = [replace(RXE, max_send_sge=n, max_recv_sge=n, max_sge_rd=n) for n in (1, 2, 6, 32)]
PROFILES += [replace(SIW, max_send_sge=n, max_recv_sge=n) for n in (1, 2, 6, 32)]


def scattered(rig: Rig, length: int, count: int) -> list[SGE]:
    """Return `count` entries that cover the first `length` bytes of a's region, the last ones first."""
    step = length // count
    spans = [(n * step, length - n * step if n == count - 1 else step) for n in range(count)]
    return [rig.a.sge(off, size) for off, size in reversed(spans)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("op", [Opcode.WRITE, Opcode.READ], ids=lambda op: op.name)
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.name}{profile.max_send_sge}")
def test_last_byte_says_nothing_about_the_first(profile: DeviceProfile, op: Opcode, seed: int) -> None:
    """Polling the last byte is caught in the act; the completion at the sink's side comes when all bytes are there."""
    rig = make_rig(profile, QPCap(4, 4, profile.max_send_sge, profile.max_recv_sge))
    source, sink = (rig.a, rig.b) if op is Opcode.WRITE else (rig.b, rig.a)
    source.memory[:LENGTH] = expected = bytes(n % 251 + 1 for n in range(LENGTH))
    count = 1 if op is Opcode.READ and profile.iwarp else rig.a.qp.cap.max_send_sge
    sges = [rig.a.sge(0, LENGTH)] if count == 1 else scattered(rig, LENGTH, count)
    caught, seen = [], []

    def look() -> None:
        seen.append(bytes(sink.memory[:LENGTH]))
        assert not (rig.a.poll() if op is Opcode.READ or not profile.iwarp else rig.b.poll()), (
            "complete before all bytes are there"
        )
        if sink.memory[LENGTH - 1] and not all(sink.memory[:LENGTH]):
            caught.append(len(seen))

    sink.device.placement = Placement(random.Random(seed), look, 128)
    rig.a.qp.post_send(SendWR(1, op, sges, 2, rig.b.mr.iova, rig.b.mr.rkey))
    assert len(seen) >= LENGTH // 128 - 1
    assert caught or seed == 0, "a seed whose last piece came last"
    assert [wc.status for wc in rig.a.poll()] == [W.SUCCESS]
    pieces = [(sge.addr - rig.a.mr.iova, sge.length) for sge in sges]
    off, whole = 0, bytearray(LENGTH)
    for start, size in pieces:
        if op is Opcode.WRITE:
            whole[off : off + size] = expected[start : start + size]
        else:
            whole[start : start + size] = expected[off : off + size]
        off += size
    assert sink.memory[:LENGTH] == whole and not any(sink.memory[LENGTH:])


def order_of(seed: int) -> list[int]:
    """Return where the first byte placed is after each piece."""
    rig = make_rig()
    rig.a.memory[:LENGTH] = bytes([7]) * LENGTH
    seen: list[int] = []
    rig.b.device.placement = Placement(random.Random(seed), lambda: seen.append(rig.b.memory.index(7)))
    rig.a.qp.post_send(rig.to_peer(Opcode.WRITE, LENGTH))
    return seen


def test_a_seed_repeats() -> None:
    assert order_of(1) == order_of(1) != order_of(2)


def ends(rig: Rig, victim: str) -> Callable[[], None]:
    """Return what ends the transfer: the responder's or the requester's region goes."""
    return rig.b.mr.dereg if victim == "remote" else rig.a.mr.dereg


@pytest.mark.parametrize("after", [1, 5, 15])
@pytest.mark.parametrize(("op", "victim"), [(Opcode.WRITE, "remote"), (Opcode.READ, "remote"), (Opcode.READ, "local")])
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.name}{profile.max_send_sge}")
def test_trap_15_a_region_that_goes_takes_no_further_piece(profile: DeviceProfile, op: Opcode, victim: str, after: int) -> None:
    """What was placed stays, nothing is added, and each request has one completion with its status."""
    rig = make_rig(profile)
    source, sink = (rig.a, rig.b) if op is Opcode.WRITE else (rig.b, rig.a)
    source.memory[:LENGTH] = b"x" * LENGTH
    looks = [0]

    def look() -> None:
        looks[0] += 1
        if looks[0] == after:
            ends(rig, victim)()

    sink.device.placement = Placement(random.Random(after), look)
    rig.a.qp.post_send([rig.to_peer(op, LENGTH, wr_id=1), rig.to_peer(op, LENGTH, wr_id=2)])
    assert looks == [after]
    assert sink.memory.count(b"x") == after * 256 and len(sink.memory) == SIZE
    if not profile.iwarp:
        status = W.LOC_PROT_ERR if victim == "local" else W.REM_ACCESS_ERR
    elif op is Opcode.WRITE:
        status = W.SUCCESS
    else:
        status = W.LOC_QP_OP_ERR if victim == "local" else W.GENERAL_ERR
    assert [(wc.wr_id, wc.status) for wc in rig.a.poll()] == [(1, status), (2, W.WR_FLUSH_ERR)]
    assert rig.b.qp.state is (QPState.RTS if victim == "local" else QPState.ERR)


def test_small_pieces_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        Placement(random.Random(1), segment=7)
