"""Trio shell. `netfs serve`: a folder, or memory, for other programs on this machine. Owns no memory."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from transport.user_files import user_file

if TYPE_CHECKING:
    from iov.probe import Probe
    from servers.stores.base import Store
    from transport.base import Handler
    from transport.rdma.capture import Capture

__all__ = ["register"]

_LOCAL = 4
_USAGE = 2
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


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


def register(host: Host) -> None:
    """Add the command."""

    async def serve(
        folder: Path | None = None,
        *,
        listen: str | None = None,
        rdma: str | None = None,
        rdma_crc: bool = False,
        read_only: bool = False,
        memory: bool = False,
        identity: Path | None = None,
        authorized_keys: Path | None = None,
        insecure: bool = False,
        capture: Path | None = None,
        verbose: bool = False,
        tamper: str | None = None,
    ) -> None:
        """Serve a folder until interrupted.

        Clients see the folder's files and nothing outside it; symbolic links are shown, never followed. With --identity or
        --authorized-keys connections are TLS, and whoever has one of the keys may come in. Without, whoever can reach the address
        can read and write, so it is on this machine alone unless --insecure is said.

        Args:
            folder: the folder to serve.
            listen: where: host:port, or unix:/path for a socket that only you can use; port 0 takes a free one.
                127.0.0.1:2050 when not given.
            rdma: where to listen for RDMA (iWARP) as well, host:port; port 0 takes a free one. With keys it is over TLS.
            rdma_crc: protect RDMA messages by checksums; needs the package crc32c.
            read_only: refuse every change.
            memory: serve an empty store in memory instead of a folder; it is gone when the server ends.
            identity: the server's key (see netfs keygen); ~/.config/netfs/identity when only --authorized-keys is given.
            authorized_keys: the keys of clients, a line for each: its fingerprint, a name, and ro for one that may only read.
                Read again for each connection. ~/.config/netfs/authorized_keys when only --identity is given.
            insecure: allow an address that other machines can reach without TLS and keys.
            capture: record what passes over every connection, above TLS, in a file for Wireshark: *.pcapng.
            verbose: log every connection.
            tamper: lie to clients, on this machine alone: as an attack of docs/threat-model.md, A04 or A04:block+page.
        """
        if memory == (folder is not None):
            host.fail(_USAGE, "give either a folder or --memory")
        _check_options(host, rdma, memory=memory, read_only=read_only, rdma_crc=rdma_crc)
        files = None
        if identity is not None or authorized_keys is not None:
            files = (identity or user_file("identity"), authorized_keys or user_file("authorized_keys"))
        await _serve(
            host, folder, listen, rdma, files, rdma_crc=rdma_crc, read_only=read_only, insecure=insecure, capture=capture,
            verbose=verbose, tampering=None if tamper is None else _tampering(host, tamper, listen, rdma, insecure=insecure),
        )  # fmt: skip

    host.command(
        serve,
        name="serve",
        usage="netfs serve FOLDER [OPTIONS]",
        examples=(
            "netfs serve ~/data",
            "netfs serve ~/data --listen unix:/run/user/1000/netfs.sock --read-only",
            "netfs serve ~/data --listen 0.0.0.0:2050 --identity server.id --authorized-keys team.keys",
            "netfs serve --memory --listen 127.0.0.1:0",
            "netfs serve ~/data --rdma 127.0.0.1:2051 --capture session.pcapng",
        ),
    )


def _check_options(host: Host, rdma: str | None, *, memory: bool, read_only: bool, rdma_crc: bool) -> None:
    if memory and read_only:
        host.fail(_USAGE, "an empty store in memory that is read-only serves nobody")
    if rdma_crc and rdma is None:
        host.fail(_USAGE, "--rdma-crc goes with --rdma")


async def _serve(
    host: Host,
    folder: Path | None,
    listen: str | None,
    rdma: str | None,
    files: tuple[Path, Path] | None,
    *,
    rdma_crc: bool,
    read_only: bool,
    insecure: bool,
    capture: Path | None,
    verbose: bool,
    tampering: Tampering | None,
) -> None:
    # What only a server needs is loaded by the command, not by the program.
    import logging  # noqa: PLC0415
    import signal  # noqa: PLC0415

    import trio  # noqa: PLC0415

    from iov.probe import Probe  # noqa: PLC0415
    from servers.server import serve  # noqa: PLC0415
    from transport.address import DEFAULT_PORT  # noqa: PLC0415
    from transport.env import system_env  # noqa: PLC0415
    from transport.errors import HelloMismatch  # noqa: PLC0415

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s level=%(levelname)s event=%(message)s"
    )
    _allow_many_descriptors()
    env, probe = system_env(), Probe()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            store = opened = _open_store(folder, probe, read_only=read_only)
        except OSError as error:
            host.fail(_LOCAL, f"{folder}: {error.strerror}")
        try:
            listen = listen or f"127.0.0.1:{DEFAULT_PORT}"
            identity, keys = files or (None, None)
            if tampering is not None:
                store = tampering.around(opened)
            async with captured(capture) as told_to, serve(
                store, listen, env=env, probe=probe, insecure=insecure, rdma=rdma, rdma_crc=rdma_crc,
                identity=identity, authorized_keys=keys, capture=told_to,
                around=None if tampering is None else tampering.handler,
            ) as serving:  # fmt: skip
                what = "memory" if folder is None else f"{folder}{' read-only' if read_only else ''}"
                told = {"url": serving.url, "folder": None if folder is None else str(folder), "read_only": read_only}
                where = serving.url
                if serving.rdma_url is not None:
                    told["rdma_url"] = serving.rdma_url
                    where += f" and {serving.rdma_url}"
                line = f"serving {what} at {where}  (Ctrl-C ends it)"
                if serving.fingerprint is not None:
                    told["fingerprint"] = serving.fingerprint
                    line += f"\nits key is {serving.fingerprint}"
                host.emit(told, line)
                async for _ in signals:
                    break
        except (ValueError, HelloMismatch) as error:
            host.fail(_USAGE, str(error))
        except OSError as error:
            host.fail(_LOCAL, f"{error.filename}: {error.strerror}" if error.filename else str(error))
        finally:
            opened.close()


def _tampering(host: Host, words: str, listen: str | None, rdma: str | None, *, insecure: bool) -> Tampering:
    from importlib.metadata import entry_points  # noqa: PLC0415

    from transport.address import parse_address  # noqa: PLC0415

    for where in (listen, rdma):
        try:
            address = parse_address(where) if where is not None else None
        except ValueError as error:
            host.fail(_USAGE, str(error))
        if insecure or (address is not None and not address.socket and address.host not in _LOOPBACK):
            host.fail(_USAGE, f"a server that lies is for this machine alone: listen on one of {', '.join(_LOOPBACK)}")
    found = next(iter(entry_points(group="netfs.tampers")), None)
    if found is None:
        host.fail(_USAGE, "--tamper needs the package trials")
    try:
        tampering: Tampering = found.load()(words)
    except ValueError as error:
        host.fail(_USAGE, str(error))
    return tampering


@contextlib.asynccontextmanager
async def captured(path: Path | None) -> AsyncIterator["Capture | None"]:
    if path is None:
        yield None
        return
    from transport.rdma.capture_file import open_capture  # noqa: PLC0415 - loaded by those who capture

    with open_capture(path) as capture:
        yield capture


def _open_store(folder: Path | None, probe: "Probe", *, read_only: bool) -> "Store":
    from servers.stores.directory import DirectoryStore  # noqa: PLC0415
    from servers.stores.memory import MemoryStore  # noqa: PLC0415
    from transport.env import system_env  # noqa: PLC0415

    if folder is not None:
        return DirectoryStore(folder, probe, read_only=read_only)
    env = system_env()
    boot = int.from_bytes(env.nonces(7), "little") + 1
    return MemoryStore(probe, env.wall_ns, boot=boot, uid=os.getuid(), gid=os.getgid())


def _allow_many_descriptors() -> None:
    import resource  # noqa: PLC0415

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
