"""RC ping-pong, written as one writes it for pyverbs; where there is no pyverbs the emulated device takes its place."""

import importlib.util
import random
import sys

if importlib.util.find_spec("pyverbs") is None:
    from transport.rdma.pyverbs import install

    install()

import pyverbs.enums as e
from pyverbs.addr import AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context, get_device_list
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR

ROUNDS = 1000
SIZE = 64


class Player:
    def __init__(self, device_name):
        self.ctx = Context(name=device_name)
        self.pd = PD(self.ctx)
        self.cq = CQ(self.ctx, 16, None, None, 0)
        self.mr = MR(self.pd, SIZE, e.IBV_ACCESS_LOCAL_WRITE)
        init = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=QPCap(max_send_wr=4, max_recv_wr=4))
        self.qp = QP(self.pd, init, QPAttr(port_num=1))
        self.psn = random.getrandbits(24)

    def connect(self, peer):
        attr = QPAttr(port_num=1, path_mtu=e.IBV_MTU_1024)
        attr.dest_qp_num = peer.qp.qp_num
        attr.rq_psn, attr.sq_psn = peer.psn, self.psn
        attr.max_rd_atomic = attr.max_dest_rd_atomic = 1
        attr.min_rnr_timer, attr.timeout, attr.retry_cnt, attr.rnr_retry = 12, 14, 7, 7
        route = GlobalRoute(dgid=peer.ctx.query_gid(1, 0), sgid_index=0)
        attr.ah_attr = AHAttr(port_num=1, is_global=1, gr=route, dlid=peer.ctx.query_port(1).lid)
        self.qp.to_rts(attr)

    def sge(self):
        return SGE(self.mr.buf, SIZE, self.mr.lkey)

    def post_recv(self):
        self.qp.post_recv(RecvWR(num_sge=1, sg=[self.sge()]))

    def say(self, text):
        self.mr.write(text.ljust(SIZE), SIZE)
        self.qp.post_send(SendWR(opcode=e.IBV_WR_SEND, num_sge=1, sg=[self.sge()]))
        self.wait()

    def wait(self):
        count = 0
        while not count:
            count, completions = self.cq.poll(1)
        if completions[0].status != e.IBV_WC_SUCCESS:
            raise SystemExit(f"completion with status {completions[0].status}")


def main():
    name = get_device_list()[0].name.decode()
    client, server = Player(name), Player(name)
    client.connect(server)
    server.connect(client)
    for number in range(ROUNDS):
        server.post_recv()
        client.say(f"ping {number}")
        server.wait()
        client.post_recv()
        server.say(server.mr.read(SIZE, 0).decode().replace("ping", "pong"))
        client.wait()
    sys.stdout.write(client.mr.read(SIZE, 0).decode().strip() + "\n")
    for player in (client, server):
        player.ctx.close()


if __name__ == "__main__":
    main()
