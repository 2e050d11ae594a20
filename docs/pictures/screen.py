"""Trio shell. A screen of its own for real windows: Wireshark with a capture, and a terminal in which somebody types.

An X server without a monitor (Xvfb) holds one window; `xdotool` types and clicks, ImageMagick's `import` takes the picture. Owns
the processes it starts, until the block ends.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["TOOLS", "Terminal", "missing", "screen", "wireshark"]

TOOLS: Final = {
    "Xvfb": "xvfb", "xdotool": "xdotool", "import": "imagemagick", "xterm": "xterm", "wireshark": "wireshark", "tshark": "tshark",
    "chromium": "chromium", "fusermount3": "fuse3",
}  # fmt: skip
"""What is called, and the package of Debian that has it."""
PATIENCE_S: Final = 60.0
SETTLE_S: Final = 3.0
"""For how long a window that is there may go on drawing itself."""


@contextmanager
def screen(width: int, height: int) -> Iterator[dict[str, str]]:
    """Start an X server. Yields: the environment of who is to draw on it."""
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield {**os.environ, "DISPLAY": f":{server.stdout.readline().strip()}"}
        finally:
            server.terminate()


@contextmanager
def window(command: Sequence[str], name: str, size: tuple[int, int], environment: dict[str, str]) -> Iterator[str]:
    """Have a program fill the screen with the window that has this name. Yields: the window's number."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        try:
            said = _tool(environment, "search", "--sync", "--onlyvisible", "--name", name)
            number = said.split()[0]
            _tool(environment, "windowmove", number, "0", "0", "windowsize", number, *map(str, size), "windowfocus", number)
            time.sleep(SETTLE_S)
            yield number
        finally:
            program.terminate()


def _tool(environment: dict[str, str], *words: str) -> str:
    command = ["xdotool", *words]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout


def wireshark(capture: Path, dissector: Path, shown: str, frame: str, picture: Path) -> None:
    """Have Wireshark open a capture, with what is `shown` listed, and the first frame that `frame` filters taken apart."""
    found = subprocess.run(
        ["tshark", "-X", f"lua_script:{dissector}", "-r", capture, "-Y", frame, "-T", "fields", "-e", "frame.number"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    if not found:
        raise SystemExit(f"{capture.name} has no frame of {frame}")
    size = (1380, 900)
    with screen(*size) as environment:
        folder = capture.parent / "wireshark"
        folder.mkdir(exist_ok=True)
        environment |= {"WIRESHARK_CONFIG_DIR": str(folder), "HOME": str(folder)}
        command = [
            "wireshark", "-o", "privs.warn_if_elevated:FALSE", "-o", "gui.update.enabled:FALSE", "-X", f"lua_script:{dissector}",
            "-r", str(capture), "-Y", shown, "-g", found[0],
        ]  # fmt: skip
        with window(command, capture.name, size, environment):
            # In the pane of details: the last line, what we are after, with all beneath it.
            _tool(environment, "mousemove", "200", "514", "click", "1", "sleep", "0.5", "key", "End", "key", "shift+Right")
            time.sleep(SETTLE_S)
            _picture(environment, picture)


class Terminal:
    """A terminal with a shell, in which lines are typed one after the other."""

    def __init__(self, environment: dict[str, str], prompts: Path) -> None:
        self.environment = environment
        self._prompts = prompts
        self._seen = 0

    @classmethod
    @contextmanager
    def opened(cls, home: Path, size: tuple[int, int], path: str) -> Iterator["Terminal"]:
        """Open one that fills a screen of this size. path: of the commands."""
        prompts = home / ".prompts"
        prompts.unlink(missing_ok=True)
        columns, rows = size
        with screen(columns * 9 + 24, rows * 19 + 24) as environment:
            environment |= {
                "HOME": str(home),
                "PATH": path,
                "PS1": "$ ",
                "PROMPT_COMMAND": f"echo >> {prompts}",
                "LC_ALL": "C.UTF-8",
            }
            command = [
                "xterm", "-T", "terminal", "-fa", "DejaVu Sans Mono", "-fs", "11", "-bg", "#17212b", "-fg", "#dde6ee",
                "-geometry", f"{columns}x{rows}", "-b", "10", "+sb", "-bw", "0",
                "-e", "sh", "-c", f"cd '{home}' && exec bash --norc --noprofile",
            ]  # fmt: skip
            pixels = (columns * 9 + 24, rows * 19 + 24)
            with window(command, "terminal", pixels, environment):
                terminal = cls(environment, prompts)
                terminal._wait(1)
                yield terminal

    def type(self, line: str) -> None:
        """Type a line, press Enter, and wait until its command has ended."""
        count = self._count() + 1
        _tool(self.environment, "type", "--delay", "12", f"{line}\n")
        self._wait(count)

    def picture(self, picture: Path) -> None:
        """Take a picture of it."""
        time.sleep(0.5)
        _picture(self.environment, picture)

    def _count(self) -> int:
        return len(self._prompts.read_text().splitlines()) if self._prompts.exists() else 0

    def _wait(self, count: int) -> None:
        until = time.monotonic() + PATIENCE_S
        while self._count() < count:
            if time.monotonic() > until:
                raise SystemExit("a line that was typed does not end")
            time.sleep(0.1)


def _picture(environment: dict[str, str], picture: Path) -> None:
    subprocess.run(["import", "-window", "root", str(picture)], env=environment, check=True, timeout=PATIENCE_S)
    if shutil.which("pngquant"):  # not needed; smaller
        subprocess.run(["pngquant", "--force", "--ext", ".png", str(picture)], check=False)


def missing() -> list[str]:
    """Return the packages of Debian that have the tools which are not there."""
    return [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
