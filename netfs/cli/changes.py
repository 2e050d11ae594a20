"""Trio shell. `netfs rm` and `netfs mkdir`: names that come and go on a server.

Owns no memory.
"""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Final

import trio
from cyclopts import Parameter

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place, tracing
from netfs.cli.host import CommandError, Exit, Host, Progress, failing
from netfs.cli.place import Place

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["register", "remove_tree"]

SIDE_BY_SIDE: Final = 8
"""Names of a directory that are removed at a time."""


def register(host: Host) -> None:
    """Add the commands."""
    register_rm(host)
    register_mkdir(host)


def register_rm(host: Host) -> None:
    """Add `netfs rm`."""

    async def rm(
        url: str,
        /,
        *more: str,
        recursive: Annotated[bool, Parameter(alias="-r")] = False,
        access: Access = ANYBODY,
    ) -> int:
        """Remove files, or whole directories with -r.

        Each that cannot be removed is told, and the others are removed all the same.

        Args:
            url: a file, or with --recursive a directory.
            more: further ones.
            recursive: remove directories with all they hold.
        """
        places = [remote_place(text) for text in (url, *more)]
        for place in places:
            if place.path == "/":
                host.fail(Exit.USAGE, f"{place}: the root of an export cannot be removed")
        removed: list[str] = []
        failed: list[CommandError] = []
        async with AsyncExitStack() as stack:
            traced = await stack.enter_async_context(tracing(access))
            clients: dict[str | None, Client] = {}
            for place in places:
                if place.endpoint not in clients:
                    clients[place.endpoint] = await stack.enter_async_context(connected(place, traced))
                try:
                    with host.progress(None, "removing", "names") as progress:
                        await remove(clients[place.endpoint], place, recursive=recursive, progress=progress)
                except CommandError as error:
                    if isinstance(error.__cause__, ConnectionError):
                        raise
                    host.warn(str(error))
                    failed.append(error)
                else:
                    removed.append(str(place))
        host.emit({"removed": removed, "failed": [str(error) for error in failed]})
        return failed[0].code if failed else Exit.DONE

    host.command(
        rm,
        name="rm",
        usage="netfs rm [OPTIONS] URL...",
        examples=["netfs rm netfs://127.0.0.1:7777/old.txt", "netfs rm -r netfs://127.0.0.1:7777/backup/2024"],
    )


def register_mkdir(host: Host) -> None:
    """Add `netfs mkdir`."""

    async def mkdir(
        url: str, /, *more: str, parents: Annotated[bool, Parameter(alias="-p")] = False, access: Access = ANYBODY
    ) -> None:
        """Create directories.

        Args:
            url: the new directory.
            more: further ones.
            parents: create what is missing above it, and do not mind if it exists.
        """
        places = [remote_place(text) for text in (url, *more)]
        async with tracing(access) as traced:
            for place in places:
                async with connected(place, traced, changes=[place]) as client:
                    with failing(Exit.REMOTE, str(place)):
                        await client.mkdir(place.path, parents=parents, exist_ok=parents)
        host.emit({"created": [str(place) for place in places]})

    host.command(
        mkdir,
        name="mkdir",
        usage="netfs mkdir [OPTIONS] URL...",
        examples=["netfs mkdir netfs://127.0.0.1:7777/backup", "netfs mkdir -p netfs://127.0.0.1:7777/a/b/c"],
    )


async def remove(client: "Client", place: Place, *, recursive: bool, progress: Progress) -> None:
    """Remove what is at a place. Raises: CommandError."""
    from transport.messages import FileType  # noqa: PLC0415

    with failing(Exit.REMOTE, str(place)):
        if (await client.stat(place.path)).type is not FileType.DIRECTORY:
            await client.unlink(place.path)
        elif recursive:
            await remove_tree(client, place.path, progress)
        else:
            raise CommandError(Exit.NO, f"{place}: is a directory; say -r to remove it with all it holds")


async def remove_tree(client: "Client", path: str, progress: Progress) -> None:
    """Remove a directory and all below it, several names at a time, as far as it gets. Raises: the OSError of one of them."""
    names = [entry async for entry in client.scandir(path)]
    progress.expect(len(names) + 1)
    files = iter([entry.path for entry in names if not entry.is_dir])

    async def take() -> None:
        for each in files:
            await client.unlink(each)
            progress.advance(1)

    async with trio.open_nursery() as nursery:
        for _ in range(SIDE_BY_SIDE):
            nursery.start_soon(take)
    for entry in names:
        if entry.is_dir:
            progress.say(entry.name)
            await remove_tree(client, entry.path, progress)
    await client.rmdir(path)
    progress.advance(1)
