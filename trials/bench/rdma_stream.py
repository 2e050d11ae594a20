"""Trio shell. Figures of RDMA between two processes: `rdma_stream.*`, iWARP on TCP over loopback, against a plain stream.

    python -m trials.bench.rdma_stream      prints its port, serves one queue pair to each client until its standard input ends

The filesystem's figures are measured as `wire` measures TCP's, small reads against a number. Those of the bare verbs move 1 MiB
with one request, several in flight, to and from registered memory that rotates through 64 MiB on both sides; the far process only
connects. The limit sends 64 KiB messages by Trio's sockets. What was moved is compared once, outside the timed rounds. Each side
owns what it maps.
"""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from iov.probe import Probe
from transport.env import system_env
from transport.link import SocketStream
from transport.rdma.aio import AsyncCQ, Verbs, open_verbs
from transport.rdma.enums import Access, Opcode
from transport.rdma.iwarp.mpa import StartFrame, answer, settle
from transport.rdma.memory_fabric import MemoryFabric
from transport.rdma.mr import MR
from transport.rdma.profiles import IWARP
from transport.rdma.qp import QP, QPCap, QPInit
from transport.rdma.sge import SGE
from transport.rdma.stream_fabric import StreamLink, receive_request, send_reply, start_mpa
from transport.rdma.wr import SendWR
from trials.bench.figure import Figure, Pairing
from trials.bench.limits import MB, ROTATING, rotating, timed
from trials.bench.peer import BLOCK, Socket, listen, near, peer_process, raw_read_mb_s, raw_write_mb_s
from trials.bench.wire import random_4k, sequential

__all__ = ["FIGURES"]

DEPTH: Final = 8
MESSAGES: Final = 384
SMALL_BLOCK: Final = 64 << 10
READS_PER_S: Final = 12_000.0
ALL: Final = int(Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ)
REGION: Final = struct.Struct(">QIQ")
"""What the far side tells in its private data: address, key and length of its region."""


@dataclass(slots=True)
class _End:
    """One side's verbs objects."""

    cq: AsyncCQ
    qp: QP
    mr: MR
    memory: list[memoryview]


def _end(verbs: Verbs) -> _End:
    cq = verbs.create_cq(256)
    pd = verbs.context.alloc_pd()
    memory = rotating(BLOCK)
    qp = pd.create_qp(QPInit(cq.cq, cq.cq, QPCap(64, 64)))
    return _End(cq, qp, pd.reg_mr(memory, ALL), memory)


@asynccontextmanager
async def _verbs() -> AsyncIterator[_End]:
    async with open_verbs(MemoryFabric(trio.current_time()).add_device("iwarp", IWARP)) as verbs:
        yield _end(verbs)


async def _move(opcode: Opcode, end: _End, addr: int, rkey: int) -> float:
    """Move MESSAGES blocks, DEPTH in flight. Returns: MB/s."""
    numbers = iter(range(MESSAGES))
    count = len(end.memory)

    async def mover() -> None:
        for index in numbers:
            off = index % count * BLOCK
            wr = SendWR(0, opcode, [SGE(end.mr.iova + off, BLOCK, end.mr.lkey)], remote_addr=addr + off, rkey=rkey)
            wc = await end.cq.send(end.qp, wr)
            assert wc.ok

    with timed() as clock:
        async with trio.open_nursery() as nursery:
            for _ in range(DEPTH):
                nursery.start_soon(mover)
        if opcode is Opcode.WRITE:
            # A WRITE is complete when the stream has it; a READ behind it tells that it was placed.
            sge = SGE(end.mr.iova, 8, end.mr.lkey)
            assert (await end.cq.send(end.qp, SendWR(0, Opcode.READ, [sge], remote_addr=addr, rkey=rkey))).ok
    return MESSAGES * BLOCK / clock.seconds / MB


async def _check(end: _End, addr: int, rkey: int) -> None:
    """Write a block, read it back elsewhere, and compare."""
    end.memory[0][:8] = b"moved it"
    for opcode, off in ((Opcode.WRITE, 0), (Opcode.READ, BLOCK)):
        sge = SGE(end.mr.iova + off, BLOCK, end.mr.lkey)
        assert (await end.cq.send(end.qp, SendWR(0, opcode, [sge], remote_addr=addr, rkey=rkey))).ok
    assert end.memory[1] == end.memory[0], "what was read is not what was written"


@asynccontextmanager
async def _pairing(opcode: Opcode) -> AsyncIterator[Pairing]:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(peer_process("trials.bench.rdma_stream"))
        end = await stack.enter_async_context(_verbs())
        with trio.socket.socket() as raw:
            await raw.connect(("127.0.0.1", port))
            stream = SocketStream(socket.socket(fileno=raw.detach()))
        request = StartFrame(False, ird=DEPTH, ord=DEPTH)
        reply = await start_mpa(stream, system_env(), request)
        link = StreamLink(stream, end.qp, Probe(), settle(request, reply), ALL, is_server=False)
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(link.run)
        addr, rkey, _ = REGION.unpack(reply.private)
        await _check(end, addr, rkey)
        sock = await stack.enter_async_context(near(await stack.enter_async_context(peer_process())))
        raw_loop = raw_write_mb_s if opcode is Opcode.WRITE else raw_read_mb_s
        blocks = rotating(SMALL_BLOCK)
        limit = partial(raw_loop, sock, blocks, MESSAGES * BLOCK // SMALL_BLOCK)
        yield Pairing(partial(_move, opcode, end, addr, rkey), limit)
        nursery.cancel_scope.cancel()


async def _serve(sock: Socket) -> None:
    """Be the far side of one client: tell it a region, and let the device do the rest."""
    stream = SocketStream(socket.socket(fileno=sock.detach()))
    async with _verbs() as end:
        told = REGION.pack(end.mr.iova, end.mr.rkey, ROTATING)
        reply, settled = answer(await receive_request(stream, system_env()), DEPTH, DEPTH, False, told)
        link = StreamLink(stream, end.qp, Probe(), settled, ALL, is_server=True)
        await send_reply(stream, reply)
        await link.run()


def _sequential(write: bool) -> AbstractAsyncContextManager[Pairing]:
    return sequential("rdma_stream", 8, write, None, False, SMALL_BLOCK)


@asynccontextmanager
async def _random_4k() -> AsyncIterator[Pairing]:
    async with random_4k("rdma_stream", 32) as measured:

        async def limit() -> float:
            await trio.lowlevel.checkpoint()
            return READS_PER_S

        yield Pairing(measured.value, limit)


FIGURES: Final = (
    Figure("rdma_stream.seq_read", "MB/s", "raw_stream_64k", 0.40, partial(_sequential, False)),
    Figure("rdma_stream.seq_write", "MB/s", "raw_stream_64k", 0.40, partial(_sequential, True)),
    Figure("rdma_stream.rand_read_4k.qd32", "1/s", "12,000 a second", 1.0, _random_4k),
    Figure("rdma_stream.verbs_write_1m", "MB/s", "raw_stream_64k", 0.55, partial(_pairing, Opcode.WRITE)),
    Figure("rdma_stream.verbs_read_1m", "MB/s", "raw_stream_64k", 0.55, partial(_pairing, Opcode.READ)),
)

if __name__ == "__main__":
    trio.run(listen, _serve)
