"""Trio shell. `iov.*`: what it costs to walk, copy and extract memory in pieces, and to use the fast path of one block.

Copies are measured against one copy of the same bytes in cache, everything else against a fixed loop of Python calls.
Owns what it maps.
"""

import mmap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from iov import PAGE_SIZE, BioVec, Direction, IovIter, PhysMemory, copy_to_iter, extract_bvecs, extract_segments
from trials.bench.figure import Figure, Measure, Pairing
from trials.bench.limits import MB, py_loop_per_s, timed

__all__ = ["FIGURES"]

SEGMENTS: Final = 256
SIZE: Final = SEGMENTS * PAGE_SIZE
_FOR_S: Final = 0.05
DEST, SOURCE = Direction.DEST, Direction.SOURCE


def _block(length: int = SIZE) -> memoryview:
    view = memoryview(mmap.mmap(-1, length))
    view[:] = bytes(length)
    return view


def _seconds_each(work: Callable[[], object]) -> float:
    count = 0
    with timed() as clock:
        while clock.so_far() < _FOR_S:
            for _ in range(16):
                work()
            count += 16
    return clock.seconds / count


def _one_copy(target: memoryview, source: memoryview) -> None:
    target[:] = source


async def _call_ns() -> float:
    return 1e9 / py_loop_per_s(100_000)


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
async def _against_calls(value: Callable[[], Measure]) -> AsyncIterator[Pairing]:
    yield Pairing(value(), _call_ns)


def _walk() -> Measure:
    source, plain, it = _block(), _block(), _scattered()

    async def value() -> float:
        walked = _seconds_each(lambda: copy_to_iter(source, it.copy()))
        return max(0.0, walked - _seconds_each(partial(_one_copy, plain, source))) / SEGMENTS * 1e9

    return value


def _per_segment(extract: Callable[[IovIter], object]) -> Measure:
    it = IovIter.bvec(SOURCE, _folios())

    async def value() -> float:
        return _seconds_each(lambda: extract(it.copy())) / SEGMENTS * 1e9

    return value


def _phys() -> Measure:
    phys = PhysMemory(2 * SEGMENTS, seed=1)
    it = IovIter.bvec(SOURCE, [BioVec(phys.alloc().memory, 0, PAGE_SIZE) for _ in range(SEGMENTS)])

    async def value() -> float:
        return _seconds_each(lambda: phys.phys_vecs(it.copy(), SIZE)) / SEGMENTS * 1e9

    return value


def _ubuf() -> Measure:
    target, source = _block(PAGE_SIZE)[:64], _block(PAGE_SIZE)[:64]

    async def value() -> float:
        whole = _seconds_each(lambda: copy_to_iter(source, IovIter.ubuf(DEST, target)))
        return max(0.0, whole - _seconds_each(partial(_one_copy, target, source))) * 1e9

    return value


def _calls(name: str, target: float, value: Callable[[], Measure]) -> Figure:
    return Figure(f"iov.{name}", "ns", "py_loop", target, partial(_against_calls, value), lower=True)


# A call of the loop takes about 40 ns on the reference machine, so 20 of them are the 0.8 µs that walking a segment
# may cost, and 40 the 1.5 µs of extracting it.
FIGURES: Final = (
    Figure("iov.copy_256x4k", "MB/s", "memcpy_in_cache", 0.10, partial(_copy, _scattered)),
    Figure("iov.copy_256x4k_touching", "MB/s", "memcpy_in_cache", 0.30, partial(_copy, _contiguous)),
    Figure("iov.copy_one_folio", "MB/s", "memcpy_in_cache", 0.70, partial(_copy, _folio)),
    _calls("walk_segment", 20, _walk),
    _calls("extract_views_segment", 40, partial(_per_segment, lambda it: extract_segments(it, SIZE))),
    _calls("extract_bvecs_segment", 40, partial(_per_segment, lambda it: extract_bvecs(it, SIZE, SEGMENTS))),
    _calls("extract_phys_segment", 40, _phys),
    _calls("ubuf_call", 60, _ubuf),
)
