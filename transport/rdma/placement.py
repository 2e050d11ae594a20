"""Sans-IO. Placement: the bytes of a WRITE or READ arrive in pieces and in an order of the generator's choice.

    device.placement = Placement(random.Random(7), look)

No device promises the order in which the bytes of one message appear; a program that polls the last byte works until it does not.
With a `Placement` on the device whose memory is written, every piece is a step of its own: `look` is called between two of them,
when a program may read the memory, poll, invalidate a region or take a queue pair to ERR. A region that is gone takes no further
piece. A completion comes after the last piece, as ever. Owns no memory. Follows IBA 9.5 and 10.8.3.3 (no order within a message).
"""

from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["Placement", "Shuffler"]

SMALLEST: Final = 8
"""What an ATOMIC_WRITE places at once is not divided."""


class Shuffler(Protocol):
    """What is asked of a `random.Random`."""

    def shuffle(self, x: list[tuple[memoryview, memoryview]], /) -> object:
        """Put the list into another order, in place."""


class Placement:
    """The order of the pieces of each message; the seed is the generator's. segment: bytes of a piece."""

    __slots__ = ("look", "rng", "segment")

    def __init__(self, rng: Shuffler, look: Callable[[], object] | None = None, segment: int = 256) -> None:
        if segment < SMALLEST:
            raise ValueError(f"a piece has at least {SMALLEST} bytes")
        self.rng = rng
        self.look = look
        self.segment = segment

    def move(self, dest: list[memoryview], source: list[memoryview], allowed: Callable[[], bool]) -> bool:
        """Copy all of `source` to the start of `dest`, piece by piece; False when `allowed` ended it in between."""
        pieces = self._pieces(dest, source)
        self.rng.shuffle(pieces)
        for index, (target, piece) in enumerate(pieces):
            if index:
                if self.look is not None:
                    self.look()
                if not allowed():
                    return False
            target[:] = piece
        return True

    def _pieces(self, dest: list[memoryview], source: list[memoryview]) -> list[tuple[memoryview, memoryview]]:
        pieces: list[tuple[memoryview, memoryview]] = []
        index = off = 0
        for view in source:
            start = 0
            while start < len(view):
                room = len(dest[index]) - off
                if not room:
                    index, off = index + 1, 0
                    continue
                step = min(room, len(view) - start, self.segment)
                pieces.append((dest[index][off : off + step], view[start : start + step]))
                start += step
                off += step
        return pieces
