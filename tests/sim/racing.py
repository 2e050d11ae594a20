"""Writers that race in the blocks of one encrypted file, each with bytes of its own, in the simulator.

    python -m tests.sim.racing 0 2000        seeds; a failing one is named with what went wrong

Nobody but the owner of a byte writes it, so whatever the order, the owner must find what it wrote last, everybody must find what
the owner wrote once, and nobody may be told that a block is damaged. Behind the owned bytes lies a tail that all of them write,
cut and extend. Everything about a run follows from its seed.
"""

import random
import sys
from dataclasses import dataclass, field

import trio

from crypto.keys import VolumeKey
from netfs.fs.client import Client
from netfs.fs.file import File
from tests.ledger import world as ledger_of
from trials import sim
from trials.pairs import TransportName, pair

__all__ = ["Race", "play", "run"]

PATH = "/shared"
BLOCK = 4096
TRANSPORTS: tuple[TransportName, ...] = ("stream", "rdma-memory")
HOW = ("r+", "r+ direct")
# operation: how often it is drawn
OPS = {"write": 40, "read": 25, "tail": 6, "truncate": 5, "copy": 5, "fsync": 8, "sleep": 8, "reopen": 5}


@dataclass
class Race:
    """One race. width: bytes in a row with one owner. owned: bytes that have one. past: for each byte all it ever was."""

    seed: int
    rng: random.Random = field(init=False)
    data: bytearray = field(init=False)
    past: list[set[int]] = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(f"race {self.seed}")
        self.transport = TRANSPORTS[self.seed % 2]
        self.leases = rng.random() < 0.25
        self.writers = rng.choice((2, 2, 3))
        self.width = rng.choice((1, 1, 5, 100, 1000, BLOCK, BLOCK + 1))
        self.owned = rng.choice((10, 300, 1000, BLOCK, 2 * BLOCK + 7, 5 * BLOCK, 5 * BLOCK))
        self.owned = max(self.owned, self.width * self.writers)
        self.size = rng.choice((BLOCK, 2 * BLOCK, 1 << 16))
        self.steps = rng.choice((4, 12, 30))
        self.data = bytearray(rng.randbytes(self.owned) if rng.random() < 0.8 else self.owned)
        self.past = [{value} for value in self.data]

    def own_run(self, writer: int) -> tuple[int, int]:
        """Choose bytes in a row that a writer owns."""
        stripes = range(writer, -(-self.owned // self.width), self.writers)
        first = self.rng.choice(stripes) * self.width
        width = min(self.width, self.owned - first)
        skip = self.rng.choice((0, self.rng.randrange(width)))
        return first + skip, self.rng.choice((width - skip, self.rng.randint(1, width - skip)))

    def check(self, writer: int | None, got: bytes, pos: int) -> None:
        """Compare what was read: a writer's own bytes with what it wrote last (None: all of them), the others with their past."""
        assert len(got) >= min(pos + len(got), self.owned) - pos, f"{len(got)} bytes at {pos}"
        for at, value in enumerate(got[: max(0, self.owned - pos)], pos):
            if writer is None or at // self.width % self.writers == writer:
                assert value == self.data[at], f"byte {at} is {value:#x}, not {self.data[at]:#x}"
            else:
                assert value in self.past[at], f"byte {at} is {value:#x}, which its owner never wrote"


async def writer(race: Race, number: int, client: Client) -> None:
    """Do the operations of one writer."""
    rng = race.rng
    files: list[File] = [await client.open(PATH, how.split()[0], direct="direct" in how) for how in HOW]
    for _ in range(race.steps):
        which = rng.randrange(2)
        file = files[which]
        match rng.choices(list(OPS), list(OPS.values()))[0]:
            case "write" | "copy" as kind:
                pos, length = race.own_run(number)
                data = rng.randbytes(length)
                if kind == "copy":
                    source, _ = race.own_run(number)
                    data = bytes(race.data[source : min(source + length, (source // race.width + 1) * race.width, race.owned)])
                    length = len(data)
                for at, value in enumerate(data, pos):
                    race.past[at].add(value)
                if kind == "write" or abs(source - pos) < length:
                    assert await file.pwritev([data], pos) == length
                else:
                    assert await file.copy_from(files[1 - which], source, pos, length) == length
                race.data[pos : pos + length] = data
            case "read":
                pos = rng.choice((0, rng.randrange(race.owned)))
                length = rng.choice((race.owned - pos, rng.randint(1, race.owned - pos)))
                race.check(number, await file.read(length, pos), pos)
            case "tail":
                await file.pwritev([rng.randbytes(rng.randint(1, 2 * BLOCK))], race.owned + rng.randrange(2 * BLOCK))
            case "truncate":
                await file.truncate(race.owned + rng.choice((0, 1, rng.randrange(3 * BLOCK))))
            case "fsync":
                await file.fsync()
            case "sleep":
                await trio.sleep(rng.choice((0.001, 0.02, 0.3)))
            case _:
                await file.aclose()
                mode, _, direct = HOW[which].partition(" ")
                files[which] = await client.open(PATH, mode, direct=bool(direct))
    for file in files:
        await file.aclose()


async def play(race: Race, world: sim.SimWorld) -> None:
    """Let the writers race, and look at what is left."""
    keys = VolumeKey(b"k" * 32)
    async with pair(
        race.transport, keys=keys, clients=race.writers, world=world, block_size=BLOCK, rsize=race.size, wsize=race.size,
        cache_bytes=1 << 18, processes=1,
    ) as p:  # fmt: skip
        for client in p.clients:
            client._leasing = race.leases
        await p.client.write_bytes(PATH, bytes(race.data))
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(p.clients):
                nursery.start_soon(writer, race, number, client)
        for client in p.clients:
            for direct in (False, True):
                async with await client.open(PATH, direct=direct) as file:
                    race.check(None, await file.read(), 0)


def run(seed: int, *, keep: bool = False) -> sim.Outcome[None]:
    """Run one race."""
    race = Race(seed)

    async def main(world: sim.SimWorld) -> None:
        await play(race, world)

    with ledger_of(f"race {seed}"):
        return sim.run(seed, main, keep=keep)


def main() -> int:
    first, end = int(sys.argv[1]), int(sys.argv[2])
    bad = 0
    for seed in range(first, end):
        try:
            run(seed)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            bad += 1
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            race = Race(seed)
            sys.stdout.write(
                f"{seed}: {race.transport} leases={race.leases:d} writers={race.writers} width={race.width} owned={race.owned}"
                f" steps={race.steps}: {type(error).__name__}: {error}\n"
            )
    sys.stdout.write(f"{end - first} races, {bad} failed\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
