"""Trio shell. `netfs cache`: what the local cache on this machine holds, and emptying it.

Owns no memory.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from netfs.cli.host import Exit, Host, failing
from netfs.cli.place import printable
from transport.user_files import user_cache

if TYPE_CHECKING:
    from netfs.fscache.disk import Disk

__all__ = ["register"]

CacheFolder = Annotated[
    str | None, Parameter(name="--cache-dir", env_var="NETFS_CACHE_DIR", help="the cache, if not ~/.cache/netfs.")
]


def register(host: Host) -> None:
    """Add the commands."""
    group = host.group(
        "cache",
        "Look at the local cache, or empty it. Commands that read and write use it when --cache-dir or NETFS_CACHE_DIR names it.",
        ["netfs cache status", "netfs cache clear", "netfs cat --cache-dir ~/.cache/netfs netfs://127.0.0.1:7777/big.csv | wc"],
    )

    def status(*, cache_dir: CacheFolder = None) -> None:
        """Show what is cached of which server, and how much of the disk is free."""
        show(host, cache_dir)

    def clear(*, cache_dir: CacheFolder = None) -> int:
        """Remove all that is cached; exit code 1 when some of it is in use by a running client."""
        return empty(host, cache_dir)

    host.command(status, name="status", examples=["netfs cache status", "netfs --json cache status"], under=group)
    host.command(clear, name="clear", examples=["netfs cache clear"], under=group)


def opened(host: Host, cache_dir: str | None) -> "Disk":
    from netfs.fscache.disk import Disk  # noqa: PLC0415 - loaded by those who have a cache
    from netfs.fscache.service import MARK  # noqa: PLC0415

    root = Path(cache_dir) if cache_dir is not None else user_cache()
    with failing(Exit.LOCAL, str(root)):
        disk = Disk(root)
        if root.is_dir() and not disk.ours(MARK):
            host.fail(Exit.LOCAL, f"{root}: holds other things than a cache")
    return disk


def show(host: Host, cache_dir: str | None) -> None:
    from netfs.fscache.limits import CacheLimits  # noqa: PLC0415

    disk, limits = opened(host, cache_dir), CacheLimits()
    volumes: dict[str, tuple[int, int]] = {}
    if disk.root.is_dir():
        with failing(Exit.LOCAL, str(disk.root)):
            for stored in disk.objects():
                volume = stored.path.partition("/")[0]
                count, size = volumes.get(volume, (0, 0))
                volumes[volume] = (count + 1, size + stored.size)
            free, total = disk.space()
        state = "full" if not limits.may_write(free, total, 0) else "culling" if limits.excess(free, total, 0) else "open"
    else:
        free = total = 0
        state = "absent"
    rows = [(name_of(disk.root / volume), count, size) for volume, (count, size) in sorted(volumes.items())]
    files, size = sum(count for count, _ in volumes.values()), sum(size for _, size in volumes.values())
    value = {
        "directory": str(disk.root), "state": state, "files": files, "bytes": size, "free_bytes": free, "disk_bytes": total,
        "limits": {"run": limits.run, "cull": limits.cull, "stop": limits.stop},
        "servers": [{"server": server, "files": count, "bytes": size} for server, count, size in rows],
    }  # fmt: skip
    lines = [f"{disk.root}: {files} files, {size:,} bytes, {state}"]
    if total:
        lines.append(f"disk: {free * 100 / total:.0f} % free; culled below {limits.cull} %, nothing added below {limits.stop} %")
    lines += [f"{count:>7} files {size:>16,} bytes  {printable(server)}" for server, count, size in rows]
    host.emit(value, "\n".join(lines))


def name_of(folder: Path) -> str:
    try:
        return (folder / "name").read_text(errors="replace").strip()
    except OSError:
        return folder.name


def empty(host: Host, cache_dir: str | None) -> int:
    disk = opened(host, cache_dir)
    removed = kept = size = 0
    if disk.root.is_dir():
        with failing(Exit.LOCAL, str(disk.root)):
            for stored in disk.objects():
                if disk.discard(stored.path):
                    removed += 1
                    size += stored.size
                else:
                    kept += 1
            disk.tidy()
    text = f"{disk.root}: {removed} files removed" + (f", {kept} in use" if kept else "")
    host.emit({"directory": str(disk.root), "removed": removed, "bytes": size, "in_use": kept}, text)
    return Exit.NO if kept else Exit.DONE
