"""Trio shell. What every command of the client needs first: its arguments as places, its key, and a client of the server.

The key file is read here and parsed in `crypto`. Owns no memory.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from netfs.cli.host import CommandError, Exit, failing
from netfs.cli.place import Place, parse_place

if TYPE_CHECKING:
    from crypto.keys import VolumeKey
    from netfs.fs.client import Client

__all__ = ["KeyFile", "connected", "place_of", "read_key", "remote_place"]

KeyFile = Annotated[
    str | None, Parameter(name="--key-file", env_var="NETFS_KEY_FILE", help="key of an encrypted folder (see netfs keygen).")
]


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


@asynccontextmanager
async def connected(place: Place, key_file: str | None) -> AsyncIterator["Client"]:
    """Connect to the server of `place`; a failure to do so names the endpoint."""
    import netfs  # noqa: PLC0415 - the client is loaded by the commands that need it

    assert place.endpoint is not None
    keys = read_key(key_file) if key_file is not None else None
    async with AsyncExitStack() as stack:
        try:
            with failing(Exit.REMOTE, place.endpoint):
                client = await stack.enter_async_context(netfs.open_client(place.endpoint, keys=keys))
        except ValueError as error:
            raise CommandError(Exit.USAGE, str(error)) from None
        yield client
