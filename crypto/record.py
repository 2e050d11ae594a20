"""Sans-IO. The sealed inode record: a file's key, size, generation and the root over its tags, in at most 1 KiB.

A clear header names format, key and file; the rest is XAES-256-GCM under the volume's inode key. Every bit of it is checked:
header fields must equal the one value they may have, or are associated data. The server keeps a record as opaque bytes.
Format number 0 marks the layout as not yet stable: a release that changes it refuses these files. Owns no memory.
"""

import struct
from dataclasses import dataclass
from typing import Final

from crypto.aead import KEY_SIZE, TAG_SIZE, XAES_NONCE_SIZE, BadTag, Suite
from crypto.errors import IntegrityError, Malformed, WrongKey
from crypto.keys import VolumeKey
from crypto.layout import MAX_LOG2BS, MIN_LOG2BS, nr_blocks, tree_depth

__all__ = ["MAX_PLAIN_SIZE", "RECORD_MAX", "RECORD_SIZE", "Record", "open_record", "seal_record"]

MAGIC: Final = b"IOVC"
FORMAT: Final = 0
TYPE_FILE: Final = 1
RECORD_MAX: Final = 1024
MAX_PLAIN_SIZE: Final = (1 << 63) - (1 << MAX_LOG2BS)
HASH_SIZE: Final = 32

# magic, format, flags (0), epoch, key id, file id, nonce
HEADER: Final = struct.Struct(f"<4sHHI16s16s{XAES_NONCE_SIZE}s")
# type, suite, log2bs, depth, rekey, generation, size, file key, root
BODY: Final = struct.Struct(f"<BBBBIQQ{KEY_SIZE}s{HASH_SIZE}s")
RECORD_SIZE: Final = HEADER.size + BODY.size + TAG_SIZE


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """What a record says once it is open.

    size: plain bytes. generation: grows by one with each commit, kept by clients and not the server's number. root: hash of the
    top tag page, zero when the file has no data block. rekey: the number under which new blocks are encrypted.
    """

    file_id: bytes
    file_key: bytes
    suite: Suite
    log2bs: int
    rekey: int
    generation: int
    size: int
    root: bytes

    @property
    def depth(self) -> int:
        """Levels of tag pages above the leaves."""
        return tree_depth(nr_blocks(self.size, self.log2bs))


def aad_of(key: VolumeKey, file_id: bytes) -> bytes:
    return b"iovc/1 inode" + key.vol_id + file_id + key.epoch.to_bytes(4, "little")


def seal_record(key: VolumeKey, record: Record, nonce: bytes) -> bytes:
    """Return the record as the server stores it. `nonce`: 24 bytes, never used before."""
    header = HEADER.pack(MAGIC, FORMAT, 0, key.epoch, key.key_id, record.file_id, nonce)
    r = record
    body = BODY.pack(TYPE_FILE, r.suite, r.log2bs, r.depth, r.rekey, r.generation, r.size, r.file_key, r.root)
    return header + key.inode.seal(nonce, body, aad_of(key, record.file_id))


def open_record(key: VolumeKey, sealed: bytes) -> Record:
    """Verify and parse a record, sealed in this epoch or an earlier one.

    Raises: Malformed for what is no record of this format, WrongKey for one under another volume key, IntegrityError for one that
    was changed.
    """
    if len(sealed) != RECORD_SIZE:
        raise Malformed(f"not an encrypted file's record: {len(sealed)} bytes where {RECORD_SIZE} are expected")
    magic, form, flags, epoch, key_id, file_id, nonce = HEADER.unpack_from(sealed)
    if magic != MAGIC:
        raise Malformed("not an encrypted file's record")
    if form != FORMAT or flags:
        raise Malformed(f"record format {form} (flags {flags:#x}) is not one we speak; we speak {FORMAT}")
    of_epoch = key.of_epoch(epoch)
    if of_epoch is None or key_id != of_epoch.key_id:
        raise WrongKey("the file was encrypted under another key")
    try:
        body = of_epoch.inode.open(nonce, sealed[HEADER.size :], aad_of(of_epoch, file_id))
    except BadTag:
        raise IntegrityError("the record was changed", file_id=file_id) from None
    kind, suite, log2bs, depth, rekey, generation, size, file_key, root = BODY.unpack(body)
    # Whoever sealed this held the key, so what follows guards against a faulty writer, not against the server.
    if kind != TYPE_FILE or suite not in key.suites or not MIN_LOG2BS <= log2bs <= MAX_LOG2BS:
        raise Malformed(f"record of type {kind} with suite {suite} and blocks of 2**{log2bs} bytes is not one we speak")
    record = Record(file_id, file_key, Suite(suite), log2bs, rekey, generation, size, root)
    if size > MAX_PLAIN_SIZE or rekey >= 1 << 30 or depth != record.depth:
        raise Malformed("record with a size, depth or rekey number out of range")
    return record
