"""Sans-IO. The root over a volume (level L2): one number and one hash that stand for the state of every object in it.

    root record   "IOVT" | format u16 | 0 u16 | epoch u32 | key id 16 | nonce 24 | XAES-256-GCM(generation u64, root 32) 56

        page of hashes    [ h0 h1 .. h127 ]      the child of an object is chosen by the next 7 bits of SHA-256 of its id
                           /   |
        page of objects  [n | id 16, digest 32 | … ]   up to 85; one more splits it into a page of hashes and its children

A digest is the SHA-256 of an object's sealed record. The hash of a page of objects is SHA-256(00 | page), of a page of hashes
SHA-256(01 | page), zero for what is empty. Page `p` of level `l` lies at ((128^l − 1) / 127 + p) · 4096 of the aux stream of the
root's own object. Nothing is changed in place: a change gives new pages and a new root, and what one transaction stores is all or
nothing. Pages are known by their hash, so a client that comes back to an older root finds them still. Owns its pages.
"""

import struct
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from crypto.aead import TAG_SIZE, XAES_NONCE_SIZE, BadTag
from crypto.errors import IntegrityError, Malformed, WrongKey
from crypto.keys import FILE_ID_SIZE, VolumeKey

__all__ = [
    "NO_ROOT", "PAGE_SIZE", "ROOT_NAME", "PageAt", "RootRecord", "RootTree", "digest_of", "open_root", "root_file_id",
    "seal_root",
]  # fmt: skip

ROOT_NAME: Final = ".netfs-volume-root"
PAGE_SIZE: Final = 4096
HASH_SIZE: Final = 32
NO_ROOT: Final = bytes(HASH_SIZE)
BITS: Final = 7
FAN_OUT: Final = 1 << BITS
MAX_LEVEL: Final = 6
PAGES_KEPT: Final = 1024
MAGIC: Final = b"IOVT"
FORMAT: Final = 1
HEADER: Final = struct.Struct(f"<4sHHI16s{XAES_NONCE_SIZE}s")
BODY: Final = struct.Struct(f"<Q{HASH_SIZE}s")
RECORD_SIZE: Final = HEADER.size + BODY.size + TAG_SIZE
COUNT: Final = struct.Struct("<H14x")
ROW: Final = struct.Struct(f"<{FILE_ID_SIZE}s{HASH_SIZE}s")
MOST_ROWS: Final = (PAGE_SIZE - COUNT.size) // ROW.size
OBJECTS: Final = 0
HASHES: Final = 1


@dataclass(frozen=True, slots=True)
class RootRecord:
    """The 40 bytes: how often the volume was changed, and the hash of the top page."""

    generation: int
    root: bytes


class PageAt(NamedTuple):
    """A page that is needed: where it lies in the aux stream, and the hash it must have."""

    pos: int
    hash: bytes


Rows = dict[bytes, bytes]


def digest_of(sealed: bytes) -> bytes:
    """Return what stands for a record in the tree."""
    return sha256(sealed).digest()


def root_file_id(key: VolumeKey) -> bytes:
    """Return the id under which the root's own generations are remembered."""
    return sha256(b"iovc/1 volume root" + key.vol_id).digest()[:FILE_ID_SIZE]


def aad_of(key: VolumeKey) -> bytes:
    return b"iovc/1 root" + key.vol_id + key.epoch.to_bytes(4, "little")


def seal_root(key: VolumeKey, record: RootRecord, nonce: bytes) -> bytes:
    """Return the record as the server stores it. `nonce`: 24 fresh bytes."""
    header = HEADER.pack(MAGIC, FORMAT, 0, key.epoch, key.key_id, nonce)
    return header + key.inode.seal(nonce, BODY.pack(record.generation, record.root), aad_of(key))


def open_root(key: VolumeKey, sealed: bytes) -> RootRecord:
    """Verify and parse a root record. Raises: Malformed, WrongKey, IntegrityError."""
    if len(sealed) != RECORD_SIZE:
        raise Malformed(f"not the root of a volume: {len(sealed)} bytes where {RECORD_SIZE} are expected")
    magic, form, flags, epoch, key_id, nonce = HEADER.unpack_from(sealed)
    if magic != MAGIC or form != FORMAT or flags:
        raise Malformed("not the root of a volume in a format we speak")
    of_epoch = key.of_epoch(epoch)
    if of_epoch is None or key_id != of_epoch.key_id:
        raise WrongKey("the root is another volume's")
    try:
        body = of_epoch.inode.open(nonce, sealed[HEADER.size :], aad_of(of_epoch))
    except BadTag:
        raise IntegrityError("the root of the volume was changed", file_id=root_file_id(key)) from None
    return RootRecord(*BODY.unpack(body))


def page_pos(level: int, prefix: int) -> int:
    return (((1 << BITS * level) - 1) // (FAN_OUT - 1) + prefix) * PAGE_SIZE


def prefix_of(file_id: bytes, level: int) -> int:
    """Return the page of a level an object belongs to."""
    return int.from_bytes(sha256(file_id).digest()[:8], "big") >> 64 - BITS * level


class RootTree:
    """The tree as far as its pages have been seen."""

    __slots__ = ("_pages", "root")

    def __init__(self, root: bytes = NO_ROOT) -> None:
        self.root = root
        self._pages: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()

    def missing(self, file_id: bytes, root: bytes | None = None) -> PageAt | None:
        """Return the next page to supply before an object can be looked up or changed under a root; None when nothing is."""
        wanted = self.root if root is None else root
        for level in range(MAX_LEVEL + 1):
            if wanted == NO_ROOT:
                return None
            page = self._pages.get(wanted)
            if page is None:
                return PageAt(page_pos(level, prefix_of(file_id, level)), wanted)
            self._pages.move_to_end(wanted)
            kind, data = page
            if kind == OBJECTS:
                return None
            wanted = child_of(data, file_id, level)
        raise Malformed("the tree of a volume is deeper than it can be")

    def supply(self, page: PageAt, data: bytes | memoryview) -> None:
        """Take a page as the server returned it. Raises: IntegrityError."""
        content = bytes(data)  # header: hashes, no payload
        if len(content) == PAGE_SIZE:
            for kind in (OBJECTS, HASHES):
                if page_hash(kind, content) == page.hash:
                    if kind == OBJECTS and COUNT.unpack_from(content)[0] > MOST_ROWS:
                        break
                    self._keep(page.hash, kind, content)
                    return
        raise IntegrityError("a page of the volume's root is not what was written")

    def get(self, file_id: bytes) -> bytes | None:
        """Return the digest of an object's record, None when there is none; no page may be missing."""
        wanted = self.root
        for level in range(MAX_LEVEL + 1):
            if wanted == NO_ROOT:
                return None
            kind, data = self._pages[wanted]
            if kind == OBJECTS:
                return rows_of(data).get(file_id)
            wanted = child_of(data, file_id, level)
        return None

    def changed(self, changes: dict[bytes, bytes | None]) -> tuple[bytes, dict[int, bytes]]:
        """Return the root after objects have got other digests (None: none any more), and the pages to store, by position."""
        stored: dict[int, bytes] = {}
        root = self._changed(self.root, dict(sorted(changes.items())), 0, 0, stored)
        return root, stored

    # ---- inside

    def _changed(
        self, here: bytes, changes: dict[bytes, bytes | None], level: int, prefix: int, stored: dict[int, bytes]
    ) -> bytes:
        if not changes:
            return here
        kind, data = self._pages[here] if here != NO_ROOT else (OBJECTS, b"")
        if kind == OBJECTS:
            rows = rows_of(data)
            for file_id, digest in changes.items():
                if digest is None:
                    rows.pop(file_id, None)
                else:
                    rows[file_id] = digest
            return self._laid(rows, level, prefix, stored)
        hashes = bytearray(data)
        below: dict[int, dict[bytes, bytes | None]] = {}
        for file_id, digest in changes.items():
            below.setdefault(prefix_of(file_id, level + 1) & FAN_OUT - 1, {})[file_id] = digest
        for index, some in below.items():
            at = index * HASH_SIZE
            child = bytes(hashes[at : at + HASH_SIZE])  # header: a hash
            hashes[at : at + HASH_SIZE] = self._changed(child, some, level + 1, prefix << BITS | index, stored)
        return self._stored(HASHES, bytes(hashes), level, prefix, stored)  # header: hashes

    def _laid(self, rows: Rows, level: int, prefix: int, stored: dict[int, bytes]) -> bytes:
        """Lay objects into a page, or into a page of hashes and its children when they are too many."""
        if not rows:
            return NO_ROOT
        if len(rows) <= MOST_ROWS:
            packed = b"".join(ROW.pack(file_id, digest) for file_id, digest in sorted(rows.items()))  # header: ids and digests
            page = (COUNT.pack(len(rows)) + packed).ljust(PAGE_SIZE, b"\0")
            return self._stored(OBJECTS, page, level, prefix, stored)
        if level == MAX_LEVEL:
            raise Malformed("more objects than a volume with a root can have")
        below: dict[int, Rows] = {}
        for file_id, digest in rows.items():
            below.setdefault(prefix_of(file_id, level + 1) & FAN_OUT - 1, {})[file_id] = digest
        hashes = [self._laid(below.get(index, {}), level + 1, prefix << BITS | index, stored) for index in range(FAN_OUT)]
        return self._stored(HASHES, b"".join(hashes), level, prefix, stored)  # header: hashes

    def _stored(self, kind: int, page: bytes, level: int, prefix: int, stored: dict[int, bytes]) -> bytes:
        digest = page_hash(kind, page)
        self._keep(digest, kind, page)
        stored[page_pos(level, prefix)] = page
        return digest

    def _keep(self, digest: bytes, kind: int, page: bytes) -> None:
        self._pages[digest] = (kind, page)
        self._pages.move_to_end(digest)
        if len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)


def page_hash(kind: int, page: bytes) -> bytes:
    return sha256(bytes([kind]) + page).digest()


def child_of(hashes: bytes, file_id: bytes, level: int) -> bytes:
    at = (prefix_of(file_id, level + 1) & FAN_OUT - 1) * HASH_SIZE
    return hashes[at : at + HASH_SIZE]


def rows_of(page: bytes) -> Rows:
    if not page:
        return {}
    (count,) = COUNT.unpack_from(page)
    return dict(ROW.iter_unpack(page[COUNT.size : COUNT.size + count * ROW.size]))
