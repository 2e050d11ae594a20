"""Sans-IO. CacheStream: the second stream of a write request, which gives a local cache what the first gives the server.

    stream 0, server   |--- WRITE ---|--- WRITE ---|- WRITE -|          what is dirty, cut by wsize
    stream 1, cache  |----- granules -----|        |-- granules --|     what may be cached, cut by the cache; holes are normal

The two are cut independently and end independently; a folio is let go when both are past it (`done_to`). Data that was read and
is only to be copied to the cache is a request whose first stream is empty. The stream never fails its request: at the first
error the rest is cancelled and the cookie forgets the file, and when the server does not take what was cached, too. After the
cache stream of Linux netfslib's write_issue.c and write_collect.c. Owns no memory.
"""

from typing import Final

from iov.iov_iter import IovIter
from netfs.engine.collect import advance
from netfs.engine.events import trace_collected, trace_collecting, trace_failure, trace_gap, trace_sreq, trace_taken
from netfs.engine.request import IoRequest, IoSubrequest, Source

__all__ = ["END", "CacheStream"]

MAX_CACHE_WRITE: Final = 1 << 20
MAX_IN_FLIGHT: Final = 4
END: Final = 1 << 63
"""Behind every position."""


class _CacheSubrequest(IoSubrequest):
    """A part of the stream; its end concerns the stream alone."""

    __slots__ = ("stream",)

    stream: "CacheStream"

    def terminated(self, transferred: int, error: Exception | None = None, *, eof: bool = False, retry: bool = False) -> None:
        """End the write: it moved `transferred` bytes. A second call for it is ignored."""
        del eof, retry  # a cache has no end of file, and nothing is tried twice on its behalf
        if not self.in_progress:
            return
        self.in_progress = False
        self.call = None
        self.transferred = transferred
        self.error = error
        self.failed = error is not None or transferred < self.length
        self.stream.ended(self)


class CacheStream:
    """What of a request goes to the cache: `pieces` of (position, memory), in file order, whole granules, not overlapping."""

    __slots__ = ("_inval", "_running", "nr_subrequests", "pieces", "request", "stopped", "subrequests")

    def __init__(self, request: IoRequest, pieces: list[tuple[int, IovIter]]) -> None:
        cookie = request.inode.cookie
        assert cookie is not None and pieces, "a cache stream needs a cache and something for it"
        self.request = request
        self.pieces = pieces
        self.subrequests: list[_CacheSubrequest] = []
        self.nr_subrequests = 0
        self.stopped = False
        self._running = False
        self._inval = cookie.inval_counter

    @property
    def done_to(self) -> int:
        """Before this position nothing is in flight or left to write."""
        if self.subrequests:
            return self.subrequests[0].start
        return self.pieces[0][0] if self.pieces else END

    def run(self) -> None:
        """Issue what may go now; take from the front what has ended."""
        if self._running:
            return
        self._running = True
        cookie = self.request.inode.cookie
        if cookie is None or cookie.inval_counter != self._inval:
            self._stop()  # what is left is older than the invalidation
        while self.pieces and len(self.subrequests) < MAX_IN_FLIGHT:
            self._issue()
        self._running = False
        self._take()

    def ended(self, subreq: _CacheSubrequest) -> None:
        """Take the end of a part."""
        request = self.request
        if request.inode.probe.sink is not None:
            trace_sreq(subreq, "TERM")
            if subreq.failed:
                trace_failure(subreq, "cache-write")
        if subreq.failed and not self.stopped:
            self._stop()
            cookie = request.inode.cookie
            if cookie is not None:
                cookie.invalidate("a write to the cache failed")
        if not self._running:
            self.run()

    def server_failed(self) -> None:
        """The server did not take all of the request: what the cache has of it must not be believed."""
        self._stop()
        cookie = self.request.inode.cookie
        if cookie is not None:
            cookie.invalidate("the server did not take what was cached")

    def _stop(self) -> None:
        self.stopped = True
        self.pieces.clear()

    def _issue(self) -> None:
        pos, memory = self.pieces.pop(0)
        if memory.count > MAX_CACHE_WRITE:
            self.pieces.insert(0, (pos + MAX_CACHE_WRITE, memory))
            memory = memory.slice(MAX_CACHE_WRITE)
        request = self.request
        length = memory.count
        subreq = _CacheSubrequest(request, self.nr_subrequests, Source.WRITE_TO_CACHE, pos, length, memory, length)
        subreq.stream = self
        subreq.in_progress = True
        self.nr_subrequests += 1
        self.subrequests.append(subreq)
        request.inode.probe.subrequests += 1
        if request.inode.probe.sink is not None:
            trace_sreq(subreq, "PREP")
            trace_sreq(subreq, "SUBMT")
        try:
            request.inode.ops.issue_cache_write(subreq)
        except Exception as error:  # noqa: BLE001 (a cache never fails an I/O)
            subreq.terminated(0, error)

    def _take(self) -> None:
        took = False
        request = self.request
        traced = request.inode.probe.sink is not None
        while self.subrequests and not self.subrequests[0].in_progress:
            front = self.subrequests.pop(0)
            if traced:
                if not took:
                    trace_collecting(request, front.start)
                trace_taken(front, 1, "CANCL" if front.failed else "CONSM")
                if front.start + front.length < self.done_to < END:
                    trace_gap(request, 1, front.start + front.length, self.done_to)
            took = True
            if request.progress is not None:
                request.progress(request, front)
        if took:
            if traced:
                trace_collected(request, 1, min(self.done_to, request.start + request.length), len(self.subrequests))
            advance(request)
