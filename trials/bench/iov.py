"""Trio shell. `iov.*`: what it costs to walk, copy and extract memory in pieces, and to use the fast path of one block.

Copies are measured against one copy of the same bytes in cache. Everything else is in microseconds, a segment or a call, against
the microseconds it may take: a ratio of 1 uses all of them.
Owns what it maps.
"""

import math
import mmap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from iov import PAGE_SIZE, BioVec, Direction, IovIter, PhysMemory, PinLedger, copy_to_iter, extract_bvecs, extract_segments
from transport.rdma.rw import iter_sges
from trials.bench.figure import Figure, Measure, Pairing
from trials.bench.limits import MB, timed

__all__ = ["FIGURES"]

SEGMENTS: Final = 256
SIZE: Final = SEGMENTS * PAGE_SIZE
_FOR_S: Final = 0.05
_BATCH: Final = 8
US: Final = 1e6
DEST, SOURCE = Direction.DEST, Direction.SOURCE


def _block(length: int = SIZE) -> memoryview:
    view = memoryview(mmap.mmap(-1, length))
    view[:] = bytes(length)
    return view


def _seconds_each(work: Callable[[], object]) -> float:
    """Return what one call takes in the quickest batch: whoever shares the machine only ever adds."""
    best = math.inf
    with timed() as whole:
        while whole.so_far() < _FOR_S:
            with timed() as clock:
                for _ in range(_BATCH):
                    work()
            best = min(best, clock.seconds)
    return best / _BATCH


def _one_copy(target: memoryview, source: memoryview) -> None:
    target[:] = source


def _folios() -> list[BioVec]:
    phys = PhysMemory(2 * SEGMENTS, seed=1)
    return [BioVec(phys.alloc().memory, 0, PAGE_SIZE) for _ in range(SEGMENTS)]


@asynccontextmanager
async def _copy(make: Callable[[], IovIter]) -> AsyncIterator[Pairing]:
    """MB/s into an iterator, against one copy of as many bytes."""
    source, plain, it = _block(), _block(), make()

    async def value() -> float:
        return SIZE / _seconds_each(lambda: copy_to_iter(source, it.copy())) / MB

    async def limit() -> float:
        return SIZE / _seconds_each(partial(_one_copy, plain, source)) / MB

    yield Pairing(value, limit)


def _scattered() -> IovIter:
    return IovIter.bvec(DEST, _folios())


def _contiguous() -> IovIter:
    block = _block()
    return IovIter.bvec(DEST, [BioVec(block, start, PAGE_SIZE) for start in range(0, SIZE, PAGE_SIZE)])


def _folio() -> IovIter:
    return IovIter.bvec(DEST, [BioVec(_block(), 0, SIZE)])


@asynccontextmanager
async def _within(most_us: float, value: Callable[[], Measure]) -> AsyncIterator[Pairing]:
    async def limit() -> float:
        await trio.lowlevel.checkpoint()
        return most_us

    yield Pairing(value(), limit)


def _walk() -> Measure:
    source, plain, it = _block(), _block(), _scattered()

    async def value() -> float:
        walked = _seconds_each(lambda: copy_to_iter(source, it.copy()))
        return max(0.0, walked - _seconds_each(partial(_one_copy, plain, source))) / SEGMENTS * US

    return value


def _per_segment(extract: Callable[[IovIter], object]) -> Measure:
    it = IovIter.bvec(SOURCE, _folios())

    async def value() -> float:
        return _seconds_each(lambda: extract(it.copy())) / SEGMENTS * US

    return value


def _phys() -> Measure:
    phys = PhysMemory(2 * SEGMENTS, seed=1)
    it = IovIter.bvec(SOURCE, [BioVec(phys.alloc().memory, 0, PAGE_SIZE) for _ in range(SEGMENTS)])

    async def value() -> float:
        return _seconds_each(lambda: phys.phys_vecs(it.copy(), SIZE)) / SEGMENTS * US

    return value


def _ubuf() -> Measure:
    target, source = _block(PAGE_SIZE)[:64], _block(PAGE_SIZE)[:64]

    async def value() -> float:
        whole = _seconds_each(lambda: copy_to_iter(source, IovIter.ubuf(DEST, target)))
        return max(0.0, whole - _seconds_each(partial(_one_copy, target, source))) * US

    return value


def _pin() -> Measure:
    ledger, block = PinLedger(), _block()

    def work() -> None:
        ledger.pin(IovIter.ubuf(DEST, block), SIZE).release()

    async def value() -> float:
        return _seconds_each(work) * US

    return value


def _us(name: str, most_us: float, value: Callable[[], Measure]) -> Figure:
    return Figure(f"iov.{name}", "µs", f"{most_us:g} µs", 1.0, partial(_within, most_us, value), lower=True)


WALK_US: Final = 0.8
EXTRACT_US: Final = 1.5
CALL_US: Final = 3.0
FIGURES: Final = (
    Figure("iov.copy_256x4k", "MB/s", "memcpy_in_cache", 0.10, partial(_copy, _scattered)),
    Figure("iov.copy_256x4k_touching", "MB/s", "memcpy_in_cache", 0.30, partial(_copy, _contiguous)),
    Figure("iov.copy_one_folio", "MB/s", "memcpy_in_cache", 0.70, partial(_copy, _folio)),
    _us("walk_segment", WALK_US, _walk),
    _us("extract_views_segment", EXTRACT_US, partial(_per_segment, lambda it: extract_segments(it, SIZE))),
    _us("extract_bvecs_segment", EXTRACT_US, partial(_per_segment, lambda it: extract_bvecs(it, SIZE, SEGMENTS))),
    _us("extract_phys_segment", EXTRACT_US, _phys),
    _us("extract_sges_segment", EXTRACT_US, partial(_per_segment, lambda it: iter_sges(it, SIZE))),
    _us("ubuf_call", CALL_US, _ubuf),
    _us("pin_call", 2 * CALL_US, _pin),
)
