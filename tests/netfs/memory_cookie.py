"""A local cache's cookie in plain memory: everything it does is done at once, unless it is told to fail or to hold."""

from collections.abc import Callable

from iov.copy_iter import copy_from_iter, copy_to_iter
from iov.iov_iter import IovIter
from netfs.cache.base import CacheDone, Cookie, Extent, ExtentKind


class MemoryCookie(Cookie):
    """fails: errors of the next operations, in order, with the bytes they move before. held: what waits while `hold` is set."""

    def __init__(self, granularity: int = 4096) -> None:
        self.granularity = granularity
        self.inval_counter = 0
        self.data = bytearray()
        self.known = bytearray()
        self.live = True
        self.fails: list[tuple[int, Exception]] = []
        self.hold = False
        self.held: list[Callable[[], None]] = []
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self.invalidated: list[str] = []
        self.in_flight = 0

    @property
    def usable(self) -> bool:
        return self.live

    def put(self, pos: int, data: bytes) -> None:
        """Have `data` cached at `pos`."""
        self._grow(pos + len(data))
        self.data[pos : pos + len(data)] = data
        self.known[pos : pos + len(data)] = b"\1" * len(data)

    def next_extent(self, start: int, end: int) -> Extent | None:
        at = self.known.find(1, start, end)
        if at < 0:
            return None
        upto = self.known.find(0, at, end)
        return Extent(at, min(end, len(self.known)) if upto < 0 else upto, ExtentKind.DATA)

    def read(self, pos: int, dest: IovIter, done: CacheDone) -> None:
        self.reads.append((pos, dest.count))
        counter = self.inval_counter

        def run() -> None:
            moved, error = self.fails.pop(0) if self.fails else (dest.count, None)
            if counter != self.inval_counter:
                moved, error = 0, OSError(116, "invalidated")
            copy_to_iter(memoryview(self.data)[pos : pos + moved], dest.copy())
            done(moved, error)

        self._run(run)

    def forget(self, start: int, end: int) -> None:
        first, stop = start - start % self.granularity, min(end + -end % self.granularity, len(self.known))
        self.known[first:stop] = bytes(max(0, stop - first))

    def prepare_write(self, start: int, end: int) -> tuple[int, int] | None:
        return (start - start % self.granularity, end) if self.live else None

    def write(self, pos: int, source: IovIter, done: CacheDone) -> None:
        self.writes.append((pos, source.count))
        counter = self.inval_counter

        def run() -> None:
            moved, error = self.fails.pop(0) if self.fails else (source.count, None)
            if error is None and counter == self.inval_counter:
                buffer = bytearray(source.count)
                copy_from_iter(buffer, source.copy())
                self.put(pos, bytes(buffer))
            done(moved, error)

        self._run(run)

    def invalidate(self, why: str) -> None:
        self.inval_counter += 1
        self.invalidated.append(why)
        self.known = bytearray()

    def resize(self, size: int) -> None:
        del self.known[size:]

    def let_go(self) -> None:
        """End what is held."""
        self.hold = False
        while self.held:
            self.held.pop(0)()

    def _grow(self, size: int) -> None:
        self.data.extend(bytes(max(0, size - len(self.data))))
        self.known.extend(bytes(max(0, size - len(self.known))))

    def _run(self, run: Callable[[], None]) -> None:
        self.in_flight += 1

        def ended() -> None:
            self.in_flight -= 1
            run()

        if self.hold:
            self.held.append(ended)
        else:
            ended()
