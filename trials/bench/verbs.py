"""Trio shell. Figures of the bare verbs device: `verbs.*`, two queue pairs of one memory fabric, post and poll in one thread.

Small operations have no physical limit and stand against a fixed loop of Python calls; large ones stand against memcpy, over
registered memory that rotates through more than 64 MiB on both sides. Owns what it maps and registers.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from transport.rdma.enums import Opcode
from transport.rdma.loopback import Loopback, Side
from transport.rdma.sge import SGE
from transport.rdma.wr import RecvWR, SendWR
from trials.bench.figure import Figure, Pairing
from trials.bench.limits import MB, memcpy_mb_s, py_loop_per_s, rotating, timed

__all__ = ["FIGURES"]

SMALL: Final = 64
SMALL_COUNT: Final = 20_000
BLOCK: Final = 1 << 20
BLOCK_COUNT: Final = 192
SIGNALED: Final = 2


def _writes_64b(ours: Side, theirs: Side) -> float:
    sge = SGE(ours.mr.iova, SMALL, ours.mr.lkey)
    with timed() as clock:
        for index in range(SMALL_COUNT):
            ours.qp.post_send(SendWR(index, Opcode.WRITE, [sge], SIGNALED, theirs.mr.iova, theirs.mr.rkey))
            assert ours.cq.poll(1)[0].status == 0
    return SMALL_COUNT / clock.seconds


def _sends(ours: Side, theirs: Side) -> float:
    source = SGE(ours.mr.iova, SMALL, ours.mr.lkey)
    target = SGE(theirs.mr.iova, SMALL, theirs.mr.lkey)
    with timed() as clock:
        for index in range(SMALL_COUNT):
            theirs.qp.post_recv(RecvWR(index, [target]))
            ours.qp.post_send(SendWR(index, Opcode.SEND, [source]))
            assert ours.cq.poll(1)[0].status == 0
            assert theirs.cq.poll(1)[0].status == 0
    return SMALL_COUNT / clock.seconds


def _blocks(opcode: Opcode, ours: Side, theirs: Side) -> float:
    count = ours.mr.length // BLOCK
    with timed() as clock:
        for index in range(BLOCK_COUNT):
            off = index % count * BLOCK
            sge = SGE(ours.mr.iova + off, BLOCK, ours.mr.lkey)
            ours.qp.post_send(SendWR(index, opcode, [sge], SIGNALED, theirs.mr.iova + off, theirs.mr.rkey))
            assert ours.cq.poll(1)[0].status == 0
    return BLOCK_COUNT * BLOCK / clock.seconds / MB


@asynccontextmanager
async def _pairing(block: int, run: Callable[[Side, Side], float], back: bool = False) -> AsyncIterator[Pairing]:
    left, right = rotating(block), rotating(block)
    pair = Loopback(blocks=(left, right))
    ours, theirs = pair.a, pair.b

    async def value() -> float:
        await trio.lowlevel.checkpoint()
        return run(ours, theirs)

    async def limit() -> float:
        await trio.lowlevel.checkpoint()
        if block != BLOCK:
            return py_loop_per_s()
        # The same way as the transfer: the two mappings need not be equally fast.
        return memcpy_mb_s(right, left) if back else memcpy_mb_s(left, right)

    yield Pairing(value, limit)


PAGE: Final = 1 << 16
FIGURES: Final = (
    Figure("verbs.write_64b", "WRITEs/s", "py_loop", 0.0035, partial(_pairing, PAGE, _writes_64b)),
    Figure("verbs.send_recv", "pairs/s", "py_loop", 0.0024, partial(_pairing, PAGE, _sends)),
    Figure("verbs.write_1m", "MB/s", "memcpy", 0.70, partial(_pairing, BLOCK, partial(_blocks, Opcode.WRITE))),
    Figure("verbs.read_1m", "MB/s", "memcpy", 0.70, partial(_pairing, BLOCK, partial(_blocks, Opcode.READ), back=True)),
)
