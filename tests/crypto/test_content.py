"""Blocks between iterators and landing areas: any shape of memory, wrong blocks refused and zeroed, no nonce twice."""

import mmap
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from crypto.aead import Suite
from crypto.content import DATA, ContentCipher, entry_state
from crypto.errors import IntegrityError
from crypto.keys import FileKey, hkdf_expand
from iov.iov_iter import Direction, IovIter
from tests.crypto.conftest import Ledger

SECRET, FILE_ID = bytes(range(32)), b"F" * 16
LOG2BS = 12
B = 1 << LOG2BS


def cipher(suite: Suite = Suite.AES_256_GCM, *, file_id: bytes = FILE_ID, secret: bytes = SECRET) -> ContentCipher:
    return ContentCipher(FileKey(secret, file_id, suite=suite, log2bs=LOG2BS))


def area_for(blocks: int) -> memoryview:
    return memoryview(mmap.mmap(-1, blocks * B + mmap.PAGESIZE))[: blocks * B + 16]


def cut(buffer: bytearray | bytes, cuts: list[int]) -> list[memoryview]:
    places = sorted({min(place, len(buffer)) for place in cuts} | {0, len(buffer)})
    return [memoryview(buffer)[a:b] for a, b in pairwise(places)]


def sealed(data: bytes, first: int = 0, box: ContentCipher | None = None) -> tuple[memoryview, bytearray, int]:
    blocks = -(-len(data) // B)
    area, entries = area_for(blocks), bytearray(32 * blocks)
    (box or cipher()).seal(IovIter.ubuf(Direction.SOURCE, data), area, first, blocks, os.urandom(12 * blocks), entries)
    return area, entries, blocks


def opened(
    area: memoryview, entries: bytes | bytearray, first: int, blocks: int, length: int, box: ContentCipher | None = None
) -> bytearray:
    out = bytearray(b"\xee" * length)
    (box or cipher()).open(area, entries, first, blocks, IovIter.ubuf(Direction.DEST, out))
    return out


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("length", [1, B - 1, B, B + 1, 7 * B, 7 * B + 5])
def test_round_trip(suite: Suite, length: int) -> None:
    box = cipher(suite)
    data = os.urandom(length)
    area, entries, blocks = sealed(data, 3, box)
    before = bytes(area[: blocks * B])
    assert opened(area, entries, 3, blocks, length, cipher(suite)) == data
    assert area[: blocks * B] == before, "the ciphertext is as it was"
    assert opened(area, entries, 3, blocks, blocks * B, box) == data.ljust(blocks * B, b"\0"), "the padding is zeros"


def test_the_format_by_hand() -> None:
    data = os.urandom(2 * B)
    area, entries, _ = sealed(data, 0x12345, cipher())
    info = b"iovc/1 data\0" + FILE_ID + struct.pack("<IIBB", 0, 0x12345 >> 16, 1, LOG2BS)
    key = AESGCM(hkdf_expand(SECRET, info, 32))
    for n in range(2):
        nonce, tag, state = struct.unpack_from("<12s16sI", entries, 32 * n)
        assert entry_state(state) == (DATA, 0)
        aad = FILE_ID + struct.pack("<QIBBxx", 0x12345 + n, 0, 1, LOG2BS)
        assert key.decrypt(nonce, bytes(area[n * B : n * B + B]) + tag, aad) == data[n * B : n * B + B]


CUTS = st.lists(st.integers(0, 5 * B), max_size=6)


@given(st.integers(1, 5 * B), CUTS, CUTS, st.integers(0, B - 1), st.integers(0, 70_000))
def test_any_pieces(length: int, source_cuts: list[int], dest_cuts: list[int], skip: int, first: int) -> None:
    data = os.urandom(length)
    blocks = -(-length // B)
    box = cipher()
    area, entries = area_for(blocks), bytearray(32 * blocks)
    staged = box.seal(
        IovIter.kvec(Direction.SOURCE, cut(data, source_cuts)), area, first, blocks, os.urandom(12 * blocks), entries
    )
    assert staged <= length
    skip = min(skip, length - 1)
    wanted = min(length - skip, 4 * B)
    out = bytearray(wanted)
    it = IovIter.kvec(Direction.DEST, cut(out, dest_cuts))
    box.open(area, entries, first, blocks, it, skip)
    assert out == data[skip : skip + wanted]
    assert it.count == 0


def test_padding_is_zeros_in_a_stage_used_before() -> None:
    box = cipher()
    for length in (B, 10):
        data = b"p" * length
        area, entries = area_for(1), bytearray(32)
        box.seal(IovIter.kvec(Direction.SOURCE, cut(data, [5])), area, 0, 1, os.urandom(12), entries)
    assert opened(area, entries, 0, 1, B) == data.ljust(B, b"\0")


def test_contiguous_blocks_are_not_staged() -> None:
    data = os.urandom(4 * B)
    box = cipher()
    area, entries = area_for(4), bytearray(128)
    parts = [memoryview(data)[: 3 * B], memoryview(data)[3 * B :]]
    assert box.seal(IovIter.kvec(Direction.SOURCE, parts), area, 0, 4, os.urandom(48), entries) == 0
    assert box.open(area, entries, 0, 4, IovIter.ubuf(Direction.DEST, bytearray(4 * B))) == 0
    assert box.open(area, entries, 0, 4, IovIter.discard(4 * B)) == 4 * B


def test_segments_of_subkeys_meet_inside_a_call() -> None:
    data = os.urandom(4 * B)
    area, entries, _ = sealed(data, 65534)
    assert opened(area, entries, 65534, 4, 4 * B) == data


def test_holes_are_zeros_whatever_the_area_holds() -> None:
    data = os.urandom(3 * B)
    area, entries, _ = sealed(data)
    entries[32:64] = bytes(32)
    area[B : 2 * B] = b"\xdd" * B
    assert opened(area, entries, 0, 3, 3 * B) == data[:B] + bytes(B) + data[2 * B :]


def test_rekeyed_blocks_open_beside_old_ones() -> None:
    box = cipher()
    area, entries = area_for(2), bytearray(64)
    for n, rekey in enumerate((5, 0)):
        one, entry = area_for(1), bytearray(32)
        box.seal(IovIter.ubuf(Direction.SOURCE, bytes([n]) * B), one, n, 1, os.urandom(12), entry, rekey)
        area[n * B : n * B + B] = one[:B]
        entries[32 * n : 32 * n + 32] = entry
    assert opened(area, entries, 0, 2, 2 * B) == bytes(B) + b"\1" * B


BAD = ["data", "nonce", "tag", "state", "rekey", "index", "file", "key", "swap", "suite"]


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("pieces", [1, 3])
def test_wrong_blocks_are_refused_and_the_destination_is_zero(kind: str, pieces: int) -> None:
    data = os.urandom(4 * B)
    area, entries, _ = sealed(data)
    box, first, bad = cipher(), 0, 2
    match kind:
        case "data":
            area[2 * B + 100] ^= 1
        case "nonce":
            entries[64] ^= 1
        case "tag":
            entries[64 + 12] ^= 1
        case "state":
            entries[64 + 28] ^= 2
        case "rekey":
            entries[64 + 29] ^= 1
        case "swap":
            entries[64:96], entries[96:128] = entries[96:128], entries[64:96]
        case "index":
            first, bad = 1, 0
        case "file":
            box, bad = cipher(file_id=b"G" * 16), 0
        case "key":
            box, bad = cipher(secret=b"s" * 32), 0
        case _:
            box, bad = cipher(Suite.AES_256_OCB3), 0
    before = bytes(area[: 4 * B])
    out = bytearray(b"\xaa" * 4 * B)
    it = IovIter.kvec(Direction.DEST, cut(out, [] if pieces == 1 else [bad * B + 10, bad * B + 20]))
    with pytest.raises(IntegrityError) as caught:
        box.open(area, entries, first, 4, it)
    assert (caught.value.block_no, caught.value.file_id) == (first + bad, box.key.file_id)
    assert out == data[: bad * B] + bytes(B) + b"\xaa" * (3 - bad) * B
    assert area[: 4 * B] == before, "the caller may try again with newer entries"


def test_every_bit_of_a_block_and_its_entry() -> None:
    area, entries, _ = sealed(os.urandom(B))
    for target, bits in ((area, range(0, 8 * B, 97)), (memoryview(entries), range(8 * 28))):
        for bit in bits:
            target[bit // 8] ^= 1 << bit % 8
            with pytest.raises(IntegrityError):
                opened(area, entries, 0, 1, B)
            target[bit // 8] ^= 1 << bit % 8
    assert opened(area, entries, 0, 1, B)


def test_equal_plaintext_never_looks_equal(ledger: Ledger) -> None:
    area, entries, blocks = sealed(bytes(16 * B))
    again, _, _ = sealed(bytes(16 * B))
    pieces = {bytes(view[n * B : n * B + B]) for view in (area, again) for n in range(blocks)}
    assert len(pieces) == 32 and bytes(B) not in pieces
    assert len({bytes(entries[32 * n + 12 : 32 * n + 28]) for n in range(blocks)}) == 16
    assert len(ledger.seen) == 32


def test_programming_errors() -> None:
    box, area = cipher(), area_for(2)
    source, dest = IovIter.ubuf(Direction.SOURCE, bytes(2 * B)), IovIter.ubuf(Direction.DEST, bytearray(2 * B))
    wrongs: tuple[Callable[[], int], ...] = (
        lambda: box.seal(source, area[:-1], 0, 2, bytes(24), bytearray(64)),
        lambda: box.seal(source, area, 0, 2, bytes(12), bytearray(64)),
        lambda: box.seal(source, area, 0, 0, b"", bytearray(64)),
        lambda: box.seal(IovIter.ubuf(Direction.SOURCE, bytes(B)), area, 0, 2, bytes(24), bytearray(64)),
        lambda: box.open(area, bytes(63), 0, 2, dest),
        lambda: box.open(area, bytes(64), 0, 2, dest, 1),
        lambda: box.open(area, bytes(64), 0, 2, dest, B),
    )
    for wrong in wrongs:
        with pytest.raises(ValueError):
            wrong()
    assert source.count == dest.count == 2 * B


def test_two_threads_use_one_cipher() -> None:
    box = cipher()

    def work(n: int) -> bool:
        data = os.urandom(8 * B + n)
        area, entries, blocks = sealed(data, n * 100, box)
        out = bytearray(len(data))
        box.open(area, entries, n * 100, blocks, IovIter.kvec(Direction.DEST, cut(out, [5, 3 * B + 1])))
        return out == data

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, range(60)))
