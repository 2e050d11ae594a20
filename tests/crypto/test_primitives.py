"""Known answers of others: what suites, derivations, signatures and recipients' slots are made of does what is published of it.

vectors/primitives.json has them, each group with its source; each row is what goes in and what comes out, in hexadecimal. They go
through the doors that the product uses: `Aead`, `XaesGcm`, `hkdf_expand`, `derive`, `is_signed`, `xwing_private`, `SUITES`.
"""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from crypto.aead import Aead, BadTag, Suite, XaesGcm
from crypto.keys import VolumeKey, hkdf_expand
from crypto.slots import PUBLIC_SIZE, SUITES, Kdf, Kem, Passphrase, Recipient, derive, public_key, xwing_private
from crypto.volume import is_signed, public_of, signed

GROUPS: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "primitives.json").read_text("utf-8"))
AEADS: Final = [name for name, group in GROUPS.items() if "suite" in group]
pytestmark = pytest.mark.chosen_nonces


def rows(group: str, kind: str) -> list[list[bytes]]:
    found = [[bytes.fromhex(value) for value in row] for row in GROUPS[group][kind]]
    assert len(found) >= 5
    return found


@pytest.mark.parametrize("group", AEADS)
def test_content_suites(group: str) -> None:
    suite = Suite(GROUPS[group]["suite"])
    for key, nonce, aad, plain, sealed in rows(group, "valid"):
        out, back = memoryview(bytearray(len(sealed))), memoryview(bytearray(len(plain)))
        Aead(suite, key).encrypt_into(nonce, plain, aad, out)
        assert out == sealed
        Aead(suite, key).decrypt_into(nonce, sealed, aad, back)
        assert back == plain
    for key, nonce, aad, sealed in rows(group, "invalid"):
        back = memoryview(bytearray(b"\xaa" * (len(sealed) - 16)))
        with pytest.raises(BadTag):
            Aead(suite, key).decrypt_into(nonce, sealed, aad, back)
        assert not any(back)


def test_names_are_aes_siv() -> None:
    aes_siv = type(VolumeKey(b"k" * 32).names)
    for key, aad, plain, sealed in rows("aes_256_siv", "valid"):
        assert aes_siv(key).encrypt(plain, [aad]) == sealed
        assert aes_siv(key).decrypt(sealed, [aad]) == plain
    for key, aad, sealed in rows("aes_256_siv", "invalid"):
        with pytest.raises(InvalidTag):
            aes_siv(key).decrypt(sealed, [aad])


def test_xaes_accumulated_as_c2sp_has_it() -> None:
    """Ten thousand messages of random key, nonce, length and associated data, hashed; the stream is SHAKE-128 of nothing."""
    stream, at = hashlib.shake_128().digest(10_000 * 600), 0
    hashed = hashlib.shake_128()

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return stream[at - count : at]

    for _ in range(10_000):
        key, nonce = take(32), take(24)
        plain = take(take(1)[0])
        aad = take(take(1)[0])
        xaes = XaesGcm(key)
        sealed = xaes.seal(nonce, plain, aad)
        assert xaes.open(nonce, sealed, aad) == plain
        hashed.update(sealed)
    assert hashed.hexdigest(32) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


def test_derivations_are_hkdf_expand_sha512() -> None:
    """RFC 5869 itself has no vector with SHA-512. What is extracted first, a uniform key in the product, is made here."""
    for secret, salt, info, derived in rows("hkdf_sha512", "valid"):
        assert hkdf_expand(hmac.digest(salt or bytes(64), secret, "sha512"), info, len(derived)) == derived


def test_passphrases_are_argon2id() -> None:
    """A vector of the reference program: `printf password | argon2 pycasalt -id -t 1 -k 131072 -p 2 -l 64`."""
    key, commitment = derive(Passphrase(b"password"), Kdf(131072, 1, 2), b"pycasalt")
    assert key.hex() == "e9e42714a15947f6ce1fdabbb667dfc9fd1af7c473f021cc3402506bfa775053"
    assert commitment.hex() == "3f33aa44e3aebcf336680f4a2bdc371758574ad48470f05a9ee2ffd70c150b4c"


def test_argon2id_as_in_rfc_9106() -> None:
    """5.3, with costs below what a volume may have, a secret and associated data, which volumes do without."""
    from crypto import slots

    argon2id = slots.Argon2id  # type: ignore[attr-defined]
    made = argon2id(
        salt=b"\2" * 16, length=32, iterations=3, lanes=4, memory_cost=32, secret=b"\3" * 8, ad=b"\4" * 12
    ).derive(b"\1" * 32)  # fmt: skip
    assert made.hex() == "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            (
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
            ),
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            (
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
            ),
        ),
    ],
)
def test_owners_sign_as_in_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    """7.1, the first two."""
    assert public_of(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))).hex() == public
    assert signed(bytes.fromhex(seed), bytes.fromhex(message)).hex() == signature
    assert is_signed(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))


def test_signatures_that_are_none() -> None:
    for owner, text, signature in rows("ed25519", "valid"):
        assert is_signed(owner, text, signature)
    for owner, text, signature in rows("ed25519", "invalid"):
        assert not is_signed(owner, text, signature)


# ---- recipients


def hkdf_sha256(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand of RFC 5869, of one block."""
    return hmac.digest(key, info + b"\1", "sha256")[:length]


def key_schedule(shared: bytes, info: bytes, kem_id: int, aead_id: int) -> tuple[bytes, bytes]:
    """Return key and nonce of the first message, as RFC 9180, 5.1, says: base mode, HKDF-SHA256."""
    suite_id = b"HPKE" + kem_id.to_bytes(2, "big") + b"\0\1" + aead_id.to_bytes(2, "big")

    def extract(salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac.digest(salt, b"HPKE-v1" + suite_id + label + secret, "sha256")

    def expand(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
        return hkdf_sha256(secret, length.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + context, length)

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    return expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)


def test_hkdf_as_in_rfc_5869() -> None:
    """A.1, for the function above; what is asked for there is longer than one block."""
    extracted = hmac.digest(bytes(range(13)), b"\x0b" * 22, "sha256")
    assert extracted.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    assert hkdf_sha256(extracted, bytes(range(0xF0, 0xFA)), 32).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    )


@pytest.mark.parametrize(("kem", "kem_id"), [(Kem.X25519, 0x20), (Kem.XWING, 0x647A)])
def test_recipients_slots_are_hpke(kem: Kem, kem_id: int) -> None:
    """The vector's key encapsulation, under which what we wrap is encrypted by hand, opens with our suite and its private key."""
    group = GROUPS[f"hpke {kem}"]
    enc, shared, info, secret, public = (
        bytes.fromhex(group[name]) for name in ("enc", "shared_secret", "info", "skRm", "pkRm")
    )  # fmt: skip
    assert key_schedule(shared, info, kem_id, group["aead"]) == (bytes.fromhex(group["key"]), bytes.fromhex(group["base_nonce"]))
    assert len(public) == PUBLIC_SIZE[kem]
    private: X25519PrivateKey | MLKEM768X25519PrivateKey
    if kem is Kem.XWING:
        private, shown = xwing_private(secret)
        assert shown == public, "the seed is expanded as X-Wing expands it"
    else:
        private = X25519PrivateKey.from_private_bytes(secret)
        assert private.public_key().public_bytes_raw() == public
    key, nonce = key_schedule(shared, info, kem_id, 2)  # AES-256-GCM, as in all our slots
    wrapped = AESGCM(key).encrypt(nonce, b"a key of thirty-two bytes, of us", b"")
    assert SUITES[kem].decrypt(enc + wrapped, private, info=info) == b"a key of thirty-two bytes, of us"
    again = SUITES[kem].encrypt(b"the other way", public_key(Recipient(kem, public)), info=info)
    assert SUITES[kem].decrypt(again, private, info=info) == b"the other way"
