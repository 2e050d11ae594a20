"""Trio shell. Reads and writes of all kinds on a few files at once, each checked against a model of plain bytes.

Several tasks share one client. Each has a file of its own, so that the model is exact, and works on it with a buffered and a
direct descriptor: overwrites, appends, truncations, reads, fsync, reopening. Sizes go from one byte to a megabyte.
"""

import random
from dataclasses import dataclass, field
from typing import Final

import trio

from netfs.fs.client import Client
from netfs.fs.file import File

__all__ = ["Mixed", "mixed"]

SIZES: Final = (1, 100, 4096, 16384, 16385, 70_000, 262_144, 1 << 20)
MAX_FILE: Final = 3 << 20


@dataclass(slots=True)
class Mixed:
    """What was done. model: the content each file must have."""

    operations: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    model: dict[str, bytearray] = field(default_factory=dict)


async def mixed(client: Client, rng: random.Random, *, files: int = 3, operations: int = 30) -> Mixed:
    """Do `operations` on each of `files` files at once, then read everything back through fresh descriptors.

    Raises: AssertionError when a read does not give what was written. Cancellation: files are left as they are.
    """
    done = Mixed()
    async with trio.open_nursery() as nursery:
        for index in range(files):
            path = f"/mixed-{index}"
            done.model[path] = bytearray()
            nursery.start_soon(_work, client, path, random.Random(rng.getrandbits(64)), operations, done)
    for path, model in done.model.items():
        for direct in (False, True):
            async with await client.open(path, direct=direct) as file:
                await _check(file, model, 0, len(model) + 1, done)
    return done


async def _work(client: Client, path: str, rng: random.Random, operations: int, done: Mixed) -> None:
    model = done.model[path]
    buffered, direct = await client.open(path, "w+"), await client.open(path, "r+", direct=True)
    try:
        for _ in range(operations):
            file = rng.choice((buffered, direct))
            match rng.randrange(10):
                case 0 | 1 | 2 | 3:
                    await _write(file, model, rng, done)
                case 4 | 5 | 6 | 7:
                    pos = rng.randrange(len(model) + 1)
                    await _check(file, model, pos, rng.choice(SIZES), done)
                case 8:
                    size = rng.randrange(len(model) + 5000)
                    await file.truncate(size)
                    model[size:] = bytes(max(0, size - len(model)))
                case _:
                    await file.fsync()
            done.operations += 1
    finally:
        await buffered.aclose()
        await direct.aclose()


async def _write(file: File, model: bytearray, rng: random.Random, done: Mixed) -> None:
    length = rng.choice(SIZES)
    pos = rng.choice((rng.randrange(len(model) + 1), len(model), len(model) // 4096 * 4096))
    pos = min(pos, MAX_FILE - length)
    data = rng.randbytes(length)
    cut = rng.randrange(length + 1)
    count = await file.pwritev([memoryview(data)[:cut], memoryview(data)[cut:]], pos)
    assert count == length, f"{count} of {length} bytes written at {pos}"
    if pos > len(model):
        model.extend(bytes(pos - len(model)))
    model[pos : pos + length] = data
    done.bytes_written += length


async def _check(file: File, model: bytearray, pos: int, length: int, done: Mixed) -> None:
    buffer = bytearray(length)
    count = await file.preadv([buffer], pos)
    want = model[pos : pos + length]
    assert count == len(want), f"{file.path}: {count} bytes read at {pos}, {len(want)} are there"
    assert buffer[:count] == want, f"{file.path}: wrong bytes at {pos}, {count} long"
    done.bytes_read += count
