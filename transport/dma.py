"""Sans-IO. DMA mapping for an emulated device: physical vectors in, device vectors out, by the shortest way that works.

    every piece within the mask, no IOMMU      direct    one DmaVec a piece, its address the physical one
    IOMMU, pieces meet on granules             IOVA      one range: try_alloc, a link a piece, one sync
    IOMMU, they do not                         IOVA      a range for each piece
    out of reach, forced, or untrusted         swiotlb   a bounce for each piece of at most 256 KiB
    memory of a peer device                    bus       its bus address, when the device may talk to that peer; else refused

What a device gets is cut at its segment limit and boundary. A failure at any step unmaps exactly what was mapped, so that
`maps == unmaps` whenever no mapping is live.
Ownership: between map and unmap the memory is the device's; the mapper keeps it alive. Follows the DMA API of Linux.
"""

import errno
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from iov.phys import PhysMemory, PhysVec
from iov.probe import Probe
from transport.dma_debug import DmaDebug, DmaMisuse
from transport.dma_vec import DmaDirection, DmaLimits, DmaVec, MappingError, split
from transport.iova import Iommu, IovaRange
from transport.swiotlb import Bounce, Swiotlb

__all__ = ["DmaDevice", "DmaDirection", "DmaLimits", "DmaMapping", "DmaMisuse", "DmaVec", "MappingError"]


@dataclass(slots=True)
class _Direct:
    """A piece whose device address is its physical or bus address."""

    vec: PhysVec


_Piece = _Direct | Bounce | IovaRange


@dataclass(slots=True, eq=False)
class DmaMapping:
    """A live mapping: `vecs` for the device; `inputs` and the direction as they were given."""

    vecs: list[DmaVec]
    inputs: list[PhysVec]
    direction: DmaDirection
    pieces: list[_Piece] = field(default_factory=list)
    live: bool = True


class DmaDevice:
    """A device's view of memory. `peers` are the devices whose memory it may address; `fault` true makes the next step fail."""

    __slots__ = (
        "_debug", "_fault", "_force_bounce", "_peers", "_phys", "_untrusted", "iommu", "limits", "live", "maps", "probe",
        "swiotlb", "unmaps",
    )  # fmt: skip

    def __init__(
        self,
        phys: PhysMemory,
        probe: Probe,
        limits: DmaLimits | None = None,
        iommu: Iommu | None = None,
        swiotlb: Swiotlb | None = None,
        *,
        force_bounce: bool = False,
        untrusted: bool = False,
        peers: Collection[str] = (),
        debug: bool = False,
        fault: Callable[[], bool] | None = None,
    ) -> None:
        self._phys = phys
        self.probe = probe
        self.limits = limits if limits is not None else DmaLimits()
        self.iommu = iommu
        self.swiotlb = swiotlb
        self._force_bounce = force_bounce
        self._untrusted = untrusted
        self._peers = frozenset(peers)
        self._debug = DmaDebug(phys) if debug else None
        self._fault = fault
        self.live = self.maps = self.unmaps = 0

    def map(self, vecs: Sequence[PhysVec], direction: DmaDirection) -> DmaMapping:
        """Give memory to the device.

        Raises: ValueError for no or empty vectors; MappingError when it cannot be: EAGAIN and ENOSPC are retryable once other
        mappings end, EIO says out of reach, EOPNOTSUPP a peer the device may not talk to. Nothing is mapped then.
        Ownership: the device's until `unmap`.
        """
        if not vecs or any(vec.length <= 0 for vec in vecs):
            raise ValueError("a mapping is of one or more vectors that are not empty")
        mapping = DmaMapping([], list(vecs), direction)
        try:
            if self.iommu is not None and self.iommu.usable(vecs) and not any(self._special(vec) for vec in vecs):
                self._map_range(mapping, self.iommu, vecs)
            else:
                for vec in vecs:
                    self._map_vec(mapping, vec)
        except MappingError:
            self._undo(mapping, DmaDirection.TO_DEVICE)
            raise
        self.live += 1
        if self._debug is not None:
            self._debug.mapped(mapping, direction, mapping.inputs, mapping.vecs)
        return mapping

    def unmap(self, mapping: DmaMapping, direction: DmaDirection) -> None:
        """Take memory back; the processor may use it again.

        Raises: ValueError for a mapping that is not live; in debug mode DmaMisuse for another mistake.
        """
        if self._debug is not None:
            self._debug.check(mapping, direction, mapping.vecs)
            self._debug.unmapped(mapping)
        if not mapping.live:
            raise DmaMisuse("the mapping was unmapped before")
        mapping.live = False
        self.live -= 1
        self._undo(mapping, mapping.direction)

    def sync_for_cpu(self, mapping: DmaMapping) -> None:
        """Let the processor look at memory that stays mapped; the device keeps off until `sync_for_device`."""
        if self._debug is not None:
            self._debug.check(mapping, mapping.direction, mapping.vecs)
        if self.swiotlb is not None and mapping.direction is not DmaDirection.TO_DEVICE:
            for piece in mapping.pieces:
                if isinstance(piece, Bounce):
                    self.swiotlb.copy_back(piece)
        if self._debug is not None:
            self._debug.handed_over(mapping, to_device=False)

    def sync_for_device(self, mapping: DmaMapping) -> None:
        """Give memory that stays mapped back to the device."""
        if self.swiotlb is not None:
            for piece in mapping.pieces:
                if isinstance(piece, Bounce):
                    self.swiotlb.copy_in(piece)
        if self._debug is not None:
            self._debug.handed_over(mapping, to_device=True)

    def read(self, addr: int, length: int) -> list[memoryview]:
        """Return what the device sees at its addresses. Raises: MappingError(EFAULT), ValueError where it sees nothing."""
        return self._resolve(addr, length)

    def write(self, addr: int, data: memoryview) -> None:
        """Write as the device. Raises: as `read`."""
        at = 0
        for view in self._resolve(addr, len(data)):
            view[:] = data[at : at + len(view)]
            at += len(view)
        if self._debug is not None:
            self._debug.device_wrote()

    def close(self) -> None:
        """Insist that nothing is mapped."""
        assert not self.live, f"{self.live} mappings were not unmapped"
        assert self.maps == self.unmaps, f"{self.maps} pieces mapped, {self.unmaps} unmapped"

    def _resolve(self, addr: int, length: int) -> list[memoryview]:
        if self.swiotlb is not None and self.swiotlb.base <= addr < self.swiotlb.end:
            return [self.swiotlb.bytes_at(addr, length)]
        if self.iommu is not None and self.iommu.base <= addr < self.iommu.base + self.iommu.aperture:
            found = self.iommu.translate(addr, length)
            return [view for vec in found for view in self._phys.bytes_at(vec.paddr, vec.length)]
        return self._phys.bytes_at(addr, length)

    def _special(self, vec: PhysVec) -> bool:
        return self._bounced(vec) or self._phys.provider_at(vec.paddr) is not None

    def _bounced(self, vec: PhysVec) -> bool:
        if self._force_bounce:
            return True
        if self.iommu is None:
            return vec.paddr + vec.length - 1 > self.limits.mask
        partial = (vec.paddr | vec.length) & (self.iommu.granule - 1)
        return self._untrusted and partial != 0

    def _map_vec(self, mapping: DmaMapping, vec: PhysVec) -> None:
        provider = self._phys.provider_at(vec.paddr)
        if provider is not None:
            if provider not in self._peers:
                raise MappingError(errno.EOPNOTSUPP, f"the device cannot reach the memory of {provider}")
            self._step()
            self._add(mapping, _Direct(vec), vec.paddr, vec.length)
        elif self._bounced(vec):
            self._map_bounced(mapping, vec)
        elif self.iommu is not None:
            self._map_range(mapping, self.iommu, [vec])
        else:
            self._step()
            self._add(mapping, _Direct(vec), vec.paddr, vec.length)

    def _map_bounced(self, mapping: DmaMapping, vec: PhysVec) -> None:
        if self.swiotlb is None or self.swiotlb.end - 1 > self.limits.mask:
            raise MappingError(errno.EIO, f"the device does not reach {vec.paddr:#x}, and no bounce buffer helps")
        mask, paddr, left = self.limits.min_align_mask, vec.paddr, vec.length
        while left:
            size = min(left, self.swiotlb.max_length(paddr, mask))
            self._step()
            bounce = self.swiotlb.map(PhysVec(paddr, size), mask)
            self.probe.copied(size)
            self._add(mapping, bounce, bounce.addr, size)
            paddr = type(paddr)(paddr + size)
            left -= size

    def _map_range(self, mapping: DmaMapping, iommu: Iommu, vecs: Sequence[PhysVec]) -> None:
        span = IovaRange(iommu)
        self._step()
        span.try_alloc(vecs[0].paddr, sum(vec.length for vec in vecs))
        try:
            if span.addr + span.size - 1 > self.limits.mask:
                raise MappingError(errno.EIO, "the IOMMU's aperture is out of the device's reach")
            for vec in vecs:
                self._step()
                span.link(vec)
            self._step()
        except MappingError:
            span.destroy()
            raise
        span.sync()
        self._add(mapping, span, span.addr, span.size)

    def _add(self, mapping: DmaMapping, piece: _Piece, addr: int, length: int) -> None:
        self.maps += 1
        mapping.pieces.append(piece)
        mapping.vecs.extend(split(addr, length, self.limits))

    def _undo(self, mapping: DmaMapping, direction: DmaDirection) -> None:
        while mapping.pieces:
            piece = mapping.pieces.pop()
            self.unmaps += 1
            if isinstance(piece, Bounce):
                assert self.swiotlb is not None
                self.swiotlb.unmap(piece, direction)
                if direction is not DmaDirection.TO_DEVICE:
                    self.probe.copied(piece.vec.length)
            elif isinstance(piece, IovaRange):
                piece.destroy()

    def _step(self) -> None:
        self.probe.map_calls += 1
        if self._fault is not None and self._fault():
            raise MappingError(errno.ENOMEM, "a mapping step failed as asked")
