"""Trio shell. `netfs keygen` and `netfs trust`: fresh keys for folders and for people, and the keys of servers.

Keys pass through this process and are not kept. Owns no memory.
"""

import getpass
import os
from contextlib import suppress
from pathlib import Path

from netfs.cli.dialing import ANYBODY, SECURE, Access, own_identity, remote_place
from netfs.cli.host import Exit, Host, failing
from transport.user_files import user_file

__all__ = ["register"]


def register(host: Host) -> None:
    """Add the commands."""

    def keygen(file: str | None = None, /, *, identity: bool = False) -> None:
        """Make your identity, or with a file the key of an encrypted folder; only you may read what is written.

        An identity is what you show to servers, and a server to you, and what volumes are opened to. Its fingerprints are
        printed: first a line for authorized_keys, then those by which the owner of a volume knows your public keys, which are
        written beside it, to identity.pub.

        Whoever has the key of a folder can read what it encrypts; without it nobody can, you included. Keep a copy in a safe
        place.

        Args:
            file: the file to create; one that exists is never replaced. For an identity ~/.config/netfs/identity when not given.
            identity: make an identity, also when a file is named.
        """
        if identity or file is None:
            _make_identity(host, file)
        else:
            _make_folder_key(host, file)

    async def trust(url: str, fingerprint: str | None = None, /, *, access: Access = ANYBODY) -> None:
        """Fetch the key of a server and remember it; its fingerprint is shown, to be compared with what the server printed.

        Args:
            url: the server, as in netfs://host:port.
            fingerprint: remember the key only if this is its fingerprint.
        """
        await _trust(host, url, fingerprint, access)

    host.command(
        keygen,
        name="keygen",
        examples=[
            "netfs keygen",
            "netfs keygen --identity backup.identity",
            "netfs keygen my.key",
            "netfs cp --key-file my.key -r secrets netfs://127.0.0.1:7777/vault",
        ],
    )
    host.command(trust, name="trust", examples=["netfs trust netfs://files.example.org"])


def _make_folder_key(host: Host, file: str) -> None:
    from crypto.aead import KEY_SIZE  # noqa: PLC0415 - cryptography takes a while to load
    from crypto.keys import format_key_file, load_key_file  # noqa: PLC0415
    from transport.env import system_env  # noqa: PLC0415

    text = format_key_file(system_env().nonces(KEY_SIZE))
    _write_new(file, text, 0o600)
    host.emit({"file": file, "key_id": load_key_file(text).key_id.hex()})


def _write_new(file: str, content: bytes, mode: int) -> None:
    with failing(Exit.LOCAL, file):
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(fd, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            with suppress(OSError):
                Path(file).unlink()
            raise


def _make_identity(host: Host, file: str | None) -> None:
    from crypto.slots import format_identity, format_recipients, parse_identity  # noqa: PLC0415 - cryptography takes a while to load
    from transport.env import system_env  # noqa: PLC0415
    from transport.security import SEED_SIZE, load_identity, write_identity  # noqa: PLC0415

    path = Path(file) if file is not None else user_file("identity")
    nonces = system_env().nonces
    text = format_identity(nonces(32))
    recipients = parse_identity(text)
    with failing(Exit.LOCAL, str(path)):
        if file is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            made = write_identity(path, nonces(SEED_SIZE), text)
        except FileExistsError:
            host.fail(Exit.LOCAL, f"{path}: File exists; its fingerprint is {load_identity(path).fingerprint}")
    _write_new(f"{path}.pub", format_recipients(recipients), 0o644)
    prints = {str(recipient.kem): recipient.fingerprint for recipient in recipients.recipients}
    lines = [f"{made.fingerprint} {getpass.getuser()}", *(f"# {kem} {text}" for kem, text in prints.items())]
    host.emit({"file": str(path), "fingerprint": made.fingerprint, "fingerprints": prints}, "\n".join(lines))


async def _trust(host: Host, url: str, fingerprint: str | None, access: Access) -> None:
    import netfs  # noqa: PLC0415 - the client is loaded by the commands that need it
    from netfs.fs.connect import server_fingerprint  # noqa: PLC0415
    from transport.env import system_env  # noqa: PLC0415
    from transport.security import KnownHosts  # noqa: PLC0415

    place = remote_place(url)
    assert place.endpoint is not None
    if not place.endpoint.startswith(SECURE):
        host.fail(Exit.USAGE, f"{url}: only a server at netfs:// or netfs+rdmas:// has a key")
    identity = own_identity(access)
    if identity is None:
        host.fail(Exit.LOCAL, "first make an identity for yourself: netfs keygen --identity")
    try:
        where = netfs.parse_url(place.endpoint)
    except ValueError as error:
        host.fail(Exit.USAGE, str(error))
    with failing(Exit.REMOTE, place.endpoint):
        found = await server_fingerprint(where, identity, system_env())
    hosts = KnownHosts(access.known_hosts or user_file("known_hosts"))
    with failing(Exit.LOCAL):
        known = hosts.fingerprints(where.peer)
        if fingerprint is not None and found != fingerprint:
            host.fail(Exit.NO, f"{place}: its key is {found}")
        if known and found not in known:
            host.fail(Exit.NO, f"{place}: its key is {found}, not the one in {hosts.path}; remove that line if it has a new one")
        if not known:
            hosts.remember(where.peer, found)
    host.emit({"url": place.endpoint, "fingerprint": found, "file": str(hosts.path)}, f"{where.peer} has the key {found}")
