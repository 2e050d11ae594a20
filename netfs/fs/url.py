"""Sans-IO. URLs of exports: `netfs://host[:port]/path`, `netfs+tcp://host[:port]/path` and `netfs+unix:///socket:/path`.

`netfs` is TLS for whoever has an identity; who has none gets on a loopback address what `netfs+tcp` always is: a plain
connection. The path begins at the export's root and is written as it is, without percent-encoding. Owns no memory.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from transport.address import DEFAULT_PORT

__all__ = ["DEFAULT_PORT", "SCHEMES", "Url", "parse_url"]

SCHEMES: Final = ("netfs", "netfs+tcp", "netfs+unix", "netfs+rdma")


@dataclass(frozen=True, slots=True)
class Url:
    """Where a server listens, and a path in its export.

    host, port: of a TCP server. socket: path of a UNIX socket, then host is empty. path: absolute, "/" for the root. plain: no
    TLS, whoever asks. rdma: by iWARP on that port, which is plain.
    """

    host: str
    port: int
    socket: str
    path: str
    plain: bool = False
    rdma: bool = False

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
            return f"netfs+rdma://{self.peer}/"
        return f"netfs{'+tcp' if self.plain else ''}://{self.peer}/"


def parse_url(text: str) -> Url:
    """Read a URL. Raises: ValueError, one line that says what is wrong."""
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"not a URL of an export: {text!r} (it begins with {' or '.join(f'{name}://' for name in SCHEMES)})")
    if parts.query or parts.fragment or parts.username:
        raise ValueError(f"a URL of an export has no user, query or fragment: {text!r}")
    if parts.scheme == "netfs+unix":
        socket, _, path = parts.path.partition(":")
        if parts.netloc or not socket.startswith("/"):
            raise ValueError(f"a UNIX socket is given as netfs+unix:///socket:/path, not {text!r}")
        return Url("", 0, socket, path or "/")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"not a port: {text!r}") from None
    if not parts.hostname:
        raise ValueError(f"no host in {text!r}")
    rdma = parts.scheme == "netfs+rdma"
    plain = rdma or parts.scheme == "netfs+tcp"
    return Url(parts.hostname, DEFAULT_PORT if port is None else port, "", parts.path or "/", plain, rdma)
