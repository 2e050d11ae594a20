"""Trio shell. `netfs find`: what lies below a directory and is of a certain name, kind, size or age, told as soon as it is known.

A directory is read when it is its turn; memory does not grow with the tree. Owns no memory.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place
from netfs.cli.filters import Filters, parse_rate
from netfs.cli.host import CommandError, Exit, Host, failing
from netfs.cli.listing import described, kind_of
from netfs.cli.place import Place, printable

if TYPE_CHECKING:
    from netfs.fs.client import Client, Entry

__all__ = ["Wanted", "register"]

Signed = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
Kind = Literal["file", "directory", "symlink"]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for. size: (sign, bytes), with + for more and - for less; age: the same of seconds since the last change."""

    names: Filters
    kind: Kind | None = None
    size: tuple[str, float] | None = None
    age: tuple[str, float] | None = None

    def fits(self, path: str, kind: str, size: int, age_s: float) -> bool:
        """Tell whether something is wanted. path: below the top."""
        return (
            self.kind in {None, kind}
            and self.names.admits(path, is_directory=False)
            and (self.size is None or (kind == "file" and _beyond(self.size, size)))
            and (self.age is None or _beyond(self.age, age_s))
        )


def _beyond(bound: tuple[str, float], value: float) -> bool:
    sign, amount = bound
    return value > amount if sign == "+" else value < amount if sign == "-" else value == amount


def register(host: Host) -> None:
    """Add the command."""

    async def find(
        url: str,
        /,
        *,
        name: tuple[str, ...] = (),
        type: Annotated[Kind | None, Parameter(alias="-t")] = None,  # noqa: A002 - as everywhere
        size: Signed = None,
        age: Signed = None,
        depth: Annotated[int | None, Parameter(alias="-L", validator=validators.Number(gte=1))] = None,
        access: Access = ANYBODY,
    ) -> int:
        """Print what lies below a directory of a server, or what of it is looked for; each as a URL on a line of its own.

        Args:
            url: the directory.
            name: only what matches this pattern, as *.jpg or docs/**; may be said again, one is enough.
            type: only this kind.
            size: only files of more (+10M), less (-10k) or exactly so many bytes.
            age: only what was last changed longer ago (+30d) or more recently (-2h); s, m, h, d, w.
            depth: how far to look down; all the way by default.
        """
        from transport.env import system_env  # noqa: PLC0415

        place = remote_place(url)
        wanted = Wanted(Filters(include=name), type, _size(size), _age(age))
        now_ns = system_env().wall_ns()
        found: list[dict[str, object]] = []
        failed: list[str] = []
        async with connected(place, access) as client:
            async for path, entry in below(client, place, depth, failed):
                age_s = (now_ns - entry.attr.mtime_ns) / 1e9
                if wanted.fits(path, kind_of(entry.attr), entry.attr.size, age_s):
                    host.say(printable(str(Place(place.endpoint, entry.path))))
                    if host.json:
                        found.append({"url": str(Place(place.endpoint, entry.path)), **described(entry.attr)})
        for line in failed:
            host.warn(line)
        host.emit({"url": str(place), "entries": found, "failed": failed})
        return Exit.REMOTE if failed else Exit.DONE

    host.command(
        find,
        name="find",
        examples=[
            "netfs find netfs://127.0.0.1:7777/photos --name '*.jpg' --size +10M",
            "netfs find netfs://127.0.0.1:7777/ --type directory --depth 2",
            "netfs find netfs://127.0.0.1:7777/ --age -2h --json",
        ],
    )


async def below(client: "Client", place: Place, depth: int | None, failed: list[str]) -> "AsyncIterator[tuple[str, Entry]]":
    """Yield what lies below a place, with its path below it. failed: directories that cannot be read are told in it."""
    with failing(Exit.REMOTE, str(place)):
        first = sorted([entry async for entry in client.scandir(place.path)], key=lambda entry: entry.name)
    stack = [(entry.name, entry, 1) for entry in reversed(first)]
    while stack:
        path, entry, level = stack.pop()
        yield path, entry
        if not entry.is_dir or (depth is not None and level >= depth):
            continue
        try:
            with failing(Exit.REMOTE, str(Place(place.endpoint, entry.path))):
                inside = sorted([each async for each in client.scandir(entry.path)], key=lambda each: each.name)
        except CommandError as error:
            if isinstance(error.__cause__, ConnectionError):
                raise
            failed.append(str(error))
            continue
        stack.extend((f"{path}/{each.name}", each, level + 1) for each in reversed(inside))


def _size(text: str | None) -> tuple[str, float] | None:
    if text is None:
        return None
    try:
        return _sign(text), 0.0 if text.lstrip("+-") == "0" else parse_rate(text.lstrip("+-"))
    except ValueError:
        raise CommandError(Exit.USAGE, f"--size {text}: write +10M, -10k or 512") from None


def _age(text: str | None) -> tuple[str, float] | None:
    if text is None:
        return None
    found = re.fullmatch(r"[+-](\d+)([smhdw])", text)
    if found is None:
        raise CommandError(Exit.USAGE, f"--age {text}: write +30d for longer ago, -2h for more recently")
    return _sign(text), float(int(found[1]) * SECONDS[found[2]])


def _sign(text: str) -> str:
    return text[0] if text[0] in "+-" else ""
