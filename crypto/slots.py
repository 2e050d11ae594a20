"""Sans-IO. Slots of a volume header: what opens a volume, and how its key is wrapped for each of them.

The owner's slot is a passphrase (Argon2id, RFC 9106) or a key file: 64 bytes are derived, 32 of them a key that wraps once, 32 a
commitment that is published and compared before anything is unwrapped, so that one slot cannot be made to fit two secrets. A
recipient's slot is HPKE (RFC 9180) to X25519 or to X-Wing (ML-KEM-768 and X25519), in base mode: it tells nobody who wrapped,
which is why the header is signed. HPKE draws its ephemeral key inside OpenSSL; all other randomness is the caller's.
Owns no memory.
"""

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)  # fmt: skip
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from crypto.aead import KEY_SIZE, NONCE_SIZE, TAG_SIZE
from crypto.errors import Malformed, WrongKey
from crypto.keys import Secret, hkdf_expand, parse_key_file

__all__ = [
    "DEFAULT_KDF",
    "FLOOR_KDF",
    "SALT_SIZE",
    "Identity",
    "Kdf",
    "Kem",
    "OwnerSecret",
    "OwnerSlot",
    "Passphrase",
    "RawKey",
    "Recipient",
    "RecipientSlot",
    "Scope",
    "format_identity",
    "format_recipients",
    "parse_identity",
    "parse_recipients",
    "parse_secret",
]

SALT_SIZE: Final = 16
SEED_SIZE: Final = 32
COMMITMENT_SIZE: Final = 32
WRAPPED_SIZE: Final = KEY_SIZE + SEED_SIZE + TAG_SIZE
PASSPHRASE_MAX: Final = 4096
IDENTITY_PREFIX: Final = b"iovc-identity-1 "
RECIPIENT_PREFIX: Final = b"iovc-recipient-1 "
RECIPIENTS_FILE_MAX: Final = 64 << 10
IDENTITY_FILE_MAX: Final = 64 << 10
MLKEM768_PUBLIC_SIZE: Final = 1184


@dataclass(frozen=True, slots=True)
class Kdf:
    """Costs of Argon2id. Out of bounds they are refused before anything is derived: too cheap is a downgrade, too dear a bomb."""

    memory_kib: int
    passes: int
    lanes: int

    def check(self) -> None:
        """Raises: Malformed when a cost is out of bounds."""
        if not (19 << 10 <= self.memory_kib <= 1 << 20 and 1 <= self.passes <= 64 and 1 <= self.lanes <= 16):
            raise Malformed(
                f"Argon2id with {self.memory_kib} KiB, {self.passes} passes and {self.lanes} lanes is refused: "
                "19 MiB to 1 GiB, at most 64 passes and 16 lanes are taken"
            )


DEFAULT_KDF: Final = Kdf(64 << 10, 3, 4)
FLOOR_KDF: Final = Kdf(19 << 10, 1, 1)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a wrapped key is bound to: volume, epoch and the owner's Ed25519 public key."""

    vol_id: bytes
    epoch: int
    owner: bytes

    @property
    def label(self) -> bytes:
        """The bytes that name volume and epoch."""
        return b"iovc/1 vmk" + self.vol_id + self.epoch.to_bytes(4, "little")


# ---- the owner's slot


class Passphrase(Secret):
    """A passphrase, as the bytes that were typed. Raises: ValueError for an empty or absurdly long one."""

    __slots__ = ("secret",)

    def __init__(self, secret: bytes) -> None:
        if not 0 < len(secret) <= PASSPHRASE_MAX:
            raise ValueError(f"a passphrase has 1 to {PASSPHRASE_MAX} bytes")
        self.secret = secret


class RawKey(Secret):
    """The 32 bytes of a key file, which need no slow derivation."""

    __slots__ = ("secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_SIZE:
            raise ValueError("a key has 32 bytes")
        self.secret = secret


OwnerSecret = Passphrase | RawKey


@dataclass(frozen=True, slots=True)
class OwnerSlot:
    """The slot of who may change the header: it wraps the volume's key and the seed of the owner's signing key.

    kdf: costs of the passphrase's derivation, None for a key file.
    """

    kdf: Kdf | None
    salt: bytes
    commitment: bytes
    wrapped: bytes

    @classmethod
    def wrap(cls, scope: Scope, secret: OwnerSecret, kdf: Kdf, salt: bytes, keys: bytes) -> "OwnerSlot":
        """Wrap the volume's key and the owner's seed, 64 bytes. `salt`: 16 bytes, never used before. Blocks for a while."""
        costs = kdf if isinstance(secret, Passphrase) else None
        if len(salt) != SALT_SIZE or len(keys) != KEY_SIZE + SEED_SIZE:
            raise ValueError("a salt has 16 bytes, what is wrapped 64")
        key, commitment = derive(secret, costs, salt)
        slot = cls(costs, salt, commitment, b"")
        # One key for each salt and one use of it, so that the nonce may be constant.
        return cls(costs, salt, commitment, AESGCM(key).encrypt(bytes(NONCE_SIZE), keys, slot.aad(scope)))

    def unwrap(self, scope: Scope, secret: OwnerSecret) -> bytes:
        """Return the 64 bytes. Blocks for a while. Raises: WrongKey."""
        key, commitment = derive(secret, self.kdf, self.salt)
        if not hmac.compare_digest(commitment, self.commitment):
            raise WrongKey("wrong passphrase" if self.kdf else "wrong key file")
        try:
            return AESGCM(key).decrypt(bytes(NONCE_SIZE), self.wrapped, self.aad(scope))
        except InvalidTag:
            raise WrongKey("the volume's header was changed") from None

    def fits(self, secret: object) -> bool:
        """Say whether the slot is for this kind of secret."""
        return isinstance(secret, Passphrase if self.kdf else RawKey)

    def words(self) -> list[str]:
        """Return the line's words before what is wrapped."""
        kdf = self.kdf
        costs = ["argon2id", str(kdf.memory_kib), str(kdf.passes), str(kdf.lanes)] if kdf else ["key"]
        return ["slot", *costs, self.salt.hex(), self.commitment.hex()]

    def line(self) -> str:
        """Return the line of the header."""
        return " ".join([*self.words(), self.wrapped.hex()])

    def aad(self, scope: Scope) -> bytes:
        return scope.label + scope.owner + " ".join(self.words()).encode()


def derive(secret: OwnerSecret, kdf: Kdf | None, salt: bytes) -> tuple[bytes, bytes]:
    """Return a key and its commitment."""
    if kdf is None:
        both = hkdf_expand(secret.secret, b"iovc/1 slot key\0" + salt, KEY_SIZE + COMMITMENT_SIZE)
    else:
        kdf.check()
        both = Argon2id(
            salt=salt,
            length=KEY_SIZE + COMMITMENT_SIZE,
            iterations=kdf.passes,
            lanes=kdf.lanes,
            memory_cost=kdf.memory_kib,
        ).derive(secret.secret)
    return both[:KEY_SIZE], both[KEY_SIZE:]


# ---- recipients


class Kem(StrEnum):
    """What a key is encapsulated to; the value is the word in the header."""

    X25519 = "x25519"
    XWING = "xwing"


SUITES: Final = {
    Kem.X25519: Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    Kem.XWING: Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
}
PUBLIC_SIZE: Final = {Kem.X25519: 32, Kem.XWING: MLKEM768_PUBLIC_SIZE + 32}
BODY_SIZE: Final = {Kem.X25519: 32 + KEY_SIZE + TAG_SIZE, Kem.XWING: 1120 + KEY_SIZE + TAG_SIZE}


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public key to which a volume's key may be wrapped."""

    kem: Kem
    public: bytes

    @property
    def fingerprint(self) -> str:
        """The name by which people compare it: 32 hexadecimal digits."""
        return hashlib.sha256(b"iovc/1 recipient " + self.kem.encode() + b"\0" + self.public).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class RecipientSlot:
    """The slot of a recipient: the volume's key, and nothing by which the header could be changed."""

    recipient: Recipient
    body: bytes

    @classmethod
    def wrap(cls, scope: Scope, recipient: Recipient, key: bytes) -> "RecipientSlot":
        """Wrap the volume's key. Raises: Malformed for a public key that is none."""
        kem = recipient.kem
        try:
            public = public_key(recipient)
            return cls(recipient, SUITES[kem].encrypt(key, public, info=scope.label + kem.encode()))
        except ValueError:
            raise Malformed(f"not a public key of {kem}") from None

    def unwrap(self, scope: Scope, identity: "Identity") -> bytes:
        """Return the volume's key. Raises: WrongKey."""
        kem = self.recipient.kem
        try:
            key = SUITES[kem].decrypt(self.body, identity.private(kem), info=scope.label + kem.encode())
        except (InvalidTag, ValueError):
            raise WrongKey("the slot of this identity does not open") from None
        if len(key) != KEY_SIZE:
            raise WrongKey("the slot of this identity holds no key")
        return key

    def line(self) -> str:
        """Return the line of the header."""
        return f"slot {self.recipient.kem} {self.recipient.public.hex()} {self.body.hex()}"


def public_key(recipient: Recipient) -> X25519PublicKey | MLKEM768X25519PublicKey:
    public = recipient.public
    if recipient.kem is Kem.X25519:
        return X25519PublicKey.from_public_bytes(public)
    split = MLKEM768_PUBLIC_SIZE
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:split]), X25519PublicKey.from_public_bytes(public[split:])
    )


class Identity(Secret):
    """The private keys of a recipient, one for each KEM, derived from 32 random bytes. Raises: ValueError for fewer or more."""

    __slots__ = ("_privates", "recipients")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_SIZE:
            raise ValueError("an identity has 32 bytes")
        x25519 = X25519PrivateKey.from_private_bytes(hkdf_expand(seed, b"iovc/1 identity\0x25519", 32))
        xwing, public = xwing_private(hkdf_expand(seed, b"iovc/1 identity\0xwing", 32))
        self._privates: tuple[X25519PrivateKey, MLKEM768X25519PrivateKey] = x25519, xwing
        self.recipients = Recipient(Kem.XWING, public), Recipient(Kem.X25519, x25519.public_key().public_bytes_raw())

    def private(self, kem: Kem) -> X25519PrivateKey | MLKEM768X25519PrivateKey:
        """Return the private key of a KEM."""
        return self._privates[kem is Kem.XWING]


def xwing_private(seed: bytes) -> tuple[MLKEM768X25519PrivateKey, bytes]:
    """Expand a seed as X-Wing does: 64 bytes for ML-KEM-768, 32 for X25519. Returns: the private key, the public one."""
    wide = hashlib.shake_256(seed).digest(96)
    mlkem, other = MLKEM768PrivateKey.from_seed_bytes(wide[:64]), X25519PrivateKey.from_private_bytes(wide[64:])
    public = mlkem.public_key().public_bytes_raw() + other.public_key().public_bytes_raw()
    return MLKEM768X25519PrivateKey(mlkem, other), public


# ---- files


def parse_secret(content: bytes) -> RawKey | Identity:
    """Parse a file that opens a volume: a key file or an identity. Raises: Malformed."""
    return parse_identity(content) if IDENTITY_PREFIX in content else RawKey(parse_key_file(content))


def parse_identity(content: bytes) -> Identity:
    """Parse an identity file: one of its lines is `iovc-identity-1 ` and 64 hexadecimal digits. Raises: Malformed."""
    lines = [line for line in content[:IDENTITY_FILE_MAX].splitlines() if line.startswith(IDENTITY_PREFIX)]
    try:
        if len(lines) == 1 and len(lines[0]) == len(IDENTITY_PREFIX) + 2 * SEED_SIZE:
            return Identity(bytes.fromhex(lines[0].removeprefix(IDENTITY_PREFIX).decode("ascii")))
    except ValueError:
        pass
    raise Malformed("not an identity: expected a line 'iovc-identity-1' and 64 hexadecimal digits")


def format_identity(seed: bytes) -> bytes:
    """Return the line of an identity file for 32 fresh random bytes."""
    return IDENTITY_PREFIX + seed.hex().encode() + b"\n"


def format_recipients(identity: Identity) -> bytes:
    """Return the file to give away: a line `iovc-recipient-1 <kem> <public key>` for each KEM."""
    return b"".join(
        RECIPIENT_PREFIX + f"{recipient.kem} {recipient.public.hex()}\n".encode() for recipient in identity.recipients
    )


def parse_recipients(content: bytes) -> dict[Kem, Recipient]:
    """Parse such a file. Raises: Malformed."""
    found: dict[Kem, Recipient] = {}
    try:
        if len(content) > RECIPIENTS_FILE_MAX:
            raise ValueError
        for line in content.splitlines():
            word, digits = line.removeprefix(RECIPIENT_PREFIX).decode("ascii").split(" ")
            recipient = Recipient(Kem(word), bytes.fromhex(digits))
            if not line.startswith(RECIPIENT_PREFIX) or len(recipient.public) != PUBLIC_SIZE[recipient.kem]:
                raise ValueError
            found[recipient.kem] = recipient
    except ValueError:
        found.clear()
    if not found:
        raise Malformed("not a recipient: expected lines 'iovc-recipient-1', x25519 or xwing, and a public key in hexadecimal")
    return found
