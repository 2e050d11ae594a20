"""Captures of iWARP, made of a stream or of a memory fabric: every field of every opcode, and the stream put together again."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from iov.probe import Probe
from tests.rdma.captured import complaints, needs_tshark, shown, streams
from tests.rdma.every_opcode import IDS, OPCODES, RECV, Recorder, Side, fabric_pair, key_to_lose, post_all
from tests.rdma.test_iwarp_codec import tagged
from transport.env import system_env
from transport.link import ByteStream, LinkShape, SocketStream, memory_link
from transport.rdma.capture_stream import CapturedStream
from transport.rdma.enums import Opcode, WcStatus
from transport.rdma.iwarp.mpa import StartFrame, answer, find_crc, settle
from transport.rdma.iwarp.rdmap import Op
from transport.rdma.loopback import ALL_ACCESS
from transport.rdma.memory_fabric import MemoryFabric
from transport.rdma.profiles import IWARP
from transport.rdma.qp import QPCap
from transport.rdma.stream_fabric import StreamLink, receive_request, send_reply, start_mpa
from transport.rdma.wr import SendWR

FIELDS = (
    "iwarp_rdma.opcode", "iwarp_ddp.last_flag", "iwarp_ddp.stag", "iwarp_ddp.tagged_offset", "iwarp_ddp.qn", "iwarp_ddp.msn",
    "iwarp_ddp.mo", "iwarp_rdma.inval_stag", "iwarp_rdma.sinkstag", "iwarp_rdma.sinkto", "iwarp_rdma.rdmardsz",
    "iwarp_rdma.srcstag", "iwarp_rdma.srcto", "iwarp_rdma.atomic.remote_stag", "iwarp_rdma.atomic.remote_tagged_offset",
    "iwarp_rdma.atomic.add_data", "iwarp_rdma.atomic.swap_data", "iwarp_rdma.atomic.compare_data",
    "iwarp_rdma.atomic.original_remote_data_value",
)  # fmt: skip
ORDER = (
    "send", "long send", "solicited", "invalidate", "write", "long write", "empty write", "write imm", "write imm",
    "read", "read", "long read", "long read", "swap", "swap", "add", "add",
)  # fmt: skip
"""Which request each message belongs to."""


def check(path: Path, near: Side, far: Side, key: int, comments: list[str]) -> None:
    """Compare what tshark shows of a run of every opcode with what was posted."""
    assert not complaints(path)
    va, stag = far.mr.iova, f"0x{far.mr.rkey:08x}"
    sink, sink_to = f"0x{near.mr.lkey:08x}", f"0x{near.mr.iova:016x}"
    rows: list[tuple[str, ...]] = []

    def row(op: Op, **more: object) -> None:
        fields: dict[str, object] = {"opcode": f"0x{op:02x}", "last_flag": 1, **more}
        if "qn" in more:
            fields["mo"] = 0
        rows.append(tuple(str(fields.get(name.rpartition(".")[2], "")) for name in FIELDS))

    row(Op.SEND, qn=0, msn=1)
    row(Op.SEND, qn=0, msn=2)
    row(Op.SEND_SE, qn=0, msn=3)
    row(Op.SEND_INV, qn=0, msn=4, inval_stag=key)
    for _ in range(4):
        row(Op.WRITE, stag=stag, tagged_offset=f"0x{va + 4096:016x}")
    row(Op.IMMEDIATE, qn=0, msn=5)
    for msn, length in enumerate((7, 8200), 1):
        source = f"0x{va + 24576:016x}"
        row(Op.READ_REQUEST, qn=1, msn=msn, rdmardsz=length, sinkstag=sink, sinkto=sink_to, srcstag=stag, srcto=source)
        row(Op.READ_RESPONSE, stag=sink, tagged_offset=sink_to)
    atomic = {"qn": 1, "remote_stag": far.mr.rkey}
    row(Op.ATOMIC_REQUEST, msn=3, remote_tagged_offset=va + 20000, swap_data=4, compare_data=3, **atomic)
    row(Op.ATOMIC_RESPONSE, qn=3, msn=1, original_remote_data_value=3)
    row(Op.ATOMIC_REQUEST, msn=4, remote_tagged_offset=va + 20008, add_data=5, compare_data=0, **atomic)
    row(Op.ATOMIC_RESPONSE, qn=3, msn=2, original_remote_data_value=7)
    assert shown(path, *FIELDS, where="iwarp_ddp") == rows
    kinds = [kind for (kind,) in shown(path, "iwarp_rdma.atomic.opcode", where="iwarp_rdma.opcode == 10")]
    assert kinds == ["2", "0"]
    assert [comment for (comment,) in shown(path, "frame.comment", where="iwarp_ddp")] == comments
    start = shown(path, "frame.comment", "iwarp_mpa.rev", "iwarp_mpa.crc_flag", "iwarp_mpa.pdlength", where="iwarp_mpa.rev")
    assert start == [("MPA start-up", "2", "1", "4")] * 2


@needs_tshark
@pytest.mark.slow
def test_tshark_reads_every_opcode_of_a_memory_fabric(tmp_path: Path) -> None:
    recorder = Recorder()
    pair = fabric_pair(recorder, IWARP)
    key = key_to_lose(pair.b)
    for _ in post_all(pair, key, iwarp=True):
        pass
    check(recorder.save(tmp_path), pair.a, pair.b, key, [f"wr_id {IDS[name]} {OPCODES[name].name}" for name in ORDER])


def test_streams_of_a_memory_fabric_are_whole() -> None:
    recorder = Recorder()
    pair = fabric_pair(recorder, IWARP)
    for _ in post_all(pair, key_to_lose(pair.b), iwarp=True):
        pass
    there, back = streams(recorder.packets()).values()
    assert (b"12345678" * 2048)[:9000] in there and (b"12345678" * 2048)[:9001] in there
    assert (b"abcdefgh" * 2048)[:8200] in back


@pytest.mark.parametrize("opcode", [Opcode.SEND, Opcode.WRITE, Opcode.READ, Opcode.FETCH_AND_ADD])
def test_refusal_ends_the_stream_of_a_memory_fabric(opcode: Opcode) -> None:
    recorder = Recorder()
    pair = fabric_pair(recorder, IWARP)
    pair.b.mr.dereg()
    pair.a.qp.post_send([pair.to_peer(opcode, 8, wr_id=number) for number in (1, 2)])
    assert pair.a.qp.state.name == "ERR" and pair.a.poll()[-1].status == WcStatus.WR_FLUSH_ERR
    back = list(streams(recorder.packets()).values())[1]
    # Behind the reply of 24 bytes: length, control, opcode 7, queue 2.
    assert back[24 + 2 : 24 + 4] == b"\x41\x47" and back[24 + 8 : 24 + 12] == bytes([0, 0, 0, 2])
    assert sum(packet.data[33] & 1 for packet in recorder.packets()) == 2
    assert {packet.comment for packet in recorder.packets()} == {"", "MPA start-up", f"wr_id 1 {opcode.name}"}


# ---- over a stream


@dataclass
class Joined:
    """Two queue pairs on one stream, each with a capture of its own."""

    a: Side
    b: Side
    recorders: tuple[Recorder, Recorder]


@asynccontextmanager
async def joined(near: ByteStream, far: ByteStream) -> AsyncIterator[Joined]:
    """Connect two devices by iWARP, with checksums, over the two ends of a stream, both captured."""
    recorders = Recorder(), Recorder()
    ours = CapturedStream(near, recorders[0].capture, active=True)
    theirs = CapturedStream(far, recorders[1].capture, active=False)
    env = system_env()
    cap = QPCap(16, 16, 4, 4, 0)
    a, b = (Side(MemoryFabric().add_device(name, IWARP), cap, int(ALL_ACCESS), bytearray(1 << 16)) for name in "ab")
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            reply, settled = answer(await receive_request(theirs, env), 4, 4, crc=True)
            link = StreamLink(theirs, b.qp, Probe(), settled, int(ALL_ACCESS), is_server=True)
            await send_reply(theirs, reply)
            await link.run()

        nursery.start_soon(serve)
        request = StartFrame(False, crc=True, ird=4, ord=4)
        settled = settle(request, await start_mpa(ours, env, request))
        nursery.start_soon(StreamLink(ours, a.qp, Probe(), settled, int(ALL_ACCESS), is_server=False).run)
        yield Joined(a, b, recorders)
        await wait_all_tasks_blocked()
        ours.close()


@needs_tshark
@pytest.mark.slow
@pytest.mark.parametrize("side", [0, 1])
async def test_tshark_reads_every_opcode_of_a_stream(side: int, tmp_path: Path) -> None:
    async with joined(*memory_link()) as ends:
        key = key_to_lose(ends.b)
        for _ in post_all(ends, key, iwarp=True):
            await wait_all_tasks_blocked()
    if side:
        taken = [f"receive wr_id {IDS[name] + RECV}" for name in ORDER]
        comments = [f"{taken[0]} SEND", f"{taken[1]} SEND", f"{taken[2]} SEND SE", f"{taken[3]} SEND INV"]
        comments += ["WRITE, of the peer"] * 4 + [f"{taken[8]} IMMEDIATE"]
        comments += ["READ REQUEST, of the peer", "READ RESPONSE, for the peer"] * 2
        comments += ["ATOMIC REQUEST, of the peer", "ATOMIC RESPONSE, for the peer"] * 2
    else:
        names = ["SEND", "SEND", "SEND SE", "SEND INV", *["WRITE"] * 4, "IMMEDIATE", *["READ REQUEST", "READ RESPONSE"] * 2]
        names += ["ATOMIC REQUEST", "ATOMIC RESPONSE"] * 2
        comments = [f"wr_id {IDS[request]} {name}" for request, name in zip(ORDER, names, strict=True)]
    check(ends.recorders[side].save(tmp_path), ends.a, ends.b, key, comments)


async def test_stream_is_captured_as_it_was_sent() -> None:
    """Both captures hold the same two streams of bytes, a frame in each segment, and the closes that each side has seen."""
    async with joined(*memory_link(LinkShape(slice_length=777), LinkShape(slice_length=501))) as ends:
        for _ in post_all(ends, key_to_lose(ends.b), iwarp=True):
            await wait_all_tasks_blocked()
    mine, theirs = (streams(recorder.packets()) for recorder in ends.recorders)
    assert sorted(mine.values()) == sorted(theirs.values())
    for closes, recorder in enumerate(ends.recorders, 1):
        packets = recorder.packets()
        assert sum(packet.data[33] & 1 for packet in packets) == closes
        framed = [packet.data[40:] for packet in packets if packet.comment not in ("", "MPA start-up")]
        assert len(framed) == len(ORDER)
        for payload in framed:
            length = int.from_bytes(payload[:2], "big")
            assert len(payload) == 2 + length + -(length + 2) % 4 + 4
            assert find_crc()(payload[:-4], 0).to_bytes(4, "little") == payload[-4:]


@needs_tshark
@pytest.mark.slow
async def test_tshark_reads_a_terminate(tmp_path: Path) -> None:
    async with joined(*memory_link()) as ends:
        lost, gone = ends.b.mr.rkey, ends.b.mr.iova
        ends.b.mr.dereg()
        ends.a.qp.post_send(SendWR(5, Opcode.WRITE, [ends.a.sge(0, 8)], 2, gone, lost))
        await wait_all_tasks_blocked()
    path = ends.recorders[0].save(tmp_path)
    assert not complaints(path)
    names = (
        "iwarp_rdma.opcode", "frame.comment", "iwarp_ddp.qn", "iwarp_rdma.term_layer", "iwarp_rdma.term_etype_ddp",
        "iwarp_rdma.term_errcode_ddp_tagged", "iwarp_rdma.term_ddp_seg_len", "iwarp_rdma.term_ddp_h",
    )  # fmt: skip
    assert shown(path, *names, where="iwarp_ddp") == [
        ("0x00", "wr_id 5 WRITE", "", "", "", "", "", ""),
        ("0x07", "TERMINATE, of the peer", "2", "0x01", "0x01", "0x00", "0016", f"c140{lost:08x}{gone:016x}"),
    ]


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.integers(1, 60))
def test_what_is_no_iwarp_is_captured_as_it_comes(messages: list[bytes], step: int) -> None:
    async def main() -> None:
        recorder = Recorder()
        near, far = memory_link(LinkShape(slice_length=step))
        stream = CapturedStream(near, recorder.capture, active=True)
        for message in messages:
            rest = memoryview(message)
            while rest:
                rest = rest[stream.send_nowait([rest[:2], rest[2:]]) :]
        far.close()
        while (count := stream.recv_nowait([memoryview(bytearray(9))])) != 0:
            assert count is None
            await stream.wait_readable()
        stream.close()
        await stream.aclose()
        assert sorted(streams(recorder.packets()).values()) == sorted([b"".join(messages), b""])

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_empty_frame_says_ready() -> None:
    """It belongs to no request, and takes none away."""
    recorder = Recorder()
    near, _ = memory_link()
    stream = CapturedStream(near, recorder.capture, active=True)
    stream.posted(SendWR(3, Opcode.WRITE))
    for frame in (StartFrame(False).pack(), bytes(8), tagged(Op.WRITE, 1, 0, b"x", crc=False)):
        stream.send_nowait([frame])
    assert [packet.comment for packet in recorder.packets()][3:] == ["MPA start-up", "ready to receive", "wr_id 3 WRITE"]


async def test_addresses_are_those_of_the_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        recorder = Recorder()
        stream = CapturedStream(SocketStream(socket.socket(fileno=sock.detach())), recorder.capture, active=True)
        port = listener.getsockname()[1]
        first = recorder.packets()[0].data
        assert first[12:20] == bytes([127, 0, 0, 1] * 2) and int.from_bytes(first[22:24], "big") == port
        assert stream.fileno() is None
        await stream.aclose()


async def test_both_ends_in_one_capture_are_one_connection() -> None:
    recorder = Recorder()
    for _ in range(2):  # the second time the ports may be the same
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        ends = [
            CapturedStream(SocketStream(sock), recorder.capture, active=active) for sock, active in ((near, True), (far, False))
        ]
        ends[0].send_nowait([b"there"])
        await ends[1].wait_readable()
        assert ends[1].recv_nowait([memoryview(bytearray(9))]) == 5
        ends[1].posted(SendWR(1))
        for end in ends:
            await end.aclose()
    assert sorted(streams(recorder.packets()).values()) == [b"", b"", b"there", b"there"]


def test_streams_without_addresses_are_told_apart() -> None:
    recorder = Recorder()
    for _ in range(3):
        for end, active in zip(memory_link(), (True, False), strict=True):
            CapturedStream(end, recorder.capture, active=active)
    assert len(streams(recorder.packets())) == 12


async def test_long_stream_is_acknowledged() -> None:
    """So that no reader thinks the receiver's window full."""
    recorder = Recorder()
    near, far = memory_link(LinkShape(capacity=3 << 20))
    CapturedStream(near, recorder.capture, active=True).send_nowait([bytes(3 << 20)])
    acks = [packet for packet in recorder.packets() if packet.direction == 1 and packet.data[33] == 16 and len(packet.data) == 40]
    assert len(acks) >= 2
    assert bytes(3 << 20) in streams(recorder.packets()).values()
    far.close()
