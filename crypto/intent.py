"""Sans-IO. Write intents: what is about to be written over blocks that hold data, sealed, kept by the server until the commit.

Between the write of a block and the commit of its tag the server has the new ciphertext under the old tag. The intent names both
entries; who reads or recovers the block accepts the new one exactly if the old one is what record and tree say now. So an intent
stops saying anything once the block has been committed anew, and a server that brings an old one back is not believed.
Owns no memory.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from crypto.aead import TAG_SIZE, XAES_NONCE_SIZE, BadTag
from crypto.errors import IntegrityError, Malformed, WrongKey
from crypto.keys import VolumeKey
from crypto.layout import ENTRY_SIZE

__all__ = ["INTENT_BLOCKS_MAX", "Intent", "alternatives", "open_intent", "seal_intent"]

MAGIC: Final = b"IOVJ"
FORMAT: Final = 1
# magic, format, flags (zero), epoch, nonce of the seal
HEADER: Final = struct.Struct(f"<4sHHI{XAES_NONCE_SIZE}s")
# the generation it was made at, rows
BODY: Final = struct.Struct("<QI")
ROW: Final = struct.Struct(f"<Q{ENTRY_SIZE}s{ENTRY_SIZE}s")
INTENT_BLOCKS_MAX: Final = 896


@dataclass(frozen=True, slots=True)
class Intent:
    """Blocks about to be overwritten. generation: of the record when it was made; rows: (block, entry now, entry to be)."""

    generation: int
    rows: tuple[tuple[int, bytes, bytes], ...]


def aad_of(key: VolumeKey, file_id: bytes) -> bytes:
    return b"iovc/1 intent" + key.vol_id + file_id + key.epoch.to_bytes(4, "little")


def seal_intent(key: VolumeKey, file_id: bytes, intent: Intent, nonce: bytes) -> bytes:
    """Return the intent as the server keeps it. `nonce`: 24 fresh bytes."""
    assert 0 < len(intent.rows) <= INTENT_BLOCKS_MAX
    body = bytearray(BODY.pack(intent.generation, len(intent.rows)))
    for row in intent.rows:
        body += ROW.pack(*row)
    header = HEADER.pack(MAGIC, FORMAT, 0, key.epoch, nonce)
    return header + key.inode.seal(nonce, bytes(body), aad_of(key, file_id))  # header: entries, no payload


def open_intent(key: VolumeKey, file_id: bytes, sealed: bytes) -> Intent:
    """Verify and parse an intent of a file. Raises: Malformed, WrongKey, IntegrityError."""
    if len(sealed) < HEADER.size + BODY.size + TAG_SIZE:
        raise Malformed(f"not a write intent: {len(sealed)} bytes")
    magic, form, flags, epoch, nonce = HEADER.unpack_from(sealed)
    if magic != MAGIC or form != FORMAT or flags:
        raise Malformed("not a write intent of a format we speak")
    of_epoch = key.of_epoch(epoch)
    if of_epoch is None:
        raise WrongKey("a write intent under another key")
    try:
        body = of_epoch.inode.open(nonce, sealed[HEADER.size :], aad_of(of_epoch, file_id))
    except BadTag:
        raise IntegrityError("a write intent was changed", file_id=file_id) from None
    generation, count = BODY.unpack_from(body)
    if not 0 < count <= INTENT_BLOCKS_MAX or len(body) != BODY.size + count * ROW.size:
        raise Malformed("a write intent with a value out of range")
    return Intent(generation, tuple(ROW.iter_unpack(body[BODY.size :])))


def alternatives(intents: Iterable[Intent], generation: int) -> dict[int, list[tuple[bytes, bytes]]]:
    """Return for each block the (entry now, entry to be) that intents made up to this generation of the record name."""
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    for intent in intents:
        if intent.generation <= generation:
            for block, now, to_be in intent.rows:
                found.setdefault(block, []).append((now, to_be))
    return found
