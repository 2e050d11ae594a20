"""Where bytes are: iterators over lent memory, bvec chains, folios and the emulated physical address space."""

from iov.bvec import PAGE_SIZE, BioVec, BvecQueue, MemType
from iov.copy_iter import copy_from_iter, copy_to_iter, zero_iter
from iov.extract import decant, extract_segments, peek_segments
from iov.iov_iter import Direction, IovIter, IterType
from iov.pool import BufferPool, Lease

__all__ = [
    "PAGE_SIZE",
    "BioVec",
    "BufferPool",
    "BvecQueue",
    "Direction",
    "IovIter",
    "IterType",
    "Lease",
    "MemType",
    "copy_from_iter",
    "copy_to_iter",
    "decant",
    "extract_segments",
    "peek_segments",
    "zero_iter",
]
