"""Slots: the primitives against published vectors, costs that are refused, and what opens under no other secret."""

import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from crypto import slots
from crypto.errors import EKEYREJECTED, CryptoError, Malformed, WrongKey
from crypto.keys import format_key_file
from crypto.slots import (
    BODY_SIZE,
    FLOOR_KDF,
    PUBLIC_SIZE,
    Identity,
    Kdf,
    Kem,
    OwnerSlot,
    Passphrase,
    RawKey,
    Recipient,
    RecipientSlot,
    Scope,
    derive,
    format_identity,
    format_recipients,
    parse_identity,
    parse_recipients,
    parse_secret,
)

SCOPE = Scope(b"v" * 16, 1, b"o" * 32)
SALT, KEYS = b"s" * 16, bytes(range(64))
SEED = bytes(range(32))


def test_argon2id_is_that_of_rfc_9106() -> None:
    kdf = Argon2id(
        salt=b"\x02" * 16, length=32, iterations=3, lanes=4, memory_cost=32, ad=b"\x04" * 12, secret=b"\x03" * 8
    )  # fmt: skip
    assert kdf.derive(b"\x01" * 32).hex() == "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    ours = derive(Passphrase(b"p"), Kdf(19 << 10, 2, 3), SALT)
    theirs = Argon2id(salt=SALT, length=64, iterations=2, lanes=3, memory_cost=19456).derive(b"p")
    assert b"".join(ours) == theirs


def test_hpke_is_that_of_rfc_9180() -> None:
    hpke = openssl.hpke
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_128_GCM)
    private = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
    )
    body = bytes.fromhex(
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )
    info = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
    plain = hpke._decrypt_with_aad(suite, body, private, info=info, aad=b"Count-0")
    assert plain == b"Beauty is truth, truth beauty"


def test_xwing_seeds_are_expanded_as_in_its_draft() -> None:
    wide = hashlib.shake_256(
        bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
    ).digest(96)  # fmt: skip
    public = MLKEM768PrivateKey.from_seed_bytes(wide[:64]).public_key().public_bytes_raw()
    assert public[:32].hex() == "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5"


COSTS_REFUSED = [
    Kdf((19 << 10) - 1, 1, 1), Kdf(8, 1, 1), Kdf(0, 1, 1), Kdf((1 << 20) + 1, 1, 1), Kdf(64 << 20, 1, 1), Kdf(19 << 10, 0, 1),
    Kdf(19 << 10, 65, 1), Kdf(19 << 10, 1 << 31, 1), Kdf(19 << 10, 1, 0), Kdf(19 << 10, 1, 17),
]  # fmt: skip


@pytest.fixture
def no_derivation(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_: object) -> None:
        raise AssertionError("a key was derived")

    monkeypatch.setattr(slots, "Argon2id", never)


@pytest.mark.usefixtures("no_derivation")
@pytest.mark.parametrize("costs", COSTS_REFUSED, ids=str)
def test_costs_are_refused_before_anything_is_derived(costs: Kdf) -> None:
    with pytest.raises(Malformed, match="Argon2id"):
        derive(Passphrase(b"p"), costs, SALT)


def test_costs_at_the_bounds_are_taken() -> None:
    FLOOR_KDF.check()
    Kdf(1 << 20, 64, 16).check()


@pytest.mark.parametrize("make", [Passphrase, RawKey])
def test_owner_slot(make: Callable[[bytes], Passphrase | RawKey]) -> None:
    slot = OwnerSlot.wrap(SCOPE, make(SEED), FLOOR_KDF, SALT, KEYS)
    assert slot.unwrap(SCOPE, make(SEED)) == KEYS
    assert slot.fits(make(SEED)) and slot.kdf == (FLOOR_KDF if make is Passphrase else None)
    assert len(slot.wrapped) == 80
    with pytest.raises(WrongKey, match="wrong"):
        slot.unwrap(SCOPE, make(bytes(32)))
    for scope in (Scope(b"w" * 16, 1, b"o" * 32), Scope(b"v" * 16, 2, b"o" * 32), Scope(b"v" * 16, 1, b"p" * 32)):
        with pytest.raises(WrongKey, match="changed"):
            slot.unwrap(scope, make(SEED))


def test_commitment_is_compared_before_anything_is_unwrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ciphertext made to open under two secrets tells which of them was tried only if it is tried."""
    mine, other = RawKey(b"a" * 32), RawKey(b"b" * 32)
    good = OwnerSlot.wrap(SCOPE, mine, FLOOR_KDF, SALT, KEYS)
    key, commitment = derive(other, None, SALT)
    crafted = OwnerSlot(None, SALT, good.commitment, AESGCM(key).encrypt(bytes(12), KEYS, good.aad(SCOPE)))
    assert commitment != good.commitment

    def never(_: bytes) -> None:
        raise AssertionError("unwrapped without a fitting commitment")

    monkeypatch.setattr(slots, "AESGCM", never)
    told = set()
    for slot in (crafted, good):
        with pytest.raises(WrongKey) as caught:
            slot.unwrap(SCOPE, other)
        told.add((str(caught.value), caught.value.errno))
    assert told == {("wrong key file", EKEYREJECTED)}


@pytest.mark.parametrize("kem", list(Kem))
def test_recipient_slot(kem: Kem) -> None:
    identity, stranger = Identity(SEED), Identity(b"x" * 32)
    (recipient,) = (each for each in identity.recipients if each.kem is kem)
    slot = RecipientSlot.wrap(SCOPE, recipient, KEYS[:32])
    assert (len(recipient.public), len(slot.body)) == (PUBLIC_SIZE[kem], BODY_SIZE[kem]) == PUBLISHED_SIZES[kem]
    assert slot.unwrap(SCOPE, identity) == KEYS[:32]
    assert slot.body != RecipientSlot.wrap(SCOPE, recipient, KEYS[:32]).body
    for scope, who in ((SCOPE, stranger), (Scope(b"w" * 16, 1, b""), identity), (Scope(b"v" * 16, 2, b""), identity)):
        with pytest.raises(WrongKey):
            slot.unwrap(scope, who)
    for at in (0, 40, len(slot.body) - 1):
        body = bytearray(slot.body)
        body[at] ^= 1
        with pytest.raises(WrongKey):
            RecipientSlot(recipient, bytes(body)).unwrap(SCOPE, identity)


PUBLISHED_SIZES = {Kem.X25519: (32, 80), Kem.XWING: (1216, 1168)}


@pytest.mark.parametrize("kem", list(Kem))
def test_public_keys_that_are_none(kem: Kem) -> None:
    with pytest.raises(Malformed):
        RecipientSlot.wrap(SCOPE, Recipient(kem, b"\xff" * (PUBLIC_SIZE[kem] - 32) + bytes(32)), KEYS[:32])


def test_files() -> None:
    identity = parse_identity(format_identity(SEED))
    assert identity.recipients == Identity(SEED).recipients
    assert parse_recipients(format_recipients(identity)) == {each.kem: each for each in identity.recipients}
    assert isinstance(parse_secret(format_identity(SEED)), Identity)
    raw = parse_secret(format_key_file(SEED))
    assert isinstance(raw, RawKey) and raw.secret == SEED
    assert repr(identity) == "<Identity>" and repr(raw) == "<RawKey>"


X25519_LINE = format_recipients(Identity(SEED)).splitlines()[1]


@pytest.mark.parametrize(
    ("parse", "content"),
    [
        (parse_identity, b""), (parse_identity, b"iovc-identity-1 00"), (parse_identity, b"iovc-identity-2 " + b"00" * 32),
        (parse_identity, b"iovc-identity-1 " + b"zz" * 32), (parse_identity, format_identity(SEED) * 2),
        (parse_secret, b"iovc-identity-1 "), (parse_secret, b"x" * 31), (parse_secret, bytes(1 << 20)),
        (parse_recipients, b""), (parse_recipients, b"iovc-recipient-1 x25519 00"), (parse_recipients, X25519_LINE[:-2]),
        (parse_recipients, X25519_LINE.replace(b"x25519", b"p256")), (parse_recipients, X25519_LINE.replace(b"-1", b"-2")),
        (parse_recipients, (X25519_LINE + b"\n") * 1000), (parse_recipients, format_identity(SEED)), (parse_recipients, b"\xff"),
    ],
)  # fmt: skip
def test_files_that_are_none(parse: Callable[[bytes], object], content: bytes) -> None:
    with pytest.raises(CryptoError) as caught:
        parse(content)
    assert isinstance(caught.value, Malformed)


@pytest.mark.parametrize(
    ("make", "secret"),
    [(Passphrase, b""), (Passphrase, bytes(4097)), (RawKey, bytes(31)), (RawKey, bytes(33)), (Identity, bytes(16))],
)
def test_secrets_of_a_wrong_size(make: Callable[[bytes], object], secret: bytes) -> None:
    with pytest.raises(ValueError):
        make(secret)
