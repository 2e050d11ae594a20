"""Known answers: the format's own, frozen in iovc1_vectors.json and opened by product and reader; RFC 5297 for AES-SIV.

A change of the format must show here. The values follow from 0, 1, 2, … (`seq`), so that the file can be made again by hand.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from crypto.aead import Suite
from crypto.content import ContentCipher
from crypto.file import file_key_of, new_record
from crypto.intent import open_intent, seal_intent
from crypto.keys import VolumeKey
from crypto.names import Names, check_listing
from crypto.record import Kind, open_record, seal_record
from crypto.xattrs import open_xattrs
from iov.iov_iter import Direction, IovIter
from tests.crypto.reader import Volume

VECTORS: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("iovc1_vectors.json").read_text("utf-8"))
KEY = VolumeKey(bytes.fromhex(VECTORS["vk"]), bytes.fromhex(VECTORS["vol_id"]), VECTORS["epoch"])
READER = Volume({VECTORS["epoch"]: bytes.fromhex(VECTORS["vk"])}, bytes.fromhex(VECTORS["vol_id"]))


def seq(start: int, count: int) -> bytes:
    return bytes((start + at) % 256 for at in range(count))


def test_key_ids() -> None:
    assert KEY.key_id.hex() == VECTORS["key_id"]
    assert KEY.root_id is not None
    assert READER.root_id is not None
    assert KEY.root_id.hex() == READER.root_id.hex() == VECTORS["root_id"]


@pytest.mark.parametrize("name", ["record_file", "record_inline", "record_link", "record_directory"])
def test_records(name: str) -> None:
    sealed = bytes.fromhex(VECTORS[name])
    record = open_record(KEY, sealed, seq(1, 16))
    assert seal_record(KEY, record, sealed[44:68]) == sealed
    read = READER.record(sealed, seq(1, 16))
    assert (read.kind, read.size, read.file_key, read.mode) == (
        record.kind.name.lower(), record.size, record.file_key, record.mode
    )  # fmt: skip
    assert read.inline == record.inline


def test_names_and_certificates() -> None:
    record = open_record(KEY, bytes.fromhex(VECTORS["record_directory"]))
    assert record.folder is not None
    names = Names(KEY, record.folder)
    found = [names.entry(row["shown"], bytes.fromhex(row["certificate"])) for row in VECTORS["entries"]]
    assert [(entry.name.plain, entry.kind, entry.number, entry.file_id.hex()) for entry in found] == [
        (row["name"], Kind(row["kind"]), row["number"], row["file_id"]) for row in VECTORS["entries"]
    ]
    assert [
        (names.seal(row["name"]).shown, names.certify(entry).hex()) for row, entry in zip(VECTORS["entries"], found, strict=True)
    ] == [(row["shown"], row["certificate"]) for row in VECTORS["entries"]]
    check_listing(names, record.folder, found)


def test_attributes_and_intents() -> None:
    record = open_record(KEY, bytes.fromhex(VECTORS["record_file"]))
    sealed = bytes.fromhex(VECTORS["xattrs"])
    assert hashlib.sha256(sealed).hexdigest() == VECTORS["xattrs_digest"]
    import dataclasses

    with_them = dataclasses.replace(record, xattrs=bytes.fromhex(VECTORS["xattrs_digest"]))
    assert open_xattrs(with_them, sealed) == {"user.a": b"1", "user.b": b"two"}
    intent = open_intent(KEY, seq(1, 16), bytes.fromhex(VECTORS["intent"]))
    assert (intent.generation, intent.rows) == (9, ((1, seq(8, 32), seq(9, 32)),))
    assert seal_intent(KEY, seq(1, 16), intent, seq(110, 24)).hex() == VECTORS["intent"]


@pytest.mark.parametrize("suite", Suite)
def test_blocks(suite: Suite) -> None:
    expected = VECTORS["blocks"][str(int(suite))]
    plain = bytes(at % 251 for at in range(4096))
    cipher = ContentCipher(file_key_of(new_record(seq(1, 16), seq(2, 32), log2bs=12, suite=suite)))
    area, entry = memoryview(bytearray(4096 + 16)), bytearray(32)
    cipher.seal(IovIter.ubuf(Direction.SOURCE, plain), area, 65537, 1, seq(10, 12), entry, 5)
    assert entry.hex() == expected["entry"]
    assert bytes(area[:16]).hex() == expected["first_16"]
    assert hashlib.sha256(area[:4096]).hexdigest() == expected["ciphertext_sha256"]


def test_aes_siv_as_in_rfc_5297() -> None:
    key = bytes.fromhex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    data = [bytes.fromhex("101112131415161718191a1b1c1d1e1f2021222324252627")]
    sealed = "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"
    assert AESSIV(key).encrypt(bytes.fromhex("112233445566778899aabbccddee"), data).hex() == sealed
