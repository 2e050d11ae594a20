"""Trio shell. Volumes on a server: finding the header of one, opening it, and putting another header in its place.

A volume is a directory with a header, a file that clients of the volume do not show. It is read and written as a plain file, so
all here takes a client without keys; `use_keys` then turns it into one of the volume. What blocks (a passphrase's derivation)
runs in `Env.run_blocking`. Owns no memory.
"""

import errno
import os
import posixpath
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from crypto.errors import CryptoError, KeyUnavailable, Malformed
from crypto.record import open_record
from crypto.volume import HEADER_MAX, HEADER_NAME, Header, OpenVolume, parse_header, unlock
from netfs.errors import translate
from netfs.fs.client import DEFAULT_BLOCK_SIZE, DEFAULT_CACHE_BYTES, Client, Level, StateFolder, open_client
from netfs.fs.path import names_of
from transport.messages import FileType

if TYPE_CHECKING:
    from crypto.keys import VolumeKey
    from crypto.slots import Identity, OwnerSecret
    from iov.probe import Probe
    from netfs.fscache import LocalCache
    from transport.base import Transport
    from transport.env import Env

__all__ = ["Found", "create_header", "find_header", "find_top", "open_found", "open_volume", "replace_header"]


@dataclass(frozen=True, slots=True)
class Found:
    """A volume on a server. path: of its directory; content: its header as it was read."""

    path: str
    header: Header
    content: bytes


async def find_header(client: Client, path: str) -> Found | None:
    """Return the volume that a path lies in: the nearest directory with a header, the path itself included.

    Raises: OSError, EPROTO for a header that does not follow the format. Cancellation: no effect.
    """
    names = names_of(path)
    for depth in range(len(names), -1, -1):
        folder = "/" + "/".join(names[:depth])
        try:
            content = await read_header(client, folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            return Found(folder, parse_header(content), content)
        except CryptoError as error:
            raise translate(error, folder) from error
    return None


async def find_top(client: Client, key: "VolumeKey", path: str) -> str:
    """Return the top directory of a volume without a header that a path lies in, or may begin in, the path included.

    A volume that is new begins in the nearest directory that exists.
    Raises: OSError, EKEYREJECTED for a directory that is encrypted under another key. Cancellation: no effect.
    """
    names = names_of(path)
    nearest = None
    for depth in range(len(names), -1, -1):
        folder = "/" + "/".join(names[:depth])
        try:
            entry = await client.entry(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if entry.attr.type is not FileType.DIRECTORY:
            continue
        if entry.record:
            try:
                record = open_record(key, entry.record)
            except CryptoError as error:
                raise translate(error, folder) from error
            if record.folder is not None and record.folder.is_root:
                return folder
        nearest = nearest or folder
    return nearest or "/"


async def read_header(client: Client, folder: str) -> bytes:
    async with await client.open(posixpath.join(folder, HEADER_NAME), direct=True) as file:
        if file.size > HEADER_MAX:
            raise translate(Malformed(f"a volume header of {file.size} bytes"), folder)
        return await file.read()


async def open_found(
    client: Client, found: Found, secret: "OwnerSecret | Identity", *, pinned: bytes | None, least_epoch: int = 0
) -> OpenVolume:
    """Open a volume that was found; arguments as of `crypto.volume.unlock`.

    Raises: OSError with EKEYREJECTED, ENOKEY, ESTALE. Cancellation: no effect; a derivation that has begun is finished first.
    """
    try:
        return await client.env.run_blocking(partial(unlock, found.header, secret, pinned=pinned, least_epoch=least_epoch))
    except CryptoError as error:
        raise translate(error, found.path) from error


async def create_header(client: Client, folder: str, header: Header) -> None:
    """Make an empty directory a volume. Raises: OSError, ENOTEMPTY, FileExistsError. Cancellation: may have happened."""
    if names := await client.listdir(folder):
        code = errno.EEXIST if HEADER_NAME in names else errno.ENOTEMPTY
        raise OSError(code, "a new volume begins as an empty directory", folder)
    await write_file(client, posixpath.join(folder, HEADER_NAME), header.encode())


async def replace_header(client: Client, found: Found, header: Header) -> None:
    """Put another header in the place of the one that was found, whole or not at all.

    Raises: OSError, EAGAIN when somebody else has changed it meanwhile. Cancellation: may have happened.
    """
    final = posixpath.join(found.path, HEADER_NAME)
    temporary = f"{final}.{client.env.nonces(8).hex()}"
    await write_file(client, temporary, header.encode())
    try:
        if await read_header(client, found.path) != found.content:
            raise OSError(errno.EAGAIN, "somebody else has changed the volume's header meanwhile", found.path)
        await client.rename(temporary, final)
    except BaseException:
        with suppress(OSError):
            await client.unlink(temporary)
        raise


async def write_file(client: Client, path: str, content: bytes) -> None:
    file = await client.open(path, "x", direct=True, create_mode=0o644)
    try:
        async with file:
            await file.write(content)
            await file.fsync()
    except BaseException:
        with suppress(OSError):
            await client.unlink(path)
        raise


@asynccontextmanager
async def open_volume(
    target: "str | Transport",
    secret: "OwnerSecret | Identity",
    *,
    pinned: bytes | None,
    identity: "str | os.PathLike[str] | None" = None,
    known_hosts: "str | os.PathLike[str] | None" = None,
    env: "Env | None" = None,
    probe: "Probe | None" = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    cache: "LocalCache | str | os.PathLike[str] | None" = None,
    block_size: int = DEFAULT_BLOCK_SIZE,
    freshness: Level = "local",
    state: StateFolder = None,
) -> AsyncIterator[Client]:
    """Mount the volume at `target`, a URL of its directory or a transport to an export that is one.

    Args: secret: a passphrase, a key file's content or an identity. pinned: the volume's fingerprint, known from elsewhere; None
    trusts the server, which is for a first use only. The rest as of `open_client`.
    Raises: OSError, ENOKEY when there is no header. Cancellation: not mounted; inside the block as of `open_client`.
    """
    async with open_client(
        target, identity=identity, known_hosts=known_hosts, env=env, probe=probe, cache_bytes=cache_bytes, cache=cache
    ) as client:
        found = await find_header(client, "/")
        if found is None:
            raise translate(KeyUnavailable("not a volume: it has no header"), "/")
        key = (await open_found(client, found, secret, pinned=pinned)).key
        client.use_keys(key, block_size, top=found.path, freshness=freshness, state=state)
        yield client
