"""Mappings: every way of making one moves the same bytes, keeps the limits, and unmaps exactly what it mapped."""

import errno
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iov.bvec import PAGE_SIZE
from iov.folio import Folio
from iov.phys import PhysAddr, PhysMemory, PhysVec
from iov.probe import Probe
from transport.dma import DmaDevice, DmaDirection, DmaLimits, DmaMapping, DmaMisuse, DmaVec, MappingError
from transport.dma_vec import split
from transport.iova import TABLE, Iommu, IovaEvent, IovaRange, IovaState
from transport.swiotlb import SLOT_SIZE, Swiotlb

TO, FROM, BOTH = DmaDirection.TO_DEVICE, DmaDirection.FROM_DEVICE, DmaDirection.BIDIRECTIONAL
KINDS = ("direct", "iommu", "swiotlb", "untrusted")


class Machine:
    """Memory, a device of one kind, and folios scattered or in a row."""

    def __init__(self, kind: str, seed: int | None = 7, *, slots: int = 4096, **more: object) -> None:
        self.phys = PhysMemory(256, seed=seed)
        self.probe = Probe()
        self.device = DmaDevice(
            self.phys,
            self.probe,
            iommu=Iommu() if kind in ("iommu", "untrusted") else None,
            swiotlb=Swiotlb(self.phys, slots),
            force_bounce=kind == "swiotlb",
            untrusted=kind == "untrusted",
            **more,  # type: ignore[arg-type]
        )

    def folios(self, count: int) -> list[Folio]:
        return [self.phys.alloc() for _ in range(count)]


def vec(folio: Folio, off: int, length: int) -> PhysVec:
    return PhysVec(PhysAddr(folio.paddr + off), length)


def contents(machine: Machine, vecs: list[PhysVec]) -> bytes:
    return b"".join(view for vec in vecs for view in machine.phys.bytes_at(vec.paddr, vec.length))


def device_reads(machine: Machine, mapping: DmaMapping) -> bytes:
    return b"".join(view for vec in mapping.vecs for view in machine.device.read(vec.addr, vec.length))


PIECES = st.lists(st.tuples(st.integers(0, PAGE_SIZE - 1), st.integers(1, PAGE_SIZE)), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", KINDS)
@given(cuts=PIECES, whole=st.booleans(), seed=st.sampled_from([None, 7]))
def test_a_device_reads_and_writes_what_was_mapped(kind: str, cuts: list[tuple[int, int]], whole: bool, seed: int | None) -> None:
    machine = Machine(kind, seed, debug=True)
    vecs = []
    for n, (off, length) in enumerate(cuts):
        folio = machine.phys.alloc()
        folio.memory[:] = bytes([n + 1]) * PAGE_SIZE
        vecs.append(vec(folio, 0, PAGE_SIZE) if whole else vec(folio, off, min(length, PAGE_SIZE - off)))
    before = contents(machine, vecs)
    mapping = machine.device.map(vecs, TO)
    assert device_reads(machine, mapping) == before
    assert sum(vec.length for vec in mapping.vecs) == len(before)
    machine.device.unmap(mapping, TO)
    mapping = machine.device.map(vecs, FROM)
    first = mapping.vecs[0]
    short = memoryview(b"\xee" * min(10, first.length))
    machine.device.write(first.addr, short)
    machine.device.unmap(mapping, FROM)
    assert contents(machine, vecs) == b"\xee" * len(short) + before[len(short) :]  # the rest is as it was, whatever the pool held
    machine.device.close()
    assert machine.device.maps == machine.device.unmaps > 0


def test_scattered_pages_are_one_range_behind_an_iommu() -> None:
    machine = Machine("iommu", limits=DmaLimits(max_segment=1 << 30))
    folios = machine.folios(8)
    vecs = [vec(folios[0], 100, PAGE_SIZE - 100), *(vec(folio, 0, PAGE_SIZE) for folio in folios[1:7]), vec(folios[7], 0, 50)]
    mapping = machine.device.map(vecs, TO)
    assert [(vec.addr % PAGE_SIZE, vec.length) for vec in mapping.vecs] == [(100, 7 * PAGE_SIZE - 50)]
    assert machine.probe.map_calls == 1 + 8 + 1  # one allocation, a link a piece, one sync
    machine.device.unmap(mapping, TO)
    with pytest.raises(MappingError, match="IOMMU fault"):
        machine.device.read(mapping.vecs[0].addr, 1)


def test_pieces_that_do_not_meet_on_granules_get_a_range_each() -> None:
    machine = Machine("iommu")
    folios = machine.folios(2)
    mapping = machine.device.map([vec(folios[0], 0, 100), vec(folios[1], 0, 100)], TO)
    assert len(mapping.vecs) == 2
    assert machine.device.iommu is not None and machine.device.iommu.ranges_in_use == 2
    machine.device.unmap(mapping, TO)
    assert machine.device.iommu.ranges_in_use == 0


def test_an_untrusted_device_sees_no_neighbours_of_a_partial_granule() -> None:
    machine = Machine("untrusted")
    folio = machine.phys.alloc()
    folio.memory[:] = b"s" * PAGE_SIZE
    mapping = machine.device.map([vec(folio, 100, 200)], TO)
    pool = machine.device.swiotlb
    assert pool is not None and pool.base <= mapping.vecs[0].addr < pool.end
    whole = machine.device.map([vec(folio, 0, PAGE_SIZE)], TO)
    assert not pool.base <= whole.vecs[0].addr < pool.end


@pytest.mark.parametrize("kind", ["direct", "iommu"])
@given(max_segment=st.integers(1, 9000), boundary=st.sampled_from([0, 256, 4096, 1 << 20]), length=st.integers(1, 8000))
def test_limits_of_segment_and_boundary(kind: str, max_segment: int, boundary: int, length: int) -> None:
    machine = Machine(kind, None, limits=DmaLimits(max_segment=max_segment, boundary=boundary))
    folio = machine.phys.alloc(2 * PAGE_SIZE)
    mapping = machine.device.map([vec(folio, 100, length)], TO)
    assert sum(vec.length for vec in mapping.vecs) == length
    assert all(a.addr + a.length == b.addr for a, b in itertools.pairwise(mapping.vecs))
    for found in mapping.vecs:
        assert found.length <= max_segment
        assert not boundary or found.addr // boundary == (found.addr + found.length - 1) // boundary
    assert len(mapping.vecs) <= length // max_segment + 1 + (length // boundary + 2 if boundary else 0)
    machine.device.unmap(mapping, TO)


def test_split_is_greedy() -> None:
    limits = DmaLimits(max_segment=1000, boundary=4096)
    assert split(4000, 1200, limits) == [DmaVec(4000, 96), DmaVec(4096, 1000), DmaVec(5096, 104)]
    for bad in ({"boundary": 3}, {"max_segment": 0}):
        with pytest.raises(ValueError):
            DmaLimits(**bad)


def test_out_of_reach_is_bounced_or_refused() -> None:
    machine = Machine("direct", limits=DmaLimits(mask=(1 << 30) - 1))
    folio = machine.phys.alloc()
    mapping = machine.device.map([vec(folio, 0, 10)], TO)
    assert mapping.vecs[0].addr < 1 << 30
    machine.device.unmap(mapping, TO)
    machine.device.swiotlb = None
    with pytest.raises(MappingError) as caught:
        machine.device.map([vec(folio, 0, 10)], TO)
    assert (caught.value.errno, caught.value.retryable) == (errno.EIO, False)
    machine = Machine("iommu", limits=DmaLimits(mask=(1 << 32) - 1))
    with pytest.raises(MappingError) as caught:
        machine.device.map([vec(machine.phys.alloc(), 0, 10)], TO)
    assert caught.value.errno == errno.EIO
    assert machine.device.iommu is not None and machine.device.iommu.ranges_in_use == 0


@given(off=st.integers(0, PAGE_SIZE - 1), mask=st.sampled_from([0, 511, 2047, 4095, 65535]))
def test_a_bounce_keeps_low_address_bits(off: int, mask: int) -> None:
    machine = Machine("swiotlb", limits=DmaLimits(min_align_mask=mask))
    folios = machine.folios(3)
    for folio in folios:
        mapping = machine.device.map([vec(folio, off, 1)], TO)
        assert mapping.vecs[0].addr & mask == (folio.paddr + off) & mask


@given(
    spans=st.lists(st.tuples(st.integers(0, 4095), st.integers(1, 9000)), min_size=2, max_size=6),
    mask=st.sampled_from([0, 2047, 4095]),
)
def test_bounces_do_not_share_slots(spans: list[tuple[int, int]], mask: int) -> None:
    machine = Machine("swiotlb", None, limits=DmaLimits(min_align_mask=mask))
    taken: set[int] = set()
    for off, length in spans:
        mapping = machine.device.map([vec(machine.phys.alloc(4 * PAGE_SIZE), off, length)], TO)
        for piece in mapping.vecs:
            slots = set(range(piece.addr // SLOT_SIZE, (piece.addr + piece.length - 1) // SLOT_SIZE + 1))
            assert not taken & slots
            taken |= slots
    pool = machine.device.swiotlb
    assert pool is not None and pool.slots_in_use >= len(taken)


def test_a_bounce_is_of_256_kib_at_most() -> None:
    machine = Machine("swiotlb", None, limits=DmaLimits(max_segment=1 << 30))
    folio = machine.phys.alloc(1 << 20)
    folio.memory[:] = bytes(range(256)) * 4096
    mapping = machine.device.map([vec(folio, 0, 1 << 20)], BOTH)
    assert [vec.length for vec in mapping.vecs] == [1 << 18] * 4
    assert device_reads(machine, mapping) == folio.memory
    assert machine.probe.copied_bytes == 1 << 20
    machine.device.unmap(mapping, BOTH)
    assert machine.probe.copied_bytes == 2 << 20
    pool = machine.device.swiotlb
    assert pool is not None
    with pytest.raises(ValueError):
        pool.map(vec(folio, 0, (1 << 18) + 1), 0)


def test_an_exhausted_pool_is_back_pressure() -> None:
    machine = Machine("swiotlb", slots=8)
    folios = machine.folios(5)
    held = [machine.device.map([vec(folio, 0, PAGE_SIZE)], TO) for folio in folios[:3]]
    with pytest.raises(MappingError) as caught:
        machine.device.map([vec(folios[3], 0, PAGE_SIZE), vec(folios[4], 0, 1)], TO)
    assert (caught.value.errno, caught.value.retryable) == (errno.EAGAIN, True)
    pool = machine.device.swiotlb
    assert pool is not None and pool.slots_in_use == 6
    machine.device.unmap(held[0], TO)
    machine.device.unmap(machine.device.map([vec(folios[3], 0, PAGE_SIZE), vec(folios[4], 0, 1)], TO), TO)
    for mapping in held[1:]:
        machine.device.unmap(mapping, TO)
    assert pool.slots_in_use == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aligned", [True, False])
def test_a_failure_at_any_step_leaves_nothing_mapped(kind: str, aligned: bool) -> None:
    for k in itertools.count(1):
        steps = itertools.count(1)
        machine = Machine(kind, fault=lambda steps=steps, k=k: next(steps) == k)
        vecs = [vec(folio, 0, PAGE_SIZE if aligned else 100) for folio in machine.folios(5)]
        before = contents(machine, vecs)
        device = machine.device
        try:
            mapping = device.map(vecs, FROM)
        except MappingError as error:
            assert error.errno == errno.ENOMEM  # noqa: PT017 - success ends the loop
            device.close()
            assert device.iommu is None or device.iommu.ranges_in_use == 0
            assert device.swiotlb is not None and device.swiotlb.slots_in_use == 0
            assert contents(machine, vecs) == before
            continue
        assert k > 5
        device.unmap(mapping, FROM)
        device.close()
        break


def test_memory_of_a_peer() -> None:
    for kind in ("direct", "iommu", "swiotlb"):
        stranger, friend = Machine(kind), Machine(kind, peers=["gpu"])
        for machine in (stranger, friend):
            gpu = machine.phys.add_device("gpu", 4096)
            piece = PhysVec(PhysAddr(gpu.paddr + 8), 16)
            if machine is stranger:
                with pytest.raises(MappingError) as caught:
                    machine.device.map([vec(machine.phys.alloc(), 0, 5), piece], TO)
                assert caught.value.errno == errno.EOPNOTSUPP
            else:
                gpu.engine(8, 16)[:] = b"x" * 16
                mapping = machine.device.map([piece], TO)
                assert mapping.vecs == [DmaVec(gpu.paddr + 8, 16)]
                assert device_reads(machine, mapping) == b"x" * 16
                machine.device.unmap(mapping, TO)
            machine.device.close()


@pytest.mark.parametrize("kind", KINDS)
def test_syncs_hand_memory_over_and_back(kind: str) -> None:
    machine = Machine(kind, debug=True)
    folio = machine.phys.alloc()
    mapping = machine.device.map([vec(folio, 0, 64)], BOTH)
    machine.device.write(mapping.vecs[0].addr, memoryview(b"device"))
    machine.device.sync_for_cpu(mapping)
    assert bytes(folio.memory[:6]) == b"device"
    folio.memory[:6] = b"people"
    machine.device.sync_for_device(mapping)
    assert device_reads(machine, mapping).startswith(b"people")
    machine.device.unmap(mapping, BOTH)


def test_debug_mode_reports_misuse() -> None:
    machine = Machine("direct", debug=True)
    folio = machine.phys.alloc()
    mapping = machine.device.map([vec(folio, 0, 64)], TO)
    with pytest.raises(DmaMisuse, match="mapped TO_DEVICE, unmapped FROM_DEVICE"):
        machine.device.unmap(mapping, FROM)
    kept = list(mapping.vecs)
    mapping.vecs[0] = DmaVec(kept[0].addr, 63)
    with pytest.raises(DmaMisuse, match="not those"):
        machine.device.unmap(mapping, TO)
    mapping.vecs[:] = kept
    folio.memory[3] = 1
    with pytest.raises(DmaMisuse, match="processor wrote"):
        machine.device.unmap(mapping, TO)
    folio.memory[3] = 0
    with pytest.raises(AssertionError, match="1 mappings"):
        machine.device.close()
    machine.device.unmap(mapping, TO)
    with pytest.raises(DmaMisuse, match="before"):
        machine.device.unmap(mapping, TO)
    machine.device.close()


def test_a_second_unmap_is_an_error_without_debug_mode_too() -> None:
    machine = Machine("direct")
    mapping = machine.device.map([vec(machine.phys.alloc(), 0, 64)], TO)
    machine.device.unmap(mapping, TO)
    with pytest.raises(DmaMisuse):
        machine.device.unmap(mapping, TO)
    for vecs in ([], [PhysVec(PhysAddr(0), 0)]):
        with pytest.raises(ValueError):
            machine.device.map(vecs, TO)


# ---- the IOVA state machine

ASK = {
    IovaEvent.TRY_ALLOC: lambda span: span.try_alloc(1 << 30, 2 * PAGE_SIZE),
    IovaEvent.LINK: lambda span: span.link(PhysVec(PhysAddr((1 << 30) + span.linked), 512 if span.linked else PAGE_SIZE)),
    IovaEvent.SYNC: lambda span: span.sync(),
    IovaEvent.UNLINK: lambda span: span.unlink(),
    IovaEvent.FREE: lambda span: span.free(),
    IovaEvent.DESTROY: lambda span: span.destroy(),
}
PATHS = {
    IovaState.NONE: (),
    IovaState.ALLOCATED: (IovaEvent.TRY_ALLOC,),
    IovaState.LINKED: (IovaEvent.TRY_ALLOC, IovaEvent.LINK),
    IovaState.SYNCED: (IovaEvent.TRY_ALLOC, IovaEvent.LINK, IovaEvent.SYNC),
    IovaState.UNLINKED: (IovaEvent.TRY_ALLOC, IovaEvent.LINK, IovaEvent.SYNC, IovaEvent.UNLINK),
    IovaState.FREED: (IovaEvent.TRY_ALLOC, IovaEvent.FREE),
}


@pytest.mark.parametrize("state", IovaState)
@pytest.mark.parametrize("event", IovaEvent)
def test_every_state_and_event(state: IovaState, event: IovaEvent) -> None:
    iommu = Iommu()
    span = IovaRange(iommu)
    for step in PATHS[state]:
        ASK[step](span)
    assert span.state is state
    after = TABLE.get((state, event))
    if after is None:
        with pytest.raises(ValueError, match=f"{event.name} of a range that is {state.name}"):
            ASK[event](span)
        assert span.state is state
    else:
        ASK[event](span)
        assert span.state is after
    assert iommu.ranges_in_use == (span.state not in (IovaState.NONE, IovaState.FREED))


def test_links_keep_the_granule_rules() -> None:
    span = IovaRange(Iommu())
    span.try_alloc((1 << 30) + 100, 3 * PAGE_SIZE)
    with pytest.raises(ValueError, match="granules"):
        span.link(PhysVec(PhysAddr((1 << 30) + 101), 10))
    span.link(PhysVec(PhysAddr((1 << 30) + 100), PAGE_SIZE - 100))
    with pytest.raises(ValueError, match="granules"):
        span.link(PhysVec(PhysAddr((1 << 31) + 5), 10))
    with pytest.raises(ValueError, match="more is linked"):
        span.link(PhysVec(PhysAddr(1 << 31), 3 * PAGE_SIZE))
    span.link(PhysVec(PhysAddr(1 << 31), 100))
    with pytest.raises(ValueError, match="granules"):
        span.link(PhysVec(PhysAddr(1 << 31), 100))


def test_links_that_meet_at_the_same_offset_of_a_granule_are_still_refused() -> None:
    span = IovaRange(Iommu())
    span.try_alloc(1 << 30, PAGE_SIZE)
    span.link(PhysVec(PhysAddr(1 << 30), 100))
    with pytest.raises(ValueError, match="granules"):
        span.link(PhysVec(PhysAddr((1 << 31) + 100), 100))


def test_a_full_aperture_is_retryable_and_holes_are_filled() -> None:
    iommu = Iommu(aperture=4 * PAGE_SIZE)
    spans = [IovaRange(iommu) for _ in range(5)]
    for span in spans[:4]:
        span.try_alloc(0, PAGE_SIZE)
    with pytest.raises(MappingError) as caught:
        spans[4].try_alloc(0, PAGE_SIZE)
    assert caught.value.retryable
    assert spans[4].state is IovaState.NONE
    hole = spans[1].addr
    spans[1].free()
    spans[4].try_alloc(0, PAGE_SIZE)
    assert spans[4].addr == hole
    with pytest.raises(ValueError):
        Iommu(granule=3)


@given(pieces=st.lists(st.integers(1, 3), min_size=1, max_size=5), start=st.integers(0, 20000), length=st.integers(1, 20000))
def test_translation_across_links(pieces: list[int], start: int, length: int) -> None:
    iommu = Iommu()
    span = IovaRange(iommu)
    total = sum(pieces) * PAGE_SIZE
    span.try_alloc(1 << 30, total)
    flat: list[int] = []
    for n, pages in enumerate(pieces):
        first = (n + 1) << 30
        span.link(PhysVec(PhysAddr(first), pages * PAGE_SIZE))
        flat.extend(range(first, first + pages * PAGE_SIZE, PAGE_SIZE))
    with pytest.raises(MappingError):
        iommu.translate(span.addr, 1)
    span.sync()
    if start + length > total:
        with pytest.raises(MappingError):
            iommu.translate(span.addr + start, length)
        return
    found = iommu.translate(span.addr + start, length)
    assert sum(vec.length for vec in found) == length
    at = start
    for piece in found:
        assert piece.paddr == flat[at // PAGE_SIZE] + at % PAGE_SIZE
        at += piece.length
