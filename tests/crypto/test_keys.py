"""Derivation against an independent HKDF, key files, and what keys refuse to show."""

import copy
import pickle

import pytest
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from crypto.aead import Suite
from crypto.errors import KeyUnavailable, Malformed
from crypto.keys import SUBKEYS_KEPT, FileKey, VolumeKey, format_key_file, hkdf_expand, load_key_file

SECRET = bytes(range(32))


@given(st.binary(min_size=32, max_size=64), st.binary(max_size=80), st.integers(1, 64))
def test_expand_is_hkdf(key: bytes, info: bytes, length: int) -> None:
    assert hkdf_expand(key, info, length) == HKDFExpand(SHA512(), length, info).derive(key)


@pytest.mark.parametrize("length", [0, 65])
def test_expand_gives_one_block(length: int) -> None:
    with pytest.raises(ValueError):
        hkdf_expand(SECRET, b"", length)


@pytest.mark.parametrize(
    "content", [SECRET, format_key_file(SECRET), format_key_file(SECRET).strip(), format_key_file(SECRET)[:-1] + b"\r\n"]
)
def test_key_files(content: bytes) -> None:
    assert load_key_file(content).key_id == VolumeKey(SECRET).key_id


@pytest.mark.parametrize(
    "content",
    [b"", SECRET[:31], SECRET + b"x", SECRET.hex().encode(), b"iovc-key-2 " + SECRET.hex().encode(), b"iovc-key-1 " + b"zz" * 32,
     b"iovc-key-1 " + "é".encode() * 32, format_key_file(SECRET)[:-2], format_key_file(SECRET) * 2, bytes(1 << 20)],
)  # fmt: skip
def test_bad_key_files(content: bytes) -> None:
    with pytest.raises(Malformed, match="key file"):
        load_key_file(content)


def test_volumes_and_epochs_have_different_keys() -> None:
    ids = {
        VolumeKey(SECRET).key_id,
        VolumeKey(SECRET, b"v" * 16).key_id,
        VolumeKey(SECRET, epoch=1).key_id,
        VolumeKey(b"x" * 32).key_id,
    }
    assert len(ids) == 4
    for bad in ((SECRET[:31], bytes(16)), (SECRET, b"")):
        with pytest.raises(ValueError):
            VolumeKey(*bad)


def file_key(**changed: object) -> FileKey:
    args: dict[str, object] = {"secret": SECRET, "file_id": b"f" * 16, "suite": Suite.AES_256_GCM, "log2bs": 14, **changed}
    return FileKey(**args)  # type: ignore[arg-type]


def sealed_with(key: FileKey, rekey: int, block: int) -> bytes:
    out = bytearray(32)
    key.subkey(rekey, block).encrypt_into(bytes(12), bytes(16), b"", memoryview(out))
    return bytes(out)


def test_each_segment_rekey_and_parameter_has_a_key_of_its_own() -> None:
    keys = [
        sealed_with(file_key(), 0, 0),
        sealed_with(file_key(), 0, 65536),
        sealed_with(file_key(), 1, 0),
        sealed_with(file_key(file_id=b"g" * 16), 0, 0),
        sealed_with(file_key(secret=b"s" * 32), 0, 0),
        sealed_with(file_key(log2bs=16), 0, 0),
        sealed_with(file_key(suite=Suite.AES_256_OCB3), 0, 0),
    ]
    assert len(set(keys)) == len(keys)
    assert sealed_with(file_key(), 0, 65535) == keys[0]


def test_subkeys_are_kept_up_to_a_bound() -> None:
    key = file_key()
    assert key.subkey(0, 5) is key.subkey(0, 6)
    for segment in range(2 * SUBKEYS_KEPT):
        key.subkey(0, segment << 16)
    assert len(key._subkeys) == SUBKEYS_KEPT
    key.close()
    with pytest.raises(KeyUnavailable):
        key.subkey(0, 0)


@pytest.mark.parametrize("key", [VolumeKey(SECRET), file_key()])
def test_keys_show_nothing(key: VolumeKey | FileKey) -> None:
    assert repr(key) == f"<{type(key).__name__}>" == str(key)
    for escape in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            escape(key)
