"""A real mount for a test: plain, encrypted, over RDMA, past the caches, or with the kernel's writeback."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crypto.keys import format_key_file
from tests.fuse.mounted import ENV, MISSING, Mounted, netfs


@pytest.fixture(params=["plain", "encrypted"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    pytest.importorskip("pyfuse3", reason="not installed: pip install 'netfs[fuse]'")
    if MISSING:
        pytest.skip(f"no FUSE here: {', '.join(MISSING)}")
    served, folder, home = tmp_path / "served", tmp_path / "mount", tmp_path / "home"
    for each in (served, folder, home):
        each.mkdir()
    env = {**ENV, "HOME": str(home)}
    rdma = request.param == "rdma"
    command = netfs("--json", "serve", served, "--listen", "127.0.0.1:0", *(["--rdma", "127.0.0.1:0"] if rdma else []))
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            url = told["rdma_url" if rdma else "url"]
            options: list[str | Path] = ["--log", tmp_path / "log", "--timeout", "3"]
            if request.param == "encrypted":
                (tmp_path / "key").write_bytes(format_key_file(b"k" * 32))
                subprocess.run(netfs("volume", "init", "--key-file", tmp_path / "key", url), env=env, check=True, timeout=30)
                options += ["--key-file", tmp_path / "key"]
            if request.param in {"direct", "writeback"}:
                options.append(f"--{request.param}")
            command = netfs("--json", "mount", *options, url, folder)
            done = subprocess.run(command, env=env, check=True, timeout=30, stdout=subprocess.PIPE, text=True)
            try:
                yield Mounted(request.param, served, folder, url, server, json.loads(done.stdout)["pid"], tmp_path / "log")
            finally:
                subprocess.run(netfs("umount", folder), env=env, check=False, timeout=30, stderr=subprocess.DEVNULL)
        finally:
            server.kill()
