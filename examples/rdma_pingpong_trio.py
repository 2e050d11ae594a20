"""RC ping-pong on the Trio API of the emulated device: each side is a task that awaits its completions."""

import sys

import trio

from transport.rdma.aio import Verbs, open_verbs
from transport.rdma.enums import Access, Opcode
from transport.rdma.memory_fabric import MemoryFabric, connect_pair
from transport.rdma.qp import QPCap, QPInit
from transport.rdma.sge import SGE
from transport.rdma.wr import RecvWR, SendWR

ROUNDS = 1000
SIZE = 64


class Player:
    def __init__(self, verbs: Verbs) -> None:
        self.cq = verbs.create_cq(16)
        self.pd = verbs.context.alloc_pd()
        self.qp = self.pd.create_qp(QPInit(self.cq.cq, self.cq.cq, QPCap(4, 4)))
        self.memory = bytearray(SIZE)
        self.mr = self.pd.reg_mr(self.memory, Access.LOCAL_WRITE)

    def sge(self) -> SGE:
        return SGE(self.mr.iova, SIZE, self.mr.lkey)

    async def say(self, text: str) -> None:
        self.memory[:] = text.ljust(SIZE).encode()
        completion = await self.cq.send(self.qp, SendWR(opcode=Opcode.SEND, sges=[self.sge()]))
        assert completion.ok, completion

    async def hear(self) -> str:
        completion = await self.cq.recv(self.qp, RecvWR(sges=[self.sge()]))
        assert completion.ok, completion
        return self.memory.decode().strip()


async def serve(player: Player) -> None:
    for _ in range(ROUNDS):
        await player.say((await player.hear()).replace("ping", "pong"))


async def main() -> None:
    fabric = MemoryFabric(trio.current_time())
    async with open_verbs(fabric.add_device("left")) as left, open_verbs(fabric.add_device("right")) as right:
        client, server = Player(left), Player(right)
        connect_pair(client.qp, server.qp, rnr_retry=7)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, server)
            for number in range(ROUNDS):
                await client.say(f"ping {number}")
                answer = await client.hear()
    sys.stdout.write(answer + "\n")


if __name__ == "__main__":
    trio.run(main)
