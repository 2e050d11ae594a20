"""Sans-IO. The same payload through all four generations on a machine of your choice: what `netfs explain` prints.

`compare` builds the memory and the device, runs each generation on them, and checks that the device read the payload whole and
that nothing stayed mapped. Owns the emulated memory for the length of a call. Follows docs/memory.md.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from iov.bvec import PAGE_SIZE, BioVec
from iov.folio import Folio
from iov.iov_iter import Direction, IovIter
from iov.phys import MAX_FOLIO_SIZE, PhysAddr, PhysMemory, PhysVec
from iov.probe import Probe
from transport.dma import DmaDevice, DmaLimits, DmaVec
from transport.iova import Iommu
from transport.legacy import Costs, Port, bvec_iova, direct_send, legacy_mr, legacy_send
from transport.swiotlb import Swiotlb

__all__ = ["DEVICES", "LAYOUTS", "MAX_SIZE", "Comparison", "Generation", "compare"]

LAYOUTS = ("fragmented", "contiguous")
DEVICES = ("swiotlb", "iommu", "direct")
MAX_SIZE = 256 << 20
BOUNCE_SLOTS = 32768
SEED = 11


@dataclass(frozen=True, slots=True)
class Generation:
    """What one generation spent, and the first of what it gave the device for payload."""

    costs: Costs
    sges: list[DmaVec]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The payload's memory as physically contiguous fragments, and what each generation made of it."""

    fragments: list[PhysVec]
    generations: list[Generation]


def compare(size: int, layout: str, device: str, max_sge: int) -> Comparison:
    """Carry a payload of `size` bytes through each generation and count.

    Args: layout: one of LAYOUTS; device: one of DEVICES; max_sge: entries of one message, its header's included.
    Raises: ValueError for anything else.
    """
    if not 0 < size <= MAX_SIZE:
        raise ValueError(f"a size of 1 to {MAX_SIZE} bytes, not {size}")
    if layout not in LAYOUTS or device not in DEVICES:
        raise ValueError(f"a layout of {', '.join(LAYOUTS)} and a device of {', '.join(DEVICES)}")
    if max_sge < 1:
        raise ValueError("a message needs an entry at least")
    pages = -(-size // PAGE_SIZE)
    phys = PhysMemory(2 * (pages + MAX_FOLIO_SIZE // PAGE_SIZE), seed=SEED if layout == "fragmented" else None)
    header = phys.alloc()
    folios = _payload(phys, size, PAGE_SIZE if layout == "fragmented" else MAX_FOLIO_SIZE)
    crc = 0
    for bvec in _bvecs(folios, size):
        crc = zlib.crc32(bvec.memory[bvec.off : bvec.off + bvec.length], crc)
    runs: list[tuple[str, Callable[[IovIter, Port], None]]] = [
        ("legacy_send", lambda it, port: legacy_send(it, port, max_sge)),
        ("direct_send", lambda it, port: direct_send(it, port, max_sge)),
        ("legacy_mr", legacy_mr),
        ("bvec_iova", bvec_iova),
    ]
    generations = []
    for name, run in runs:
        port = Port(_device(phys, device), phys, PhysVec(PhysAddr(header.paddr), PAGE_SIZE), Costs(name))
        run(IovIter.bvec(Direction.SOURCE, _bvecs(folios, size)), port)
        assert (port.sent_length, port.sent_crc) == (size, crc), f"{name} did not send the payload"
        port.device.close()
        copied = port.device.probe.copied_bytes - port.header_bytes_copied + port.joined_bytes
        port.costs.payload_copies = -(-copied // size)
        generations.append(Generation(port.costs, port.posted))
    fragments = phys.phys_vecs(IovIter.bvec(Direction.SOURCE, _bvecs(folios, size)), size)
    return Comparison(fragments, generations)


def _payload(phys: PhysMemory, size: int, folio_size: int) -> list[Folio]:
    folios = []
    for number in range(-(-size // folio_size)):
        folio = phys.alloc(folio_size)
        for start in range(0, folio.size, PAGE_SIZE):
            folio.memory[start : start + PAGE_SIZE] = (number * 257 + start).to_bytes(8, "little") * (PAGE_SIZE // 8)
        folios.append(folio)
    return folios


def _bvecs(folios: list[Folio], size: int) -> list[BioVec]:
    bvecs = []
    for folio in folios:
        bvecs.append(BioVec(folio.memory, 0, min(size, folio.size)))
        size -= folio.size
    return bvecs


def _device(phys: PhysMemory, kind: str) -> DmaDevice:
    return DmaDevice(
        phys,
        Probe(),
        DmaLimits(max_segment=1 << 31),
        Iommu() if kind == "iommu" else None,
        Swiotlb(phys, BOUNCE_SLOTS) if kind == "swiotlb" else None,
        force_bounce=kind == "swiotlb",
    )
