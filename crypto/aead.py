"""Sans-IO. The only door to the AEADs: suites for content, XAES-256-GCM for what is sealed under a long-lived key.

The `decrypt_into` of the cryptography package leaves unverified plaintext in the destination when the tag is wrong (checked
on 50.0.2); the one here zeroes it first. Suites follow NIST SP 800-38D, RFC 7253 and RFC 8439, XAES-256-GCM follows C2SP.
Owns no memory: sources and destinations are the caller's.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESOCB3, ChaCha20Poly1305

__all__ = ["KEY_SIZE", "NONCE_SIZE", "TAG_SIZE", "XAES_NONCE_SIZE", "Aead", "BadTag", "InvalidTag", "Suite", "XaesGcm", "wipe"]

KEY_SIZE: Final = 32
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
XAES_NONCE_SIZE: Final = 24

Bytes = bytes | bytearray | memoryview
ZEROS: Final = bytes(1 << 18)


class BadTag(Exception):
    """The tag does not fit; the destination has been zeroed. The caller says which block of which file it was."""


class Suite(enum.IntEnum):
    """Content suites; the number is stored in the sealed record."""

    AES_256_GCM = 1
    AES_256_OCB3 = 2
    CHACHA20_POLY1305 = 3


class OneShot(Protocol):
    def encrypt_into(self, nonce: Bytes, data: Bytes, associated_data: Bytes | None, buf: bytearray | memoryview) -> int: ...
    def decrypt_into(self, nonce: Bytes, data: Bytes, associated_data: Bytes | None, buf: bytearray | memoryview) -> int: ...


SUITES: Final[dict[Suite, Callable[[bytes], OneShot]]] = {
    Suite.AES_256_GCM: AESGCM,
    Suite.AES_256_OCB3: AESOCB3,
    Suite.CHACHA20_POLY1305: ChaCha20Poly1305,
}


def wipe(view: bytearray | memoryview) -> None:
    """Zero a writable view."""
    flat = memoryview(view)
    for off in range(0, len(flat), len(ZEROS)):
        part = flat[off : off + len(ZEROS)]
        part[:] = ZEROS[: len(part)]


@dataclass(slots=True, init=False, repr=False)
class Aead:
    """One key of one suite; immutable, and safe to use from several threads at once.

    encrypt_into(nonce, data, aad, out): `out` takes exactly len(data) + 16 bytes, the tag last. decrypt_unwiped: as
    `decrypt_into`, but raises InvalidTag with plaintext of a changed block in `out`, which the caller has to wipe.
    """

    encrypt_into: Callable[[Bytes, Bytes, Bytes, memoryview], int]
    decrypt_unwiped: Callable[[Bytes, Bytes, Bytes, memoryview], int]

    def __init__(self, suite: Suite, key: bytes) -> None:
        one_shot = SUITES[suite](key)
        self.encrypt_into = one_shot.encrypt_into
        self.decrypt_unwiped = one_shot.decrypt_into

    def decrypt_into(self, nonce: Bytes, data: Bytes, aad: Bytes, out: memoryview) -> None:
        """Verify `data` (tag last) and decrypt it into `out`, exactly 16 bytes shorter.

        Raises: BadTag; `out` is zero then. `data` must be memory that no peer can write meanwhile, or a wrong plaintext may pass.
        """
        try:
            self.decrypt_unwiped(nonce, data, aad, out)
        except InvalidTag:
            wipe(out)
            raise BadTag from None


class XaesGcm:
    """XAES-256-GCM: AES-256-GCM with 24-byte nonces, safe to draw at random under a key that lives for years."""

    __slots__ = ("_ecb", "_k1")

    def __init__(self, key: bytes) -> None:
        # ECB of single blocks is how the construction derives its keys (a two-block CMAC); no message is encrypted with it.
        self._ecb = Cipher(algorithms.AES(key), modes.ECB())
        left = int.from_bytes(self._ecb.encryptor().update(bytes(16)), "big")
        k1 = ((left << 1) & ((1 << 128) - 1)) ^ (0x87 if left >> 127 else 0)
        self._k1 = k1 << 128 | k1

    def seal(self, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        """Return ciphertext and tag. A nonce must never repeat under one key."""
        return self._derive(nonce).encrypt(nonce[12:], plain, aad)

    def open(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        """Return the plaintext. Raises: BadTag."""
        try:
            return self._derive(nonce).decrypt(nonce[12:], sealed, aad)
        except InvalidTag:
            raise BadTag from None

    def _derive(self, nonce: bytes) -> AESGCM:
        if len(nonce) != XAES_NONCE_SIZE:
            raise ValueError(f"an XAES nonce has {XAES_NONCE_SIZE} bytes, not {len(nonce)}")
        blocks = b"\0\1X\0" + nonce[:12] + b"\0\2X\0" + nonce[:12]
        mixed = (int.from_bytes(blocks, "big") ^ self._k1).to_bytes(32, "big")
        return AESGCM(self._ecb.encryptor().update(mixed))
