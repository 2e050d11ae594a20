"""Sans-IO. Extended attributes of a file: one sealed set, kept beside the record, which has its digest.

Names are AES-SIV, values AES-256-GCM, both under keys of the file, and each value is bound to its name and file. The digest in
the record binds the set as a whole: an attribute left out, brought back or exchanged is noticed. Owns no memory.
"""

import struct
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

from crypto.aead import KEY_SIZE, NONCE_SIZE, TAG_SIZE
from crypto.errors import IntegrityError
from crypto.keys import hkdf_expand
from crypto.record import NO_HASH, Record

__all__ = ["XATTRS_MAX", "open_xattrs", "seal_xattrs"]

XATTRS_MAX: Final = 1 << 16
"""Of a sealed set, in bytes."""
ROW: Final = struct.Struct("<HI")
AD: Final = b"xattr"


def ciphers(record: Record) -> tuple[AESSIV, AESGCM]:
    names = hkdf_expand(record.file_key, b"iovc/1 xattr\0" + record.file_id, 2 * KEY_SIZE)
    values = hkdf_expand(record.file_key, b"iovc/1 xattr value\0" + record.file_id, KEY_SIZE)
    return AESSIV(names), AESGCM(values)


def seal_xattrs(record: Record, values: Mapping[str, bytes], nonces: bytes) -> tuple[bytes, bytes]:
    """Return the set as the server keeps it, and its digest for the record. nonces: 12 fresh bytes for each value."""
    if not values:
        return b"", NO_HASH
    siv, gcm = ciphers(record)
    sealed = bytearray()
    for at, name in enumerate(sorted(values)):
        nonce = nonces[at * NONCE_SIZE : (at + 1) * NONCE_SIZE]
        hidden = siv.encrypt(name.encode("utf-8", "surrogateescape"), [AD, record.file_id])
        value = gcm.encrypt(nonce, values[name], record.file_id + hidden)
        sealed += ROW.pack(len(hidden), len(value)) + hidden + nonce + value
    return bytes(sealed), sha256(sealed).digest()  # header: attributes, no payload


def open_xattrs(record: Record, sealed: bytes) -> dict[str, bytes]:
    """Verify and open the set of a file. Raises: IntegrityError."""
    if record.xattrs == NO_HASH:
        return {}
    if sha256(sealed).digest() != record.xattrs:
        raise IntegrityError("the extended attributes are not what was set", file_id=record.file_id)
    siv, gcm = ciphers(record)
    values: dict[str, bytes] = {}
    at = 0
    try:
        while at < len(sealed):
            nr_name, nr_value = ROW.unpack_from(sealed, at)
            at += ROW.size
            hidden, nonce = sealed[at : at + nr_name], sealed[at + nr_name : at + nr_name + NONCE_SIZE]
            at += nr_name + NONCE_SIZE
            if nr_value < TAG_SIZE:
                raise InvalidTag
            name = siv.decrypt(hidden, [AD, record.file_id]).decode("utf-8", "surrogateescape")
            values[name] = gcm.decrypt(nonce, sealed[at : at + nr_value], record.file_id + hidden)
            at += nr_value
    except (InvalidTag, ValueError, struct.error):
        raise IntegrityError("the extended attributes do not open", file_id=record.file_id) from None
    return values
