"""The scenario whose trace must be the same everywhere; run as a program it prints its trace hashes."""

import sys
from functools import partial

from tests.ledger import world as ledger_of
from trials import sim
from trials.pairs import TransportName, pair
from trials.workloads import Mixed, mixed

SIMULATED: tuple[TransportName, ...] = ("stream", "rdma-memory")


async def scenario(world: sim.SimWorld, transport: TransportName) -> Mixed:
    """Read and write encrypted files in all ways at once."""
    async with pair(transport, encrypt=True, world=world) as p:
        return await mixed(p.client, world.streams.rng("workload"))


def run(seed: int, transport: TransportName) -> sim.Outcome[Mixed]:
    """Run the scenario once."""
    with ledger_of(f"{seed} {transport}"):
        return sim.run(seed, partial(scenario, transport=transport))


if __name__ == "__main__":
    sys.stdout.write(" ".join(run(int(sys.argv[1]), transport).trace for transport in SIMULATED))
