"""The transfer planner, the region pool and the messages of the transport."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rdma.rig import make_rig
from transport.base import Limits
from transport.errors import ProtocolError
from transport.framing import FrameKind
from transport.messages import Op
from transport.rdma.enums import MrState, Opcode
from transport.rdma.mr_pool import MrPool
from transport.rdma.pyverbs.cmid import CMID, AddrInfo, ConnParam
from transport.rdma.rw import dma_sges, plan
from transport.rdma.smbd import HEADER_BYTES
from transport.rdma.wire import CANCEL, INLINE_MAX, Chunk, message_size, pack, unpack
from transport.rdma.wr import SendWR

LIMITS = Limits(max_body=1000, max_payload=10_000)


@given(
    local=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    remote=st.lists(st.integers(1, 60), max_size=20),
    max_sge=st.sampled_from([1, 2, 6, 32]),
)
def test_plan_covers_every_byte_once(local: list[int], remote: list[int], max_sge: int) -> None:
    """The pieces in order are the local bytes; a request stays in one chunk and within max_sge; the remote side is contiguous."""
    pieces = [memoryview(bytes([n]) * length) for n, length in enumerate(local)]
    chunks = [Chunk(1_000_000 * n, length, n) for n, length in enumerate(remote)]
    if sum(remote) < sum(local):
        with pytest.raises(ValueError):
            plan(Opcode.WRITE, dma_sges(pieces), chunks, max_sge)
        return
    wrs = plan(Opcode.WRITE, dma_sges(pieces), chunks, max_sge)
    assert b"".join(sge.memory or b"" for wr in wrs for sge in wr.sges) == b"".join(pieces)
    expected = [(chunk.rkey, chunk.addr + off) for chunk in chunks for off in range(chunk.length)][: sum(local)]
    real = [(wr.rkey, wr.remote_addr + off) for wr in wrs for off in range(sum(sge.length for sge in wr.sges))]
    assert real == expected
    assert all(1 <= len(wr.sges) <= max_sge and all(sge.length for sge in wr.sges) for wr in wrs)
    fewest = sum(1 for chunk in chunks if chunk.addr in {wr.remote_addr for wr in wrs})
    assert len(wrs) >= fewest


def test_pool_is_bounded_and_keys_never_live_twice() -> None:
    rig = make_rig()
    pool = MrPool(rig.a.pd, 2, 3, 1 << 30)
    seen = set()
    for _ in range(20):
        assert pool.available == 2
        taken = [pool.take([memoryview(bytearray(8))]) for _ in range(2)]
        assert pool.available == 0 and pool.leased == 2
        with pytest.raises(AssertionError):
            pool.take([memoryview(bytearray(8))])
        for mr, key in taken:
            assert key not in seen
            seen.add(key)
            rig.a.qp.post_send(SendWR(1, Opcode.REG_MR, mr=mr, key=key))
            rig.a.qp.post_send(SendWR(2, Opcode.LOCAL_INV, invalidate_rkey=key))
            assert [wc.status for wc in rig.a.poll()] == [0, 0] and mr.state is MrState.FREE
            pool.give_back(mr)
    pool.destroy()
    assert len(rig.a.device.mrs) == 1


def test_pool_never_posted_leaks_nothing() -> None:
    rig = make_rig()
    pool = MrPool(rig.a.pd, 1, 1, 1 << 30)
    mr, key = pool.take([memoryview(bytearray(8))])
    assert mr.lkey != key and mr.state is MrState.FREE
    pool.give_back(mr)
    assert pool.take([memoryview(bytearray(4))])[1] == key


# ---- messages

chunks = st.builds(Chunk, addr=st.integers(0, (1 << 64) - 1), length=st.integers(1, 1000), rkey=st.integers(0, (1 << 32) - 1))


@given(
    source=st.lists(chunks, max_size=4),
    dest=st.lists(chunks, max_size=4),
    body=st.binary(max_size=50),
    inline=st.binary(max_size=50),
)
def test_message_round_trip(source: list[Chunk], dest: list[Chunk], body: bytes, inline: bytes) -> None:
    if source:
        inline = b""
    length = sum(chunk.length for chunk in source) if source else len(inline)
    raw = pack(FrameKind.REQUEST, Op.WRITE, 9, 0, body, length, len(inline), source, dest) + inline
    message = unpack(memoryview(raw)[HEADER_BYTES:], (FrameKind.REQUEST, CANCEL), LIMITS, 8)
    assert (message.op, message.xid, message.payload_length) == (Op.WRITE, 9, length)
    assert (message.source, message.dest) == (source, dest)
    assert (bytes(message.body), bytes(message.inline)) == (body, inline)


@given(raw=st.binary(max_size=200), flip=st.integers(0, 400), value=st.integers(0, 255))
def test_nonsense_is_refused(raw: bytes, flip: int, value: int) -> None:
    """Whatever comes, it is a message within the limits or a ProtocolError."""
    good = pack(FrameKind.REQUEST, Op.READ, 1, 0, b"body", 0, 0, (), (Chunk(5, 6, 7),))
    good[flip % len(good)] = value
    for candidate in (raw, good):
        try:
            message = unpack(memoryview(candidate)[HEADER_BYTES:], (FrameKind.REQUEST, CANCEL), LIMITS, 4)
        except ProtocolError:
            continue
        assert sum(chunk.length for chunk in message.dest) <= LIMITS.max_payload
        assert len(message.body) <= LIMITS.max_body and len(message.inline) <= INLINE_MAX


@pytest.mark.parametrize(
    "source",
    [[Chunk(0, 0, 1)], [Chunk(0, 5, 1)], [Chunk(0, 1, 1)] * 9],
    ids=["empty chunk", "not the payload", "too many"],
)
def test_bad_chunks(source: list[Chunk]) -> None:
    raw = pack(FrameKind.REQUEST, Op.WRITE, 1, 0, b"", 4, 0, source)
    with pytest.raises(ProtocolError):
        unpack(memoryview(raw)[HEADER_BYTES:], (FrameKind.REQUEST,), LIMITS, 8)


def test_size_of_the_largest_message() -> None:
    raw = pack(FrameKind.REQUEST, Op.WRITE, 1, 0, bytes(1000), 100, INLINE_MAX, (), [Chunk(0, 1, 1)] * 8)
    assert len(raw) - HEADER_BYTES + INLINE_MAX == message_size(LIMITS, 8)


@given(st.integers(0, 16), st.integers(0, 16), st.integers(0, 16), st.integers(0, 16))
def test_reads_in_flight_fit_the_other_side(ird: int, ord_: int, peer_ird: int, peer_ord: int) -> None:
    """Whatever the two sides offer, neither starts more READs than the other answers."""
    left, right = (CMID(AddrInfo(src_service=name, flags=1)) for name in ("a", "b"))
    left.peer, right.peer = right, left
    left.param, right.param = ConnParam(ird, ord_), ConnParam(peer_ird, peer_ord)
    ours, theirs = left.init_qp_attr(3)[0], right.init_qp_attr(3)[0]
    assert ours.max_rd_atomic <= theirs.max_dest_rd_atomic and theirs.max_rd_atomic <= ours.max_dest_rd_atomic
    for cmid in (left, right):
        cmid.close()
