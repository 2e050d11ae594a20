"""Trio shell. The commands of the trials: `netfs demo`, `netfs bench`, `netfs trial`, `netfs proxy` and `netfs faults`.

Owns no memory.
"""

from netfs.cli.dialing import CapturePath, KeyFile, TracePath, open_capture_file, open_trace_file
from netfs.cli.host import Host
from trials.commands.faults import register_faults
from trials.commands.register import register_proxy, register_trial

__all__ = ["register"]


def register(host: Host) -> None:
    """Add the commands."""
    register_demo(host)
    register_bench(host)
    register_trial(host)
    register_proxy(host)
    register_faults(host)


def register_demo(host: Host) -> None:
    """Add `netfs demo`."""

    async def demo(
        *, file: str | None = None, key_file: KeyFile = None, trace: TracePath = None, capture: CapturePath = None
    ) -> int:
        """Send a real file through every path, verify each byte, and look for it in the server's store.

        Args:
            file: the file to send; by default the running Python's shared library, or its executable.
        """
        from trials.demo import demo as run  # noqa: PLC0415 - client, server and both transports take a while to load

        async with open_trace_file(trace) as traced, open_capture_file(capture) as captured:
            return await run(host, file, key_file, traced, captured)

    host.command(demo, name="demo", examples=["netfs demo", "netfs demo --file video.mp4 --json"])


def register_bench(host: Host) -> None:
    """Add `netfs bench`."""

    async def bench(*names: str, list: bool = False) -> None:  # noqa: A002 (the flag is named so)
        """Measure, each figure against a limit of this machine in the same run.

        Args:
            names: figures to run, or patterns of their names; all when none is given.
            list: name the figures with their limits and targets, and run none.
        """
        from trials.bench.command import run_bench  # noqa: PLC0415 - client, server and all transports take a while to load

        await run_bench(host, names, list_only=list)

    host.command(bench, name="bench", examples=["netfs bench --list", "netfs bench 'tcp.*' --json"])
