"""The run whose trace docs/netfs-library.md shows; run as a program it prints the lines to put there."""

import sys

import trio

from iov.probe import Probe
from netfs.tracing.text import TextTrace
from trials import sim
from trials.pairs import pair

SEED = 42
PART = 1 << 16


class TextWorld(sim.SimWorld):
    """A simulated world whose probes write a text trace."""

    text: TextTrace

    def probe(self, node: str) -> Probe:
        return Probe(self.text.sink(node))


def excerpt() -> str:
    """Return what happens between the first and the last word of one direct read, in the simulator's time."""
    lines: list[str] = []

    async def scenario(world: sim.SimWorld) -> None:
        traced = TextWorld(world.seed, world.trace)
        traced.text = TextTrace(lambda line: lines.append(line.decode()), trio.current_time)
        async with pair("stream", world=traced, rsize=PART) as p:
            async with await p.client.open("/notes", "w", direct=True) as file:
                await file.write(b"n" * 150_000)
            async with await p.client.open("/notes", direct=True) as file:
                lines.clear()
                assert len(await file.read(200_000, 0)) == 150_000

    sim.run(SEED, scenario)
    lines = [line for line in lines if " netfs_collect" not in line]  # each result is there once already, as CONSM or DSCRD
    first = next(n for n, line in enumerate(lines) if "api_call:" in line)
    last = next(n for n, line in enumerate(lines) if "api_done:" in line)
    began = float(lines[first].split()[0])
    return "".join(f"{float(line[:13]) - began:10.6f}{line[13:]}" for line in lines[first : last + 1])


if __name__ == "__main__":
    sys.stdout.write(excerpt())
