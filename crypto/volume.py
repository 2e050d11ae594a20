"""Sans-IO. The header of an encrypted volume: who may open it, who owns it, and the keys of its earlier epochs.

A header is text, one thing a line, and has exactly one form: what is parsed is written again and must be the same bytes.

    iovc-volume 1
    volume <vol_id>
    epoch <number>
    suites <number> …            the first encrypts new files, the others may be met
    slot argon2id … | slot key … the owner's
    slot x25519 … | slot xwing … a recipient's, any number of them
    old <nonce> <sealed>         the key of the epoch before, under this epoch's; then of the one before that
    owner <Ed25519 public key>
    signature <over every byte above>
    mac <HMAC-SHA-256 under the volume's key, over every byte above>

Checks go from cheap to dear, and what a server chose is bounded before it is used: form, pinned owner, signature, slot, MAC. A
`VolumeKey` exists only when all have passed. Owns no memory.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crypto.aead import KEY_SIZE, TAG_SIZE, XAES_NONCE_SIZE, BadTag, Suite, XaesGcm
from crypto.errors import KeyUnavailable, Malformed, Rollback, WrongKey
from crypto.keys import VOL_ID_SIZE, Secret, VolumeKey, hkdf_expand
from crypto.slots import (
    BODY_SIZE,
    COMMITMENT_SIZE,
    DEFAULT_KDF,
    PUBLIC_SIZE,
    SALT_SIZE,
    SEED_SIZE,
    WRAPPED_SIZE,
    Identity,
    Kdf,
    Kem,
    OwnerSecret,
    OwnerSlot,
    Recipient,
    RecipientSlot,
    Scope,
)

__all__ = ["HEADER_MAX", "HEADER_NAME", "Fresh", "Header", "OpenVolume", "new_volume", "parse_header", "unlock"]

HEADER_NAME: Final = ".netfs-volume"
HEADER_MAX: Final = 512 << 10
MAX_RECIPIENTS: Final = 64
MAX_OLD_KEYS: Final = 256
FIRST_LINE: Final = "iovc-volume 1"
FIRST_EPOCH: Final = 1
ROOTED: Final = "freshness root"
SIGNATURE_SIZE: Final = 64
MAC_SIZE: Final = 32
OWNER_SIZE: Final = 32
SEALED_KEY_SIZE: Final = KEY_SIZE + TAG_SIZE
SIGNED: Final = b"iovc/1 header\0"
NUMBER_DIGITS: Final = 10

Fresh = Callable[[int], bytes]
"""Returns that many fresh bytes of a cryptographic source."""


@dataclass(frozen=True, slots=True)
class OldKey:
    """The key of an earlier epoch, sealed under that of the next."""

    nonce: bytes
    sealed: bytes


@dataclass(frozen=True)
class Header:
    """What a header says; nothing of it is believed before `unlock`. old_keys: the latest first. rooted: it has a root."""

    scope: Scope
    suites: tuple[Suite, ...]
    owner_slot: OwnerSlot
    recipient_slots: tuple[RecipientSlot, ...] = ()
    old_keys: tuple[OldKey, ...] = ()
    signature: bytes = b""
    mac: bytes = b""
    rooted: bool = False

    @property
    def fingerprint(self) -> bytes:
        """What names volume and owner, and is pinned: 32 bytes."""
        return hashlib.sha256(b"iovc/1 vol" + self.scope.vol_id + self.scope.owner).digest()

    @cached_property
    def signed_text(self) -> bytes:
        """What the signature covers."""
        scope = self.scope
        lines = [
            FIRST_LINE,
            f"volume {scope.vol_id.hex()}",
            f"epoch {scope.epoch}",
            " ".join(["suites", *(str(suite.value) for suite in self.suites)]),
            *([ROOTED] if self.rooted else []),
            self.owner_slot.line(),
            *(slot.line() for slot in self.recipient_slots),
            *(f"old {old.nonce.hex()} {old.sealed.hex()}" for old in self.old_keys),
            f"owner {scope.owner.hex()}",
        ]
        return "\n".join([*lines, ""]).encode()

    @property
    def authenticated_text(self) -> bytes:
        """What the MAC covers."""
        return self.signed_text + f"signature {self.signature.hex()}\n".encode()

    def encode(self) -> bytes:
        """Return the header as the server stores it."""
        return self.authenticated_text + f"mac {self.mac.hex()}\n".encode()


# ---- parsing


def parse_header(content: bytes) -> Header:
    """Parse a header; nothing is derived and nothing believed. Raises: Malformed."""
    if len(content) > HEADER_MAX:
        raise Malformed(f"a volume header of more than {HEADER_MAX} bytes")
    first, _, _ = content[: len(FIRST_LINE) + 8].partition(b"\n")
    if first != FIRST_LINE.encode():
        raise Malformed("not a volume header of a version we speak; we speak 'iovc-volume 1'")
    try:
        header = parse_lines(content.decode("ascii").split("\n")[1:])
    except ValueError:
        raise Malformed("a volume header that does not follow the format") from None
    if header.owner_slot.kdf is not None:
        header.owner_slot.kdf.check()
    if header.encode() != content:
        raise Malformed("a volume header that is not written in its one form")
    return header


def parse_lines(lines: list[str]) -> Header:
    """Parse what follows the first line. Raises: ValueError, Malformed."""
    rows = iter(lines)
    vol_id = digits(single(rows, "volume"), VOL_ID_SIZE)
    epoch = number(single(rows, "epoch"))
    suites = tuple(Suite(number(word)) for word in words(rows, "suites"))
    if not FIRST_EPOCH <= epoch < 1 << 32 or not suites or len(set(suites)) < len(suites):
        raise ValueError
    line = next(rows, "")
    rooted = line == ROOTED
    name, _, rest = (next(rows, "") if rooted else line).partition(" ")
    if name != "slot":
        raise ValueError
    owner_slot = parse_owner_slot(rest.split(" "))
    recipients: dict[Recipient, RecipientSlot] = {}
    old_keys: list[OldKey] = []
    name, _, rest = next(rows, "").partition(" ")
    while name == "slot":
        slot = parse_recipient_slot(rest.split(" "))
        if slot.recipient in recipients or len(recipients) == MAX_RECIPIENTS:
            raise ValueError
        recipients[slot.recipient] = slot
        name, _, rest = next(rows, "").partition(" ")
    while name == "old":
        nonce, sealed = rest.split(" ")
        old_keys.append(OldKey(digits(nonce, XAES_NONCE_SIZE), digits(sealed, SEALED_KEY_SIZE)))
        name, _, rest = next(rows, "").partition(" ")
    if name != "owner" or len(old_keys) > min(epoch - FIRST_EPOCH, MAX_OLD_KEYS):
        raise ValueError
    scope = Scope(vol_id, epoch, digits(rest, OWNER_SIZE))
    signature = digits(single(rows, "signature"), SIGNATURE_SIZE)
    mac = digits(single(rows, "mac"), MAC_SIZE)
    return Header(scope, suites, owner_slot, tuple(recipients.values()), tuple(old_keys), signature, mac, rooted)


def parse_owner_slot(fields: list[str]) -> OwnerSlot:
    kdf = None
    if fields[0] == "argon2id":
        memory, passes, lanes = map(number, fields[1:4])
        kdf = Kdf(memory, passes, lanes)
    elif fields[0] != "key":
        raise ValueError
    salt, commitment, wrapped = fields[4 if kdf else 1 :]
    return OwnerSlot(kdf, digits(salt, SALT_SIZE), digits(commitment, COMMITMENT_SIZE), digits(wrapped, WRAPPED_SIZE))


def parse_recipient_slot(fields: list[str]) -> RecipientSlot:
    word, public, body = fields
    kem = Kem(word)
    return RecipientSlot(Recipient(kem, digits(public, PUBLIC_SIZE[kem])), digits(body, BODY_SIZE[kem]))


def words(rows: Iterator[str], name: str) -> list[str]:
    """Return the words behind the name of the next line."""
    found, _, rest = next(rows, "").partition(" ")
    if found != name:
        raise ValueError
    return rest.split(" ")


def single(rows: Iterator[str], name: str) -> str:
    (word,) = words(rows, name)
    return word


def digits(text: str, size: int) -> bytes:
    if len(text) != 2 * size:
        raise ValueError
    return bytes.fromhex(text)


def number(text: str) -> int:
    if len(text) > NUMBER_DIGITS:
        raise ValueError
    return int(text)


# ---- opening


def unlock(
    header: Header, secret: OwnerSecret | Identity, *, pinned: bytes | None, least_epoch: int = FIRST_EPOCH
) -> "OpenVolume":
    """Open a volume. Blocks for the time a passphrase's derivation takes.

    Args: pinned: the fingerprint the volume must have; None trusts whom the header names, for a first use only. least_epoch: the
    latest epoch this volume has been seen in.
    Raises: WrongKey for a secret that does not open it, another owner than the pinned one, and a header that its owner has not
    signed; KeyUnavailable when no slot is for this kind of secret; Rollback for an earlier epoch.
    """
    scope = header.scope
    if pinned is not None and not hmac.compare_digest(pinned, header.fingerprint):
        raise WrongKey(f"the volume has fingerprint {header.fingerprint.hex()}, not the one that is pinned, {pinned.hex()}")
    if not is_signed(scope.owner, SIGNED + header.signed_text, header.signature):
        raise WrongKey("the volume's header is not signed by its owner")
    if scope.epoch < least_epoch:
        raise Rollback(f"the volume's header is of epoch {scope.epoch}; one of epoch {least_epoch} has been seen")
    seed = b""
    if isinstance(secret, Identity):
        mine = [slot for slot in header.recipient_slots if slot.recipient in secret.recipients]
        if not mine:
            raise KeyUnavailable("the volume is not open to this identity")
        key = mine[0].unwrap(scope, secret)
    else:
        if not header.owner_slot.fits(secret):
            raise KeyUnavailable(f"the volume opens with a {'passphrase' if header.owner_slot.kdf else 'key file'}")
        both = header.owner_slot.unwrap(scope, secret)
        key, seed = both[:KEY_SIZE], both[KEY_SIZE:]
    if not hmac.compare_digest(mac_of(scope, key, header.authenticated_text), header.mac):
        raise WrongKey("the volume's header was changed")
    return OpenVolume(header, key, seed)


def derived(scope: Scope, key: bytes, label: bytes) -> bytes:
    return hkdf_expand(key, b"iovc/1\0" + label + b"\0" + scope.vol_id + scope.epoch.to_bytes(4, "little"), KEY_SIZE)


def mac_of(scope: Scope, key: bytes, text: bytes) -> bytes:
    return hmac.digest(derived(scope, key, b"hdr"), text, "sha256")


def is_signed(owner: bytes, text: bytes, signature: bytes) -> bool:
    """Say whether the owner of an Ed25519 public key (RFC 8032) has signed a text."""
    try:
        Ed25519PublicKey.from_public_bytes(owner).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def signed(seed: bytes, text: bytes) -> bytes:
    """Return the signature of a text by who has the seed of a signing key."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(text)


def public_of(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def old_key_aad(scope: Scope) -> bytes:
    return b"iovc/1 old" + scope.vol_id + scope.epoch.to_bytes(4, "little")


# ---- making and changing


class OpenVolume(Secret):
    """A volume whose header was verified. key: what its files are encrypted under, those of earlier epochs included."""

    __slots__ = ("_secret", "_seed", "header", "key")

    def __init__(self, header: Header, secret: bytes, seed: bytes) -> None:
        """Raises: WrongKey when a key of an earlier epoch does not open."""
        self.header = header
        self._secret = secret
        self._seed = seed
        scope = header.scope
        older: list[VolumeKey] = []
        try:
            for old in header.old_keys:
                before = replace(scope, epoch=scope.epoch - 1)
                secret = XaesGcm(derived(scope, secret, b"old")).open(old.nonce, old.sealed, old_key_aad(before))
                older.append(VolumeKey(secret, before.vol_id, before.epoch, suites=header.suites))
                scope = before
        except BadTag:
            raise WrongKey("the key of an earlier epoch does not open") from None
        self.key = VolumeKey(
            self._secret, header.scope.vol_id, header.scope.epoch, suites=header.suites, older=tuple(older),
            rooted=header.rooted,
        )  # fmt: skip

    @property
    def is_owner(self) -> bool:
        """Whether the header can be changed: it was opened by the owner's slot."""
        return bool(self._seed)

    def with_recipient(self, recipient: Recipient) -> Header:
        """Return the header with one more recipient. Raises: KeyUnavailable, Malformed; ValueError when it is there already."""
        slots = self.header.recipient_slots
        if any(slot.recipient == recipient for slot in slots):
            raise ValueError("the volume is open to this recipient already")
        if len(slots) == MAX_RECIPIENTS:
            raise ValueError(f"a volume has at most {MAX_RECIPIENTS} recipients")
        seed = self._owner_seed()
        slot = RecipientSlot.wrap(self.header.scope, recipient, self._secret)
        return sealed_header(replace(self.header, recipient_slots=(*slots, slot)), self._secret, seed)

    def with_owner_secret(self, secret: OwnerSecret, kdf: Kdf, fresh: Fresh) -> Header:
        """Return the header with another passphrase or key file in place of the owner's. Blocks. Raises: KeyUnavailable."""
        seed = self._owner_seed()
        kdf.check()
        slot = OwnerSlot.wrap(self.header.scope, secret, kdf, fresh(SALT_SIZE), self._secret + seed)
        return sealed_header(replace(self.header, owner_slot=slot), self._secret, seed)

    def rotated(self, secret: OwnerSecret, fresh: Fresh, *, without: Recipient | None = None) -> Header:
        """Return the header of the next epoch, with a new key wrapped for the owner and all recipients but `without`. Blocks.

        Args: secret: what opened the volume. Raises: KeyUnavailable; ValueError for a recipient that is none.
        """
        seed = self._owner_seed()
        header = self.header
        kept = [slot.recipient for slot in header.recipient_slots if slot.recipient != without]
        if without is not None and len(kept) == len(header.recipient_slots):
            raise ValueError("the volume is not open to this recipient")
        if len(header.old_keys) == MAX_OLD_KEYS:
            raise ValueError(f"a volume keeps at most {MAX_OLD_KEYS} earlier keys")
        scope = replace(header.scope, epoch=header.scope.epoch + 1)
        key = fresh(KEY_SIZE)
        nonce = fresh(XAES_NONCE_SIZE)
        old = OldKey(nonce, XaesGcm(derived(scope, key, b"old")).seal(nonce, self._secret, old_key_aad(header.scope)))
        kdf = header.owner_slot.kdf or DEFAULT_KDF
        changed = replace(
            header,
            scope=scope,
            owner_slot=OwnerSlot.wrap(scope, secret, kdf, fresh(SALT_SIZE), key + seed),
            recipient_slots=tuple(RecipientSlot.wrap(scope, recipient, key) for recipient in kept),
            old_keys=(old, *header.old_keys),
        )
        return sealed_header(changed, key, seed)

    def _owner_seed(self) -> bytes:
        if not self._seed:
            raise KeyUnavailable("only who opens the volume as its owner, by passphrase or key file, can change its header")
        return self._seed


def new_volume(
    secret: OwnerSecret, fresh: Fresh, *, kdf: Kdf = DEFAULT_KDF, suites: tuple[Suite, ...] = tuple(Suite), rooted: bool = False
) -> Header:  # fmt: skip
    """Return the header of a new volume, with an owner of its own. Blocks for a passphrase's derivation.

    rooted: it has a root over all its objects, so that changes go one after the other.
    """
    kdf.check()
    seed, key = fresh(SEED_SIZE), fresh(KEY_SIZE)
    scope = Scope(fresh(VOL_ID_SIZE), FIRST_EPOCH, public_of(Ed25519PrivateKey.from_private_bytes(seed)))
    slot = OwnerSlot.wrap(scope, secret, kdf, fresh(SALT_SIZE), key + seed)
    return sealed_header(Header(scope, suites, slot, rooted=rooted), key, seed)


def sealed_header(header: Header, key: bytes, seed: bytes) -> Header:
    """Return the header with its signature and MAC made anew."""
    named = replace(header, signature=signed(seed, SIGNED + header.signed_text))
    return replace(named, mac=mac_of(header.scope, key, named.authenticated_text))
