"""The next connection takes less at once than the one before: what was cut for the old one is cut anew, and more goes by it."""

import dataclasses

import pytest

from iov.iov_iter import IovIter
from tests.netfs.mount import DATA, mounted
from tests.netfs.sealed_world import BLOCK, CONTENT, World, in_world
from transport.base import ClientCall, Done, Limits, Transport
from transport.errors import SmallerLimits
from transport.messages import Request, Write


class Shrinking:
    """A transport's `submit` that goes over to smaller limits between the cutting of the first write and its sending."""

    def __init__(self, transport: Transport, later: Limits) -> None:
        self.transport = transport
        self.later = later
        self.inner = transport.submit
        self.refused = 0
        transport.submit = self  # type: ignore[method-assign]

    def __call__(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> ClientCall:
        if isinstance(request, Write):
            self.transport.limits = self.later
        most = self.transport.limits.max_payload
        if source is not None and source.count > most:
            self.refused += 1
            call = self.inner(request, lambda _: None)
            call.abandon()
            done(SmallerLimits(f"{source.count} bytes"))
            return call
        if dest is not None:
            assert dest.count <= most, "reads go by the limits too"
        return self.inner(request, done, source, dest)


@pytest.mark.parametrize("direct", [False, True])
async def test_a_plain_file_is_cut_anew(direct: bool) -> None:
    async with mounted(rsize=8192, wsize=8192) as (client, transport):
        async with await client.open("/f", "w+", direct=direct) as file:
            shrinking = Shrinking(transport, dataclasses.replace(transport.limits, max_payload=3000))
            await file.write(DATA[:50_000])
            await file.fsync()
            assert shrinking.refused
        async with await client.open("/f", direct=True) as file:
            assert await file.read(50_000) == DATA[:50_000]


@pytest.mark.parametrize("direct", [False, True])
def test_an_encrypted_file_is_cut_anew(direct: bool) -> None:
    async def test(world: World) -> None:
        client = world.client()
        transport = client.transport
        async with await client.open("/f", "w+", direct=direct) as file:
            shrinking = Shrinking(transport, dataclasses.replace(transport.limits, max_payload=2 * BLOCK))
            await file.write(CONTENT)
            await file.fsync()
            assert shrinking.refused
            assert await file.read(len(CONTENT), 0) == CONTENT
        async with await client.open("/f", direct=True) as file:
            assert await file.read(len(CONTENT)) == CONTENT

    in_world(test)
