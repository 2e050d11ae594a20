"""Where bytes are: iterators over lent memory, bvec chains, folios and the emulated physical address space."""

from iov.bounce import Bounced, bounce_for_cpu, bounce_for_device
from iov.bvec import PAGE_SIZE, BioVec, BvecQueue, MemType
from iov.checksum import common_prefix, crc32c, crc32c_iter, csum_fold, csum_from_iter, csum_iter, csum_to_iter
from iov.copy_iter import copy_from_iter, copy_from_iter_full, copy_to_iter, copy_to_iter_full, zero_iter
from iov.debug import set_debug
from iov.device_memory import DeviceMemory
from iov.extract import PageRun, decant, extract_bvecs, extract_pages, extract_segments, framed, peek_segments
from iov.fault import FaultModel
from iov.folio import Folio, FolioQueue, FolioState, XArray
from iov.iov_iter import Direction, IovIter, IterType
from iov.phys import PhysAddr, PhysMemory, PhysVec
from iov.pin import Pin, PinLedger, extract_will_pin
from iov.pool import BufferPool, Lease
from iov.walk import fault_in_iter, iterate_and_advance

__all__ = [
    "PAGE_SIZE",
    "BioVec",
    "Bounced",
    "BufferPool",
    "BvecQueue",
    "DeviceMemory",
    "Direction",
    "FaultModel",
    "Folio",
    "FolioQueue",
    "FolioState",
    "IovIter",
    "IterType",
    "Lease",
    "MemType",
    "PageRun",
    "PhysAddr",
    "PhysMemory",
    "PhysVec",
    "Pin",
    "PinLedger",
    "XArray",
    "bounce_for_cpu",
    "bounce_for_device",
    "common_prefix",
    "copy_from_iter",
    "copy_from_iter_full",
    "copy_to_iter",
    "copy_to_iter_full",
    "crc32c",
    "crc32c_iter",
    "csum_fold",
    "csum_from_iter",
    "csum_iter",
    "csum_to_iter",
    "decant",
    "extract_bvecs",
    "extract_pages",
    "extract_segments",
    "extract_will_pin",
    "fault_in_iter",
    "framed",
    "iterate_and_advance",
    "peek_segments",
    "set_debug",
    "zero_iter",
]
