"""Captures of a memory fabric by RoCEv2: each packet of a run of every opcode, read by ourselves and by tshark."""

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.rdma.captured import complaints, needs_tshark, shown
from tests.rdma.every_opcode import IDS, OPCODES, Pair, Recorder, fabric_pair, key_to_lose, post_all
from transport.rdma.ah import AddressVector
from transport.rdma.capture_fabric import capture_fabric
from transport.rdma.capture_file import open_capture
from transport.rdma.control import Control, drop_response
from transport.rdma.enums import AttrMask, Opcode, QPState, QPType, WcStatus
from transport.rdma.packets import UDP
from transport.rdma.profiles import CONNECTX
from transport.rdma.qp import QPAttr, QPCap, QPInit
from transport.rdma.rocev2 import Nak, RcOp, invariant_crc
from transport.rdma.wr import RecvWR, SendWR


def test_every_packet_of_rocev2_is_whole() -> None:
    """The headers, the checksum over them, and the payload put together again."""
    recorder = Recorder()
    pair = fabric_pair(recorder)
    for _ in post_all(pair, key_to_lose(pair.b), iwarp=False):
        pass
    written: dict[str, bytes] = {}
    packets = recorder.packets()
    for packet in packets:
        data = packet.data
        assert data[0] == 0x45 and data[9] == UDP and int.from_bytes(data[2:4], "big") == len(data)
        assert data[20:28] == data[20:22] + b"\x12\xb7" + (len(data) - 20).to_bytes(2, "big") + b"\0\0"
        ip, udp, bth, rest = data[:20], data[20:28], data[28:40], data[40:-4]
        assert invariant_crc(ip, udp, bth, [rest]) == data[-4:]
        assert len(data) % 4 == 0
        if bth[0] in (RcOp.WRITE_FIRST, RcOp.WRITE_MIDDLE, RcOp.WRITE_LAST, RcOp.WRITE_ONLY):
            start = 16 if bth[0] in (RcOp.WRITE_FIRST, RcOp.WRITE_ONLY) else 0
            written[packet.comment] = written.get(packet.comment, b"") + rest[start : len(rest) - (bth[1] >> 4 & 3)]
    source = b"12345678" * 2048
    assert written[f"wr_id {IDS['write']} WRITE"] == source[:41]
    assert written[f"wr_id {IDS['long write']} WRITE"] == source[:9001]
    assert all(packet.comment for packet in packets)
    assert {int(packet.comment.split()[1]) for packet in packets} == set(IDS.values())
    assert [packet.time_ns for packet in packets] == sorted({packet.time_ns for packet in packets})


ROCE_FIELDS = (
    "frame.comment", "ip.src", "infiniband.bth.opcode", "infiniband.bth.destqp", "infiniband.bth.psn", "infiniband.bth.a",
    "infiniband.bth.se", "infiniband.reth.va", "infiniband.reth.r_key", "infiniband.reth.dmalen", "infiniband.aeth.syndrome",
    "infiniband.aeth.msn", "infiniband.immdt", "infiniband.ieth", "infiniband.atomiceth.swapdt", "infiniband.atomiceth.cmpdt",
    "infiniband.atomicacketh.origremdt",
)  # fmt: skip


@needs_tshark
@pytest.mark.slow
def test_tshark_reads_every_opcode_of_rocev2(tmp_path: Path) -> None:
    recorder = Recorder()
    pair = fabric_pair(recorder)
    key = key_to_lose(pair.b)
    for _ in post_all(pair, key, iwarp=False):
        pass
    path = recorder.save(tmp_path)
    assert not complaints(path)
    there, back = pair.b.qp.qp_num, pair.a.qp.qp_num
    psn = pair.a.qp.attr.sq_psn
    va, rkey, off = pair.b.mr.iova + 4096, pair.b.mr.rkey, pair.b.mr.iova
    number = dict(zip(IDS, range(1, len(IDS) + 1), strict=True))
    rows: list[tuple[str, ...]] = []

    def row(name: str, op: int, psn: int, *, forth: bool = True, ask: bool = False, se: bool = False, **more: Any) -> None:
        comment = f"wr_id {IDS[name]} {OPCODES[name].name}"
        fields = {
            "infiniband.bth.opcode": int(op), "infiniband.bth.psn": psn, "infiniband.bth.a": int(ask),
            "infiniband.bth.destqp": f"0x{there if forth else back:06x}", "infiniband.bth.se": int(se),
            "ip.src": "10.0.0.1" if forth else "10.0.0.2", "frame.comment": comment,
        }  # fmt: skip
        if not forth and op != RcOp.READ_MIDDLE:
            fields |= {"infiniband.aeth.syndrome": 31, "infiniband.aeth.msn": number[name]}
        fields |= {f"infiniband.{key.replace('_', '.', 1)}": value for key, value in more.items()}
        rows.append(tuple(str(fields.get(name, "")) for name in ROCE_FIELDS))

    def reth(length: int, where: int = va) -> dict[str, Any]:
        return {"reth_va": f"0x{where:016x}", "reth_r_key": f"0x{rkey:08x}", "reth_dmalen": length}

    def atomic(where: int) -> dict[str, Any]:
        return {"reth_va": f"0x{off + where:016x}", "reth_r_key": f"0x{rkey:08x}"}

    row("send", RcOp.SEND_ONLY, psn, ask=True)
    row("send", RcOp.ACKNOWLEDGE, psn, forth=False)
    for step, op in enumerate((RcOp.SEND_FIRST, RcOp.SEND_MIDDLE, RcOp.SEND_LAST), 1):
        row("long send", op, psn + step, ask=step == 3)
    row("long send", RcOp.ACKNOWLEDGE, psn + 3, forth=False)
    row("solicited", RcOp.SEND_ONLY, psn + 4, ask=True, se=True)
    row("solicited", RcOp.ACKNOWLEDGE, psn + 4, forth=False)
    row("invalidate", RcOp.SEND_ONLY_INV, psn + 5, ask=True, ieth=key.to_bytes(4, "big").hex())
    row("invalidate", RcOp.ACKNOWLEDGE, psn + 5, forth=False)
    row("imm", RcOp.SEND_ONLY_IMM, psn + 6, ask=True, immdt="a1b2c3d4")
    row("imm", RcOp.ACKNOWLEDGE, psn + 6, forth=False)
    row("write", RcOp.WRITE_ONLY, psn + 7, ask=True, **reth(41))
    row("write", RcOp.ACKNOWLEDGE, psn + 7, forth=False)
    row("long write", RcOp.WRITE_FIRST, psn + 8, **reth(9001))
    row("long write", RcOp.WRITE_MIDDLE, psn + 9)
    row("long write", RcOp.WRITE_LAST, psn + 10, ask=True)
    row("long write", RcOp.ACKNOWLEDGE, psn + 10, forth=False)
    row("empty write", RcOp.WRITE_ONLY, psn + 11, ask=True, **reth(0))
    row("empty write", RcOp.ACKNOWLEDGE, psn + 11, forth=False)
    row("write imm", RcOp.WRITE_ONLY_IMM, psn + 12, ask=True, immdt="01020304", **reth(5))
    row("write imm", RcOp.ACKNOWLEDGE, psn + 12, forth=False)
    row("read", RcOp.READ_REQUEST, psn + 13, ask=True, **reth(7, off + 24576))
    row("read", RcOp.READ_ONLY, psn + 13, forth=False)
    row("long read", RcOp.READ_REQUEST, psn + 14, ask=True, **reth(8200, off + 24576))
    for step, op in enumerate((RcOp.READ_FIRST, RcOp.READ_MIDDLE, RcOp.READ_LAST), 14):
        row("long read", op, psn + step, forth=False)
    row("swap", RcOp.COMPARE_SWAP, psn + 17, ask=True, atomiceth_swapdt=4, atomiceth_cmpdt=3, **atomic(20000))
    row("swap", RcOp.ATOMIC_ACKNOWLEDGE, psn + 17, forth=False, atomicacketh_origremdt=3)
    row("add", RcOp.FETCH_ADD, psn + 18, ask=True, atomiceth_swapdt=5, atomiceth_cmpdt=0, **atomic(20008))
    row("add", RcOp.ATOMIC_ACKNOWLEDGE, psn + 18, forth=False, atomicacketh_origremdt=7)
    row("atomic write", RcOp.ATOMIC_WRITE, psn + 19, ask=True)
    row("atomic write", RcOp.READ_ONLY, psn + 19, forth=False)
    row("flush", RcOp.FLUSH, psn + 20, ask=True)
    row("flush", RcOp.READ_ONLY, psn + 20, forth=False)
    assert shown(path, *ROCE_FIELDS) == rows


def test_refusals_of_rocev2() -> None:
    """Not ready, a wrong key, and silence: what the responder says, and that nothing is said."""
    recorder = Recorder()
    pair = fabric_pair(recorder)
    pair.a.qp.post_send(pair.to_peer(Opcode.SEND, 8, wr_id=1))  # no receive
    assert [wc.status for wc in pair.a.poll()] == [WcStatus.RNR_RETRY_EXC_ERR]
    assert [packet.data[40] for packet in recorder.packets()][1:] == [Nak.RNR | 12]
    recorder = Recorder()
    pair = fabric_pair(recorder)
    pair.b.mr.dereg()
    pair.a.qp.post_send(pair.to_peer(Opcode.READ, 8, wr_id=2))
    assert [wc.status for wc in pair.a.poll()] == [WcStatus.REM_ACCESS_ERR]
    assert [(packet.data[28], packet.data[40]) for packet in recorder.packets()][1:] == [(RcOp.ACKNOWLEDGE, Nak.REMOTE_ACCESS)]
    recorder = Recorder()
    pair = fabric_pair(recorder)
    pair.b.qp.enter_error()
    pair.a.qp.post_send(pair.to_peer(Opcode.WRITE, 8, wr_id=3))
    pair.fabric.advance(60)
    assert [wc.status for wc in pair.a.poll()] == [WcStatus.RETRY_EXC_ERR]
    assert [packet.data[28] for packet in recorder.packets()] == [RcOp.WRITE_ONLY] * 7
    assert {packet.comment for packet in recorder.packets()} == {"wr_id 3 WRITE"}


def test_what_is_sent_again_has_its_number_again() -> None:
    """The answer was lost: the request and its acknowledgement are seen twice, and count as one message."""
    recorder = Recorder()
    pair = fabric_pair(recorder)
    Control.attach(pair.a.device).add(drop_response())
    pair.a.qp.post_send(pair.to_peer(Opcode.WRITE, 8, wr_id=4))
    pair.fabric.advance(60)
    pair.a.qp.post_send(pair.to_peer(Opcode.WRITE, 8, wr_id=5))
    assert all(wc.ok for wc in pair.a.poll())
    first = pair.a.qp.attr.sq_psn
    seen = [(p.comment, int.from_bytes(p.data[37:40], "big") - first) for p in recorder.packets()]
    assert seen == [("wr_id 4 WRITE", 0)] * 4 + [("wr_id 5 WRITE", 1)] * 2
    assert [p.data[41:44] for p in recorder.packets() if p.data[28] == RcOp.ACKNOWLEDGE] == [b"\0\0\1", b"\0\0\1", b"\0\0\2"]


def test_request_that_fails_here_sends_nothing() -> None:
    recorder = Recorder()
    pair = fabric_pair(recorder)
    pair.a.mr.dereg()
    pair.a.qp.post_send(pair.to_peer(Opcode.WRITE, 8))
    assert [wc.status for wc in pair.a.poll()] == [WcStatus.LOC_PROT_ERR]
    assert not recorder.packets()


@needs_tshark
@pytest.mark.slow
def test_tshark_reads_datagrams(tmp_path: Path) -> None:
    recorder = Recorder()
    pair = fabric_pair(recorder)
    ends = []
    for side in (pair.a, pair.b):
        qp = side.pd.create_qp(QPInit(side.cq, side.cq, QPCap(8, 8), QPType.UD))
        attr = QPAttr(qp_state=QPState.INIT, port=1, qkey=0x1234)
        qp.modify(attr, AttrMask.STATE | AttrMask.PKEY_INDEX | AttrMask.PORT | AttrMask.QKEY)
        attr.qp_state = QPState.RTR
        qp.modify(attr, AttrMask.STATE)
        attr.qp_state = QPState.RTS
        qp.modify(attr, AttrMask.STATE | AttrMask.SQ_PSN)
        ends.append(qp)
    ends[1].post_recv(RecvWR(9, [pair.b.sge(0, 128)]))
    to = pair.a.pd.create_ah(AddressVector(dgid=pair.b.device.gid))
    wr = SendWR(8, Opcode.SEND_WITH_IMM, [pair.a.sge(0, 64)], imm=7, ah=to, remote_qpn=ends[1].qp_num, remote_qkey=0x1234)
    ends[0].post_send(wr)
    assert all(wc.ok for wc in [*pair.a.poll(), *pair.b.poll()])
    path = recorder.save(tmp_path)
    assert not complaints(path)
    fields = ("frame.comment", "infiniband.bth.opcode", "infiniband.deth.q_key", "infiniband.deth.srcqp", "infiniband.immdt")
    assert shown(path, *fields) == [("wr_id 8 SEND_WITH_IMM", "101", "0x0000000000001234", f"0x{ends[0].qp_num:08x}", "00000007")]


# ---- the file


def test_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a capture is named \*\.pcapng"), open_capture(tmp_path / "x.pcap"):
        pass
    with pytest.raises(FileNotFoundError), open_capture(tmp_path / "none" / "x.pcapng"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_ends_the_capture_not_the_program(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    path.symlink_to("/dev/full")
    done = False
    with pytest.raises(OSError) as caught, open_capture(path) as capture:
        pair = Pair(CONNECTX)
        capture_fabric(pair.fabric, capture)
        for _ in range(300):
            pair.a.qp.post_send(pair.to_peer(Opcode.WRITE, 1 << 14))
            done = all(wc.ok for wc in pair.a.poll())
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path) and done
