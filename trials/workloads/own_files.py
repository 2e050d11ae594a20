"""Trio shell. Scenario `own-files`: each client works on a file of its own, so that plain bytes are an exact oracle.

Once an operation has failed, what the file holds is not known until it is written over whole. Owns no memory.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from netfs.fs.client import Client
from netfs.fs.file import File
from trials.workloads.base import Operation, Recorder

if TYPE_CHECKING:
    from trials.case import Case, Failure

__all__ = ["FileOperation", "OwnFiles"]

SIZES: Final = (1, 100, 4096, 5000, 16384)
MAX_FILE: Final = 96 << 10
KINDS: Final = ("write", "write", "write", "read", "read", "read", "fsync", "truncate", "reset")


@dataclass(frozen=True, slots=True)
class FileOperation:
    """One call. seed: of the bytes that are written."""

    client: int
    kind: str
    direct: bool
    pos: int
    length: int
    seed: int


class OwnFiles:
    """See the module."""

    def __init__(self) -> None:
        self._models: dict[int, bytearray | None] = {}
        self._wrong: list[str] = []

    def plan(self, rng: random.Random, case: "Case") -> Sequence[FileOperation]:
        """See `Workload`."""
        return [
            FileOperation(
                client,
                rng.choice(KINDS),
                rng.random() < 0.4,
                rng.randrange(MAX_FILE // 2),
                rng.choice(SIZES),
                rng.getrandbits(32),
            )
            for _ in range(case.operations)
            for client in range(case.clients)
        ]

    async def prepare(self, clients: Sequence[Client], recorder: Recorder) -> None:
        """See `Workload`."""
        for index, client in enumerate(clients):
            async with await client.open(f"/own-{index}", "w"):
                self._models[index] = bytearray()
        recorder.rows.append("prepared")

    async def run(self, clients: Sequence[Client], operations: Sequence[Operation], recorder: Recorder) -> None:
        """See `Workload`."""
        async with trio.open_nursery() as nursery:
            for index, client in enumerate(clients):
                mine = [one for one in operations if isinstance(one, FileOperation) and one.client == index]
                nursery.start_soon(partial(self._work, client, index, mine, recorder))

    async def _work(self, client: Client, index: int, operations: list[FileOperation], recorder: Recorder) -> None:
        files: dict[bool, File] = {}
        for one in operations:
            try:
                if one.direct not in files:
                    files[one.direct] = await client.open(f"/own-{index}", "r+", direct=one.direct)
                await self._do(files[one.direct], index, one)
            except OSError as error:
                self._models[index] = None
                recorder.rows.append((recorder.now(), one, str(error)))
            else:
                recorder.rows.append((recorder.now(), one, "done"))
        for file in files.values():
            try:
                await file.aclose()
            except OSError:
                self._models[index] = None

    async def _do(self, file: File, index: int, one: FileOperation) -> None:
        model = self._models[index]
        match one.kind:
            case "write":
                data = random.Random(one.seed).randbytes(one.length)
                await file.write(data, one.pos)
                if model is not None:
                    model.extend(bytes(max(0, one.pos - len(model))))
                    model[one.pos : one.pos + one.length] = data
            case "read":
                got = await file.read(one.length, one.pos)
                if model is not None and got != model[one.pos : one.pos + one.length]:
                    self._wrong.append(f"client {index}: wrong bytes at {one.pos}, {one.length} long")
            case "fsync":
                await file.fsync()
            case "truncate":
                await file.truncate(one.pos)
                if model is not None:
                    model[one.pos :] = bytes(max(0, one.pos - len(model)))
            case _:
                await file.truncate(0)
                self._models[index] = bytearray()

    async def verify(self, clients: Sequence[Client], recorder: Recorder) -> None:
        """See `Workload`."""
        for index in range(len(clients)):
            model = self._models[index]
            async with await clients[-1 - index].open(f"/own-{index}") as file:
                got = await file.read(MAX_FILE, 0)
            if model is not None and got != model:
                self._wrong.append(f"/own-{index} holds other bytes than were written")
        recorder.rows.append("verified")

    def check(self, recorder: Recorder) -> "Failure | None":
        """See `Workload`."""
        from trials.case import Failure  # noqa: PLC0415 - it knows the scenarios

        del recorder
        return Failure("U1 wrong bytes", self._wrong[0]) if self._wrong else None
