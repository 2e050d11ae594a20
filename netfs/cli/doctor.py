"""Trio shell. `netfs doctor`: what of netfs is installed here, what clashes with it, and what to do about it.

Looks at this machine only; nothing is changed. Owns no memory.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from netfs.cli.host import Exit, Host

__all__ = ["Finding", "examined", "register"]

PACKAGES: Final = ("iov", "transport", "crypto", "servers", "netfs", "trials")
EXTRAS: Final = {
    "fuse": ("pyfuse3", "netfs mount"),
    "fsspec": ("fsspec", "netfs:// in pandas, pyarrow, zarr, dask"),
    "trace": ("perfetto", "--trace FILE.pftrace"),
    "crc": ("crc32c", "checksums of iWARP at full speed"),
    "dask": ("distributed", "netfs trial campaign --on dask://…"),
}
MARKS: Final = {"ok": "ok", "missing": "--", "wrong": "!!"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. state: ok, missing (something cannot be used) or wrong (something will fail)."""

    what: str
    state: Literal["ok", "missing", "wrong"]
    detail: str
    advice: str = ""


def register(host: Host) -> None:
    """Add the command."""

    def doctor() -> int:
        """Tell what of netfs is installed, what clashes with it, and what to do; exits with 1 when something is wrong."""
        found = examined()
        lines = []
        for each in found:
            lines.append(f"{MARKS[each.state]}  {each.what:<22} {each.detail}")
            if each.advice:
                lines.append(f"{'':26}→ {each.advice}")
        host.emit({"findings": [asdict(each) for each in found]}, "\n".join(lines))
        return Exit.NO if any(each.state == "wrong" for each in found) else Exit.DONE

    host.command(doctor, name="doctor", examples=["netfs doctor", "netfs doctor --json"])


def examined(installed: Callable[[], Iterator[Distribution]] = lambda: iter(distributions())) -> list[Finding]:
    """Look at everything. installed: the distributions of this environment."""
    return [
        *_program(), *_packages(installed), *_extras(), *_mounting(), *_wireshark(), *_own_files(),
    ]  # fmt: skip


def _program() -> Iterator[Finding]:
    yield Finding("netfs", "ok", f"{version('netfs')} in {Path(__file__).parents[1]}")
    running = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "ok", f"{running} in {sys.prefix}")
    for name in ("trio", "cryptography", "msgpack"):
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "wrong", "not installed", f"pip install {name}")


def _packages(installed: Callable[[], Iterator[Distribution]]) -> Iterator[Finding]:
    """Find out who else has installed, or would, a package with the name of one of ours."""
    base = Path(__file__).parents[2]
    others: dict[str, list[str]] = {}
    for each in installed():
        name = each.metadata["Name"] or ""
        if name.lower() == "netfs":
            continue
        tops = {path.parts[0] for path in each.files or () if len(path.parts) > 1}
        for package in PACKAGES:
            # On file systems that ignore case, as macOS has, `Crypto` is `crypto`.
            if package in tops or (sys.platform != "linux" and package in {top.lower() for top in tops}):
                others.setdefault(package, []).append(name)
    for package in PACKAGES:
        spec = find_spec(package)
        where = None if spec is None or spec.origin is None else Path(spec.origin).parent
        if where != base / package:
            yield Finding(
                f"package {package}", "wrong", f"is {where}, not ours",
                f"install netfs in an environment of its own; here something else is named {package}",
            )  # fmt: skip
        elif package in others:
            names = ", ".join(others[package])
            yield Finding(
                f"package {package}", "wrong", f"{names} installs one of the same name",
                f"pip uninstall {names}, then pip install --force-reinstall netfs: each overwrites files of the other",
            )  # fmt: skip
    if not others:
        yield Finding("packages", "ok", f"{', '.join(PACKAGES)}: all ours")


def _extras() -> Iterator[Finding]:
    for extra, (module, purpose) in EXTRAS.items():
        try:
            there = find_spec(module) is not None
        except (ImportError, ValueError):
            there = False
        if there:
            yield Finding(f"extra {extra}", "ok", purpose)
        else:
            yield Finding(f"extra {extra}", "missing", f"for {purpose}", f"pip install 'netfs[{extra}]'")


def _mounting() -> Iterator[Finding]:
    if sys.platform != "linux":
        yield Finding("mounting", "missing", "only on Linux")
        return
    if shutil.which("fusermount3") is None:
        yield Finding("fusermount3", "missing", "for netfs mount", "sudo apt install fuse3")
    else:
        yield Finding("fusermount3", "ok", str(shutil.which("fusermount3")))
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        yield Finding("/dev/fuse", "missing", "cannot be opened", "load the module fuse; a container needs --device /dev/fuse")
    else:
        yield Finding("/dev/fuse", "ok", "can be opened")


def _wireshark() -> Iterator[Finding]:
    found = shutil.which("wireshark") or shutil.which("tshark")
    if found is None:
        yield Finding("Wireshark", "missing", "to look at captures", "sudo apt install wireshark")
    else:
        yield Finding("Wireshark", "ok", found)


def _own_files() -> Iterator[Finding]:
    from transport.user_files import user_file  # noqa: PLC0415

    identity = user_file("identity")
    try:
        mode = identity.stat().st_mode
    except OSError:
        yield Finding("identity", "missing", "for servers of other users", "netfs keygen --identity")
        return
    if mode & 0o077:
        yield Finding("identity", "wrong", f"{identity} can be read by others", f"chmod 600 {identity}")
    else:
        yield Finding("identity", "ok", str(identity))
