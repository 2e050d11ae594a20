"""Trio shell. `netfs rm` and `netfs mkdir`: names that come and go on a server.

Owns no memory.
"""

from typing import Annotated

from cyclopts import Parameter

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place
from netfs.cli.host import Exit, Host, failing

__all__ = ["register"]


def register(host: Host) -> None:
    """Add the commands."""

    async def rm(
        url: str,
        /,
        *more: str,
        recursive: Annotated[bool, Parameter(alias="-r")] = False,
        access: Access = ANYBODY,
    ) -> None:
        """Remove files, or whole directories with -r.

        Args:
            url: a file, or with --recursive a directory.
            more: further ones.
            recursive: remove directories with all they hold.
        """
        from transport.messages import FileType  # noqa: PLC0415

        places = [remote_place(text) for text in (url, *more)]
        for place in places:
            if place.path == "/":
                host.fail(Exit.USAGE, f"{place}: the root of an export cannot be removed")
        for place in places:
            async with connected(place, access) as client:
                with failing(Exit.REMOTE, str(place)):
                    if (await client.stat(place.path)).type is not FileType.DIRECTORY:
                        await client.unlink(place.path)
                    elif recursive:
                        await client.rmtree(place.path)
                    else:
                        host.fail(Exit.NO, f"{place}: is a directory; say -r to remove it with all it holds")
        host.emit({"removed": [str(place) for place in places]})

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
        for place in places:
            async with connected(place, access) as client:
                with failing(Exit.REMOTE, str(place)):
                    await client.mkdir(place.path, parents=parents, exist_ok=parents)
        host.emit({"created": [str(place) for place in places]})

    host.command(
        rm,
        name="rm",
        usage="netfs rm [OPTIONS] URL...",
        examples=["netfs rm netfs://127.0.0.1:7777/old.txt", "netfs rm -r netfs://127.0.0.1:7777/backup/2024"],
    )
    host.command(
        mkdir,
        name="mkdir",
        usage="netfs mkdir [OPTIONS] URL...",
        examples=["netfs mkdir netfs://127.0.0.1:7777/backup", "netfs mkdir -p netfs://127.0.0.1:7777/a/b/c"],
    )
