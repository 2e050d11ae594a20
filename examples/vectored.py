"""One read into three places at once: a header of the caller's, a gap that is skipped, and the middle of a larger buffer."""

import trio

import netfs
import servers
from iov.bvec import BvecQueue
from iov.iov_iter import Direction, IovIter

HEADER, SKIPPED, BODY = 16, 1000, 5000


async def main() -> None:
    content = bytes(range(256)) * 64
    async with servers.serve(servers.MemoryStore()) as server, netfs.open_client(server.url) as fs:
        async with await fs.open("/data", "w") as file:
            await file.write(content)
        header, arena = bytearray(HEADER), bytearray(1 << 16)
        chain = BvecQueue()
        chain.append(header)
        chain.append_gap(SKIPPED)
        chain.append(memoryview(arena)[4096 : 4096 + BODY])
        async with await fs.open("/data", direct=True) as file:
            count = await file.read_iter(IovIter.bvecq(Direction.DEST, chain), 0)
        assert count == HEADER + SKIPPED + BODY
        assert header == content[:HEADER]
        assert arena[4096 : 4096 + BODY] == content[HEADER + SKIPPED : count]
        print(f"{count:,} bytes read, {SKIPPED:,} of them dropped on the way")  # noqa: T201


trio.run(main)
