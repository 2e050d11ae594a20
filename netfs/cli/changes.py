"""Trio shell. `netfs rm` and `netfs mkdir`: names that come and go on a server.

Owns no memory.
"""

from contextlib import AsyncExitStack
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

        What cannot be removed is told, and the rest is removed all the same.

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
                    await remove(clients[place.endpoint], place, recursive=recursive)
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


async def remove(client: "Client", place: Place, *, recursive: bool) -> None:
    """Remove what is at a place. Raises: CommandError."""
    from transport.messages import FileType  # noqa: PLC0415

    with failing(Exit.REMOTE, str(place)):
        if (await client.stat(place.path)).type is not FileType.DIRECTORY:
            await client.unlink(place.path)
        elif recursive:
            await client.rmtree(place.path)
        else:
            raise CommandError(Exit.NO, f"{place}: is a directory; say -r to remove it with all it holds")
