"""Trio shell. The commands of the trials: `netfs demo`.

Owns no memory.
"""

from netfs.cli.dialing import KeyFile
from netfs.cli.host import Host

__all__ = ["register"]


def register(host: Host) -> None:
    """Add the commands."""
    register_demo(host)


def register_demo(host: Host) -> None:
    """Add `netfs demo`."""

    async def demo(*, file: str | None = None, key_file: KeyFile = None) -> int:
        """Send a real file through every path, verify each byte, and look for it in the server's store.

        Args:
            file: the file to send; by default the running Python's shared library, or its executable.
        """
        from trials.demo import demo as run  # noqa: PLC0415 - client, server and both transports take a while to load

        return await run(host, file, key_file)

    host.command(demo, name="demo", examples=["netfs demo", "netfs demo --file video.mp4 --json"])
