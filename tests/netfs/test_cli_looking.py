"""find, head, tail, verify, speed and a parallel rm: what tells of a tree and of files, and what it costs."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from netfs.cli.filters import Filters
from netfs.cli.finding import Wanted
from tests.netfs.test_cli_session import NETFS, netfs, told


def test_what_is_wanted() -> None:
    wanted = Wanted(Filters(include=("*.jpg", "docs/**")), "file", ("+", 1000.0), ("-", 60.0))
    assert wanted.fits("a/b.jpg", "file", 1001, 59) and wanted.fits("docs/x", "file", 1001, 0)
    for path, kind, size, age in (
        ("a/b.txt", "file", 1001, 0), ("b.jpg", "directory", 1001, 0), ("b.jpg", "file", 1000, 0), ("b.jpg", "file", 1001, 60),
    ):  # fmt: skip
        assert not wanted.fits(path, kind, size, age)
    assert Wanted(Filters(), None, ("", 5.0)).fits("x", "file", 5, 0)
    assert not Wanted(Filters(), None, ("-", 5.0)).fits("x", "directory", 0, 0)


def test_find(tmp_path: Path, url: str) -> None:
    (tmp_path / "t" / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "t" / "new\nline.txt").write_bytes(b"x" * 10)
    (tmp_path / "t" / "sub" / "big.txt").write_bytes(b"x" * 5000)
    os.utime(tmp_path / "t" / "sub" / "big.txt", ns=(1, 1))
    assert netfs("cp", "-r", tmp_path / "t", f"{url}/t").code == 0

    def found(*options: str) -> list[str]:
        return [line.removeprefix(f"{url}/t/") for line in netfs("find", f"{url}/t", *options).out.splitlines()]

    assert found() == ["new\\nline.txt", "sub", "sub/big.txt", "sub/deep"]
    assert found("--depth", "1") == ["new\\nline.txt", "sub"]
    assert found("--name", "*.txt", "--size", "-1k") == ["new\\nline.txt"]
    assert found("--size", "+1k", "--age", "+52w") == ["sub/big.txt"]
    assert found("--type", "directory") == ["sub", "sub/deep"]
    shown = json.loads(netfs("--json", "find", f"{url}/t", "--size", "5000").out)
    assert [(each["url"], each["size"]) for each in shown["entries"]] == [(f"{url}/t/sub/big.txt", 5000)]
    told(netfs("find", f"{url}/none"), 3, "No such file")
    told(netfs("find", f"{url}/t", "--size", "big"), 2, "--size")
    told(netfs("find", f"{url}/t", "--age", "2h"), 2, "--age")
    assert json.loads(netfs("--json", "rm", "-r", f"{url}/t").out)["failed"] == []
    told(netfs("stat", f"{url}/t"), 3, "No such file")


LINES = b"".join(b"line %d\n" % number for number in range(20_000))


@pytest.mark.parametrize(
    ("content", "wanted"), [(LINES, 12_345), (LINES, 3), (b"no newline", 1), (b"a\n\nb", 2), (b"", 5), (b"\n", 1)]
)
def test_head_and_tail(content: bytes, wanted: int, tmp_path: Path, url: str) -> None:
    (tmp_path / "f").write_bytes(content)
    assert netfs("cp", tmp_path / "f", f"{url}/f").code == 0
    whole = content.splitlines(keepends=True)
    assert netfs("head", "-n", str(wanted), f"{url}/f").out.encode() == b"".join(whole[:wanted])
    assert netfs("tail", "-n", str(wanted), f"{url}/f").out.encode() == b"".join(whole[-wanted:])
    assert netfs("head", "-c", "5", f"{url}/f").out.encode() == content[:5]
    assert netfs("tail", "-c", "5", f"{url}/f").out.encode() == content[-5:]
    assert netfs("tail", "-n", "0", f"{url}/f").out == ""
    both = netfs("tail", "-c", "1", f"{url}/f", f"{url}/f").out
    assert both.count(f"==> {url}/f <==") == 2
    told(netfs("tail", "-f", f"{url}/f", f"{url}/f"), 2, "--follow")


@pytest.mark.slow
def test_a_file_is_followed(tmp_path: Path, url: str) -> None:
    (tmp_path / "log").write_text("one\ntwo\n")
    assert netfs("cp", tmp_path / "log", f"{url}/log").code == 0
    command = [*NETFS, "tail", "-n", "1", "--follow", "--interval", "0.1", f"{url}/log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None and client.stderr is not None
        assert client.stdout.readline() == b"two\n"
        subprocess.run([*NETFS, "put", "--append", f"{url}/log"], input=b"three\n", check=True, timeout=60)
        assert client.stdout.readline() == b"three\n"
        subprocess.run([*NETFS, "put", f"{url}/log"], input=b"new\n", check=True, timeout=60)
        assert client.stdout.readline() == b"new\n"
        client.send_signal(signal.SIGINT)
        assert client.wait(30) == 130 and client.stderr.read() == b""


def test_verify_names_what_differs(tmp_path: Path, url: str) -> None:
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    for name in ("same", "other", "sub/gone"):
        (here / name).write_text(name)
    (here / "link").symlink_to("same")
    assert netfs("sync", "--links", here, f"{url}/v").code == 0
    assert netfs("verify", here, f"{url}/v").out == "4 the same, 0 not\n"
    then = (here / "other").stat().st_mtime_ns
    (here / "other").write_text("OTHER")
    os.utime(here / "other", ns=(then, then))
    assert netfs("verify", "--quick", here, f"{url}/v").code == 0
    (here / "sub" / "gone").unlink()
    (here / "new").write_text("new")
    done = netfs("verify", here, f"{url}/v")
    assert (done.code, done.err) == (1, "")
    assert sorted(done.out.splitlines()) == sorted(
        [f"different {url}/v/other", f"missing   {url}/v/new", f"extra     {url}/v/sub/gone", "2 the same, 3 not"]
    )
    shown = json.loads(netfs("--json", "verify", "--exclude", "new", "--exclude", "sub", f"{url}/v", here).out)
    assert shown["differing"] == [{"why": "different", "place": f"{here}/other"}] and shown["same"] == 2
    told(netfs("verify", here / "same", f"{url}/v"), 2, "not a directory")


def test_a_folder_is_kept_in_step_with_the_root_of_an_export_and_of_a_volume(tmp_path: Path, url: str) -> None:
    (tmp_path / "here" / "sub").mkdir(parents=True)
    (tmp_path / "here" / "sub" / "file").write_text("x")
    assert netfs("keygen", tmp_path / "my.key").code == 0
    key = ("--key-file", tmp_path / "my.key")
    assert netfs("volume", "init", *key, f"{url}/vault").code == 0
    for options, top in (((), f"{url}/"), (key, f"{url}/vault")):
        assert netfs("sync", *options, tmp_path / "here", top).code == 0
        assert netfs("stat", *options, f"{top.rstrip('/')}/sub/file").code == 0


@pytest.mark.slow
def test_speed(url: str) -> None:
    shown = json.loads(netfs("--json", "speed", "--size", "5", "--files", "2", f"{url}/").out)
    assert [each["name"] for each in shown["figures"]] == [
        "write 5 MB", "read 5 MB", "4 KiB random read", "make a file of 1 KiB", "stat", "remove a file",
    ]  # fmt: skip
    assert all(each["value"] > 0 for each in shown["figures"])
    assert ".netfs-speed" not in netfs("find", f"{url}/").out
    told(netfs("speed", f"{url}/none"), 3, "No such file")
    told(netfs("speed", "--size", "0"), 2, "--size")


@pytest.mark.slow
def test_speed_of_this_machine() -> None:
    lines = netfs("speed").out.splitlines()
    assert len(lines) == 12 and all(line.endswith("MB/s") for line in lines) and lines[0].startswith("AES_256_GCM encrypt 16 KiB")
