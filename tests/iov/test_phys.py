"""Addresses: folios, fragmentation, pinned caller memory, device memory, and vectors made of them."""

import errno
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iov.bounce import bounce_for_cpu, bounce_for_device
from iov.bvec import PAGE_SIZE, BioVec, BvecQueue
from iov.copy_iter import copy_from_iter, copy_to_iter
from iov.folio import Folio, FolioState
from iov.iov_iter import Direction, IovIter
from iov.phys import MAX_FOLIO_SIZE, PhysMemory, PhysVec
from iov.pin import PinLedger, extract_will_pin
from iov.pool import BufferPool
from iov.probe import Probe

from .shapes import MAKERS, block, pattern

SOURCE, DEST = Direction.SOURCE, Direction.DEST


def read(phys: PhysMemory, vecs: list[PhysVec]) -> bytes:
    return b"".join(view for vec in vecs for view in phys.bytes_at(vec.paddr, vec.length))


@given(seed=st.none() | st.integers(0, 1 << 32), sizes=st.lists(st.sampled_from([1, 2, 4, 64, 256]), max_size=12))
def test_folios_are_disjoint_aligned_and_found_by_address(seed: int | None, sizes: list[int]) -> None:
    phys = PhysMemory(1024, seed=seed)
    folios: list[Folio] = []
    for pages in sizes:
        try:
            folios.append(phys.alloc(pages * PAGE_SIZE))
        except OSError:
            break
    spans = sorted((folio.paddr, folio.paddr + folio.size) for folio in folios)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for n, folio in enumerate(folios):
        assert (folio.paddr - phys.base) % folio.size == 0
        assert phys.folio_at(folio.paddr + folio.size - 1) is folio
        folio.memory[:] = bytes([n]) * folio.size
    for n, folio in enumerate(folios):
        assert phys.bytes_at(folio.paddr, folio.size)[0] == bytes([n]) * folio.size
        phys.free(folio)
    phys.close()


def test_a_seed_fragments_and_repeats_itself() -> None:
    def places(seed: int | None) -> list[int]:
        phys = PhysMemory(64, seed=seed)
        return [phys.alloc().paddr - phys.base for _ in range(32)]

    assert places(None) == list(range(0, 32 * PAGE_SIZE, PAGE_SIZE))
    assert places(1) == places(1) != places(2)
    assert all(abs(a - b) != PAGE_SIZE for a, b in zip(places(1), places(1)[1:], strict=False))


def test_bad_folios() -> None:
    phys = PhysMemory(16)
    for size in (0, 1, 3 * PAGE_SIZE, 2 * MAX_FOLIO_SIZE):
        with pytest.raises(ValueError):
            phys.alloc(size)
    folio = phys.alloc()
    with pytest.raises(OSError) as caught:
        phys.alloc(16 * PAGE_SIZE)
    assert caught.value.errno == errno.ENOMEM
    with pytest.raises(AssertionError, match="1 folios"):
        phys.close()
    phys.free(folio)
    with pytest.raises(ValueError):
        phys.free(folio)
    with pytest.raises(ValueError):
        phys.folio_at(folio.paddr)
    with pytest.raises(ValueError):
        phys.bytes_at(5, 5)
    assert phys.alloc(16 * PAGE_SIZE).paddr == folio.paddr  # what was freed serves again
    with pytest.raises(OSError):
        phys.alloc()


@pytest.mark.parametrize("seed", [None, 3])
@given(
    cuts=st.lists(st.integers(0, 20000), max_size=6),
    sizes=st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 3)), max_size=8),
)
def test_pinned_memory_has_addresses(seed: int | None, cuts: list[int], sizes: list[tuple[int, int]]) -> None:
    phys = PhysMemory(4, seed=seed)
    ledger = PinLedger(phys)
    memory = block(20000)
    memory[:] = data = pattern(20000)
    it = MAKERS["iovec"](SOURCE, memory, [10, *cuts])
    pin = ledger.pin(it, it.count)
    assert (it.count, ledger.pinned, extract_will_pin(pin.iter)) == (0, 1, False)
    walk, pos = pin.iter.copy(), 0
    for max_size, max_segs in [*sizes, (20000, 20000)]:
        vecs = phys.phys_vecs(walk, max_size, max_segs)
        assert len(vecs) <= max_segs
        got = read(phys, vecs)
        assert got == data[pos : pos + len(got)]
        pos += len(got)
        assert walk.count == 20000 - pos
    assert pos == 20000
    assert len(phys.phys_vecs(pin.iter.copy(), 20000)) == (1 if seed is None else 5)
    pin.release()
    phys.close()
    ledger.close()


def test_unpinned_memory_has_none() -> None:
    phys, ledger = PhysMemory(4), PinLedger()
    it = IovIter.ubuf(SOURCE, block(10))
    with pytest.raises(OSError) as caught:
        phys.phys_vecs(it, 10)
    assert (caught.value.errno, it.count) == (errno.EFAULT, 10)
    for name, make in MAKERS.items():
        if name not in ("ubuf", "iovec"):
            assert not extract_will_pin(make(SOURCE, block(10), [5]))
            with pytest.raises(ValueError):
                ledger.pin(make(SOURCE, block(10), [5]), 10)


def test_a_pin_is_released_once_and_its_memory_refused_then() -> None:
    phys = PhysMemory(4)
    ledger = PinLedger(phys)
    memory = bytearray(100)
    pin = ledger.pin(IovIter.ubuf(DEST, memory), 100)
    with pytest.raises(BufferError):
        memory.append(1)
    with pytest.raises(AssertionError, match="1 pins"):
        ledger.close()
    vecs = phys.phys_vecs(pin.iter.copy(), 100)
    pin.release()
    with pytest.raises(ValueError, match="released before"):
        pin.release()
    with pytest.raises(ValueError, match="use after release"):
        copy_to_iter(b"x", pin.iter)
    with pytest.raises(ValueError, match="use after release"):
        phys.phys_vecs(pin.iter, 10)
    with pytest.raises(ValueError, match="nothing is mapped"):
        phys.bytes_at(vecs[0].paddr, 1)


def test_two_pins_of_one_page_share_its_frame() -> None:
    phys = PhysMemory(4, seed=9)
    ledger = PinLedger(phys)
    memory = block(PAGE_SIZE)
    low, high = ledger.pin(IovIter.ubuf(DEST, memory[:100]), 100), ledger.pin(IovIter.ubuf(DEST, memory[50:200]), 200)
    first, second = phys.phys_vecs(low.iter.copy(), 100)[0], phys.phys_vecs(high.iter.copy(), 200)[0]
    assert second.paddr == first.paddr + 50
    phys.bytes_at(first.paddr, 1)[0][:] = b"L"
    low.release()
    phys.bytes_at(second.paddr + 149, 1)[0][:] = b"H"
    high.release()
    assert (memory[0], memory[199]) == (ord("L"), ord("H"))
    phys.close()


def test_what_touches_is_one_vector_but_never_across_devices() -> None:
    phys = PhysMemory(16)
    first, second = phys.alloc(), phys.alloc()
    gpu, nic = phys.add_device("gpu", MAX_FOLIO_SIZE), phys.add_device("nic", 4096)
    assert gpu.paddr + MAX_FOLIO_SIZE == nic.paddr
    bvecs = [
        BioVec(first.memory, 10, PAGE_SIZE - 10), BioVec(second.memory, 0, 5),
        BioVec(gpu, MAX_FOLIO_SIZE - 8, 8), BioVec(nic, 0, 8), BioVec(nic, 8, 8),
    ]  # fmt: skip
    vecs = phys.phys_vecs(IovIter.bvec(SOURCE, bvecs), 1 << 30)
    assert [(vec.paddr, vec.length) for vec in vecs] == [
        (first.paddr + 10, PAGE_SIZE - 5), (gpu.paddr + MAX_FOLIO_SIZE - 8, 8), (nic.paddr, 16)
    ]  # fmt: skip
    assert [phys.provider_at(vec.paddr) for vec in vecs] == [None, "gpu", "nic"]
    gpu.engine(MAX_FOLIO_SIZE - 8, 8)[:] = b"on a gpu"
    assert read(phys, vecs[1:2]) == b"on a gpu"


def test_folio_states() -> None:
    folio = Folio(block(PAGE_SIZE))
    folio.lock()
    with pytest.raises(AssertionError):
        folio.lock()
    folio.unlock(uptodate=True)
    with pytest.raises(AssertionError):
        folio.unlock()
    with pytest.raises(AssertionError):
        folio.start_writeback()
    folio.mark_dirty()
    folio.start_writeback()
    assert folio.state == FolioState.UPTODATE | FolioState.WRITEBACK
    folio.mark_dirty()
    with pytest.raises(AssertionError):
        folio.start_writeback()
    folio.end_writeback()
    assert folio.state == FolioState.UPTODATE | FolioState.DIRTY
    with pytest.raises(AssertionError):
        folio.end_writeback()


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool(Probe(), 8192, 4)


def mixed(direction: Direction) -> tuple[IovIter, list[memoryview]]:
    """A chain of plain, copy-only and device memory."""
    phys = PhysMemory(4)
    gpu = phys.add_device("gpu", 4096)
    plain, slab = block(100), block(50)
    queue = BvecQueue()
    queue.append(plain[:60])
    queue.append(slab, copy_only=True)
    queue.append([BioVec(gpu, 96, 40)])
    queue.append(plain[60:])
    return IovIter.bvecq(direction, queue), [plain[:60], slab, gpu.engine(96, 40), plain[60:]]


@pytest.mark.parametrize("bounce", [bounce_for_cpu, bounce_for_device])
def test_bounced_writes(bounce: "object", pool: BufferPool) -> None:
    assert callable(bounce)
    it, places = mixed(SOURCE)
    for n, place in enumerate(places):
        place[:] = bytes([65 + n]) * len(place)
    bounced = bounce(it, pool)
    assert bounced.iter.count == 190
    assert pool.leased == 1
    if bounce is bounce_for_cpu:
        out = bytearray(190)
        copy_from_iter(out, bounced.iter)
        assert out == b"A" * 60 + b"B" * 50 + b"C" * 40 + b"D" * 40
    bounced.finish()
    pool.close()


def test_bounced_reads_are_copied_back(pool: BufferPool) -> None:
    it, places = mixed(DEST)
    bounced = bounce_for_cpu(it, pool)
    assert copy_to_iter(pattern(190), bounced.iter) == 190
    assert not any(places[2])
    bounced.finish()
    assert b"".join(places) == pattern(190)
    assert (pool.probe.payload_copies, pool.probe.copied_bytes) == (1, 40)
    pool.close()


@pytest.mark.parametrize("arrived", [0, 100, 129, 190])
def test_only_what_arrived_is_copied_back(pool: BufferPool, arrived: int) -> None:
    """A stand-in holds what its last use left; behind a short read the memory keeps its own contents."""
    it, places = mixed(DEST)
    for place in places:
        place[:] = b"\xee" * len(place)
    bounced = bounce_for_cpu(it, pool)
    copy_to_iter(pattern(190), bounced.iter)
    bounced.finish(arrived)
    assert places[2] == pattern(190)[110 : max(110, min(arrived, 150))] + b"\xee" * (40 - max(0, min(arrived - 110, 40)))
    assert pool.probe.copied_bytes == max(0, min(arrived - 110, 40))
    pool.close()
