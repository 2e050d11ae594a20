"""What the tests of a mount share: the command, what is missing on this machine, and a served folder with its mount."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["ENV", "EVERY", "MISSING", "Mounted", "netfs"]

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
    """A served folder and its mount. kind: as the fixture's parameter. pid: of the mount."""

    kind: str
    served: Path
    folder: Path
    url: str
    server: "subprocess.Popen[str]"
    pid: int
    log: Path

    def wait(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log.read_text() if self.log.exists() else "no log"
            time.sleep(0.02)


EVERY = pytest.mark.parametrize("mounted", ["plain", "encrypted", "rdma", "direct", "writeback"], indirect=True)
