"""Sans-IO. The oracle of one file that one client at a time works on: plain bytes, and what may be instead where a call failed.

A call that failed may have taken effect, in part, or may still; a failed fsync may have lost what was written since the last good
one. So beside the bytes there are doubts: ranges with other content that may be found there. Doubts are never settled, since
what is late has no deadline. Sizes are known up to the failed calls that would change them. Owns no memory that is lent out.
"""

from dataclasses import dataclass, field
from typing import Final

__all__ = ["BytesModel"]


@dataclass
class BytesModel:
    """What a file holds. safe: what it held when it was last made durable; unsafe: what was put into it since then.

    doubts: (start, content). least, most: bounds of the size beside that of `data`, from calls that failed. low, high: of the
    sizes there were since it was last made durable; a crash may keep one change of the size and lose the next.
    """

    data: bytearray = field(default_factory=bytearray)
    safe: bytearray = field(default_factory=bytearray)
    unsafe: list[tuple[int, bytes]] = field(default_factory=list)
    doubts: list[tuple[int, bytes]] = field(default_factory=list)
    least: int = 1 << 62
    most: int = 0
    low: int = 1 << 62
    high: int = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """The least and the most bytes the file may have."""
        return min(len(self.data), self.least), max(len(self.data), self.most)

    @property
    def sure(self) -> bool:
        """The size is known."""
        least, most = self.sizes
        return least == most

    def put(self, pos: int, content: bytes) -> None:
        """Note bytes that were put somewhere."""
        self.data.extend(bytes(max(0, pos - len(self.data))))
        self.data[pos : pos + len(content)] = content
        self.unsafe.append((pos, content))
        self._sized()

    def _sized(self) -> None:
        self.low, self.high = min(self.low, len(self.data)), max(self.high, len(self.data))

    def resize(self, size: int) -> None:
        """Note a truncation."""
        gone = self.data[size:]
        if gone:
            self.unsafe.append((size, bytes(len(gone))))
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        self._sized()

    def made_safe(self) -> None:
        """Note that all so far is durable."""
        self.safe = bytearray(self.data)
        self.unsafe.clear()
        self.low = self.high = len(self.data)

    def may_have_put(self, pos: int, content: bytes) -> None:
        """Note that bytes may have been put somewhere, or may yet be."""
        self.doubts.append((pos, content))
        self.most = max(self.most, pos + len(content))
        if pos > self.sizes[0]:
            self.doubts.append((self.sizes[0], bytes(pos - self.sizes[0])))

    def may_have_resized(self, size: int) -> None:
        """Note that the file may have been truncated, or may yet be."""
        self.least, self.most = min(self.least, size), max(self.most, size)
        self.doubts.append((size, bytes(max(0, self.sizes[1] - size))))

    def may_have_lost(self) -> None:
        """Note that what was not safe may be lost, all or in part."""
        for pos, content in self.unsafe:
            self.doubts.append((pos, content))
            old = bytes(self.safe[pos : pos + len(content)])
            self.doubts.append((pos, old.ljust(len(content), b"\0")))
        self.least = min(self.least, len(self.safe), self.low)
        self.most = max(self.most, len(self.safe), self.high)
        if len(self.data) > len(self.safe):
            self.doubts.append((len(self.safe), bytes(len(self.data) - len(self.safe))))

    def check(self, pos: int, length: int, got: bytes | bytearray) -> int | str | None:
        """Compare what a read gave. Returns: None when it may be so, a wrong position, or what is wrong with the count."""
        least, most = (max(0, min(length, size - pos)) for size in self.sizes)
        if not least <= len(got) <= most:
            return f"{len(got)} bytes, where {least} are there" if least == most else f"{len(got)} bytes, not {least} to {most}"
        want = bytes(self.data[pos : pos + len(got)]).ljust(len(got), b"\0")
        if got == want:
            return None
        wrong = _marks(got, want, _DIFFERS)
        for start, content in self.doubts:
            first, last = max(pos, start), min(pos + len(got), start + len(content))
            if first < last:
                same = _marks(got[first - pos : last - pos], content[first - start : last - start], _EQUAL)
                wrong &= ~(same << 8 * (first - pos))
                if not wrong:
                    return None
        return pos + ((wrong & -wrong).bit_length() - 1) // 8


_EQUAL: Final = bytes([1] + [0] * 255)
_DIFFERS: Final = bytes([0] + [1] * 255)


def _marks(one: bytes | bytearray, other: bytes | bytearray, table: bytes) -> int:
    """Compare byte by byte. Returns: a number with a one at the start of each byte that is equal, or that differs."""
    between = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return int.from_bytes(between.to_bytes(len(one), "little").translate(table), "little")
