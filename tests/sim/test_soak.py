"""Long runs of the whole system in the simulator: `make soak`."""

import os
from functools import partial

import pytest

from trials import sim
from trials.pairs import TransportName, pair
from trials.workloads import Mixed, mixed

SEEDS = int(os.environ.get("SOAK_SEEDS", "1000"))
PART = 100


async def scenario(world: sim.SimWorld, transport: TransportName, encrypt: bool) -> Mixed:
    """One client at work on several files at once, with a small page cache, so that folios come and go."""
    async with pair(transport, encrypt=encrypt, cache_bytes=1 << 20, world=world) as p:
        return await mixed(p.client, world.streams.rng("workload"), operations=40)


@pytest.mark.soak
@pytest.mark.parametrize("encrypt", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("transport", ["stream", "rdma-memory"])
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_mixed_work(first: int, transport: TransportName, encrypt: bool) -> None:
    for seed in range(first, first + PART):
        try:
            outcome = sim.run(seed, partial(scenario, transport=transport, encrypt=encrypt))
            if seed % 50 == 0:
                assert sim.run(seed, partial(scenario, transport=transport, encrypt=encrypt)).trace == outcome.trace
        except Exception as error:
            error.add_note(f"seed {seed}, {transport}, encrypt={encrypt}")
            raise
