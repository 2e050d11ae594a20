"""A simulated run's capture, with the simulated clock: the same bytes for the same seed, and none of it disturbs the run."""

import pytest

from tests.rdma.captured import read_packets
from transport.rdma.capture import Capture
from trials import sim
from trials.pairs import TransportName, pair
from trials.workloads import mixed

CAPTURED: tuple[TransportName, ...] = ("stream", "rdma-memory", "rdma-stream")


def captured(seed: int, transport: TransportName, *, on: bool = True) -> tuple[bytes, str]:
    """Return what a run's capture holds, if it has one, and the run's trace."""
    data = bytearray()

    async def scenario(world: sim.SimWorld) -> None:
        capture = Capture(data.extend, world.env("server").wall_ns) if on else None
        async with pair(transport, world=world, capture=capture, processes=1) as p:
            await mixed(p.client, world.streams.rng("workload"))

    trace = sim.run(seed, scenario).trace
    return bytes(data), trace


@pytest.mark.slow
@pytest.mark.parametrize("transport", CAPTURED)
def test_one_seed_one_capture(transport: TransportName) -> None:
    first, again, other = (captured(seed, transport)[0] for seed in (5, 5, 6))
    assert first == again
    assert first != other
    times = [packet.time_ns for packet in read_packets(first)]
    assert times == sorted(times) and len(times) > 100


def test_capture_does_not_disturb_what_it_sees() -> None:
    """The requests of a memory fabric take the course they take without it."""
    assert captured(7, "rdma-memory")[1] == captured(7, "rdma-memory", on=False)[1]
