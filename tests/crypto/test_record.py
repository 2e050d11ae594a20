"""The sealed record: round trip, every bit, foreign keys, and what a faulty writer could seal."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.aead import Suite
from crypto.errors import CryptoError, IntegrityError, Malformed, WrongKey
from crypto.keys import VolumeKey
from crypto.record import BODY, HEADER, MAX_PLAIN_SIZE, RECORD_MAX, RECORD_SIZE, Record, aad_of, open_record, seal_record

KEY = VolumeKey(b"k" * 32)
NONCE = bytes(range(24))
RECORD = Record(b"i" * 16, b"f" * 32, Suite.AES_256_GCM, 14, rekey=0, generation=7, size=100_000, root=b"r" * 32)
# Frozen bytes of RECORD under KEY and NONCE: a change of format must show here.
SAMPLE = (
    "494f56430000000000000000ef48369ecc0a6c1c83f7bd95479ed0de69696969696969696969696969696969000102030405060708090a0b0c0d0e0f"
    "1011121314151617ce9e53fb3884c6e406c93804163b404811f45add19ff57a6c5149540750351de35a20c91af79f859e72c80d5935db43c4b69a5c7"
    "d3947d04bde878761db1dbdd36d4846670a488a69fee478f709719154de3da1d3e735ad4a70341ef75cb5782c8ed4844e188fa9c"
)


@given(
    st.sampled_from(Suite),
    st.integers(12, 18),
    st.integers(0, (1 << 30) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, MAX_PLAIN_SIZE),
)
def test_round_trip(suite: Suite, log2bs: int, rekey: int, generation: int, size: int) -> None:
    record = replace(RECORD, suite=suite, log2bs=log2bs, rekey=rekey, generation=generation, size=size)
    sealed = seal_record(KEY, record, NONCE)
    assert len(sealed) == RECORD_SIZE <= RECORD_MAX
    assert open_record(KEY, sealed) == record
    assert record.file_key not in sealed and record.root not in sealed


def test_frozen_sample() -> None:
    assert seal_record(KEY, RECORD, NONCE).hex() == SAMPLE
    assert open_record(KEY, bytes.fromhex(SAMPLE)) == RECORD


def test_every_flipped_bit_is_refused() -> None:
    sealed = seal_record(KEY, RECORD, NONCE)
    errors = set()
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CryptoError) as caught:
            open_record(KEY, bytes(changed))
        errors.add(type(caught.value))
    assert errors == {Malformed, WrongKey, IntegrityError}


@pytest.mark.parametrize("length", [0, 1, RECORD_SIZE - 1, RECORD_SIZE + 1, 1 << 20])
def test_wrong_length(length: int) -> None:
    with pytest.raises(Malformed):
        open_record(KEY, bytes(length))


@pytest.mark.parametrize("key", [VolumeKey(b"x" * 32), VolumeKey(b"k" * 32, b"v" * 16), VolumeKey(b"k" * 32, epoch=1)])
def test_another_key(key: VolumeKey) -> None:
    with pytest.raises(WrongKey) as caught:
        open_record(key, seal_record(KEY, RECORD, NONCE))
    assert b"k" * 4 not in str(caught.value).encode()


def sealed_body(*fields: object) -> bytes:
    header = HEADER.pack(b"IOVC", 0, 0, KEY.epoch, KEY.key_id, RECORD.file_id, NONCE)
    return header + KEY.inode.seal(NONCE, BODY.pack(*fields), aad_of(KEY, RECORD.file_id))


# type, suite, log2bs, depth, rekey, generation, size, file key, root
GOOD = (1, 1, 14, 0, 0, 7, 100_000, b"f" * 32, b"r" * 32)


@pytest.mark.parametrize(
    ("at", "value"), [(0, 2), (1, 0), (1, 4), (2, 11), (2, 19), (3, 1), (4, 1 << 30), (6, MAX_PLAIN_SIZE + 1)]
)
def test_values_we_do_not_speak(at: int, value: int) -> None:
    assert open_record(KEY, sealed_body(*GOOD)) == RECORD
    with pytest.raises(Malformed):
        open_record(KEY, sealed_body(*GOOD[:at], value, *GOOD[at + 1 :]))


def test_nothing_secret_in_the_repr() -> None:
    assert "f" * 8 not in repr(RECORD) and "size" not in repr(RECORD)
