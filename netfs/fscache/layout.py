"""Sans-IO. What is where in a cached object: one sparse file, in which every granule can be told right from wrong.

    header  | stamps of granules 0 to 127 | granules 0 to 127 | stamps of 128 to 255 | granules 128 to 255 | ...
    4096      128 x 32 = 4096               128 x granule       4096                   128 x granule

A granule counts as there when its stamp is not zero, and as right when the stamp fits what is read. Of a plain file the stamp is
the length of the valid bytes and a digest over the object's salt, the granule's number and those bytes; so a granule of another
object, of an earlier life of this one, in another place, torn or changed on the disk is never believed. Of an encrypted file the
granules are its blocks as the server has them, and the stamp is the block's tag entry: it has to equal the one in the verified
tag tree, and the cipher then checks the bytes. Nothing is ever synced, because nothing is believed unseen. docs/cache.md has the
numbers. Owns no memory.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = [
    "HEADER_SIZE", "MAX_GRANULE", "MIN_GRANULE", "SALT_SIZE", "STAMPS", "STAMP_SIZE", "Header", "data_pos", "granule_stamp",
    "object_name", "stamp_length", "stamp_pos", "volume_name",
]  # fmt: skip

MAGIC: Final = b"NFSC"
VERSION: Final = 1
HEADER_SIZE: Final = 4096
STAMP_SIZE: Final = 32
STAMPS: Final = 128
MIN_GRANULE: Final = 1 << 12
MAX_GRANULE: Final = 1 << 18
SALT_SIZE: Final = 16
MAX_BLOB: Final = 1024
# magic, version, sealed, log2 of the granule, salt, lengths of key and coherency data
_FIXED: Final = struct.Struct(f"<4sHBB{SALT_SIZE}sHH")
_DIGEST_SIZE: Final = 32
_STAMP: Final = struct.Struct("<I4x24s")
_NUMBER: Final = struct.Struct("<QI")


@dataclass(frozen=True, slots=True)
class Header:
    """What the first page of an object says.

    salt: drawn when the object is made, so that no two lives of a file share stamps. key: names the file within its volume.
    coherency: what the server said of the file when its granules were right, empty while this client is changing the file.
    """

    sealed: bool
    granule: int
    salt: bytes
    key: bytes
    coherency: bytes

    def pack(self) -> bytes:
        """Return the header as it is stored."""
        assert len(self.salt) == SALT_SIZE and len(self.key) <= MAX_BLOB and len(self.coherency) <= MAX_BLOB
        sizes = (len(self.key), len(self.coherency))
        raw = _FIXED.pack(MAGIC, VERSION, self.sealed, self.granule.bit_length() - 1, self.salt, *sizes)
        raw += self.key + self.coherency
        return (raw + hashlib.sha256(raw).digest()).ljust(HEADER_SIZE, b"\0")

    @classmethod
    def unpack(cls, raw: bytes) -> "Header | None":
        """Read a header. Returns: None for anything that is not a whole header of this version."""
        if len(raw) < HEADER_SIZE:
            return None
        magic, version, sealed, log2, salt, key_length, coherency_length = _FIXED.unpack_from(raw)
        if magic != MAGIC or version != VERSION or max(key_length, coherency_length) > MAX_BLOB or sealed > 1:
            return None
        end = _FIXED.size + key_length + coherency_length
        if hashlib.sha256(raw[:end]).digest() != raw[end : end + _DIGEST_SIZE] or not MIN_GRANULE <= 1 << log2 <= MAX_GRANULE:
            return None
        key = raw[_FIXED.size : _FIXED.size + key_length]
        return cls(bool(sealed), 1 << log2, salt, key, raw[end - coherency_length : end])


def stamp_pos(index: int, granule: int) -> int:
    """Return where the stamp of a granule is."""
    segment, slot = divmod(index, STAMPS)
    return HEADER_SIZE + segment * STAMPS * (STAMP_SIZE + granule) + slot * STAMP_SIZE


def data_pos(index: int, granule: int) -> int:
    """Return where the bytes of a granule are."""
    segment, slot = divmod(index, STAMPS)
    return HEADER_SIZE + segment * STAMPS * (STAMP_SIZE + granule) + STAMPS * STAMP_SIZE + slot * granule


def granule_stamp(salt: bytes, index: int, pieces: Sequence[memoryview]) -> bytes:
    """Return the stamp of a plain file's granule whose valid bytes are `pieces`."""
    length = sum(map(len, pieces))
    digest = hashlib.sha256(salt + _NUMBER.pack(index, length))
    for piece in pieces:
        digest.update(piece)
    return _STAMP.pack(length, digest.digest()[:24])


def stamp_length(stamp: bytes | memoryview) -> int:
    """Return how many bytes of a plain file's granule are valid, 0 when it is not there."""
    length: int = _STAMP.unpack(stamp)[0]
    return length


def volume_name(server: str) -> str:
    """Return the folder's name for all that comes from one server, or of one encrypted volume."""
    return "v-" + hashlib.sha256(server.encode()).hexdigest()[:24]


def object_name(key: bytes) -> str:
    """Return the path of an object within its volume's folder."""
    name = hashlib.sha256(key).hexdigest()[:40]
    return f"{name[:2]}/{name[2:]}"
