"""Trio shell. `netfs cat`: the bytes of files on standard output.

Owns one buffer, read into and written out of in turn.
"""

import mmap
from base64 import b64encode
from typing import TYPE_CHECKING, Annotated

import trio
from cyclopts import Parameter, validators

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place, tracing
from netfs.cli.host import Exit, Host, failing
from netfs.cli.place import Place

if TYPE_CHECKING:
    from netfs.fs.file import File

__all__ = ["register"]

PIECE = 4 << 20
Count = Annotated[int, Parameter(validator=validators.Number(gte=0))]


def register(host: Host) -> None:
    """Add the command."""

    async def cat(
        url: str,
        /,
        *more: str,
        offset: Count = 0,
        length: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
        access: Access = ANYBODY,
    ) -> None:
        """Print files, whole or a range of each.

        Args:
            url: a file.
            more: further files.
            offset: first byte to print of each.
            length: how many bytes of each, all by default.
        """
        if host.json and more:
            host.fail(Exit.USAGE, "cat --json prints one file, in base64")
        places = [remote_place(text) for text in (url, *more)]
        async with tracing(access) as traced:
            for place in places:
                async with connected(place, traced) as client:
                    with failing(Exit.REMOTE, str(place)):
                        file = await client.open(place.path, "r", direct=client.local_cache is None)
                    async with file:
                        await pour(host, place, file, offset, length)

    host.command(
        cat,
        name="cat",
        usage="netfs cat [OPTIONS] URL...",
        examples=[
            "netfs cat netfs://127.0.0.1:7777/notes.txt",
            "netfs cat --offset 1000000 --length 512 netfs://127.0.0.1:7777/disk.img | xxd",
        ],
    )


async def pour(host: Host, place: Place, file: "File", offset: int, length: int | None) -> None:
    """Write a range of a file to standard output, or emit it in base64 under --json."""
    pos, gathered = offset, bytearray()
    buffer = memoryview(mmap.mmap(-1, PIECE))
    while length is None or pos < offset + length:
        wanted = PIECE if length is None else min(PIECE, offset + length - pos)
        with failing(Exit.REMOTE, str(place)):
            count = await file.preadv([buffer[:wanted]], pos)
        if count == 0:
            break
        pos += count
        if host.json:
            gathered += buffer[:count]
        else:
            # The reader of a pipe may be slow, or never come; an interrupt does not wait for it.
            await trio.to_thread.run_sync(host.write, buffer[:count], abandon_on_cancel=True)
    if host.json:
        host.emit({"url": str(place), "offset": offset, "length": len(gathered), "base64": b64encode(gathered).decode()})
