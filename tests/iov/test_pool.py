"""Leases are aligned, reused, counted, and given back once."""

import pytest

from iov.address import address_of
from iov.bvec import PAGE_SIZE
from iov.debug import set_debug
from iov.pool import MAX_KEPT_LARGE, BufferPool
from iov.probe import Probe


def test_slots_are_aligned_have_a_tail_and_are_reused() -> None:
    probe = Probe()
    pool = BufferPool(probe, 8192, 2)
    leases = [pool.get(length) for length in (1, 5000, 8192)]
    for lease in leases:
        assert address_of(lease.view) % PAGE_SIZE == 0
        assert len(lease.view_with_tail(PAGE_SIZE)) == len(lease.view) + PAGE_SIZE
        with pytest.raises(ValueError):
            lease.view_with_tail(PAGE_SIZE + 1)
    assert (pool.leased, probe.bounce_allocations, probe.bounce_bytes) == (3, 3, 3 * 8192)
    leases[0].view[:] = b"x"
    for lease in reversed(leases):
        lease.release()
    again = [pool.get(10) for _ in range(3)]  # two slots were kept, one was not
    assert probe.bounce_allocations == 4
    for lease in again:
        lease.release()
    pool.close()


def test_large_leases_are_kept_up_to_a_bound() -> None:
    probe = Probe()
    pool = BufferPool(probe, PAGE_SIZE, 2)
    for _ in range(3):
        leases = [pool.get(100_000) for _ in range(MAX_KEPT_LARGE + 1)]
        assert len(leases[0].view) == 100_000
        for lease in leases:
            lease.release()
    assert probe.bounce_allocations == MAX_KEPT_LARGE + 3
    pool.close()


def test_misuse() -> None:
    pool = BufferPool(Probe(), PAGE_SIZE, 2)
    lease = pool.get(0)
    with pytest.raises(AssertionError, match="1 leases"):
        pool.close()
    lease.release()
    for attempt in (lease.release, lambda: lease.view_with_tail(1), lambda: pool.get(-1), lambda: BufferPool(Probe(), 0, 1)):
        with pytest.raises(ValueError):
            attempt()
    pool.close()
    with pytest.raises(ValueError):
        pool.get(1)


def test_debug_mode_kills_what_was_given_back() -> None:
    pool = BufferPool(Probe(), PAGE_SIZE, 2)
    before = set_debug(True)
    try:
        lease = pool.get(100)
        view, piece = lease.view, lease.view[:4]
        lease.release()
    finally:
        set_debug(before)
    with pytest.raises(ValueError):
        view[0]
    assert bytes(piece) == b"\xdb" * 4
