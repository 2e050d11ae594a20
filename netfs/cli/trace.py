"""Trio shell. `netfs trace`: record what a command does, look at it in the terminal, in Perfetto or in Wireshark.

`record` gives the command behind it `--trace` or `--capture`. `show` prints what any of the three kinds of file holds. `open`
lends a trace to ui.perfetto.dev, which runs in the browser of this machine and fetches it from here; nothing is uploaded.
Owns no memory.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from netfs.cli.host import CommandError, Exit, Host, describe

__all__ = ["DISSECTOR", "register"]

DISSECTOR: Final = Path(__file__).parents[1] / "tracing" / "netfs.lua"
PERFETTO: Final = "https://ui.perfetto.dev"
PORT: Final = 9001
"""The only port of this machine from which ui.perfetto.dev is allowed to fetch."""


def register(host: Host) -> None:
    """Add the commands."""
    group = host.group(
        "trace",
        "Record what a command does, and look at it as text, in Perfetto or in Wireshark.",
        ["netfs trace record run.pftrace cp report.pdf netfs://127.0.0.1:7777/", "netfs trace show run.pftrace"],
    )

    def record(file: Path, /, *command: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> object:
        """Run another command of netfs, and record what it does.

        Args:
            file: *.txt, *.svg, *.pftrace (for Perfetto) or *.pcapng (for Wireshark).
            command: the command and its arguments.
        """
        option = "--capture" if file.suffix == ".pcapng" else "--trace"
        if not command or command[0] == "trace":
            host.fail(Exit.USAGE, "name the command to run, as in: netfs trace record run.pftrace cp a netfs://host/")
        return host.app([*command, option, str(file)])

    host.command(
        record,
        name="record",
        under=group,
        usage="netfs trace record FILE COMMAND...",
        examples=[
            "netfs trace record run.pftrace cp report.pdf netfs://127.0.0.1:7777/",
            "netfs trace record run.pcapng cat netfs+rdma://127.0.0.1:7778/report.pdf",
        ],
    )
    register_looking(host, group)


def register_looking(host: Host, group: App) -> None:
    """Add `netfs trace show`, `open` and `wireshark`."""

    def show(file: Path, /, *, find: str | None = None, request: str | None = None) -> None:
        """Print a trace or a capture as text.

        Args:
            file: *.txt, *.pftrace or *.pcapng.
            find: only lines that hold this text.
            request: only what belongs to the request of this number, as *.txt prints it (3 for R=00000003): the call it serves,
                its subrequests, the calls to the server, and what the server did for them.
        """
        try:
            number = None if request is None else int(request.removeprefix("R="), 16)
        except ValueError:
            host.fail(Exit.USAGE, f"{request}: not the number of a request, as in --request 3")
        try:
            lines = list(lines_of(file))
            if number is not None:
                lines = about(lines, number)
            lines = [line for line in lines if find is None or find in line]
        except OSError as error:
            host.fail(Exit.LOCAL, describe(error, str(file)))
        host.emit({"file": str(file), "lines": lines}, "\n".join(lines))

    def open_(file: Path, /, *, no_browser: bool = False, port: Annotated[int, Parameter(show=False)] = PORT) -> None:
        """Show a trace in ui.perfetto.dev: the page runs in your browser and fetches the file from this machine, once.

        Args:
            file: *.pftrace.
            no_browser: only print the address.
        """
        try:
            content = file.read_bytes()
            server = lend(content, port)
        except OSError as error:
            host.fail(Exit.LOCAL, describe(error, str(file)))
        with server:
            address = f"{PERFETTO}/#!/?url=http://127.0.0.1:{server.server_port}/{file.name}"
            host.emit({"url": address}, f"{address}  (Ctrl-C ends it)")
            if not no_browser:
                import webbrowser  # noqa: PLC0415 - loaded by who has one

                webbrowser.open(address)
            while not server.fetched:
                server.handle_request()

    def wireshark(*, folder: Path = Path("~/.local/lib/wireshark/plugins")) -> None:
        """Teach Wireshark to read the messages of netfs: copy the dissector to where it looks for plugins.

        Args:
            folder: where Wireshark looks.
        """
        target = folder.expanduser() / DISSECTOR.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(DISSECTOR, target)
        except OSError as error:
            host.fail(Exit.LOCAL, describe(error, str(target)))
        host.emit({"installed": str(target)}, f"{target}; captures show the messages of netfs from now on")

    host.command(
        show,
        name="show",
        under=group,
        examples=["netfs trace show run.txt --request 3", "netfs trace show run.pftrace", "netfs trace show run.pcapng"],
    )
    host.command(open_, name="open", under=group, examples=["netfs trace open run.pftrace"])
    host.command(wireshark, name="wireshark", under=group, examples=["netfs trace wireshark"])


def lines_of(file: Path) -> Iterator[str]:
    """Yield the lines of a trace or capture. Raises: OSError, CommandError."""
    if file.suffix == ".pftrace":
        yield from _slices(file.read_bytes())
    elif file.suffix == ".pcapng":
        yield from _packets(file)
    else:
        try:
            yield from file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise CommandError(Exit.NO, f"{file}: neither a trace nor a capture") from None


def about(lines: list[str], request: int) -> list[str]:
    """Return the lines of a request, of the call it serves, and of the calls to the server that it names."""
    own = re.compile(rf"\b(?:R={request:08x}|request={request})\b")
    named = re.compile(r"\b(?:[Cx]=[0-9a-f]{8}|(?:call|xid)=\d+)\b")
    names = {name for line in lines if own.search(line) for name in named.findall(line)}
    return [line for line in lines if own.search(line) or not names.isdisjoint(named.findall(line))]


def _slices(content: bytes) -> Iterator[str]:
    try:
        from netfs.tracing.listing import listed  # noqa: PLC0415 - comes with an extra
    except ImportError as error:
        raise CommandError(Exit.LOCAL, str(error)) from None
    try:
        yield from listed(content)
    except ValueError as error:
        raise CommandError(Exit.NO, str(error)) from None


def _packets(file: Path) -> Iterator[str]:
    file.open("rb").close()
    if shutil.which("tshark") is None:
        raise CommandError(Exit.LOCAL, "a capture is shown by tshark: sudo apt install tshark")
    command = ["tshark", "-X", f"lua_script:{DISSECTOR}", "-r", os.fspath(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(Exit.NO, f"{file}: {done.stderr.strip().splitlines()[-1] if done.stderr else 'not a capture'}")
    yield from (line.strip() for line in done.stdout.splitlines())


class _Lender(HTTPServer):
    """A server of one file, which ends when it has been fetched."""

    fetched = False


def lend(content: bytes, port: int) -> _Lender:
    """Return a server on this machine that gives `content` to ui.perfetto.dev. Raises: OSError when the port is in use."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", PERFETTO)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            server.fetched = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = _Lender(("127.0.0.1", port), Handler)
    return server
