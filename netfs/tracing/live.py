"""Sans-IO. The table of requests that are under way, as the kernel's /proc/fs/netfs/requests has it.

    REQUEST  OR REF FLAG ERR OPS COVERAGE
    00000003 DR   3 01     0   2 @4000 8000/10000

OR: the origin's code. REF: the request itself and the subrequests that refer to it. FLAG: the bits of `request_flags`. OPS:
subrequests in flight. COVERAGE: start, bytes cut into subrequests so far, and length, hexadecimal. Needs no sink. Owns no memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from netfs.engine.events import errno_of, request_flags
from netfs.engine.inode import NetfsInode
from netfs.engine.request import Origin

__all__ = ["HEADER", "LiveRequest", "live_requests", "live_table"]

HEADER: Final = "REQUEST  OR REF FLAG ERR OPS COVERAGE"


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """One request under way; the fields are the table's columns."""

    request: int
    origin: str
    refs: int
    flags: int
    error: int
    in_flight: int
    start: int
    submitted: int
    length: int

    def __str__(self) -> str:
        coverage = f"@{self.start:x} {self.submitted:x}/{self.length:x}"
        return f"{self.request:08x} {self.origin} {self.refs:3} {self.flags:02x}   {self.error:3} {self.in_flight:3} {coverage}"


def live_requests(inodes: Iterable[NetfsInode], singles: Iterable[tuple[int, int]] = ()) -> list[LiveRequest]:
    """Return the requests of these files that have begun and not ended, in the order of their numbers.

    singles: number and length of those that read a small file as a whole, which have one part and no open file.
    """
    found = [
        LiveRequest(
            rreq.debug_id,
            rreq.origin.value,
            1 + len(rreq.subrequests),
            request_flags(rreq),
            errno_of(rreq.error),
            rreq.in_flight,
            rreq.start,
            rreq.submitted,
            rreq.length,
        )
        for inode in inodes
        for rreq in inode.requests.values()
    ]
    code, flags = Origin.READ_SINGLE.value, 3  # in progress, all queued
    found += [LiveRequest(number, code, 2, flags, 0, 1, 0, length, length) for number, length in singles]
    return sorted(found, key=lambda row: row.request)


def live_table(rows: Iterable[LiveRequest]) -> str:
    """Return the table as text, its header included."""
    return "\n".join([HEADER, *map(str, rows)])
