"""Trio shell. `netfs cp` and `netfs sync`: files and folders to a server, from it, or from one to another.

Owns no memory; the copy engine's workers own their buffers.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import trio
from cyclopts import Parameter

from netfs.cli.dialing import ANYBODY, Access, connected, place_of, tracing
from netfs.cli.host import CommandError, Exit, Host
from netfs.cli.place import Place, printable

if TYPE_CHECKING:
    from netfs.cli.how import How, Totals
    from netfs.cli.sides import Item, Side

__all__ = ["register"]

MOST_JOBS = 64
MOST_RETRIES = 16


Included = Annotated[
    tuple[str, ...], Parameter(help="take only files that match this pattern, as *.jpg or docs/**; may be said again.")
]
Excluded = Annotated[tuple[str, ...], Parameter(help="leave out what matches this pattern; may be said again.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """What cp and sync have in common."""

    jobs: Annotated[int, Parameter(alias="-j", help="how many pieces travel at a time, 8 by default.")] = 8
    include: Included = ()
    exclude: Excluded = ()
    verify: Annotated[bool, Parameter(help="read each file back, and compare, before it gets its name.")] = False
    resume: Annotated[bool, Parameter(help="keep what an interrupted copy has carried; the same command goes on from there.")] = (
        False
    )
    checksum: Annotated[
        bool, Parameter(alias="-c", help="leave out what has the same content there, whatever its time; all of it is read.")
    ] = False
    links: Annotated[bool, Parameter(alias="-l", help="copy symlinks as symlinks; else they are left out.")] = False
    bwlimit: Annotated[
        str | None,
        Parameter(
            env_var="NETFS_BWLIMIT",
            help='most bytes a second, as 500k or 10M; or by the time of day, as "08:00,512k 19:00,10M 23:00,off".',
        ),
    ] = None
    retries: Annotated[
        int, Parameter(env_var="NETFS_RETRIES", help="how often what failed is tried again, after 1, 2, 4, … seconds.")
    ] = 0
    dry_run: Annotated[bool, Parameter(alias="-n", help="say what would be done, and do nothing.")] = False

    def how(self, *, newer: bool = False, delete: bool = False) -> "How":
        """Return what the copy engine needs to know. Raises: CommandError."""
        from netfs.cli.carrying import PIECE  # noqa: PLC0415
        from netfs.cli.filters import Filters  # noqa: PLC0415
        from netfs.cli.how import How  # noqa: PLC0415
        from netfs.cli.journal import Journals  # noqa: PLC0415
        from netfs.cli.pace import NO_RATE, Pace, parse_timetable  # noqa: PLC0415
        from transport.user_files import user_state  # noqa: PLC0415

        if not 1 <= self.jobs <= MOST_JOBS:
            raise CommandError(Exit.USAGE, f"--jobs is from 1 to {MOST_JOBS}")
        if not 0 <= self.retries <= MOST_RETRIES:
            raise CommandError(Exit.USAGE, f"--retries is from 0 to {MOST_RETRIES}")
        try:
            rates = NO_RATE if self.bwlimit is None else parse_timetable(self.bwlimit)
        except ValueError as error:
            raise CommandError(Exit.USAGE, f"--bwlimit: {error}") from None
        journals = Journals(user_state("copies"), PIECE) if self.resume else None
        return How(
            Filters(self.include, self.exclude), Pace(rates), self.dry_run, self.verify, newer or self.resume or self.checksum,
            self.checksum, delete, self.links, journals, self.retries,
        )  # fmt: skip


NO_OPTIONS = Options()


def register(host: Host) -> None:
    """Add the commands."""
    register_cp(host)
    register_sync(host)
    register_verify(host)


def register_cp(host: Host) -> None:
    """Add `netfs cp`."""

    async def cp(
        source: str,
        /,
        *more: str,
        recursive: Annotated[bool, Parameter(alias="-r")] = False,
        options: Options = NO_OPTIONS,
        access: Access = ANYBODY,
    ) -> int:
        """Copy files and folders to a server, from it, or between two.

        A file appears under its name only when it is complete. Permissions and times are kept, holes stay holes, symlinks are
        left out with a warning unless --links is said.

        Args:
            source: a path, or a URL (netfs://host:port/path, netfs+unix:///socket:/path).
            more: further sources, then the target: a folder that exists, or a new name.
            recursive: copy folders with all they hold.
        """
        if not more:
            host.fail(Exit.USAGE, "cp needs a source and a target")
        how = options.how()
        origins, target = [place_of(text) for text in (source, *more[:-1])], place_of(more[-1])
        started = trio.current_time()
        async with AsyncExitStack() as stack:
            traced = await stack.enter_async_context(tracing(access))
            sides = await open_sides([*origins, target], traced, stack)
            totals = await copy_all(host, origins, target, sides, recursive=recursive, jobs=options.jobs, how=how)
        return tell(host, totals, trio.current_time() - started)

    host.command(
        cp,
        name="cp",
        usage="netfs cp [OPTIONS] SOURCE... TARGET",
        examples=[
            "netfs cp report.pdf netfs://127.0.0.1:7777/",
            "netfs cp -r photos netfs://127.0.0.1:7777/backup",
            "netfs cp -r netfs://127.0.0.1:7777/backup/photos .",
            "netfs cp -r --exclude .git --exclude '*.o' --verify project netfs://127.0.0.1:7777/backup",
            "netfs cp --resume --bwlimit 10M disk.img netfs://127.0.0.1:7777/images/",
            "netfs cp --capture cp.pcapng report.pdf netfs+rdma://127.0.0.1:7778/",
            "netfs cp --key-file my.key secret.txt netfs://127.0.0.1:7777/vault/",
        ],
    )


def register_sync(host: Host) -> None:
    """Add `netfs sync`."""

    async def sync(
        source: str, target: str, /, *, delete: bool = False, options: Options = NO_OPTIONS, access: Access = ANYBODY
    ) -> int:
        """Make a folder hold what another one holds: what has the same size and time there already is not copied.

        Args:
            source: a folder, here or on a server.
            target: the folder that is to be like it; it is made if it is not there.
            delete: remove what is only in the target, after everything has arrived. What is excluded stays.
        """
        origin, final = place_of(source), place_of(target)
        how = options.how(newer=True, delete=delete)
        started = trio.current_time()
        async with AsyncExitStack() as stack:
            traced = await stack.enter_async_context(tracing(access))
            sides = await open_sides([origin, final], traced, stack)
            await both_folders(sides, origin, final)
            totals = await copy_all(host, [origin], final, sides, recursive=True, jobs=options.jobs, how=how, inside=True)
        return tell(host, totals, trio.current_time() - started)

    host.command(
        sync,
        name="sync",
        usage="netfs sync [OPTIONS] SOURCE TARGET",
        examples=[
            "netfs sync photos netfs://127.0.0.1:7777/photos",
            "netfs sync --dry-run --delete photos netfs://127.0.0.1:7777/photos",
            "netfs sync --delete --exclude '*.tmp' netfs://127.0.0.1:7777/photos photos",
        ],
    )


def register_verify(host: Host) -> None:
    """Add `netfs verify`."""

    async def verify(
        source: str,
        target: str,
        /,
        *,
        quick: Annotated[bool, Parameter(alias="-q")] = False,
        include: Included = (),
        exclude: Excluded = (),
        access: Access = ANYBODY,
    ) -> int:
        """Tell whether a folder holds what another one holds, byte by byte; what differs is printed, and the exit code is 1.

        Args:
            source: a folder, here or on a server.
            target: the folder that is to be like it.
            quick: believe that what has the same size and time is the same.
        """
        origin, final = place_of(source), place_of(target)
        options = Options(include=include, exclude=exclude, checksum=not quick, links=True, dry_run=True)
        async with AsyncExitStack() as stack:
            traced = await stack.enter_async_context(tracing(access))
            sides = await open_sides([origin, final], traced, stack)
            await both_folders(sides, origin, final)
            how = options.how(newer=True, delete=True)
            totals = await copy_all(host, [origin], final, sides, recursive=True, jobs=options.jobs, how=how, inside=True)
        for line in totals.skipped:
            host.warn(line.replace("is not copied", "is not compared"))
        for error in totals.failed:
            host.warn(str(error))
        rows = [{"why": why, "place": where} for why, where in totals.differing]
        lines = [f"{why:<9} {printable(where)}" for why, where in totals.differing]
        host.emit(
            {
                "same": totals.same,
                "differing": rows,
                "skipped": totals.skipped,
                "failed": [str(error) for error in totals.failed],
            },
            "\n".join([*lines, f"{totals.same:,} the same, {len(rows):,} not"]),
        )
        return totals.failed[0].code if totals.failed else Exit.NO if rows else Exit.DONE

    host.command(
        verify,
        name="verify",
        usage="netfs verify [OPTIONS] SOURCE TARGET",
        examples=[
            "netfs verify photos netfs://127.0.0.1:7777/photos",
            "netfs verify --exclude '*.tmp' --key-file my.key netfs://127.0.0.1:7777/vault backup",
        ],
    )


async def both_folders(sides: "dict[str | None, Side]", origin: Place, target: Place) -> None:
    """Raise a CommandError unless the source is a folder, and the target is one or is not there."""
    from netfs.cli.sides import Kind  # noqa: PLC0415

    for place, needed in ((origin, True), (target, False)):
        found = await sides[place.endpoint].find(place)
        if found is None and needed:
            raise CommandError(Exit.REMOTE if place.remote else Exit.LOCAL, f"{place}: No such file or directory")
        if found is not None and found.kind is not Kind.DIRECTORY:
            raise CommandError(Exit.USAGE, f"{place}: not a directory")


async def open_sides(places: list[Place], access: Access, stack: AsyncExitStack) -> "dict[str | None, Side]":
    """Return a side for each endpoint among the places, one connection each; the last place is written to."""
    from netfs.cli.local_side import LocalSide  # noqa: PLC0415
    from netfs.cli.remote_side import RemoteSide  # noqa: PLC0415

    if not any(place.remote for place in places):
        raise CommandError(Exit.USAGE, "neither side is a URL; write netfs://host:port/path or netfs+unix:///socket:/path")
    sides: dict[str | None, Side] = {}
    beside = {place.endpoint: [other for other in places if other.endpoint == place.endpoint] for place in places}
    for place in places:
        if place.endpoint not in sides:
            changes = places[-1:] if place.endpoint == places[-1].endpoint else []
            sides[place.endpoint] = (
                RemoteSide(await stack.enter_async_context(connected(place, access, *beside[place.endpoint], changes=changes)))
                if place.remote
                else LocalSide()
            )
    return sides


async def copy_all(
    host: Host,
    origins: list[Place],
    target: Place,
    sides: "dict[str | None, Side]",
    *,
    recursive: bool,
    jobs: int,
    how: "How",
    inside: bool = False,
) -> "Totals":
    from netfs.cli.copying import copy_trees  # noqa: PLC0415
    from netfs.cli.how import Totals  # noqa: PLC0415
    from netfs.cli.local_side import is_link, led_to, lies_in, whole_path  # noqa: PLC0415
    from netfs.cli.sides import Kind  # noqa: PLC0415
    from transport.env import system_env  # noqa: PLC0415

    env = system_env()
    if not target.remote:
        target = await led_to(target)
    there = await sides[target.endpoint].find(target)
    if there is not None and there.kind is Kind.OTHER:
        host.fail(Exit.USAGE, f"{target}: a special file is not replaced; netfs cat writes to standard output")
    into = there is not None and there.kind is Kind.DIRECTORY
    if not into and (len(origins) > 1 or (there is not None and target.is_folder)):
        host.fail(Exit.USAGE, f"{target}: not a directory")
    work: dict[str | None, list[tuple[Place, Item, Place]]] = {}
    taken: dict[str, tuple[Place, Kind]] = {}
    for origin in origins:
        item = await sides[origin.endpoint].find(origin)
        if item is None:
            host.fail(Exit.REMOTE if origin.remote else Exit.LOCAL, f"{origin}: No such file or directory")
        if item.kind is Kind.DIRECTORY and not recursive:
            host.fail(Exit.USAGE, f"{origin}: is a directory; say -r to copy it")
        if item.kind is not Kind.DIRECTORY and target.is_folder and not into:
            host.fail(Exit.REMOTE if target.remote else Exit.LOCAL, f"{target}: No such directory")
        # A source without a name (the root of an export, `.`) is copied as what it holds.
        final = target.child(origin.name) if into and not inside and origin.name not in {"", ".", ".."} else target
        if lies_in(final, origin):
            host.fail(Exit.USAGE, f"{origin} cannot be copied onto or into itself")
        if how.delete and not how.dry and lies_in(origin, final) and admitted(origin, final, how):
            host.fail(Exit.USAGE, f"{origin} lies in {final}, and would be removed there")
        if item.kind is Kind.DIRECTORY and final is not target and await is_link(final):
            # It may have come with an earlier copy.
            host.fail(Exit.LOCAL, f"{final}: a symlink; to copy to where it leads, name that as the target")
        other, kind = taken.setdefault(whole_path(final), (origin, item.kind))
        if other != origin and {item.kind, kind} != {Kind.DIRECTORY}:
            host.fail(Exit.USAGE, f"{other} and {origin} would both become {final}")
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
                    how=how,
                )
            )
    return totals


def admitted(place: Place, top: Place, how: "How") -> bool:
    """Tell whether the filters take a folder that lies below another one."""
    from netfs.cli.local_side import whole_path  # noqa: PLC0415

    names = whole_path(place).removeprefix(whole_path(top).rstrip("/") + "/").split("/")
    return all(how.filters.admits("/".join(names[:depth]), is_directory=True) for depth in range(1, len(names) + 1))


def tell(host: Host, totals: "Totals", seconds: float) -> int:
    for line in totals.skipped:
        host.warn(line)
    for error in totals.failed:
        host.warn(str(error))
    text = "\n".join(printable(line) for line in totals.planned)
    host.emit(
        {
            "files": totals.files,
            "directories": totals.directories,
            "links": totals.links,
            "bytes": totals.bytes,
            "skipped": totals.skipped,
            "failed": [str(error) for error in totals.failed],
            "seconds": round(seconds, 3),
            "same": totals.same,
            "resumed": totals.resumed,
            "deleted": totals.deleted,
            "planned": totals.planned,
        },
        text,
    )
    if host.interactive and not totals.failed and not totals.planned:
        rate = totals.bytes / seconds / 1e6 if seconds > 0 else 0.0
        files = "1 file" if totals.files == 1 else f"{totals.files:,} files"
        more = (f", {totals.same:,} the same" if totals.same else "") + (
            f", {totals.deleted:,} removed" if totals.deleted else ""
        )
        more += f", {totals.resumed / 1e6:,.1f} MB were there" if totals.resumed else ""
        host.note(f"{files}, {totals.bytes / 1e6:,.1f} MB in {seconds:.1f} s ({rate:,.0f} MB/s){more}")
    return totals.failed[0].code if totals.failed else Exit.DONE
