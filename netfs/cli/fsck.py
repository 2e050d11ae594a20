"""Trio shell. `netfs fsck`: is an encrypted folder what was written? Damage by path, without trusting the server.

Owns no memory.
"""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place
from netfs.cli.host import Exit, Host, failing
from netfs.cli.place import printable

if TYPE_CHECKING:
    from netfs.fs.verify import Report

__all__ = ["check", "register"]

SHOWN = 1000
"""Most lines of damage printed; --json tells all."""


def register(host: Host) -> None:
    """Add the command."""

    async def fsck(url: str, /, *, access: Access = ANYBODY) -> int:
        """Verify all that is at and below a directory of an encrypted volume, without trusting its server.

        Every name, record, tag and block is fetched and verified. What is damaged is listed by its path and the number of the
        block, and the exit code is 1. It also works where an older state has been seen, and changes nothing.

        Args:
            url: the directory, or one file.
        """
        return await check(host, url, access, content=True)

    host.command(
        fsck,
        name="fsck",
        examples=[
            "netfs fsck --passphrase netfs://127.0.0.1:7777/vault",
            "netfs fsck --key-file my.key --json netfs://127.0.0.1:7777/vault/photos",
        ],
    )


async def check(host: Host, url: str, access: Access, *, content: bool) -> int:
    """Verify what a URL names. Returns: the exit code."""
    from netfs.fs.verify import verify  # noqa: PLC0415 - the client is loaded by the commands that need it

    place = remote_place(url)
    if access.key_file is None and access.passphrase_fd is None and not access.passphrase:
        host.fail(Exit.USAGE, f"{place}: only what is encrypted can be verified; say --passphrase or --key-file")
    async with connected(place, replace(access, inspect=True)) as client:
        with failing(Exit.REMOTE, str(place)), host.progress(None, "verifying") as bar:

            def told(path: str, count: int) -> None:
                bar.say(path)
                bar.expect(count)
                bar.advance(count)

            report = await verify(client, place.path, told, content=content)
    tell(host, report)
    return Exit.NO if report.damaged else Exit.DONE


def tell(host: Host, report: "Report") -> None:
    """Print a report."""
    lines = [
        f"{printable(damage.path)}: {f'block {damage.block}: ' if damage.block >= 0 else ''}{damage.reason}"
        for damage in report.damaged[:SHOWN]
    ]
    if len(report.damaged) > SHOWN:
        lines.append(f"and {len(report.damaged) - SHOWN:,} more")
    whole = "no damage" if not report.damaged else f"{len(report.damaged):,} damaged"
    files, blocks = report.checked_files, report.checked_blocks
    lines.append(f"{files:,} file{'s' * (files != 1)}, {blocks:,} block{'s' * (blocks != 1)}: {whole}")
    host.emit(
        {
            "checked_files": report.checked_files,
            "checked_blocks": report.checked_blocks,
            "damaged": [asdict(damage) for damage in report.damaged],
        },
        "\n".join(lines),
    )
