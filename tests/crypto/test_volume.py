"""The volume header: its one form, a committed one, who opens it, and every change a server may make to it."""

import errno
import hashlib
import hmac
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from crypto import slots, volume
from crypto.aead import Suite
from crypto.errors import EKEYREJECTED, ENOKEY, CryptoError, KeyUnavailable, Malformed, Rollback, WrongKey
from crypto.file import new_record
from crypto.keys import hkdf_expand
from crypto.record import open_record, seal_record
from crypto.slots import FLOOR_KDF, Identity, Kdf, Passphrase, RawKey, Recipient, derive
from crypto.volume import HEADER_MAX, Header, OpenVolume, new_volume, parse_header, sealed_header, unlock

VECTOR = (Path(__file__).parent / "vectors" / "volume-header.txt").read_bytes()
VECTOR_FINGERPRINT = "98526288da0d8412ef86d91f70cd9892ea67eb696191bb5aefabf906158c3f5f"
VECTOR_KEY = "fcc93f83cae01309a35a29f626a9f2d7e811a26970f9a7d707df089fbc04c3d3"
VECTOR_KEY_IDS = ["e80bb5acec4ea5b45afabf7bff137567", "d2305f3f28882fc3f4f9ed21bc5b39b7"]
VECTOR_RECIPIENTS = ["28116780be8f4b81408b6f40d88d8596", "6a18e2c0e7b892d9485ccc96f8bea2bc"]
OWNER, OTHER = RawKey(b"k" * 32), RawKey(b"x" * 32)
BOB, MALLORY = Identity(bytes(range(32))), Identity(b"m" * 32)


class Counting:
    """Fresh bytes that are the same in every run, never twice in one."""

    def __init__(self, seed: bytes = b"") -> None:
        self.seed, self.count = seed, 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return hashlib.shake_256(self.seed + b"%d" % self.count).digest(size)


def opened(header: Header, secret: RawKey | Passphrase | Identity = OWNER) -> OpenVolume:
    return unlock(parse_header(header.encode()), secret, pinned=header.fingerprint)


def shared(*recipients: Recipient, seed: bytes = b"") -> Header:
    header = new_volume(OWNER, Counting(seed))
    for recipient in recipients:
        header = opened(header).with_recipient(recipient)
    return header


FULL = opened(shared(*BOB.recipients)).rotated(OWNER, Counting(b"later"))
LINES = FULL.encode().decode().splitlines(keepends=True)
NAMES = [line.split()[0] for line in LINES]


def refused(content: bytes, secret: RawKey | Identity = OWNER, pinned: bytes | None = None) -> CryptoError:
    with pytest.raises(CryptoError) as caught:
        unlock(parse_header(content), secret, pinned=pinned)
    return caught.value


# ---- a committed header


@pytest.mark.parametrize("secret", [Passphrase("pässword".encode()), Identity(bytes(range(32)))])
def test_known_answer(secret: Passphrase | Identity) -> None:
    header = parse_header(VECTOR)
    assert header.encode() == VECTOR
    assert header.fingerprint.hex() == VECTOR_FINGERPRINT
    assert [slot.recipient.fingerprint for slot in header.recipient_slots] == VECTOR_RECIPIENTS
    key = unlock(header, secret, pinned=bytes.fromhex(VECTOR_FINGERPRINT)).key
    assert [each.key_id.hex() for each in (key, *key.older)] == VECTOR_KEY_IDS
    assert [each.epoch for each in (key, *key.older)] == [2, 1]


def test_known_answer_as_the_document_says() -> None:
    """MAC and fingerprint again, by nothing but the document."""
    text = VECTOR.decode()
    where = bytes.fromhex(text.split("\nvolume ", 1)[1][:32]) + (2).to_bytes(4, "little")
    expand = HKDFExpand(SHA512(), 32, b"iovc/1\0hdr\0" + where).derive(bytes.fromhex(VECTOR_KEY))
    covered, mac = text.split("mac ")
    assert hmac.digest(expand, covered.encode(), "sha256").hex() == mac.strip()
    owner = bytes.fromhex(text.split("\nowner ", 1)[1][:64])
    assert hashlib.sha256(b"iovc/1 vol" + where[:16] + owner).hexdigest() == VECTOR_FINGERPRINT


# ---- who opens it


def test_owner_and_recipients_get_one_key() -> None:
    for recipient in BOB.recipients:
        header = shared(recipient)
        volume = opened(header, BOB)
        assert volume.key.key_id == opened(header).key.key_id
        assert opened(header).is_owner and not volume.is_owner
        with pytest.raises(KeyUnavailable, match="owner"):
            volume.with_recipient(MALLORY.recipients[0])


def test_who_does_not() -> None:
    header = shared(BOB.recipients[0])
    assert refused(header.encode(), OTHER).errno == EKEYREJECTED
    assert refused(header.encode(), MALLORY).errno == ENOKEY
    with pytest.raises(KeyUnavailable, match="opens with a key file"):
        opened(header, Passphrase(b"p"))


def test_passphrase() -> None:
    header = opened(new_volume(Passphrase(b"old"), Counting(), kdf=FLOOR_KDF), Passphrase(b"old"))
    changed = header.with_owner_secret(Passphrase(b"new"), Kdf(19 << 10, 2, 1), Counting(b"2"))
    assert opened(changed, Passphrase(b"new")).key.key_id == header.key.key_id
    assert changed.fingerprint == header.header.fingerprint
    with pytest.raises(WrongKey, match="wrong passphrase"):
        opened(changed, Passphrase(b"old"))
    with pytest.raises(KeyUnavailable, match="opens with a passphrase"):
        opened(changed)
    with pytest.raises(Malformed):
        header.with_owner_secret(Passphrase(b"new"), Kdf(8, 1, 1), Counting())


def test_recipients_are_added_once_and_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    header = shared(*BOB.recipients)
    with pytest.raises(ValueError, match="already"):
        opened(header).with_recipient(BOB.recipients[0])
    monkeypatch.setattr(volume, "MAX_RECIPIENTS", 2)
    with pytest.raises(ValueError, match="at most 2"):
        opened(header).with_recipient(MALLORY.recipients[0])
    assert opened(header).key.key_id
    monkeypatch.setattr(volume, "MAX_RECIPIENTS", 1)
    assert refused(header.encode()).errno == errno.EPROTO


# ---- epochs


def test_rotation_locks_out_and_keeps_old_files_readable() -> None:
    first = opened(shared(*BOB.recipients, MALLORY.recipients[0]))
    sealed = seal_record(first.key, new_record(bytes(16), bytes(32), log2bs=14), bytes(24))
    header = first.rotated(OWNER, Counting(b"2"), without=MALLORY.recipients[0])
    assert refused(header.encode(), MALLORY).errno == ENOKEY
    for secret in (OWNER, BOB):
        later = opened(header, secret).key
        record = open_record(later, sealed)
        again = seal_record(later, record, bytes(24))
        assert open_record(later, again) == record
        with pytest.raises(WrongKey):
            open_record(first.key, again)
    with pytest.raises(ValueError, match="not open"):
        opened(header).rotated(OWNER, Counting(), without=MALLORY.recipients[0])


def test_many_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    header, keys = shared(), []
    for turn in range(6):
        keys.append(opened(header).key.key_id)
        header = opened(header).rotated(OWNER, Counting(b"%d" % turn))
    key = opened(header).key
    assert [each.key_id for each in key.older] == keys[::-1]
    assert [each.epoch for each in key.older] == [6, 5, 4, 3, 2, 1]
    assert key.of_epoch(7) is key and key.of_epoch(8) is None and key.of_epoch(0) is None
    monkeypatch.setattr(volume, "MAX_OLD_KEYS", 6)
    with pytest.raises(ValueError, match="at most 6"):
        opened(header).rotated(OWNER, Counting())


def test_an_older_epoch_is_refused() -> None:
    first = shared()
    with pytest.raises(Rollback) as caught:
        unlock(first, OWNER, pinned=first.fingerprint, least_epoch=2)
    assert caught.value.errno == errno.ESTALE


@pytest.mark.chosen_nonces
def test_suites_are_those_of_the_header() -> None:
    only = opened(new_volume(OWNER, Counting(), suites=(Suite.AES_256_OCB3,))).key
    for suite, taken in ((Suite.AES_256_OCB3, True), (Suite.AES_256_GCM, False)):
        sealed = seal_record(only, new_record(bytes(16), bytes(32), log2bs=14, suite=suite), bytes(24))
        if taken:
            assert open_record(only, sealed).suite is suite
        else:
            with pytest.raises(Malformed, match="suite"):
                open_record(only, sealed)


# ---- a server that changes it (A22)


def flipped(text: str, at: int) -> bytes:
    changed = "0" if text[at] != "0" else "1"
    return (text[:at] + changed + text[at + 1 :]).encode()


@pytest.mark.parametrize("number", range(len(LINES)), ids=[f"{n}-{name}" for n, name in enumerate(NAMES)])
def test_every_line_counts(number: int) -> None:
    start, line = len("".join(LINES[:number])), LINES[number]
    words = [at for at, char in enumerate(line) if char == " "]
    places = {0, *words, *(at + 1 for at in words), len(line) - 2, *range(0, len(line), max(1, len(line) // 7))}
    for secret in (OWNER, BOB):
        for at in sorted(places):
            assert refused(flipped("".join(LINES), start + at), secret).errno in {EKEYREJECTED, errno.EPROTO}
        for changed in (LINES[:number] + LINES[number + 1 :], LINES[: number + 1] + LINES[number:], LINES[:number]):
            assert refused("".join(changed).encode(), secret).errno in {EKEYREJECTED, errno.EPROTO}


@pytest.mark.parametrize("first", range(len(LINES) - 1))
def test_lines_that_changed_places(first: int) -> None:
    lines = [*LINES[:first], LINES[first + 1], LINES[first], *LINES[first + 2 :]]
    assert refused("".join(lines).encode()).errno in {EKEYREJECTED, errno.EPROTO}


@given(st.data())
def test_any_other_bytes(data: st.DataObject) -> None:
    content = bytearray(FULL.encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    assert refused(bytes(content)).errno in {EKEYREJECTED, errno.EPROTO}


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    for text in (content, b"iovc-volume 1\n" + content):
        assert refused(text).errno == errno.EPROTO


# ---- forged, weakened and absurd headers


def resealed(header: Header, secret: RawKey, seed: bytes) -> bytes:
    """Sign and authenticate as somebody else."""
    theirs = new_volume(secret, Counting(seed))
    volume = opened(theirs, secret)
    scope = replace(header.scope, owner=theirs.scope.owner)
    return sealed_header(replace(header, scope=scope), volume._secret, volume._seed).encode()


def test_a_key_of_the_servers_choice() -> None:
    """A23: HPKE tells nobody who wrapped, so that only the pinned owner does."""
    mine = shared(BOB.recipients[0])
    forged = opened(new_volume(OTHER, Counting(b"server")), OTHER).with_recipient(BOB.recipients[0])
    assert not unlock(forged, BOB, pinned=None).is_owner  # the forgery is a good one
    error = refused(forged.encode(), BOB, pinned=mine.fingerprint)
    assert error.errno == EKEYREJECTED and "fingerprint" in str(error)


def test_a_slot_of_the_servers_choice_under_the_right_owner() -> None:
    mine = shared(BOB.recipients[0])
    forged = opened(new_volume(OTHER, Counting(b"server")), OTHER).with_recipient(BOB.recipients[0])
    mixed = replace(mine, recipient_slots=forged.recipient_slots)
    assert "signed" in str(refused(mixed.encode(), BOB, pinned=mine.fingerprint))
    assert refused(resealed(mine, OTHER, b"server")).errno == EKEYREJECTED


def test_an_owner_that_is_not_the_slots() -> None:
    mine = shared()
    assert "changed" in str(refused(resealed(mine, OTHER, b"server"), OWNER))


WEAKENED = [
    ("iovc-volume 1", "iovc-volume 2"), ("iovc-volume 1", "iovc-volume 0"), ("epoch 2", "epoch 0"), ("epoch 2", "epoch 02"),
    ("epoch 2", "epoch 1"), ("epoch 2", "epoch 4294967296"), ("epoch 2", "epoch -2"), ("epoch 2", f"epoch {'9' * 5000}"),
    ("suites 1 2 3", "suites 0"), ("suites 1 2 3", "suites 1 1"), ("suites 1 2 3", "suites 4"), ("suites 1 2 3", "suites none"),
    ("suites 1 2 3", "suites"), ("suites 1 2 3", "suites 1  2"), ("suites 1 2 3", "suites 1 2 3\nflags plain-names"),
    ("slot key", "slot scrypt"), ("slot key", "slot none"), ("slot key ", "slot "), ("slot x25519", "slot p256"),
    ("slot key", "slot argon2id 8 1 1"), ("slot key", "slot argon2id 19455 1 1"), ("slot key", "slot argon2id 67108864 1 1"),
    ("slot key", "slot argon2id 19456 2147483648 1"), ("slot key", "slot argon2id 19456 1 99"), ("slot key", "slot argon2id 1"),
    ("slot key", "slot argon2id " + "9" * 9999 + " 1 1"), ("\nowner", "\r\nowner"), ("\nowner", "\n\nowner"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), WEAKENED, ids=[f"{n}-{new[:24].strip()}" for n, (_, new) in enumerate(WEAKENED)])
def test_weakened_and_absurd_headers_are_refused_at_once(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A26, A27: before anything is derived, fast and in little memory."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was derived")

    text = FULL.encode().decode()
    assert old in text
    content = text.replace(old, new, 1).encode()
    monkeypatch.setattr(slots, "derive", never)
    monkeypatch.setattr(volume, "hkdf_expand", never)
    started = time.thread_time()
    assert refused(content).errno == errno.EPROTO
    assert time.thread_time() - started < 0.05


def test_a_header_of_absurd_size() -> None:
    slot = next(line for line in LINES if line.startswith("slot x25519"))
    old = next(line for line in LINES if line.startswith("old"))
    for content in (
        FULL.encode() + bytes(HEADER_MAX),
        "".join([*LINES[:5], slot * 1500, *LINES[5:]]).encode(),
        "".join([*LINES[:-3], old * 2000, *LINES[-3:]]).encode(),
        b"iovc-volume 1\n" * (HEADER_MAX // 14),
    ):
        tracemalloc.start()
        started = time.thread_time()
        assert refused(content).errno == errno.EPROTO
        assert time.thread_time() - started < 0.05
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
        tracemalloc.stop()


# ---- keys


def test_labels_are_distinct() -> None:
    """A24: whatever is derived, is derived under a label of its own."""
    secret, where = b"k" * 32, bytes(20)
    infos = [b"iovc/1\0" + label + b"\0" + where for label in (b"id", b"inode", b"hdr", b"old")]
    infos += [b"iovc/1 identity\0x25519", b"iovc/1 identity\0xwing", b"iovc/1 slot key\0" + bytes(16)]
    found = [hkdf_expand(secret, info, 64) for info in infos] + [b"".join(derive(RawKey(secret), None, b"\1" * 16))]
    halves = [half for both in found for half in (both[:32], both[32:])]
    assert len(set(halves)) == len(halves)


MAKERS: list[Callable[[OpenVolume], Header]] = [
    lambda volume: volume.with_recipient(MALLORY.recipients[0]),
    lambda volume: volume.with_owner_secret(OTHER, FLOOR_KDF, Counting(b"new")),
    lambda volume: volume.rotated(OWNER, Counting(b"new")),
]


@pytest.mark.parametrize("make", MAKERS, ids=["add", "passwd", "rotate"])
def test_no_change_touches_the_fingerprint_or_wraps_with_an_old_salt(make: Callable[[OpenVolume], Header]) -> None:
    before = opened(FULL)
    after = make(before)
    assert after.fingerprint == FULL.fingerprint
    changed = after.owner_slot.wrapped != FULL.owner_slot.wrapped
    assert changed == (after.owner_slot.salt != FULL.owner_slot.salt)
    assert repr(before) == "<OpenVolume>"
