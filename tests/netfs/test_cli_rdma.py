"""Every command that connects, by RDMA: a server in another process, URLs `netfs+rdma://`, plain and encrypted, captured."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netfs.test_cli_session import NETFS, netfs
from tests.rdma.captured import read_packets, streams


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve by RDMA with a capture; yields the URL without a path."""
    (folder / "export").mkdir()
    command = ["serve", folder / "export", "--listen", "127.0.0.1:0", "--rdma", "127.0.0.1:0", "--json"]
    command += ["--capture", folder / "server.pcapng"]
    server = subprocess.Popen([*NETFS, *map(str, command)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["rdma_url"].rstrip("/")
    finally:
        server.terminate()
        server.communicate(timeout=20)
    assert server.returncode == 0


def ok(*arguments: str | Path) -> str:
    done = netfs(*arguments)
    assert done.code == 0, (arguments, done)
    return done.out


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_every_command(encrypted: bool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    content = bytes(range(256)) * 3000
    (source / "large").write_bytes(content)
    (source / "small").write_bytes(b"small\n")
    key: tuple[str | Path, ...] = ()
    if encrypted:
        ok("keygen", tmp_path / "my.key")
        key = ("--key-file", tmp_path / "my.key")
    mine = tmp_path / "mine.pcapng"
    with serving(tmp_path) as url:
        ok("mkdir", f"{url}/d")
        ok("cp", "-r", *key, "--capture", mine, source, f"{url}/d/")
        assert {entry["name"] for entry in json.loads(ok("ls", "--json", *key, f"{url}/d/source"))["entries"]} == {
            "large",
            "small",
        }
        assert json.loads(ok("stat", "--json", *key, f"{url}/d/source/large"))["size"] == len(content)
        assert ok("cat", *key, f"{url}/d/source/small") == "small\n"
        ok("mv", *key, f"{url}/d/source/small", f"{url}/d/source/moved")
        ok("ln", "-s", *key, "moved", f"{url}/d/source/link")
        ok("cp", "-r", *key, f"{url}/d/source", tmp_path / "back")
        assert (tmp_path / "back" / "large").read_bytes() == content and (tmp_path / "back" / "moved").read_bytes() == b"small\n"
        ok("rm", "-r", *key, f"{url}/d/source")
        ok("rm", "-r", f"{url}/d")
        assert json.loads(ok("ls", "--json", f"{url}/"))["entries"] == []
    (there, _) = streams(read_packets(mine.read_bytes())).values()
    assert there.startswith(b"MPA ID Req Frame") and len(there) > len(content)
    assert (content[:4096] in there) is not encrypted
    seen = streams(read_packets((tmp_path / "server.pcapng").read_bytes()))
    assert there in seen.values() and len(seen) >= 2 * 9


@pytest.mark.slow
def test_by_roces_rules(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    with serving(tmp_path) as url:
        ok("cp", "--verify", "--roce", "--capture", tmp_path / "mine.pcapng", tmp_path / "file", f"{url}/file")
        assert ok("ls", f"{url}/") == "file\n"
    assert b"NETFSROC" in (tmp_path / "mine.pcapng").read_bytes()
    refused = netfs("ls", "--roce", "netfs+tcp://127.0.0.1:1/")
    assert refused.code == 2
    assert "--roce is for netfs+rdma:// URLs" in refused.err
