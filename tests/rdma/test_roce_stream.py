"""RoCE's rules between two processes: acknowledgements, NAKs and RNR over the iWARP engines, carried by hand and by a link."""

import contextlib
import errno
import re
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from tests.rdma.iwarp_rig import Joined, statuses
from tests.rdma.test_endpoint import HANDLE, Bytes
from transport.env import system_env
from transport.errors import HelloMismatch, TransportError
from transport.link import LinkShape, memory_link
from transport.messages import Ping, Read, Write
from transport.rdma.enums import Access, EventType, MrState, Opcode, QPState, WcStatus
from transport.rdma.iwarp.mpa import MpaError, StartFrame, StartReader, answer, settle
from transport.rdma.iwarp.rdmap import ACK, Op
from transport.rdma.iwarp.roce import RoceEngine
from transport.rdma.iwarp.terminate import Cause
from transport.rdma.loopback import Side
from transport.rdma.profiles import RXE
from transport.rdma.requester import RNR_TIMERS_US
from transport.rdma.sge import SGE
from transport.rdma.stream_endpoint import connect_rdma_stream, serve_rdma_stream
from transport.rdma.wr import SendWR

W = WcStatus
FULL = int(
    Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC | Access.FLUSH_GLOBAL
    | Access.FLUSH_PERSISTENT
)  # fmt: skip


def joined(access: int = FULL, step: int = 1 << 20, depth: int = 4, rnr_retry: int = 0) -> Joined:
    return Joined(access=access, step=step, depth=depth, rnr_retry=rnr_retry, mr_access=FULL, profile=RXE)


def memory(side: Side) -> memoryview:
    assert isinstance(side.memory, list)
    return side.memory[0]


def events(j: Joined) -> list[EventType]:
    found = []
    while (event := j.b.context.get_async_event()) is not None:
        found.append(EventType(event.type))
        j.b.context.ack_async_event(event)
    return found


def fast_key(j: Joined, access: int = int(Access.REMOTE_READ)) -> int:
    mr = j.b.pd.alloc_mr(1)
    mr.map_sg([memoryview(bytearray(64))], 0)
    mr.access, mr.state = access, MrState.VALID
    return mr.rkey


def request(j: Joined, opcode: Opcode) -> SendWR:
    wr = j.to_peer(opcode, 8)
    wr.length = 64
    if opcode is Opcode.SEND_WITH_INV:
        wr.invalidate_rkey = fast_key(j)
    if opcode is Opcode.FLUSH:
        wr.sges = ()
    wr.imm = 0x1234
    return wr


ALL = (
    Opcode.SEND, Opcode.SEND_WITH_IMM, Opcode.SEND_WITH_INV, Opcode.WRITE, Opcode.WRITE_WITH_IMM, Opcode.READ,
    Opcode.CMP_AND_SWP, Opcode.FETCH_AND_ADD, Opcode.ATOMIC_WRITE, Opcode.FLUSH,
)  # fmt: skip
RECEIVED = {Opcode.SEND, Opcode.SEND_WITH_IMM, Opcode.SEND_WITH_INV, Opcode.WRITE_WITH_IMM}


@pytest.mark.parametrize("step", [1, 13, 1 << 20])
@pytest.mark.parametrize("opcode", ALL)
def test_every_opcode_completes_when_the_peer_has_it(opcode: Opcode, step: int) -> None:
    j = joined(step=step)
    j.b.recv(3)
    memory(j.a)[:8] = b"12345678"
    j.a.qp.post_send(request(j, opcode))
    assert j.a.poll() == []
    j.carry()
    assert statuses(j.a) == [(7, W.SUCCESS)]
    got = j.b.poll()
    assert [wc.status for wc in got] == ([W.SUCCESS] if opcode in RECEIVED else [])
    if opcode in (Opcode.SEND_WITH_IMM, Opcode.WRITE_WITH_IMM):
        assert got[0].imm == 0x1234
    if opcode in (Opcode.WRITE, Opcode.SEND, Opcode.ATOMIC_WRITE):
        assert bytes(memory(j.b)[:8]) == b"12345678"
    assert j.guards_intact()
    assert j.near.terminated is None and not j.reasons


@pytest.mark.parametrize("lose", ["no permission", "key", "bounds", "region"])
@pytest.mark.parametrize("opcode", [Opcode.WRITE, Opcode.READ, Opcode.FETCH_AND_ADD, Opcode.FLUSH, Opcode.ATOMIC_WRITE])
def test_a_refused_request_learns_why(opcode: Opcode, lose: str) -> None:
    """Where iWARP terminates the stream, the request to blame has its status; those before succeed, those behind are flushed."""
    j = joined(access=0 if lose == "no permission" else FULL)
    j.b.recv()
    good = replace(request(j, Opcode.SEND), wr_id=1)
    bad, later = request(j, opcode), replace(request(j, Opcode.SEND), wr_id=8)
    if lose == "key":
        bad.rkey ^= 0x100
    elif lose == "bounds":
        bad.remote_addr = j.b.mr.iova + j.b.mr.length
    elif lose == "region":
        j.b.mr.dereg()
        j.b.qp.rq.clear()
        j.b.mr = j.b.pd.reg_mr(j.b.memory, FULL)
        j.b.recv()
    j.a.qp.post_send([good, bad, later])
    j.carry()
    why = W.REM_INV_REQ_ERR if lose == "no permission" else W.REM_ACCESS_ERR
    assert statuses(j.a) == [(1, W.SUCCESS), (7, why), (8, W.WR_FLUSH_ERR)]
    assert j.a.qp.state is QPState.ERR and j.b.qp.state is QPState.ERR
    assert events(j) == [EventType.QP_REQ_ERR if lose == "no permission" else EventType.QP_ACCESS_ERR]
    assert j.near.terminated is None
    assert j.guards_intact()


def test_a_message_longer_than_its_receive() -> None:
    j = joined()
    j.b.recv(3, length=63)
    j.a.qp.post_send(j.to_peer(Opcode.SEND))
    j.carry()
    assert statuses(j.a) == [(7, W.REM_INV_REQ_ERR)]
    assert statuses(j.b) == [(3, W.LOC_LEN_ERR)]


def test_a_receive_whose_memory_is_gone() -> None:
    j = joined()
    j.b.recv(3)
    j.b.mr.dereg()
    j.a.qp.post_send(j.to_peer(Opcode.SEND))
    j.carry()
    assert statuses(j.a) == [(7, W.REM_OP_ERR)]
    assert statuses(j.b) == [(3, W.LOC_PROT_ERR)]


def test_more_reads_than_the_peer_answers() -> None:
    j = joined(depth=2)
    j.a.qp.attr.max_rd_atomic = 8
    j.a.qp.post_send([j.to_peer(Opcode.READ, 16000, wr_id=number) for number in range(3)])
    j.carry()
    assert W.REM_INV_REQ_ERR in {status for _, status in statuses(j.a)}


def test_a_read_over_many_entries_needs_no_permission_for_the_peer() -> None:
    j = joined()
    local = j.a.pd.reg_mr(bytearray(300), int(Access.LOCAL_WRITE))
    memory(j.b)[:300] = bytes(range(150)) * 2
    sges = [SGE(local.iova + off, length, local.lkey) for off, length in ((200, 100), (0, 1), (1, 199))]
    j.a.qp.post_send(SendWR(7, Opcode.READ, sges, 2, j.b.mr.iova, j.b.mr.rkey))
    j.carry()
    assert statuses(j.a) == [(7, W.SUCCESS)]
    assert local.read(300, 0) == (bytes(range(150)) * 2)[100:] + (bytes(range(150)) * 2)[:100]


# ---- not ready


@pytest.mark.parametrize("opcode", [Opcode.SEND, Opcode.WRITE_WITH_IMM])
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_not_ready_waits_and_goes_on_where_it_was(opcode: Opcode, step: int) -> None:
    """Everything behind the request waits with it, in order; nothing is done twice, nothing is lost."""
    j = joined(step=step, rnr_retry=7)
    memory(j.a)[:64] = bytes(range(64))
    add = SendWR(3, Opcode.FETCH_AND_ADD, [j.a.sge(512, 8)], 2, j.b.mr.iova + 1024, j.b.mr.rkey, compare_add=5)
    j.a.qp.post_send(
        [
            j.to_peer(Opcode.WRITE, wr_id=1),
            j.to_peer(opcode, wr_id=2),
            add,
            j.to_peer(Opcode.READ, wr_id=4, off=2048),
            j.to_peer(opcode, wr_id=5),
        ]
    )
    j.carry()
    assert statuses(j.a) == [(1, W.SUCCESS)]
    fabric = j.a.device.fabric
    wait = RNR_TIMERS_US[j.b.qp.attr.min_rnr_timer] * 1e-6
    fabric.advance(wait * 0.9)
    j.carry()
    assert statuses(j.a) == []
    j.b.recv(10)
    fabric.advance(wait * 1.1)
    j.carry()
    assert statuses(j.a) == [(2, W.SUCCESS), (3, W.SUCCESS), (4, W.SUCCESS)]
    j.b.recv(11)
    fabric.advance(wait * 3)
    j.carry()
    assert statuses(j.a) == [(5, W.SUCCESS)]
    assert [wr_id for wr_id, _ in statuses(j.b)] == [10, 11]
    assert memory(j.b)[1024:1032] == (5).to_bytes(8, "little")
    assert not j.reasons


@pytest.mark.parametrize("tries", [0, 1, 3])
def test_not_ready_too_often(tries: int) -> None:
    j = joined(rnr_retry=tries)
    j.a.qp.post_send([j.to_peer(Opcode.SEND), j.to_peer(Opcode.SEND, wr_id=8)])
    j.carry()
    for attempt in range(tries):
        assert statuses(j.a) == []
        j.a.device.fabric.advance(attempt + 1)
        j.carry()
    assert statuses(j.a) == [(7, W.RNR_RETRY_EXC_ERR), (8, W.WR_FLUSH_ERR)]


def test_a_long_message_is_dropped_whole() -> None:
    j = joined(rnr_retry=7, step=900)
    memory(j.a)[:] = bytes(range(256)) * (len(memory(j.a)) // 256)
    length = len(memory(j.a))
    j.near.sender.room_untagged = 1000
    j.a.qp.post_send(j.to_peer(Opcode.SEND, length))
    j.carry()
    j.b.recv(3, 0, length)
    j.a.device.fabric.advance(1)
    j.carry()
    assert statuses(j.b) == [(3, W.SUCCESS)]
    assert memory(j.b) == memory(j.a)


def test_documented_bytes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()
    doc = {name: bytes.fromhex(data) for name, data in re.findall(r"```hex roce ([a-z ]+)\n(.*?)```", text, re.DOTALL)}
    j = joined(rnr_retry=1)
    assert j.b.qp.attr.min_rnr_timer == 12
    j.a.qp.post_send([j.to_peer(Opcode.WRITE) for _ in range(3)])
    j.feed(j.far, b"".join(j.near.batch() or []))
    assert b"".join(j.far.batch() or []) == doc["taken"]
    j.far.sender.sent(len(doc["taken"]))
    j.near.sender.sent(sum(map(len, j.near.batch() or [])))
    j.a.qp.post_send(j.to_peer(Opcode.SEND))
    j.feed(j.far, b"".join(j.near.batch() or []))
    assert b"".join(j.far.batch() or []) == doc["not ready"]


# ---- silence, nonsense


def test_a_silent_peer_is_given_up() -> None:
    j = joined()
    j.b.recv()
    j.a.qp.post_send([j.to_peer(Opcode.SEND), j.to_peer(Opcode.WRITE, wr_id=8)])
    fabric = j.a.device.fabric
    rounds = 0
    while (deadline := fabric.next_deadline()) is not None:
        fabric.advance(deadline)
        rounds += 1
    assert rounds == j.a.qp.attr.retry_cnt + 1
    assert statuses(j.a) == [(7, W.RETRY_EXC_ERR), (8, W.WR_FLUSH_ERR)]


def test_acknowledgements_stop_the_timer() -> None:
    j = joined()
    fabric = j.a.device.fabric
    for turn in range(30):
        j.a.qp.post_send(j.to_peer(Opcode.WRITE))
        j.carry()
        fabric.advance(3.0 * (turn + 1))
        assert statuses(j.a) == [(7, W.SUCCESS)]


@pytest.mark.parametrize("said", [(0x1F << 24, 9), (0x20 << 24, 1), (0x62 << 24, 5)])
def test_an_acknowledgement_of_nothing(said: tuple[int, int]) -> None:
    j = joined()
    j.b.recv()
    j.a.qp.post_send(j.to_peer(Opcode.SEND))
    j.carry()
    j.far.sender.untagged(Op.ACK, [memoryview(ACK.pack(*said))])
    j.carry()
    terminate = j.terminate()
    assert terminate is not None and terminate.cause == Cause.OPERATION_OPCODE
    assert j.a.qp.state is QPState.ERR


def test_without_agreement_the_opcodes_are_unknown() -> None:
    j = Joined()
    j.near.sender.untagged(Op.ACK, [memoryview(ACK.pack(0x1F << 24, 1))])
    j.carry()
    terminate = j.terminate()
    assert terminate is not None and terminate.cause == Cause.OPERATION_OPCODE


# ---- agreement


def test_both_sides_must_know() -> None:
    asks = StartFrame(False, private=b"mine", roce=True)
    reader = StartReader(False)
    reader.feed(asks.pack()[:20])
    reader.feed(asks.pack()[20:])
    assert reader.frame() == asks
    reply, settled = answer(asks, 4, 4, False, b"yours", roce=True)
    assert settled.roce and reply.roce and settle(asks, reply).roce
    reply, settled = answer(asks, 4, 4, False, b"yours")
    assert not settled.roce and not settle(asks, reply).roce
    reply, settled = answer(replace(asks, roce=False), 4, 4, False, b"yours", roce=True)
    assert not settled.roce and not reply.roce
    with pytest.raises(MpaError, match="RoCE"):
        settle(replace(asks, roce=False), StartFrame(True, roce=True))


async def test_filesystem_messages_under_roce_rules() -> None:
    handler = Bytes()
    ours, theirs = memory_link(LinkShape(slice_length=700), LinkShape(slice_length=900))

    async def serve() -> None:
        await serve_rdma_stream(theirs, lambda _peer, _limits: handler, system_env(), Probe())

    data = bytes(range(251)) * 500
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with connect_rdma_stream(ours, system_env(), Probe(), profile=RXE) as transport:
            await transport.call(Write(HANDLE, 0), source=IovIter.ubuf(Direction.SOURCE, data))
            target = bytearray(len(data))
            reply = await transport.call(Read(HANDLE, 0, len(data)), dest=IovIter.ubuf(Direction.DEST, target))
            assert (reply.status, bytes(target)) == (0, data)


async def test_a_server_that_knows_only_iwarp_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transport.rdma.stream_endpoint.answer",
        lambda request, ird, ord_, crc, private, roce: answer(request, ird, ord_, crc, private),
    )
    ours, theirs = memory_link()

    async def serve() -> None:
        with contextlib.suppress(TransportError):  # what the client sees is looked at
            await serve_rdma_stream(theirs, lambda _peer, _limits: Bytes(), system_env(), Probe())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(HelloMismatch, match="RoCE"):
            async with connect_rdma_stream(ours, system_env(), Probe(), profile=RXE):
                raise AssertionError("connected")


async def test_a_peer_that_stops_acknowledging(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call ends, its memory is the caller's, and it may be sent again on another connection."""
    ours, theirs = memory_link()

    async def serve() -> None:
        with contextlib.suppress(TransportError):  # what the client sees is looked at
            await serve_rdma_stream(theirs, lambda _peer, _limits: Bytes(), system_env(), Probe())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with connect_rdma_stream(ours, system_env(), Probe(), profile=RXE) as transport:
            engine = transport.end.qp.link
            assert isinstance(engine, RoceEngine)
            monkeypatch.setattr(RoceEngine, "_acknowledge", lambda self, syndrome, number: None)
            with pytest.raises(TransportError) as caught:
                await transport.call(Ping())
            assert caught.value.retryable
            assert caught.value.errno in (errno.ECONNRESET, errno.ETIMEDOUT)
    assert autojump_clock.rate == 0
