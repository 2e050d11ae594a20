"""The search for plaintext finds what is there, also across seams, and nothing in what was encrypted."""

import os
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trials.plaintext import WINDOW, Search, pick_windows


@given(st.binary(min_size=600, max_size=2000), st.lists(st.integers(0, 2000), max_size=6))
def test_found_however_it_is_cut(content: bytes, cuts: list[int]) -> None:
    windows = [content[i : i + WINDOW] for i in range(0, len(content) - WINDOW, 97)]
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    search = Search(windows)
    search.stream([b"before"])
    search.stream(memoryview(content)[a:b] for a, b in pairwise(places))
    assert search.found == len(windows)
    assert search.searched == len(b"before") + len(content)


def test_not_found_in_other_bytes_nor_across_streams() -> None:
    content = os.urandom(10_000)
    windows = pick_windows(memoryview(content))
    assert len(windows) == 8
    search = Search(windows)
    search.stream([os.urandom(100_000)])
    for window in windows:
        search.stream([window[:32]])
        search.stream([window[32:]])
    assert search.found == 0


def test_windows_say_something() -> None:
    assert pick_windows(memoryview(b"")) == []
    assert pick_windows(memoryview(bytes(1 << 20))) == []
    content = bytes(100_000) + os.urandom(WINDOW * 40) + bytes(100_000)
    windows = pick_windows(memoryview(content))
    assert windows
    assert all(window in content and len(frozenset(window)) >= 16 for window in windows)
