"""Sans-IO. A memory fabric's requests as packets: RoCEv2, or iWARP for devices of that kind, which nobody ever sent.

`capture_fabric(fabric, capture)` puts itself around what carries requests out, so that a fabric without it does nothing more. The
packets of a request are written before it is carried out, answers after that: what a completion sets off in between is seen in
between. Numbers of packets, keys and addresses are the device's own; device n has the address 10.0.0.n. Each packet has the id
of its work request. A request that a control point drops before it is sent is not seen. Payload is lent by the request.
"""

import ipaddress
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from transport.rdma.ah import AddressVector
from transport.rdma.capture import Capture
from transport.rdma.capture_iwarp import IwarpFlow
from transport.rdma.enums import Access, FlushLevel, Opcode, QPType, SendFlag, WcStatus
from transport.rdma.iwarp.ddp import cut
from transport.rdma.operations import HANDLERS, gather, local_views
from transport.rdma.packets import IPAddress, Place
from transport.rdma.responder import RNR
from transport.rdma.rocev2 import (
    NO_CREDITS,
    PORT,
    Nak,
    Packet,
    RcOp,
    ack_header,
    atomic_header,
    datagram_header,
    remote_header,
)
from transport.rdma.wr import SendWR

if TYPE_CHECKING:
    from transport.rdma.device import Device
    from transport.rdma.memory_fabric import MemoryFabric
    from transport.rdma.qp import QP
    from transport.rdma.requester import Requester

__all__ = ["address_of", "capture_fabric"]

SOLICITED: Final = int(SendFlag.SOLICITED)
LOCAL_WRITE: Final = int(Access.LOCAL_WRITE)
SINK: Final = int(Access.LOCAL_WRITE | Access.REMOTE_WRITE)
FLOW_PORTS: Final = 0xC000
NETWORK: Final = int(ipaddress.IPv4Address("10.0.0.0"))
SENDS: Final = frozenset({int(Opcode.SEND), int(Opcode.SEND_WITH_IMM), int(Opcode.SEND_WITH_INV)})
WRITES: Final = frozenset({int(Opcode.WRITE), int(Opcode.WRITE_WITH_IMM)})
ATOMICS: Final = frozenset({int(Opcode.CMP_AND_SWP), int(Opcode.FETCH_AND_ADD)})
CARRIED: Final = SENDS | WRITES | ATOMICS | {int(Opcode.READ), int(Opcode.FLUSH), int(Opcode.ATOMIC_WRITE)}
SEND_OPS: Final = (RcOp.SEND_FIRST, RcOp.SEND_MIDDLE, RcOp.SEND_LAST, RcOp.SEND_ONLY)
WRITE_OPS: Final = (RcOp.WRITE_FIRST, RcOp.WRITE_MIDDLE, RcOp.WRITE_LAST, RcOp.WRITE_ONLY)
READ_OPS: Final = (RcOp.READ_FIRST, RcOp.READ_MIDDLE, RcOp.READ_LAST, RcOp.READ_ONLY)
ENDS: Final[dict[int, tuple[RcOp, RcOp]]] = {
    int(Opcode.SEND_WITH_IMM): (RcOp.SEND_LAST_IMM, RcOp.SEND_ONLY_IMM),
    int(Opcode.SEND_WITH_INV): (RcOp.SEND_LAST_INV, RcOp.SEND_ONLY_INV),
    int(Opcode.WRITE_WITH_IMM): (RcOp.WRITE_LAST_IMM, RcOp.WRITE_ONLY_IMM),
}
NAKS: Final = {
    int(WcStatus.REM_INV_REQ_ERR): Nak.INVALID_REQUEST,
    int(WcStatus.REM_ACCESS_ERR): Nak.REMOTE_ACCESS,
    int(WcStatus.REM_OP_ERR): Nak.REMOTE_OPERATIONAL,
}
Carry = Callable[["Requester", SendWR], int]


def address_of(device: "Device") -> IPAddress:
    """Return the address that a device has in captures."""
    return ipaddress.IPv4Address(NETWORK + device.lid)


def capture_fabric(fabric: "MemoryFabric", capture: Capture) -> None:
    """Have a capture show all that queue pairs of a fabric do to each other from now on."""
    watcher = _Watcher(fabric, capture)
    handlers: dict[int, Carry] = dict(HANDLERS)
    for opcode in CARRIED:
        handlers[opcode] = partial(watcher.carry, HANDLERS[opcode])
    fabric.handlers = handlers
    for device in fabric.devices:
        for qp in device.qps.values():
            if qp.link is None:
                qp.requester.handlers = handlers


class _Watcher:
    """Write what requests look like. messages: completed by each responder; flows: the streams between iWARP queue pairs."""

    def __init__(self, fabric: "MemoryFabric", capture: Capture) -> None:
        self.fabric = fabric
        self.capture = capture
        self.messages: dict[tuple[int, int], int] = {}
        self.flows: dict[frozenset[tuple[int, int]], IwarpFlow] = {}

    def carry(self, inner: Carry, requester: "Requester", wr: SendWR) -> int:
        """Carry a request out and write its packets."""
        qp = requester.qp
        if wr.opcode in ATOMICS or wr.opcode == Opcode.READ:
            sink = requester.iwarp and wr.opcode == Opcode.READ
            views = local_views(qp, wr.sges, SINK if sink else LOCAL_WRITE)
        else:
            views = gather(requester, wr)
        if views is None or sum(map(len, views)) > requester.max_msg:
            return inner(requester, wr)  # it fails before anything is sent
        if qp.qp_type is QPType.UD:
            self._datagram(qp, wr, views)
            return inner(requester, wr)
        far = self._far(qp)
        if requester.iwarp:
            return self._stream(qp, far).carry(inner, requester, wr, views)
        return _Exchange(self, requester, wr, views, far).run(inner)

    def _far(self, qp: "QP") -> "Device | None":
        return self._at(qp.attr.av)

    def _at(self, av: AddressVector) -> "Device | None":
        return self.fabric.by_lid.get(av.dlid) if av.dgid is None else self.fabric.by_gid.get(av.dgid)

    def _stream(self, qp: "QP", far: "Device | None") -> IwarpFlow:
        near, peer = (qp.device.lid, qp.qp_num), (far.lid if far is not None else 0, qp.attr.dest_qpn)
        key = frozenset((near, peer))
        flow = self.flows.get(key)
        if flow is None:
            places = [(ipaddress.IPv4Address(NETWORK + lid), FLOW_PORTS + qpn) for lid, qpn in (near, peer)]
            flow = self.flows[key] = IwarpFlow(self.capture, places[0], places[1], near, qp.attr)
        return flow

    def count(self, device: "Device", qpn: int) -> None:
        """Count a message that a responder has completed."""
        self.messages[device.lid, qpn] = self.completed(device, qpn) + 1

    def completed(self, device: "Device", qpn: int) -> int:
        """Return how many messages a responder has completed."""
        return self.messages.get((device.lid, qpn), 0)

    def _datagram(self, qp: "QP", wr: SendWR, views: list[memoryview]) -> None:
        far = None if wr.ah is None else self._at(wr.ah.av)
        if far is None or sum(map(len, views)) > qp.device.profile.mtu_bytes:
            return
        headers = datagram_header(qp.attr.qkey if wr.remote_qkey & 1 << 31 else wr.remote_qkey, qp.qp_num)
        op = RcOp.UD_SEND_ONLY
        if wr.opcode == Opcode.SEND_WITH_IMM:
            op, headers = RcOp.UD_SEND_ONLY_IMM, headers + wr.imm.to_bytes(4, "big")
        packet = Packet(
            place_of(qp.device, qp.qp_num), place_of(far, None), op, wr.remote_qpn, 0, headers, views,
            solicited=bool(wr.flags & SOLICITED), number=self.capture.packets,
        )  # fmt: skip
        self.capture.packet(packet.views, f"wr_id {wr.wr_id} {Opcode(wr.opcode).name}")


def place_of(device: "Device", qpn: int | None) -> Place:
    """Return where a device's packets come from, its port telling the queue pair; or where they go (None)."""
    return address_of(device), PORT if qpn is None else FLOW_PORTS | qpn & 0x3FFF


class _Exchange:
    """One request of a reliable connection and its answer. far: the device it goes to."""

    def __init__(
        self, watcher: _Watcher, requester: "Requester", wr: SendWR, views: list[memoryview], far: "Device | None"
    ) -> None:
        self.watcher = watcher
        self.capture = watcher.capture
        self.requester = requester
        self.qp = requester.qp
        self.wr = wr
        self.views = views
        self.length = sum(map(len, views))
        self.far = far
        self.psn = requester.psn
        self.mtu = 128 << self.qp.attr.path_mtu
        self.comment = f"wr_id {wr.wr_id} {Opcode(wr.opcode).name}"

    def run(self, inner: Carry) -> int:
        """Write the request, carry it out, write the answer."""
        if self.far is None:
            return inner(self.requester, self.wr)
        last = self._request()
        status = inner(self.requester, self.wr)
        qpn = self.qp.attr.dest_qpn
        if status == 0:
            if not self.requester.duplicate:
                self.watcher.count(self.far, qpn)
            self._answer(last)
        elif status == RNR:
            peer = self.far.qps.get(qpn)
            self._reply(RcOp.ACKNOWLEDGE, self.psn, Nak.RNR | (peer.attr.min_rnr_timer if peer is not None else 0))
        elif status in NAKS:
            self._reply(RcOp.ACKNOWLEDGE, self.psn, NAKS[status])
        return status

    # ---- the requester's packets

    def _send(self, op: int, psn: int, headers: bytes, pieces: list[memoryview], *, last: bool) -> None:
        assert self.far is not None
        solicited = last and bool(self.wr.flags & SOLICITED) and self.wr.opcode != Opcode.WRITE
        packet = Packet(
            place_of(self.qp.device, self.qp.qp_num), place_of(self.far, None), op, self.qp.attr.dest_qpn, psn, headers, pieces,
            ack_request=last, solicited=solicited, number=self.capture.packets,
        )  # fmt: skip
        self.capture.packet(packet.views, self.comment)

    def _request(self) -> int:
        """Write the request; return the number of its last packet."""
        wr, opcode = self.wr, self.wr.opcode
        if opcode in SENDS:
            return self._message(SEND_OPS, b"")
        if opcode in WRITES:
            return self._message(WRITE_OPS, remote_header(wr.remote_addr, wr.rkey, self.length))
        if opcode == Opcode.READ:
            self._send(RcOp.READ_REQUEST, self.psn, remote_header(wr.remote_addr, wr.rkey, self.length), [], last=True)
            return self.psn + max(1, -(-self.length // self.mtu)) - 1
        if opcode in ATOMICS:
            op, swap_add, compare = RcOp.FETCH_ADD, wr.compare_add, 0
            if opcode == Opcode.CMP_AND_SWP:
                op, swap_add, compare = RcOp.COMPARE_SWAP, wr.swap, wr.compare_add
            self._send(op, self.psn, atomic_header(wr.remote_addr, wr.rkey, swap_add, compare), [], last=True)
            return self.psn
        if opcode == Opcode.ATOMIC_WRITE:
            value = self.views if wr.sges else [memoryview((wr.swap % (1 << 64)).to_bytes(8, "little"))]
            self._send(RcOp.ATOMIC_WRITE, self.psn, remote_header(wr.remote_addr, wr.rkey, 8), value, last=True)
            return self.psn
        whole = wr.flush_level == FlushLevel.MR
        what = (int(wr.flush_level) << 4 | int(wr.flush_type)).to_bytes(4, "big")
        reach = remote_header(0 if whole else wr.remote_addr, wr.rkey, 0 if whole else wr.length)
        self._send(RcOp.FLUSH, self.psn, what + reach, [], last=True)
        return self.psn

    def _message(self, ops: tuple[RcOp, RcOp, RcOp, RcOp], first_header: bytes) -> int:
        wr = self.wr
        final, only = ENDS.get(int(wr.opcode), ops[2:])
        tail = b""
        if wr.opcode == Opcode.SEND_WITH_INV:
            tail = wr.invalidate_rkey.to_bytes(4, "big")
        elif wr.opcode in (Opcode.SEND_WITH_IMM, Opcode.WRITE_WITH_IMM):
            tail = wr.imm.to_bytes(4, "big")
        psn = self.psn
        for off, _, pieces, last in cut(self.views, self.mtu):
            op = (only if last else ops[0]) if not off else (final if last else ops[1])
            self._send(op, psn, (b"" if off else first_header) + (tail if last else b""), pieces, last=last)
            psn += 1
        return psn - 1

    # ---- the responder's packets

    def _reply(self, op: int, psn: int, syndrome: int | None, more: bytes = b"", pieces: list[memoryview] | None = None) -> None:
        assert self.far is not None
        msn = self.watcher.completed(self.far, self.qp.attr.dest_qpn)
        headers = b"" if syndrome is None else ack_header(syndrome, msn)
        packet = Packet(
            place_of(self.far, self.qp.attr.dest_qpn), place_of(self.qp.device, None), op, self.qp.qp_num, psn, headers + more,
            pieces or (), number=self.capture.packets,
        )  # fmt: skip
        self.capture.packet(packet.views, self.comment)

    def _answer(self, last: int) -> None:
        opcode = self.wr.opcode
        if opcode == Opcode.READ:
            for index, (off, _, pieces, final) in enumerate(cut(self.views, self.mtu)):
                op = (READ_OPS[3] if final else READ_OPS[0]) if not off else (READ_OPS[2] if final else READ_OPS[1])
                self._reply(op, self.psn + index, None if op is RcOp.READ_MIDDLE else NO_CREDITS, b"", pieces)
        elif opcode in ATOMICS:
            old = bytearray()
            for view in self.views:
                old += view
            value = int.from_bytes(old, "little")
            self._reply(RcOp.ATOMIC_ACKNOWLEDGE, self.psn, NO_CREDITS, value.to_bytes(8, "big"))
        elif opcode in (Opcode.FLUSH, Opcode.ATOMIC_WRITE):
            self._reply(RcOp.READ_ONLY, self.psn, NO_CREDITS)
        else:
            self._reply(RcOp.ACKNOWLEDGE, last, NO_CREDITS)
