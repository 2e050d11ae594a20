"""Trio shell. `netfs cp`: files and folders to a server, from it, or from one to another.

Owns no memory; the copy engine's workers own their buffers.
"""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import trio
from cyclopts import Parameter

from netfs.cli.dialing import ANYBODY, Access, connected, place_of, tracing
from netfs.cli.host import CommandError, Exit, Host
from netfs.cli.place import Place

if TYPE_CHECKING:
    from netfs.cli.copying import Totals
    from netfs.cli.sides import Item, Side

__all__ = ["register"]

MOST_JOBS = 64


def register(host: Host) -> None:
    """Add the command."""

    async def cp(
        source: str,
        /,
        *more: str,
        recursive: Annotated[bool, Parameter(alias="-r")] = False,
        jobs: Annotated[int, Parameter(alias="-j")] = 8,
        access: Access = ANYBODY,
    ) -> int:
        """Copy files and folders to a server, from it, or between two.

        A file appears under its name only when it is complete. Permissions and times are kept, symlinks left out with a warning.

        Args:
            source: a path, or a URL (netfs://host:port/path, netfs+unix:///socket:/path).
            more: further sources, then the target: a folder that exists, or a new name.
            recursive: copy folders with all they hold.
            jobs: how many pieces travel at a time, 8 by default.
        """
        if not more:
            host.fail(Exit.USAGE, "cp needs a source and a target")
        if not 1 <= jobs <= MOST_JOBS:
            host.fail(Exit.USAGE, f"--jobs is from 1 to {MOST_JOBS}")
        origins, target = [place_of(text) for text in (source, *more[:-1])], place_of(more[-1])
        started = trio.current_time()
        async with AsyncExitStack() as stack:
            traced = await stack.enter_async_context(tracing(access))
            sides = await open_sides([*origins, target], traced, stack)
            totals = await copy_all(host, origins, target, sides, recursive=recursive, jobs=jobs)
        return tell(host, totals, trio.current_time() - started)

    host.command(
        cp,
        name="cp",
        usage="netfs cp [OPTIONS] SOURCE... TARGET",
        examples=[
            "netfs cp report.pdf netfs://127.0.0.1:7777/",
            "netfs cp -r photos netfs://127.0.0.1:7777/backup",
            "netfs cp -r netfs://127.0.0.1:7777/backup/photos .",
            "netfs cp --capture cp.pcapng report.pdf netfs+rdma://127.0.0.1:7778/",
            "netfs cp --key-file my.key secret.txt netfs://127.0.0.1:7777/vault/",
        ],
    )


async def open_sides(places: list[Place], access: Access, stack: AsyncExitStack) -> "dict[str | None, Side]":
    """Return a side for each endpoint among the places, one connection each."""
    from netfs.cli.local_side import LocalSide  # noqa: PLC0415
    from netfs.cli.remote_side import RemoteSide  # noqa: PLC0415

    if not any(place.remote for place in places):
        raise CommandError(Exit.USAGE, "neither side is a URL; write netfs://host:port/path or netfs+unix:///socket:/path")
    sides: dict[str | None, Side] = {}
    beside = {place.endpoint: [other for other in places if other.endpoint == place.endpoint] for place in places}
    for place in places:
        if place.endpoint not in sides:
            sides[place.endpoint] = (
                RemoteSide(await stack.enter_async_context(connected(place, access, *beside[place.endpoint])))
                if place.remote
                else LocalSide()
            )
    return sides


async def copy_all(
    host: Host, origins: list[Place], target: Place, sides: "dict[str | None, Side]", *, recursive: bool, jobs: int
) -> "Totals":
    from netfs.cli.copying import Totals, copy_trees  # noqa: PLC0415
    from netfs.cli.sides import Kind  # noqa: PLC0415
    from transport.env import system_env  # noqa: PLC0415

    env = system_env()
    there = await sides[target.endpoint].find(target)
    into = there is not None and there.kind is Kind.DIRECTORY
    if not into and (len(origins) > 1 or (there is not None and target.is_folder)):
        host.fail(Exit.USAGE, f"{target}: not a directory")
    work: dict[str | None, list[tuple[Place, Item, Place]]] = {}
    for origin in origins:
        item = await sides[origin.endpoint].find(origin)
        if item is None:
            host.fail(Exit.REMOTE if origin.remote else Exit.LOCAL, f"{origin}: No such file or directory")
        if item.kind is Kind.DIRECTORY and not recursive:
            host.fail(Exit.USAGE, f"{origin}: is a directory; say -r to copy it")
        if item.kind is not Kind.DIRECTORY and target.is_folder and not into:
            host.fail(Exit.REMOTE if target.remote else Exit.LOCAL, f"{target}: No such directory")
        # A source without a name (the root of an export, `.`) is copied as what it holds.
        final = target.child(origin.name) if into and origin.name not in {"", ".", ".."} else target
        if origin.endpoint == final.endpoint and (final.path + "/").startswith(origin.path.rstrip("/") + "/"):
            host.fail(Exit.USAGE, f"{origin} cannot be copied onto or into itself")
        work.setdefault(origin.endpoint, []).append((origin, item, final))
    totals = Totals()
    with host.progress(None, "looking") as progress:
        for endpoint, jobs_there in work.items():
            totals.add(
                await copy_trees(
                    jobs_there,
                    sides[endpoint],
                    sides[target.endpoint],
                    workers=jobs,
                    measured=host.interactive,
                    progress=progress,
                    fresh_name=lambda: f".netfs-{env.nonces(8).hex()}.part",
                )
            )
    return totals


def tell(host: Host, totals: "Totals", seconds: float) -> int:
    for line in totals.skipped:
        host.warn(line)
    for error in totals.failed:
        host.warn(str(error))
    host.emit(
        {
            "files": totals.files,
            "directories": totals.directories,
            "bytes": totals.bytes,
            "skipped": totals.skipped,
            "failed": [str(error) for error in totals.failed],
            "seconds": round(seconds, 3),
        }
    )
    if host.interactive and not totals.failed:
        rate = totals.bytes / seconds / 1e6 if seconds > 0 else 0.0
        files = "1 file" if totals.files == 1 else f"{totals.files:,} files"
        host.note(f"{files}, {totals.bytes / 1e6:,.1f} MB in {seconds:.1f} s ({rate:,.0f} MB/s)")
    return totals.failed[0].code if totals.failed else Exit.DONE
