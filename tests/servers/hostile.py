"""Clients who mean harm, each a function that keeps at it until it is cancelled, and a good one whose calls are timed beside it.

python -m tests.servers.hostile [--seconds 600] [--seed N]        fuzzed messages for a long time
"""

import argparse
import random
import statistics
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import trio

import netfs
from iov.probe import Probe
from servers import MemoryStore, serve
from tests.transport.test_codec import REQUESTS
from transport.base import Limits
from transport.codec import encode_request
from transport.framing import HEADER, FrameKind, pack_header
from transport.hello import HELLO_LENGTH, encode_hello
from transport.messages import Handle, Op, Ping, Write

Hostile = Callable[[str, random.Random], Awaitable[None]]
ROUND = 200


async def connected(address: str) -> trio.SocketStream:
    """Connect and say hello as a client should."""
    host, _, port = address.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    try:
        await stream.send_all(encode_hello(Limits()))
        got = b""
        while len(got) < HELLO_LENGTH:
            got += await stream.receive_some(HELLO_LENGTH - len(got))
    except BaseException:
        stream.socket.close()
        raise
    return stream


async def taken(stream: trio.SocketStream, data: bytes) -> None:
    """Send as much as the server takes in a moment, and see how it ends."""
    try:
        with trio.move_on_after(0.2):
            await stream.send_all(data)
            while await stream.receive_some(65536):
                pass
    except (OSError, trio.BrokenResourceError):
        pass
    finally:
        stream.socket.close()


def fuzzed(rng: random.Random) -> bytes:
    """Return some frames, of which bytes were changed, left out or said twice."""
    out = bytearray()
    for _ in range(rng.randrange(1, 6)):
        request = rng.choice(REQUESTS)
        body = bytearray(encode_request(request))
        for _ in range(rng.choice((0, 1, 1, 3, 20))):
            if body:
                body[rng.randrange(len(body))] = rng.randrange(256)
        if rng.random() < 0.2:
            body = body[: rng.randrange(len(body) + 1)] * rng.choice((1, 2))
        payload = rng.choice((0, 0, 0, 10, 5000))
        op = request.op if rng.random() < 0.9 else rng.choice(list(Op))
        head = bytearray(pack_header(FrameKind.REQUEST, op, rng.randrange(1 << 32), 0, len(body), payload))
        if rng.random() < 0.2:
            head[rng.randrange(HEADER.size)] = rng.randrange(256)
        out += head + body + rng.randbytes(payload)
    return bytes(out)


async def fuzz(address: str, rng: random.Random) -> None:
    """Send what no client would."""
    while True:
        await taken(await connected(address), fuzzed(rng))


async def slow_loris(address: str, rng: random.Random) -> None:
    """Hold many connections by saying very little, slowly: of the hello, of a header, of a payload."""
    host, _, port = address.rpartition(":")
    beginnings = [
        encode_hello(Limits()),
        encode_hello(Limits()) + pack_header(FrameKind.REQUEST, Op.WRITE, 1, 0, 40, 1 << 20) + bytes(40),
    ]
    async with trio.open_nursery() as nursery:

        async def one() -> None:
            data = rng.choice(beginnings)
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                for byte in data:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.05)
                await trio.sleep_forever()

        for _ in range(100):
            nursery.start_soon(_ignoring, one)


async def _ignoring(act: Callable[[], Awaitable[None]]) -> None:
    try:
        await act()
    except (OSError, trio.BrokenResourceError):
        await trio.lowlevel.checkpoint()


async def idle_thousand(address: str, rng: random.Random) -> None:
    """Hold a thousand connections that say hello and nothing else."""
    del rng
    streams: list[trio.SocketStream] = []
    try:
        for _ in range(1000):
            streams.append(await connected(address))  # noqa: PERF401 - those there are are closed when this is cancelled
        await trio.sleep_forever()
    finally:
        for stream in streams:
            stream.socket.close()


async def credit_bomb(address: str, rng: random.Random) -> None:
    """Send more requests than there are credits, and read no answer."""
    del rng
    ping = encode_request(Ping())
    data = b"".join(pack_header(FrameKind.REQUEST, Op.PING, xid, 0, len(ping), 0) + ping for xid in range(5000))
    while True:
        await taken(await connected(address), data)


async def memory_bomb(address: str, rng: random.Random) -> None:
    """Announce large payloads on many connections and never send them; ask for large bodies."""
    del rng
    body = encode_request(Write(Handle(b"nothing"), 0))
    head = pack_header(FrameKind.REQUEST, Op.WRITE, 1, 0, len(body), 1 << 20) + body
    huge = pack_header(FrameKind.REQUEST, Op.LOOKUP, 1, 0, 1 << 18, 0)
    streams: list[trio.SocketStream] = []
    try:
        for index in range(300):
            stream = await connected(address)
            streams.append(stream)
            await stream.send_all(head if index % 2 else huge)
        await trio.sleep_forever()
    finally:
        for stream in streams:
            stream.socket.close()


async def latency_s(client: netfs.Client, count: int = ROUND) -> float:
    """Return the median time of a call, seconds."""
    times = []
    for _ in range(count):
        began = trio.current_time()
        await client.transport.call(Ping())
        times.append(trio.current_time() - began)
        await trio.sleep(0.001)
    return statistics.median(times)


async def attacked(attack: Hostile, seed: int, warm_s: float = 0.5, bound: int = 5000) -> tuple[float, float]:
    """Return a good client's median latency before and during an attack; the server must be as good as new after it."""
    from servers.config import ServerLimits

    store = MemoryStore(Probe())
    async with serve(store, bounds=ServerLimits(connections=bound, per_client=bound)) as serving:
        async with netfs.open_client(f"netfs+tcp://{serving.address}/") as client:
            before = await latency_s(client)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(attack, serving.address, random.Random(seed))
                await trio.sleep(warm_s)
                during = await latency_s(client)
                nursery.cancel_scope.cancel()
            with trio.fail_after(120):
                while serving.server.connections > 1:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await client.mkdir("/still")
            assert "still" in await client.listdir()
    assert store.lent == 0
    return before, during


async def fuzz_for(seconds: float, seed: int) -> int:
    """Fuzz with several connections at a time. Returns: connections made."""
    store = MemoryStore(Probe())
    made = 0
    async with serve(store) as serving:
        async with netfs.open_client(f"netfs+tcp://{serving.address}/") as client, trio.open_nursery() as nursery:

            async def one(rng: random.Random) -> None:
                nonlocal made
                while True:
                    made += 1
                    await taken(await connected(serving.address), fuzzed(rng))

            for index in range(8):
                nursery.start_soon(partial(one, random.Random(seed + index)))
            until = trio.current_time() + seconds
            while trio.current_time() < until:
                with trio.fail_after(60):
                    await client.transport.call(Ping())
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    assert store.lent == 0
    return made


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    sys.stderr.write(f"seed {asked.seed}\n")
    made = trio.run(fuzz_for, asked.seconds, asked.seed)
    sys.stdout.write(f"{made} connections of nonsense in {asked.seconds:g} s; a good client was served throughout\n")


if __name__ == "__main__":
    main()
