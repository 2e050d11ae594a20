"""A ledger of every encryption of the whole run: no key may meet one nonce with two plaintexts.

It stands at the only door to the AEADs (`crypto/aead.py`). A simulation that is run twice encrypts the same twice, which tells
nobody anything; anything else that repeats a nonce fails the test in which it happens, whatever that test is about. What a
test encrypts with chosen nonces, as a vector does, goes around the door or has `chosen_nonces`.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

from crypto import aead

__all__ = ["NonceUsedTwice", "chosen_nonces", "entries", "install", "world"]


class NonceUsedTwice(AssertionError):
    """One nonce, one key, two plaintexts: with GCM that gives away both, and the key of the tags."""


class Ledger:
    """What was encrypted: a digest of key and nonce, and a checksum of the plaintext."""

    def __init__(self) -> None:
        self.seen: dict[bytes, int] = {}
        self.watching = True
        self.world = b""

    def note(self, key: bytes, nonce: aead.Bytes, plain: aead.Bytes) -> None:
        """Take one encryption."""
        if not self.watching:
            return
        who = blake2b(self.world + key + b"\0" + bytes(nonce), digest_size=16).digest()
        what = zlib.crc32(plain, len(plain))
        if self.seen.setdefault(who, what) != what:
            raise NonceUsedTwice(f"nonce {bytes(nonce).hex()} was used for two plaintexts under one key")


LEDGER = Ledger()


def entries() -> int:
    """Return how many encryptions are noted."""
    return len(LEDGER.seen)


@contextmanager
def chosen_nonces() -> Iterator[None]:
    """Let the block use nonces as it likes."""
    LEDGER.watching = False
    try:
        yield
    finally:
        LEDGER.watching = True


@contextmanager
def world(name: str) -> Iterator[None]:
    """Keep what the block encrypts apart: simulations that begin with one seed draw the same keys and nonces, each for itself."""
    before, LEDGER.world = LEDGER.world, name.encode()
    try:
        yield
    finally:
        LEDGER.world = before


def install() -> None:
    """Stand at the door, for the rest of the process."""
    make_aead = aead.Aead.__init__
    seal = aead.XaesGcm.seal

    def aead_init(self: Any, suite: aead.Suite, key: bytes) -> None:
        make_aead(self, suite, key)
        encrypt_into, who = self.encrypt_into, bytes([suite]) + key

        def watched(nonce: aead.Bytes, data: aead.Bytes, aad: aead.Bytes, out: memoryview) -> int:
            LEDGER.note(who, nonce, data)
            return int(encrypt_into(nonce, data, aad, out))

        self.encrypt_into = watched

    def xaes_seal(self: aead.XaesGcm, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        LEDGER.note(b"xaes" + self._k1.to_bytes(32, "big"), nonce, plain)
        return seal(self, nonce, plain, aad)

    aead.Aead.__init__ = aead_init  # type: ignore[method-assign]
    aead.XaesGcm.seal = xaes_seal  # type: ignore[method-assign]
