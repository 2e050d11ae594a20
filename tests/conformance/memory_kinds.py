"""The same file in memory of every kind, for whatever carries data: scattered folios, queues, indexes, mixed chains, pins."""

from collections.abc import Callable

from iov import (
    PAGE_SIZE,
    BioVec,
    BufferPool,
    BvecQueue,
    Direction,
    FolioQueue,
    IovIter,
    MemType,
    PhysMemory,
    PinLedger,
    XArray,
    bounce_for_device,
    decant,
)
from iov.probe import Probe

__all__ = ["KINDS", "Memory"]


class Memory:
    """Scattered folios that hold `size` bytes of a file, and iterators over them of each kind."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.phys = PhysMemory(128, seed=size)
        self.folios = [self.phys.alloc() for _ in range(-(-size // PAGE_SIZE))]
        self.pool = BufferPool(Probe(), 1 << 17, 4)
        self.finish: Callable[[], None] = lambda: None

    def pieces(self) -> list[BioVec]:
        return [BioVec(folio.memory, 0, min(PAGE_SIZE, self.size - n * PAGE_SIZE)) for n, folio in enumerate(self.folios)]

    def fill(self, data: memoryview) -> None:
        for n, (folio, piece) in enumerate(zip(self.folios, self.pieces(), strict=True)):
            folio.memory[: piece.length] = data[n * PAGE_SIZE : n * PAGE_SIZE + piece.length]

    def holds(self) -> bytes:
        return b"".join(piece.memory[: piece.length] for piece in self.pieces())

    def bvec(self, direction: Direction) -> IovIter:
        return IovIter.bvec(direction, self.pieces())

    def folioq(self, direction: Direction) -> IovIter:
        queue = FolioQueue(3)
        for folio in self.folios:
            queue.append_folio(folio)
        return IovIter.folioq(direction, queue, self.size)

    def xarray(self, direction: Direction) -> IovIter:
        index = XArray()
        for n, folio in enumerate(self.folios):
            index.store(n, folio)
        return IovIter.xarray_range(direction, index, 0, self.size)

    def mixed(self, direction: Direction) -> IovIter:
        """A node of a few pieces each, each of another lifetime class, empty nodes between."""
        queue, pieces = BvecQueue(), self.pieces()
        for n in range(0, len(pieces), 2):
            queue.append(pieces[n : n + 2], MemType(n % 4))
            queue.append([])
        return IovIter.bvecq(direction, queue)

    def decanted(self, direction: Direction) -> IovIter:
        return decant(self.mixed(direction))

    def pinned(self, direction: Direction) -> IovIter:
        ledger = PinLedger(self.phys)
        caller = IovIter.iovec(direction, [piece.memory[: piece.length] for piece in self.pieces()])
        pin = ledger.pin(caller, self.size)

        def finish() -> None:
            pin.release()
            ledger.close()

        self.finish = finish
        return pin.iter

    def copy_only(self, direction: Direction) -> IovIter:
        """Every other piece must not be given to a device."""
        queue = BvecQueue()
        for n, piece in enumerate(self.pieces()):
            queue.append([piece], copy_only=n % 2 == 1)
        bounced = bounce_for_device(IovIter.bvecq(direction, queue), self.pool)
        self.finish = bounced.finish
        return bounced.iter


KINDS = ("bvec", "folioq", "xarray", "mixed", "decanted", "pinned", "copy_only")
