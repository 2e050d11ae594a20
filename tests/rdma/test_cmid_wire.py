"""Identifiers of two processes: events and waiting calls, memory that is used while its owner does nothing, refusals, silence."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.rdma.cm_peer import INIT, PLACE
from tests.rdma.test_cmid import expect, free_port
from tests.rdma.test_iwarp_codec import read_frame, untagged
from transport.rdma.iwarp.mpa import StartFrame
from transport.rdma.iwarp.rdmap import Op
from transport.rdma.pyverbs import driver, wire
from transport.rdma.pyverbs.cmid import CMID, AddrInfo, CMEvent, CMEventChannel, ConnParam
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError


@contextmanager
def peer(port: str, what: str, profile: str = "connectx") -> Iterator[list[object]]:
    """Run the other process; what it saw is in the list behind the block."""
    seen: list[object] = []
    command = [sys.executable, "-m", "tests.rdma.cm_peer", port, what, profile]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield seen
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        seen += json.loads(out)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["connectx", "siw"])
@pytest.mark.parametrize("what", ["read", "write", "leave"])
def test_memory_is_served_while_its_owner_does_nothing(what: str, profile: str) -> None:
    port = free_port()
    listener = CMID(AddrInfo(src="127.0.0.1", src_service=port, flags=1), INIT)
    listener.listen()
    with peer(port, what, profile) as seen:
        child = listener.get_request()
        memory = child.reg_read(4096) if what == "read" else child.reg_write(4096)
        if what == "write":
            memory.mr.rereg(4, access=1 | 2 | 4)  # the peer makes sure by a READ
        memory.write("local", 5)
        inbox = child.reg_msgs(64)
        child.post_recv(inbox)
        child.accept()
        assert child.get_recv_comp().status == 0 and inbox.read(9) == b"from afar"
        place = child.reg_msgs(64)
        place.write(PLACE.pack(memory.buf, memory.rkey), PLACE.size)
        child.post_send(place, length=PLACE.size)
        assert child.get_send_comp().status == 0
    done: dict[str, list[object]] = {"read": [0, "local"], "write": [0, 0], "leave": []}
    assert seen == [0, 0, *done[what], 6], seen  # 6: ERR, of a queue pair that was disconnected
    assert memory.read(9) == (b"from afar" if what == "write" else b"local\0\0\0\0")
    while int(child._own_qp().qp_state) != 6:
        driver.wait_a_little()
    child.close()
    listener.close()


@pytest.mark.slow
def test_receive_may_be_posted_late() -> None:
    """By RoCE's rules a SEND that finds no receive is tried again."""
    port = free_port()
    listener = CMID(AddrInfo(src="127.0.0.1", src_service=port, flags=1), INIT)
    listener.listen()
    with peer(port, "leave") as seen:
        child = listener.get_request()
        child.accept()
        inbox, place = child.reg_msgs(64), child.reg_msgs(64)
        qp = child._own_qp().qp
        while not getattr(qp.link, "skipping", False):  # until the SEND is here and was told to wait
            driver.wait_a_little()
        child.post_recv(inbox)
        assert child.get_recv_comp().status == 0 and inbox.read(9) == b"from afar"
        place.write(PLACE.pack(0, 0), PLACE.size)
        child.post_send(place, length=PLACE.size)
        assert child.get_send_comp().status == 0
    assert seen == [0, 0, 6]
    child.close()
    listener.close()


class Asked:
    """A listener with events and the process that asks it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.channel = CMEventChannel()
        self.listener = CMID(self.channel)
        self.listener.bind_addr(AddrInfo(src="127.0.0.1", src_service=self.port, flags=1))
        self.listener.listen()


@pytest.mark.slow
def test_events_of_both_processes() -> None:
    asked = Asked()
    with peer(asked.port, "ask") as seen:
        request = expect(asked.channel, "CONNECT_REQUEST")
        assert request.private_data == b"may I"
        child = CMID(request, listen_id=asked.listener)
        child.create_qp(INIT)
        child.set_option(0, 3, 21, 1)
        child.accept(ConnParam(data=b"you may"))
        expect(asked.channel, "ESTABLISHED")
        attr, _ = child.query_qp(1 << 9)
        assert (attr.timeout, attr.max_rd_atomic, attr.max_dest_rd_atomic) == (21, 1, 1)
        child.disconnect()
        expect(asked.channel, "DISCONNECTED")
    assert seen == ["ADDR_RESOLVED", "", "ROUTE_RESOLVED", "", "ESTABLISHED", "you may", "DISCONNECTED", ""]
    child.close()
    asked.listener.close()


@pytest.mark.slow
def test_rejection_reaches_the_other_process() -> None:
    asked = Asked()
    with peer(asked.port, "ask") as seen:
        child = CMID(expect(asked.channel, "CONNECT_REQUEST"), listen_id=asked.listener)
        child.reject(b"not now")
        with pytest.raises(PyverbsRDMAError):
            child.reject()
    assert seen[4:] == ["REJECTED", "not now"]
    child.close()
    asked.listener.close()


def dialed(port: str) -> tuple[CMID, CMEventChannel]:
    """Connect to a port with events."""
    channel = CMEventChannel()
    cmid = CMID(channel)
    cmid.resolve_addr(AddrInfo(dst="127.0.0.1", dst_service=port))
    cmid.resolve_route()
    for kind in ("ADDR_RESOLVED", "ROUTE_RESOLVED"):
        expect(channel, kind)
    cmid.create_qp(INIT)
    cmid.connect(ConnParam(data=b"hello"))
    return cmid, channel


def take(sock: socket.socket) -> StartFrame:
    head = sock.recv(20, socket.MSG_WAITALL)
    return read_frame(head + sock.recv(int.from_bytes(head[18:], "big"), socket.MSG_WAITALL), False)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


@pytest.mark.parametrize("at", [0, 10, 20, 24, 30, 52, 60, 80])
def test_messages_glued_to_the_reply(at: int, server: socket.socket) -> None:
    cmid, channel = dialed(str(server.getsockname()[1]))
    inboxes = [cmid.reg_msgs(16) for _ in range(2)]
    for inbox in inboxes:
        cmid.post_recv(inbox)
    with server.accept()[0] as sock:
        assert take(sock).private == b"hello"
        reply = StartFrame(True, ird=1, ord=1).pack()
        data = reply + untagged(Op.SEND, 0, 1, b"first", crc=False) + untagged(Op.SEND, 0, 2, b"second", crc=False)
        sock.sendall(data[:at])
        if at >= len(reply):
            expect(channel, "ESTABLISHED")  # so that the pieces are two
        sock.sendall(data[at:])
        if at < len(reply):
            expect(channel, "ESTABLISHED")
        assert [cmid.get_recv_comp().status for _ in range(2)] == [0, 0]
        assert [inbox.read(6) for inbox in inboxes] == [b"first\0", b"second"]
        sock.close()
        expect(channel, "DISCONNECTED")
    cmid.close()


def test_silence_is_unreachable(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "START_TIMEOUT_S", 0.1)
    cmid, channel = dialed(str(server.getsockname()[1]))
    expect(channel, "UNREACHABLE")
    cmid.close()


def test_strangers_are_an_error(server: socket.socket) -> None:
    cmid, channel = dialed(str(server.getsockname()[1]))
    with server.accept()[0] as sock:
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n")
        expect(channel, "CONNECT_ERROR")
    cmid.close()


def test_nobody_listens() -> None:
    cmid, channel = dialed(free_port())
    assert expect(channel, "REJECTED").private_data == b""
    cmid.close()


def test_address_that_is_none() -> None:
    with pytest.raises(PyverbsRDMAError) as caught:
        CMID(AddrInfo(dst="no-such-host.invalid", dst_service="7471"), INIT).connect()
    assert caught.value.error_code == errno.EADDRNOTAVAIL


def test_connection_without_a_queue_pair(server: socket.socket) -> None:
    """The number a program gave is none: it is told, and the connection is closed."""
    channel = CMEventChannel()
    cmid = CMID(channel)
    cmid.resolve_addr(AddrInfo(dst="127.0.0.1", dst_service=str(server.getsockname()[1])))
    cmid.resolve_route()
    for kind in ("ADDR_RESOLVED", "ROUTE_RESOLVED"):
        expect(channel, kind)
    cmid.connect(ConnParam(qp_num=999))
    with server.accept()[0] as sock:
        take(sock)
        sock.sendall(StartFrame(True, ird=1, ord=1).pack())
        expect(channel, "CONNECT_ERROR")
        assert sock.recv(1) == b""
    cmid.close()


def test_port_of_another_program(server: socket.socket) -> None:
    cmid = CMID(AddrInfo(src="127.0.0.1", src_service=str(server.getsockname()[1]), flags=1), INIT)
    with pytest.raises(PyverbsRDMAError) as caught:
        cmid.listen()
    assert caught.value.error_code == errno.EADDRINUSE
    cmid.close()


def test_client_that_says_nothing_of_use_disturbs_nobody() -> None:
    asked = Asked()
    with socket.create_connection(("127.0.0.1", int(asked.port))) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(10) == b""
    with socket.create_connection(("127.0.0.1", int(asked.port))) as sock:
        sock.sendall(StartFrame(False, ird=1, ord=1, private=b"me").pack())
        request = CMEvent(asked.channel)
        assert request.private_data == b"me"
    CMID(request, listen_id=asked.listener).close()
    asked.listener.close()


@pytest.mark.slow
def test_forked_child_has_none_of_its_parents_connections(server: socket.socket) -> None:
    cmid, channel = dialed(str(server.getsockname()[1]))
    with server.accept()[0] as sock:
        take(sock)
        child = os.fork()
        if not child:
            os._exit(0 if not wire._wires else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        sock.sendall(StartFrame(True, ird=1, ord=1).pack())
        expect(channel, "ESTABLISHED")
        cmid.disconnect()
        expect(channel, "DISCONNECTED")
    cmid.close()
