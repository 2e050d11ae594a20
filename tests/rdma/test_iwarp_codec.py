"""iWARP on the wire: worked frames byte by byte, the start-up of both revisions, Terminate, segmentation."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.rdma.iwarp.ddp import MAX_ULPDU, cut, pad_of, tagged_room, untagged_room
from transport.rdma.iwarp.mpa import MAX_PRIVATE, NO_DEPTH, MpaError, Rtr, StartFrame, StartReader, answer, find_crc, settle
from transport.rdma.iwarp.rdmap import READ_REQUEST, Op
from transport.rdma.iwarp.send import Frame, Sender, untagged_frame
from transport.rdma.iwarp.terminate import Cause, Terminate

TERMINATE = Terminate(0x0100, 0x72, bytes.fromhex("c140 00009999 0000000000001000"))
READ = READ_REQUEST.pack(0xAA, 0x2000, 64, 0xBB, 0x3000)


def whole(frame: Frame) -> bytes:
    data = b"".join(frame.views)
    assert len(data) == frame.left
    return data


def tagged(op: int, stag: int, to: int, data: bytes, crc: bool = True) -> bytes:
    sender = Sender(find_crc() if crc else None, lambda: None)
    return whole(sender.tagged_frame(op, True, stag, to, [memoryview(data)] if data else [], len(data)))


def untagged(op: int, ulp: int, msn: int, data: bytes, crc: bool = True) -> bytes:
    return whole(untagged_frame(find_crc() if crc else None, op, True, ulp, msn, 0, [memoryview(data)]))


VECTORS = {
    "send": (untagged(Op.SEND, 0, 1, b"hello"), "0017 4143 00000000 00000000 00000001 00000000 68656c6c6f 000000 b990b10c"),
    "send, no checksum": (
        untagged(Op.SEND, 0, 1, b"hello", crc=False),
        "0017 4143 00000000 00000000 00000001 00000000 68656c6c6f 000000 00000000",
    ),
    "send with invalidate": (
        untagged(Op.SEND_INV, 0x1234, 2, b"ok"),
        "0014 4144 00001234 00000000 00000002 00000000 6f6b 0000 b343a55d",
    ),
    "write": (tagged(Op.WRITE, 0x1234, 0x7F0000001000, b"data"), "0012 c140 00001234 00007f0000001000 64617461 326ba838"),
    "read request": (
        untagged(Op.READ_REQUEST, 0, 1, READ),
        "002e 4141 00000000 00000001 00000001 00000000 000000aa 0000000000002000 00000040 000000bb 0000000000003000 295f6ba0",
    ),
    "read response": (tagged(Op.READ_RESPONSE, 0xAA, 0x2000, b"rrrr"), "0012 c142 000000aa 0000000000002000 72727272 f5d3714c"),
    "empty write": (tagged(Op.WRITE, 1, 0, b""), "000e c140 00000001 0000000000000000 ebd34c5f"),
    "terminate": (
        untagged(Op.TERMINATE, 0, 1, TERMINATE.pack()),
        "0026 4147 00000000 00000002 00000001 00000000 0100c000 0072 c140 00009999 0000000000001000 bc48e0bc",
    ),
    "mpa request": (
        StartFrame(False, ird=16, ord=16).pack(),
        "4d504120494420526571204672616d65 1002 0004 0010 0010",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_worked_frames(name: str) -> None:
    made, want = VECTORS[name]
    assert made.hex(" ") == bytes.fromhex(want).hex(" ")


TEXT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()
PRINTED = dict(re.findall(r"```hex iwarp ([a-z ]+)\n(.*?)```", TEXT, re.DOTALL))


@pytest.mark.parametrize("name", PRINTED)
def test_printed_frames_are_the_worked_ones(name: str) -> None:
    assert bytes.fromhex(PRINTED[name]) == VECTORS[name][0]


def test_checksum_is_castagnoli() -> None:
    assert find_crc()(b"123456789", 0) == 0xE3069283


# ---- the start-up


def read_frame(data: bytes, reply: bool, step: int = 512) -> StartFrame:
    reader = StartReader(reply)
    while reader.need:
        count = min(step, reader.need)
        reader.feed(data[:count])
        data = data[count:]
    assert not data, "the reader takes the frame and nothing behind it"
    return reader.frame()


def start_frames() -> st.SearchStrategy[StartFrame]:
    depth = st.integers(0, NO_DEPTH - 1)
    rtr = st.none() | st.builds(Rtr, st.booleans(), st.booleans(), st.booleans())
    return st.builds(
        StartFrame, st.booleans(), st.just(2), st.booleans(), st.booleans(), st.booleans(), depth, depth, rtr,
        st.binary(max_size=MAX_PRIVATE),
    )  # fmt: skip


@given(start_frames(), st.integers(1, 7))
def test_start_frames_survive_any_split(frame: StartFrame, step: int) -> None:
    assert read_frame(frame.pack(), frame.reply, step) == frame


def test_revision_one_tells_no_depths() -> None:
    frame = StartFrame(False, 1, private=b"hi")
    assert frame.pack() == b"MPA ID Req Frame" + bytes.fromhex("0001 0002") + b"hi"
    read = read_frame(frame.pack(), False)
    assert (read.revision, read.private, read.ird, read.ord) == (1, b"hi", NO_DEPTH, NO_DEPTH)
    reply, settled = answer(read, 8, 4, crc=False, private=b"ho")
    assert (reply.revision, settled.ird, settled.ord) == (1, 8, 4)
    assert settle(frame, read_frame(reply.pack(), True)).crc is False


@given(*(st.integers(0, 200) for _ in range(4)), st.booleans(), st.booleans())
def test_depths_are_seen_from_the_other_side(ird: int, ord_: int, peer_ird: int, peer_ord: int, crc: bool, theirs: bool) -> None:
    request = StartFrame(False, crc=crc, ird=ird, ord=ord_)
    reply, far = answer(read_frame(request.pack(), False), peer_ird, peer_ord, theirs)
    near = settle(request, read_frame(reply.pack(), True))
    assert near.ord <= far.ird <= peer_ird
    assert far.ord <= near.ird <= ird
    assert near.ord == min(ord_, peer_ird)
    assert far.ord == min(peer_ord, ird)
    assert near.crc is far.crc is (crc or theirs)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (Rtr(empty=True, write=True, read=True), Rtr(write=True)),
        (Rtr(empty=True, read=True), Rtr(read=True)),
        (Rtr(empty=True), Rtr(empty=True)),
    ],
)
def test_peer_to_peer_start_is_accepted(offered: Rtr, chosen: Rtr) -> None:
    reply, settled = answer(StartFrame(False, ird=1, ord=1, rtr=offered), 1, 1, False)
    assert reply.rtr == settled.rtr == chosen


BAD_STARTS = {
    "another protocol": (b"GET / HTTP/1.1\r\n", "began with b'G'"),
    "revision 3": (struct.pack(">16sHH", b"MPA ID Req Frame", 3, 0), "revision 3"),
    "too long": (struct.pack(">16sHH", b"MPA ID Req Frame", 2, 513), "announces 513"),
    "no room for depths": (struct.pack(">16sHH", b"MPA ID Req Frame", 0x1002, 3), "announces 3"),
    "depths in revision 1": (struct.pack(">16sHH", b"MPA ID Req Frame", 0x1001, 4), "revision 1"),
}


@pytest.mark.parametrize("name", BAD_STARTS)
def test_bad_starts_are_told_in_one_line(name: str) -> None:
    data, said = BAD_STARTS[name]
    with pytest.raises(MpaError, match=said.replace("(", r"\(")):
        read_frame(data, False, 1)


def test_markers_are_refused() -> None:
    with pytest.raises(MpaError, match="markers"):
        answer(StartFrame(False, markers=True), 1, 1, False)
    with pytest.raises(MpaError, match="markers"):
        settle(StartFrame(False), StartFrame(True, markers=True))


def test_rejection_brings_its_private_data() -> None:
    with pytest.raises(MpaError) as caught:
        settle(StartFrame(False), read_frame(StartFrame(True, reject=True, private=b"no").pack(), True))
    assert caught.value.private == b"no"


def test_missing_checksum_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.rdma.iwarp.mpa.HAVE_FAST_CRC", False)
    with pytest.raises(MpaError, match=r"netfs\[crc\]"):
        find_crc()


# ---- Terminate


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_travels(cause: Cause) -> None:
    for header, read in ((b"", b""), (b"\xc1" + bytes(13), b""), (b"\x41" + bytes(17), b"r" * 28)):
        sent = Terminate(cause, 99 if header else 0, header, read)
        assert Terminate.unpack(sent.pack()) == sent
        assert str(sent)
        for length in range(len(sent.pack())):
            cut_off = Terminate.unpack(sent.pack()[:length])
            assert cut_off is None or cut_off.cause == cause


@given(st.binary(max_size=64))
def test_any_terminate_is_read_or_not(data: bytes) -> None:
    read = Terminate.unpack(data)
    if read is not None:
        assert str(read)


# ---- segmentation


def pieces_of(data: bytes, sizes: list[int]) -> Iterator[memoryview]:
    view = memoryview(data)
    for size in sizes:
        yield view[:size]
        view = view[size:]
    yield view


@given(st.binary(max_size=300), st.lists(st.integers(0, 40), max_size=8), st.integers(1, 70))
def test_cut_gives_every_byte_once(data: bytes, sizes: list[int], room: int) -> None:
    done = b""
    flags = []
    for off, length, views, last in cut(list(pieces_of(data, sizes)), room):
        assert off == len(done)
        assert sum(map(len, views)) == length <= room
        done += b"".join(views)
        flags.append(last)
    assert done == data
    assert flags == [False] * (len(flags) - 1) + [True]
    assert len(flags) == max(1, -(-len(data) // room))


@given(st.integers(64, MAX_ULPDU))
def test_full_segments_need_no_padding(mulpdu: int) -> None:
    assert pad_of(14 + tagged_room(mulpdu)) == pad_of(18 + untagged_room(mulpdu)) == 0
    assert mulpdu - 3 <= 14 + tagged_room(mulpdu) <= mulpdu


def test_end_in_a_completion_keeps_the_segment_half_sent() -> None:
    """The bytes taken reach into a second message when the first one's completion ends the stream."""
    sender = Sender(None, lambda: None)
    sender.untagged(Op.SEND, [memoryview(b"first")], done=sender.close)
    sender.untagged(Op.SEND, [memoryview(b"second")])
    data = b"".join(sender.batch() or [])
    first = len(whole(untagged_frame(None, Op.SEND, True, 0, 1, 0, [memoryview(b"first")])))
    sender.sent(first + 10)
    assert b"".join(sender.batch() or []) == data[first + 10 :]
