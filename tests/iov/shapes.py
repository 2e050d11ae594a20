"""Every kind of iterator over the same bytes, for the tests of this package."""

import functools
import itertools
import mmap
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from hypothesis import settings

from iov.bvec import PAGE_SIZE, BioVec, BvecQueue
from iov.folio import Folio, FolioQueue, XArray
from iov.iov_iter import Direction, IovIter

Cuts = Sequence[int]
Test = TypeVar("Test", bound=Callable[..., None])
Maker = Callable[[Direction, memoryview, Cuts], IovIter]


def block(length: int) -> memoryview:
    """Page-aligned, zeroed memory."""
    return memoryview(mmap.mmap(-1, -(-max(length, 1) // PAGE_SIZE) * PAGE_SIZE))[:length]


@functools.cache
def pattern(length: int) -> bytes:
    return bytes((x + (x >> 8) + (x >> 16)) & 0xFF for x in range(length))


def pieces(memory: memoryview, cuts: Cuts) -> list[memoryview]:
    """Cut the memory at the given places; equal cuts make empty pieces."""
    edges = [0, *sorted(min(cut, len(memory)) for cut in cuts), len(memory)]
    return [memory[start:end] for start, end in itertools.pairwise(edges)]


def bvecs(memory: memoryview, cuts: Cuts) -> list[BioVec]:
    edges = [0, *sorted(min(cut, len(memory)) for cut in cuts), len(memory)]
    return [BioVec(memory, start, end - start) for start, end in itertools.pairwise(edges)]


def ubuf(direction: Direction, memory: memoryview, cuts: Cuts) -> IovIter:
    return IovIter.ubuf(direction, memory)


def iovec(direction: Direction, memory: memoryview, cuts: Cuts) -> IovIter:
    return IovIter.iovec(direction, pieces(memory, cuts))


def kvec(direction: Direction, memory: memoryview, cuts: Cuts) -> IovIter:
    return IovIter.kvec(direction, pieces(memory, cuts))


def bvec(direction: Direction, memory: memoryview, cuts: Cuts) -> IovIter:
    return IovIter.bvec(direction, bvecs(memory, cuts))


def scattered(direction: Direction, memory: memoryview, cuts: Cuts) -> IovIter:
    """Bvecs that never merge: each piece is a memory of its own."""
    return IovIter.bvec(direction, [BioVec(piece, 0, len(piece)) for piece in pieces(memory, cuts)])


def bvecq(direction: Direction, memory: memoryview, cuts: Cuts) -> IovIter:
    """A chain of nodes of up to three bvecs, with empty nodes between."""
    queue = BvecQueue()
    every = bvecs(memory, cuts)
    for start in range(0, len(every), 3):
        queue.append(every[start : start + 3])
        queue.append([])
    return IovIter.bvecq(direction, queue)


def folioq(direction: Direction, memory: memoryview, cuts: Cuts) -> IovIter:
    """A queue of one-page folios, five to a node, entered so that the memory is the bytes of the iterator."""
    queue = FolioQueue(5)
    for start in range(0, len(memory), PAGE_SIZE):
        queue.append_folio(Folio(memory[start : start + PAGE_SIZE]))
    return IovIter.folioq(direction, queue)


def xarray(direction: Direction, memory: memoryview, cuts: Cuts) -> IovIter:
    """A page-cache index of one-page folios from page 3 on; memory that ends in a page is padded by its mapping."""
    index = XArray()
    whole = -(-len(memory) // PAGE_SIZE) * PAGE_SIZE
    padded = memory if whole == len(memory) else memoryview(memory.obj)
    for start in range(0, whole, PAGE_SIZE):
        index.store(3 + start // PAGE_SIZE, Folio(padded[start : start + PAGE_SIZE]))
    return IovIter.xarray_range(direction, index, 3 * PAGE_SIZE, len(memory))


MAKERS: dict[str, Maker] = {
    "ubuf": ubuf,
    "iovec": iovec,
    "kvec": kvec,
    "bvec": bvec,
    "scattered": scattered,
    "bvecq": bvecq,
    "folioq": folioq,
    "xarray": xarray,
}


def every_kind(test: Test) -> Test:
    """Run a test on iterators of every kind; eight kinds make up for fewer examples of each."""
    if hasattr(test, "hypothesis"):
        test = settings(max_examples=50)(test)
    parametrized: Test = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))(test)
    return parametrized
