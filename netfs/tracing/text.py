"""Sans-IO. Events as lines of text, in the manner of the kernel's tracepoints, for grep.

       0.000214  client0: netfs_sreq: R=00000003[1] DOWN SUBMT f=001 s=4000 0/4000 e=0
       |         |        |           |           |    |     |     |      |    errno
       |         |        |           |           |    |     |     |      transferred/length, hexadecimal
       |         |        |           |           |    |     |     start in the file
       |         |        |           |           |    |     flags
       |         |        |           |           source and what happens
       |         |        |           request 3, its subrequest 1
       seconds since the first event, actor, event

Numbers of bytes and positions are hexadecimal, as in the kernel; errnos and counts are decimal. A line is written when its event
comes. Owns no memory.
"""

from collections.abc import Callable
from typing import Final

from iov.probe import EventSink, Field

__all__ = ["LINES", "TextTrace"]

LINES: Final[dict[str, str]] = {
    "netfs_read": "R={:08x} {} i={:x} s={:x} l={:x} sz={:x}",
    "netfs_write": "R={:08x} {} i={:x} by={:x}-{:x}",
    "netfs_write_iter": "i={:x} s={:x} l={:x}",
    "netfs_rreq": "R={:08x} {} {:<7} f={:02x} {:x}/{:x} e={}",
    "netfs_sreq": "R={:08x}[{:x}] {} {:<5} f={:02x} s={:x} {:x}/{:x} e={}",
    "netfs_failure": "R={:08x}[{:x}] {} f={:02x} s={:x} {:x}/{:x} {} e={}",
    "netfs_folio": "i={:x} ix={:x} {} l={:x}",
    "netfs_collect": "R={:08x} s={:x}-{:x}",
    "netfs_collect_sreq": "R={:08x}[{:x}:{:02x}] s={:x} t={:x}/{:x}",
    "netfs_collect_folio": "R={:08x} ix={:05x} r={:x}-{:x} t={:x}",
    "netfs_collect_gap": "R={:08x}[{:x}:] {:x}->{:x}",
    "netfs_collect_stream": "R={:08x}[{:x}:] cto={:x} n={:x}",
    "netfs_collect_state": "R={:08x} col={:x} cln={:x} f={:02x}",
    "netfs_copy2cache": "R={:08x} CR={:08x}",
    "netfs_wb_lock": "i={:x} {}",
    "level": "{} {}",
    "api_call": "C={:08x} {} {}",
    "api_request": "C={:08x} R={:08x}",
    "api_done": "C={:08x} {} e={}",
    "netfs_call": "R={:08x}[{:x}] {} x={:08x}",
    "crypto_seal": "R={:08x}[{:x}] b={:x} n={} bs={:x}",
    "crypto_open": "R={:08x}[{:x}] b={:x} n={} bs={:x}",
    "audit": "{} file={} block={} e={} {}",
    "connection": "{} {} e={}",
    "call_sent": "x={:08x} {} body={:x} l={:x}",
    "reply_received": "x={:08x} {} st={} l={:x}",
    "call_received": "x={:08x} {} l={:x}",
    "reply_sent": "x={:08x} {} st={} l={:x}",
    "wr_posted": "qp={:x} wr={:x} {} l={:x} sges={} x={:08x}",
    "wr_completed": "qp={:x} wr={:x} {} l={:x} st={}",
    "server_op": "{} st={} in={:x} out={:x}",
}


class TextTrace:
    """Write one line for each event. write: takes bytes; now: the clock, in seconds."""

    def __init__(self, write: Callable[[bytes], object], now: Callable[[], float]) -> None:
        self._write = write
        self._now = now
        self._began: float | None = None

    def sink(self, actor: str) -> EventSink:
        """Return the sink for the probe of `actor`."""

        def record(event: str, fields: tuple[Field, ...]) -> None:
            now = self._now()
            if self._began is None:
                self._began = now
            line = LINES.get(event)
            text = line.format(*fields) if line is not None else " ".join(map(str, fields))
            self._write(f"{now - self._began:13.6f} {actor:>8}: {event}: {text}\n".encode())

        return record

    def close(self) -> None:
        """Every line is written already."""
