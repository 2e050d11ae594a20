"""Sans-IO. Names and directories: names as the server sees them, certificates of entries, the sum over a listing.

    "notes.txt" ──pad──▶ 16 bytes ──AES-SIV, ad (name, dir_id)──▶ 32 bytes ──base64url──▶ "3q2-7wAB…"       what the server lists

A name is encrypted under the directory's id, so equal names of two directories differ; the same name of one directory is always
the same, so that it can be looked up. An entry's certificate binds name, object, kind and entry number to the directory; the
sum over all entries is in the directory's sealed record, so that one left out, added, brought back or listed twice is noticed.
There is one encoding of each name; any other is refused. Owns no memory.
"""

import binascii
import errno
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from typing import Final

from cryptography.exceptions import InvalidTag

from crypto.errors import IntegrityError, KeyUnavailable, Malformed
from crypto.keys import FILE_ID_SIZE, VolumeKey
from crypto.record import HASH_SIZE, Folder, Kind

__all__ = ["CERTIFICATE_MAX", "NAME_MAX", "Entry", "Names", "SealedName", "check_listing", "with_entry", "without_entry"]

NAME_MAX: Final = 255
"""Of a plain name, in bytes."""
PAD_TO: Final = 16
PADDED_MAX: Final = 175
"""Padded names up to here have an encoding of at most 255 bytes; of longer ones the server sees a hash."""
SIV_SIZE: Final = 16
LONG: Final = "~"
ENTRY_FORMAT: Final = 1
# format, kind, length of a long name's ciphertext, entry number, file id, certificate; then that ciphertext
CERTIFICATE: Final = struct.Struct(f"<BBHQ{FILE_ID_SIZE}s{HASH_SIZE}s")
CERTIFICATE_MAX: Final = CERTIFICATE.size + 256 + SIV_SIZE
MODULUS: Final = 1 << 8 * HASH_SIZE
FOR_ENTRY: Final = b"iovc/1 entry"
FOR_LISTING: Final = b"iovc/1 listing"


@dataclass(frozen=True, slots=True)
class SealedName:
    """A name in one directory. plain: as the user says it; sealed: its ciphertext; shown: as the server has it."""

    plain: str
    sealed: bytes
    shown: str

    @property
    def is_long(self) -> bool:
        """The server has a hash only, and the entry the ciphertext."""
        return self.shown[0] == LONG


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name stands for. number: which of all the entries the directory ever had."""

    name: SealedName
    file_id: bytes
    kind: Kind
    number: int


def padded_length(length: int) -> int:
    """Return how long a name of `length` bytes is when it is encrypted."""
    return min(-(-length // PAD_TO) * PAD_TO, PADDED_MAX if length <= PADDED_MAX else NAME_MAX)


def to_text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(TO_URL).decode("ascii")


TO_URL: Final = bytes.maketrans(b"+/", b"-_")
FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/  ")


def from_text(text: str) -> bytes:
    """Decode what the server shows as a name. Raises: ValueError for any other than the one form."""
    data = binascii.a2b_base64(text.encode("ascii").translate(FROM_URL) + b"=" * (-len(text) % 4), strict_mode=True)
    if to_text(data) != text:
        raise ValueError
    return data


class Names:
    """The names of one directory."""

    __slots__ = ("_ad", "_dir_key", "_siv", "dir_id", "file_id")

    def __init__(self, key: VolumeKey, folder: Folder, file_id: bytes = b"") -> None:
        """file_id: of the directory, to name it in errors. Raises: KeyUnavailable when its names' epoch is not known."""
        of_epoch = key.of_epoch(folder.names_epoch)
        if of_epoch is None:
            raise KeyUnavailable(f"the names of a directory are of epoch {folder.names_epoch}, whose key is not there")
        self._siv = of_epoch.names
        self._dir_key = of_epoch.dir
        self._ad = [b"name", folder.dir_id]
        self.dir_id = folder.dir_id
        self.file_id = file_id

    def seal(self, name: str) -> SealedName:
        """Encrypt a name, which is one path component. Raises: OSError(ENAMETOOLONG) for more than 255 bytes."""
        plain = name.encode("utf-8", "surrogateescape")
        length = len(plain)
        assert length, "an empty name"
        if length > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "file name too long", name[:64])
        sealed = self._siv.encrypt(plain.ljust(padded_length(length), b"\0"), self._ad)
        if length > PADDED_MAX:
            return SealedName(name, sealed, LONG + to_text(sha256(sealed).digest()))
        return SealedName(name, sealed, to_text(sealed))

    def open(self, shown: str, long_sealed: bytes = b"") -> SealedName:
        """Decrypt a name as the server shows it; `long_sealed` comes with a long one's entry.

        Raises: IntegrityError for what no client of the volume put into this directory.
        """
        try:
            if shown[:1] == LONG:
                sealed = long_sealed
                if shown != LONG + to_text(sha256(sealed).digest()):
                    raise ValueError
            else:
                sealed = from_text(shown)
                if long_sealed:
                    raise ValueError
            padded = self._siv.decrypt(sealed, self._ad)
        except (ValueError, InvalidTag):
            raise self._strange() from None
        plain = padded.rstrip(b"\0")
        name = plain.decode("utf-8", "surrogateescape")
        is_name = plain not in {b"", b".", b".."} and b"/" not in plain and b"\0" not in plain
        # Only who holds the key can have made these; they are not shown all the same.
        if not is_name or len(plain) > NAME_MAX or len(padded) != padded_length(len(plain)):
            raise self._strange()
        if (len(plain) > PADDED_MAX) != (shown[0] == LONG):
            raise self._strange()
        return SealedName(name, sealed, shown)

    def certify(self, entry: Entry) -> bytes:
        """Return what is kept with an entry."""
        long = entry.name.sealed if entry.name.is_long else b""
        proof = blake2b(self._text(entry), digest_size=HASH_SIZE, key=self._dir_key, person=FOR_ENTRY).digest()
        return CERTIFICATE.pack(ENTRY_FORMAT, entry.kind, len(long), entry.number, entry.file_id, proof) + long

    def entry(self, shown: str, certificate: bytes) -> Entry:
        """Verify what the server keeps with an entry, and with it the name. Raises: IntegrityError, Malformed."""
        if not CERTIFICATE.size <= len(certificate) <= CERTIFICATE_MAX:
            raise IntegrityError("an entry of a directory has no certificate", file_id=self.file_id)
        form, kind, nr_long, number, file_id, proof = CERTIFICATE.unpack_from(certificate)
        if form != ENTRY_FORMAT or kind not in set(Kind) or len(certificate) != CERTIFICATE.size + nr_long:
            raise Malformed("an entry of a directory with a certificate that we do not speak")
        entry = Entry(self.open(shown, certificate[CERTIFICATE.size :]), file_id, Kind(kind), number)
        right = blake2b(self._text(entry), digest_size=HASH_SIZE, key=self._dir_key, person=FOR_ENTRY).digest()
        if not hmac.compare_digest(proof, right):
            raise IntegrityError("an entry of a directory was changed or moved", file_id=self.file_id)
        return entry

    def term(self, entry: Entry) -> int:
        """Return what an entry adds to the sum over its directory."""
        digest = blake2b(self._text(entry), digest_size=HASH_SIZE, key=self._dir_key, person=FOR_LISTING).digest()
        return int.from_bytes(digest, "little")

    def _text(self, entry: Entry) -> bytes:
        return self.dir_id + entry.file_id + struct.pack("<BQ", entry.kind, entry.number) + entry.name.sealed

    def _strange(self) -> IntegrityError:
        return IntegrityError("a name in a directory that was not put there", file_id=self.file_id)


def with_entry(names: Names, folder: Folder, entry: Entry) -> Folder:
    """Return what the record says with one more entry; its number is one the directory has not given yet, or gives now."""
    return replace(
        folder,
        count=folder.count + 1,
        next_entry=max(folder.next_entry, entry.number + 1),
        listing=(folder.listing + names.term(entry)) % MODULUS,
    )


def without_entry(names: Names, folder: Folder, entry: Entry) -> Folder:
    """Return what the record says with one entry less."""
    if not folder.count:
        raise IntegrityError("a directory has more entries than it was given", file_id=names.file_id)
    return replace(folder, count=folder.count - 1, listing=(folder.listing - names.term(entry)) % MODULUS)


def check_listing(names: Names, folder: Folder, entries: Iterable[Entry]) -> None:
    """Insist that a listing is complete: no entry left out, added, brought back or listed twice. Raises: IntegrityError."""
    count, total = 0, 0
    for entry in entries:
        count += 1
        total += names.term(entry)
    if count != folder.count or total % MODULUS != folder.listing:
        raise IntegrityError(
            f"a listing that is not the directory's: {count} entries where it has {folder.count}"
            if count != folder.count
            else "a listing with entries that are not the directory's",
            file_id=names.file_id,
        )
