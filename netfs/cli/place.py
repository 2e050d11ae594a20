"""Sans-IO. What a command line names: a path on this machine, or a path on a server written as a URL.

`netfs://host:port/path`, `netfs+tcp://…` and `netfs+unix:///socket:/path` are cut into the endpoint, which the client connects
to, and the path there. Paths are written as they are, without percent-encoding. Those on a server are cleaned as text: it follows
no symlinks, so `..` means what it says. Owns no memory.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netfs.cli.profiles import Profile, expanded

__all__ = ["Place", "parse_place", "printable"]

UNIX = "netfs+unix://"
SCHEMES = ("netfs", "netfs+tcp", "netfs+rdma", "netfs+rdmas")


@dataclass(frozen=True, slots=True)
class Place:
    """One argument. endpoint: URL of the server without a path, None for this machine. path: absolute on a server."""

    endpoint: str | None
    path: str
    is_folder: bool = False
    """Written with a slash at the end: must be a directory."""
    profile: Profile | None = field(default=None, compare=False)
    """What it was named by, if by that."""

    @property
    def remote(self) -> bool:
        """Whether it lies on a server."""
        return self.endpoint is not None

    @property
    def name(self) -> str:
        """The last component; empty for the root of an export."""
        return posixpath.basename(self.path)

    def child(self, name: str) -> "Place":
        """Return the place `name` in this folder."""
        return Place(self.endpoint, posixpath.join(self.path, name), profile=self.profile)

    def __str__(self) -> str:
        if self.endpoint is None:
            return self.path
        return f"{self.endpoint}:{self.path}" if self.endpoint.startswith(UNIX) else self.endpoint + self.path


def parse_place(text: str, profiles: Mapping[str, Profile] | None = None) -> Place:
    """Return the place an argument names, perhaps by a profile, as `work:photos`.

    Raises: ValueError with one line for an empty argument or a URL that is none of ours.
    """
    if not text:
        raise ValueError("an empty path")
    text, profile = expanded(text, profiles or {})
    if profile is not None:
        return replace(parse_place(text), profile=profile)
    scheme, mark, rest = text.partition("://")
    if not mark or "/" in scheme:
        # Not cleaned further: on this machine `a/..` may lie elsewhere, behind a symlink.
        return Place(None, text.rstrip("/") or "/", text.endswith("/"))
    if text.startswith(UNIX):
        socket, _, path = rest.partition(":/")
        if not socket.startswith("/"):
            raise ValueError(f"{text}: name the socket by its absolute path, as in netfs+unix:///run/netfs.sock:/folder")
        return Place(UNIX + socket, _clean("/" + path), text.endswith("/"))
    if scheme not in SCHEMES:
        raise ValueError(
            f"{text}: {scheme}:// is not a scheme of netfs; write netfs://host:port/path or netfs+unix:///socket:/path"
        )
    peer, _, path = rest.partition("/")
    if not peer:
        raise ValueError(f"{text}: no host; write netfs://host:port/path")
    return Place(f"{scheme}://{peer}", _clean("/" + path), text.endswith("/"))


def _clean(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")


def printable(text: str) -> str:
    """Return `text` with what could drive a terminal or break a line escaped; names come from other people's servers."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text)
