"""Hostile clients beside a good one, which must hardly notice."""

import pytest

from tests.servers.hostile import attacked, credit_bomb, fuzz, fuzz_for, idle_thousand, memory_bomb, slow_loris

FLOOR_S = 0.004
"""Below this a median is the machine's noise, whatever the ratio says."""
ATTACKS = {one.__name__: one for one in (fuzz, slow_loris, idle_thousand, credit_bomb, memory_bomb)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
async def test_a_good_client_hardly_notices(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    tries = []
    for seed in range(6):
        before, during = await attacked(ATTACKS[name], seed, warm_s=3.0 if name == "idle_thousand" else 0.5)
        tries.append((before, during))
        if during <= max(5 * before, FLOOR_S):
            return
    raise AssertionError(tries)


async def test_nonsense_for_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    assert await fuzz_for(0.7, seed=7) >= 8


@pytest.mark.soak
@pytest.mark.timeout(700)
async def test_nonsense_for_ten_minutes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    assert await fuzz_for(600, seed=11) > 1000
