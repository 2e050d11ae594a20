"""Trio shell. A mount from its beginning to its end: init, serve the kernel's requests, unmount, give everything back.

pyfuse3 knows one mount per process, so a mount has a process of its own. Nothing in that process may touch the mounted folder:
it would wait for itself.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from netfs.fuse.attributes import MountOptions
from netfs.fuse.operations import MountOps

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["serve_mount"]

CLOSE_TIMEOUT_S: Final = 30
READ_AHEAD_KIB: Final = 4096
"""What the kernel reads ahead on a mount, where we may set it; its own 128 KiB would cut large reads into small ones."""


async def serve_mount(
    client: "Client",
    top: str,
    folder: Path,
    options: MountOptions,
    *,
    name: str,
    allow_other: bool = False,
    read_only: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Mount the directory `top` of a client's export on `folder`, and serve it until it is unmounted.

    Args: name: what mount(8) shows as the device. ready: called when the folder can be used.
    Raises: OSError, RuntimeError of libfuse when it cannot be mounted. Cancellation: unmounted; open files are closed first.
    """
    ops = MountOps(client, top, replace(options, shared=allow_other))
    settings = {*pyfuse3.default_options, f"fsname={name.replace(',', '_')}", "subtype=netfs"}
    if allow_other:
        settings.add("allow_other")
    if read_only:
        settings.add("ro")
    pyfuse3.init(ops, str(folder), settings)
    try:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_told, folder, ready)
                await pyfuse3.main()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await ops.aclose()
    finally:
        pyfuse3.close(unmount=True)  # whatever came meanwhile: a folder that nobody serves answers ENOTCONN


async def _told(folder: Path, ready: Callable[[], None]) -> None:
    # The folder is looked at in a thread: this one answers the kernel's questions about it.
    device = (await trio.to_thread.run_sync(folder.stat, abandon_on_cancel=True)).st_dev
    with contextlib.suppress(OSError):  # only root may, and it is only faster
        setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        setting.write_text(f"{READ_AHEAD_KIB}\n")  # noqa: ASYNC240 - a few bytes into the kernel's memory
    ready()
