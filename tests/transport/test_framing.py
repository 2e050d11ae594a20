"""Frames come out of the reader as they went in, however the bytes are cut; what cannot be a frame is refused at its header."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iov.probe import Probe
from transport.base import FileRange, Limits
from transport.errors import ProtocolError
from transport.framing import (
    BIG_PAYLOAD,
    CHECK,
    HEADER,
    LARGE_WINDOW,
    MAX_PIECES,
    SMALL_WINDOW,
    FrameKind,
    FrameReader,
    FrameWriter,
    pack_header,
)
from transport.messages import Op

LIMITS = Limits(max_body=4096, max_payload=1 << 20)


@dataclass
class Sent:
    op: Op
    xid: int
    body: bytes
    payload: bytes
    drop: bool = False

    def wire(self) -> bytes:
        return pack_header(FrameKind.REQUEST, self.op, self.xid, 0, len(self.body), len(self.payload)) + self.body + self.payload


def reader(probe: Probe | None = None, floor: int = SMALL_WINDOW, ceiling: int = LARGE_WINDOW) -> FrameReader:
    return FrameReader(FrameKind.REQUEST, LIMITS, probe or Probe(), floor, ceiling)


def feed(
    target: FrameReader, data: bytes, cuts: Iterable[int], frames: list[Sent], pieces: int = 1
) -> list[tuple[Op, int, bytes, bytes]]:
    """Feed `data` in steps of at most the given lengths, the last repeated; land each payload and return what came out."""
    out: list[tuple[Op, int, bytes, bytes]] = []
    landing: bytearray | None = None
    body = b""
    lengths = iter(cuts)
    length = next(lengths)
    at = 0
    while at < len(data):
        room = length
        got = 0
        for view in target.buffers():
            piece = data[at : at + min(room, len(view))]
            view[: len(piece)] = piece
            at += len(piece)
            got += len(piece)
            room -= len(piece)
        assert got, "a reader always offers room"
        target.received(got)
        length = next(lengths, length)
        while (frame := target.next()) is not None:
            if not frame.landed:
                body = bytes(frame.body)
                landing = bytearray(frame.payload_length)
                if frame.payload_length:
                    view = memoryview(landing)
                    step = -(-len(view) // pieces)
                    views = [view[i : i + step] for i in range(0, len(view), step)]
                    if not target.land(frame, None if frames[len(out)].drop else views):
                        continue
            assert landing is not None
            out.append((frame.op, frame.xid, body, bytes(landing)))
    return out


FRAMES = st.lists(
    st.builds(
        Sent,
        op=st.sampled_from([Op.WRITE, Op.TRANSACT]),
        xid=st.integers(0, 0xFFFFFFFF),
        body=st.binary(max_size=40),
        payload=st.one_of(st.binary(max_size=50), st.integers(0, 9000).map(lambda n: bytes([n & 255]) * n)),
        drop=st.booleans(),
    ),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(1, 5000), min_size=1, max_size=20), st.integers(1, 4))
def test_fed_in_any_pieces_equals_sent(frames: list[Sent], cuts: list[int], pieces: int) -> None:
    data = b"".join(frame.wire() for frame in frames)
    target = reader()
    out = feed(target, data, cuts, frames, pieces)
    assert [(op, xid, body) for op, xid, body, _ in out] == [(frame.op, frame.xid, frame.body) for frame in frames]
    for (_, _, _, landed), frame in zip(out, frames, strict=True):
        assert landed == (bytes(len(frame.payload)) if frame.drop else frame.payload)
    assert not target.midway


@given(FRAMES)
def test_fed_byte_by_byte_equals_fed_whole(frames: list[Sent]) -> None:
    data = b"".join(frame.wire() for frame in frames)
    assert feed(reader(), data, [1], frames) == feed(reader(), data, [1 << 30], frames)


def test_midway_is_told() -> None:
    data = Sent(Op.WRITE, 1, b"body", b"payload").wire()
    for cut in range(len(data)):
        target = reader()
        feed(target, data[:cut], [1], [Sent(Op.WRITE, 1, b"", b"")])
        assert target.midway == (cut > 0)


def header(
    body: int = 0, xid: int = 1, payload: int = 0, op: int = 0, status: int = 0, kind: int = 1, flags: int = 0, check: int = CHECK
) -> bytes:
    return HEADER.pack(body, xid, payload, op, status, kind, flags, check)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (header(payload=1 << 63, op=Op.WRITE), "a payload of 9223372036854775808"),
        (header(payload=(1 << 20) + 1, op=Op.WRITE), "a payload of 1048577"),
        (header(body=0xFFFFFFFF), "a body of 4294967295"),
        (header(body=4097), "at most 4096"),
        (header(op=99), "unknown operation 99"),
        (header(op=0xFFFF), "unknown operation 65535"),
        (header(kind=2), "kind 2"),
        (header(kind=0), "kind 0"),
        (header(flags=1), "out of step"),
        (header(check=0), "out of step"),
        (header(status=5), "status 5"),
        (header(payload=1, op=Op.READ), "READ carries no payload"),
        (b"GET / HTTP/1.1\r\nHost: server\r\n", "out of step"),
    ],
)
def test_an_impossible_header_is_refused(raw: bytes, text: str) -> None:
    target = reader()
    target.buffers()[0][: len(raw)] = raw
    target.received(len(raw))
    with pytest.raises(ProtocolError, match=text):
        target.next()


@pytest.mark.parametrize(
    "raw", [header(kind=2, status=5, body=1), header(kind=2, status=5, payload=1, op=7), header(kind=2, status=4096)]
)
def test_an_impossible_reply_is_refused(raw: bytes) -> None:
    target = FrameReader(FrameKind.REPLY, LIMITS, Probe(), SMALL_WINDOW, LARGE_WINDOW)
    target.buffers()[0][: len(raw)] = raw
    target.received(len(raw))
    with pytest.raises(ProtocolError):
        target.next()


def test_a_large_payload_is_hardly_copied_whatever_came_before() -> None:
    probe = Probe()
    target = reader(probe)
    small = [Sent(Op.WRITE, i, b"body", b"s" * 4096) for i in range(3)]
    big = Sent(Op.WRITE, 9, b"body", b"b" * BIG_PAYLOAD)
    for frames in (small, [big, big], small, [big]):
        probe.reset()
        feed(target, b"".join(frame.wire() for frame in frames), [1 << 30], frames)
        assert probe.copied_bytes <= sum(len(frame.payload) // (16 if frame.payload[0] == ord("b") else 1) for frame in frames)


def test_the_window_grows_for_a_rush_of_small_messages_and_shrinks_in_a_lull() -> None:
    target = reader()
    frames = [Sent(Op.WRITE, i, b"body", b"s" * 4096) for i in range(100)]
    feed(target, b"".join(frame.wire() for frame in frames), [1 << 30], frames)
    assert len(target.buffers()[-1]) >= 16 * SMALL_WINDOW
    few = [Sent(Op.WRITE, i, b"body", b"s") for i in range(8)]
    for frame in few:
        feed(target, frame.wire(), [1 << 30], [frame])
    assert len(target.buffers()[-1]) == SMALL_WINDOW


def test_the_ceiling_holds_at_once() -> None:
    target = reader(floor=LARGE_WINDOW)
    assert len(target.buffers()[0]) == LARGE_WINDOW
    target.ceiling = SMALL_WINDOW
    assert len(target.buffers()[0]) == SMALL_WINDOW
    target.ceiling = LARGE_WINDOW
    assert len(target.buffers()[0]) == LARGE_WINDOW


def test_a_payload_that_nobody_wants_any_more_is_dropped() -> None:
    target = reader()
    frame = Sent(Op.WRITE, 1, b"b", b"x" * 20_000)
    data = frame.wire()
    target.buffers()[0][:3000] = data[:3000]
    target.received(3000)
    landing = memoryview(bytearray(20_000))
    head = target.next()
    assert head is not None and not target.land(head, [landing])
    target.redirect()
    before = bytes(landing)
    feed_rest = data[3000:] + Sent(Op.WRITE, 2, b"", b"").wire()
    at = 0
    seen = []
    while at < len(feed_rest):
        view = target.buffers()[0]
        piece = feed_rest[at : at + len(view)]
        view[: len(piece)] = piece
        at += len(piece)
        target.received(len(piece))
        while (came := target.next()) is not None:
            seen.append((came.xid, came.landed))
    assert seen == [(1, True), (2, False)]
    assert bytes(landing) == before


# ---- the writer


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.lists(st.binary(min_size=1, max_size=9), max_size=3)), max_size=9),
    st.data(),
)
def test_the_writer_sends_everything_in_order_and_tells_each_owner_once(
    frames: list[tuple[bytes, list[bytes]]], data: st.DataObject
) -> None:
    writer: FrameWriter[int] = FrameWriter()
    expected = b""
    ends = []
    for index, (head, pieces) in enumerate(frames):
        writer.add(head, [memoryview(piece) for piece in pieces], sum(map(len, pieces)), index)
        expected += head + b"".join(pieces)
        ends.append(len(expected))
    sent = b""
    told: list[int] = []
    while writer.pending:
        assert writer.pending == len(expected) - len(sent)
        views, more = writer.batch()
        batch = b"".join(views)
        assert batch and not more
        count = data.draw(st.integers(1, len(batch)))
        sent += batch[:count]
        told += writer.sent(count)
        assert told == [index for index, end in enumerate(ends) if end <= len(sent)]
    assert sent == expected


def test_a_batch_ends_before_a_file_and_at_the_most_pieces() -> None:
    writer: FrameWriter[str] = FrameWriter()
    writer.add(b"head", FileRange(9, 100, 50), 50, "file")
    writer.add(b"next", [memoryview(b"p")] * MAX_PIECES, MAX_PIECES, "long")
    assert writer.batch() == ([b"head"], True)
    assert writer.file() is None
    assert writer.sent(4) == []
    assert writer.file() == FileRange(9, 100, 50)
    assert writer.batch() == ([], True)
    assert writer.sent(20) == []
    assert writer.file() == FileRange(9, 120, 30)
    assert writer.sent(30) == ["file"]
    views, more = writer.batch()
    assert len(views) == MAX_PIECES and more
    assert writer.sent(4 + MAX_PIECES) == ["long"]


def test_a_file_can_be_replaced_by_memory() -> None:
    writer: FrameWriter[str] = FrameWriter()
    writer.add(b"head", FileRange(9, 0, 3), 3, "file")
    writer.add(b"more", None, 0, "more")
    writer.sent(4)
    assert writer.substitute(memoryview(b"abc")) == "file"
    assert b"".join(writer.batch()[0]) == b"abcmore"
    assert writer.sent(7) == ["file", "more"]


def test_what_is_lost_is_told_once() -> None:
    writer: FrameWriter[int] = FrameWriter()
    for index in range(3):
        writer.add(b"xx", None, 0, index)
    assert writer.sent(3) == [0]
    assert writer.lost() == [1, 2]
    assert writer.lost() == [] and not writer.pending and writer.batch()[0] == []


def test_the_header_is_24_bytes_little_endian() -> None:
    raw = pack_header(FrameKind.REPLY, Op.READ, 0x01020304, 5, 6, 7)
    assert raw == struct.pack("<IIQHHBBH", 6, 0x01020304, 7, 7, 5, 2, 0, CHECK) and len(raw) == 24
