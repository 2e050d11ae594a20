"""The four generations cost what they are known to cost, relative to each other, on every machine and payload."""

from dataclasses import asdict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iov.bvec import PAGE_SIZE, BioVec
from iov.iov_iter import Direction, IovIter
from iov.phys import PhysAddr, PhysMemory, PhysVec
from iov.probe import Probe
from transport.dma import DmaDevice, DmaLimits, DmaVec
from transport.generations import DEVICES, LAYOUTS, MAX_SIZE, compare
from transport.iova import Iommu
from transport.legacy import (
    MAX_SEND_SIZE,
    MESSAGE_HEADER,
    REQUEST_HEADER,
    Costs,
    Port,
    bvec_iova,
    direct_send,
    legacy_mr,
    legacy_send,
)

ROOM = MAX_SEND_SIZE - MESSAGE_HEADER
STRICTLY = ("page_lists", "iterators", "scatterlists", "sges", "map_calls")


def check_relations(size: int, layout: str, device: str, max_sge: int) -> None:
    found = compare(size, layout, device, max_sge)
    legacy, direct, registered, iova = (generation.costs for generation in found.generations)
    pages = -(-size // PAGE_SIZE)
    tail = size - (pages - 1) * PAGE_SIZE
    assert (legacy.page_lists, direct.page_lists, registered.page_lists, iova.page_lists) == (1, 0, 1, 0)
    assert legacy.iterators >= pages
    assert direct.iterators == registered.iterators == iova.iterators == 0
    assert (legacy.scatterlists, direct.scatterlists, registered.scatterlists, iova.scatterlists) == (legacy.messages, 0, 1, 0)
    assert legacy.messages == 1 + (pages - 1) * -(-PAGE_SIZE // ROOM) + -(-tail // ROOM)
    assert legacy.sges >= pages and legacy.map_calls >= pages
    assert direct.messages >= -(-(size + REQUEST_HEADER) // ROOM)
    if layout == "contiguous" or max_sge != 2:
        assert direct.messages == -(-(size + REQUEST_HEADER) // ROOM)
    assert direct.sges <= direct.messages * max_sge
    assert (registered.sges, registered.messages, registered.map_calls) == (1, 1, 1)
    assert (iova.sges, iova.messages) == (1, 1)
    assert iova.map_calls == (1 + len(found.fragments) + 1 if device == "iommu" else 1)
    copies = 1 if device == "swiotlb" else 0
    joined = 1 if max_sge == 1 else 0  # the payload stands behind the header in the one entry of a message
    assert [generation.costs.payload_copies for generation in found.generations] == [copies + joined] * 2 + [copies] * 2
    if max_sge == 1:
        assert (legacy.sges, direct.sges) == (legacy.map_calls, direct.map_calls) == (legacy.messages, direct.messages)
    before, after = asdict(legacy), asdict(direct)
    for name in before:
        assert name == "name" or after[name] <= before[name]
    if size % PAGE_SIZE == 0:
        assert all(after[name] < before[name] for name in STRICTLY)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("max_sge", [1, 2, 3, 16])
def test_relations_of_one_mib(layout: str, device: str, max_sge: int) -> None:
    check_relations(1 << 20, layout, device, max_sge)


@settings(max_examples=60)
@given(
    size=st.integers(1, 40_000) | st.integers(1, 30).map(lambda pages: pages * PAGE_SIZE),
    layout=st.sampled_from(LAYOUTS),
    device=st.sampled_from(DEVICES),
    max_sge=st.integers(1, 20),
)
@example(size=ROOM, layout="fragmented", device="direct", max_sge=2)
@example(size=1, layout="contiguous", device="iommu", max_sge=2)
def test_relations_of_any_payload(size: int, layout: str, device: str, max_sge: int) -> None:
    check_relations(size, layout, device, max_sge)


@pytest.mark.parametrize("bad", [(0, "fragmented", "direct", 4), (MAX_SIZE + 1, "fragmented", "direct", 4), (1, "x", "direct", 4),
                                 (1, "fragmented", "x", 4), (1, "fragmented", "direct", 0)])  # fmt: skip
def test_bad_input(bad: tuple[int, str, str, int]) -> None:
    with pytest.raises(ValueError):
        compare(*bad)


class Peer(Port):
    """A port that keeps what each message held."""

    def __init__(self, phys: PhysMemory, device: DmaDevice) -> None:
        header = phys.alloc()
        super().__init__(device, phys, PhysVec(PhysAddr(header.paddr), PAGE_SIZE), Costs("test"))
        self.sent: list[list[DmaVec]] = []
        self.payload = bytearray()

    def post(self, sges: list[DmaVec], header_length: int) -> None:
        self.sent.append(list(sges))
        super().post(sges, header_length)

    def see(self, vecs: list[DmaVec], header_length: int = 0) -> None:
        message = b"".join(view for vec in vecs for view in self.device.read(vec.addr, vec.length))
        self.payload += message[header_length:]
        super().see(vecs, header_length)


PIECES = st.lists(st.tuples(st.integers(0, PAGE_SIZE), st.integers(0, PAGE_SIZE)), max_size=12)


def pieces(phys: PhysMemory, cuts: list[tuple[int, int]]) -> tuple[list[BioVec], bytes]:
    bvecs, data = [], bytearray()
    for n, (off, length) in enumerate(cuts):
        folio = phys.alloc()
        folio.memory[:] = bytes((n + x) % 251 for x in range(PAGE_SIZE))
        bvecs.append(BioVec(folio.memory, off, min(length, PAGE_SIZE - off)))
        data += folio.memory[off : off + length]
    return bvecs, bytes(data)


@settings(max_examples=50)
@given(cuts=PIECES, max_sge=st.integers(1, 6), seed=st.sampled_from([None, 4]))
def test_trap_14_entries_and_bytes_of_a_message_are_bounded_and_all_is_sent(
    cuts: list[tuple[int, int]], max_sge: int, seed: int | None
) -> None:
    """SGE and peer limits: entries ≤ max_sge, bytes ≤ the peer's limit, all data sent, unmaps = maps."""
    for send in (direct_send, legacy_send):
        phys = PhysMemory(64, seed=seed)
        bvecs, data = pieces(phys, cuts)
        peer = Peer(phys, DmaDevice(phys, Probe()))
        it = IovIter.bvec(Direction.SOURCE, bvecs)
        send(it, peer, max_sge)
        assert it.count == 0
        assert peer.payload == data
        for sges in peer.sent:
            assert len(sges) <= max_sge
            assert sum(vec.length for vec in sges) <= MAX_SEND_SIZE
        peer.device.close()


@settings(max_examples=50)
@given(cuts=PIECES.filter(lambda cuts: any(off < PAGE_SIZE and length for off, length in cuts)), iommu=st.booleans())
def test_registrations_of_any_pieces_hold_the_payload(cuts: list[tuple[int, int]], iommu: bool) -> None:
    for register in (legacy_mr, bvec_iova):
        phys = PhysMemory(64, seed=4)
        bvecs, data = pieces(phys, cuts)
        peer = Peer(phys, DmaDevice(phys, Probe(), DmaLimits(max_segment=1 << 30), Iommu() if iommu else None))
        register(IovIter.bvec(Direction.SOURCE, bvecs), peer)
        assert peer.payload == data
        assert peer.costs.sges == peer.costs.messages == 1
        peer.device.close()
