"""Two queue pairs that find each other over TCP by the connection manager; with a file named, a capture for Wireshark.

Here both ends are tasks of one program; they might as well be two programs, or two machines.
"""

import contextlib
import sys

import trio

from transport.env import system_env
from transport.rdma import IWARP, CmParam, MemoryFabric, open_capture, open_cm, open_verbs
from transport.rdma.aio import Verbs
from transport.rdma.cm import Listener
from transport.rdma.enums import Access, Opcode
from transport.rdma.qp import QPCap, QPInit
from transport.rdma.sge import SGE
from transport.rdma.wr import RecvWR, SendWR

SIZE = 64
ACCESS = Access.LOCAL_WRITE | Access.REMOTE_READ | Access.REMOTE_WRITE


class End:
    """A queue pair and some memory that the peer may use."""

    def __init__(self, verbs: Verbs) -> None:
        self.cq = verbs.create_cq(16)
        pd = verbs.context.alloc_pd()
        self.qp = pd.create_qp(QPInit(self.cq.cq, self.cq.cq, QPCap(4, 4)))
        self.memory = bytearray(2 * SIZE)
        self.mr = pd.reg_mr(self.memory, ACCESS)

    def sge(self, off: int = 0) -> SGE:
        return SGE(self.mr.iova + off, SIZE, self.mr.lkey)


async def serve(listener: Listener) -> None:
    """Accept one peer, telling it where to write, and wait for its message."""
    async with open_verbs(MemoryFabric().add_device("server", IWARP)) as verbs:
        end = End(verbs)
        request = await listener.get_request()
        sys.stdout.write(f"a request: {request.private.decode()}\n")
        end.qp.post_recv(RecvWR(1, [end.sge(SIZE)]))
        place = end.mr.iova.to_bytes(8, "big") + end.mr.rkey.to_bytes(4, "big")
        connection = await request.accept(end.qp, int(ACCESS), CmParam(place))
        assert (await end.cq.next()).ok
        sys.stdout.write(f"written here: {end.memory[:SIZE].decode().strip()}\n")
        sys.stdout.write(f"the end: {await connection.disconnected()}\n")


async def main() -> None:
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(open_capture(sys.argv[1])) if len(sys.argv) > 1 else None
        device = MemoryFabric().add_device("client", IWARP)
        async with (
            open_cm(system_env(), capture=capture) as cm, cm.listen("127.0.0.1") as listener,
            trio.open_nursery() as nursery, open_verbs(device) as verbs,
        ):  # fmt: skip
            nursery.start_soon(serve, listener)
            end = End(verbs)
            route = await cm.resolve(listener.host, listener.port)
            connection = await cm.connect(route, end.qp, 0, CmParam(b"hello from a client"))
            addr, rkey = int.from_bytes(connection.private[:8], "big"), int.from_bytes(connection.private[8:12], "big")
            end.memory[:] = b"by RDMA, over TCP".ljust(SIZE) + b"it is written".ljust(SIZE)
            await end.cq.send(end.qp, SendWR(2, Opcode.WRITE, [end.sge()], remote_addr=addr, rkey=rkey))
            await end.cq.send(end.qp, SendWR(3, Opcode.SEND, [end.sge(SIZE)]))
            await connection.disconnect()


if __name__ == "__main__":
    trio.run(main)
