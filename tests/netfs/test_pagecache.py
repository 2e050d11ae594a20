"""Folios, their ranges against a byte-wise oracle, the budget of the cache, readahead windows, sizes and the error sequence."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iov.pool import BufferPool
from iov.probe import Probe
from netfs.cache.folio import Folio
from netfs.cache.pagecache import Mapping, PageCache, folio_size_for
from netfs.engine.inode import ErrorSequence, NetfsInode
from netfs.engine.readahead import INITIAL_WINDOW, Readahead
from netfs.engine.sizes import FileSizes
from tests.netfs.scripted import ScriptedOps

SIZE = 64


def mapping_of(cache: PageCache) -> Mapping:
    inode = NetfsInode(cache, BufferPool(Probe(), 4096, 1), Probe())
    inode.set_ops(ScriptedOps(8, b"", {}))
    return inode.mapping


def new_folio(size: int = SIZE) -> Folio:
    folio = mapping_of(PageCache(1 << 20, size)).cache.add(mapping_of(PageCache(1 << 20, size)), 0)
    assert folio is not None
    return folio


spans = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda s: (min(s), max(s))).filter(lambda s: s[0] < s[1])
steps = st.lists(st.tuples(st.sampled_from(["write", "sent", "commit", "cut", "zero rest", "lost"]), spans), max_size=30)


@given(steps)
def test_folio_ranges_against_sets_of_bytes(ops: list[tuple[str, tuple[int, int]]]) -> None:
    folio = new_folio()
    valid: set[int] = set()
    dirty: set[int] = set()
    unstable: set[int] = set()
    for kind, (off, end) in ops:
        span = set(range(off, end))
        if kind == "write" and folio.touches(off, end):
            assert not valid or (min(valid) <= end and off <= max(valid) + 1)
            folio.wrote(off, end)
            valid |= span
            dirty |= span
        elif kind == "sent" and folio.dirty:
            folio.make_unstable(folio.dirty_from, folio.dirty_to, 1)
            folio.cleaned()
            unstable |= dirty
            dirty = set()
        elif kind == "commit":
            folio.committed()
            unstable = set()
        elif kind == "lost" and folio.unstable:
            folio.make_dirty(folio.unstable_from, folio.unstable_to)
            folio.committed()
            dirty |= unstable
            unstable = set()
        elif kind == "cut":
            full = folio.uptodate
            folio.cut(off)
            gone = set(range(off, SIZE))
            dirty, unstable = dirty - gone, unstable - gone
            valid = valid if full else valid - gone
            assert not any(folio.memory[off:])
        elif kind == "zero rest":
            folio.zero_rest()
            valid = set(range(SIZE))
        assert folio.holds(min(valid), max(valid) + 1) if valid else folio.valid_from == folio.valid_to or folio.uptodate
        assert folio.uptodate == (valid == set(range(SIZE)))
        # The ranges may be larger than what was written, but never than what is valid, and never leave anything out.
        for name, have in (("dirty", dirty), ("unstable", unstable)):
            lo, hi = getattr(folio, f"{name}_from"), getattr(folio, f"{name}_to")
            assert have <= set(range(lo, hi))
            assert lo >= hi or folio.holds(lo, hi)
            assert getattr(folio, name) == (lo < hi)
    assert folio.evictable == (not folio.dirty and not folio.unstable)


@given(st.integers(0, 1000), st.lists(st.integers(0, 40), max_size=200))
def test_the_cache_keeps_its_budget_and_its_books(seed: int, indexes: list[int]) -> None:
    rng = random.Random(seed)
    cache = PageCache(16 * 512, 512)
    mappings = [mapping_of(cache) for _ in range(2)]
    for index in indexes:
        mapping = rng.choice(mappings)
        folio = mapping.folios.get(index)
        if folio is None:
            folio = cache.add(mapping, index)
            if folio is None:
                # Everything is held: the oldest files would be written back.
                for held in [f for m in mappings for f in m.folios.values() if f.dirty]:
                    held.cleaned()
                    cache.update(held)
                continue
        cache.touch(folio)
        if rng.random() < 0.4:
            folio.wrote(0, 512)
        cache.update(folio)
        folios = [f for m in mappings for f in m.folios.values()]
        assert cache.used_bytes == 512 * len(folios) <= cache.budget
        assert cache.held_bytes == 512 * sum(f.dirty for f in folios)
        assert {id(m) for m in cache.holders} == {id(m) for m in mappings if m.dirty}
        for m in mappings:
            assert set(m.dirty) == {i for i, f in m.folios.items() if f.dirty}


def test_the_oldest_clean_folio_goes_first() -> None:
    cache = PageCache(16 * 512, 512)
    mapping = mapping_of(cache)
    folios = [cache.add(mapping, n) for n in range(16)]
    first = folios[0]
    assert first is not None
    cache.touch(first)
    first.locked = True
    assert cache.add(mapping, 16) is not None
    assert sorted(mapping.folios) == [0, *range(2, 17)]


def test_memory_of_a_dropped_folio_that_somebody_waits_for_is_not_reused() -> None:
    cache = PageCache(16 * 512, 512)
    mapping = mapping_of(cache)
    folio = cache.add(mapping, 0)
    assert folio is not None
    folio.pins = 1
    cache.drop(folio)
    other = cache.add(mapping, 1)
    assert other is not None and other.memory is not folio.memory


@pytest.mark.parametrize("budget", [0, 1 << 12, 1 << 16, 1 << 20, 1 << 22, 1 << 26, 1 << 30])
def test_folio_sizes(budget: int) -> None:
    size = folio_size_for(budget)
    assert size in {4096, 8192, 16384, 32768, 65536}
    assert PageCache(budget).budget >= 16 * size


def test_range_of_folios() -> None:
    cache = PageCache(64 * 512, 512)
    mapping = mapping_of(cache)
    for index in (5, 1, 9, 2):
        cache.add(mapping, index)
    for start, end, found in [
        (0, 512, []),
        (511, 513, [1]),
        (1024, 5 * 512 + 1, [2, 5]),
        (0, 1 << 60, [1, 2, 5, 9]),
        (700, 700, []),
    ]:
        assert [folio.pos // 512 for folio in mapping.range(start, end)] == found


# ---- readahead


def test_sequential_reads_open_the_window_and_jumps_close_it() -> None:
    ahead = Readahead(limit=4 * INITIAL_WINDOW)
    assert ahead.missed(0, 100) == INITIAL_WINDOW
    assert ahead.consumed(100) == 0
    assert ahead.consumed(INITIAL_WINDOW // 2) == 3 * INITIAL_WINDOW
    ahead.reached(3 * INITIAL_WINDOW)
    assert ahead.consumed(INITIAL_WINDOW - 1) == 0
    assert ahead.consumed(INITIAL_WINDOW) == 7 * INITIAL_WINDOW, "at most the limit further on"
    assert ahead.missed(50 * INITIAL_WINDOW, 50 * INITIAL_WINDOW + 10) == 50 * INITIAL_WINDOW + 10
    ahead.consumed(50 * INITIAL_WINDOW + 10)
    assert ahead.missed(50 * INITIAL_WINDOW + 10, 50 * INITIAL_WINDOW + 20) == 51 * INITIAL_WINDOW + 10


# ---- sizes


@given(st.lists(st.tuples(st.sampled_from(["cache", "server", "resize", "refresh", "behind"]), st.integers(0, 50)), max_size=40))
def test_zero_point_never_lies(ops: list[tuple[str, int]]) -> None:
    """The server's file is a set of written positions; at and behind the zero point there must be none."""
    sizes = FileSizes()
    server: set[int] = set()
    remote = 0
    for kind, n in ops:
        if kind == "cache":
            sizes.wrote_cache(n)
        elif kind == "server":
            sizes.wrote_server(n)
            server.update(range(n))
            remote = max(remote, n)
        elif kind == "resize":
            sizes.resized(n)
            server = {pos for pos in server if pos < n}
            remote = n
        elif kind == "refresh":
            sizes.refreshed(remote)
        else:
            sizes.refreshed_behind(remote)
        assert all(pos < sizes.zero_point for pos in server)
        assert sizes.remote_i_size == remote <= sizes.i_size


# ---- errors


def test_each_descriptor_is_told_once() -> None:
    errors = ErrorSequence()
    first = errors.sample()
    errors.record(OSError(5, "one"))
    second = errors.sample()
    for mark in (first, second):
        error, mark = errors.check(mark)
        assert str(error) == "[Errno 5] one"
        assert errors.check(mark) == (None, mark)
    third = errors.sample()
    assert errors.check(third)[0] is None
    errors.record(OSError(5, "two"))
    assert str(errors.check(third)[0]) == "[Errno 5] two"


def test_growing_a_file_does_not_raise_the_zero_point() -> None:
    sizes = FileSizes()
    sizes.refreshed(100)
    sizes.resized(50)
    sizes.resized(1000)
    assert (sizes.i_size, sizes.remote_i_size, sizes.zero_point) == (1000, 1000, 50)
