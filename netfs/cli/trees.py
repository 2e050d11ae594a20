"""Trio shell. `netfs tree` and `netfs du`: what lies below a directory, as a picture and as sums.

A directory is read when it is its turn; memory grows with the tree only for `tree`, which shows it. Owns no memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place
from netfs.cli.host import Exit, Host, failing
from netfs.cli.place import Place, printable

if TYPE_CHECKING:
    from netfs.fs.client import Client, Entry

__all__ = ["human", "register"]

Depth = Annotated[int | None, Parameter(alias="-L", validator=validators.Number(gte=0))]


def register(host: Host) -> None:
    """Add the commands."""
    register_tree(host)
    register_du(host)


@dataclass(slots=True)
class Branch:
    """A name and what is below it. size: bytes of the file, or of all files below."""

    name: str
    kind: str
    size: int
    files: int = 0
    directories: int = 0
    inside: "list[Branch] | None" = None

    def as_json(self) -> dict[str, object]:
        """Return what --json shows of it."""
        shown: dict[str, object] = {"name": self.name, "type": self.kind, "size": self.size}
        if self.inside is not None:
            shown["entries"] = [each.as_json() for each in self.inside]
        return shown


def register_tree(host: Host) -> None:
    """Add `netfs tree`."""

    async def tree(
        url: str, /, *, depth: Depth = None, sizes: Annotated[bool, Parameter(alias="-s")] = False, access: Access = ANYBODY
    ) -> None:
        """Show what lies below a directory of a server.

        Args:
            url: the directory.
            depth: how far to look down; all the way by default.
            sizes: with the size of each file, and the sum of each directory.
        """
        place = remote_place(url)
        async with connected(place, access) as client:
            top = await grown(client, place, depth)
        lines = [printable(str(place)), *drawn(top, "", sizes=sizes)]
        lines.append(f"\n{top.directories:,} directories, {top.files:,} files, {human(top.size)}")
        host.emit({"url": str(place), "directories": top.directories, "files": top.files, **top.as_json()}, "\n".join(lines))

    host.command(
        tree,
        name="tree",
        examples=["netfs tree netfs://127.0.0.1:7777/photos", "netfs tree -L 2 --sizes netfs://127.0.0.1:7777/"],
    )


def register_du(host: Host) -> None:
    """Add `netfs du`."""

    async def du(url: str, /, *more: str, depth: Depth = 1, count: bool = False, access: Access = ANYBODY) -> None:
        """Sum up the sizes of all files below directories, as their readers see them.

        Args:
            url: a directory or file on a server.
            more: further ones.
            depth: how far down each directory is shown with its own sum; 0 shows only the whole.
            count: with how many files there are.
        """
        rows = []
        for place in [remote_place(text) for text in (url, *more)]:
            async with connected(place, access) as client:
                found = summed(await grown(client, place, None), place, depth)
            rows += [
                {"url": path, "size": branch.size, "files": branch.files, "directories": branch.directories}
                for path, branch in found
            ]
        text = [
            f"{human(int(str(row['size']))):>9}" + (f"{row['files']:>9,}" if count else "") + f"  {printable(str(row['url']))}"
            for row in rows
        ]
        host.emit({"sums": rows}, "\n".join(text))

    host.command(
        du,
        name="du",
        examples=["netfs du netfs://127.0.0.1:7777/photos", "netfs du --depth 0 --count netfs://127.0.0.1:7777/"],
    )


async def grown(client: "Client", place: Place, depth: int | None) -> Branch:
    """Return the tree below a place."""
    with failing(Exit.REMOTE, str(place)):
        attr = await client.stat(place.path)
        top = Branch(place.name or "/", attr.type.name.lower(), attr.size)
        if top.kind != "directory":
            top.files = 1
            return top
        await _look(client, place.path, top, depth)
    return top


async def _look(client: "Client", path: str, branch: Branch, depth: int | None) -> None:
    branch.size = 0
    if depth == 0:
        return
    branch.inside = []
    found: list[Entry] = sorted([entry async for entry in client.scandir(path)], key=lambda entry: entry.name)
    for entry in found:
        each = Branch(entry.name, entry.attr.type.name.lower(), entry.attr.size)
        branch.inside.append(each)
        if each.kind == "directory":
            await _look(client, entry.path, each, None if depth is None else depth - 1)
            branch.directories += 1 + each.directories
            branch.files += each.files
        else:
            branch.files += 1
        branch.size += each.size


def drawn(branch: Branch, before: str, *, sizes: bool) -> list[str]:
    """Return the lines of what is inside a branch."""
    lines = []
    inside = branch.inside or []
    for number, each in enumerate(inside):
        last = number == len(inside) - 1
        size = f"  {human(each.size)}" if sizes else ""
        mark = "/" if each.kind == "directory" else "@" if each.kind == "symlink" else ""
        lines.append(f"{before}{'└── ' if last else '├── '}{printable(each.name)}{mark}{size}")
        lines += drawn(each, before + ("    " if last else "│   "), sizes=sizes)
    return lines


def summed(branch: Branch, place: Place, depth: int | None) -> Iterator[tuple[str, Branch]]:
    """Yield directories with their sums, the deepest first, the whole last."""
    for each in branch.inside or []:
        if each.kind == "directory" and depth != 0:
            yield from summed(each, place.child(each.name), None if depth is None else depth - 1)
    yield str(place), branch


def human(size: float) -> str:
    """Return a size as people read it, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
