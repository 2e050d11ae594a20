"""The format of a cached object: where things are, what a header and a stamp hold."""

from itertools import pairwise

import pytest

from netfs.fscache.layout import (
    HEADER_SIZE,
    MAX_BLOB,
    STAMP_SIZE,
    STAMPS,
    Header,
    data_pos,
    granule_stamp,
    object_name,
    stamp_length,
    stamp_pos,
    volume_name,
)

SALT = bytes(range(16))


@pytest.mark.parametrize("granule", [4096, 16384, 262144])
def test_stamps_and_granules_tile_the_file(granule: int) -> None:
    spans = [(0, HEADER_SIZE)]
    for index in range(3 * STAMPS):
        spans.append((stamp_pos(index, granule), stamp_pos(index, granule) + STAMP_SIZE))
        spans.append((data_pos(index, granule), data_pos(index, granule) + granule))
    spans.sort()
    assert all(before[1] == after[0] for before, after in pairwise(spans))


def test_a_header_comes_back() -> None:
    header = Header(False, 16384, SALT, b"key", b"coherency")
    assert len(header.pack()) == HEADER_SIZE
    assert Header.unpack(header.pack()) == header
    largest = Header(True, 4096, SALT, bytes(MAX_BLOB), bytes(MAX_BLOB))
    assert Header.unpack(largest.pack()) == largest


def test_the_header_is_what_docs_say() -> None:
    raw = Header(True, 16384, SALT, b"\xaa\xbb", b"").pack()
    assert raw[:28].hex() == "4e4653430100010e" + SALT.hex() + "02000000"


@pytest.mark.parametrize("at", [*range(64), 200])
def test_a_changed_header_is_none(at: int) -> None:
    raw = bytearray(Header(False, 16384, SALT, b"key", b"coherency").pack())
    raw[at] ^= 1
    expected = None if at < 28 + len("key") + len("coherency") + 32 else Header(False, 16384, SALT, b"key", b"coherency")
    assert Header.unpack(bytes(raw)) == expected


def test_a_short_file_has_no_header() -> None:
    assert Header.unpack(b"") is None
    assert Header.unpack(Header(False, 4096, SALT, b"", b"").pack()[:-1]) is None


def test_a_stamp_depends_on_all_that_it_vouches_for() -> None:
    data = memoryview(bytes(range(256)) * 16)
    stamp = granule_stamp(SALT, 3, [data])
    assert stamp_length(stamp) == 4096 and len(stamp) == STAMP_SIZE
    assert granule_stamp(SALT, 3, [data[:100], data[100:]]) == stamp
    others = [
        granule_stamp(SALT[::-1], 3, [data]),
        granule_stamp(SALT, 4, [data]),
        granule_stamp(SALT, 3, [data[:-1]]),
        granule_stamp(SALT, 3, [memoryview(bytes(4096))]),
    ]
    assert len({stamp, *others}) == 5


def test_names_are_paths_of_their_own() -> None:
    assert len({volume_name("a"), volume_name("b")}) == 2
    folder, name = object_name(b"handle").split("/")
    assert len(folder) == 2 and len(name) == 38
