"""Trio shell. `netfs head` and `netfs tail`: the beginning and the end of files, in lines or bytes, and what is added to them.

Of a large file only what is shown is read. Owns one buffer, read into and written out of in turn.
"""

import mmap
from typing import TYPE_CHECKING, Annotated

import trio
from cyclopts import Parameter, validators

from netfs.cli.contents import pour
from netfs.cli.dialing import ANYBODY, Access, connected, remote_place, tracing
from netfs.cli.host import Exit, Host, failing
from netfs.cli.place import Place, printable

if TYPE_CHECKING:
    from netfs.fs.file import File

__all__ = ["register"]

STEP = 1 << 16
Count = Annotated[int, Parameter(alias="-n", validator=validators.Number(gte=0))]
Bytes = Annotated[int | None, Parameter(name="--bytes", alias="-c", validator=validators.Number(gte=0))]


def register(host: Host) -> None:
    """Add the commands."""
    register_head(host)
    register_tail(host)


def register_head(host: Host) -> None:
    """Add `netfs head`."""

    async def head(url: str, /, *more: str, lines: Count = 10, count: Bytes = None, access: Access = ANYBODY) -> None:
        """Print the first lines of files.

        Args:
            url: a file.
            more: further files; each is then shown below its name.
            lines: how many lines.
            count: so many bytes instead.
        """
        places = _places(host, url, more)
        async with tracing(access) as traced:
            for place in places:
                async with connected(place, traced) as client:
                    with failing(Exit.REMOTE, str(place)):
                        file = await client.open(place.path, "r", direct=client.local_cache is None)
                    async with file:
                        length = count if count is not None else await _end_of_line(place, file, 0, lines)
                        _title(host, place, places)
                        await pour(host, place, file, 0, length)

    host.command(
        head,
        name="head",
        usage="netfs head [OPTIONS] URL...",
        examples=["netfs head netfs://127.0.0.1:7777/log.txt", "netfs head -c 512 netfs://127.0.0.1:7777/disk.img | xxd"],
    )


def register_tail(host: Host) -> None:
    """Add `netfs tail`."""

    async def tail(
        url: str,
        /,
        *more: str,
        lines: Count = 10,
        count: Bytes = None,
        follow: Annotated[bool, Parameter(alias="-f")] = False,
        interval: float = 1.0,
        access: Access = ANYBODY,
    ) -> None:
        """Print the last lines of files.

        Args:
            url: a file.
            more: further files; each is then shown below its name.
            lines: how many lines.
            count: so many bytes instead.
            follow: go on with what is added to the file, until Ctrl-C; one that becomes shorter is shown from its start.
            interval: seconds between two looks when following.
        """
        places = _places(host, url, more)
        if follow and (host.json or len(places) > 1):
            host.fail(Exit.USAGE, "--follow is for one file, and not for --json")
        if interval <= 0:
            host.fail(Exit.USAGE, "--interval is more than 0 seconds")
        async with tracing(access) as traced:
            for place in places:
                async with connected(place, traced) as client:
                    with failing(Exit.REMOTE, str(place)):
                        file = await client.open(place.path, "r", direct=client.local_cache is None)
                        size = (await client.stat(place.path)).size
                    async with file:
                        start = max(0, size - count) if count is not None else await _start_of_line(place, file, size, lines)
                        _title(host, place, places)
                        await pour(host, place, file, start, size - start)
                    while follow:
                        await trio.sleep(interval)
                        with failing(Exit.REMOTE, str(place)):
                            now = (await client.stat(place.path)).size
                            if now == size:
                                continue
                            file = await client.open(place.path, "r", direct=True)
                        async with file:
                            start = size if now > size else 0
                            await pour(host, place, file, start, now - start)
                        size = now

    host.command(
        tail,
        name="tail",
        usage="netfs tail [OPTIONS] URL...",
        examples=["netfs tail netfs://127.0.0.1:7777/log.txt", "netfs tail -n 0 -f netfs://127.0.0.1:7777/log.txt"],
    )


def _places(host: Host, url: str, more: tuple[str, ...]) -> list[Place]:
    if host.json and more:
        host.fail(Exit.USAGE, "--json prints one file, in base64")
    return [remote_place(text) for text in (url, *more)]


def _title(host: Host, place: Place, places: list[Place]) -> None:
    if len(places) > 1:
        before = "" if place is places[0] else "\n"
        host.say(f"{before}==> {printable(str(place))} <==")


async def _end_of_line(place: Place, file: "File", pos: int, lines: int) -> int:
    """Return where the line number `lines` from `pos` on ends, the end of the file at the latest."""
    buffer = mmap.mmap(-1, STEP)
    view = memoryview(buffer)
    while lines > 0:
        with failing(Exit.REMOTE, str(place)):
            got = await file.preadv([view], pos)
        if got == 0:
            break
        at = 0
        while lines > 0:
            found = buffer.find(b"\n", at, got)
            if found < 0:
                break
            at, lines = found + 1, lines - 1
        pos += got if lines > 0 else at
    return pos


async def _start_of_line(place: Place, file: "File", size: int, lines: int) -> int:
    """Return where the last `lines` lines begin. A last line need not end with a newline."""
    if lines == 0:
        return size
    buffer = mmap.mmap(-1, STEP)
    view = memoryview(buffer)
    end, wanted = size, lines
    while end > 0:
        begin = max(0, end - STEP)
        with failing(Exit.REMOTE, str(place)):
            got = await _filled(file, view[: end - begin], begin)
        at = got
        while (found := buffer.rfind(b"\n", 0, at)) >= 0:
            at = found
            if begin + found == size - 1:
                continue  # it ends the last line
            wanted -= 1
            if wanted == 0:
                return begin + found + 1
        end = begin
    return 0


async def _filled(file: "File", view: memoryview, pos: int) -> int:
    done = 0
    while done < len(view) and (count := await file.preadv([view[done:]], pos + done)):
        done += count
    return done
