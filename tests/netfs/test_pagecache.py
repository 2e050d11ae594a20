"""Folios, their ranges against a byte-wise oracle, the budget of the cache, readahead windows, sizes and the error sequence."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iov.pool import BufferPool
from iov.probe import Probe
from netfs.cache.folio import Folio
from netfs.cache.pagecache import Mapping, PageCache, folio_sizes_for
from netfs.engine.inode import ErrorSequence, NetfsInode
from netfs.engine.readahead import INITIAL_WINDOW, MAX_AROUND, Readahead
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
            folio = cache.add(mapping, index * 512)
            if folio is None:
                # Everything is held: the oldest files would be written back.
                for held in [f for m in mappings for f in m.folios.values() if f.dirty]:
                    held.cleaned()
                    cache.update(held)
                continue
        folio.uses += 1
        if rng.random() < 0.4:
            folio.wrote(0, 512)
        cache.update(folio)
        folios = [f for m in mappings for f in m.folios.values()]
        assert cache.used_bytes == 512 * len(folios) <= cache.budget
        assert cache.held_bytes == 512 * sum(f.dirty for f in folios)
        assert {id(m) for m in cache.holders} == {id(m) for m in mappings if m.dirty}
        for m in mappings:
            assert m.unsent_bytes == 512 * sum(f.dirty for f in m.folios.values())
            assert set(m.dirty) == {f.pos for i, f in m.folios.items() if f.dirty}


def test_the_oldest_clean_folio_goes_first() -> None:
    cache = PageCache(16 * 512, 512)
    mapping = mapping_of(cache)
    folios = [cache.add(mapping, n * 512) for n in range(16)]
    first = folios[0]
    assert first is not None
    first.uses = 2
    first.locked = True
    assert cache.add(mapping, 16 * 512) is not None
    assert sorted(mapping.folios) == [0, *range(2, 17)]


def test_memory_of_a_dropped_folio_that_somebody_waits_for_is_not_reused() -> None:
    cache = PageCache(16 * 512, 512)
    mapping = mapping_of(cache)
    folio = cache.add(mapping, 0)
    assert folio is not None
    folio.pins = 1
    cache.drop(folio)
    other = cache.add(mapping, 512)
    assert other is not None and other.memory is not folio.memory


@pytest.mark.parametrize("budget", [0, 1 << 12, 1 << 16, 1 << 20, 1 << 22, 1 << 26, 1 << 30, 1 << 34])
def test_folio_sizes(budget: int) -> None:
    smallest, largest = folio_sizes_for(budget)
    assert smallest & (smallest - 1) == largest & (largest - 1) == 0
    assert 4096 <= smallest <= largest <= 1 << 20
    assert budget // smallest <= 1 << 16
    assert PageCache(budget).budget >= 16 * largest


@given(st.integers(0, 1000), st.lists(st.tuples(st.integers(0, 63), st.integers(0, 20000)), max_size=100))
def test_folios_of_mixed_sizes_never_overlap_nor_hold_more_than_the_budget(seed: int, asks: list[tuple[int, int]]) -> None:
    rng = random.Random(seed)
    cache = PageCache(1 << 17)
    cache.smallest, cache.largest = 512, 8192
    mapping = mapping_of(cache)
    for index, want in asks:
        if index in mapping.folios:
            mapping.folios[index].uses += rng.randrange(3)
            continue
        folio = cache.add(mapping, index * 512, want)
        assert folio is not None and len(folio.memory) == folio.size and folio.pos % folio.size == 0
        assert 512 <= folio.size <= max(512, want)
        every = mapping.every()
        assert sum(f.size for f in every) == 512 * len(mapping.folios) == cache.used_bytes <= cache.resident_bytes <= cache.budget
        for number, f in mapping.folios.items():
            assert f.pos <= number * 512 < f.pos + f.size
        start, end = sorted((rng.randrange(70) * 500, rng.randrange(70) * 500))
        want_found = sorted(f.pos for f in every if f.pos < end and f.pos + f.size > start and start < end)
        assert [f.pos for f in mapping.range(start, end)] == want_found
    memories = [f.place for f in mapping.every()]
    assert len({(id(p.slab), p.off) for p in memories}) == len(memories)


def test_a_folio_used_again_has_a_second_chance() -> None:
    cache = PageCache(16 * 512, 512)
    mapping = mapping_of(cache)
    for n in range(16):
        folio = cache.add(mapping, n * 512)
        assert folio is not None
        folio.uses = 2 if n in {0, 2} else 1
    for n in (20, 21, 22):
        assert cache.add(mapping, n * 512) is not None
    assert sorted(mapping.folios) == [0, 2, *range(5, 16), 20, 21, 22]


def test_range_of_folios() -> None:
    cache = PageCache(64 * 512, 512)
    mapping = mapping_of(cache)
    for index in (5, 1, 9, 2):
        cache.add(mapping, index * 512)
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


def test_the_second_of_two_reads_in_flight_is_sequential_too() -> None:
    ahead = Readahead(limit=4 * INITIAL_WINDOW)
    upto = ahead.missed(0, 100)
    ahead.reached(upto)
    assert ahead.missed(upto, upto + 100) == upto + 2 * INITIAL_WINDOW, "it goes on where reading ahead has got to"


def test_more_is_read_around_single_reads_when_that_is_found_useful() -> None:
    ahead, unit = Readahead(), 1 << 14
    for number in range(1, 20):
        ahead.missed(number * INITIAL_WINDOW, number * INITIAL_WINDOW + 10)
    assert ahead.around(unit) == unit, "nothing speaks for more yet"
    for uses in (1, 3, 4):
        ahead.hit(uses)
    assert ahead.around(unit) == unit, "only the second use of a folio counts"
    ahead.hit(2)
    assert ahead.around(unit) == 2 * unit
    for _ in range(1000):
        ahead.hit(2)
    assert ahead.around(unit) == MAX_AROUND
    assert ahead.around(4 * MAX_AROUND) == 4 * MAX_AROUND, "a block is never split"
    for number in range(100, 1100):
        ahead.missed(number * INITIAL_WINDOW, number * INITIAL_WINDOW + 10)
    assert ahead.around(unit) == unit


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
