"""Peer-to-peer start-up: who asks for it, what is settled, and that the server may speak first behind it."""

import pytest

from tests.rdma.iwarp_rig import Joined, statuses
from transport.rdma.enums import Access, Opcode, WcStatus
from transport.rdma.iwarp.mpa import MpaError, Rtr, StartFrame, answer, find_crc, settle
from transport.rdma.iwarp.rdmap import Op
from transport.rdma.iwarp.terminate import Cause
from transport.rdma.loopback import ALL_ACCESS
from transport.rdma.profiles import IWARP, RXE, DeviceProfile
from transport.rdma.wr import SendWR


@pytest.mark.parametrize("crc", [False, True])
@pytest.mark.parametrize("profile", [IWARP, RXE], ids=["iwarp", "roce"])
@pytest.mark.parametrize("offered", [Rtr(write=True), Rtr(empty=True), Rtr(True, True, True)])
def test_a_client_that_asks_lets_the_server_speak_first(offered: Rtr, profile: DeviceProfile, crc: bool) -> None:
    asks = StartFrame(False, ird=4, ord=4, rtr=offered)
    reply, theirs = answer(asks, 4, 4, False)
    settled = settle(asks, reply)
    assert settled.rtr is not None and settled.rtr == theirs.rtr
    j = Joined(find_crc() if crc else None, profile=profile, access=0 if settled.rtr.write else ALL_ACCESS)
    j.near.open(settled.rtr)
    j.a.recv(3)
    j.b.qp.post_send(SendWR(9, Opcode.SEND, [j.b.sge(0, 8)]))
    j.carry()
    assert statuses(j.a) == [(3, WcStatus.SUCCESS)]
    assert statuses(j.b) == [(9, WcStatus.SUCCESS)]
    j.b.recv(4)
    j.a.qp.post_send(j.to_peer(Opcode.SEND))
    j.carry()
    assert statuses(j.a) == [(7, WcStatus.SUCCESS)]
    assert not j.reasons


def test_openings_that_do_not_fit() -> None:
    asks = StartFrame(False, ird=4, ord=4, rtr=Rtr(write=True))
    for reply in (StartFrame(True, rtr=Rtr(empty=True)), StartFrame(True, rtr=Rtr(read=True))):
        with pytest.raises(MpaError, match="not offered") as caught:
            settle(asks, reply)
        assert caught.value.cause is Cause.LLP_RTR
    assert settle(asks, StartFrame(True)).rtr is None


@pytest.mark.parametrize("crc", [False, True])
def test_a_read_opens_and_the_next_waits_for_its_answer(crc: bool) -> None:
    asks = StartFrame(False, ird=1, ord=1, rtr=Rtr(read=True))
    reply, theirs = answer(asks, 1, 1, False)
    settled = settle(asks, reply)
    assert settled.rtr == theirs.rtr == Rtr(read=True)
    j = Joined(find_crc() if crc else None, access=int(Access.REMOTE_WRITE))
    j.near.open(settled.rtr)
    j.a.qp.post_send(j.to_peer(Opcode.WRITE))
    assert not statuses(j.a), "it goes behind the answer"
    j.a.recv(3)
    j.b.qp.post_send(SendWR(9, Opcode.SEND, [j.b.sge(0, 8)]))
    j.carry()
    assert statuses(j.a) == [(3, WcStatus.SUCCESS), (7, WcStatus.SUCCESS)]
    assert statuses(j.b) == [(9, WcStatus.SUCCESS)]
    assert not j.reasons and not j.near.opening
    j.a.qp.post_send(j.to_peer(Opcode.READ, 0))
    j.carry()
    assert j.reasons, "only what opens may read without a right to"


def test_an_answer_with_bytes_to_the_read_that_opened_is_refused() -> None:
    j = Joined()
    j.near.open(Rtr(read=True))
    j.far.sender.blocked = False
    j.far.sender.tagged(Op.READ_RESPONSE, [memoryview(b"x")], 1, 0)
    j.carry()
    assert j.near.terminated is not None and j.near.terminated.cause is Cause.TAGGED_BOUNDS


def test_a_read_opens_no_connection_by_roces_rules() -> None:
    asks = StartFrame(False, ird=4, ord=4, rtr=Rtr(read=True), roce=True)
    reply, _ = answer(asks, 4, 4, False, roce=True)
    with pytest.raises(MpaError, match="not offered"):
        settle(asks, reply)
    asks = StartFrame(False, ird=4, ord=4, rtr=Rtr(read=True))
    with pytest.raises(MpaError, match="not offered"):
        settle(asks, StartFrame(True, ird=0, ord=0, rtr=Rtr(read=True)))
