"""Write intents: sealed, of one file, and of no weight once the block has been committed anew."""

import os

import pytest

from crypto.errors import CryptoError, IntegrityError, Malformed, WrongKey
from crypto.intent import INTENT_BLOCKS_MAX, Intent, alternatives, open_intent, seal_intent
from crypto.keys import VolumeKey

KEY = VolumeKey(b"k" * 32)
NONCE = bytes(range(24))
FILE = b"f" * 16
ONE, TWO = b"1" * 32, b"2" * 32
INTENT = Intent(7, ((3, ONE, TWO), (1 << 40, TWO, ONE)))


def test_round_trip() -> None:
    sealed = seal_intent(KEY, FILE, INTENT, NONCE)
    assert len(sealed) == 36 + 12 + 2 * 72 + 16
    assert open_intent(KEY, FILE, sealed) == INTENT
    later = VolumeKey(b"l" * 32, epoch=1, older=(KEY,))
    assert open_intent(later, FILE, sealed) == INTENT
    most = Intent(1, tuple((n, ONE, TWO) for n in range(INTENT_BLOCKS_MAX)))
    sealed = seal_intent(KEY, FILE, most, os.urandom(24))
    assert len(sealed) < 1 << 16
    assert open_intent(KEY, FILE, sealed) == most


def test_every_bit_counts() -> None:
    sealed = seal_intent(KEY, FILE, INTENT, NONCE)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CryptoError):
            open_intent(KEY, FILE, bytes(changed))


def test_of_another_file_or_volume() -> None:
    sealed = seal_intent(KEY, FILE, INTENT, NONCE)
    with pytest.raises(IntegrityError):
        open_intent(KEY, b"g" * 16, sealed)
    with pytest.raises(IntegrityError):
        open_intent(VolumeKey(b"x" * 32), FILE, sealed)
    with pytest.raises(WrongKey):
        open_intent(VolumeKey(b"k" * 32, epoch=1), FILE, sealed)
    for length in (0, 1, 36, len(sealed) - 1, len(sealed) + 1, 1 << 20):
        with pytest.raises((Malformed, IntegrityError)):
            open_intent(KEY, FILE, sealed[:length].ljust(length, b"\0"))


def test_what_an_intent_names() -> None:
    later = Intent(9, ((3, TWO, ONE),))
    assert alternatives([INTENT, later], 8) == {3: [(ONE, TWO)], 1 << 40: [(TWO, ONE)]}
    assert alternatives([INTENT, later], 9)[3] == [(ONE, TWO), (TWO, ONE)]
    assert alternatives([], 9) == {}
