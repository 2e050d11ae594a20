"""Names and directories: one encoding of each name, certificates that bind, listings that are complete."""

import errno
from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import CryptoError, IntegrityError, KeyUnavailable, Malformed
from crypto.keys import VolumeKey
from crypto.names import CERTIFICATE_MAX, Entry, Names, check_listing, padded_length, with_entry, without_entry
from crypto.record import Folder, Kind

KEY = VolumeKey(b"k" * 32, b"v" * 16, 1)
FOLDER = Folder(b"d" * 16, 1)
NAMES = Names(KEY, FOLDER, b"i" * 16)
OTHER = Names(KEY, Folder(b"e" * 16, 1))
PLAIN = st.binary(min_size=1, max_size=255).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_")).filter(
    lambda raw: raw not in {b".", b".."}
)  # fmt: skip


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def entry(name: str, number: int = 1, kind: Kind = Kind.FILE, file_id: bytes = b"f" * 16) -> Entry:
    return Entry(NAMES.seal(name), file_id, kind, number)


@given(PLAIN)
def test_round_trip(raw: bytes) -> None:
    name = text(raw)
    sealed = NAMES.seal(name)
    assert len(sealed.shown) <= 255
    assert set(sealed.shown) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")
    assert NAMES.open(sealed.shown, sealed.sealed if sealed.is_long else b"") == sealed
    assert NAMES.seal(name) == sealed
    assert OTHER.seal(name).shown != sealed.shown
    with pytest.raises(IntegrityError):
        OTHER.open(sealed.shown, sealed.sealed if sealed.is_long else b"")


@pytest.mark.parametrize(
    ("length", "padded", "shown"),
    [(1, 16, 43), (16, 16, 43), (17, 32, 64), (160, 160, 235), (161, 175, 255), (175, 175, 255), (176, 176, 44), (255, 255, 44)],
)
def test_sizes(length: int, padded: int, shown: int) -> None:
    sealed = NAMES.seal("n" * length)
    assert (padded_length(length), len(sealed.sealed), len(sealed.shown)) == (padded, padded + 16, shown)
    assert len(NAMES.certify(Entry(sealed, b"f" * 16, Kind.FILE, 1))) <= CERTIFICATE_MAX


@pytest.mark.parametrize("name", ["n" * 256, "ü" * 128])
def test_a_name_that_is_too_long(name: str) -> None:
    with pytest.raises(OSError) as refused:
        NAMES.seal(name)
    assert refused.value.errno == errno.ENAMETOOLONG


def shown_of(raw: bytes) -> str:
    """Return a name as one who holds the key could show it, with any bytes inside."""
    sealed = KEY.names.encrypt(raw, [b"name", FOLDER.dir_id])
    return urlsafe_b64encode(sealed).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "raw",
    [b"..", b".", b"a/b", b"a\0b", b"\0" * 15, b"a" * 5, b"a".ljust(32, b"\0"), b"a" * 176],
    ids=["dots", "dot", "slash", "NUL", "empty", "unpadded", "overpadded", "too long"],
)
def test_names_that_must_not_be(raw: bytes) -> None:
    with pytest.raises(IntegrityError):
        NAMES.open(shown_of(raw.ljust(16, b"\0") if len(raw) < 5 else raw))


def test_no_other_form() -> None:
    shown = NAMES.seal("name").shown
    last = shown[-1]
    for other in (
        "", "~", shown + "=", shown + "\n", shown + "\r\n", " " + shown, shown[:-1], shown + "AAAA", shown.swapcase(),
        shown[:-1] + chr(ord(last) + 1), "..", "name", "~" + shown, "é" + shown[1:], shown[:20] + "+" + shown[21:],
    ):  # fmt: skip
        with pytest.raises(IntegrityError):
            NAMES.open(other)
    with pytest.raises(IntegrityError):
        NAMES.open(shown, b"more")
    long = NAMES.seal("l" * 200)
    for sealed in (b"", long.sealed[:-1], NAMES.seal("m" * 200).sealed):
        with pytest.raises(IntegrityError):
            NAMES.open(long.shown, sealed)
    short = NAMES.seal("short")
    forged = "~" + urlsafe_b64encode(sha256(short.sealed).digest()).rstrip(b"=").decode()
    with pytest.raises(IntegrityError):
        NAMES.open(forged, short.sealed)  # a short name in the long form


@pytest.mark.parametrize("name", ["a", "b" * 200])
def test_every_bit_of_a_certificate_counts(name: str) -> None:
    made = entry(name)
    certificate = NAMES.certify(made)
    assert NAMES.entry(made.name.shown, certificate) == made
    for bit in range(len(certificate) * 8):
        changed = bytearray(certificate)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((IntegrityError, Malformed)):
            NAMES.entry(made.name.shown, bytes(changed))


def test_a_certificate_is_for_one_name_in_one_directory() -> None:
    one, two = entry("one"), entry("two", 2)
    with pytest.raises(IntegrityError):
        NAMES.entry(two.name.shown, NAMES.certify(one))
    with pytest.raises(IntegrityError):
        OTHER.entry(one.name.shown, NAMES.certify(one))
    for certificate in (b"", bytes(59), bytes(CERTIFICATE_MAX + 1)):
        with pytest.raises(CryptoError):
            NAMES.entry(one.name.shown, certificate)


def test_a_listing_is_complete_or_refused() -> None:
    entries = [entry(f"file{n}", n, file_id=bytes([n]) * 16) for n in range(1, 6)]
    folder = FOLDER
    for made in entries:
        folder = with_entry(NAMES, folder, made)
    assert (folder.count, folder.next_entry) == (5, 6)
    check_listing(NAMES, folder, entries)
    check_listing(NAMES, folder, reversed(entries))
    again = replace(entries[0], number=6)
    for wrong in (entries[1:], [*entries, entries[0]], [entries[1], *entries[1:]], [again, *entries[1:]], []):
        with pytest.raises(IntegrityError):
            check_listing(NAMES, folder, wrong)
    gone = without_entry(NAMES, folder, entries[2])
    check_listing(NAMES, gone, [*entries[:2], *entries[3:]])
    with pytest.raises(IntegrityError):
        check_listing(NAMES, gone, entries)
    for made in entries[:2] + entries[3:]:
        gone = without_entry(NAMES, gone, made)
    assert (gone.count, gone.listing, gone.next_entry) == (0, 0, 6)
    with pytest.raises(IntegrityError):
        without_entry(NAMES, gone, entries[0])


def test_names_stay_under_the_key_of_their_epoch() -> None:
    later = VolumeKey(b"l" * 32, b"v" * 16, 2, older=(KEY,))
    assert Names(later, FOLDER).seal("x") == NAMES.seal("x")
    assert Names(later, replace(FOLDER, names_epoch=2)).seal("x") != NAMES.seal("x")
    with pytest.raises(KeyUnavailable):
        Names(KEY, replace(FOLDER, names_epoch=2))
