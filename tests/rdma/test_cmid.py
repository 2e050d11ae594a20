"""Connection management of the façade: events in one thread, waiting calls in two."""

import errno
import socket
import threading

import pytest

from transport.rdma.pyverbs.cm_enums import ENUMS
from transport.rdma.pyverbs.cmid import CMID, AddrInfo, CMEvent, CMEventChannel, ConnParam
from transport.rdma.pyverbs.cq import CQ
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError
from transport.rdma.pyverbs.qp import QP
from transport.rdma.pyverbs.qp_attr import QPAttr, QPCap, QPInitAttr
from transport.rdma.pyverbs.wr import SGE, RecvWR, SendWR

KINDS = {name.removeprefix("RDMA_CM_EVENT_"): number for name, number in ENUMS["rdma_cm_event_type"].items()}
INIT = QPInitAttr(qp_type=2, cap=QPCap(4, 4))


def expect(channel: CMEventChannel, kind: str) -> CMEvent:
    event = CMEvent(channel)
    assert event.event_type == KINDS[kind], event.event_str()
    event.ack_cm_event()
    return event


def free_port() -> str:
    """Return a port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


class Ends:
    """A listener and a connecting identifier with their channels, up to the connect request."""

    def __init__(self) -> None:
        port = free_port()
        self.passive, self.active = CMEventChannel(), CMEventChannel()
        self.listener = CMID(self.passive)
        self.listener.bind_addr(AddrInfo(src="127.0.0.1", src_service=port, flags=1))
        self.listener.listen()
        self.client = CMID(self.active)
        self.client.resolve_addr(AddrInfo(dst="127.0.0.1", dst_service=port))
        expect(self.active, "ADDR_RESOLVED")
        self.client.resolve_route()
        expect(self.active, "ROUTE_RESOLVED")

    def close(self) -> None:
        for cmid in (self.client, self.listener):
            cmid.close()


def test_events_connect_and_move_bytes() -> None:
    ends = Ends()
    ends.client.create_qp(INIT)
    ends.client.connect(ConnParam(data=b"hello"))
    request = expect(ends.passive, "CONNECT_REQUEST")
    assert request.private_data == b"hello"
    child = CMID(request, listen_id=ends.listener)
    child.create_qp(INIT)
    message = child.reg_msgs(64)
    child.post_recv(message)
    child.accept(ConnParam())
    expect(ends.active, "ESTABLISHED")
    expect(ends.passive, "ESTABLISHED")
    mine = ends.client.reg_write(64)
    mine.write("ping", 4)
    ends.client.post_send(mine)
    assert ends.client.get_send_comp().status == 0
    assert child.get_recv_comp().status == 0 and message.read(4) == b"ping"
    theirs = child.reg_read(64)
    theirs.write("there", 5)
    ends.client.post_read(mine, 64, theirs.buf, theirs.rkey, flags=2)
    assert ends.client.get_send_comp().status == 0 and mine.read(5) == b"there"
    ends.client.disconnect()
    expect(ends.passive, "DISCONNECTED")
    expect(ends.active, "DISCONNECTED")
    child.disconnect()
    child.close()
    ends.close()


def test_rejected_with_data() -> None:
    ends = Ends()
    ends.client.create_qp(INIT)
    ends.client.connect()
    child = CMID(expect(ends.passive, "CONNECT_REQUEST"), listen_id=ends.listener)
    child.reject(b"not you")
    assert expect(ends.active, "REJECTED").private_data == b"not you"
    child.close()
    ends.close()


def test_queue_pairs_of_the_program() -> None:
    ends = Ends()
    qps, cqs = [], []

    def own_qp(cmid: CMID) -> QP:
        cq = CQ(cmid.context, 8)
        cqs.append(cq)
        qps.append(QP(cmid.pd, QPInitAttr(qp_type=2, scq=cq, rcq=cq, cap=QPCap(4, 4)), QPAttr()))
        return qps[-1]

    def bring_up(cmid: CMID, qp: QP) -> None:
        for state in (2, 3):
            attr, mask = cmid.init_qp_attr(state)
            qp.modify(attr, mask)

    client_qp = own_qp(ends.client)
    ends.client.connect(ConnParam(qp_num=client_qp.qp_num))
    child = CMID(expect(ends.passive, "CONNECT_REQUEST"), listen_id=ends.listener)
    child_qp = own_qp(child)
    child.accept(ConnParam(qp_num=child_qp.qp_num))
    expect(ends.active, "CONNECT_RESPONSE")
    bring_up(child, child_qp)
    bring_up(ends.client, client_qp)
    ends.client.establish()
    expect(ends.passive, "ESTABLISHED")
    memory, source = child.reg_msgs(16), ends.client.reg_msgs(16)
    source.write("external", 8)
    child_qp.post_recv(RecvWR(num_sge=1, sg=[SGE(memory.buf, 16, memory.lkey)]))
    client_qp.post_send(SendWR(num_sge=1, sg=[SGE(source.buf, 16, source.lkey)]))
    assert [cq.poll(4)[1][0].status for cq in cqs] == [0, 0] and memory.read(8) == b"external"
    child.close()
    ends.close()


def test_waiting_calls_in_two_threads() -> None:
    port = free_port()
    listener = CMID(AddrInfo(src="127.0.0.1", src_service=port, flags=1), INIT)
    listener.listen()
    with pytest.raises(PyverbsRDMAError) as caught:
        CMID(AddrInfo(src="127.0.0.1", src_service=port, flags=1)).listen()
    assert caught.value.error_code == errno.EADDRINUSE
    got: list[bytes] = []

    def serve() -> None:
        child = listener.get_request()
        memory = child.reg_msgs(8)
        child.post_recv(memory)
        child.accept()
        assert child.get_recv_comp().status == 0
        got.append(memory.read(4))

    thread = threading.Thread(target=serve)
    thread.start()
    client = CMID(AddrInfo(dst="127.0.0.1", dst_service=port), INIT)
    client.connect()
    memory = client.reg_msgs(8)
    memory.write("sync", 4)
    client.post_send(memory)
    assert client.get_send_comp().status == 0
    thread.join()
    assert got == [b"sync"]
    client.close()
    listener.close()


def test_nobody_listens() -> None:
    with pytest.raises(PyverbsRDMAError) as caught:
        CMID(AddrInfo(dst="127.0.0.1", dst_service=free_port()), INIT).connect()
    assert caught.value.error_code == errno.ECONNREFUSED
