"""Trio shell. Lies about blocks and tags: flipped, moved, old, of another file, zeroed, cut off, appended.

Blocks lie one behind the other in the data stream, a tag entry of 32 bytes for each in the pages of the tag stream; that is all
these know of the format. Memory: the answers they are given are copies, and theirs to change.
"""

from typing import Final

from crypto.layout import ENTRY_SIZE, FAN_OUT, PAGE_SIZE, PageId, page_pos
from transport.messages import Attr, Handle
from trials.faults.tamper import Attack, Kept, attack

ENTRY_TAG: Final = 12
ENTRY_END: Final = 28


def overlay(content: bytearray, pos: int, piece: bytes | bytearray, at: int) -> bool:
    """Lay `piece`, which belongs at position `at`, over what was read from `pos` on. Returns: whether they met."""
    start, end = max(pos, at), min(pos + len(content), at + len(piece))
    if start >= end:
        return False
    content[start - pos : end - pos] = piece[start - at : end - at]
    return True


def entry_pos(block: int) -> int:
    """Return where the entry of a block lies in the tag stream."""
    return page_pos(PageId(0, block // FAN_OUT)) + block % FAN_OUT * ENTRY_SIZE


class BlockAttack(Attack):
    """A lie about one block, the second of a file that has two."""

    def target(self, handle: Handle) -> int:
        """Return the block to strike."""
        size = self.server.inner.getattr(handle).size
        return min(self.block, max(0, -(-size // self.block_size) - 1))

    def piece(self, content: bytes, block: int) -> bytes:
        """Return a block of a whole data stream."""
        return content[block * self.block_size : (block + 1) * self.block_size]

    def lay_block(self, content: bytearray, pos: int, piece: bytes, block: int) -> bytearray:
        """Show other bytes for a block."""
        if overlay(content, pos, piece, block * self.block_size):
            self.strike()
        return content

    def lay_entry(self, content: bytearray, pos: int, entry: bytes, block: int) -> bytearray:
        """Show another tag entry for a block."""
        if overlay(content, pos, entry, entry_pos(block)):
            self.strike()
        return content

    def past(self, handle: Handle) -> Kept | None:
        """Return the oldest version that differs from what is there now and has data."""
        versions = [kept for kept in self.server.versions(handle) if kept.data]
        return versions[0] if len(versions) > 1 else None


@attack
class Flip(BlockAttack):
    """A01."""

    ID = "A01"
    TEXT = "flip one bit of a block, its nonce, its tag, its tag page or the record"
    VARIANTS = ("block", "nonce", "tag", "entry-state", "page", "record")

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        at = self.target(handle) * self.block_size + self.bit // 8
        if self.variant == "block" and pos <= at < pos + len(content):
            content[at - pos] ^= 1 << self.bit % 8
            self.strike()
        return content

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        entry = entry_pos(self.target(handle))
        first, size = {
            "nonce": (entry, ENTRY_TAG),
            "tag": (entry + ENTRY_TAG, ENTRY_END - ENTRY_TAG),
            "entry-state": (entry + ENTRY_END, ENTRY_SIZE - ENTRY_END),
            "page": (entry // PAGE_SIZE * PAGE_SIZE, PAGE_SIZE),
        }.get(self.variant, (0, 0))
        at = first + self.bit // 8 % size if size else -1
        if pos <= at < pos + len(content):
            content[at - pos] ^= 1 << self.bit % 8
            self.strike()
        return content

    def record(self, handle: Handle, record: bytes) -> bytes:
        if self.variant != "record" or not record:
            return record
        self.strike()
        changed = bytearray(record)
        changed[self.bit // 8 % len(changed)] ^= 1 << self.bit % 8
        return bytes(changed)  # header: a record


@attack
class Swap(BlockAttack):
    """A02."""

    ID = "A02"
    TEXT = "swap two blocks of one file, with or without their tags"
    VARIANTS = ("block", "block+entry")

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        block, whole = self.target(handle), self.server.stream(handle)
        self.lay_block(content, pos, self.piece(whole, 0), block)
        return self.lay_block(content, pos, self.piece(whole, block), 0)

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        if self.variant == "block+entry":
            block, whole = self.target(handle), self.server.stream(handle, aux=True)
            here, there = entry_pos(block), entry_pos(0)
            self.lay_entry(content, pos, whole[there : there + ENTRY_SIZE], block)
            self.lay_entry(content, pos, whole[here : here + ENTRY_SIZE], 0)
        return content


@attack
class FromAnother(BlockAttack):
    """A03."""

    ID = "A03"
    TEXT = "show a block of another file of the volume, with or without its tag"
    VARIANTS = ("block", "block+entry")

    def another(self, handle: Handle) -> Handle | None:
        """Return the file to take from: `other`, or any that has data."""
        if self.other is not None:
            return self.other
        return next((each for each, past in self.server.kept.items() if each != handle and past and past[-1].data), None)

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        other = self.another(handle)
        if other is None or other == handle:
            return content
        block = self.target(handle)
        return self.lay_block(content, pos, self.piece(self.server.stream(other), block), block)

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        other = self.another(handle)
        if self.variant == "block+entry" and other not in {None, handle}:
            block = self.target(handle)
            whole = self.server.stream(Handle(other or b""), aux=True)
            self.lay_entry(content, pos, whole[entry_pos(block) : entry_pos(block) + ENTRY_SIZE], block)
        return content


@attack
class Replay(BlockAttack):
    """A04."""

    ID = "A04"
    TEXT = "show an old block, alone, with its old tag, or with its whole old tag page"
    VARIANTS = ("block", "block+entry", "block+page")

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        past, block = self.past(handle), self.target(handle)
        return content if past is None else self.lay_block(content, pos, self.piece(past.data, block), block)

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        past, at = self.past(handle), entry_pos(self.target(handle))
        if past is None or self.variant == "block":
            return content
        if self.variant == "block+page":
            at = at // PAGE_SIZE * PAGE_SIZE
        end = at + (PAGE_SIZE if self.variant == "block+page" else ENTRY_SIZE)
        if overlay(content, pos, past.aux[at:end], at):
            self.strike()
        return content


@attack
class Duplicate(BlockAttack):
    """A05."""

    ID = "A05"
    TEXT = "show a block twice, or leave one out so that the rest moves up"
    VARIANTS = ("duplicate", "shift")

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        block, whole = self.target(handle), self.server.stream(handle)
        if self.variant == "duplicate":
            return self.lay_block(content, pos, self.piece(whole, block - 1), block)
        moved = whole[(block + 1) * self.block_size :]
        if overlay(content, pos, moved, block * self.block_size):
            self.strike()
        return content


@attack
class Zeros(BlockAttack):
    """A06."""

    ID = "A06"
    TEXT = "show zeros for a block, as a hole would read, or fill a short answer with them"
    VARIANTS = ("zeros", "short")

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        at = self.target(handle) * self.block_size
        half = self.block_size // 2 if self.variant == "short" else 0
        if overlay(content, pos, bytes(self.block_size - half), at + half):
            self.strike()
        return content


@attack
class Unhole(BlockAttack):
    """A07."""

    ID = "A07"
    TEXT = "show old or other ciphertext where the file has a hole"

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        for at in range(0, wanted, self.block_size):
            if not any(content[at : at + self.block_size]):
                content[at : at + self.block_size] = bytes(range(256)) * (self.block_size // 256)
                self.strike()
        return content


@attack
class CutOff(BlockAttack):
    """A08."""

    ID = "A08"
    TEXT = "cut the data at a block or inside one, or tell a smaller size"
    VARIANTS = ("boundary", "middle", "size")

    def end(self, handle: Handle) -> int:
        """Return where the file seems to end."""
        return self.target(handle) * self.block_size + (self.block_size // 3 if self.variant == "middle" else 0)

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        end = self.end(handle)
        if self.variant != "size" and pos + len(content) > end:
            self.strike()
            del content[max(0, end - pos) :]
        return content

    def attr(self, handle: Handle, attr: Attr) -> Attr:
        if attr.size > self.block_size:
            self.strike()
            attr.size = self.end(handle)
        return attr


@attack
class Append(BlockAttack):
    """A09."""

    ID = "A09"
    TEXT = "show blocks behind the end, and tell a larger size"
    VARIANTS = ("data", "size")

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        if self.variant == "data" and len(content) < wanted:
            self.strike()
            content += bytes(range(256)) * ((wanted - len(content)) // 256)
        return content

    def attr(self, handle: Handle, attr: Attr) -> Attr:
        if attr.size:
            self.strike()
            attr.size += 3 * self.block_size
        return attr


@attack
class Rollback(BlockAttack):
    """A10."""

    ID = "A10"
    TEXT = "show a whole file as it was: data, tags and record"

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        past = self.past(handle)
        return content if past is None else bytearray(past.data[pos : pos + wanted])

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        past = self.past(handle)
        return content if past is None else bytearray(past.aux[pos : pos + max(PAGE_SIZE, len(content))])

    def record(self, handle: Handle, record: bytes) -> bytes:
        versions = [kept.record for kept in self.server.versions(handle) if kept.record]
        if len(versions) < 2 or versions[0] == record:
            return record
        self.strike()
        past = self.past(handle)
        return versions[0] if past is None else past.record


@attack
class Gone(BlockAttack):
    """A44."""

    ID = "A44"
    TEXT = "lose an object: no data, no tags, no record; or answer with errors that mean nothing"
    VARIANTS = ("data", "tags", "record", "enoent", "enospc", "eio", "garbage")

    def fail(self) -> None:
        """Raise what the variant answers."""
        code = {"enoent": 2, "enospc": 28, "eio": 5, "garbage": 3999}.get(self.variant)
        if code is not None:
            self.strike()
            raise OSError(code, "so the server says")

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        self.fail()
        if self.variant == "data":
            self.strike()
            content.clear()
        return content

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        if self.variant == "tags":
            self.strike()
            content.clear()
        return content

    def record(self, handle: Handle, record: bytes) -> bytes:
        if self.variant == "record" and record:
            self.strike()
            return b""
        return record


@attack
class Reflect(BlockAttack):
    """A48."""

    ID = "A48"
    TEXT = "answer with the client's own bytes of another place, or with an older record of the same file"
    VARIANTS = ("data", "record")

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        if self.variant == "data" and pos == 0 and len(content) > self.block_size:
            self.strike()
            content[:] = content[self.block_size :] + content[: self.block_size]
        return content

    def record(self, handle: Handle, record: bytes) -> bytes:
        versions = [kept.record for kept in self.server.versions(handle) if kept.record]
        if self.variant == "record" and len(versions) > 1:
            self.strike()
            return versions[-2]
        return record
