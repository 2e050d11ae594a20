"""Sans-IO. Where servers listen: the default port and the text `host:port`, `[host]:port` or `unix:/path`. Owns no memory."""

from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_PORT", "Address", "parse_address"]

DEFAULT_PORT: Final = 2050
_UNIX: Final = "unix:"


@dataclass(frozen=True, slots=True)
class Address:
    """A host and port, or the path of a UNIX socket."""

    host: str = ""
    port: int = 0
    socket: str = ""

    def __str__(self) -> str:
        if self.socket:
            return _UNIX + self.socket
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, *, plain: bool, rdma: bool = False) -> str:
        """Return the URL of the export's root behind this address."""
        if self.socket:
            return f"netfs+unix://{self.socket}:/"
        if rdma:
            return f"netfs+rdma{'' if plain else 's'}://{self}/"
        return f"netfs+tcp://{self}/" if plain else f"netfs://{self}/"


def parse_address(text: str) -> Address:
    """Read an address; a host alone has the default port. Raises: ValueError, one line that says what is wrong."""
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/") or ":" in path:
            raise ValueError(f"a UNIX socket is given as unix:/path, without a colon in the path, not {text!r}")
        return Address(socket=path)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        known = bracket and (not rest or rest.startswith(":"))
    else:
        host, _, port = text.partition(":")
        known = ":" not in port
    if not host or not known:
        raise ValueError(f"an address is given as host:port, [host]:port or unix:/path, not {text!r}")
    if not port:
        return Address(host, DEFAULT_PORT)
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"not a port: {port!r}")
    return Address(host, int(port))
