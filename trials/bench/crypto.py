"""Trio shell. `crypto.*`: what the pipeline around the cipher costs: nonces, associated data, iterators, tags, hashes.

Tags are hashed up to the root when a leaf of the tree is full, as often as a file written in order has to. Each figure is
measured against `aead`: one-shot calls of the same suite over blocks of the same size, in the same run, with nothing around them.
Time is that of the thread on the processor, as both only compute. Owns what it maps.
"""

import mmap
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from crypto.aead import NONCE_SIZE, SUITES, TAG_SIZE, Suite
from crypto.content import ContentCipher
from crypto.keys import FileKey
from crypto.layout import ENTRY_SIZE, FAN_OUT
from crypto.tagtree import NO_ROOT, TagTree
from iov import Direction, IovIter
from trials.bench.figure import Figure, Pairing
from trials.bench.limits import MB

__all__ = ["FIGURES"]

REQUEST: Final = 1 << 20
_FOR_S: Final = 0.05
ROUNDS: Final = 9
AAD: Final = bytes(32)
MAX_PAGES: Final = 256


class _Room:
    """A request of plain blocks, the area they are sealed in, and a file's cipher and tags."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.count = REQUEST // block
        self.plain = memoryview(mmap.mmap(-1, REQUEST))
        self.plain[:] = os.urandom(REQUEST)
        self.area = memoryview(mmap.mmap(-1, REQUEST + mmap.PAGESIZE))
        self.entries = bytearray(self.count * ENTRY_SIZE)
        key = FileKey(os.urandom(32), bytes(16), suite=Suite.AES_256_GCM, log2bs=block.bit_length() - 1)
        self.cipher = ContentCipher(key)
        self.tree = TagTree(bytes(16), 0, NO_ROOT)
        self.tree.resize(max(self.count, FAN_OUT))
        self.first = 0

    def encrypt(self) -> None:
        """Seal the next request and note its tags; with the last of a leaf, hash up to the root."""
        nonces = os.urandom(self.count * NONCE_SIZE)
        source = IovIter.ubuf(Direction.SOURCE, self.plain)
        self.cipher.seal(source, self.area, self.first, self.count, nonces, self.entries)
        self.tree.set_entries(self.first, self.entries)
        self.first = (self.first + self.count) % self.tree.blocks
        if not self.first:
            self.tree.begin_commit(MAX_PAGES)
            self.tree.end_commit(stored=True)

    def decrypt(self) -> None:
        """Open the first request under the tags of its tree."""
        entries = self.tree.entries(0, self.count)
        self.cipher.open(self.area, entries, 0, self.count, IovIter.ubuf(Direction.DEST, self.plain))


def _calls(block: int, *, encrypting: bool) -> Callable[[], None]:
    """Return one request of nothing but one-shot calls."""
    aead, nonce = SUITES[Suite.AES_256_GCM](os.urandom(32)), os.urandom(NONCE_SIZE)
    count = REQUEST // block
    plain = memoryview(mmap.mmap(-1, REQUEST))
    # Slots lie a page apart from each other, so that copies of neighbours do not meet the processor's slow path.
    stride = block + mmap.PAGESIZE
    sealed = memoryview(mmap.mmap(-1, count * stride))
    plains = [plain[at * block : (at + 1) * block] for at in range(count)]
    slots = [sealed[at * stride : at * stride + block + TAG_SIZE] for at in range(count)]
    for source, slot in zip(plains, slots, strict=True):
        aead.encrypt_into(nonce, source, AAD, slot)

    def encrypt() -> None:
        call = aead.encrypt_into
        for source, slot in zip(plains, slots, strict=True):
            call(nonce, source, AAD, slot)

    def decrypt() -> None:
        call = aead.decrypt_into
        for source, slot in zip(plains, slots, strict=True):
            call(nonce, slot, AAD, source)

    return encrypt if encrypting else decrypt


def _mb_s(request: Callable[[], None]) -> float:
    done = 0
    begun = now = time.thread_time()
    while now - begun < _FOR_S:
        request()
        done += REQUEST
        now = time.thread_time()
    return done / (now - begun) / MB


@asynccontextmanager
async def _pipeline(block: int, *, encrypting: bool) -> AsyncIterator[Pairing]:
    """MB/s through the pipeline, against the same blocks in one-shot calls."""
    room = _Room(block)
    room.encrypt()
    calls = _calls(block, encrypting=encrypting)

    async def value() -> float:
        return _mb_s(room.encrypt if encrypting else room.decrypt)

    async def limit() -> float:
        return _mb_s(calls)

    yield Pairing(value, limit)


def _figures(block: int, encrypt: float, decrypt: float) -> tuple[Figure, Figure]:
    name = f"crypto.pipeline_{block >> 10}k"
    return (
        Figure(f"{name}.encrypt", "MB/s", "aead", encrypt, partial(_pipeline, block, encrypting=True), rounds=ROUNDS),
        Figure(f"{name}.decrypt", "MB/s", "aead", decrypt, partial(_pipeline, block, encrypting=False), rounds=ROUNDS),
    )


FIGURES: Final = (*_figures(1 << 16, 0.90, 0.80), *_figures(1 << 14, 0.70, 0.70), *_figures(1 << 12, 0.55, 0.55))
