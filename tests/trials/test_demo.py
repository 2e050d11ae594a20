"""The demo's rows, its table, its verdict; and that the verdict can be bad."""

import json
import os
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, get_args

import pytest
from rich.console import Console

from crypto.keys import VolumeKey
from netfs.cli.host import Host
from netfs.cli.main import build
from trials import demo
from trials.demo import load_sample, plan, run_row
from trials.demo_table import Row, header, line, title
from trials.pairs import TRANSPORTS

KEYS = (
    "transport", "processes", "encrypted", "mode", "verified", "plaintext_in_store", "write_mb_s", "read_mb_s", "requests",
    "subrequests", "messages", "work_requests", "copies_per_byte_write", "copies_per_byte_read",
)  # fmt: skip
LENGTH = 3 << 20


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "file"
    path.write_bytes(os.urandom(LENGTH - 5))
    return path


def json_host() -> Host:
    host = build([])[1]
    host.json = True
    return host


async def test_every_path_has_good_rows(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert await demo.demo(json_host(), str(file), None) == 0
    shown = json.loads(capfd.readouterr().out)
    assert list(shown) == ["file", "bytes", "rows", "cache"]
    assert (shown["file"], shown["bytes"]) == (str(file), LENGTH - 5)
    processes = {"stream": [1], "rdma-memory": [1], "tcp": [2], "tls": [2], "rdma-stream": [1, 2]}
    assert [(row["transport"], row["processes"], row["encrypted"], row["mode"]) for row in shown["rows"]] == [
        (transport, count, encrypted, mode)
        for transport in TRANSPORTS
        for count in processes[transport]
        for encrypted in (False, True)
        for mode in ("buffered", "direct")
    ]
    for row in shown["rows"]:
        assert tuple(row) == KEYS
        assert row["verified"] is True
        assert row["plaintext_in_store"] is not row["encrypted"]
        assert (row["work_requests"] > 0) is row["transport"].startswith("rdma")
        assert min(row["write_mb_s"], row["read_mb_s"], row["requests"], row["subrequests"], row["messages"]) > 0
        copies = (row["copies_per_byte_write"], row["copies_per_byte_read"])
        low = 1.0 if row["mode"] == "buffered" else 0.0
        assert all(low <= each <= low + 1 / 16 + 0.01 for each in copies), row
    assert [row["encrypted"] for row in shown["cache"]] == [False, True]
    for row in shown["cache"]:
        assert row["verified"] and row["plaintext_in_cache"] is not row["encrypted"] and not row["reason"]
        assert row["again_wire_bytes"] < row["first_wire_bytes"] / 10


async def test_a_changed_byte_is_seen(file: Path) -> None:
    sample = load_sample(file)
    row, key = plan()[1], VolumeKey(bytes(32))
    good = await run_row(row, sample, key, memoryview(bytearray(LENGTH)))
    assert good.good
    bad = await run_row(row, replace(sample, sha256="0" * 64), key, memoryview(bytearray(LENGTH)))
    assert not bad.verified
    assert not bad.good


async def test_plaintext_in_an_encrypted_store_is_seen(file: Path) -> None:
    sample = load_sample(file)
    row = next(row for row in plan() if row.encrypted)
    # What is stored in the clear under the name of an encrypted row: the row is filled by one that is not.
    plain = await run_row(replace(row, encrypted=False), sample, VolumeKey(bytes(32)), memoryview(bytearray(LENGTH)))
    assert plain.good
    assert not replace(plain, encrypted=True).good


async def test_a_row_that_fails_is_told(file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "plan", lambda: plan()[:1])
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", "/no/such/folder")
        code = await demo.demo(json_host(), str(file), None)
    shown = json.loads(capfd.readouterr().out)
    (row,) = shown["rows"]
    assert code == 1
    assert all("No such file or directory" in each["reason"] and not each["verified"] for each in shown["cache"])
    assert "No such file or directory" in row["error"]
    assert (row["verified"], row["plaintext_in_store"]) == (False, None)


@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("encrypted", [False, True])
async def test_where_no_folder_can_be_served(
    file: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool, transport: str
) -> None:
    monkeypatch.setattr(demo, "FOLDERS", False)
    row = next(row for row in plan() if row.transport == transport and row.encrypted is encrypted)
    row = await run_row(row, load_sample(file), VolumeKey(bytes(32)), memoryview(bytearray(LENGTH)))
    assert row.good
    assert row.plaintext_in_store is not encrypted


@pytest.mark.parametrize("content", [b"", b"x" * 100_000])
async def test_what_cannot_be_searched_is_not_claimed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    row = await run_row(plan()[3], load_sample(tmp_path / "file"), VolumeKey(bytes(32)), memoryview(bytearray(len(content))))
    assert row.good
    assert row.plaintext_in_store is None


# ---- the table


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_fits(width: int) -> None:
    row = Row("rdma-memory", 1, True, "buffered", True, False, 9_876.5, 9_876.5, 9, 99, 999, 9_999, 1.0, 1.05)
    lines = [header(width), title("rdma-memory", 1, "server with a store in memory"), line(row, width)]
    assert max(len(text) for whole in lines for text in whole.plain.splitlines()) <= width
    for word in ("9,876", "9,999", "1.05", "same", "ciphertext"):
        assert word in lines[2].plain.split()


def test_the_table_tells_what_is_wrong() -> None:
    row = Row("stream", 1, True, "direct", verified=False, plaintext_in_store=True)
    console = Console(width=100, force_terminal=True, color_system="standard")
    with console.capture() as captured:
        console.print(line(row, 100))
        console.print(line(replace(row, error="connection lost"), 100))
    shown = captured.get()
    for wrong in ("differs", "plaintext", "connection lost"):
        assert f"\x1b[1;31m{wrong}" in shown


def test_rows_have_the_names_scripts_rely_on() -> None:
    assert tuple(field.name for field in fields(Row))[:-1] == KEYS
    assert get_args(Row.__annotations__["transport"]) == get_args(Literal["stream", "rdma-memory", "tcp", "tls", "rdma-stream"])
    assert "error" not in Row("tcp", 2, True, "direct").as_json()
