"""Trio shell. `netfs cat` and `netfs put`: the bytes of files on standard output, and a file of those on standard input.

Owns one buffer, read into and written out of in turn.
"""

import errno
import mmap
import os
import re
import sys
from base64 import b64encode
from contextlib import suppress
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
REMOVE_TIMEOUT_S = 5
Count = Annotated[int, Parameter(validator=validators.Number(gte=0))]


def register(host: Host) -> None:
    """Add the commands."""
    register_cat(host)
    register_put(host)


def register_cat(host: Host) -> None:
    """Add `netfs cat`."""

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


def register_put(host: Host) -> None:
    """Add `netfs put`."""

    async def put(url: str, /, *, append: bool = False, mode: str = "644", access: Access = ANYBODY) -> None:
        """Make a file on a server of what comes on standard input; it appears under its name when all of it is there.

        Args:
            url: the file; what had its name is replaced.
            append: add to the file instead, as it comes.
            mode: permissions of a new file, in octal.
        """
        place = remote_place(url)
        if place.is_folder:
            host.fail(Exit.USAGE, f"{url}: name the file, not only its directory")
        if re.fullmatch("[0-7]{3}", mode) is None:
            host.fail(Exit.USAGE, f"--mode {mode}: permissions are three octal digits, as 644")
        bits = int(mode, 8)
        async with connected(place, access, changes=[place]) as client:
            path = place.path if append else f"{place.path.rpartition('/')[0]}/.netfs-{client.env.nonces(8).hex()}.part"
            with failing(Exit.REMOTE, str(place)):
                try:
                    async with await client.open(path, "a" if append else "x", create_mode=bits) as file:
                        size = await drink(host, file)
                    if not append:
                        await client.rename(path, place.path)
                except BaseException:
                    if not append:
                        with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVE_TIMEOUT_S), suppress(OSError):
                            await client.unlink(path)
                    raise
        host.emit({"url": str(place), "bytes": size})

    host.command(
        put,
        name="put",
        examples=[
            "netfs put netfs://127.0.0.1:7777/notes.txt < notes.txt",
            "tar c project | netfs put netfs://127.0.0.1:7777/project.tar",
            "date | netfs put --append netfs://127.0.0.1:7777/log.txt",
        ],
    )


async def drink(host: Host, file: "File") -> int:
    """Write standard input into a file. Returns: bytes."""
    buffer = memoryview(mmap.mmap(-1, PIECE))
    size = 0
    with host.progress(None, "standard input") as progress:
        while count := await trio.to_thread.run_sync(_from_stdin, buffer, abandon_on_cancel=True):
            await file.write(buffer[:count])
            size += count
            progress.advance(count)
    return size


def _from_stdin(buffer: memoryview) -> int:
    with failing(Exit.LOCAL, "standard input"):
        if sys.stdin is None:  # it was closed, and its number may by now be something else's
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return os.readv(0, [buffer])


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
