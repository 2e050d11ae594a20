"""Trio shell. What it takes to open an export, or a volume in one, as fsspec's options say it.

Owns no memory.
"""

import errno
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from netfs.fs.client import Client, open_client
from netfs.fs.url import parse_url
from transport.user_files import user_file

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

__all__ = ["Opening", "split_url"]


@dataclass(frozen=True, slots=True)
class Opening:
    """The options of `NetFileSystem`, as they were given."""

    endpoint: str
    volume: str | None
    key_file: str | None
    passphrase: str | None
    fingerprint: str | None
    identity: str | None
    known_hosts: str | None
    cache_bytes: int
    cache_dir: str | None

    def client(self) -> "AbstractAsyncContextManager[Client]":
        """Return what opens it. Raises: OSError for a file that cannot be read, ValueError for what is in it."""
        identity = own_file(self.identity)
        if identity is None and parse_url(self.endpoint).secure and user_file("identity").exists():
            identity = user_file("identity")
        known_hosts = own_file(self.known_hosts)
        if self.volume is None:
            return open_client(
                self.endpoint, identity=identity, known_hosts=known_hosts, cache_bytes=self.cache_bytes, cache=self.cache_dir
            )
        # The cipher's library is only loaded by those who need it.
        from crypto.slots import Passphrase, parse_secret  # noqa: PLC0415
        from netfs.fs.volumes import open_volume  # noqa: PLC0415

        passphrase = self.passphrase
        key = own_file(self.key_file) or Path()
        secret = Passphrase(passphrase.encode()) if passphrase is not None else parse_secret(key.read_bytes())
        export, mark, recovery = self.endpoint.partition("?")
        place = parse_url(export).base.removesuffix("/") + self.volume
        return open_volume(
            place + mark + recovery,
            secret,
            pinned=remembered(place) if self.fingerprint is None else bytes.fromhex(self.fingerprint),
            identity=identity,
            known_hosts=known_hosts,
            cache_bytes=self.cache_bytes,
            cache=self.cache_dir,
        )


def own_file(name: str | None) -> Path | None:
    """Return the path of a file that is named."""
    return None if name is None else Path(name).expanduser()


def split_url(text: str) -> tuple[str, str]:
    """Return the endpoint of a URL, with how to deal with a lost connection, and the path. Raises: ValueError.

    A `?` that begins nothing of that kind is one of a pattern or of a name.
    """
    begin, mark, rest = text.partition("?")
    if rest:
        with suppress(ValueError):
            url = parse_url(text)
            return url.base + mark + rest, url.path
    url = parse_url(begin)
    return url.base, url.path + mark + rest


def remembered(place: str) -> bytes | None:
    """Return the fingerprint that the netfs command remembers of a volume. Raises: OSError when its file cannot be read."""
    from netfs.cli.host import CommandError  # noqa: PLC0415 - as above, for who has a volume
    from netfs.cli.known_volumes import KnownVolumes  # noqa: PLC0415

    try:
        known = KnownVolumes(user_file("known_volumes")).volumes.get(place)
    except CommandError as error:
        raise OSError(errno.EINVAL, str(error)) from error
    return None if known is None else known.fingerprint
