"""Extended attributes: a sealed set that is whole or refused."""

import os
from dataclasses import replace
from hashlib import sha256

import pytest

from crypto.aead import Suite
from crypto.errors import IntegrityError
from crypto.record import NO_HASH, Record
from crypto.xattrs import open_xattrs, seal_xattrs
from tests.crypto.reader import Record as Read
from tests.crypto.reader import Volume

RECORD = Record(b"f" * 16, b"k" * 32, Suite.AES_256_GCM, 14)
VALUES = {"user.one": b"1" * 100, "user.two": b"", "user.\udcff": os.urandom(8)}


def sealed_set(values: dict[str, bytes] | None = None) -> tuple[bytes, Record]:
    values = VALUES if values is None else values
    sealed, digest = seal_xattrs(RECORD, values, os.urandom(12 * len(values)))
    return sealed, replace(RECORD, xattrs=digest)


def test_round_trip() -> None:
    sealed, record = sealed_set()
    assert open_xattrs(record, sealed) == VALUES
    assert b"user" not in sealed and b"11111111" not in sealed
    assert sealed_set({}) == (b"", replace(RECORD, xattrs=NO_HASH))
    assert open_xattrs(RECORD, b"whatever the server keeps") == {}
    read = Read(
        record.file_id, "file", 1, 14, 0, 0, record.file_key, bytes(32), 0, 0, record.xattrs, b"", b""
    )  # fmt: skip
    assert Volume({0: bytes(32)}).xattrs(read, sealed) == VALUES


def test_what_was_not_set_is_refused() -> None:
    sealed, record = sealed_set()
    older, _ = sealed_set({"user.one": b"0"})
    for other in (b"", older, sealed[:-1], sealed + b"\0", bytes([sealed[0] ^ 1]) + sealed[1:], sealed + older):
        with pytest.raises(IntegrityError):
            open_xattrs(record, other)


def test_bound_to_name_and_file() -> None:
    """Also where the digest would fit, as when two clients of different honesty hold the key."""

    a, _ = sealed_set({"user.a": b"A"})
    b, _ = sealed_set({"user.b": b"B"})
    head = 6 + 16 + len("user.a")
    mixed = a[:head] + b[head:]
    with pytest.raises(IntegrityError):
        open_xattrs(replace(RECORD, xattrs=sha256(mixed).digest()), mixed)
    with pytest.raises(IntegrityError):
        open_xattrs(replace(RECORD, file_id=b"g" * 16, xattrs=sha256(a).digest()), a)
    with pytest.raises(IntegrityError):
        open_xattrs(replace(RECORD, xattrs=sha256(a[:-30]).digest()), a[:-30])
