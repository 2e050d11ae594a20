"""Random operations on a file, over every kind of world, against an oracle.

A failure names a file of operations: `python -m tests.netfs.fsx FILE` replays it, `--shrink` finds the few that matter.
"""

import itertools
import logging
import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio

from iov.copy_iter import copy_to_iter
from servers.stores.memory import MemoryStore
from tests.netfs.fsx.__main__ import shrunk
from tests.netfs.fsx.model import Difference, run_ops, run_random, write_log
from tests.netfs.fsx.ops import KINDS, Op, draw, parse
from tests.netfs.fsx.worlds import CACHES, Setting
from transport.base import Landing
from transport.messages import Handle

QUICK_OPS = 100
SLOW_OPS = 1600
SOAK_OPS = int(os.environ.get("SOAK_OPS", "10000"))
SOAK_SEEDS = int(os.environ.get("SOAK_SEEDS", "1"))

# rsize, wsize, segments, page cache, file, I/O; sizes are in blocks where the file has them, and have to be even then.
SIZES = {
    "one-block": {"rsize": 4096, "wsize": 4096, "budget": 1 << 16},
    "uneven": {"rsize": 1 << 16, "wsize": 8192, "segs": 2, "budget": 1 << 18, "most": 400_000, "longest": 90_000},
    "one-segment": {"rsize": 8192, "wsize": 1 << 16, "segs": 1, "budget": 1 << 20, "most": 60_000},
    "large": {"rsize": 1 << 20, "wsize": 1 << 20, "budget": 1 << 19, "most": 600_000, "longest": 128_000},
}


def worlds() -> Iterator[tuple[str, Setting]]:
    """Yield every world with a name."""
    for size, transport, encrypted, cache in itertools.product(SIZES, ("stream", "rdma-memory"), (False, True), CACHES):
        content = "encrypted" if encrypted else "plain"
        setting = Setting.parse(f"transport={transport} encrypted={encrypted:d} cache={cache}")
        yield f"{size}-{transport}-{content}-{cache}", replace(setting, **SIZES[size])  # type: ignore[arg-type]


WORLDS = dict(worlds())
LEASED = {
    f"{transport}-{'encrypted' if encrypted else 'plain'}-{cache}": Setting.parse(
        f"transport={transport} encrypted={encrypted:d} cache={cache} leases=1 rsize=16384 wsize=8192 budget=262144"
    )
    for transport, encrypted, cache in itertools.product(("stream", "rdma-memory"), (False, True), ("off", "active"))
}
"""Worlds in which the server gives leases, and asks them back when the other client comes."""


def go(setting: Setting, seed: int, count: int) -> None:
    logging.getLogger("netfs.fscache").setLevel(logging.ERROR)  # a directory that cannot be used is one of the worlds
    try:
        trio.run(run_random, setting, seed, count)
    except Difference as difference:
        path = write_log(difference, seed)
        difference.add_note(f"seed {seed}, {setting}\nreplay: python -m tests.netfs.fsx {path}")
        raise


@pytest.mark.parametrize("name", list(WORLDS)[::5])
def test_a_few_operations(name: str) -> None:
    go(WORLDS[name], 1, QUICK_OPS)


@pytest.mark.parametrize("name", list(LEASED)[::3])
def test_a_few_operations_under_leases(name: str) -> None:
    go(LEASED[name], 4, QUICK_OPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEASED)
def test_many_operations_under_leases(name: str) -> None:
    go(LEASED[name], 5, SLOW_OPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_many_operations(name: str) -> None:
    go(WORLDS[name], 2, SLOW_OPS)


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_many_operations_over_iwarp(encrypted: bool) -> None:
    for cache in ("off", "active"):
        go(Setting.parse(f"transport=rdma-stream encrypted={encrypted:d} cache={cache} rsize=8192 wsize=4096"), 3, SLOW_OPS)


def test_enough_operations_in_all() -> None:
    assert len(WORLDS) * SLOW_OPS >= 200_000


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 100 + SOAK_SEEDS))
@pytest.mark.parametrize("name", WORLDS)
def test_very_many_operations(name: str, seed: int) -> None:
    go(WORLDS[name], seed, SOAK_OPS)


# ---- the test itself


def test_operations_are_a_text_that_can_be_read_back() -> None:
    rng = random.Random(1)
    drawn = [draw(rng, 5000, 100_000, 9000, frozenset()) for _ in range(2000)]
    assert {op.kind for op in drawn} == set(KINDS)
    assert [parse(str(op)) for op in drawn] == drawn
    for wrong in ("", "jump 1", "read 1 2", "read 1 2 x"):
        with pytest.raises(ValueError, match=r"operation|invalid|not enough"):
            parse(wrong)


def test_settings_are_a_text_that_can_be_read_back() -> None:
    for setting in WORLDS.values():
        assert Setting.parse(str(setting)) == setting
    with pytest.raises(ValueError, match="colour"):
        Setting.parse("colour=blue")


class FaultyStore(MemoryStore):
    """A store that loses the first byte of what it is given, where that is long."""

    def write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int:
        count = super().write(handle, pos, landing, stable=stable, aux=aux)
        if count > 1000:
            hole = self.write_landing(handle, pos, 1, aux=aux)
            copy_to_iter(b"\0", hole.iter.copy())
            super().write(handle, pos, hole, stable=stable, aux=aux)
        return count


def test_a_difference_is_found_kept_and_shrunk() -> None:
    setting = Setting()
    with pytest.raises(Difference) as caught:
        trio.run(run_random, setting, 5, 200, FaultyStore)
    path = write_log(caught.value, 5)
    first, *lines = path.read_text().splitlines()
    path.unlink()
    ops = [parse(line) for line in lines]
    assert Setting.parse(first.removeprefix("#")) == setting and ops == caught.value.ops
    with pytest.raises(Difference) as again:
        trio.run(run_ops, setting, ops, FaultyStore)
    assert again.value.ops == ops
    few = shrunk(setting, ops, FaultyStore)
    assert len(few) <= 3 and any(op.kind in {"write", "append", "race", "copy"} for op in few), [str(op) for op in few]


def test_every_kind_of_operation_is_done() -> None:
    from tests.netfs.fsx.model import Model

    assert {kind for kind in KINDS if not hasattr(Model, f"do_{kind}")} == {"restart"}
    assert Op("fsync", (1,))["fd"] == 1
