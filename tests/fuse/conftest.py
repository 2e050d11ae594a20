"""A real mount for a test: plain or encrypted, over a stream or RDMA, past the caches, with the kernel's writeback, of memory."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from crypto.keys import format_key_file
from tests.fuse.mounted import ENV, MISSING, Mounted, netfs


@pytest.fixture(params=["plain", "encrypted"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    pytest.importorskip("pyfuse3", reason="not installed: pip install 'netfs[fuse]'")
    if MISSING:
        pytest.skip(f"no FUSE here: {', '.join(MISSING)}")
    kind: str = request.param
    words = kind.split("-")
    served, folder, home = tmp_path / "served", tmp_path / "mount", tmp_path / "home"
    for each in (served, folder, home):
        each.mkdir()
    env = {**ENV, "HOME": str(home)}
    listen = ["--listen", "127.0.0.1:0", *(["--rdma", "127.0.0.1:0"] if "rdma" in words else [])]
    with ExitStack() as stack:
        what = "--memory" if "memory" in words else served
        server = subprocess.Popen(netfs("--json", "serve", what, *listen), env=env, stdout=subprocess.PIPE, text=True)
        mount = Mounted(kind, served, folder, "", server, 0, tmp_path / "log", env, [], [], "")
        stack.callback(mount.end)
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        mount.url = told["rdma_url" if "rdma" in words else "url"]
        mount.stream_url = told["url"]
        at = [urlsplit(told[name]).netloc for name in ("url", "rdma_url") if told.get(name)]
        mount.listen = [word if word != "127.0.0.1:0" else at.pop(0) for word in listen]
        options = mount.options
        options += ["--log", mount.log, "--timeout", "3"]
        if "encrypted" in words:
            (tmp_path / "key").write_bytes(format_key_file(b"k" * 32))
            make = netfs("volume", "init", "--key-file", tmp_path / "key", mount.url)
            subprocess.run(make, env=env, check=True, timeout=60)
            options += ["--key-file", tmp_path / "key"]
        options += [f"--{word}" for word in words if word in {"direct", "writeback"}]
        options += ["--allow-other"] if "shared" in words else []
        command = netfs("--json", "mount", *options, mount.url, folder)
        stack.callback(
            subprocess.run, netfs("umount", folder), env=env, check=False, timeout=60, stderr=subprocess.DEVNULL
        )  # fmt: skip
        done = subprocess.run(command, env=env, check=True, timeout=60, stdout=subprocess.PIPE, text=True)
        mount.pid = json.loads(done.stdout)["pid"]
        yield mount
