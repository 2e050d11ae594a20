"""`netfs trace`: what is recorded is shown as text, lent to Perfetto, and read by Wireshark with our dissector."""

import json
import os
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from netfs.cli.trace import DISSECTOR, PERFETTO, about, lend, lines_of
from netfs.tracing import open_trace
from tests.netfs.test_cli_session import NETFS, netfs, serving, told
from transport.messages import Op
from trials.pairs import pair
from trials.world import RealWorld

TSHARK = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed: apt install tshark")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("--memory", "--listen", "127.0.0.1:0") as (url, _):
        yield url


def test_the_dissector_knows_every_operation() -> None:
    table = DISSECTOR.read_text().partition("local ops = {")[2].partition("\n}")[0]
    found = {int(number): name for number, name in re.findall(r'\[(\d+)\] = "(\w+)"', table)}
    assert found == {int(op): op.name for op in Op}


def test_a_trace_is_recorded_and_shown(tmp_path: Path, url: str) -> None:
    pytest.importorskip("perfetto")
    (tmp_path / "f").write_bytes(os.urandom(200_000))
    for suffix, shown in (("txt", "netfs_sreq"), ("pftrace", "subrequests")):
        file = tmp_path / f"run.{suffix}"
        assert netfs("trace", "record", file, "cp", tmp_path / "f", f"{url}/f").code == 0
        lines = json.loads(netfs("--json", "trace", "show", file).out)["lines"]
        assert [line for line in lines if shown in line]
        picked = netfs("trace", "show", file, "--find", "WRITE").out.splitlines()
        assert picked and picked == [line for line in lines if "WRITE" in line]
    (write,) = [line for line in picked if "calls" in line]
    start, length = (float(part.replace(",", "")) for part in write.split()[:2])
    assert start > 0 and length > 0 and "status=0" in write
    told(netfs("trace", "show", file, "--request", "three"), 2, "three")
    told(netfs("trace", "record", tmp_path / "x.pftrace"), 2, "name the command")
    told(netfs("trace", "record", tmp_path / "x.doc", "ls", url), 2, "x.doc")
    told(netfs("trace", "show", tmp_path / "none.txt"), 4, "No such file")
    for name in ("bad.txt", "bad.pftrace"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00nonsense")
        assert netfs("trace", "show", tmp_path / name).code == 1


@pytest.mark.parametrize("suffix", ["txt", "pftrace"])
async def test_what_belongs_to_a_request(suffix: str, tmp_path: Path) -> None:
    """The second of two reads: its call, its parts, what they ask the server, and what that does."""
    pytest.importorskip("perfetto")
    path = tmp_path / f"run.{suffix}"
    with open_trace(path) as trace:
        async with pair("stream", world=RealWorld(trace), rsize=1 << 15) as p:
            async with await p.client.open("/f", "w+", direct=True) as file:
                await file.write(bytes(100_000))
                await file.read(50_000, 0)
                await file.read(30_000, 50_000)
    lines = list(lines_of(path))
    picked = about(lines, 3)
    assert picked and picked == [line for line in lines if line in picked]
    told = "\n".join(picked)
    assert told.count("call_received" if suffix == "txt" else "calls served") == 1
    assert "write" not in told.lower() and "OPEN" not in told
    assert re.search("api_done.*read" if suffix == "txt" else "API calls *read", told)


def test_a_trace_is_lent_to_perfetto_once() -> None:
    server = lend(b"a trace", 0)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    with server, urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/run.pftrace", timeout=10) as reply:
        assert reply.read() == b"a trace" and reply.headers["Access-Control-Allow-Origin"] == PERFETTO
        thread.join(10)
    assert server.fetched


@pytest.mark.slow
def test_open_prints_where_to_look_and_ends_when_it_was_fetched(tmp_path: Path) -> None:
    (tmp_path / "run.pftrace").write_bytes(b"content")
    command = [*NETFS, "trace", "open", str(tmp_path / "run.pftrace"), "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"https://ui\.perfetto\.dev/#!/\?url=(http://127\.0\.0\.1:\d+/run\.pftrace) ", line)
        assert found is not None, line
        with urllib.request.urlopen(found[1], timeout=10) as reply:
            assert reply.read() == b"content"
        assert process.wait(10) == 0


def dissected(file: Path, *options: str) -> list[list[str]]:
    command = ["tshark", "-X", f"lua_script:{DISSECTOR}", "-r", str(file), "-T", "fields", "-E", "separator=|", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "Lua" not in done.stderr, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


@TSHARK
def test_wireshark_reads_a_capture(tmp_path: Path, url: str) -> None:
    (tmp_path / "f").write_bytes(b"x" * 300_000)
    file = tmp_path / "run.pcapng"
    assert netfs("trace", "record", file, "cp", tmp_path / "f", f"{url}/seen by wireshark").code == 0
    rows = dissected(
        file, "-Y", "netfs", "-e", "_ws.col.Info", "-e", "netfs.request_in", "-e", "netfs.body", "-e", "_ws.malformed"
    )
    infos = [info for row in rows for info in row[0].removeprefix("netfs: ").split("; ")]
    assert infos[0] == "hello, version 1" and infos[1] == "hello, version 1"
    (write,) = [info for info in infos if re.fullmatch(r"SEQUENCED \d+ WRITE with 300000 bytes", info)]
    assert f"{write.removesuffix(' with 300000 bytes')} ok" in infos
    assert [info for info in infos if re.fullmatch(r"LOOKUP \d+ errno 2", info)]
    assert any(info.startswith("SEQUENCED") and info.endswith("RENAME") for info in infos)
    bodies = " ".join(row[2] for row in rows)
    assert "seen by wireshark" in bodies and "not msgpack" not in bodies
    assert all(not row[3] for row in rows)
    replies = [row for row in rows if " ok" in row[0] or "errno" in row[0]]
    assert replies and all(row[1] for row in replies)  # each reply names the frame of its request
    shown = netfs("trace", "show", file, "--find", "WRITE").out
    assert "with 300000 bytes" in shown


def test_wireshark_is_taught(tmp_path: Path) -> None:
    done = json.loads(netfs("--json", "trace", "wireshark", "--folder", tmp_path / "plugins").out)
    assert Path(done["installed"]).read_bytes() == DISSECTOR.read_bytes()
