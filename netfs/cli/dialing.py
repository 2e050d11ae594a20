"""Trio shell. What every command of the client needs first: its arguments as places, its key, and a client of the server.

The key file is read here and parsed in `crypto`. Owns no memory.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from netfs.cli.host import CommandError, Exit, failing
from netfs.cli.place import Place, parse_place
from transport.user_files import user_file

if TYPE_CHECKING:
    from crypto.keys import VolumeKey
    from netfs.fs.client import Client

__all__ = ["ANYBODY", "Access", "KeyFile", "connected", "own_identity", "place_of", "read_key", "remote_place"]

SECURE = "netfs://"
KeyFile = Annotated[
    str | None, Parameter(name="--key-file", env_var="NETFS_KEY_FILE", help="key of an encrypted folder (see netfs keygen).")
]
IdentityFile = Annotated[
    str | None,
    Parameter(
        name="--identity",
        env_var="NETFS_IDENTITY",
        help="your key to the server, if not ~/.config/netfs/identity (see netfs keygen).",
    ),
]
KnownHostsFile = Annotated[
    str | None,
    Parameter(
        name="--known-hosts",
        env_var="NETFS_KNOWN_HOSTS",
        help="keys of servers, if not ~/.config/netfs/known_hosts (see netfs trust).",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Access:
    """The options of every command that connects: paths of key files."""

    key_file: KeyFile = None
    identity: IdentityFile = None
    known_hosts: KnownHostsFile = None


ANYBODY = Access()


def place_of(text: str) -> Place:
    """Return the place an argument names, or end the command with a usage error."""
    try:
        return parse_place(text)
    except ValueError as error:
        raise CommandError(Exit.USAGE, str(error)) from None


def remote_place(text: str) -> Place:
    """Return the place on a server that a URL names; a path of this machine is a usage error."""
    place = place_of(text)
    if not place.remote:
        raise CommandError(Exit.USAGE, f"{text}: not a URL; write netfs://host:port/path or netfs+unix:///socket:/path")
    return place


def read_key(path: str) -> "VolumeKey":
    """Return the key in a key file."""
    from crypto.errors import CryptoError  # noqa: PLC0415 - cryptography takes a while to load
    from crypto.keys import load_key_file  # noqa: PLC0415

    with failing(Exit.LOCAL, path):
        content = Path(path).read_bytes()
    try:
        return load_key_file(content)
    except CryptoError as error:
        raise CommandError(Exit.LOCAL, f"{path}: {error}") from None


def own_identity(access: Access) -> str | None:
    """Return the file of the user's identity, None when there is none; ends the command when it cannot be used."""
    path = access.identity or str(user_file("identity"))
    if access.identity is None and not Path(path).exists():
        return None
    from transport.security import load_identity  # noqa: PLC0415 - cryptography takes a while to load

    with failing(Exit.LOCAL, path):
        load_identity(path)
    return path


@asynccontextmanager
async def connected(place: Place, access: Access) -> AsyncIterator["Client"]:
    """Connect to the server of `place`; a failure to do so names the endpoint."""
    import netfs  # noqa: PLC0415 - the client is loaded by the commands that need it

    assert place.endpoint is not None
    keys = read_key(access.key_file) if access.key_file is not None else None
    identity = own_identity(access) if place.endpoint.startswith(SECURE) else None
    open_one = netfs.open_client(place.endpoint, keys=keys, identity=identity, known_hosts=access.known_hosts)
    async with AsyncExitStack() as stack:
        try:
            with failing(Exit.REMOTE, place.endpoint):
                client = await stack.enter_async_context(open_one)
        except ValueError as error:
            raise CommandError(Exit.USAGE, str(error)) from None
        yield client
