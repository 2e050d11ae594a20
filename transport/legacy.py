"""Sans-IO. Four generations of handing a payload to an RDMA device, each really carried out and counted.

    legacy_send   iterator → page list → an iterator a page → scatterlist a message → map each entry → SGE
    direct_send   iterator → map each fragment → SGE
    legacy_mr     iterator → page list → scatterlist → one map of it → memory region → SGE
    bvec_iova     iterator → one device range (alloc, link each fragment, sync) → SGE

They exist to be compared: nothing in the data path uses the old ways. `Port.post` makes the device read every SGE, so that a
conversion that lost a byte is found by the payload's checksum.
A device of one SGE a message has the payload copied behind the header, message by message; that is counted.
Owns no memory. Follows fs/smb/client/smbdirect.c of Linux; sizes are SMB-Direct's defaults.
"""

import zlib
from dataclasses import dataclass, field

from iov.bvec import PAGE_SIZE, BioVec
from iov.extract import extract_pages
from iov.iov_iter import ALL_SEGS, Direction, IovIter
from iov.phys import PhysMemory, PhysVec
from transport.dma import DmaDevice, DmaDirection, DmaMapping, DmaVec
from transport.scatterlist import ScatterEntry, SgTable, extract_iter_to_sg

__all__ = ["Costs", "Port", "bvec_iova", "direct_send", "legacy_mr", "legacy_send"]

MAX_SEND_SIZE = 1364
MESSAGE_HEADER = 24
REQUEST_HEADER = 112
MAX_MR_PAGES = 2048
KEPT_SGES = 4096
TO_DEVICE = DmaDirection.TO_DEVICE


@dataclass(slots=True)
class Costs:
    """What one generation spent on one payload. payload_copies: how often each byte was copied, rounded up."""

    name: str
    page_lists: int = 0
    iterators: int = 0
    scatterlists: int = 0
    sges: int = 0
    map_calls: int = 0
    messages: int = 0
    payload_copies: int = 0
    allocations: int = 0


@dataclass(slots=True)
class Port:
    """A device, the headers it sends, and what was spent and seen on the way. `posted` keeps the first payload SGEs."""

    device: DmaDevice
    phys: PhysMemory
    header: PhysVec
    costs: Costs
    posted: list[DmaVec] = field(default_factory=list)
    sent_length: int = 0
    sent_crc: int = 0
    header_bytes_copied: int = 0
    joined_bytes: int = 0

    def map_header(self, vecs: list[PhysVec]) -> DmaMapping:
        """Map (part of) a header; a bounce of that is no copy of payload."""
        before = self.device.probe.copied_bytes
        mapping = self.map(vecs)
        self.header_bytes_copied += self.device.probe.copied_bytes - before
        return mapping

    def map(self, vecs: list[PhysVec]) -> DmaMapping:
        """Map, as one call."""
        self.costs.map_calls += 1
        return self.device.map(vecs, TO_DEVICE)

    def post_joined(self, payload: list[PhysVec], header_length: int) -> None:
        """Send a message by one SGE: the payload is copied behind the header, in the header's own page."""
        at = header_length
        for vec in payload:
            for view in self.phys.bytes_at(vec.paddr, vec.length):
                self.phys.bytes_at(self.header.paddr + at, len(view))[0][:] = view
                at += len(view)
        self.joined_bytes += at - header_length
        before = self.device.probe.copied_bytes
        mapping = self.map([PhysVec(self.header.paddr, at)])
        self.header_bytes_copied += header_length if self.device.probe.copied_bytes > before else 0
        self.post(mapping.vecs, header_length)
        self.device.unmap(mapping, TO_DEVICE)

    def post(self, sges: list[DmaVec], header_length: int) -> None:
        """Send a message: the device reads its SGEs, the first `header_length` bytes of which are not payload."""
        self.costs.messages += 1
        self.costs.sges += len(sges)
        self.see(sges, header_length)

    def see(self, vecs: list[DmaVec], header_length: int = 0) -> None:
        """Let the device read; the payload's length and checksum are kept."""
        for vec in vecs:
            if header_length < vec.length and len(self.posted) < KEPT_SGES:
                self.posted.append(DmaVec(vec.addr + header_length, vec.length - header_length))
            for view in self.device.read(vec.addr, vec.length):
                payload = view[header_length:]
                header_length = max(0, header_length - len(view))
                self.sent_length += len(payload)
                self.sent_crc = zlib.crc32(payload, self.sent_crc)


def _page_list(it: IovIter, costs: Costs) -> list[tuple[int, int, int]]:
    """Turn what is left into (page, offset, length) entries, as upper layers once did for the transport."""
    costs.page_lists += 1
    costs.allocations += 1
    entries = []
    while it.count:
        run = extract_pages(it, it.count, ALL_SEGS)
        off, left = run.off, run.length
        for page in run.pages:
            length = min(PAGE_SIZE - off, left)
            entries.append((page, off, length))
            left -= length
            off = 0
    return entries


def legacy_send(it: IovIter, port: Port, max_sge: int) -> None:
    """Send page by page: the request's header as a message of its own, then never two pages in one message."""
    costs, phys = port.costs, port.phys
    costs.allocations += 1  # the request
    request = phys.bytes_at(port.header.paddr + MESSAGE_HEADER, REQUEST_HEADER)[0]
    costs.iterators += 1
    _send_by_scatterlist(IovIter.kvec(Direction.SOURCE, [request]), port, max_sge, payload=False)
    for page, off, length in _page_list(it, costs):
        costs.iterators += 1
        piece = IovIter.bvec(Direction.SOURCE, [BioVec(phys.page_at(page), off, length)])
        _send_by_scatterlist(piece, port, max_sge, payload=True)


def _send_by_scatterlist(it: IovIter, port: Port, max_sge: int, *, payload: bool) -> None:
    while it.count:
        port.costs.scatterlists += 1
        port.costs.allocations += 1  # the message's header, from a pool
        table = SgTable()
        extract_iter_to_sg(it, MAX_SEND_SIZE - MESSAGE_HEADER, table, max(1, max_sge - 1))
        if max_sge == 1:
            entries = [vec for entry in table.entries for vec in _phys_of(port, entry)]
            port.post_joined(entries if payload else [], MESSAGE_HEADER + (0 if payload else REQUEST_HEADER))
            continue
        mappings = [port.map_header([PhysVec(port.header.paddr, MESSAGE_HEADER)])]
        for entry in table.entries:
            vecs = _phys_of(port, entry)
            mapping = port.map(vecs) if payload else port.map_header(vecs)
            entry.dma_address, entry.dma_length = mapping.vecs[0].addr, mapping.vecs[0].length
            mappings.append(mapping)
        sges = [mappings[0].vecs[0], *(DmaVec(entry.dma_address, entry.dma_length) for entry in table.entries)]
        port.post(sges, MESSAGE_HEADER if payload else MESSAGE_HEADER + REQUEST_HEADER)
        _unmap(port, mappings)


def _phys_of(port: Port, entry: ScatterEntry) -> list[PhysVec]:
    return port.phys.translate(entry.memory, entry.off, entry.off + entry.length)


def direct_send(it: IovIter, port: Port, max_sge: int) -> None:
    """Send fragments as they lie in memory, whatever pages they span; the request's header is in front of the first."""
    port.costs.allocations += 1  # the request
    header_length = MESSAGE_HEADER + REQUEST_HEADER
    while it.count:
        port.costs.allocations += 1  # the message's header, from a pool
        if max_sge == 1:
            port.post_joined(port.phys.phys_vecs(it, MAX_SEND_SIZE - header_length), header_length)
        else:
            mappings = [port.map_header([PhysVec(port.header.paddr, header_length)])]
            fragments = port.phys.phys_vecs(it, MAX_SEND_SIZE - header_length, max_sge - 1)
            mappings.extend(port.map([vec]) for vec in fragments)
            port.post([vec for mapping in mappings for vec in mapping.vecs], header_length)
            _unmap(port, mappings)
        header_length = MESSAGE_HEADER


def legacy_mr(it: IovIter, port: Port) -> None:
    """Register page by page: a scatterlist, kept with its memory region, is filled, mapped whole and named by one SGE."""
    port.costs.allocations += 1  # the request
    pages = _page_list(it, port.costs)
    mappings = []
    for first in range(0, len(pages), MAX_MR_PAGES):
        port.costs.scatterlists += 1
        table = SgTable()
        for page, off, length in pages[first : first + MAX_MR_PAGES]:
            piece = IovIter.bvec(Direction.SOURCE, [BioVec(port.phys.page_at(page), off, length)])
            extract_iter_to_sg(piece, length, table, 1)
        vecs = [vec for entry in table.entries for vec in _phys_of(port, entry)]
        mapping = port.map(vecs)
        for entry, out in zip(table.entries, mapping.vecs, strict=False):
            entry.dma_address, entry.dma_length = out.addr, out.length
        mappings.append(mapping)
    _post_regions(port, mappings)


def bvec_iova(it: IovIter, port: Port) -> None:
    """Map all fragments as one device range and post one SGE; where no IOMMU makes one, a memory region over them does."""
    port.costs.allocations += 1  # the request, with its SGEs and WRs
    mappings = []
    while it.count:
        vecs = port.phys.phys_vecs(it, it.count if port.device.iommu is not None else MAX_MR_PAGES * PAGE_SIZE)
        before = port.device.probe.map_calls
        mappings.append(port.map(vecs))
        if port.device.iommu is not None:  # its steps are calls: an allocation, a link each, a sync
            port.costs.map_calls += port.device.probe.map_calls - before - 1
    _post_regions(port, mappings)


def _post_regions(port: Port, mappings: list[DmaMapping]) -> None:
    """Post one request that names each mapping by one SGE; the peer then reads what the SGEs stand for."""
    port.costs.messages += 1
    port.costs.sges += len(mappings)
    for mapping in mappings:
        port.see(mapping.vecs)
    _unmap(port, mappings)


def _unmap(port: Port, mappings: list[DmaMapping]) -> None:
    for mapping in mappings:
        port.device.unmap(mapping, TO_DEVICE)
