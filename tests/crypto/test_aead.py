"""Known answers of the suites and of XAES-256-GCM; what a bad tag leaves behind."""

import pytest

from crypto.aead import Aead, BadTag, Suite, XaesGcm, wipe

h = bytes.fromhex
# The Galois/Counter Mode of Operation, McGrew and Viega, test case 16.
GCM_PLAIN = h(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
GCM_SEALED = h(
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
    "76fc6ece0f4e1768cddf8853bb2d551b"
)
# RFC 8439, 2.8.2.
CHACHA_PLAIN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
)
CHACHA_SEALED = h(
    "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
    "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
)
VECTORS = [
    (Suite.AES_256_GCM, h("feffe9928665731c6d6a8f9467308308" * 2), h("cafebabefacedbaddecaf888"),
     h("feedfacedeadbeeffeedfacedeadbeefabaddad2"), GCM_PLAIN, GCM_SEALED),
    (Suite.CHACHA20_POLY1305, bytes(range(0x80, 0xA0)), h("070000004041424344454647"), h("50515253c0c1c2c3c4c5c6c7"),
     CHACHA_PLAIN, CHACHA_SEALED),
]  # fmt: skip


@pytest.mark.parametrize(("suite", "key", "nonce", "aad", "plain", "sealed"), VECTORS)
def test_known_answers(suite: Suite, key: bytes, nonce: bytes, aad: bytes, plain: bytes, sealed: bytes) -> None:
    out = memoryview(bytearray(len(plain) + 16))
    Aead(suite, key).encrypt_into(nonce, plain, aad, out)
    assert out == sealed
    back = memoryview(bytearray(len(plain)))
    Aead(suite, key).decrypt_into(nonce, sealed, aad, back)
    assert back == plain


def test_ocb3_known_answer() -> None:
    """RFC 7253, appendix A: 384 encryptions folded into one tag."""
    aead = Aead(Suite.AES_256_OCB3, bytes(31) + b"\x80")

    def sealed(n: int, aad: bytes, plain: bytes) -> bytes:
        out = memoryview(bytearray(len(plain) + 16))
        aead.encrypt_into(n.to_bytes(12, "big"), plain, aad, out)
        return bytes(out)

    folded = b""
    for length in range(128):
        zeros = bytes(length)
        n = 3 * length
        folded += sealed(n + 1, zeros, zeros) + sealed(n + 2, b"", zeros) + sealed(n + 3, zeros, b"")
    assert sealed(385, folded, b"") == h("d90eb8e9c977c88b79dd793d7ffa161c")


@pytest.mark.parametrize(
    ("key", "aad", "sealed"),
    [
        (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_xaes_known_answers(key: int, aad: bytes, sealed: str) -> None:
    xaes = XaesGcm(bytes([key]) * 32)
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    assert xaes.seal(nonce, b"XAES-256-GCM", aad) == h(sealed)
    assert xaes.open(nonce, h(sealed), aad) == b"XAES-256-GCM"
    with pytest.raises(BadTag):
        xaes.open(nonce, h(sealed), aad + b"x")
    with pytest.raises(ValueError):
        xaes.seal(nonce[:12], b"", b"")


@pytest.mark.parametrize("suite", Suite)
def test_bad_tag_leaves_zeros(suite: Suite) -> None:
    aead = Aead(suite, bytes(32))
    sealed = memoryview(bytearray(4096 + 16))
    aead.encrypt_into(bytes(12), b"p" * 4096, b"", sealed)
    out = memoryview(bytearray(b"\xaa" * 4096))
    sealed[4096] ^= 1
    with pytest.raises(BadTag) as caught:
        aead.decrypt_into(bytes(12), sealed, b"", out)
    assert out == bytes(4096)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("length", [0, 1, 1 << 18, (1 << 18) + 1])
def test_wipe(length: int) -> None:
    memory = bytearray(b"\xff" * (length + 1))
    wipe(memoryview(memory)[:length])
    assert memory == bytes(length) + b"\xff"
