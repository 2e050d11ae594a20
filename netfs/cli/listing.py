"""Trio shell. `netfs ls` and `netfs stat`: what is on a server.

Owns no memory.
"""

import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from netfs.cli.dialing import ANYBODY, VOLUME_HEADER, Access, connected, remote_place
from netfs.cli.host import Exit, Host, failing
from netfs.cli.place import printable

if TYPE_CHECKING:
    from transport.messages import Attr

__all__ = ["register"]

MINUTES, SECONDS = "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S.%f %z"
SUFFIX = {"directory": "/", "symlink": "@"}
TYPE_BITS = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}


def register(host: Host) -> None:
    """Add the commands."""

    async def ls(
        url: str,
        /,
        *,
        long: Annotated[bool, Parameter(alias="-l")] = False,
        access: Access = ANYBODY,
    ) -> None:
        """List a directory on a server.

        Args:
            url: the directory, or one file.
            long: with permissions, owner, size and time.
        """
        from transport.messages import FileType  # noqa: PLC0415

        place = remote_place(url)
        async with connected(place, access) as client:
            with failing(Exit.REMOTE, str(place)):
                attr = await client.stat(place.path)
                if attr.type is FileType.DIRECTORY:
                    found = [(entry.name, entry.attr) async for entry in client.scandir(place.path)]
                    links = [(name, place.child(name).path) for name, each in found if each.type is FileType.SYMLINK]
                else:
                    found = [(place.name, attr)]
                    links = [(place.name, place.path)] if attr.type is FileType.SYMLINK else []
                targets = {name: await client.readlink(path) for name, path in links}
        found.sort(key=lambda each: each[0])
        if any(name == VOLUME_HEADER for name, _ in found):
            host.warn(f"{place}: an encrypted volume, as the server has it; --passphrase or --key-file shows what it holds")
        lines = long_lines(found, targets) if long else [short_line(name, each) for name, each in found]
        entries = [{"name": name, **described(each, targets.get(name))} for name, each in found]
        host.emit({"url": str(place), "entries": entries}, "\n".join(lines))

    async def stat_(url: str, /, *, access: Access = ANYBODY) -> None:
        """Show size, times and permissions of one name.

        Args:
            url: a file or directory.
        """
        place = remote_place(url)
        async with connected(place, access) as client:
            with failing(Exit.REMOTE, str(place)):
                attr = await client.stat(place.path)
                target = await client.readlink(place.path) if kind_of(attr) == "symlink" else None
        host.emit({"url": str(place), **described(attr, target)}, stat_text(str(place), attr, target))

    host.command(
        ls,
        name="ls",
        examples=["netfs ls netfs://127.0.0.1:7777/", "netfs ls -l netfs+unix:///run/user/1000/netfs.sock:/photos"],
    )
    host.command(
        stat_,
        name="stat",
        examples=["netfs stat netfs://127.0.0.1:7777/report.pdf"],
    )


def kind_of(attr: "Attr") -> str:
    return attr.type.name.lower()


def described(attr: "Attr", target: str | None = None) -> dict[str, int | str | bool]:
    described: dict[str, int | str | bool] = {
        "type": kind_of(attr),
        "mode": f"{stat.S_IMODE(attr.mode):04o}",
        "size": attr.size,
        "nlink": attr.nlink,
        "uid": attr.uid,
        "gid": attr.gid,
        "ino": attr.ino,
        "atime_ns": attr.atime_ns,
        "mtime_ns": attr.mtime_ns,
        "ctime_ns": attr.ctime_ns,
        "change": attr.change,
        "encrypted": attr.sealed,
    }
    if target is not None:
        described["target"] = target
    return described


def short_line(name: str, attr: "Attr") -> str:
    return printable(name) + SUFFIX.get(kind_of(attr), "")


def long_lines(found: list[tuple[str, "Attr"]], targets: dict[str, str]) -> list[str]:
    numbers = [[str(value) for value in (attr.nlink, attr.uid, attr.gid, attr.size)] for _, attr in found]
    widths = [max(map(len, column)) for column in zip(*numbers, strict=True)]
    lines = []
    for (name, attr), row in zip(found, numbers, strict=True):
        columns = " ".join(value.rjust(width) for value, width in zip(row, widths, strict=True))
        lines.append(
            f"{mode_text(attr)} {columns} {moment(attr.mtime_ns, MINUTES)} {short_line(name, attr)}" + leads(targets.get(name))
        )
    return lines


def leads(target: str | None) -> str:
    return "" if target is None else f" -> {printable(target)}"


def stat_text(where: str, attr: "Attr", target: str | None = None) -> str:
    rows = (
        ("type", kind_of(attr) + (", encrypted" if attr.sealed else "") + leads(target)),
        ("size", f"{attr.size:,} bytes"),
        ("mode", f"{mode_text(attr)} ({stat.S_IMODE(attr.mode):04o})"),
        ("owner", f"{attr.uid}:{attr.gid}"),
        ("links", str(attr.nlink)),
        ("inode", str(attr.ino)),
        ("modified", moment(attr.mtime_ns, SECONDS)),
        ("changed", moment(attr.ctime_ns, SECONDS)),
        ("accessed", moment(attr.atime_ns, SECONDS)),
    )
    return "\n".join([printable(where), *(f"  {name:<9} {value}" for name, value in rows)])


def mode_text(attr: "Attr") -> str:
    return stat.filemode(TYPE_BITS.get(kind_of(attr), 0) | stat.S_IMODE(attr.mode))


def moment(time_ns: int, form: str) -> str:
    try:
        return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone().strftime(form)
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"  # a server may claim any time
