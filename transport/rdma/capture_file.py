"""Trio shell. A capture in a file, for the length of a block.

A capture must not break what it watches: the first error of the file ends the writing, not the program, and is told when the
capture is closed. Owns no payload memory.
"""

import contextlib
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Final

from transport.env import system_env
from transport.rdma.capture import Capture
from transport.rdma.packets import View

__all__ = ["SUFFIX", "open_capture"]

SUFFIX: Final = ".pcapng"
BUFFER: Final = 1 << 20


@contextlib.contextmanager
def open_capture(path: str | PathLike[str], wall_ns: Callable[[], int] | None = None) -> Iterator[Capture]:
    """Write a capture for the length of a block.

        with open_capture("run.pcapng") as capture:
            async with pair("rdma-memory", capture=capture) as p: ...

    wall_ns: the time of packets in nanoseconds since 1970; the system's by default.
    Raises: ValueError for a path that is not named `*.pcapng`; OSError when the file cannot be opened, and at the end of the
    block when it could not be written.
    """
    if Path(path).suffix != SUFFIX:
        raise ValueError(f"{Path(path)}: a capture is named *{SUFFIX}")
    failed: OSError | None = None
    file = Path(path).open("wb", BUFFER)  # noqa: SIM115 (closed below, with its error kept)

    def attempt(what: Callable[[], object]) -> None:
        nonlocal failed
        if failed is None:
            try:
                what()
            except OSError as error:
                failed = error

    def write(data: View) -> None:
        attempt(lambda: file.write(data))

    try:
        yield Capture(write, wall_ns or system_env().wall_ns, lambda: attempt(file.flush))
    finally:
        try:
            file.close()
        except OSError as error:
            failed = failed or error
    if failed is not None:
        raise OSError(failed.errno, failed.strerror, str(path)) from failed
