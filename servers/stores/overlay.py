"""Sans-IO. A stream that can crash: what the last commit made durable is kept under what has been written since.

    pristine    chunks that nothing has touched since the last commit: one copy, both durable and what readers see
    volatile    chunks that were touched: what readers see, and lose in a crash
    durable     what the touched ones were at the last commit, kept aside at the first touch

So a crash puts the kept ones back, a commit drops them. What survives of the volatile may be chosen page by page, as a disk
chooses. For crash tests: the copies aside are not payload and are not counted. Memory: as `extents.py`; the copies are this
stream's own.
"""

from collections.abc import Callable
from typing import Final

from servers.stores.extents import CHUNK, SHIFT, Extents, Span

__all__ = ["Overlay", "Survives"]

PAGE: Final = 4096
Survives = Callable[[], bool]
"""Asked for each page that is not durable, and for the size: whether it outlives the crash."""


class Overlay(Extents):
    """A sparse stream of `size` bytes, of which `durable_size` are durable."""

    __slots__ = ("_kept", "durable_size")

    def __init__(self) -> None:
        super().__init__()
        self.durable_size = 0
        self._kept: dict[int, bytes | None] = {}

    def commit(self) -> None:
        """Make everything durable, except what is still landing."""
        self._kept.clear()
        self.durable_size = self.size
        for index in sorted(self._held()):
            self._keep(index)

    def crash(self, survives: Survives | None = None) -> None:
        """Lose what is volatile, all of it unless `survives` says otherwise of a page."""
        self.spans = []
        for index, kept in sorted(self._kept.items()):
            old = bytes(CHUNK) if kept is None else kept
            chunk = self.chunks.get(index)
            if survives is None and kept is None:
                self.chunks.pop(index, None)
                continue
            if chunk is None:
                chunk = super()._chunk(index, whole=False)
            for off in range(0, CHUNK, PAGE):
                if survives is None or not survives():
                    chunk[off : off + PAGE] = old[off : off + PAGE]
        self._kept.clear()
        size = self.size if survives is not None and survives() else self.durable_size
        self.size = max(self.size, size)
        super().resize(size)
        self.commit()

    def resize(self, size: int) -> None:
        """See `Extents`."""
        self._keep_range(size, self.size)
        super().resize(size)

    def punch(self, start: int, end: int) -> None:
        """See `Extents`."""
        self._keep_range(start, min(end, self.size))
        super().punch(start, end)

    def abandon(self, span: Span) -> None:
        """See `Extents`."""
        self._keep_range(*span)
        super().abandon(span)

    def _chunk(self, index: int, *, whole: bool) -> memoryview:
        self._keep(index)
        return super()._chunk(index, whole=whole)

    def _keep_range(self, start: int, end: int) -> None:
        if start < end:
            for index in [i for i in self.chunks if start >> SHIFT <= i <= (end - 1) >> SHIFT]:
                self._keep(index)

    def _keep(self, index: int) -> None:
        if index not in self._kept:
            chunk = self.chunks.get(index)
            self._kept[index] = None if chunk is None else bytes(chunk)  # door: a copy aside, for the crash test
