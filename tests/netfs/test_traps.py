"""Defects netfslib once had, as tests: each is named after what went wrong there."""

import errno
import random

import pytest

from tests.netfs.mount import mounted, put
from transport.base import Reply
from transport.messages import Request, Write

DATA = random.Random(82864).randbytes(0x82864)


@pytest.mark.parametrize("folio", [1024, 4096, 65536])
@pytest.mark.parametrize("direct", [False, True])
async def test_zero_point_when_the_local_size_is_ahead_of_the_servers(folio: int, direct: bool) -> None:
    """The operations of the report: truncate, writes behind holes, a read in between, a copied range, a read of the gap."""
    model = bytearray(DATA)
    async with mounted(rsize=1 << 16, wsize=1 << 16, folio=folio, folios=64) as (client, _):
        await put(client, "/f", DATA)
        async with await client.open("/f", "r+") as file, await client.open("/f", "r+", direct=direct) as other:

            async def write(pos: int, length: int) -> None:
                data = random.Random(pos).randbytes(length)
                model.extend(bytes(max(0, pos + length - len(model))))
                model[pos : pos + length] = data
                assert await file.pwritev([data], pos) == length

            async def check(pos: int, length: int) -> None:
                for descriptor in (file, other):
                    assert await descriptor.read(length, pos) == model[pos : pos + length]

            await file.truncate(0x1BBAE)
            del model[0x1BBAE:]
            await write(0x3EF2E, 0xF9C8)
            await write(0x67E05, 0xCB5A)
            await check(0x57781, 0x85B6)
            copied = await other.read(0x10329, 0x5D3D)
            assert await other.pwritev([copied], 0x54FAC) == 0x10329
            model[0x54FAC : 0x54FAC + 0x10329] = copied
            await write(0x64710, 0x1C2B)
            await check(0x64000, 0x1000)
            await check(0, len(model))
            assert file.size == len(model)


async def test_short_direct_read_followed_by_more_subrequests() -> None:
    """256 KiB of a file of 3 bytes in parts of 64 KiB give 3, 0, 0, 0: the answer is 3."""
    async with mounted(rsize=1 << 16) as (client, _):
        await put(client, "/f", b"abc")
        async with await client.open("/f", direct=True) as file:
            buffer = bytearray(1 << 18)
            assert await file.preadv([buffer], 0) == 3
            assert buffer[:4] == b"abc\0"


@pytest.mark.parametrize("failing", range(5))
async def test_unbuffered_write_leaves_no_hole_when_space_runs_out(failing: int) -> None:
    async with mounted(wsize=1000) as (client, transport):

        def full(request: Request) -> Reply | None:
            return Reply(errno.ENOSPC) if isinstance(request, Write) and request.pos == failing * 1000 else None

        transport.fault = full
        async with await client.open("/f", "w+", direct=True) as file:
            if failing:
                assert await file.pwritev([DATA[:5000]], 0) == failing * 1000
            else:
                with pytest.raises(OSError) as caught:
                    await file.pwritev([DATA[:5000]], 0)
                assert caught.value.errno == errno.ENOSPC
            transport.fault = None
            assert transport.content(file._inode.handle) == DATA[: failing * 1000]


async def test_streaming_write_that_is_covered_by_a_whole_folio_leaves_no_dirty_record() -> None:
    async with mounted(folio=4096) as (client, _):
        await put(client, "/f", DATA[:20000])
        client.drop_caches()
        async with await client.open("/f", "r+") as file:
            await file.pwritev([b"streaming"], 5000)
            folio = file._inode.mapping.folios[1]
            assert folio.dirty and not folio.uptodate
            await file.pwritev([DATA[40000:44096]], 4096)
            assert folio.uptodate and (folio.dirty_from, folio.dirty_to) == (0, 4096)
            expected = DATA[:4096] + DATA[40000:44096] + DATA[8192:20000]
            assert await file.read(-1, 0) == expected
            await file.fsync()
            client.drop_caches()
            assert await file.read(-1, 0) == expected


async def test_read_of_the_gaps_around_a_streaming_write() -> None:
    async with mounted(folio=4096) as (client, _):
        await put(client, "/f", DATA[:6000])
        client.drop_caches()
        async with await client.open("/f", "r+") as file:
            await file.pwritev([b"middle"], 4500)
            await file.pwritev([b"behind the end"], 7000)
            expected = DATA[:4500] + b"middle" + DATA[4506:6000] + bytes(1000) + b"behind the end"
            assert await file.read(-1, 0) == expected
            assert file._inode.mapping.folios[1].uptodate


async def test_a_copy_within_a_file_does_not_copy_what_it_adds() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA[:1000])
        async with await client.open("/f", "r+") as file:
            assert await file.copy_from(file, 900, 5000, 400) == 100
            assert file.size == 5100
            assert await file.read(pos=0) == DATA[:1000] + bytes(4000) + DATA[900:1000]
