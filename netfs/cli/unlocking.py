"""Trio shell. From a command line's options to the key of a volume: the secret is read, the volume found, checked and opened.

A passphrase comes from the terminal or from a file descriptor, never from the command line, which other people can see. Owns no
memory.
"""

import getpass
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from crypto.errors import CryptoError
from crypto.keys import VolumeKey
from crypto.slots import PASSPHRASE_MAX, Identity, Passphrase, RawKey, parse_secret
from netfs.cli.host import CommandError, Exit, failing
from netfs.cli.known_volumes import Known, KnownVolumes
from netfs.cli.place import Place
from netfs.fs.volumes import Found, find_header, find_top, open_found
from transport.user_files import user_file

if TYPE_CHECKING:
    from crypto.volume import OpenVolume
    from netfs.cli.dialing import Access
    from netfs.fs.client import Client

__all__ = [
    "AnySecret",
    "ask_passphrase",
    "has_terminal",
    "keys_of",
    "open_known",
    "parse_volume_fingerprint",
    "read_passphrase",
    "secret_of",
]

AnySecret = Passphrase | RawKey | Identity
SECRET_FILE_MAX = 4096


async def secret_of(access: "Access") -> AnySecret:
    """Return what the options say opens a volume; without any, the passphrase is asked for."""
    if not access.read:
        if sum((access.key_file is not None, access.passphrase_fd is not None, access.passphrase)) > 1:
            raise CommandError(Exit.USAGE, "one of --key-file, --passphrase-fd and --passphrase is enough")
        if access.key_file is not None:
            access.read.append(read_secret_file(access.key_file))
        elif access.passphrase_fd is not None:
            access.read.append(await read_passphrase(access.passphrase_fd))
        else:
            access.read.append(await ask_passphrase("passphrase: "))
    (secret,) = access.read
    assert isinstance(secret, AnySecret)
    return secret


def read_secret_file(path: str) -> RawKey | Identity:
    """Return what is in a key file or a volume identity."""
    with failing(Exit.LOCAL, path), Path(path).open("rb") as stream:
        content = stream.read(SECRET_FILE_MAX + 1)
    try:
        return parse_secret(content)
    except CryptoError as error:
        raise CommandError(Exit.LOCAL, f"{path}: {error}") from None


async def read_passphrase(fd: int) -> Passphrase:
    """Read a passphrase to the end of a file descriptor; one newline at its end is not part of it."""
    content = bytearray()
    with failing(Exit.LOCAL, f"file descriptor {fd}"):
        while len(content) < PASSPHRASE_MAX + 2:
            more = await trio.to_thread.run_sync(partial(os.read, fd, PASSPHRASE_MAX + 2), abandon_on_cancel=True)
            if not more:
                break
            content += more
    return passphrase(bytes(content).removesuffix(b"\n"))


async def ask_passphrase(prompt: str, *, twice: bool = False) -> Passphrase:
    """Ask a person at the terminal, a new passphrase twice."""
    if not has_terminal():
        raise CommandError(Exit.USAGE, "no terminal to ask for the passphrase at; say --passphrase-fd or --key-file")
    ask = partial(trio.to_thread.run_sync, getpass.getpass, abandon_on_cancel=True)
    typed = await ask(prompt)
    if twice and typed != await ask("the same again: "):
        raise CommandError(Exit.USAGE, "these are two different passphrases")
    return passphrase(typed.encode("utf-8", "surrogateescape"))


def has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def passphrase(content: bytes) -> Passphrase:
    try:
        return Passphrase(content)
    except ValueError as error:
        raise CommandError(Exit.USAGE, str(error)) from None


def parse_volume_fingerprint(text: str) -> bytes:
    """Return the 32 bytes of a fingerprint of 64 hexadecimal digits."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise CommandError(Exit.USAGE, f"not a volume's fingerprint: {text} (64 hexadecimal digits)")
    return found


async def keys_of(
    client: "Client",
    place: Place,
    others: Iterable[Place],
    secret: AnySecret,
    fingerprint: str | None,
    *,
    any_epoch: bool = False,
) -> tuple[VolumeKey, str]:
    """Return the key of the volume that `place` lies in, or of a folder that never had a header, and the path of its top.

    any_epoch: also an earlier one than is known.

    Raises: CommandError, also for a volume seen before whose header is no longer shown, and for `others` outside of it.
    """
    with failing(Exit.REMOTE, str(place)):
        found = await find_header(client, place.path)
    known = KnownVolumes(user_file("known_volumes"))
    top = Place(place.endpoint, found.path if found else "/")
    # A server that leaves out the header, or shows another one further up, must not get to choose the key.
    for seen in known.volumes:
        if is_inside(str(place), seen) and not (found and is_inside(str(top), seen)):
            raise CommandError(
                Exit.REMOTE, f"{seen}: the header of this volume is not there any more; nothing was read or written"
            )
    if found is None:
        if fingerprint is not None or not isinstance(secret, RawKey):
            raise CommandError(Exit.REMOTE, f"{place}: not in a volume (see netfs volume init)")
        key = VolumeKey(secret.secret)
        with failing(Exit.REMOTE, str(place)):
            top = Place(place.endpoint, await find_top(client, key, place.path))
        check_inside(others, top)
        return key, top.path
    check_inside(others, top)
    return (await open_known(client, top, found, secret, fingerprint, any_epoch=any_epoch)).key, found.path


def check_inside(others: Iterable[Place], top: Place) -> None:
    for other in others:
        if not is_inside(str(other), str(top)):
            raise CommandError(Exit.USAGE, f"{other}: outside of the volume {top}; copy to or from it by two commands")


async def open_known(
    client: "Client", top: Place, found: Found, secret: AnySecret, fingerprint: str | None, *, any_epoch: bool = False
) -> "OpenVolume":
    """Open a volume that has the fingerprint given, or the one known; on first use that is shown and remembered.

    any_epoch: also in an earlier epoch than the one known.
    """
    from sys import stderr  # noqa: PLC0415 - what it is now, not when this module was loaded

    known = KnownVolumes(user_file("known_volumes"))
    before = known.volumes.get(str(top))
    if fingerprint is not None:
        pinned: bytes | None = parse_volume_fingerprint(fingerprint)
    else:
        pinned = before.fingerprint if before is not None else None
    # A volume made anew in the same place begins its epochs anew.
    least = before.epoch if before is not None and before.fingerprint == pinned and not any_epoch else 0
    with failing(Exit.REMOTE, str(top)):
        opened = await open_found(client, found, secret, pinned=pinned, least_epoch=least)
    header = opened.header
    known.remember(str(top), Known(header.fingerprint, header.scope.epoch))
    if pinned is None:
        print(f"netfs: {top}: first use of volume {header.fingerprint.hex()}", file=stderr, flush=True)  # noqa: T201
    return opened


def is_inside(place: str, folder: str) -> bool:
    return (place.rstrip("/") + "/").startswith(folder.rstrip("/") + "/")
