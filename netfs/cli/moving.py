"""Trio shell. `netfs mv` and `netfs ln`: other names for what is on a server.

Owns no memory.
"""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place, tracing
from netfs.cli.host import CommandError, Exit, Host, failing
from netfs.cli.place import Place

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["register"]


def register(host: Host) -> None:
    """Add the commands."""
    register_mv(host)
    register_ln(host)


def register_mv(host: Host) -> None:
    """Add `netfs mv`."""

    async def mv(
        source: str,
        /,
        *more: str,
        no_clobber: Annotated[bool, Parameter(alias="-n")] = False,
        exchange: bool = False,
        access: Access = ANYBODY,
    ) -> None:
        """Rename, or move into another directory of the same server; what had the new name is replaced.

        Args:
            source: a file or directory on a server.
            more: further ones, then the target: a directory that exists, or a new name.
            no_clobber: refuse to replace.
            exchange: give each the other's name.
        """
        if not more:
            host.fail(Exit.USAGE, "mv needs a source and a target")
        if exchange and (no_clobber or len(more) > 1):
            host.fail(Exit.USAGE, "--exchange is for two names, and replaces nothing")
        places = [remote_place(text) for text in (source, *more)]
        sources, target = places[:-1], places[-1]
        for place in sources:
            if place.endpoint != target.endpoint:
                host.fail(Exit.USAGE, f"{place}: mv stays on one server; use cp, then rm")
        moved = []
        async with tracing(access) as traced, connected(target, traced, changes=places) as client:
            into = not exchange and await is_directory(client, target)
            if len(sources) > 1 and not into:
                raise CommandError(Exit.NO, f"{target}: not a directory")
            for place in sources:
                new = target.child(place.name) if into else target
                with failing(Exit.REMOTE, f"{place} to {new}"):
                    await client.rename(place.path, new.path, replace=not no_clobber, exchange=exchange)
                moved.append({"from": str(place), "to": str(new)})
        host.emit({"moved": moved})

    host.command(
        mv,
        name="mv",
        usage="netfs mv [OPTIONS] URL... TARGET",
        examples=[
            "netfs mv netfs://127.0.0.1:7777/draft.txt netfs://127.0.0.1:7777/final.txt",
            "netfs mv -n netfs://127.0.0.1:7777/a netfs://127.0.0.1:7777/b netfs://127.0.0.1:7777/folder/",
        ],
    )


def register_ln(host: Host) -> None:
    """Add `netfs ln`."""

    async def ln(
        target: str, url: str, /, *, symbolic: Annotated[bool, Parameter(alias="-s")] = False, access: Access = ANYBODY
    ) -> None:
        """Give a file on a server one more name, or make a symbolic link there.

        Args:
            target: the file; with --symbolic any text, stored as it is.
            url: the new name.
            symbolic: make a symbolic link.
        """
        place = remote_place(url)
        async with tracing(access) as traced, connected(place, traced, changes=[place]) as client:
            if symbolic:
                with failing(Exit.REMOTE, str(place)):
                    await client.symlink(target, place.path)
            else:
                existing = remote_place(target)
                if existing.endpoint != place.endpoint:
                    raise CommandError(Exit.USAGE, f"{existing}: both names are on one server; use -s for a symbolic link")
                with failing(Exit.REMOTE, f"{existing} as {place}"):
                    await client.link(existing.path, place.path)
        host.emit({"target": target, "link": str(place), "symbolic": symbolic})

    host.command(
        ln,
        name="ln",
        usage="netfs ln [OPTIONS] TARGET URL",
        examples=[
            "netfs ln netfs://127.0.0.1:7777/a netfs://127.0.0.1:7777/b",
            "netfs ln -s ../shared/a netfs://127.0.0.1:7777/folder/b",
        ],
    )


async def is_directory(client: "Client", place: Place) -> bool:
    """Tell whether a place is a directory. Raises: CommandError for one written with a slash that is none."""
    from transport.messages import FileType  # noqa: PLC0415

    with failing(Exit.REMOTE, str(place)):
        try:
            found = (await client.stat(place.path)).type is FileType.DIRECTORY
        except FileNotFoundError:
            found = False
    if place.is_folder and not found:
        raise CommandError(Exit.NO, f"{place}: not a directory")
    return found
