"""Trio shell. `netfs speed`: how fast this machine encrypts, and how fast a folder of a server is from here.

What is measured is what a user gets, from bytes to bytes; `netfs bench` compares it with what the machine could do. What is
written for it lies in a folder of its own and is removed at the end. Owns one buffer for each piece under way.
"""

import mmap
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Final

import trio
from cyclopts import Parameter, validators

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place
from netfs.cli.host import Exit, Host, Progress, failing
from netfs.cli.place import Place

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["register"]

PIECE: Final = 4 << 20
FOR_S: Final = 0.1
SMALL: Final = 1024
RANDOM: Final = 4096
REMOVE_TIMEOUT_S: Final = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured."""

    name: str
    value: float
    unit: str


def register(host: Host) -> None:
    """Add the command."""

    async def speed(
        url: str | None = None,
        /,
        *,
        size: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=1 << 20))] = 64,
        files: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=100_000))] = 100,
        jobs: Annotated[int, Parameter(alias="-j", validator=validators.Number(gte=1, lte=64))] = 8,
        access: Access = ANYBODY,
    ) -> None:
        """Measure how fast a folder of a server is from here; without one, how fast this machine encrypts.

        Args:
            url: a folder where something may be written; all of it is removed at the end. With --key-file or --passphrase of an
                encrypted volume, what is measured includes its encryption.
            size: how many MB to write and read.
            files: how many small files to make, look at and remove.
            jobs: how many pieces travel at a time.
        """
        from transport.env import system_env  # noqa: PLC0415 - the help needs no event loop

        if url is None:
            figures = await trio.to_thread.run_sync(ciphers, system_env().nonces)
            host.emit({"figures": [asdict(each) for each in figures]}, table(figures))
            return
        place = remote_place(url)
        async with connected(place, access, changes=[place]) as client:
            folder = place.child(f".netfs-speed-{client.env.nonces(8).hex()}")
            with failing(Exit.REMOTE, str(place)):
                await client.mkdir(folder.path)
                try:
                    with host.progress(2 * size * 1_000_000, "measuring") as progress:
                        figures = await measured(client, folder, size * 1_000_000, files, jobs, progress)
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVE_TIMEOUT_S):
                        await client.rmtree(folder.path)
        host.emit({"url": str(place), "figures": [asdict(each) for each in figures]}, table(figures))

    host.command(
        speed,
        name="speed",
        examples=[
            "netfs speed",
            "netfs speed netfs://127.0.0.1:7777/",
            "netfs speed --key-file my.key --size 256 netfs://127.0.0.1:7777/vault",
        ],
    )


def table(figures: list[Figure]) -> str:
    """Return the figures as lines."""
    width = max(len(each.name) for each in figures)
    return "\n".join(f"{each.name:<{width}} {each.value:>10,.{0 if each.value >= 100 else 2}f} {each.unit}" for each in figures)


def ciphers(nonces: Callable[[int], bytes]) -> list[Figure]:
    """Measure each content suite over blocks of the two usual sizes, in this thread."""
    from crypto.aead import KEY_SIZE, NONCE_SIZE, SUITES, TAG_SIZE  # noqa: PLC0415 - cryptography takes a while to load
    from transport.env import monotonic  # noqa: PLC0415

    figures = []
    for suite, make in SUITES.items():
        cipher = make(nonces(KEY_SIZE))
        for kib in (16, 64):
            plain, sealed = bytearray(kib << 10), bytearray((kib << 10) + TAG_SIZE)
            for verb, call in (
                ("encrypt", lambda c=cipher, p=plain, s=sealed: c.encrypt_into(bytes(NONCE_SIZE), p, None, s)),
                ("decrypt", lambda c=cipher, p=plain, s=sealed: c.decrypt_into(bytes(NONCE_SIZE), s, None, p)),
            ):
                rate = (kib << 10) * _times_per_second(call, monotonic) / 1e6
                figures.append(Figure(f"{suite.name} {verb} {kib} KiB", round(rate, 1), "MB/s"))
    return figures


def _times_per_second(call: Callable[[], object], now: Callable[[], float]) -> float:
    call()
    done, began = 0, now()
    while (spent := now() - began) < FOR_S:
        for _ in range(16):
            call()
        done += 16
    return done / spent


async def measured(client: "Client", folder: Place, size: int, files: int, jobs: int, progress: Progress) -> list[Figure]:
    """Measure in an empty folder of a server."""
    big = folder.child("big").path
    content = memoryview(mmap.mmap(-1, PIECE))
    content[:] = client.env.nonces(PIECE)
    found = []

    async def spread(work: Callable[[int, int], Awaitable[None]], title: str) -> None:
        began = trio.current_time()
        limit = trio.CapacityLimiter(jobs)

        async def one(pos: int) -> None:
            async with limit:
                length = min(PIECE, size - pos)
                await work(pos, length)
                progress.advance(length)

        async with trio.open_nursery() as nursery:
            for pos in range(0, size, PIECE):
                nursery.start_soon(one, pos)
        found.append(Figure(title, round(size / (trio.current_time() - began) / 1e6, 1), "MB/s"))

    async with await client.open(big, "x+", direct=True) as file:

        async def write(pos: int, length: int) -> None:
            await file.pwritev([content[:length]], pos)

        await spread(write, f"write {size // 1_000_000} MB")
        await file.fsync()
    async with await client.open(big, "r", direct=True) as file:

        async def read(pos: int, length: int) -> None:
            await file.preadv([memoryview(mmap.mmap(-1, PIECE))[:length]], pos)

        await spread(read, f"read {size // 1_000_000} MB")
        piece, count = memoryview(bytearray(RANDOM)), 200
        places = [client.env.rng.randrange(max(1, size - RANDOM)) for _ in range(count)]

        async def at_random(number: int) -> None:
            await file.preadv([piece], places[number])

        found.append(await timed("4 KiB random read", count, at_random))

    async def make(number: int) -> None:
        async with await client.open(folder.child(f"f{number}").path, "x") as small:
            await small.write(content[:SMALL])

    async def look(number: int) -> None:
        await client.stat(folder.child(f"f{number}").path)

    async def remove(number: int) -> None:
        await client.unlink(folder.child(f"f{number}").path)

    for title, work in (("make a file of 1 KiB", make), ("stat", look), ("remove a file", remove)):
        found.append(await timed(title, files, work))
    return found


async def timed(title: str, count: int, work: Callable[[int], Awaitable[None]]) -> Figure:
    """Do something again and again, one after the other."""
    began = trio.current_time()
    for number in range(count):
        await work(number)
    return Figure(title, round((trio.current_time() - began) / count * 1e3, 3), "ms each")
