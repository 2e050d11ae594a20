"""Traces in files: Perfetto slices, lanes and arrows of a run; text; what is wrong with a file is told and breaks nothing."""

import io
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from iov.probe import Probe
from netfs.tracing import open_trace
from netfs.tracing.perfetto import PerfettoTrace
from netfs.tracing.picture import MAX_SLICES, draw
from netfs.tracing.text import TextTrace
from trials.pairs import TransportName, pair
from trials.world import RealWorld

FULL = Path("/dev/full")


class Slices:
    """A parsed trace: (actor, family, name) of each slice, its times, and the slices each arrow touches."""

    def __init__(self, data: bytes) -> None:
        tracks: dict[int, tuple[str, str]] = {}
        self.found: list[tuple[str, str, str]] = []
        self.instants: list[tuple[str, str, str]] = []
        self.flows: dict[int, list[tuple[int, tuple[str, str, str]]]] = defaultdict(list)
        self.counters: dict[tuple[str, str], list[int]] = defaultdict(list)
        open_on: dict[int, int] = {}
        ended: dict[int, int] = defaultdict(int)
        for packet in Trace.FromString(data).packet:
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                tracks[track.uuid] = (tracks[track.parent_uuid][0], track.name) if track.parent_uuid else (track.name, "")
                continue
            event = packet.track_event
            key = (*tracks[event.track_uuid], event.name)
            if event.type == TrackEvent.TYPE_COUNTER:
                self.counters[tracks[event.track_uuid]].append(event.counter_value)
                continue
            if event.type != TrackEvent.TYPE_SLICE_END:
                for flow in event.flow_ids:
                    self.flows[flow].append((packet.timestamp, key))
            if event.type == TrackEvent.TYPE_INSTANT:
                self.instants.append(key)
            elif event.type == TrackEvent.TYPE_SLICE_BEGIN:
                assert event.track_uuid not in open_on, "slices of a lane do not overlap"
                assert packet.timestamp >= ended[event.track_uuid]
                open_on[event.track_uuid] = packet.timestamp
                self.found.append(key)
            else:
                assert open_on.pop(event.track_uuid) <= packet.timestamp
                ended[event.track_uuid] = packet.timestamp
        assert not open_on

    def arrows(self) -> set[tuple[tuple[str, str, str], ...]]:
        return {tuple(key for _, key in sorted(ends)) for ends in self.flows.values()}


@pytest.mark.parametrize("transport", ["stream", "rdma-memory"])
async def test_perfetto_slices_and_arrows(transport: TransportName, tmp_path: Path) -> None:
    path = tmp_path / "run.pftrace"
    with open_trace(path) as trace:
        async with pair(transport, encrypt=True, world=RealWorld(trace), rsize=1 << 15) as p:
            async with await p.client.open("/f", "w+", direct=True) as file:
                await file.write(b"x" * 100_000)
                assert len(await file.read(100_000, 0)) == 100_000
    slices = Slices(path.read_bytes())
    assert not [name for *_, name in slices.found if "unfinished" in name]
    asked = ("client0", "API calls", "read")
    request, part = ("client0", "requests", "DIO-READ"), ("client0", "subrequests", "DOWN 1")
    call, served = ("client0", "calls", "READ"), ("server", "calls served", "READ")
    assert slices.found.count(asked) == slices.found.count(request) == 1
    assert slices.found.count(call) == slices.found.count(served) == 4
    opened = ("client0", "cipher", "open")
    arrows = slices.arrows()
    assert arrows >= {(asked, request), (request, part), (part, call), (part, opened)}
    if transport == "stream":
        assert (call, served) in arrows
    else:
        sends = ("client0", "send queue", "SEND")
        ends = (("server", "send queue", "WRITE"), ("server", "send queue", "SEND_WITH_INV"))
        assert (call, ("client0", "send queue", "REG_MR"), sends, served) in arrows
        assert (served, *ends) in arrows
        assert (ends[1], ("server", "completions", "SEND")) in arrows and (sends, ("client0", "completions", "SEND")) in arrows
        assert 100_000 <= max(slices.counters["client0", "registered bytes"]) <= 100_000 + (1 << 15)
        assert slices.counters["client0", "send credits"]
    flying = slices.counters["client0", "bytes in flight"]
    assert flying[-1] == 0 and 1 << 15 < max(flying) <= 100_000 + (1 << 15)
    assert ("server", "store", "WRITE") in slices.instants


def test_what_has_not_ended_is_written_at_the_end() -> None:
    data = bytearray()
    times = [float(second) for second in range(100)]

    class Out:
        def write(self, piece: bytes, /) -> None:
            data.extend(piece)

    trace = PerfettoTrace(Out(), lambda: times.pop(0))
    sink = trace.sink("client")
    sink("netfs_read", (1, "DIO-READ", 1, 0, 10, 10))
    sink("netfs_sreq", (1, 0, "DOWN", "SUBMT", 1, 0, 0, 10, 0))
    sink("call_sent", (7, "READ", 1, 0))
    sink("netfs_call", (1, 0, "READ", 7))
    sink("netfs_call", (1, 0, "READ", 8))  # a call that waits for a credit
    sink("call_sent", (8, "READ", 1, 0))
    sink("of_another_version", ())
    trace.close()
    slices = Slices(bytes(data))
    assert {name for *_, name in slices.found} == {"DIO-READ (unfinished)", "DOWN 0 (unfinished)", "READ (unfinished)"}
    assert len([ends for ends in slices.flows.values() if len(ends) > 1]) == 3


async def test_a_picture_shows_the_slices_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.svg"
    world = RealWorld()
    with open_trace(path) as trace:
        world.probe = lambda node: Probe(trace.sink(node))  # type: ignore[method-assign]
        async with pair("stream", world=world, rsize=1 << 15) as p, await p.client.open("/f", "w+", direct=True) as file:
            await file.write(b"x" * 100_000)
            await file.read(100_000, 0)
    picture = path.read_text("utf-8")
    names = [found.text or "" for found in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}title")]
    counted = {name: sum(found.startswith(name + ":") for found in names) for name in ("DIO-READ", "DIO-WRITE", "READ", "DOWN 3")}
    assert counted == {"DIO-READ": 1, "DIO-WRITE": 1, "READ": 8, "DOWN 3": 1}
    assert "server: calls served" in picture
    assert picture.count("<path") >= 8


def test_a_long_trace_is_drawn_to_a_bound() -> None:
    packets = io.BytesIO()
    times = iter(range(10**6))
    trace = PerfettoTrace(packets, lambda: next(times) / 1000)
    sink = trace.sink("<client>")
    for number in range(MAX_SLICES + 7):
        sink("netfs_read", (number, "DIO-READ", 1, 0, 10, 10))
        sink("netfs_rreq", (number, "DR", "COMPLET", 0, 10, 10, 0))
    trace.close()
    picture = draw(packets.getvalue())
    assert "7 later slices are left out" in picture
    assert "&lt;client&gt;" in picture
    assert draw(b"").count("<rect") == 1


def test_a_line_of_text() -> None:
    lines: list[bytes] = []
    times = [10.0, 10.000214]
    sink = TextTrace(lines.append, lambda: times.pop(0)).sink("client0")
    sink("netfs_sreq", (3, 1, "DOWN", "SUBMT", 1, 0x4000, 0, 0x4000, 0))
    sink("of_another_version", (1, "x"))
    assert lines == [
        b"     0.000000  client0: netfs_sreq: R=00000003[1] DOWN SUBMT f=01 s=4000 0/4000 e=0\n",
        b"     0.000214  client0: of_another_version: 1 x\n",
    ]


def test_another_suffix_and_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"named \*\.txt or \*\.pftrace or \*\.svg"), open_trace(tmp_path / "x.json"):
        pass
    with pytest.raises(FileNotFoundError), open_trace(tmp_path / "none" / "x.txt"):
        pass


@pytest.mark.parametrize("suffix", ["txt", "svg", "pftrace"])
async def test_a_name_that_is_no_text_is_escaped(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run.{suffix}"
    with open_trace(path) as trace:
        async with pair("stream", world=RealWorld(trace)) as p:
            await p.client.write_bytes("/gr\udcff\x1b[2J\n", b"x")
            assert await p.client.listdir("/") == ["gr\udcff\x1b[2J\n"]
    if suffix != "svg":
        assert b"/gr\\udcff\\x1b[2J\\n" in path.read_bytes()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("perfetto", "packets"):
        monkeypatch.delitem(sys.modules, f"netfs.tracing.{module}")
    monkeypatch.setitem(sys.modules, "perfetto.trace_builder.proto_builder", None)
    with pytest.raises(ImportError, match=r"pip install 'netfs\[trace\]'"), open_trace(tmp_path / "x.pftrace"):
        pass
    assert not (tmp_path / "x.pftrace").exists()


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("suffix", [".txt", ".pftrace", ".svg"])
def test_a_full_disk_is_told_at_the_end_and_breaks_nothing(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"full{suffix}"
    path.symlink_to(FULL)
    reached = False
    with pytest.raises(OSError, match="No space left"), open_trace(path, lambda: 1.0) as trace:
        probe = Probe(trace.sink("client"))
        for _ in range(5000):
            probe.emit("netfs_wb_lock", 1, "skip")
        reached = True
    assert reached
