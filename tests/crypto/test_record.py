"""The sealed record: round trip, every bit, foreign keys, and what a faulty writer could seal."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.aead import Suite
from crypto.errors import CryptoError, IntegrityError, Malformed, WrongKey
from crypto.keys import VolumeKey
from crypto.record import (
    BODY,
    BODY_SHORT,
    FOLDER,
    HEADER,
    INLINE_MAX,
    MAX_PLAIN_SIZE,
    RECORD_MAX,
    RECORD_SHORT,
    Folder,
    Kind,
    Record,
    aad_of,
    commitment,
    file_id_of,
    open_record,
    seal_record,
)

pytestmark = pytest.mark.chosen_nonces

KEY = VolumeKey(b"k" * 32)
NONCE = bytes(range(24))
RECORD = Record(b"i" * 16, b"f" * 32, Suite.AES_256_GCM, 14, generation=7, size=100_000, root=b"r" * 32)
FOLDER_RECORD = Record(
    b"i" * 16, b"f" * 32, Suite.AES_256_GCM, 14, kind=Kind.DIRECTORY, folder=Folder(b"d" * 16, 0, 3, 9, 1 << 200)
)  # fmt: skip
LINK = Record(b"i" * 16, b"f" * 32, Suite.AES_256_GCM, 14, kind=Kind.SYMLINK, size=4, inline=b"../x")


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
    assert len(sealed) == RECORD_SHORT < RECORD_MAX
    assert open_record(KEY, sealed) == record
    assert record.file_key not in sealed and record.root not in sealed


@given(st.binary(min_size=1, max_size=INLINE_MAX), st.sampled_from([Kind.FILE, Kind.SYMLINK]))
def test_what_is_inline_has_no_length_of_its_own(inline: bytes, kind: Kind) -> None:
    record = replace(RECORD, kind=kind, inline=inline, size=len(inline), root=bytes(32))
    sealed = seal_record(KEY, record, NONCE)
    assert len(sealed) == RECORD_MAX
    assert open_record(KEY, sealed) == record
    assert len(inline) < 8 or inline not in sealed


@pytest.mark.parametrize(
    "record", [FOLDER_RECORD, LINK, replace(RECORD, mode=0o4755, uid=7, gid=8, mtime_ns=-5, ctime_ns=1 << 62)]
)
def test_every_kind(record: Record) -> None:
    sealed = seal_record(KEY, record, NONCE)
    assert open_record(KEY, sealed, record.file_id) == record
    assert file_id_of(sealed) == record.file_id
    with pytest.raises(IntegrityError):
        open_record(KEY, sealed, b"j" * 16)


@pytest.mark.parametrize("record", [RECORD, FOLDER_RECORD, LINK])
def test_every_flipped_bit_is_refused(record: Record) -> None:
    sealed = seal_record(KEY, record, NONCE)
    errors = set()
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CryptoError) as caught:
            open_record(KEY, bytes(changed))
        errors.add(type(caught.value))
    assert errors == {Malformed, WrongKey, IntegrityError}


@pytest.mark.parametrize("length", [0, 1, RECORD_SHORT - 1, RECORD_SHORT + 1, RECORD_MAX + 1, 1 << 20])
def test_wrong_length(length: int) -> None:
    with pytest.raises(Malformed):
        open_record(KEY, bytes(length))


@pytest.mark.parametrize("key", [VolumeKey(b"x" * 32), VolumeKey(b"k" * 32, b"v" * 16), VolumeKey(b"k" * 32, epoch=1)])
def test_another_key(key: VolumeKey) -> None:
    with pytest.raises(WrongKey) as caught:
        open_record(key, seal_record(KEY, RECORD, NONCE))
    assert b"k" * 4 not in str(caught.value).encode()


def sealed_body(*fields: object, tail: bytes = b"", length: int = BODY_SHORT) -> bytes:
    header = HEADER.pack(b"IOVC", 1, 0, KEY.epoch, KEY.key_id, RECORD.file_id, NONCE)
    return header + KEY.inode.seal(NONCE, (BODY.pack(*fields) + tail).ljust(length, b"\0"), aad_of(KEY, RECORD.file_id))


COMMITTED = commitment(b"f" * 32, b"i" * 16)
# kind, suite, log2bs, depth, rekey, generation, size, uses, zero, file key, commitment, zeros, root, mode, uid, gid, times,
# xattrs, writer, before, inline length
GOOD = (
    1, 1, 14, 0, 0, 7, 100_000, 0, 0, b"f" * 32, COMMITTED, bytes(32), b"r" * 32,
    0, (1 << 32) - 1, (1 << 32) - 1, 0, 0, bytes(32), bytes(16), bytes(32), 0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, 0), (0, 3), (0, 4), (1, 0), (1, 4), (2, 11), (2, 19), (3, 1), (4, 1 << 30), (6, MAX_PLAIN_SIZE + 1), (8, 1),
        (9, b"g" * 32), (10, bytes(32)), (11, b"h" * 32), (21, 1), (21, 60_000),
    ],
)  # fmt: skip
def test_values_we_do_not_speak(at: int, value: object) -> None:
    assert open_record(KEY, sealed_body(*GOOD)) == RECORD
    with pytest.raises(Malformed):
        open_record(KEY, sealed_body(*GOOD[:at], value, *GOOD[at + 1 :]))


def test_what_lies_behind_must_be_zero() -> None:
    assert FOLDER.size <= BODY_SHORT - BODY.size
    with pytest.raises(Malformed):
        open_record(KEY, sealed_body(*GOOD, tail=b"\0\0\1"))


def test_nothing_secret_in_the_repr() -> None:
    assert "f" * 8 not in repr(RECORD) and "size" not in repr(RECORD)
    assert "x" not in repr(LINK).lower().replace("0x", "")
