"""The map of granules against a model in plain sets."""

import random

import pytest

from netfs.fscache.granules import MAX_CACHED_POS, GranuleMap, Writing

G = 4096


def have(granules: GranuleMap, start: int, end: int) -> None:
    granules.end_write(granules.begin_write(start, end), good=True)


def test_a_write_is_there_when_it_has_ended() -> None:
    granules = GranuleMap(G)
    writing = granules.begin_write(G, 3 * G)
    assert granules.next_extent(0, 10 * G) is None and not granules.empty
    granules.end_write(writing, good=True)
    assert granules.next_extent(0, 10 * G) == (G, 3 * G)
    assert granules.next_extent(G + 1, 3 * G - 1) is None
    assert granules.next_extent(2 * G, 3 * G - 1) is None
    assert len(granules) == 2


def test_a_write_that_failed_was_never_there() -> None:
    granules = GranuleMap(G)
    granules.end_write(granules.begin_write(0, G), good=False)
    assert granules.empty


def test_what_is_forgotten_on_its_way_stays_away() -> None:
    granules = GranuleMap(G)
    writing = granules.begin_write(0, 4 * G)
    assert granules.forget(1, 2)
    granules.end_write(writing, good=True)
    assert granules.next_extent(0, 4 * G) == (0, G)
    assert granules.next_extent(G, 4 * G) == (2 * G, 4 * G)


def test_clearing_reaches_what_is_on_its_way() -> None:
    granules = GranuleMap(G)
    writing = granules.begin_write(0, G)
    granules.clear()
    granules.end_write(writing, good=True)
    assert granules.empty


def test_a_short_granule_counts_where_the_file_ends() -> None:
    granules = GranuleMap(G, size=2 * G + 100)
    have(granules, 0, 2 * G + 100)
    assert granules.length(2) == 100
    assert granules.next_extent(0, 2 * G + 100) == (0, 2 * G + 100)
    assert granules.next_extent(2 * G, 2 * G + 100) == (2 * G, 2 * G + 100)
    assert granules.next_extent(2 * G, 2 * G + 99) is None
    # The file has grown: what was its end is only part of a granule now.
    assert granules.next_extent(0, 4 * G) == (0, 2 * G)
    assert granules.next_extent(2 * G, 4 * G) is None


def test_trim_keeps_whole_granules_and_the_end_of_the_file() -> None:
    granules = GranuleMap(G, size=10 * G + 5)
    assert granules.trim(1, 3 * G + 1) == (G, 3 * G)
    assert granules.trim(1, G + 1) is None
    assert granules.trim(9 * G, 10 * G + 5) == (9 * G, 10 * G + 5)
    assert granules.trim(9 * G, 10 * G + 4) == (9 * G, 10 * G)
    assert granules.trim(MAX_CACHED_POS, MAX_CACHED_POS + G) is None
    assert granules.trim((1 << 63) - G - 1, (1 << 63) - 1) is None


@pytest.mark.parametrize("seed", range(8))
def test_against_a_model(seed: int) -> None:
    rng = random.Random(seed)
    granules = GranuleMap(G, size=1 << 40)
    there: set[int] = set()
    writings: list[tuple[Writing, set[int]]] = []
    for _ in range(120):
        first = rng.choice([0, 4090, 8190, 50_000]) + rng.randrange(12)
        end = first + rng.choice([1, 3, 20, 5000])
        match rng.randrange(4):
            case 0:
                for _, left in writings:
                    left -= set(range(first, end))
                writings.append((granules.begin_write(first * G, end * G), set(range(first, end))))
                there -= set(range(first, end))
            case 1 if writings:
                writing, left = writings.pop(rng.randrange(len(writings)))
                good = rng.random() < 0.8
                granules.end_write(writing, good=good)
                there |= left if good else set()
            case 2:
                granules.forget(first, end)
                gone = set(range(first, end))
                there -= gone
                for _, left in writings:
                    left -= gone
            case _:
                run = granules.next_extent(first * G, end * G)
                known = sorted(there.intersection(range(first, end)))
                if not known:
                    assert run is None
                    continue
                stop = known[0]
                while stop in there and stop < end:
                    stop += 1
                assert run == (known[0] * G, stop * G)
    assert len(granules) == len(there)


def test_overlapping_writes_do_not_lose_the_later_one() -> None:
    granules = GranuleMap(G)
    old = granules.begin_write(0, 2 * G)
    new = granules.begin_write(G, 2 * G)
    granules.end_write(old, good=True)
    assert granules.next_extent(0, 2 * G) == (0, G)
    granules.end_write(new, good=True)
    assert granules.next_extent(0, 2 * G) == (0, 2 * G)
