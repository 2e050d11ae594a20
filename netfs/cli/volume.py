"""Trio shell. `netfs volume`: make a directory an encrypted volume, and say who may open it.

Owns no memory.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place
from netfs.cli.host import CommandError, Exit, Host, failing
from netfs.cli.place import Place, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from crypto.slots import Kdf, OwnerSecret, Recipient
    from crypto.volume import Header, OpenVolume
    from netfs.cli.unlocking import AnySecret
    from netfs.fs.client import Client
    from netfs.fs.volumes import Found

__all__ = ["register"]

RECIPIENTS_MAX = 64 << 10
EXAMPLE = "netfs://127.0.0.1:7777/vault"


@Parameter(name="*")
@dataclass(frozen=True)
class Costs:
    """What a passphrase's derivation costs, and with it each guess at the passphrase.

    Args:
        memory_mib: memory of Argon2id in MiB.
        passes: passes over it.
        lanes: lanes.
    """

    memory_mib: int = 64
    passes: int = 3
    lanes: int = 4

    def kdf(self) -> "Kdf":
        """Return the costs. Raises: CommandError when they are out of bounds."""
        from crypto.errors import CryptoError  # noqa: PLC0415 - cryptography takes a while to load
        from crypto.slots import Kdf  # noqa: PLC0415

        kdf = Kdf(self.memory_mib << 10, self.passes, self.lanes)
        try:
            kdf.check()
        except CryptoError as error:
            raise CommandError(Exit.USAGE, str(error)) from None
        return kdf


DEFAULT_COSTS = Costs()
NewPassphraseFd = Annotated[int | None, Parameter(help="read the new passphrase from this file descriptor.")]
NewKeyFile = Annotated[str | None, Parameter(help="let this key file open the volume from now on, in place of a passphrase.")]


def register(host: Host) -> None:
    """Add the commands."""
    group = host.group(
        "volume",
        "Make a directory of a server an encrypted volume, and say who may open it.",
        [
            "netfs volume init netfs://127.0.0.1:7777/vault",
            "netfs cp -r --passphrase secrets netfs://127.0.0.1:7777/vault",
        ],
    )

    async def init(url: str, /, *, root: bool = False, costs: Costs = DEFAULT_COSTS, access: Access = ANYBODY) -> None:
        """Make a new or empty directory a volume that opens with a passphrase, or with --key-file.

        The server keeps a header in the directory, and no key. Note the fingerprint: it proves that a volume is this one.

        Args:
            url: the directory.
            root: keep a root over the volume, by which also old states of files are noticed that a client has never seen;
                changes then go one after the other.
        """
        await init_volume(host, remote_place(url), costs, access, rooted=root)

    async def info(url: str, /, *, access: Access = ANYBODY) -> None:
        """Show what the header of a volume says. It is verified only if the volume is opened too, as by --passphrase.

        Args:
            url: the directory, or anything below it.
        """
        await show_volume(host, remote_place(url), access)

    async def verify(url: str, /, *, access: Access = ANYBODY) -> int:
        """Verify the header of a volume, and every name and record in it, but not the content of files; that is netfs fsck.

        Args:
            url: the directory, or anything below it.
        """
        from netfs.cli.fsck import check  # noqa: PLC0415

        return await check(host, url, access, content=False)

    async def accept_rollback(url: str, /, *, yes: bool = False, access: Access = ANYBODY) -> None:
        """Believe what the server shows from now on, though it is older than what you have seen: after a backup was restored.

        Nobody can tell a restored backup from a server that deceives you. What you have seen of the volume is forgotten, which
        is noted with the time.

        Args:
            url: the directory, or anything below it.
            yes: do not ask.
        """
        from netfs.cli.rollback import accept  # noqa: PLC0415

        await accept(host, remote_place(url), access, yes=yes)

    host.command(verify, name="verify", examples=[f"netfs volume verify --passphrase {EXAMPLE}"], under=group)
    host.command(
        accept_rollback, name="accept-rollback", examples=[f"netfs volume accept-rollback --passphrase {EXAMPLE}"], under=group
    )
    host.command(init, name="init", examples=[f"netfs volume init {EXAMPLE}"], under=group)
    host.command(info, name="info", examples=[f"netfs volume info {EXAMPLE}"], under=group)
    register_recipients(host, group)
    register_keys(host, group)


def register_recipients(host: Host, group: App) -> None:
    async def add_recipient(url: str, file: str, /, *, kem: str = "xwing", access: Access = ANYBODY) -> None:
        """Let somebody open the volume with an identity; who has the volume's passphrase or key remains its owner.

        Args:
            url: the directory.
            file: their public keys, as netfs keygen wrote them to identity.pub; compare the fingerprint with theirs.
            kem: xwing, which also withstands quantum computers, or x25519.
        """
        recipient = read_recipient(file, kem)
        await change(
            host, url, access, lambda volume, _: partial(volume.with_recipient, recipient), recipient=recipient.fingerprint
        )

    async def remove_recipient(url: str, fingerprint: str, /, *, access: Access = ANYBODY) -> None:
        """Let a recipient open no file that is made from now on; the volume gets a new key, as by rotate.

        A file that was there before keeps its own key, which they may have taken along; netfs volume reencrypt gives it another.

        Args:
            url: the directory.
            fingerprint: of the recipient, as netfs volume info shows it.
        """

        def prepare(volume: "OpenVolume", secret: "OwnerSecret") -> "Callable[[], Header]":
            slots = volume.header.recipient_slots
            mine = [slot.recipient for slot in slots if slot.recipient.fingerprint == fingerprint]
            if not mine:
                host.fail(Exit.NO, f"{url}: not open to a recipient {fingerprint}")
            return partial(volume.rotated, secret, fresh(), without=mine[0])

        await change(host, url, access, prepare, recipient=fingerprint)

    add, remove = f"netfs volume add-recipient {EXAMPLE} bob.pub", f"netfs volume remove-recipient {EXAMPLE} 7d5d…e8fa"
    host.command(add_recipient, name="add-recipient", examples=[add], under=group)
    host.command(remove_recipient, name="remove-recipient", examples=[remove], under=group)


def register_keys(host: Host, group: App) -> None:
    async def passwd(
        url: str,
        /,
        *,
        new_passphrase_fd: NewPassphraseFd = None,
        new_key_file: NewKeyFile = None,
        costs: Costs = DEFAULT_COSTS,
        access: Access = ANYBODY,
    ) -> None:
        """Change the passphrase of a volume. No file is touched; if the old one is known to others, say netfs volume rotate too.

        Args:
            url: the directory.
        """
        new = await new_secret(
            replace(access, key_file=new_key_file, passphrase_fd=new_passphrase_fd, read=[]), "new passphrase: "
        )
        kdf = costs.kdf()
        await change(host, url, access, lambda volume, _: partial(volume.with_owner_secret, new, kdf, fresh()))

    async def rotate(url: str, /, *, access: Access = ANYBODY) -> None:
        """Give the volume a new key. Files written before stay readable, and come under the new key when they are next changed.

        Args:
            url: the directory.
        """
        await change(host, url, access, lambda volume, secret: partial(volume.rotated, secret, fresh()))

    async def reencrypt(url: str, /, *, access: Access = ANYBODY) -> int:
        """Write every file anew under a fresh key, after rotate or remove-recipient, so that keys somebody kept open nothing.

        Each file is copied beside itself, and the copy takes its place when it is whole; so nobody else should be at work on
        the files, and there must be room for the largest. What cannot be copied stays and is listed; the exit code is 1 then.

        Args:
            url: the directory, or anything below it.
        """
        return await renew_files(host, remote_place(url), access)

    host.command(reencrypt, name="reencrypt", examples=[f"netfs volume reencrypt --passphrase {EXAMPLE}"], under=group)
    host.command(passwd, name="passwd", examples=[f"netfs volume passwd {EXAMPLE}"], under=group)
    host.command(rotate, name="rotate", examples=[f"netfs volume rotate {EXAMPLE}"], under=group)


def fresh() -> "Callable[[int], bytes]":
    from transport.env import system_env  # noqa: PLC0415

    return system_env().nonces


async def new_secret(access: Access, prompt: str) -> "OwnerSecret":
    """Return the secret a volume shall open with: what the options say, or a passphrase asked for twice."""
    from crypto.slots import Identity  # noqa: PLC0415 - cryptography takes a while to load
    from netfs.cli.unlocking import ask_passphrase, secret_of  # noqa: PLC0415

    if access.key_file is None and access.passphrase_fd is None:
        return await ask_passphrase(prompt, twice=True)
    secret = await secret_of(replace(access, passphrase=False))
    if isinstance(secret, Identity):
        raise CommandError(Exit.USAGE, "an identity cannot own a volume; give a key file or a passphrase, and add the identity")
    return secret


def read_recipient(file: str, kem: str) -> "Recipient":
    from crypto.errors import CryptoError  # noqa: PLC0415 - cryptography takes a while to load
    from crypto.slots import parse_recipients  # noqa: PLC0415

    with failing(Exit.LOCAL, file), Path(file).open("rb") as stream:
        content = stream.read(RECIPIENTS_MAX + 1)
    try:
        found = {str(each): recipient for each, recipient in parse_recipients(content).items()}
    except CryptoError as error:
        raise CommandError(Exit.LOCAL, f"{file}: {error}") from None
    if kem not in found:
        raise CommandError(Exit.USAGE, f"{file}: no key for {kem} in it, only for {' and '.join(found)}")
    return found[kem]


async def init_volume(host: Host, place: Place, costs: Costs, access: Access, *, rooted: bool) -> None:
    from crypto.volume import new_volume  # noqa: PLC0415 - cryptography takes a while to load
    from netfs.cli.known_volumes import Known, KnownVolumes  # noqa: PLC0415
    from netfs.fs.volumes import create_header, find_header  # noqa: PLC0415
    from transport.user_files import user_file  # noqa: PLC0415

    kdf = costs.kdf()
    known = KnownVolumes(user_file("known_volumes"))
    async with connected(place, without_secret(access)) as client:
        with failing(Exit.REMOTE, str(place)):
            above = await find_header(client, place.path)
            if above is not None:
                host.fail(Exit.NO, f"{Place(place.endpoint, above.path)}: is a volume already")
        secret = await new_secret(access, "new passphrase: ")
        header = await client.env.run_blocking(partial(new_volume, secret, client.env.nonces, kdf=kdf, rooted=rooted))
        with failing(Exit.REMOTE, str(place)):
            if place.path != "/":
                await client.mkdir(place.path, exist_ok=True)
            await create_header(client, place.path, header)
    known.remember(str(place), Known(header.fingerprint, header.scope.epoch))
    host.emit(described(place, header, verified=True), f"fingerprint {header.fingerprint.hex()}")


async def show_volume(host: Host, place: Place, access: Access) -> None:
    verified = access.key_file is not None or access.passphrase_fd is not None or access.passphrase
    if verified:
        async with opened(place, access) as (_, found, _, _):
            pass
    else:
        async with connected(place, access) as client:
            found = await found_at(client, place)
    top = Place(place.endpoint, found.path)
    what = described(top, found.header, verified=verified)
    lines = [str(top), *(f"  {name:<12} {what[name]}" for name in ("fingerprint", "epoch", "freshness", "suites", "opens_with"))]
    lines += [f"  {'recipient':<12} {slot.recipient.fingerprint} ({slot.recipient.kem})" for slot in found.header.recipient_slots]
    if not verified:
        lines.append("  not verified: this is what the server says")
    host.emit(what, "\n".join(lines))


async def change(
    host: Host,
    url: str,
    access: Access,
    prepare: "Callable[[OpenVolume, OwnerSecret], Callable[[], Header]]",
    **told: str,
) -> None:
    """Open a volume, make another header and store it."""
    from crypto.errors import CryptoError  # noqa: PLC0415 - cryptography takes a while to load
    from crypto.slots import Identity  # noqa: PLC0415
    from netfs.cli.known_volumes import Known, KnownVolumes  # noqa: PLC0415
    from netfs.fs.volumes import replace_header  # noqa: PLC0415
    from transport.user_files import user_file  # noqa: PLC0415

    place = remote_place(url)
    async with opened(place, access) as (client, found, volume, secret):
        top = Place(place.endpoint, found.path)
        if isinstance(secret, Identity):
            host.fail(Exit.NO, f"{top}: only its owner, with passphrase or key file, can change it")
        try:
            header = await client.env.run_blocking(prepare(volume, secret))
        except (CryptoError, ValueError) as error:
            raise CommandError(Exit.NO, f"{top}: {error}") from None
        with failing(Exit.REMOTE, str(top)):
            await replace_header(client, found, header)
    KnownVolumes(user_file("known_volumes")).remember(str(top), Known(header.fingerprint, header.scope.epoch))
    host.emit({**described(top, header, verified=True), **told})


async def renew_files(host: Host, place: Place, access: Access) -> int:
    """Write files anew. Returns: the exit code."""
    from netfs.fs.reencrypt import reencrypt  # noqa: PLC0415 - the client is loaded by the commands that need it

    if access.key_file is None and access.passphrase_fd is None and not access.passphrase:
        host.fail(Exit.USAGE, f"{place}: only what is encrypted can be encrypted anew; say --passphrase or --key-file")
    async with connected(place, access) as client:
        with failing(Exit.REMOTE, str(place)), host.progress(None, "writing anew") as bar:

            def told(path: str, count: int) -> None:
                bar.say(path)
                bar.expect(count)
                bar.advance(count)

            done = await reencrypt(client, place.path, told)
    failed = [{"path": path, "reason": error.strerror or str(error)} for path, error in done.failed]
    lines = [f"{printable(each['path'])}: {each['reason']}" for each in failed]
    lines.append(
        f"{done.files:,} files, {done.bytes:,} bytes written anew" + (f"; {len(failed):,} as they were" if failed else "")
    )
    host.emit({"files": done.files, "bytes": done.bytes, "failed": failed}, "\n".join(lines))
    return Exit.NO if failed else Exit.DONE


def without_secret(access: Access) -> Access:
    """Return the options of a connection that opens no volume."""
    return replace(access, key_file=None, passphrase=False, passphrase_fd=None)


async def found_at(client: "Client", place: Place) -> "Found":
    from netfs.fs.volumes import find_header  # noqa: PLC0415 - cryptography takes a while to load

    with failing(Exit.REMOTE, str(place)):
        found = await find_header(client, place.path)
    if found is None:
        raise CommandError(Exit.REMOTE, f"{place}: not in a volume (see netfs volume init)")
    return found


@asynccontextmanager
async def opened(place: Place, access: Access) -> "AsyncIterator[tuple[Client, Found, OpenVolume, AnySecret]]":
    """Open a volume, and leave the client one of plain files."""
    from netfs.cli.unlocking import open_known, secret_of  # noqa: PLC0415 - cryptography takes a while to load

    secret = await secret_of(access)
    async with connected(place, without_secret(access)) as client:
        found = await found_at(client, place)
        volume = await open_known(client, Place(place.endpoint, found.path), found, secret, access.fingerprint)
        yield client, found, volume, secret


def described(top: Place, header: "Header", *, verified: bool) -> dict[str, object]:
    kdf = header.owner_slot.kdf
    return {
        "url": str(top),
        "fingerprint": header.fingerprint.hex(),
        "volume": header.scope.vol_id.hex(),
        "epoch": header.scope.epoch,
        "freshness": "root" if header.rooted else "marks",
        "suites": ", ".join(suite.name for suite in header.suites),
        "opens_with": f"passphrase (Argon2id, {kdf.memory_kib >> 10} MiB, {kdf.passes} passes, {kdf.lanes} lanes)"
        if kdf
        else "key file",
        "recipients": [
            {"fingerprint": slot.recipient.fingerprint, "kem": str(slot.recipient.kem)} for slot in header.recipient_slots
        ],
        "verified": verified,
    }
