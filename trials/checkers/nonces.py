"""Sans-IO. A ledger of every encryption: no key may meet one nonce with two plaintexts.

It stands at the only door to the AEADs (`crypto/aead.py`). Ledgers are stacked: a trial has its own, so that one that is run
again, or with one operation less, is not compared with the first. Equal encryptions tell nobody anything and are let be. Owns
no memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from crypto import aead

__all__ = ["Ledger", "NonceUsedTwice", "ledger_of", "watch"]


class NonceUsedTwice(AssertionError):
    """One nonce, one key, two plaintexts: with GCM that gives away both, and the key of the tags."""


@dataclass(slots=True)
class Ledger:
    """What was encrypted: a digest of key and nonce, and one of the plaintext. repeats: what was found so far."""

    raises: bool = True
    watching: bool = True
    seen: dict[bytes, bytes] = field(default_factory=dict)
    repeats: list[str] = field(default_factory=list)

    def note(self, key: bytes, nonce: aead.Bytes, plain: aead.Bytes) -> None:
        """Take one encryption. Raises: NonceUsedTwice."""
        if not self.watching:
            return
        who = blake2b(key + b"\0" + bytes(nonce), digest_size=16).digest()
        # No CRC: that of self-naming cells, each of which ends with its own CRC, is the same for all of a length.
        what = blake2b(plain, digest_size=8).digest()
        if self.seen.setdefault(who, what) != what:
            found = f"nonce {bytes(nonce).hex()} was used for two plaintexts under one key"
            self.repeats.append(found)
            if self.raises:
                raise NonceUsedTwice(found)


_STACK: list[Ledger] = []


def ledger_of() -> Ledger | None:
    """Return the ledger in which encryptions are noted now."""
    return _STACK[-1] if _STACK else None


@contextmanager
def watch(ledger: Ledger) -> Iterator[Ledger]:
    """Note the encryptions of the block in a ledger, instead of in the one outside. Keys made outside are not seen."""
    stood = _stand() if not _STACK else None
    _STACK.append(ledger)
    try:
        yield ledger
    finally:
        _STACK.pop()
        if stood is not None:
            aead.Aead.__init__, aead.XaesGcm.seal = stood  # type: ignore[method-assign]


def _stand() -> tuple[Any, Any]:
    """Stand at the door. Returns: what was there before."""
    make_aead = aead.Aead.__init__
    seal = aead.XaesGcm.seal

    def aead_init(self: Any, suite: aead.Suite, key: bytes) -> None:
        make_aead(self, suite, key)
        encrypt_into, who = self.encrypt_into, bytes([suite]) + key

        def watched(nonce: aead.Bytes, data: aead.Bytes, aad: aead.Bytes, out: memoryview) -> int:
            if _STACK:
                _STACK[-1].note(who, nonce, data)
            return int(encrypt_into(nonce, data, aad, out))

        self.encrypt_into = watched

    def xaes_seal(self: aead.XaesGcm, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        if _STACK:
            _STACK[-1].note(b"xaes" + self._k1.to_bytes(32, "big"), nonce, plain)
        return seal(self, nonce, plain, aad)

    aead.Aead.__init__ = aead_init  # type: ignore[method-assign]
    aead.XaesGcm.seal = xaes_seal  # type: ignore[method-assign]
    return make_aead, seal
