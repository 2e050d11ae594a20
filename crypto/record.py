"""Sans-IO. The sealed record of a file, directory or symbolic link: keys, size, generation, root of the tags; ≤ 1 KiB.

A clear header names format, key and object; the rest is XAES-256-GCM under the volume's inode key. Every bit of it is checked:
header fields must equal the one value they may have, or are associated data. The server keeps a record as opaque bytes. Records
come in two lengths, so that the length of what is inline is not told: SHORT, and RECORD_MAX with content or a target inside.
Owns no memory.
"""

import hmac
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from crypto.aead import KEY_SIZE, TAG_SIZE, XAES_NONCE_SIZE, BadTag, Suite
from crypto.errors import IntegrityError, Malformed, WrongKey
from crypto.keys import FILE_ID_SIZE, VolumeKey, hkdf_expand
from crypto.layout import MAX_LOG2BS, MIN_LOG2BS, nr_blocks, tree_depth

__all__ = [
    "HASH_SIZE",
    "INLINE_MAX",
    "MAX_PLAIN_SIZE",
    "NOBODY",
    "NO_HASH",
    "RECORD_MAX",
    "RECORD_SHORT",
    "Folder",
    "Kind",
    "Record",
    "file_id_of",
    "open_record",
    "seal_record",
]

MAGIC: Final = b"IOVC"
FORMAT: Final = 1
MAX_PLAIN_SIZE: Final = (1 << 63) - (1 << MAX_LOG2BS)
MAX_REKEY: Final = 1 << 30
HASH_SIZE: Final = 32
NO_HASH: Final = bytes(HASH_SIZE)
NO_KEY: Final = bytes(KEY_SIZE)
WRITER_SIZE: Final = 16
DIR_ID_SIZE: Final = 16
NOBODY: Final = (1 << 32) - 1
"""An owner that was never set: what the server says holds."""

# magic, format, flags (0), epoch, key id, file id, nonce
HEADER: Final = struct.Struct(f"<4sHHI16s16s{XAES_NONCE_SIZE}s")
FILE_ID_OFF: Final = 28
# kind, suite, log2bs, depth, rekey, generation, size, uses, zero; file key, its commitment, zeros, root;
# mode, uid, gid, mtime, ctime, xattr digest, writer, hash of the record before, inline length
BODY: Final = struct.Struct("<BBBBIQQQI32s32s32s32sIIIqq32s16s32sH")
# dir id, epoch of the names, entries, next entry number, sum of the listing, whether it is the volume's top
FOLDER: Final = struct.Struct(f"<{DIR_ID_SIZE}sIQQ{HASH_SIZE}s?")
RECORD_SHORT: Final = 448
RECORD_MAX: Final = 1024
BODY_SHORT: Final = RECORD_SHORT - HEADER.size - TAG_SIZE
BODY_LONG: Final = RECORD_MAX - HEADER.size - TAG_SIZE
INLINE_MAX: Final = BODY_LONG - BODY.size
ZEROS: Final = bytes(BODY_LONG)


class Kind(IntEnum):
    """What an object is; the server is not told."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


@dataclass(frozen=True, slots=True, repr=False)
class Folder:
    """What a directory's record says of its entries.

    dir_id: names the directory in the encryption of its names. names_epoch: of the volume key they are encrypted under. count:
    entries. next_entry: number of the next entry made. listing: sum over the entries (`names.py`). is_root: the volume's top.
    """

    dir_id: bytes
    names_epoch: int
    count: int = 0
    next_entry: int = 1
    listing: int = 0
    is_root: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """What a record says once it is open.

    size: plain bytes. generation: grows by one with each commit, kept by clients and not the server's number. root: hash of the
    top tag page, zero when the file has no data block. rekey: the number under which new blocks are encrypted; uses: blocks
    encrypted under it so far, at least. writer: the client that sealed it. before: hash of the record it replaced. inline:
    content of a small file, or a link's target.
    """

    file_id: bytes
    file_key: bytes
    suite: Suite
    log2bs: int
    rekey: int = 0
    generation: int = 1
    size: int = 0
    root: bytes = NO_HASH
    kind: Kind = Kind.FILE
    uses: int = 0
    mode: int = 0
    uid: int = NOBODY
    gid: int = NOBODY
    mtime_ns: int = 0
    ctime_ns: int = 0
    xattrs: bytes = NO_HASH
    writer: bytes = bytes(WRITER_SIZE)
    before: bytes = NO_HASH
    inline: bytes = b""
    folder: Folder | None = None
    epoch: int = field(default=0, compare=False)

    @property
    def depth(self) -> int:
        """Levels of tag pages above the leaves."""
        return tree_depth(nr_blocks(self.size, self.log2bs))


def aad_of(key: VolumeKey, file_id: bytes) -> bytes:
    return b"iovc/1 inode" + key.vol_id + file_id + key.epoch.to_bytes(4, "little")


def commitment(file_key: bytes, file_id: bytes) -> bytes:
    """Return what binds a record to one file key."""
    return hkdf_expand(file_key, b"iovc/1 commit\0" + file_id, HASH_SIZE)


def file_id_of(sealed: bytes) -> bytes:
    """Return the object a record says it is of; nothing is verified. Raises: Malformed."""
    if len(sealed) < HEADER.size:
        raise Malformed(f"not a record: {len(sealed)} bytes")
    return sealed[FILE_ID_OFF : FILE_ID_OFF + FILE_ID_SIZE]


def seal_record(key: VolumeKey, record: Record, nonce: bytes) -> bytes:
    """Return the record as the server stores it. `nonce`: 24 bytes, never used before."""
    r = record
    header = HEADER.pack(MAGIC, FORMAT, 0, key.epoch, key.key_id, r.file_id, nonce)
    body = BODY.pack(
        r.kind, r.suite, r.log2bs, r.depth, r.rekey, r.generation, r.size, r.uses, 0,
        r.file_key, commitment(r.file_key, r.file_id), NO_KEY, r.root,
        r.mode, r.uid, r.gid, r.mtime_ns, r.ctime_ns, r.xattrs, r.writer, r.before, len(r.inline),
    )  # fmt: skip
    if r.folder is not None:
        f = r.folder
        tail = FOLDER.pack(f.dir_id, f.names_epoch, f.count, f.next_entry, f.listing.to_bytes(HASH_SIZE, "little"), f.is_root)
    else:
        tail = r.inline
    length = BODY_LONG if r.inline else BODY_SHORT
    body += tail + ZEROS[: length - len(body) - len(tail)]
    assert len(body) == length, "inline content is longer than INLINE_MAX"
    return header + key.inode.seal(nonce, body, aad_of(key, r.file_id))


def open_record(key: VolumeKey, sealed: bytes, file_id: bytes | None = None) -> Record:
    """Verify and parse a record, sealed in this epoch or an earlier one. file_id: of the object it must be of, if that is known.

    Raises: Malformed for what is no record of this format, WrongKey for one under another volume key, IntegrityError for one that
    was changed or is another object's.
    """
    if len(sealed) not in {RECORD_SHORT, RECORD_MAX}:
        raise Malformed(f"not a record: {len(sealed)} bytes where {RECORD_SHORT} or {RECORD_MAX} are expected")
    magic, form, flags, epoch, key_id, found_id, nonce = HEADER.unpack_from(sealed)
    if magic != MAGIC:
        raise Malformed("not a record of an encrypted volume")
    if form != FORMAT or flags:
        raise Malformed(f"record format {form} (flags {flags:#x}) is not one we speak; we speak {FORMAT}")
    of_epoch = key.of_epoch(epoch)
    if of_epoch is None or key_id != of_epoch.key_id:
        raise WrongKey("the file was encrypted under another key")
    if file_id is not None and found_id != file_id:
        raise IntegrityError("the record is another file's", file_id=file_id)
    try:
        body = of_epoch.inode.open(nonce, sealed[HEADER.size :], aad_of(of_epoch, found_id))
    except BadTag:
        raise IntegrityError("the record was changed", file_id=found_id) from None
    return parse_body(key, found_id, body, epoch)


def parse_body(key: VolumeKey, file_id: bytes, body: bytes, epoch: int) -> Record:
    """Parse what was sealed: whoever did held the key, so the checks guard against a faulty writer, not against the server."""
    (
        kind, suite, log2bs, depth, rekey, generation, size, uses, zero, file_key, committed, zeros, root,
        mode, uid, gid, mtime_ns, ctime_ns, xattrs, writer, before, nr_inline,
    ) = BODY.unpack_from(body)  # fmt: skip
    if kind not in set(Kind) or suite not in key.suites or not MIN_LOG2BS <= log2bs <= MAX_LOG2BS:
        raise Malformed(f"record of kind {kind} with suite {suite} and blocks of 2**{log2bs} bytes is not one we speak")
    folder, inline, end = None, b"", BODY.size
    if kind == Kind.DIRECTORY:
        dir_id, names_epoch, count, next_entry, listing, is_root = FOLDER.unpack_from(body, BODY.size)
        folder = Folder(dir_id, names_epoch, count, next_entry, int.from_bytes(listing, "little"), is_root)
        end += FOLDER.size
    else:
        end += nr_inline
        inline = body[BODY.size : end]
    record = Record(
        file_id, file_key, Suite(suite), log2bs, rekey, generation, size, root, Kind(kind), uses,
        mode, uid, gid, mtime_ns, ctime_ns, xattrs, writer, before, inline, folder, epoch,
    )  # fmt: skip
    right = (
        size <= MAX_PLAIN_SIZE
        and rekey < MAX_REKEY
        and (zero, zeros) == (0, NO_KEY)
        and depth == record.depth
        and len(body) == (BODY_LONG if nr_inline else BODY_SHORT)
        and end <= len(body)
        and body[end:] == ZEROS[: len(body) - end]
        and (not nr_inline or (size == nr_inline and root == NO_HASH and kind != Kind.DIRECTORY))
        and (kind != Kind.SYMLINK or bool(nr_inline))
    )
    if not right or not hmac.compare_digest(committed, commitment(file_key, file_id)):
        raise Malformed("record with a value out of range")
    return record
