"""Queue pairs over iWARP: every operation at every split, every refusal, flushed once, nothing outside registered memory."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rdma.iwarp_rig import Joined, statuses
from transport.rdma.enums import Access, EventType, MrState, Opcode, QPState, SendFlag, WcFlag, WcOpcode, WcStatus
from transport.rdma.iwarp.mpa import find_crc
from transport.rdma.iwarp.rdmap import READ_REQUEST, Op
from transport.rdma.iwarp.send import untagged_frame
from transport.rdma.iwarp.terminate import Cause
from transport.rdma.sge import SGE
from transport.rdma.wr import RecvWR, SendWR

OK = WcStatus.SUCCESS
FLUSHED = WcStatus.WR_FLUSH_ERR
STEPS = (1, 3, 16, 1 << 20)


def tagged(op: int, stag: int, to: int, data: bytes, ctrl: int = 0xC1) -> bytes:
    ulpdu = struct.pack(">BBIQ", ctrl, 0x40 | op, stag, to) + data
    return framed(ulpdu)


def untagged(op: int, qn: int, msn: int, mo: int, data: bytes, ctrl: int = 0x41, ulp: int = 0) -> bytes:
    return framed(struct.pack(">BBIIII", ctrl, 0x40 | op, ulp, qn, msn, mo) + data)


def framed(ulpdu: bytes) -> bytes:
    return struct.pack(">H", len(ulpdu)) + ulpdu + bytes(-(len(ulpdu) + 2) % 4 + 4)


# ---- what works


@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
@pytest.mark.parametrize("mulpdu", [128, 1000, 65535])
@pytest.mark.parametrize("step", STEPS)
def test_every_operation(step: int, mulpdu: int, crc: bool) -> None:
    j = Joined(find_crc() if crc else None, mulpdu, step)
    data = bytes(range(256)) * 4
    j.a.mr.write(data)
    j.b.mr.write(b"from b", 8000)
    j.b.recv(1, 2000, 1024)
    j.b.recv(2, 4000, 8)
    j.a.qp.post_send([j.to_peer(Opcode.SEND, 1000, wr_id=1), j.to_peer(Opcode.WRITE, 777, off=100, wr_id=2)])
    j.a.qp.post_send(SendWR(3, Opcode.READ, [j.a.sge(3000, 6)], remote_addr=j.b.mr.iova + 8000, rkey=j.b.mr.rkey))
    j.a.qp.post_send(SendWR(4, Opcode.FETCH_AND_ADD, [j.a.sge(4000, 8)], 2, j.b.mr.iova + 16000, j.b.mr.rkey, compare_add=5))
    swap = SendWR(5, Opcode.CMP_AND_SWP, [j.a.sge(4008, 8)], 2, j.b.mr.iova + 16000, j.b.mr.rkey, compare_add=5, swap=9)
    imm = j.to_peer(Opcode.WRITE_WITH_IMM, 50, off=5000, wr_id=6)
    imm.imm = 0xABCD
    j.a.qp.post_send([swap, imm])
    j.carry()
    assert statuses(j.a) == [(index, OK) for index in range(1, 7)]
    received = j.b.poll()
    assert [(wc.wr_id, wc.status, wc.opcode, wc.byte_len) for wc in received] == [
        (1, 0, WcOpcode.RECV, 1000),
        (2, 0, WcOpcode.RECV_RDMA_WITH_IMM, 50),
    ]
    assert (received[1].wc_flags, received[1].imm) == (WcFlag.WITH_IMM, 0xABCD)
    assert j.b.mr.read(1000, 2000) == data[:1000]
    assert j.b.mr.read(777, 100) == data[:777]
    assert j.b.mr.read(50, 5000) == data[:50]
    assert j.a.mr.read(6, 3000) == b"from b"
    assert j.a.mr.read(16, 4000) == struct.pack("<QQ", 0, 5)
    assert j.b.mr.read(8, 16000) == struct.pack("<Q", 9)
    assert j.guards_intact()
    assert not j.reasons


@pytest.mark.parametrize("opcode", [Opcode.SEND, Opcode.WRITE, Opcode.READ])
def test_messages_may_be_empty(opcode: Opcode) -> None:
    j = Joined()
    j.b.recv(1)
    j.a.qp.post_send(SendWR(1, opcode, [], remote_addr=12345, rkey=0x666))
    j.carry()
    assert statuses(j.a) == [(1, OK)]
    assert j.a.qp.state is QPState.RTS


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(128, 600), st.integers(1, 100), st.integers(0, 3000), st.booleans())
def test_any_split_gives_the_same(step: int, mulpdu: int, first: int, length: int, crc: bool) -> None:
    j = Joined(find_crc() if crc else None, mulpdu, step)
    data = bytes((index * 7 + length) & 0xFF for index in range(length))
    j.a.mr.write(data)
    cut = min(first, length)
    j.b.qp.post_recv(RecvWR(1, [j.b.sge(0, cut), j.b.sge(5000, 4000)]))
    j.a.qp.post_send([j.to_peer(Opcode.WRITE, length, off=20000), j.to_peer(Opcode.SEND, length)])
    j.a.qp.post_send(SendWR(9, Opcode.READ, [j.a.sge(30000, length)], remote_addr=j.b.mr.iova + 20000, rkey=j.b.mr.rkey))
    j.carry()
    assert [status for _, status in statuses(j.a)] == [OK] * 3
    assert [(wc.status, wc.byte_len) for wc in j.b.poll()] == [(0, length)]
    assert j.b.mr.read(cut) + j.b.mr.read(length - cut, 5000) == data
    assert j.a.mr.read(length, 30000) == data
    assert j.guards_intact()


def test_read_depth_holds_reads_back() -> None:
    j = Joined(depth=2)
    for index in range(8):
        j.a.qp.post_send(SendWR(index, Opcode.READ, [j.a.sge(64 * index)], remote_addr=j.b.mr.iova, rkey=j.b.mr.rkey))
    assert len(j.near.orq) == 2
    j.carry()
    assert statuses(j.a) == [(index, OK) for index in range(8)]


def test_server_speaks_when_spoken_to() -> None:
    j = Joined()
    j.a.recv(1)
    j.b.qp.post_send(SendWR(1, Opcode.SEND, [j.b.sge()]))
    j.carry()
    assert not j.a.poll()
    j.a.qp.post_send(j.to_peer(Opcode.WRITE, 0))
    j.carry()
    assert [wc.opcode for wc in j.a.poll()] == [WcOpcode.RDMA_WRITE, WcOpcode.RECV]


def test_empty_message_opens_a_peer_to_peer_start() -> None:
    j = Joined()
    j.feed(j.far, bytes(8))
    assert not j.far.sender.blocked
    assert not j.far.over


@pytest.mark.parametrize("solicited", [False, True])
def test_send_with_invalidate(solicited: bool) -> None:
    j = Joined()
    fast = j.b.pd.alloc_mr(1)
    fast.map_sg([memoryview(bytearray(64))], 0x5000)
    key = fast.lkey + 1
    j.b.recv(1)
    access = Access.LOCAL_WRITE | Access.REMOTE_WRITE
    # Nothing of a registration goes over the wire.
    j.b.qp.post_send(SendWR(2, Opcode.REG_MR, (), mr=fast, key=key, access=access))
    j.a.qp.post_send(SendWR(3, Opcode.SEND_WITH_INV, [j.a.sge()], 2 | SendFlag.SOLICITED * solicited, invalidate_rkey=key))
    j.b.cq.req_notify(solicited_only=True)
    j.carry()
    wcs = j.b.poll()
    assert [(wc.wr_id, wc.status) for wc in wcs] == [(2, 0), (1, 0)]
    assert (wcs[1].wc_flags, wcs[1].imm) == (WcFlag.WITH_INV, key)
    assert fast.state is MrState.FREE
    assert (j.b.cq.armed == 0) is solicited


def test_inline_data_is_taken_at_once() -> None:
    j = Joined()
    j.a.mr.write(b"before")
    j.b.recv(1)
    j.a.qp.post_send(j.to_peer(Opcode.SEND, 6, flags=SendFlag.SIGNALED | SendFlag.INLINE))
    j.a.mr.write(b"after!")
    j.carry()
    assert j.b.mr.read(6) == b"before"


# ---- what is refused


def refused(j: Joined, cause: Cause) -> None:
    """Both ends know why, both queue pairs are in error, nothing was written outside."""
    terminate = j.terminate()
    assert terminate is not None
    assert Cause(terminate.cause) is cause, str(terminate)
    assert j.a.qp.state is j.b.qp.state is QPState.ERR
    assert len(j.reasons) == 2
    assert j.guards_intact()
    assert j.near.over
    assert j.far.over


Place = Callable[[Joined], tuple[int, int, int]]
WRONG_KEYS: dict[str, tuple[Place, Cause, Cause]] = {
    "unknown key": (lambda j: (0x999900, j.b.mr.iova, 8), Cause.TAGGED_STAG, Cause.PROTECTION_STAG),
    "before the region": (lambda j: (j.b.mr.rkey, j.b.mr.iova - 1, 8), Cause.TAGGED_BOUNDS, Cause.PROTECTION_BOUNDS),
    "behind the region": (lambda j: (j.b.mr.rkey, j.b.mr.iova + (1 << 16) - 7, 8), Cause.TAGGED_BOUNDS, Cause.PROTECTION_BOUNDS),
    "wrapping": (lambda j: (j.b.mr.rkey, (1 << 64) - 4, 8), Cause.TAGGED_WRAP, Cause.PROTECTION_WRAP),
}


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("name", WRONG_KEYS)
def test_write_to_a_wrong_place(name: str, step: int) -> None:
    place, cause, _ = WRONG_KEYS[name]
    j = Joined(step=step)
    j.b.recv(5)
    rkey, addr, length = place(j)
    j.a.qp.post_send(SendWR(1, Opcode.WRITE, [j.a.sge(0, length)], remote_addr=addr, rkey=rkey))
    j.a.qp.post_recv(RecvWR(2, [j.a.sge()]))
    j.carry()
    refused(j, cause)
    assert statuses(j.a) == [(1, OK), (2, FLUSHED)], "a WRITE is complete when the stream has it"
    assert statuses(j.b) == [(5, FLUSHED)]
    assert j.b.context.get_async_event().type is EventType.QP_ACCESS_ERR  # type: ignore[union-attr]


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_read_from_a_wrong_place(name: str) -> None:
    place, _, cause = WRONG_KEYS[name]
    j = Joined()
    rkey, addr, length = place(j)
    j.a.qp.post_send([SendWR(i, Opcode.READ, [j.a.sge(0, length)], remote_addr=addr, rkey=rkey) for i in range(3)])
    j.carry()
    refused(j, cause)
    assert statuses(j.a) == [(0, WcStatus.GENERAL_ERR), (1, FLUSHED), (2, FLUSHED)]


@pytest.mark.parametrize("opcode", [Opcode.WRITE, Opcode.READ, Opcode.FETCH_AND_ADD])
def test_permissions_of_queue_pair_and_region(opcode: Opcode) -> None:
    for j in (Joined(access=0), Joined(mr_access=int(Access.LOCAL_WRITE))):
        if opcode is Opcode.READ:
            j.a.mr.access |= int(Access.REMOTE_WRITE)  # it is the sink
        j.a.qp.post_send(j.to_peer(opcode, 8))
        j.carry()
        refused(j, Cause.PROTECTION_ACCESS)


def test_send_without_a_receive() -> None:
    j = Joined()
    j.a.qp.post_send(j.to_peer(Opcode.SEND))
    j.carry()
    refused(j, Cause.UNTAGGED_NO_BUFFER)


def test_send_longer_than_the_receive() -> None:
    j = Joined(mulpdu=128)
    j.b.recv(1, 0, 200)
    j.b.recv(2)
    j.a.qp.post_send(j.to_peer(Opcode.SEND, 201))
    j.carry()
    refused(j, Cause.UNTAGGED_TOO_LONG)
    assert statuses(j.b) == [(1, WcStatus.LOC_LEN_ERR), (2, FLUSHED)]


def test_invalidating_what_is_not_registered() -> None:
    j = Joined()
    j.b.recv(1)
    j.a.qp.post_send(SendWR(1, Opcode.SEND_WITH_INV, [j.a.sge()], invalidate_rkey=j.b.mr.rkey))
    j.carry()
    refused(j, Cause.PROTECTION_INVALIDATE)
    assert statuses(j.b) == [(1, WcStatus.REM_INV_REQ_ERR)]


def test_checksums_are_checked() -> None:
    j = Joined(find_crc())
    j.b.recv(1, 0, 100)
    j.a.qp.post_send(j.to_peer(Opcode.SEND, 100))
    data = bytearray(b"".join(j.near.batch() or []))
    data[60] ^= 1
    j.near.sender.sent(len(data))
    j.feed(j.far, bytes(data))
    j.carry()
    refused(j, Cause.LLP_CRC)
    assert statuses(j.b) == [(1, FLUSHED)]


def test_sink_must_be_a_region_the_peer_may_write() -> None:
    j = Joined()
    memory = memoryview(bytearray(64))
    j.a.qp.post_send(SendWR(1, Opcode.READ, [SGE(0, 64, 0xFFFFFF00, memory)], remote_addr=j.b.mr.iova, rkey=j.b.mr.rkey))
    assert statuses(j.a) == [(1, WcStatus.LOC_QP_OP_ERR)]


HOSTILE = {
    "unknown DDP version, tagged": (tagged(Op.WRITE, 1, 0, b"", 0xC2), Cause.TAGGED_VERSION),
    "unknown DDP version, untagged": (untagged(Op.SEND, 0, 1, 0, b"", 0x43), Cause.UNTAGGED_VERSION),
    "unknown RDMAP version": (framed(struct.pack(">BBIQ", 0xC1, 0x80, 1, 0)), Cause.OPERATION_VERSION),
    "unknown opcode": (untagged(12, 0, 1, 0, b""), Cause.OPERATION_OPCODE),
    "tagged SEND": (tagged(Op.SEND, 1, 0, b""), Cause.OPERATION_OPCODE),
    "untagged WRITE": (untagged(Op.WRITE, 0, 1, 0, b""), Cause.OPERATION_OPCODE),
    "SEND on the queue of requests": (untagged(Op.SEND, 1, 1, 0, b""), Cause.OPERATION_OPCODE),
    "unknown queue": (untagged(Op.SEND, 9, 1, 0, b""), Cause.UNTAGGED_QN),
    "message number too high": (untagged(Op.SEND, 0, 2, 0, b"x"), Cause.UNTAGGED_MSN),
    "message number 0": (untagged(Op.SEND, 0, 0, 0, b"x"), Cause.UNTAGGED_MSN),
    "begins in the middle": (untagged(Op.SEND, 0, 1, 4, b"x"), Cause.UNTAGGED_MO),
    "shorter than a header": (framed(b"\xc1\x40abc"), Cause.LLP_LENGTH),
    "READ request too short": (untagged(Op.READ_REQUEST, 1, 1, 0, bytes(27)), Cause.LLP_LENGTH),
    "READ request too long": (untagged(Op.READ_REQUEST, 1, 1, 0, bytes(29)), Cause.LLP_LENGTH),
    "READ request in pieces": (untagged(Op.READ_REQUEST, 1, 1, 0, bytes(28), 0x01), Cause.UNTAGGED_MO),
    "Terminate too long": (untagged(Op.TERMINATE, 2, 1, 0, bytes(65)), Cause.LLP_LENGTH),
    "answer nobody asked for": (tagged(Op.READ_RESPONSE, 1, 0, b"x"), Cause.OPERATION_OPCODE),
    "atomic answer nobody asked for": (untagged(Op.ATOMIC_RESPONSE, 3, 1, 0, bytes(12)), Cause.OPERATION_OPCODE),
    "unknown atomic": (untagged(Op.ATOMIC_REQUEST, 1, 1, 0, struct.pack(">I", 1) + bytes(48)), Cause.OPERATION_OPCODE),
}


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_segments(name: str, step: int) -> None:
    data, cause = HOSTILE[name]
    j = Joined(step=step)
    j.b.recv(1)
    j.feed(j.far, data)
    j.carry()
    refused(j, cause)
    assert [status for _, status in statuses(j.b)] == [FLUSHED]


def test_second_segment_must_continue() -> None:
    for data in (
        untagged(Op.SEND, 0, 1, 5, b"x"),
        untagged(Op.SEND, 0, 2, 4, b"x"),
        untagged(Op.SEND_SE, 0, 1, 4, b"x"),
    ):
        j = Joined()
        j.b.recv(1)
        j.b.recv(2)
        j.feed(j.far, untagged(Op.SEND, 0, 1, 0, b"abcd", 0x01) + data)
        j.carry()
        assert j.terminate() is not None
        assert statuses(j.b) == [(1, FLUSHED), (2, FLUSHED)]


def test_more_requests_than_the_depth() -> None:
    j = Joined(depth=2)
    body = READ_REQUEST.pack(1, 0, 8, j.b.mr.rkey, j.b.mr.iova)
    j.far.sender.blocked = True
    j.feed(j.far, b"".join(untagged(Op.READ_REQUEST, 1, index + 1, 0, body) for index in range(3)))
    j.carry()
    assert j.far.terminated is not None
    assert j.far.terminated.cause == Cause.OPERATION_STREAM


LIES = ("another key", "another place", "more than asked", "ends early", "goes on")


@pytest.mark.parametrize("lie", LIES)
def test_read_response_must_be_what_was_asked(lie: str) -> None:
    j = Joined()
    j.a.qp.post_send(j.to_peer(Opcode.READ, 8))
    stag, to = j.a.mr.lkey, j.a.mr.iova
    fake = {
        "another key": tagged(Op.READ_RESPONSE, stag ^ 1, to, b"12345678"),
        "another place": tagged(Op.READ_RESPONSE, stag, to + 64, b"12345678"),
        "more than asked": tagged(Op.READ_RESPONSE, stag, to, b"123456789"),
        "ends early": tagged(Op.READ_RESPONSE, stag, to, b"1234"),
        "goes on": tagged(Op.READ_RESPONSE, stag, to, b"12345678", 0x81),
    }[lie]
    j.feed(j.near, fake)
    assert j.near.terminated is not None
    assert j.near.terminated.cause in (Cause.TAGGED_STAG, Cause.TAGGED_BOUNDS)
    assert statuses(j.a) == [(7, FLUSHED)]
    assert j.a.mr.read(1 << 16) == bytes(1 << 16)


# ---- memory that goes away


@pytest.mark.parametrize("taken", [1, 16, 20, 40, 300])
def test_no_byte_after_deregistration(taken: int) -> None:
    """A segment half placed stops where its region ends to be one."""
    j = Joined()
    j.b.mr.access |= int(Access.REMOTE_WRITE)
    data = tagged(Op.WRITE, j.b.mr.rkey, j.b.mr.iova, b"\x55" * 1000)
    j.feed(j.far, data[:taken])
    j.b.mr.dereg()
    before = bytes(j.memories[1])
    j.feed(j.far, data[taken:])
    assert j.far.terminated is not None
    assert j.far.terminated.cause == Cause.TAGGED_STAG
    assert bytes(j.memories[1]) == before


def test_no_byte_is_read_after_deregistration() -> None:
    j = Joined()
    j.b.mr.write(b"secret" * 1000)
    j.a.qp.post_send(SendWR(1, Opcode.READ, [j.a.sge(0, 6000)], remote_addr=j.b.mr.iova, rkey=j.b.mr.rkey))
    j.feed(j.far, b"".join(j.near.batch() or []))
    assert j.far.sender.busy
    j.b.mr.dereg()
    assert j.far.batch() is None, "memory of a region that is gone is not sent"
    assert j.b.qp.state is QPState.ERR


def test_half_sent_segment_is_finished_from_a_copy() -> None:
    """The memory is its owner's as soon as the queue pair is in error, though the peer still gets the whole segment."""
    j = Joined()
    j.b.recv(1, 0, 1000)
    j.a.mr.write(b"A" * 1000)
    j.a.qp.post_send(j.to_peer(Opcode.SEND, 1000))
    data = b"".join(j.near.batch() or [])
    j.near.sender.sent(500)
    j.a.qp.enter_error()
    j.a.mr.write(b"B" * 1000)
    rest = b"".join(j.near.batch() or [])
    j.feed(j.far, data[:500] + rest)
    assert statuses(j.b) == [(1, OK)]
    assert j.b.mr.read(1000) == b"A" * 1000
    assert statuses(j.a) == [(7, FLUSHED)]


@pytest.mark.parametrize("end", ["lose", "error", "reset", "destroy"])
def test_every_request_completes_once(end: str) -> None:
    j = Joined(mulpdu=128)
    j.b.recv(1, 0, 1000)
    j.a.recv(2)
    j.a.qp.post_send([j.to_peer(Opcode.SEND, 500, wr_id=10), j.to_peer(Opcode.READ, wr_id=11), j.to_peer(Opcode.WRITE, wr_id=12)])
    j.feed(j.far, b"".join(j.near.batch() or [])[:100])
    for engine, side in ((j.near, j.a), (j.far, j.b)):
        if end == "lose":
            engine.received(0)
        elif end == "error":
            side.qp.enter_error()
        elif end == "reset":
            side.qp._reset()
        else:
            side.qp.destroy()
        engine.received(0)
        assert engine.wanted() is None
    if end in ("lose", "error"):
        assert sorted(statuses(j.a)) == [(wr_id, FLUSHED) for wr_id in (2, 10, 11, 12)]
        assert statuses(j.b) == [(1, FLUSHED)]


# ---- fuzz


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.integers(1, 40))
def test_any_bytes_are_survived(data: bytes, step: int) -> None:
    j = Joined(step=step)
    j.b.recv(1)
    j.feed(j.far, data)
    j.far.received(0)
    assert statuses(j.b) == [(1, FLUSHED)] or j.b.qp.state is QPState.ERR
    assert j.guards_intact()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_field_of_every_message_may_lie(data: st.DataObject) -> None:
    """One byte of a good conversation is changed: at worst both ends are in error and everything has completed once."""
    j = Joined()
    for index in range(3):
        j.b.recv(index, 1000 * index, 500)
    j.a.qp.post_send([j.to_peer(Opcode.SEND, 40, wr_id=1), j.to_peer(Opcode.WRITE, 40, off=9000, wr_id=2)])
    j.a.qp.post_send([j.to_peer(Opcode.READ, 40, wr_id=3), j.to_peer(Opcode.FETCH_AND_ADD, 8, off=64, wr_id=4)])
    wire = bytearray(b"".join(j.near.batch() or []))
    place = data.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= data.draw(st.integers(1, 255))
    j.near.sender.sent(len(wire))
    j.feed(j.far, bytes(wire))
    j.carry()
    for engine in j.engines:
        engine.received(0)
    sent, received = statuses(j.a), statuses(j.b)
    assert [wr_id for wr_id, _ in sent] == [1, 2, 3, 4]
    assert sorted(wr_id for wr_id, _ in received) == [0, 1, 2]
    assert j.guards_intact()


def test_offending_header_is_told() -> None:
    j = Joined()
    frame = untagged_frame(None, Op.SEND, True, 0, 7, 0, [])
    data = b"".join(frame.views)
    j.feed(j.far, data)
    j.carry()
    terminate = j.terminate()
    assert terminate is not None
    assert terminate.header == data[2:20]
    assert terminate.length == 18


def test_the_read_that_is_refused_is_told() -> None:
    j = Joined()
    wr = j.to_peer(Opcode.READ, 64)
    wr.rkey ^= 0x100
    j.a.qp.post_send(wr)
    data = b"".join(j.near.batch() or [])
    j.carry()
    terminate = j.terminate()
    assert terminate is not None and j.near.terminated == j.far.terminated
    assert terminate.cause == Cause.PROTECTION_STAG
    assert (terminate.header, terminate.read) == (data[2:20], data[20:48])
