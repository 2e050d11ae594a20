"""A client and a server in one process over RDMA verbs, and what a write and a read cost: no copy, a few work requests."""

import trio

import trials

LENGTH = 8 << 20


async def main() -> None:
    async with trials.pair(transport="rdma-memory") as p:
        async with await p.client.open("/data", "w", direct=True) as file:
            await file.write(bytes(LENGTH))
        buffer = bytearray(LENGTH)
        async with await p.client.open("/data", direct=True) as file:
            await file.preadv([buffer], 0)
        counted = p.client_probe.snapshot()
        for name in ("requests", "subrequests", "messages", "copied_bytes"):
            print(f"{name:>12} {counted[name]:,}")  # noqa: T201
        assert counted["copied_bytes"] == 0


trio.run(main)
