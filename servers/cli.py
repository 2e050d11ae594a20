"""Trio shell. The commands `netfs serve`, `status` and `top`: their options. What they do is in `running.py`. Owns no memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from servers.running import LOCAL as _LOCAL
from servers.running import USAGE as _USAGE
from servers.running import Host, Options, Tampering, control_server, run_server, show_status, show_top

if TYPE_CHECKING:
    from servers.config import Config
    from servers.stores.mapping import NamesAndModes

__all__ = ["register"]

_ALL = 0o7777
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Commands:
    """Three commands: their signatures are the options, their docstrings the help."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def serve(
        self,
        folder: Path | None = None,
        *,
        config: Path | None = None,
        listen: str | None = None,
        rdma: str | None = None,
        rdma_crc: bool | None = None,
        read_only: bool | None = None,
        memory: bool | None = None,
        mode_mask: str | None = None,
        utf8_names: bool | None = None,
        identity: Path | None = None,
        authorized_keys: Path | None = None,
        ca: Path | None = None,
        insecure: bool | None = None,
        metrics: str | None = None,
        user: str | None = None,
        ready_fd: int | None = None,
        capture: Path | None = None,
        verbose: bool | None = None,
        log_json: bool | None = None,
        tamper: str | None = None,
    ) -> None:
        """Serve a folder until it is told to stop: SIGTERM and Ctrl-C end what is under way in order, SIGHUP reads keys again.

        Clients see the folder's files and nothing outside it; symbolic links are shown, never followed. With --identity or
        --authorized-keys connections are TLS, and whoever has one of the keys may come in. Without, whoever can reach the address
        can read and write, so it is on this machine alone unless --insecure is said.

        Args:
            folder: the folder to serve.
            config: a TOML file with these options, limits and more exports; what is said here wins.
            listen: where: host:port, or unix:/path for a socket that only you can use; port 0 takes a free one. When not given,
                netfs.sock in a directory of yours; with keys 127.0.0.1:2050.
            rdma: where to listen for RDMA (iWARP) as well, host:port; port 0 takes a free one. With keys it is over TLS.
            rdma_crc: protect RDMA messages by checksums; needs the package crc32c.
            read_only: refuse every change.
            memory: serve an empty store in memory instead of a folder; it is gone when the server ends.
            mode_mask: the permissions that clients may give, in octal: 0750 leaves out what it does not have. All by default.
            utf8_names: refuse new names that are not UTF-8; else a name may be any bytes.
            identity: the server's key (see netfs keygen); ~/.config/netfs/identity when only --authorized-keys is given.
            authorized_keys: the keys of clients, a line for each: its fingerprint, a name, and ro for one that may only read.
                Read again for each connection. ~/.config/netfs/authorized_keys when only --identity is given.
            ca: certificates of an authority (PEM): who has one of its certificates comes in, by the name in it. Then --identity
                is a PEM file with the server's key and certificate, and authorized_keys may say what some keys may do.
            insecure: allow an address that other machines can reach without TLS and keys.
            metrics: where to answer HTTP with /metrics for Prometheus and /status, host:port of this machine or unix:/path.
            user: whom to become once everything is open; when started by root, the owner of the folder.
            ready_fd: write a line into this descriptor when clients can come, and close it; systemd is told by itself.
            capture: record what passes over every connection, above TLS, in a file for Wireshark: *.pcapng.
            verbose: log every connection.
            log_json: log one JSON object in a line.
            tamper: lie to clients, on this machine alone: as an attack of docs/threat-model.md, A04 or A04:block+page.
        """
        found = _config(self._host, config)
        options = Options(
            folder=folder or _path(found.folder),
            listen=listen or found.listen,
            rdma=rdma or found.rdma,
            rdma_crc=_said(rdma_crc, found.rdma_crc),
            read_only=_said(read_only, found.read_only),
            memory=_said(memory, found.memory),
            mapping=_mapping(self._host, mode_mask or found.mode_mask, utf8_names=_said(utf8_names, found.utf8_names)),
            identity=identity or _path(found.identity),
            authorized_keys=authorized_keys or _path(found.authorized_keys),
            ca=ca or _path(found.ca),
            insecure=_said(insecure, found.insecure),
            metrics=metrics or found.metrics,
            user=user or found.user,
            ready_fd=ready_fd,
            capture=capture,
            verbose=_said(verbose, found.verbose),
            log_json=_said(log_json, found.log_json),
            exports={name: Path(where) for name, where in found.exports.items()},
            limits=found.limits,
        )
        _check_options(self._host, options)
        tampering = None if tamper is None else _tampering(self._host, tamper, listen, rdma, insecure=options.insecure)
        await run_server(self._host, options, tampering)

    async def status(self, server: str) -> None:
        """Show what a running server is doing: its connections and sessions, and what it has done so far.

        Args:
            server: the folder that it serves, or what it was given as --metrics: host:port or unix:/path.
        """
        await show_status(self._host, server)

    async def control(self, server: str, action: Literal["reload", "disconnect"], who: str = "") -> None:
        """Have a running server read its keys again, or end the connections of a client; it is asked at .netfs/control.

        Whoever has a key that still counts may connect again: take the key out of authorized_keys first.

        Args:
            server: the folder that it serves.
            action: reload or disconnect.
            who: whom to disconnect: a name, a key's fingerprint or an address, as netfs status shows them.
        """
        if (action == "disconnect") != bool(who):
            self._host.fail(_USAGE, "say whom to disconnect" if not who else "reload is for all keys")
        await control_server(self._host, server, action, who)

    async def top(self, server: str, *, interval: float = 2.0, times: int = 0) -> None:
        """Watch a running server: what it does a second, and who is connected. Ctrl-C ends it.

        Args:
            server: as of netfs status.
            interval: seconds between two looks.
            times: how many looks, for ever by default; under --json each is an object on a line of its own.
        """
        if interval <= 0 or times < 0:
            self._host.fail(_USAGE, "--interval is more than 0 seconds, --times not less than 0")
        await show_top(self._host, server, interval, times)


def register(host: Host) -> None:
    """Add the commands."""
    commands = _Commands(host)
    host.command(
        commands.top,
        name="top",
        usage="netfs top FOLDER|ADDRESS [OPTIONS]",
        examples=("netfs top ~/data", "netfs top 127.0.0.1:9100 --interval 0.5", "netfs top ~/data --times 1 --json"),
    )
    host.command(
        commands.serve,
        name="serve",
        usage="netfs serve FOLDER [OPTIONS]",
        examples=(
            "netfs serve ~/data",
            "netfs serve ~/data --listen unix:/run/user/1000/netfs.sock --read-only",
            "netfs serve ~/data --listen 0.0.0.0:2050 --identity server.id --authorized-keys team.keys",
            "netfs serve --memory --listen 127.0.0.1:0",
            "netfs serve ~/data --rdma 127.0.0.1:2051 --capture session.pcapng",
            "netfs serve --config /etc/netfs/server.toml --log-json",
        ),
    )
    host.command(
        commands.control,
        name="control",
        usage="netfs control FOLDER ACTION [WHO] [OPTIONS]",
        examples=("netfs control ~/data reload", "netfs control ~/data disconnect bob"),
    )
    host.command(
        commands.status,
        name="status",
        usage="netfs status FOLDER|ADDRESS [OPTIONS]",
        examples=("netfs status ~/data", "netfs status 127.0.0.1:9100 --json"),
    )


def _config(host: Host, path: Path | None) -> "Config":
    from servers.config import Config, parse_config  # noqa: PLC0415 - what only a server needs is loaded by the command

    if path is None:
        return Config()
    try:
        return parse_config(path.read_text())
    except OSError as error:
        host.fail(_LOCAL, f"{path}: {error.strerror}")
    except ValueError as error:
        host.fail(_USAGE, f"{path}: {error}")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _said(option: bool | None, config: bool | None) -> bool:
    return bool(config) if option is None else option


def _mapping(host: Host, mode_mask: str | None, *, utf8_names: bool) -> "NamesAndModes":
    from servers.stores.mapping import NamesAndModes, parse_mask  # noqa: PLC0415

    try:
        return NamesAndModes(utf8_names=utf8_names) if mode_mask is None else NamesAndModes(parse_mask(mode_mask), utf8_names)
    except ValueError as error:
        host.fail(_USAGE, str(error))


def _check_options(host: Host, options: Options) -> None:
    if options.memory == (options.folder is not None):
        host.fail(_USAGE, "give either a folder or --memory")
    if options.memory and (options.mapping.utf8_names or options.mapping.mode_mask != _ALL):
        host.fail(_USAGE, "--mode-mask and --utf8-names are for folders")
    if options.memory and options.read_only:
        host.fail(_USAGE, "an empty store in memory that is read-only serves nobody")
    if options.rdma_crc and options.rdma is None:
        host.fail(_USAGE, "--rdma-crc goes with --rdma")
    if options.exports and options.files is None:
        host.fail(_USAGE, "exports are for keys: give --identity and --authorized-keys")


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
