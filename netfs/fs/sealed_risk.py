"""Sans-IO. Risk: what a start of the server may have taken of what was written to an encrypted file and not committed.

Claims end with the server. Then it may have lost such a block in a power cut, and another client may write over it; so it is
looked at before it is committed, and once more whenever others have committed since. Owns no memory.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Claim", "Risk"]


@dataclass(slots=True)
class Claim:
    """Blocks that only this client writes to. since: what `others` was when it was taken. again: one more commit leaves it."""

    first: int
    end: int
    key: int
    since: int
    again: bool = False


class Risk:
    """Blocks at risk, each with how often others had committed (`SealedFile.others`) when it was seen to be there; -1: not since.

    boot: of the start of the server that was noticed last.
    """

    __slots__ = ("_seen", "boot")

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self.boot = 0

    def __bool__(self) -> bool:
        return bool(self._seen)

    def covers(self, block: int, others: int) -> bool:
        """Say whether what was written of a block may not be there, lost or written over."""
        return self._seen.get(block, others) < others

    def started_again(self, boot: int, written: Callable[[], Iterable[int]]) -> None:
        """The server was, unless that was noticed before. written: returns the blocks that are not committed."""
        if boot != self.boot:
            self.boot = boot
            self._seen.update(dict.fromkeys(written(), -1))

    def unguarded(self, gone: Sequence[Claim], written: Callable[[], Iterable[int]]) -> None:
        """What was written under claims that are gone is anybody's to write over, and perhaps lost with them."""
        for block in written() if gone else ():
            if any(claim.first <= block < claim.end for claim in gone):
                self._seen.setdefault(block, -1)

    def written(self, first: int, count: int, *, is_over: bool) -> None:
        """Blocks were written; is_over: in a boot that has ended since."""
        if is_over:
            self._seen.update(dict.fromkeys(range(first, first + count), -1))
        elif self._seen:
            for block in range(first, first + count):
                self._seen.pop(block, None)

    def seen(self, block: int, others: int) -> None:
        """A block is there, as it was written."""
        self._seen[block] = others

    def gone(self, block: int) -> None:
        """A block is not there, which is settled."""
        self._seen.pop(block, None)

    def end(self) -> None:
        """All that was written is committed, or forgotten."""
        self._seen.clear()
