"""Trio shell. A trace in a file: text, Perfetto or a picture, as the name's suffix says.

Tracing must not break what it watches: the first error of the file ends the writing, not the program, and is told when the trace
is closed. Owns no memory.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import trio

from iov.probe import EventSink
from netfs.tracing.text import TextTrace

__all__ = ["SUFFIXES", "TraceFile", "open_trace"]

SUFFIXES: Final = (".txt", ".pftrace", ".svg")


@runtime_checkable
class TraceFile(Protocol):
    """A trace that is being written."""

    def sink(self, actor: str) -> EventSink:
        """Return the sink for the probe of one side; `actor` is its name in the trace."""


class _Output:
    """A file that remembers its first error instead of raising it."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> None:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error


class _Closable(TraceFile, Protocol):
    def close(self) -> None: ...


def _text(output: _Output, now: Callable[[], float]) -> _Closable:
    return TextTrace(output.write, now)


@contextmanager
def open_trace(path: str | PathLike[str], now: Callable[[], float] = trio.current_time) -> Iterator[TraceFile]:
    """Write a trace for the length of a block: `.txt` is text (`text.py`), `.pftrace` Perfetto's format (`perfetto.py`), `.svg` a
    picture of that (`picture.py`).

        with open_trace("run.pftrace") as trace:
            async with open_client(url, probe=Probe(trace.sink("client"))) as client: ...

    now: the clock, in seconds; of the Trio run by default.
    Raises: ValueError for another suffix; ImportError, with what to install, when the perfetto package is missing; OSError when
    the file cannot be opened, and at the end of the block when it could not be written.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"{Path(path)}: a trace is named {' or '.join('*' + each for each in SUFFIXES)}")
    kind: Callable[[_Output, Callable[[], float]], _Closable]
    if suffix == ".txt":
        kind = _text
    else:
        # Protocol buffers take a while to load, and come with an extra.
        from netfs.tracing.perfetto import PerfettoTrace  # noqa: PLC0415
        from netfs.tracing.picture import PictureTrace  # noqa: PLC0415

        kind = PerfettoTrace if suffix == ".pftrace" else PictureTrace
    output = _Output(Path(path).open("wb"))  # noqa: SIM115 (closed below, with its error kept)
    try:
        trace = kind(output, now)
        try:
            yield trace
        finally:
            trace.close()
    finally:
        output.close()
    if output.error is not None:
        raise output.error
