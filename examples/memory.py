"""Memory by hand: a mixed chain, a header in front, checksums in the same walk, and what each kind of device makes of it."""

from iov import (
    BioVec,
    BufferPool,
    BvecQueue,
    Direction,
    FaultModel,
    Folio,
    FolioQueue,
    IovIter,
    MemType,
    PhysMemory,
    PinLedger,
    XArray,
    bounce_for_cpu,
    common_prefix,
    copy_from_iter,
    crc32c,
    crc32c_iter,
    csum_fold,
    csum_from_iter,
    fault_in_iter,
    framed,
)
from iov.probe import Probe
from transport.dma import DmaDevice, DmaDirection, DmaLimits
from transport.iova import Iommu
from transport.rdma.sge import LOCAL_DMA_LKEY, SGE
from transport.swiotlb import Swiotlb

SOURCE = Direction.SOURCE
SIZE = 5000


def say(text: str) -> None:
    print(text)  # noqa: T201


def two_folios(phys: PhysMemory) -> list[Folio]:
    folios = [phys.alloc(), phys.alloc()]
    for letter, folio in zip(b"PQ", folios, strict=True):
        folio.memory[:] = bytes([letter]) * folio.size
    return folios


def same_bytes_three_ways(folios: list[Folio]) -> None:
    """Folios as bvecs, as a queue and through an index: three types of iterator, one checksum."""
    queue, index = FolioQueue(), XArray()
    for number, folio in enumerate(folios):
        queue.append_folio(folio)
        index.store(number, folio)
    size = sum(folio.size for folio in folios)
    bvecs = IovIter.bvec(SOURCE, [BioVec(folio.memory, 0, folio.size) for folio in folios])
    others = [IovIter.folioq(SOURCE, queue), IovIter.xarray_range(SOURCE, index, 0, size)]
    assert all(common_prefix(bvecs, other, size) == size for other in others)
    sums = {f"{crc32c_iter(size, it):08x}" for it in (bvecs, *others)}
    say(f"CRC32C of {size} bytes as BVEC, FOLIOQ and XARRAY: {' '.join(sums)}")


def absent_pages(caller: IovIter, memory: bytearray) -> None:
    """A copy stops in front of an absent page; a fault-in brings it back."""
    caller.faults = FaultModel()
    caller.faults.evict(memoryview(memory)[-1:])
    got = copy_from_iter(bytearray(SIZE), caller.copy())
    assert 0 < got < SIZE
    missing = fault_in_iter(SIZE, caller)
    assert copy_from_iter(bytearray(SIZE), caller.copy()) == SIZE
    say(f"a copy of {SIZE} bytes ends in front of an absent page; {missing} bytes are missing after a fault-in")


def main() -> None:
    phys = PhysMemory(256, seed=3)  # the seed scatters folios, and the pages of callers
    ledger = PinLedger(phys)
    header, folios = phys.alloc(), two_folios(phys)
    same_bytes_three_ways(folios)

    mine = bytearray(b"caller " * 715)[:SIZE]
    caller = IovIter.ubuf(SOURCE, mine)
    absent_pages(caller, mine)
    pin = ledger.pin(caller, SIZE)

    # One chain of three lifetimes, the last of them of a device whose memory no processor can touch.
    gpu = phys.add_device("gpu", 4096)
    chain = BvecQueue()
    for view in pin.views:
        chain.append(view, MemType.PINNED)
    chain.append([BioVec(folio.memory, 100, 2500) for folio in folios], MemType.PAGECACHE)
    chain.append([BioVec(gpu, 0, 1500)])
    header.memory[:64] = b"WRITE file=7 pos=0".ljust(64)
    message = framed(IovIter.bvecq(SOURCE, chain), header.memory[:64])

    # The processor copies and sums in one walk; what it cannot touch is bounced, and that is counted.
    probe = Probe()
    pool = BufferPool(probe, 4096, 1)
    bounced = bounce_for_cpu(message.copy(), pool)
    flat = bytearray(message.count)
    copied, total = csum_from_iter(flat, bounced.iter)
    bounced.finish()
    say(f"{copied} bytes in {message.nr_segs} pieces, Internet checksum {csum_fold(total):04x}, {probe.copied_bytes} bounced")

    for name, device in (
        ("direct", DmaDevice(phys, Probe(), peers=["gpu"])),
        ("iommu", DmaDevice(phys, Probe(), iommu=Iommu(), peers=["gpu"])),
        ("swiotlb", DmaDevice(phys, Probe(), swiotlb=Swiotlb(phys, 64), force_bounce=True, peers=["gpu"], debug=True)),
        ("direct, at most 2 KiB", DmaDevice(phys, Probe(), DmaLimits(max_segment=2048), peers=["gpu"])),
    ):
        mapping = device.map(phys.phys_vecs(message.copy(), message.count), DmaDirection.TO_DEVICE)
        sges = [SGE(vec.addr, vec.length, LOCAL_DMA_LKEY) for vec in mapping.vecs]
        say(f"{name}: {len(mapping.inputs)} physical vectors, {len(sges)} SGEs, {device.probe.copied_bytes} bytes copied")
        for sge in sges:
            say(f"    addr {sge.addr:#018x}  length {sge.length:5}  lkey {sge.lkey:#x}")
        seen = 0
        for sge in sges:
            for view in device.read(sge.addr, sge.length):
                seen = crc32c(view, seen)
        assert seen == crc32c(flat)
        device.unmap(mapping, DmaDirection.TO_DEVICE)
        device.close()

    pin.release()
    for folio in (header, *folios):
        phys.free(folio)
    for owner in (ledger, pool, phys):
        owner.close()  # each insists that nothing it lent is left


main()
