"""Trio shell. Calls of clients that are disturbed on purpose, beside the scenario: cancelled, raced, with memory that changes.

Each works on a file of its own in the root, and checks by itself what must be true afterwards: a cancelled write leaves old or
new bytes, the buffer of a cancelled read is not touched afterwards. An OSError is of another fault. Memory: its own.
"""

import errno
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final

import trio

from crypto.keys import VolumeKey
from iov.iov_iter import IovIter
from netfs.fs.client import Client, open_client
from transport.base import ClientCall, Done, Reply, Transport
from transport.errors import TransportError
from transport.messages import Request
from trials.faults.injector import Armed, Injector

__all__ = ["Disturber"]

OLD: Final = b"o"
NEW: Final = b"n"
SIZE: Final = 40_000
FREE: Final = b"\xa5"


class Disturber:
    """Does a trial's faults of the site `client`. wrong: takes what must not be.

    another: opens one more client. kill: breaks its connections for ever.
    """

    def __init__(
        self, clients: Sequence[Client], injector: Injector, wrong: Callable[[str, str], None],
        another: Callable[[str], AbstractAsyncContextManager[Client]], kill: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._clients = clients
        self._injector = injector
        self._wrong = wrong
        self._another = another
        self._kill = kill
        self._serial = 0
        self._running: trio.CancelScope | None = None
        self._over = trio.Event()

    @property
    def busy(self) -> bool:
        """Something has begun, and is not over."""
        return self._running is not None and not self._over.is_set()

    def start(self, nursery: trio.Nursery) -> None:
        """Begin what happens at moments."""
        timed = list(self._injector.timed_of("client"))
        if timed:
            self._running = trio.CancelScope()
            nursery.start_soon(self._all, timed, self._running)

    async def end(self) -> None:
        """Break off what is still under way: the clients are about to leave."""
        if self._running is not None:
            self._running.cancel()
            await self._over.wait()

    async def _all(self, timed: list[Armed], scope: trio.CancelScope) -> None:
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    for one in timed:
                        nursery.start_soon(self._happen, one)
        finally:
            self._over.set()

    async def _happen(self, one: Armed) -> None:
        await self._injector.moment(one)
        if not self._injector.active:
            return
        self._serial += 1
        name = one.fault.target
        client = next((found for index, found in enumerate(self._clients) if f"client{index}" == name), self._clients[0])
        acts: dict[str, Callable[[Armed, Client, str], Awaitable[None]]] = {
            "P4": self._redirty, "P5": self._truncated_under, "P7": self._changing, "P8": self._cancelled, "P9": self._dies,
            "N11": self._shrinks, "N13": self._edges, "N14": self._cancelled, "K4": self._wrong_key,
        }  # fmt: skip
        try:
            await acts[one.fault.id](one, client, f"/disturbed-{self._serial}")
        except* (OSError, TransportError):
            pass  # of another fault of the plan, also while one more client connects; perhaps of two calls at once

    async def _prepared(self, client: Client, path: str) -> None:
        async with await client.open(path, "w") as file:
            await file.write(OLD * SIZE)

    async def _cancelled(self, one: Armed, client: Client, path: str) -> None:
        """Cancel a write, then a read, after some steps."""
        await self._prepared(client, path)
        steps = int(one.fault.arg("steps", 5))
        async with await client.open(path, "r+", direct=bool(one.fault.arg("direct", 0))) as file:
            with trio.CancelScope() as scope:
                await _cancelling(scope, steps, file.write(NEW * (SIZE // 2), 100))
            self._injector.fired(one, f"write {'cancelled' if scope.cancelled_caught else 'done'}")
            buffer = bytearray(FREE * SIZE)
            with trio.CancelScope() as scope:
                await _cancelling(scope, steps, file.preadv([buffer], 0))
            if scope.cancelled_caught:
                before = bytes(buffer)
                await trio.sleep(0.05)
                if buffer != before:
                    self._wrong("U5 memory touched after a cancelled read", path)
        async with await client.open(path) as file:
            found = await file.read()
        if set(found) - set(OLD + NEW) or len(found) != SIZE:
            self._wrong("U1 cancelled write left other bytes", f"{path}: {len(found)} bytes")

    async def _dies(self, one: Armed, client: Client, path: str) -> None:
        """Let one more client write, and be gone in the middle of it."""
        await self._prepared(client, path)
        name = f"mortal{path.rpartition('-')[2]}"
        async with self._another(name) as mortal:
            with trio.CancelScope() as life:
                file = await mortal.open(path, "r+")
                await file.write(NEW * (SIZE // 2), 100)
                await _cancelling(life, int(one.fault.arg("steps", 5)), file.fsync())
            self._injector.fired(one)
            self._kill(name)
            with trio.CancelScope() as scope:
                scope.cancel()
                await mortal.aclose()
        async with await client.open(path, "r+") as file:
            found = await file.read()
            if set(found) - set(OLD + NEW) or len(found) != SIZE:
                self._wrong("U1 a client that died left other bytes", f"{path}: {len(found)} bytes")
            await file.write(OLD * SIZE, 0)

    async def _changing(self, one: Armed, client: Client, path: str) -> None:
        """Change the memory of a direct write while it is under way."""
        await self._prepared(client, path)
        memory = bytearray(NEW * SIZE)
        async with await client.open(path, "r+", direct=True) as file, trio.open_nursery() as nursery:
            nursery.start_soon(file.pwritev, [memory], 0)
            for _ in range(int(one.fault.arg("steps", 5))):
                await trio.lowlevel.checkpoint()
            memory[:] = OLD * SIZE
            self._injector.fired(one)
        async with await client.open(path, direct=True) as file:
            if set(await file.read()) - set(OLD + NEW):
                self._wrong("U1 memory that changed gave other bytes", path)

    async def _redirty(self, one: Armed, client: Client, path: str) -> None:
        """Write again while the first bytes are on their way."""
        await self._prepared(client, path)
        async with await client.open(path, "r+") as file:
            await file.write(NEW * SIZE, 0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.fsync)
                await trio.lowlevel.checkpoint()
                await file.write(OLD * 100, 50)
                self._injector.fired(one)
        async with await client.open(path, direct=True) as file:
            if await file.read() != NEW * 50 + OLD * 100 + NEW * (SIZE - 150):
                self._wrong("U1 the newest bytes did not win", path)

    async def _truncated_under(self, one: Armed, client: Client, path: str) -> None:
        """Cut a file while it is read ahead and written back, and extend it again."""
        await self._prepared(client, path)
        async with await client.open(path, "r+") as file, trio.open_nursery() as nursery:
            await file.write(NEW * 100, SIZE - 200)
            nursery.start_soon(file.read, SIZE, 0)
            await trio.lowlevel.checkpoint()
            await file.truncate(1000)
            await file.truncate(SIZE)
            self._injector.fired(one)
        async with await client.open(path) as file:
            if await file.read() != OLD * 1000 + bytes(SIZE - 1000):
                self._wrong("U1 bytes behind a cut came back", path)

    async def _shrinks(self, one: Armed, client: Client, path: str) -> None:
        """Cut a file by another client while this one reads it."""
        await self._prepared(client, path)
        other = self._clients[-1]

        async def cut() -> None:
            async with await other.open(path, "r+") as theirs:
                await theirs.truncate(1000)

        async with await client.open(path, direct=True) as file, trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            buffer = bytearray(FREE * SIZE)
            count = await file.preadv([buffer], 0)
            self._injector.fired(one, f"{count} bytes")
            if set(buffer[:count]) - {OLD[0], 0}:
                self._wrong("U1 a file that shrinks gave other bytes", path)

    async def _edges(self, one: Armed, client: Client, path: str) -> None:
        """Read and write nothing, behind the end, across odd places, and where no file can be."""
        await self._prepared(client, path)
        async with await client.open(path, "r+", direct=bool(one.fault.arg("direct", 0))) as file:
            self._injector.fired(one)
            said = [await file.read(0, 5), await file.read(7, 1 << 40), await file.read(5, SIZE - 3), await file.read(3, 4095)]
            if said != [b"", b"", OLD * 3, OLD * 3] or await file.write(b"", 1 << 40) != 0:
                self._wrong("U1 the edges of a file", f"{path}: {said}")
            try:
                await file.write(b"x", (1 << 63) - 1)
                self._wrong("U1 a write where no file can be", path)
            except OSError as error:
                if error.errno not in {errno.EFBIG, errno.EINVAL}:
                    raise

    async def _wrong_key(self, one: Armed, client: Client, path: str) -> None:
        """Look at the volume with another key."""
        await self._prepared(client, path)
        key = VolumeKey(one.rng.randbytes(32))
        self._injector.fired(one)
        with suppress(OSError):
            async with open_client(_Lent(client.transport), keys=key, env=client.env, freshness="session") as stranger:
                file = await stranger.open(path)
                self._wrong("U4 another key opens a file", f"{path}: {len(await file.read())} bytes")


class _Lent(Transport):
    """A transport that stays open when its client closes."""

    def __init__(self, transport: Transport) -> None:
        self.limits = transport.limits
        self._transport = transport

    def submit(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> ClientCall:
        """See `Transport`."""
        return self._transport.submit(request, done, source, dest)

    async def call(self, request: Request, source: IovIter | None = None, dest: IovIter | None = None) -> Reply:
        """See `Transport`."""
        return await self._transport.call(request, source, dest)

    async def aclose(self) -> None:
        """Leave it open."""
        await trio.lowlevel.checkpoint()


async def _cancelling(scope: trio.CancelScope, steps: int, call: Awaitable[object]) -> None:
    """Wait for a call, and cancel it after some steps of the scheduler."""

    async def count() -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await call
        nursery.cancel_scope.cancel()
