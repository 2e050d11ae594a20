"""Trio shell. What every command of the client needs first: its arguments as places, its key, its trace, a client.

The key file is read here and parsed in `crypto`. Owns no memory.
"""

import errno
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from netfs.cli.host import CommandError, Exit, describe, failing
from netfs.cli.place import Place, parse_place
from netfs.cli.profiles import Profile, parse_profiles
from transport.user_files import user_file

if TYPE_CHECKING:
    from crypto.keys import VolumeKey
    from netfs.fs.client import Client
    from netfs.tracing import TraceFile
    from transport.rdma.capture import Capture

__all__ = [
    "ANYBODY", "VOLUME_HEADER", "Access", "CapturePath", "KeyFile", "TracePath", "connected", "open_capture_file",
    "open_trace_file", "own_identity", "place_of", "read_key", "remote_place", "tracing",
]  # fmt: skip

SECURE = ("netfs://", "netfs+rdmas://")
RDMA = ("netfs+rdma://", "netfs+rdmas://")
VOLUME_HEADER = ".netfs-volume"
"""As `crypto.volume` calls it, which takes a while to load."""
KeyFile = Annotated[
    str | None,
    Parameter(
        name="--key-file",
        env_var="NETFS_KEY_FILE",
        help="key of an encrypted folder, or what opens a volume: its key, or a volume identity (see netfs keygen).",
    ),
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


AuthorityFile = Annotated[
    str | None,
    Parameter(
        name="--ca",
        env_var="NETFS_CA",
        help="certificates of an authority that vouches for servers (PEM); --identity is then your key and certificate in PEM.",
    ),
]
PassphraseAsked = Annotated[bool, Parameter(name="--passphrase", help="ask for the passphrase of a volume.")]
PassphraseFd = Annotated[
    int | None, Parameter(name="--passphrase-fd", help="read the passphrase of a volume from this file descriptor.")
]
VolumeFingerprint = Annotated[
    str | None,
    Parameter(name="--fingerprint", help="the volume must have this one; else the one of ~/.config/netfs/known_volumes."),
]
CapturePath = Annotated[
    str | None,
    Parameter(name="--capture", help="record what passes over the wire in a file for Wireshark: *.pcapng."),
]
TracePath = Annotated[
    str | None,
    Parameter(name="--trace", help="record what happens in a file: *.txt, *.svg, or *.pftrace for ui.perfetto.dev."),
]
CacheDir = Annotated[
    str | None,
    Parameter(
        name="--cache-dir",
        env_var="NETFS_CACHE_DIR",
        help="keep what is read and written in this folder too, for the next time (see netfs cache); none by default.",
    ),
]


Hard = Annotated[
    bool,
    Parameter(
        name="--hard", negative="--soft", env_var="NETFS_HARD",
        help="when the connection is lost, wait for another for ever; --soft gives up after --timeout.",
    ),
]  # fmt: skip
Timeout = Annotated[
    float, Parameter(name="--timeout", env_var="NETFS_TIMEOUT", help="seconds without a connection after which to give up.")
]
Channels = Annotated[int, Parameter(name="--channels", env_var="NETFS_CHANNELS", help="connections side by side.")]

Roce = Annotated[
    bool,
    Parameter(name="--roce", negative="", env_var="NETFS_ROCE", help="of netfs+rdma://: by RoCE's rules instead of iWARP's."),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Access:
    """The options of every command that connects: key files, and how a volume is opened.

    read: what was read for them, so that a descriptor is read once and a person asked once. traced, captured: the trace and the
    capture, opened.
    """

    key_file: KeyFile = None
    identity: IdentityFile = None
    known_hosts: KnownHostsFile = None
    ca: AuthorityFile = None
    passphrase: PassphraseAsked = False
    passphrase_fd: PassphraseFd = None
    fingerprint: VolumeFingerprint = None
    trace: TracePath = None
    capture: CapturePath = None
    cache_dir: CacheDir = None
    hard: Hard = False
    timeout: Timeout = 60.0
    channels: Channels = 1
    roce: Roce = False
    read: Annotated[list[object], Parameter(parse=False)] = field(default_factory=list, repr=False)
    traced: Annotated[object, Parameter(parse=False)] = None
    inspect: Annotated[bool, Parameter(parse=False)] = False
    captured: Annotated[object, Parameter(parse=False)] = None


ANYBODY = Access()


def place_of(text: str) -> Place:
    """Return the place an argument names, or end the command with a usage error."""
    try:
        return parse_place(text, _profiles())
    except ValueError as error:
        raise CommandError(Exit.USAGE, str(error)) from None


def _profiles() -> dict[str, Profile]:
    """Return the user's profiles. Raises: CommandError for a config file that says nonsense."""
    path = user_file("netfs.toml")
    try:
        return parse_profiles(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise CommandError(Exit.LOCAL, describe(error, str(path))) from error
    except ValueError as error:
        raise CommandError(Exit.USAGE, f"{path}: {error}") from None


def with_profile(access: Access, place: Place) -> Access:
    """Return the options of a command with those of the place's profile, where the command line and environment say nothing."""
    if place.profile is None:
        return access
    said = {name: value for name, value in place.profile.options.items() if getattr(access, name) == getattr(ANYBODY, name)}
    return replace(access, **said)


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
    if access.ca is not None:
        return access.identity or str(user_file("identity"))
    path = access.identity or str(user_file("identity"))
    if access.identity is None and not Path(path).exists():
        return None
    from transport.security import load_identity  # noqa: PLC0415 - cryptography takes a while to load

    with failing(Exit.LOCAL, path):
        load_identity(path)
    return path


@asynccontextmanager
async def open_trace_file(path: str | None) -> AsyncIterator["TraceFile | None"]:
    """Open a trace for the length of a block, if there is a path; what is wrong with the file ends the command."""
    if path is None:
        yield None
        return
    from netfs.tracing import open_trace  # noqa: PLC0415 - loaded by those who trace

    with ExitStack() as stack:
        try:
            trace = stack.enter_context(open_trace(path))
        except (ValueError, ImportError) as error:
            raise CommandError(Exit.USAGE, str(error)) from None
        except OSError as error:
            raise CommandError(Exit.LOCAL, describe(error, path)) from error
        yield trace
        with failing(Exit.LOCAL, path):
            stack.close()


@asynccontextmanager
async def open_capture_file(path: str | None) -> AsyncIterator["Capture | None"]:
    """Open a capture for the length of a block, if there is a path; what is wrong with the file ends the command."""
    if path is None:
        yield None
        return
    from transport.rdma.capture_file import open_capture  # noqa: PLC0415 - loaded by those who capture

    with ExitStack() as stack:
        try:
            capture = stack.enter_context(open_capture(path))
        except ValueError as error:
            raise CommandError(Exit.USAGE, str(error)) from None
        except OSError as error:
            raise CommandError(Exit.LOCAL, describe(error, path)) from error
        yield capture
        with failing(Exit.LOCAL, path):
            stack.close()


@asynccontextmanager
async def tracing(access: Access) -> AsyncIterator[Access]:
    """Open trace and capture of a command that connects more than once; what this gives goes to each `connected`."""
    if access.trace is None and access.capture is None:
        yield access
        return
    async with open_trace_file(access.trace) as trace, open_capture_file(access.capture) as capture:
        yield replace(access, trace=None, traced=trace or access.traced, capture=None, captured=capture or access.captured)


@asynccontextmanager
async def connected(place: Place, access: Access, *others: Place, changes: Iterable[Place] = ()) -> AsyncIterator["Client"]:
    """Connect to the server of `place`; a failure to do so names the endpoint, as the trace does. `others`: used there too.

    changes: where something will be written; without a key those that lie in a volume end the command.
    """
    access = with_profile(access, place)
    if access.trace is not None or access.capture is not None:
        async with tracing(access) as traced, connected(place, traced, *others, changes=changes) as client:
            yield client
        return
    import netfs  # noqa: PLC0415 - the client is loaded by the commands that need it
    from iov.probe import Probe  # noqa: PLC0415
    from netfs.tracing.output import TraceFile  # noqa: PLC0415

    assert place.endpoint is not None
    identity = own_identity(access) if place.endpoint.startswith(SECURE) else None
    capture: Capture | None = access.captured  # type: ignore[assignment]
    probe = Probe(access.traced.sink(place.endpoint)) if isinstance(access.traced, TraceFile) else None
    if access.roce and not place.endpoint.startswith(RDMA):
        raise CommandError(Exit.USAGE, f"--roce is for netfs+rdma:// URLs, not for {place.endpoint}")
    open_one = netfs.open_client(
        place.endpoint + ("/?roce" if access.roce else ""), identity=identity, known_hosts=access.known_hosts, ca=access.ca,
        probe=probe, capture=capture, cache=access.cache_dir,
        hard=access.hard, timeout=access.timeout, channels=access.channels,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        if access.key_file is None and access.passphrase_fd is None and not access.passphrase:
            secret = None
        else:
            from netfs.cli.unlocking import keys_of, secret_of  # noqa: PLC0415 - cryptography takes a while to load

            secret = await secret_of(access)
        try:
            with failing(Exit.REMOTE, place.endpoint):
                client = await stack.enter_async_context(open_one)
        except ValueError as error:
            raise CommandError(Exit.USAGE, str(error)) from None
        if secret is not None:
            keys, top = await keys_of(client, place, others, secret, access.fingerprint)
            with failing(Exit.REMOTE, str(place)):
                client.use_keys(keys, top=top, freshness="inspect" if access.inspect else "local")
        else:
            for changed in changes:
                await refuse_volume(client, changed)
        ended = False
        try:
            yield client
            ended = True
            await client.aclose()
        except OSError as error:
            if not ended:
                raise
            raise CommandError(Exit.REMOTE, describe(error, place.endpoint)) from error


async def refuse_volume(client: "Client", place: Place) -> None:
    """End the command when a place lies in an encrypted volume, whose key is not there.

    What is written without the key is plaintext on the server, and damage to whoever has the key. A header that was kept
    elsewhere may be put back.
    """
    if place.name.startswith(VOLUME_HEADER):
        return
    names = place.path.strip("/").split("/")
    for depth in range(len(names), -1, -1):
        folder = "/".join(("", *names[:depth])) if names[0] else ""
        try:
            with failing(Exit.REMOTE, str(place)):
                await client.stat(f"{folder}/{VOLUME_HEADER}")
        except CommandError as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError, PermissionError)):
                continue
            raise
        what = f"{place}: in the encrypted volume {Place(place.endpoint, folder or '/')}"
        raise CommandError(Exit.REMOTE, f"{what}: {os.strerror(errno.ENOKEY)}; say --passphrase or --key-file")
