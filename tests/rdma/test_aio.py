"""The Trio way to the device: awaiting completions, events, cancellation."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.rdma.rig import ALL_ACCESS
from transport.rdma.aio import AsyncCQ, Verbs, open_verbs
from transport.rdma.enums import EventType, Opcode, QPState, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.memory_fabric import MemoryFabric, connect_pair
from transport.rdma.mr import MR
from transport.rdma.qp import QP, QPCap, QPInit
from transport.rdma.sge import SGE
from transport.rdma.wr import RecvWR, SendWR


class Side:
    def __init__(self, verbs: Verbs) -> None:
        self.cq: AsyncCQ = verbs.create_cq(32)
        pd = verbs.context.alloc_pd()
        self.qp: QP = pd.create_qp(QPInit(self.cq.cq, self.cq.cq, QPCap(8, 8)))
        self.memory = bytearray(4096)
        self.mr: MR = pd.reg_mr(self.memory, ALL_ACCESS)

    def sge(self, length: int = 16) -> SGE:
        return SGE(self.mr.iova, length, self.mr.lkey)


async def test_await_send_and_receive() -> None:
    fabric = MemoryFabric()
    async with open_verbs(fabric.add_device("a")) as va, open_verbs(fabric.add_device("b")) as vb:
        a, b = Side(va), Side(vb)
        connect_pair(a.qp, b.qp, ALL_ACCESS, ALL_ACCESS, rnr_retry=7)
        a.memory[:5] = b"hello"
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                wc = await b.cq.recv(b.qp, RecvWR(22, [b.sge()]))
                assert (wc.wr_id, wc.status, wc.byte_len) == (22, 0, 16)

            nursery.start_soon(receive)
            wr = SendWR(11, Opcode.SEND, [a.sge()], 0)
            wc = await a.cq.send(a.qp, wr)
            assert (wc.wr_id, wc.status) == (11, 0) and (wr.wr_id, wr.flags) == (11, 0)
        assert b.memory[:5] == b"hello"
        b.qp.post_recv(RecvWR(5, [b.sge()]))
        await a.cq.send(a.qp, SendWR(1, Opcode.SEND, [a.sge()]))
        assert (await b.cq.next()).wr_id == 5
        with pytest.raises(VerbsError):
            await a.cq.send(a.qp, SendWR(1, Opcode.TSO))
        assert not a.cq.waiters and not b.cq.waiters


async def test_timers_run_by_themselves() -> None:
    fabric = MemoryFabric(trio.current_time())
    async with open_verbs(fabric.add_device("a")) as va, open_verbs(fabric.add_device("b")) as vb:
        a, b = Side(va), Side(vb)
        connect_pair(a.qp, b.qp, rnr_retry=2)
        b.qp.attr.min_rnr_timer = 1
        wc = await a.cq.send(a.qp, SendWR(1, Opcode.SEND, [a.sge()]))
        assert wc.status == WcStatus.RNR_RETRY_EXC_ERR


async def test_cancelled_receive_gives_the_memory_back() -> None:
    """The queue pair is in ERR, the receive flushed: a late message finds nothing to write to."""
    fabric = MemoryFabric()
    async with open_verbs(fabric.add_device("a")) as va, open_verbs(fabric.add_device("b")) as vb:
        a, b = Side(va), Side(vb)
        connect_pair(a.qp, b.qp)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(b.cq.recv, b.qp, RecvWR(1, [b.sge()]))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught and b.qp.state is QPState.ERR and not b.cq.waiters
        a.memory[:4] = b"late"
        a.qp.post_send(SendWR(1, Opcode.SEND, [a.sge()]))
        assert b.memory[:4] == bytes(4)


async def test_events() -> None:
    fabric = MemoryFabric()
    async with open_verbs(fabric.add_device("a")) as va, open_verbs(fabric.add_device("b")) as vb:
        a, b = Side(va), Side(vb)
        connect_pair(a.qp, b.qp)
        async with trio.open_nursery() as nursery:
            seen = []

            async def watch() -> None:
                async for event in vb.events():
                    seen.append(event.type)
                    if len(seen) == 1:
                        return

            nursery.start_soon(watch)
            await wait_all_tasks_blocked()
            await a.cq.send(a.qp, SendWR(1, Opcode.WRITE, [a.sge()], 2, b.mr.iova, b.mr.rkey))
        assert seen == [EventType.QP_REQ_ERR]


async def test_exception_comes_out_bare() -> None:
    with pytest.raises(KeyError):
        async with open_verbs(MemoryFabric().add_device("a")):
            raise KeyError("mine")
