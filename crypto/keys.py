"""Sans-IO. Keys: the volume key and what it derives, a file's key and its subkeys, and the parsing of a key file.

Derivation is HKDF-Expand with SHA-512 (RFC 5869, one block of output) under labels that all differ. Content subkeys change
every 65536 blocks and with the rekey number, so that random nonces stay far below their birthday bound. Key objects print
nothing of themselves and cannot be pickled. Python and OpenSSL keep copies that cannot be wiped; nothing here pretends otherwise.
"""

import hmac
import struct
from hashlib import sha256
from typing import Final, NoReturn

from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from crypto.aead import KEY_SIZE, Aead, Suite, XaesGcm
from crypto.errors import KeyUnavailable, Malformed
from crypto.layout import SEGMENT_BLOCKS

__all__ = [
    "FILE_ID_SIZE",
    "KEY_ID_SIZE",
    "VOL_ID_SIZE",
    "FileKey",
    "Secret",
    "VolumeKey",
    "format_key_file",
    "hkdf_expand",
    "load_key_file",
    "parse_key_file",
]

FILE_ID_SIZE: Final = 16
KEY_ID_SIZE: Final = 16
VOL_ID_SIZE: Final = 16
KEY_FILE_PREFIX: Final = b"iovc-key-1 "
KEY_FILE_MAX: Final = 4096
SUBKEYS_KEPT: Final = 64
SUBKEY_INFO: Final = struct.Struct("<12s16sIIBB")


def hkdf_expand(key: bytes, info: bytes, length: int) -> bytes:
    """Return `length` (at most 64) bytes of HKDF-Expand-SHA512."""
    if not 0 < length <= 64:
        raise ValueError("one block of HKDF-Expand-SHA512 gives 1 to 64 bytes")
    return hmac.digest(key, info + b"\x01", "sha512")[:length]


class Secret:
    """What holds key material: no repr, no pickle, no copy."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled")


class VolumeKey(Secret):
    """The key of a volume in one epoch, and what is derived from it.

    vol_id: 16 bytes that tell volumes of one key apart; zero for a bare key file, which has no header. suites: those a file
    may be encrypted with, the first for new ones. older: keys of earlier epochs, which open records and seal none. inode seals
    records; names (AES-SIV) and dir (keyed BLAKE2b) are for names and entries; cache and state authenticate what a client keeps.
    """

    __slots__ = ("cache", "dir", "epoch", "inode", "key_id", "names", "older", "rooted", "state", "suites", "vol_id")

    def __init__(
        self,
        secret: bytes,
        vol_id: bytes = bytes(VOL_ID_SIZE),
        epoch: int = 0,
        *,
        suites: tuple[Suite, ...] = tuple(Suite),
        older: tuple["VolumeKey", ...] = (),
        rooted: bool = False,
    ) -> None:
        if len(secret) != KEY_SIZE or len(vol_id) != VOL_ID_SIZE:
            raise ValueError("a volume key has 32 bytes, a volume id 16")
        self.suites = suites
        self.older = older
        self.rooted = rooted
        self.vol_id = vol_id
        self.epoch = epoch

        def derived(label: bytes, length: int = KEY_SIZE) -> bytes:
            return hkdf_expand(secret, b"iovc/1\0" + label + b"\0" + vol_id + epoch.to_bytes(4, "little"), length)

        self.key_id = derived(b"id", KEY_ID_SIZE)
        self.inode = XaesGcm(derived(b"inode"))
        self.names = AESSIV(derived(b"names", 2 * KEY_SIZE))
        self.dir = derived(b"dir")
        self.cache = derived(b"cache")
        self.state = derived(b"state")

    @property
    def root_id(self) -> bytes | None:
        """Return the id of the volume's top directory; without a header, which names a volume, it is random as any other."""
        if self.vol_id == bytes(VOL_ID_SIZE):
            return None
        return sha256(b"iovc/1 root" + self.vol_id).digest()[:FILE_ID_SIZE]

    def of_epoch(self, epoch: int) -> "VolumeKey | None":
        """Return the key of an epoch, if it is known."""
        return next((key for key in (self, *self.older) if key.epoch == epoch), None)


class FileKey(Secret):
    """The random key of one file: hands out the AEAD of each segment.

    Keeps the last 64 subkeys. Handing one out is safe from several threads; a race only derives a key twice.
    """

    __slots__ = ("_subkeys", "file_id", "log2bs", "secret", "suite")

    def __init__(self, secret: bytes, file_id: bytes, *, suite: Suite, log2bs: int) -> None:
        if len(secret) != KEY_SIZE or len(file_id) != FILE_ID_SIZE:
            raise ValueError("a file key has 32 bytes, a file id 16")
        self.secret = secret
        self.file_id = file_id
        self.suite = suite
        self.log2bs = log2bs
        self._subkeys: dict[tuple[int, int], Aead] = {}

    def subkey(self, rekey: int, block: int) -> Aead:
        """Return the AEAD under which the segment of `block` is encrypted. Raises: KeyUnavailable after `close`."""
        wanted = (rekey, block // SEGMENT_BLOCKS)
        aead = self._subkeys.get(wanted)
        if aead is None:
            if not self.secret:
                raise KeyUnavailable("the file's key has been closed")
            info = SUBKEY_INFO.pack(b"iovc/1 data\0", self.file_id, *wanted, self.suite, self.log2bs)
            aead = Aead(self.suite, hkdf_expand(self.secret, info, KEY_SIZE))
            if len(self._subkeys) >= SUBKEYS_KEPT:
                self._subkeys.pop(next(iter(self._subkeys)), None)
            self._subkeys[wanted] = aead
        return aead

    def close(self) -> None:
        """Forget the key."""
        self.secret = b""
        self._subkeys.clear()


def parse_key_file(content: bytes) -> bytes:
    """Return the 32 bytes of a key file: raw, or one line `iovc-key-1 ` and 64 hexadecimal digits. Raises: Malformed."""
    if len(content) == KEY_SIZE:
        return content
    line = content.rstrip(b"\r\n")
    digits = line.removeprefix(KEY_FILE_PREFIX)
    if len(content) <= KEY_FILE_MAX and line.startswith(KEY_FILE_PREFIX) and len(digits) == 2 * KEY_SIZE:
        try:
            return bytes.fromhex(digits.decode("ascii"))
        except ValueError:
            pass
    raise Malformed("not a key file: expected 32 raw bytes, or one line 'iovc-key-1' and 64 hexadecimal digits")


def load_key_file(content: bytes) -> VolumeKey:
    """Return the key in a key file, as that of a folder without a header. Raises: Malformed."""
    return VolumeKey(parse_key_file(content))


def format_key_file(secret: bytes) -> bytes:
    """Return the text form of a key file for 32 fresh random bytes."""
    if len(secret) != KEY_SIZE:
        raise ValueError("a volume key has 32 bytes")
    return KEY_FILE_PREFIX + secret.hex().encode() + b"\n"
