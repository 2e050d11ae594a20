"""Sans-IO. URLs of exports: `netfs://host[:port]/path`, with `+tcp`, `+rdma` or `+rdmas`, and `netfs+unix:///socket:/path`.

`netfs` is TLS for whoever has an identity; who has none gets on a loopback address what `netfs+tcp` always is: a plain
connection. The path begins at the export's root and is written as it is, without percent-encoding. Behind a `?` may stand
how to deal with a lost connection: `hard` or `soft`, `timeout=SECONDS`, `channels=COUNT`, with `&` between; and `roce`, for RDMA
by RoCE's rules. Owns no memory.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from transport.address import DEFAULT_PORT

__all__ = ["DEFAULT_PORT", "SCHEMES", "Url", "parse_url"]

MAX_CHANNELS: Final = 16
SCHEMES: Final = ("netfs", "netfs+tcp", "netfs+unix", "netfs+rdma", "netfs+rdmas")


@dataclass(frozen=True, slots=True)
class Url:
    """Where a server listens, and a path in its export.

    host, port: of a TCP server. socket: path of a UNIX socket, then host is empty. path: absolute, "/" for the root. plain: no
    TLS, whoever asks. rdma: by iWARP on that port; `netfs+rdma` is plain, `netfs+rdmas` never. hard, timeout_s, channels: of
    `open_client`; None: not said. roce: by RoCE's rules.
    """

    host: str
    port: int
    socket: str
    path: str
    plain: bool = False
    rdma: bool = False
    hard: bool | None = None
    timeout_s: float | None = None
    channels: int | None = None
    roce: bool = False

    @property
    def secure(self) -> bool:
        """True where an identity makes it TLS."""
        return not self.plain and not self.socket

    @property
    def peer(self) -> str:
        """The server's address, for people and for known_hosts."""
        return self.socket or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def base(self) -> str:
        """The URL of the export's root."""
        if self.socket:
            return f"netfs+unix://{self.socket}:/"
        if self.rdma:
            return f"netfs+rdma{'' if self.plain else 's'}://{self.peer}/"
        return f"netfs{'+tcp' if self.plain else ''}://{self.peer}/"


def parse_url(text: str) -> Url:
    """Read a URL. Raises: ValueError, one line that says what is wrong."""
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"not a URL of an export: {text!r} (it begins with {' or '.join(f'{name}://' for name in SCHEMES)})")
    if parts.fragment or parts.username:
        raise ValueError(f"a URL of an export has no user and no fragment: {text!r}")
    rdma = parts.scheme in ("netfs+rdma", "netfs+rdmas")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    roce = rdma and ("roce", "") in pairs
    hard, timeout_s, channels = _parse_recovery([pair for pair in pairs if not (roce and pair == ("roce", ""))])
    if parts.scheme == "netfs+unix":
        socket, _, path = parts.path.partition(":")
        if parts.netloc or not socket.startswith("/"):
            raise ValueError(f"a UNIX socket is given as netfs+unix:///socket:/path, not {text!r}")
        return Url("", 0, socket, path or "/", hard=hard, timeout_s=timeout_s, channels=channels)
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"not a port: {text!r}") from None
    if not parts.hostname:
        raise ValueError(f"no host in {text!r}")
    plain = parts.scheme in ("netfs+rdma", "netfs+tcp")
    port = DEFAULT_PORT if port is None else port
    return Url(parts.hostname, port, "", parts.path or "/", plain, rdma, hard, timeout_s, channels, roce)


def _parse_recovery(pairs: list[tuple[str, str]]) -> tuple[bool | None, float | None, int | None]:
    hard, timeout_s, channels = None, None, None
    for name, value in pairs:
        if name in {"hard", "soft"} and not value:
            hard = name == "hard"
        elif name == "timeout" and value.replace(".", "", 1).isdigit() and float(value) > 0:
            timeout_s = float(value)
        elif name == "channels" and value.isdigit() and 1 <= int(value) <= MAX_CHANNELS:
            channels = int(value)
        else:
            raise ValueError(
                f"behind the ? of a URL: hard or soft, timeout=SECONDS, channels=1…{MAX_CHANNELS}; not {name}={value}".rstrip("=")
            )
    return hard, timeout_s, channels
