"""What the tests of a mount share: the command, what is missing on this machine, and a served folder with its mount."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["ENV", "EVERY", "FOUR", "MISSING", "Mounted", "netfs"]

ENV = {name: value for name, value in os.environ.items() if not name.startswith(("NETFS_", "XDG_"))}
MISSING = [
    what
    for what, there in {
        "/dev/fuse": os.access("/dev/fuse", os.R_OK | os.W_OK),
        "fusermount3": shutil.which("fusermount3") is not None,
    }.items()
    if not there
]


def netfs(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "netfs", *map(str, arguments)]


@dataclass
class Mounted:
    """A served folder and its mount.

    kind: as the fixture's parameter. pid: of the mount. listen: the addresses of the server. options: those of the mount.
    stream_url: the same by TCP, if the mount is over RDMA.
    """

    kind: str
    served: Path
    folder: Path
    url: str
    server: "subprocess.Popen[str]"
    pid: int
    log: Path
    env: dict[str, str]
    listen: list[str]
    options: list[str | Path]
    stream_url: str

    @property
    def encrypted(self) -> bool:
        return self.kind.startswith("encrypted")

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log.read_text() if self.log.exists() else "no log"
            time.sleep(0.02)

    @contextlib.contextmanager
    def again(self, folder: Path, url: str = "", options: Sequence[str] = ()) -> Iterator[Path]:
        """Mount the same once more on a new folder."""
        folder.mkdir()
        command = netfs("--json", "mount", *self.options, *options, url or self.url, folder)
        subprocess.run(command, env=self.env, check=True, timeout=60, stdout=subprocess.DEVNULL)
        try:
            yield folder
        finally:
            subprocess.run(netfs("umount", folder), env=self.env, check=True, timeout=60)

    def end(self) -> None:
        """Kill the server."""
        self.server.kill()
        self.server.wait()
        if self.server.stdout is not None:
            self.server.stdout.close()

    def restart(self) -> None:
        """Kill the server, and start another in its place; the mount is back when this returns."""
        self.end()
        command = netfs("--json", "serve", self.served, *self.listen)
        self.server = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout is not None and self.server.stdout.readline()

        def answers() -> bool:
            try:
                os.statvfs(self.folder)
            except OSError:
                return False
            return True

        self.wait(answers, 60)

    def removed(self) -> int:
        """Return how many files without a name the server keeps, for whoever has them open."""
        return len(list((self.served / ".netfs" / "removed").iterdir()))


FOUR = pytest.mark.parametrize("mounted", ["plain", "encrypted", "rdma", "encrypted-rdma"], indirect=True)
EVERY = pytest.mark.parametrize(
    "mounted", ["plain", "encrypted", "rdma", "encrypted-rdma", "direct", "writeback"], indirect=True
)  # fmt: skip
