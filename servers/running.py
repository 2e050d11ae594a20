"""Trio shell. A server as a program: opens what it is told to, says that it is ready, obeys signals, and ends in order.

SIGTERM and SIGINT drain: no more requests are taken, those under way are answered; a second one ends at once. SIGHUP reads
identity and keys again. Owns no memory.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from transport.user_files import user_file

if TYPE_CHECKING:
    from iov.probe import Probe
    from servers.config import ServerLimits
    from servers.server import Serving
    from servers.stores.base import Store
    from servers.stores.mapping import NamesAndModes
    from transport.address import Address
    from transport.base import Handler
    from transport.rdma.capture import Capture

__all__ = ["LOCAL", "USAGE", "Host", "Options", "Tampering", "run_server", "show_status", "show_top"]

LOCAL = 4
REMOTE = 3
USAGE = 2
HOME_AND_CLEAR = "\x1b[H\x1b[J"


class Tampering(Protocol):
    """A server that lies on purpose, for tests of clients; `trials` registers it in the entry-point group `netfs.tampers`."""

    def around(self, store: "Store") -> "Store":
        """Return a store that lies."""

    def handler(self, inner: "Handler") -> "Handler":
        """Return a handler that lies."""


class Host(Protocol):
    """What the program offers its commands."""

    def command(
        self,
        fn: Callable[..., object],
        *,
        name: str,
        help: str | None = None,  # noqa: A002
        usage: str | None = None,
        examples: Sequence[str] = (),
    ) -> None:
        """Add a subcommand."""

    def emit(self, value: object, text: str | None = None) -> None:
        """Print the result, as JSON or as text."""

    def fail(self, code: int, message: str) -> NoReturn:
        """End the command."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a server is told: options of the command, or of its config file."""

    folder: Path | None
    listen: str | None
    rdma: str | None
    rdma_crc: bool
    read_only: bool
    memory: bool
    mapping: "NamesAndModes"
    identity: Path | None
    authorized_keys: Path | None
    ca: Path | None
    insecure: bool
    metrics: str | None
    user: str | None
    ready_fd: int | None
    capture: Path | None
    verbose: bool
    log_json: bool
    exports: dict[str, Path]
    limits: "ServerLimits" = field(repr=False)

    @property
    def files(self) -> tuple[Path, Path | None] | None:
        """Identity and keys; one that was not given is the user's. None: a server without TLS."""
        if self.ca is not None:
            return self.identity or user_file("identity"), self.authorized_keys
        if self.identity is None and self.authorized_keys is None:
            return None
        return self.identity or user_file("identity"), self.authorized_keys or user_file("authorized_keys")


async def run_server(host: Host, options: Options, tampering: Tampering | None) -> None:
    """Serve until a signal says to stop."""
    # What only a server needs is loaded by the command, not by the program.
    import signal  # noqa: PLC0415

    import trio  # noqa: PLC0415

    from iov.probe import Probe  # noqa: PLC0415
    from servers.logs import start_logging  # noqa: PLC0415
    from transport.errors import HelloMismatch  # noqa: PLC0415

    start_logging(verbose=options.verbose, as_json=options.log_json)
    _allow_many_descriptors()
    probe = Probe()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals, contextlib.ExitStack() as stack:
        try:
            store = _open_store(host, options.folder, probe, options)
            stack.callback(store.close)
            exports = {}
            for name, folder in options.exports.items():
                exports[name] = _open_store(host, folder, probe, options)
                stack.callback(exports[name].close)
            async with _serving(options, store, exports, probe, tampering) as serving:
                host.emit(*_told(options, serving))
                _say_ready(options.ready_fd)
                await _obey(serving, signals)
        except (ValueError, HelloMismatch) as error:
            host.fail(USAGE, str(error))
        except OSError as error:
            host.fail(LOCAL, f"{error.filename}: {error.strerror}" if error.filename else str(error))


@contextlib.asynccontextmanager
async def _serving(
    options: Options, store: "Store", exports: "dict[str, Store]", probe: "Probe", tampering: Tampering | None
) -> "AsyncIterator[Serving]":
    from dataclasses import replace  # noqa: PLC0415

    from servers.listen import default_listen  # noqa: PLC0415
    from servers.privileges import become, user_for  # noqa: PLC0415
    from servers.server import serve  # noqa: PLC0415
    from transport.address import DEFAULT_PORT, parse_address  # noqa: PLC0415
    from transport.base import Limits  # noqa: PLC0415

    identity, keys = options.files or (None, None)
    listen = options.listen or (f"127.0.0.1:{DEFAULT_PORT}" if options.files else default_listen(os.environ))
    user = user_for(options.user, options.folder)

    def opened() -> None:
        address = parse_address(listen)
        if user is not None and address.socket:
            os.chown(address.socket, user.pw_uid, user.pw_gid)
        become(user)

    async with captured(options.capture) as capture, serve(
        store if tampering is None else tampering.around(store),
        listen,
        probe=probe,
        limits=replace(Limits(), max_payload=options.limits.payload),
        insecure=options.insecure,
        rdma=options.rdma,
        rdma_crc=options.rdma_crc,
        identity=identity,
        authorized_keys=keys,
        authority=options.ca,
        capture=capture,
        around=None if tampering is None else tampering.handler,
        exports=exports,
        bounds=options.limits,
        reports=options.metrics,
        opened=opened,
    ) as serving:  # fmt: skip
        yield serving


def _told(options: Options, serving: "Serving") -> tuple[dict[str, object], str]:
    """Return what is said when the server accepts clients, as an object and as text."""
    folder = options.folder
    what = "memory" if folder is None else f"{folder}{' read-only' if options.read_only else ''}"
    told: dict[str, object] = {
        "url": serving.url,
        "folder": None if folder is None else str(folder),
        "read_only": options.read_only,
    }
    where = serving.url
    if serving.rdma_url is not None:
        told["rdma_url"] = serving.rdma_url
        where += f" and {serving.rdma_url}"
    lines = [f"serving {what} at {where}  (Ctrl-C ends it)"]
    for name, export in options.exports.items():
        lines.append(f"and {export} as {name}")
    if options.exports:
        told["exports"] = {name: str(export) for name, export in options.exports.items()}
    if serving.fingerprint is not None:
        told["fingerprint"] = serving.fingerprint
        lines.append(f"its key is {serving.fingerprint}")
    if options.metrics is not None:
        told["metrics"] = options.metrics
        lines.append(f"its metrics are at {options.metrics}")
    return told, "\n".join(lines)


def _say_ready(fd: int | None) -> None:
    from servers.ready import tell_ready  # noqa: PLC0415

    tell_ready(fd, os.environ)


async def _obey(serving: "Serving", signals: "AsyncIterator[int]") -> None:
    """Do what signals say, until one of them has ended the server in order."""
    import logging  # noqa: PLC0415
    import signal  # noqa: PLC0415

    import trio  # noqa: PLC0415

    from servers.ready import tell_systemd  # noqa: PLC0415

    log = logging.getLogger(__name__)
    async for number in signals:
        if number != signal.SIGHUP:
            break
        try:
            serving.server.reload()
            log.warning("reloaded fingerprint=%s", serving.server.fingerprint)
        except OSError as error:
            log.error("not reloaded path=%s error=%s", error.filename, error.strerror)
    tell_systemd("STOPPING=1", os.environ)
    async with trio.open_nursery() as nursery:

        async def hurry() -> None:
            async for number in signals:
                if number != signal.SIGHUP:
                    nursery.cancel_scope.cancel()

        nursery.start_soon(hurry)
        await serving.server.drain()
        nursery.cancel_scope.cancel()


# ---- status


async def show_status(host: Host, where: str) -> None:
    """Ask a running server and show what it says."""
    found = await _asked(host, where)
    host.emit(found, _status_text(found))


async def show_top(host: Host, where: str, interval: float, times: int) -> None:
    """Ask a running server again and again, and show what has changed; a terminal is drawn over."""
    from servers.top import rates, screen, watch  # noqa: PLC0415

    live = sys.stdout is not None and sys.stdout.isatty()
    size = shutil.get_terminal_size()

    def show(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
        lines = screen(where, before, now, size.columns if live else 200)
        text = "\n".join(lines[: size.lines - 1] if live else lines)
        host.emit({**now, "rates": rates(before, now)}, (HOME_AND_CLEAR if live else "") + text)

    await watch(lambda: _asked(host, where), show, interval, times)


async def _asked(host: Host, where: str) -> dict[str, Any]:
    from servers.report import ask_status  # noqa: PLC0415

    try:
        return await ask_status(_control_of(where))
    except OSError as error:
        host.fail(REMOTE, f"{where}: no server answers there: {error.strerror or error}")
    except ValueError as error:
        host.fail(USAGE, f"{where}: {error}")


async def control_server(host: Host, where: str, action: str, who: str) -> None:
    """Have a running server do something, and say what came of it."""
    from servers.report import command_server  # noqa: PLC0415

    try:
        found = await command_server(_control_of(where), f"/{action}", who)
    except OSError as error:
        host.fail(REMOTE, f"{where}: no server answers there: {error.strerror or error}")
    except ValueError as error:
        host.fail(USAGE, f"{where}: {error}")
    ended = found.get("disconnected")
    host.emit(found, "keys are read again" if ended is None else f"{ended} connection{'s' * (ended != 1)} ended")


def _control_of(where: str) -> "Address":
    from servers.report import CONTROL  # noqa: PLC0415
    from transport.address import Address, parse_address  # noqa: PLC0415

    folder = Path(where).expanduser()
    return Address(socket=str(folder / ".netfs" / CONTROL)) if folder.is_dir() else parse_address(where)


def _status_text(found: dict[str, Any]) -> str:
    clients = found.get("clients", [])
    lines = [f"{name:<18} {value}" for name, value in found.items() if name != "clients"]
    for client in clients if isinstance(clients, list) else []:
        shown = {name: value for name, value in client.items() if value not in (None, "")}
        lines.append("client " + " ".join(f"{name}={value}" for name, value in shown.items()))
    return "\n".join(lines)


# ---- what is opened


@contextlib.asynccontextmanager
async def captured(path: Path | None) -> AsyncIterator["Capture | None"]:
    if path is None:
        yield None
        return
    from transport.rdma.capture_file import open_capture  # noqa: PLC0415 - loaded by those who capture

    with open_capture(path) as capture:
        yield capture


def _open_store(host: Host, folder: Path | None, probe: "Probe", options: Options) -> "Store":
    from servers.stores.directory import DirectoryStore  # noqa: PLC0415
    from servers.stores.memory import MemoryStore  # noqa: PLC0415
    from transport.env import system_env  # noqa: PLC0415

    if folder is not None:
        try:
            return DirectoryStore(folder, probe, read_only=options.read_only, mapping=options.mapping)
        except OSError as error:
            host.fail(LOCAL, f"{folder}: {error.strerror}")
    env = system_env()
    boot = int.from_bytes(env.nonces(7), "little") + 1
    return MemoryStore(probe, env.wall_ns, boot=boot, uid=os.getuid(), gid=os.getgid())


def _allow_many_descriptors() -> None:
    import resource  # noqa: PLC0415

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
