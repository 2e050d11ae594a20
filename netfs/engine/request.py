"""Sans-IO. IoRequest and IoSubrequest: one read or write as the caller meant it, and its parts, each exactly one I/O below.

A request is cut into subrequests (`split`), each is issued through the operations table (`ops`) and ends in exactly one
`terminated`, which runs the collector (`read_collect`, `write_collect`). The collector takes results in file order and, when
nothing is left, calls `wake` once. Nothing here waits. The memory under `iter` is the caller's (or the page cache's), lent to the
request until `wake`; it is lent on to whoever a subrequest was issued to until `terminated`. Objects and flags after
`netfs_io_request` and `netfs_io_subrequest` of Linux netfslib; flags are plain booleans because enum flags cost as much as a
call.
"""

import enum
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iov.iov_iter import IovIter
from transport.base import Abandonable

if TYPE_CHECKING:
    from netfs.cache.folio import Folio
    from netfs.cache.timers import Timer
    from netfs.engine.cache_stream import CacheStream
    from netfs.engine.inode import NetfsInode

__all__ = ["FileChanged", "IoRequest", "IoSubrequest", "Origin", "Source", "Wake", "nobody"]

Wake = Callable[[], None]


def nobody() -> None:
    """Wake nobody: a request that no task waits for."""


class FileChanged(OSError):
    """A write failed because another client has changed the blocks that were read to be written in part.

    The library reads them again, lays the caller's bytes over them and writes once more, a bounded number of times.
    """

    def __init__(self, message: str = "another client has changed the file") -> None:
        super().__init__(errno.EAGAIN, message)


class Origin(enum.Enum):
    """What started a request; the value is the kernel's two-letter code."""

    READAHEAD = "RA"
    READ_FOLIO = "RP"
    READ_GAPS = "RG"
    READ_SINGLE = "R1"
    READ_FOR_WRITE = "RW"
    UNBUFFERED_READ = "UR"
    DIO_READ = "DR"
    WRITEBACK = "WB"
    WRITETHROUGH = "WT"
    UNBUFFERED_WRITE = "UW"
    DIO_WRITE = "DW"
    COPY_TO_CACHE = "2C"


class Source(enum.Enum):
    """Where a subrequest's bytes come from or go to."""

    FILL_WITH_ZEROES = "ZERO"
    DOWNLOAD = "DOWN"
    READ_FROM_CACHE = "READ"
    UPLOAD = "UPLD"
    WRITE_TO_CACHE = "WRIT"


@dataclass(slots=True, eq=False)
class IoSubrequest:
    """One part of a request, from prepare to its last termination.

    start: file position. length: bytes of the whole part, also after a retry. iter: the memory of what is not transferred yet,
    the callee's to consume. max_len: what the prepare hook lowers. transferred: bytes done over all issues. call: what to abandon
    on cancellation, if the one who issued left something here. verifier: of unstably written bytes, 0 for none. boundary: set by
    the prepare hook where a retry must not join this part with the next (the end of an object on the server). staged: what
    `stage_write` prepared.
    """

    request: "IoRequest"
    index: int
    source: Source
    start: int
    length: int
    iter: IovIter
    max_len: int
    transferred: int = 0
    error: Exception | None = None
    call: Abandonable | None = None
    verifier: int = 0
    retry_count: int = 0
    in_progress: bool = False
    made_progress: bool = False
    hit_eof: bool = False
    need_retry: bool = False
    failed: bool = False
    boundary: bool = False
    staged: Abandonable | None = None

    def terminated(self, transferred: int, error: Exception | None = None, *, eof: bool = False, retry: bool = False) -> None:
        """End the current issue: it moved `transferred` bytes, and more will not come.

        Called once per issue by the operations table, from the Trio thread, also from within `issue_read` or `issue_write`.
        A further call for the same issue is ignored; a retry is issued as a new object. From this call on the memory is no
        longer the callee's.

        Args: transferred: bytes of this issue, a prefix of `iter` as it was issued. error: why not all came; ends the subrequest
        unless `retry`. eof: the server's file ends behind these bytes. retry: the rest may succeed if issued again.
        """
        if not self.in_progress:
            return
        self.in_progress = False
        self.call = None
        if transferred > 0:
            self.transferred += transferred
            self.made_progress = True
        elif transferred < 0:
            error, eof, retry = OSError(errno.EIO, "fewer than no bytes were moved"), False, False
        self.error = error
        self.hit_eof = eof
        self.need_retry = retry
        request = self.request
        request.in_flight -= 1
        request.terminated(self)


@dataclass(slots=True, eq=False)
class IoRequest:
    """One read (rreq) or write (wreq).

    start, length: the range in the file, rounded out to blocks where the file has them. iter: the memory for that range, never
    moved by the engine. i_size: as it was at the start. terminated: judges the end of each issue and runs the collector.
    progress: told of each subrequest the collector took; None for direct I/O. wake: called once, when nothing of the request is
    in flight or left to do; `transferred` (a contiguous prefix) and `error` are final then. verifier: boot verifier common to all
    unstable writes of the request. timer: of a retry that waits. cache: the second stream of a write, to a local cache. copy:
    folios the local cache is to have when they are filled, None where there is no cache; inval_counter: the cookie's at the
    start. folios: those the request fills or cleans, in file order, the page cache's. sequential: one subrequest at a time, so
    that a failure leaves no hole before data; ahead: the next one, prepared while this one is on its way, after `launched` has
    told that it is. changed: (start, end) of the bytes that the caller wrote, in a file with blocks; what is around them was read
    when the inode's `others` was `basis`, and what they wrote sent when it was `basis_sent`. debug_id: its number in events.

    Flags: all_queued: everything was cut. paused: no further issue (a failure, or waiting for a retry). short_transfer: later
    data no longer counts. abandoned: the caller was cancelled. advancing: the collector is on the stack, so that a termination
    inside it does not enter it again.
    """

    origin: Origin
    inode: "NetfsInode"
    start: int
    length: int
    iter: IovIter
    i_size: int
    terminated: Callable[[IoSubrequest], None]
    progress: Callable[["IoRequest", IoSubrequest], None] | None = None
    wake: Wake = nobody
    submitted: int = 0
    transferred: int = 0
    error: Exception | None = None
    in_flight: int = 0
    cursor: IovIter | None = None
    subrequests: list[IoSubrequest] = field(default_factory=list)
    nr_subrequests: int = 0
    all_queued: bool = False
    paused: bool = False
    short_transfer: bool = False
    abandoned: bool = False
    advancing: bool = False
    done: bool = False
    verifier: int = 0
    timer: "Timer | None" = None
    ahead: IoSubrequest | None = None
    launched: Wake = nobody
    cache: "CacheStream | None" = None
    copy: "list[Folio] | None" = None
    inval_counter: int = 0
    folios: list["Folio"] = field(default_factory=list)
    sequential: bool = False
    changed: Sequence[tuple[int, int]] = ()
    basis: int = 0
    basis_sent: int = 0
    debug_id: int = 0

    def abandon(self) -> None:
        """Ask that the request end early: nothing more is issued, what is in flight is asked to end. `wake` still follows.

        No effect on a request that is done.
        """
        self.abandoned = True
        self.paused = True
        for subreq in (*self.subrequests, *(self.cache.subrequests if self.cache is not None else ())):
            if subreq.in_progress and subreq.call is not None:
                subreq.call.abandon()
        if self.timer is not None:
            self.timer.fire()
