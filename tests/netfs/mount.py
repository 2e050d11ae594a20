"""A client over a dispatcher in this task, whose server can refuse, be cut off, and restart forgetting what was not committed."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.fs.client import Client
from netfs.fs.plain import PlainVolume
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopCall, LoopTransport
from transport.base import Outcome, Reply
from transport.env import system_env
from transport.errors import TransportError
from transport.messages import (
    Commit,
    Handle,
    Read,
    Truncate,
    Write,
    WriteReply,
)  # fmt: skip

DATA = random.Random(7).randbytes(100_000)


@dataclass(eq=False)
class FaultyTransport(LoopTransport):
    """refuse: kind of request to the errnos it is answered with, negative ones for a lost connection."""

    refuse: dict[type, list[int]] = field(default_factory=dict)
    boot: int = 1
    committed: dict[Handle, bytes] = field(default_factory=dict)

    def outcome(self, call: LoopCall) -> Outcome:
        waiting = self.refuse.get(type(call.request))
        if waiting:
            code = waiting.pop(0)
            return TransportError(-code, "cut off") if code < 0 else Reply(code)
        outcome = super().outcome(call)
        if isinstance(outcome, Reply) and isinstance(outcome.body, WriteReply):
            outcome.body.verifier = self.boot
        if isinstance(call.request, Commit):
            self.committed[call.request.handle] = self.content(call.request.handle)
        return outcome

    def content(self, handle: Handle) -> bytes:
        data = bytearray(1 << 20)
        reply = self.serve(Read(handle, 0, len(data)), None, IovIter.ubuf(Direction.DEST, data), None)
        assert isinstance(reply, Reply)
        return bytes(data[: reply.received])

    def restart(self) -> None:
        self.boot += 1
        for handle, data in self.committed.items():
            self.serve(Truncate(handle, 0), None, None, None)
            self.serve(Write(handle, 0), IovIter.ubuf(Direction.SOURCE, data), None, None)


@asynccontextmanager
async def mounted(
    *, rsize: int = 4096, wsize: int = 4096, folio: int = 1024, folios: int = 64, probe: Probe | None = None
) -> AsyncIterator[tuple[Client, FaultyTransport]]:
    store = MemoryStore(Probe())
    transport = FaultyTransport(store)
    cache = PageCache(folio * folios, folio)
    client = Client(transport, PlainVolume(transport, rsize, wsize), system_env(), probe or Probe(), cache)
    try:
        yield client, transport
    finally:
        transport.refuse.clear()
        await client.aclose()
        store.close()


async def put(client: Client, path: str, data: bytes) -> None:
    async with await client.open(path, "w") as file:
        assert await file.write(data) == len(data)


async def get(client: Client, path: str) -> bytes:
    async with await client.open(path, direct=True) as file:
        return await file.read()
