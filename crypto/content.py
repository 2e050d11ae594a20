"""Sans-IO. Seal and open content blocks between an iterator and a landing area; one AEAD call per block, no copy beside it.

    area (page aligned)   |block 0 |block 1 |block 2 |tail|      block i at i·B, 16 bytes of tail behind the last
    seal, ascending       |cccccccc|tttt                          the tag lands on block 1: lift it, then encrypt block 1
    open, ascending       |cccccccc|tttt|cccc                     lay tag 0 over the start of block 1, decrypt, restore it

A block that lies in one piece of the iterator goes straight from or to it; one in pieces, or wanted only in part, is staged (a
streaming cipher context over the pieces is slower). Calls on different areas may run in different threads.
The area must be memory that no peer can write while `open` runs: fence it first. The inner loops are the hot path of the package
and run from map to map, so that the interpreter does little between two blocks. Ownership: iterator memory and area are the
caller's; stages are kept here for reuse.
"""

import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import chain, repeat
from struct import unpack_from
from typing import Final

from crypto.aead import NONCE_SIZE, TAG_SIZE, InvalidTag, wipe
from crypto.errors import IntegrityError
from crypto.keys import FileKey
from crypto.layout import ENTRY_SIZE, SEGMENT_BLOCKS
from iov.copy_iter import copy_from_iter, copy_to_iter, zero_iter
from iov.extract import peek_segments
from iov.iov_iter import IovIter, IterType

__all__ = ["DATA", "HOLE", "ContentCipher", "entry_state"]

HOLE: Final = 0
DATA: Final = 1
REKEY_SHIFT: Final = 2
STATE_MASK: Final = 3
Bytes = bytes | bytearray | memoryview

ENTRY: Final = f"{NONCE_SIZE}s{TAG_SIZE}sI"
AAD: Final = struct.Struct("<16sQIBB2x")
tag_at: Final = struct.Struct(f"{TAG_SIZE}s").unpack_from
put_tag: Final = struct.Struct(f"{TAG_SIZE}s").pack_into


def entry_state(word: int) -> tuple[int, int]:
    """Split the last word of an entry. Returns: (HOLE, DATA or a value we do not speak; rekey number)."""
    return word & STATE_MASK, word >> REKEY_SHIFT


class ContentCipher:
    """The blocks of one file, between plain iterators and ciphertext in landing areas."""

    __slots__ = ("_blocks", "_slots", "_stages", "block_size", "key")

    def __init__(self, key: FileKey) -> None:
        self.key = key
        self.block_size = 1 << key.log2bs
        self._blocks: tuple[slice, ...] = ()
        self._slots: tuple[slice, ...] = ()
        self._stages: list[bytearray] = []

    def seal(
        self,
        source: IovIter,
        area: memoryview,
        first_block: int,
        nr_blocks: int,
        nonces: bytes,
        entries: bytearray | memoryview,
        rekey: int = 0,
    ) -> int:
        """Encrypt blocks from `source` into `area` and write their tag entries.

        `source` may end inside the last block; the rest of that block is zeros. `nonces`: 12 fresh bytes per block; `entries`:
        takes 32 bytes per block; `area`: nr_blocks blocks and a tail of 16 bytes.
        Returns: bytes that had to be staged.
        """
        self._check(area, nr_blocks, entries)
        if len(nonces) != nr_blocks * NONCE_SIZE or (nr_blocks - 1) * self.block_size >= source.count:
            raise ValueError("a nonce for each block, and some plaintext at least are needed")
        size, done, staged = self.block_size, 0, 0
        parts: list[bytes] = []
        while done < nr_blocks:
            left = nr_blocks - done
            seg = front(source, left * size)
            run = len(seg) // size
            if run:
                self._seal_run(seg, area, first_block, done, run, nonces, rekey, parts)
                source.advance(run * size)
                done += run
                continue
            stage = self._take_stage()
            got = copy_from_iter(stage, source)
            if got < size:
                wipe(memoryview(stage)[got:])
            self._seal_run(memoryview(stage), area, first_block, done, 1, nonces, rekey, parts)
            self._stages.append(stage)
            done += 1
            staged += got
        memoryview(entries)[: nr_blocks * ENTRY_SIZE] = b"".join(parts)  # header: nonces and tags, no payload
        return staged

    def open(
        self,
        area: memoryview,
        entries: Bytes,
        first_block: int,
        nr_blocks: int,
        dest: IovIter,
        skip: int = 0,
    ) -> int:
        """Verify and decrypt blocks from `area` into `dest`, dropping the first `skip` bytes of the first block.

        `entries`: the verified entries of these blocks. `dest` may end inside the last block. Blocks that are holes become zeros,
        whatever the area holds.
        Returns: bytes that had to be staged. Raises: IntegrityError; the blocks before the bad one are in `dest`, the part of
        `dest` for it is zero, and the area is as it was, so that the caller may try again with newer entries.
        """
        self._check(area, nr_blocks, entries)
        size, done, staged = self.block_size, 0, 0
        if not 0 <= skip < size or dest.count + skip > nr_blocks * size:
            raise ValueError("the destination does not lie in these blocks")
        while done < nr_blocks and dest.count:
            seg = None if skip or dest.count < size else self._whole_blocks(dest, nr_blocks - done)
            if seg is not None:
                run = len(seg) // size
                self._open_run(area, entries, first_block, done, run, seg)
                dest.advance(run * size)
                done += run
                continue
            stage = self._take_stage()
            view = memoryview(stage)
            wanted = min(size - skip, dest.count)
            try:
                self._open_run(area, entries, first_block, done, 1, view)
                copy_to_iter(view[skip : skip + wanted], dest)
            except IntegrityError:
                zero_iter(wanted, dest)
                raise
            finally:
                wipe(view)
                self._stages.append(stage)
            skip = 0
            done += 1
            staged += wanted
        return staged

    def _seal_run(
        self,
        seg: memoryview,
        area: memoryview,
        first_block: int,
        done: int,
        run: int,
        nonces: bytes,
        rekey: int,
        parts: list[bytes],
    ) -> None:
        """Encrypt `run` blocks that lie at the start of `seg` into the slots from `done` on."""
        size, key = self.block_size, self.key
        state = (DATA | rekey << REKEY_SHIFT).to_bytes(4, "little")
        at = 0
        while at < run:
            block = first_block + done + at
            n = min(run - at, SEGMENT_BLOCKS - block % SEGMENT_BLOCKS)
            slot = done + at
            fresh = unpack_from(f"{NONCE_SIZE}s" * n, nonces, slot * NONCE_SIZE)
            # Row by row: a block is encrypted, then its tag is lifted, before the next block overwrites it.
            rows = zip(
                map(
                    key.subkey(rekey, block).encrypt_into,
                    fresh,
                    map(seg.__getitem__, self._blocks[at : at + n]),
                    self._aads(block, n, rekey),
                    map(area.__getitem__, self._slots[slot : slot + n]),
                ),
                map(tag_at, repeat(area), range((slot + 1) * size, (slot + n + 1) * size, size)),
                strict=True,
            )
            parts += chain.from_iterable(zip(fresh, [tag for _, (tag,) in rows], repeat(state)))
            at += n

    def _open_run(self, area: memoryview, entries: Bytes, first_block: int, done: int, run: int, out: memoryview) -> None:
        """Decrypt `run` blocks from the slots from `done` on to the start of `out`."""
        size = self.block_size
        fields = unpack_from("<" + ENTRY * run, entries, done * ENTRY_SIZE)
        nonces, tags, states = fields[::3], fields[1::3], fields[2::3]
        at = 0
        while at < run:
            block, state = first_block + done + at, states[at]
            n = min(run - at, SEGMENT_BLOCKS - block % SEGMENT_BLOCKS)
            if states.count(state) != run:
                n = next((after for after in range(1, n) if states[at + after] != state), n)
            if state == HOLE:
                wipe(out[at * size : (at + n) * size])
            elif entry_state(state)[0] != DATA:
                wipe(out[at * size : (at + 1) * size])
                raise IntegrityError("a block is in a state we do not speak", file_id=self.key.file_id, block_no=block)
            else:
                self._open_alike(area, done + at, block, state, nonces[at : at + n], tags[at : at + n], out[at * size :])
            at += n

    def _open_alike(
        self, area: memoryview, slot: int, block: int, state: int, nonces: Sequence[bytes], tags: Sequence[bytes], out: memoryview
    ) -> None:  # fmt: skip
        """Decrypt blocks of one subkey from the slots from `slot` on to the start of `out`."""
        size, key, n = self.block_size, self.key, len(nonces)
        _, rekey = entry_state(state)
        ends = range((slot + 1) * size, (slot + n + 1) * size, size)
        saved = [start for (start,) in map(tag_at, repeat(area), ends)]
        done: list[object] = []
        try:
            # Row by row: the tag is laid behind its block, the block is decrypted, what the tag hid is put back.
            done.extend(
                zip(
                    map(put_tag, repeat(area), ends, tags),
                    map(
                        key.subkey(rekey, block).decrypt_unwiped,
                        nonces,
                        map(area.__getitem__, self._slots[slot : slot + n]),
                        self._aads(block, n, rekey),
                        map(out.__getitem__, self._blocks[:n]),
                    ),
                    map(put_tag, repeat(area), ends, saved),
                    strict=True,
                )
            )
        except BaseException as error:
            at = len(done)
            wipe(out[at * size : (at + 1) * size])
            put_tag(area, ends[at], saved[at])
            if not isinstance(error, InvalidTag):
                raise
            raise IntegrityError("a block is not what was written", file_id=key.file_id, block_no=block + at) from None

    def _aads(self, block: int, count: int, rekey: int) -> tuple[bytes, ...]:
        """Return the associated data of consecutive blocks: rows that are alike but for the number, which are made at once."""
        key = self.key
        words = array("Q", AAD.pack(key.file_id, 0, rekey, key.suite, key.log2bs) * count)
        numbers = array("Q", range(block, block + count))
        if sys.byteorder == "big":
            numbers.byteswap()
        words[2::4] = numbers
        return unpack_from(f"{AAD.size}s" * count, words)

    def _whole_blocks(self, dest: IovIter, most: int) -> memoryview | None:
        """Return the memory `dest` stands on if whole blocks lie there in one piece."""
        if dest.iter_type is IterType.DISCARD:
            return None
        seg = front(dest, most * self.block_size)
        whole = len(seg) >> self.key.log2bs << self.key.log2bs
        return seg[:whole] if whole else None

    def _take_stage(self) -> bytearray:
        try:
            return self._stages.pop()
        except IndexError:
            return bytearray(self.block_size)

    def _check(self, area: memoryview, nr_blocks: int, entries: Bytes) -> None:
        if nr_blocks <= 0 or len(area) < nr_blocks * self.block_size + TAG_SIZE or len(entries) < nr_blocks * ENTRY_SIZE:
            raise ValueError("area or entries are too small for the blocks")
        if len(self._blocks) < nr_blocks:
            size = self.block_size
            self._slots = tuple(slice(at, at + size + TAG_SIZE) for at in range(0, nr_blocks * size, size))
            self._blocks = tuple(slice(at, at + size) for at in range(0, nr_blocks * size, size))


def front(it: IovIter, most: int) -> memoryview:
    """Return the memory the iterator stands on, at most `most` bytes in one piece; its commonest kind is looked at first."""
    mem = it.mem
    if mem is not None:
        return mem[it.off : it.off + min(most, it.count)]
    return peek_segments(it, most, 1)[0]
