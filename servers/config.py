"""Sans-IO. The config file of `netfs serve`: TOML whose keys are the options of the command, with tables for exports and limits.

    folder = "/srv/data"                 listen = "0.0.0.0:2050"
    identity = "/etc/netfs/identity"     authorized_keys = "/etc/netfs/authorized_keys"
    [exports]                            [limits]
    photos = "/srv/photos"               connections = 1024

An option on the command line wins. A key that is not known, or of the wrong type, is an error: nothing is served by a guess.
Owns no memory.
"""

import tomllib
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Config", "ServerLimits", "parse_config"]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server allows. connections: in all; per_client: of one key, or of all who come without.

    requests_per_s, bytes_per_s: of one connection, on average, 0 for any; a client that asks for more is answered later.
    payload: bytes of one read or write. drain_s: how long a server that is told to stop waits for what is under way.
    """

    connections: int = 1024
    per_client: int = 1024
    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0
    payload: int = 1 << 20
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        if self.connections < 1 or self.per_client < 1 or self.requests_per_s < 0 or self.bytes_per_s < 0 or self.drain_s < 0:
            raise ValueError("limits are positive")
        if not 4096 <= self.payload <= 1 << 26:
            raise ValueError("limits.payload is from 4096 bytes to 64 MiB")


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says; None where it says nothing. user: to become after everything is open. metrics: where to answer."""

    folder: str | None = None
    listen: str | None = None
    rdma: str | None = None
    rdma_crc: bool | None = None
    read_only: bool | None = None
    memory: bool | None = None
    mode_mask: str | None = None
    utf8_names: bool | None = None
    identity: str | None = None
    authorized_keys: str | None = None
    ca: str | None = None
    insecure: bool | None = None
    verbose: bool | None = None
    log_json: bool | None = None
    metrics: str | None = None
    user: str | None = None
    exports: dict[str, str] = field(default_factory=dict)
    limits: ServerLimits = field(default_factory=ServerLimits)


def parse_config(text: str) -> Config:
    """Read a config file. Raises: ValueError, one line."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(str(error)) from None
    exports = found.pop("exports", {})
    if not isinstance(exports, dict) or not all(isinstance(folder, str) for folder in exports.values()):
        raise ValueError("exports: expected a table of names and folders")
    limits = found.pop("limits", {})
    if not isinstance(limits, dict):
        raise ValueError("limits: expected a table")
    return Config(
        **_checked(Config, found, ""), exports=exports, limits=ServerLimits(**_checked(ServerLimits, limits, "limits."))
    )


def _checked(kind: type[Any], found: dict[str, Any], where: str) -> dict[str, Any]:
    kinds = {
        one.name: getattr(one.type, "__name__", str(one.type)) for one in fields(kind) if one.name not in {"exports", "limits"}
    }
    for name, value in found.items():
        wanted = kinds.get(name)
        if wanted is None:
            raise ValueError(f"{where}{name}: no such option")
        if wanted.startswith("str"):
            right = isinstance(value, str)
        elif wanted.startswith("bool"):
            right = isinstance(value, bool)
        else:
            right = isinstance(value, int if "int" in wanted else int | float) and not isinstance(value, bool)
        if not right:
            raise ValueError(f"{where}{name}: expected {wanted.removesuffix(' | None')}, got {type(value).__name__}")
    return found
