"""Trio shell. pyverbs.cmid: connection management between identifiers, of one process or of two, as librdmacm has it.

A service that an identifier of this process listens to is reached inside it, over the memory fabric. Any other is a TCP port,
and the connection is iWARP (`wire.py`). With an event channel nothing blocks but taking an event; without one, connect and
get_request wait. Datagrams and multicast are not connected. Regions made by `reg_msgs` and its like own their memory.
"""

import errno
from collections import deque
from typing import Final

from transport.rdma.cm_id import CmEvent, CmEventType, CmId, CmParam
from transport.rdma.enums import Access, Opcode, QPState, QPType, SendFlag
from transport.rdma.errors import VerbsError
from transport.rdma.iwarp.mpa import MpaError
from transport.rdma.pyverbs import cm_enums, driver, wire
from transport.rdma.pyverbs.addr import AHAttr, GlobalRoute
from transport.rdma.pyverbs.base import PyverbsObject
from transport.rdma.pyverbs.cq import CQ, WC
from transport.rdma.pyverbs.device import Context
from transport.rdma.pyverbs.mr import MR
from transport.rdma.pyverbs.pd import PD
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError, translated
from transport.rdma.pyverbs.qp import QP
from transport.rdma.pyverbs.qp_attr import QPAttr, QPInitAttr
from transport.rdma.pyverbs.wire import Wire
from transport.rdma.pyverbs.wr import SGE, RecvWR, SendWR
from transport.rdma.qp import QP as DeviceQP  # noqa: N811 - a class
from transport.rdma.qp_table import TABLE

__all__ = ["CMID", "AddrInfo", "CMEvent", "CMEventChannel", "ConnParam", "JoinMCAttrEx", "UDParam"]

EVENTS: Final = cm_enums.ENUMS["rdma_cm_event_type"]
NAMES: Final = {number: name for name, number in EVENTS.items()}
PS_TCP: Final = 0x0106
PASSIVE: Final = 1
MAX_DEPTH: Final = 128
MTU_1024: Final = 3
ACK_TIMEOUT: Final = (0, 3)
"""Level and name of the one option that changes something."""
REMOTE: Final = int(Access.LOCAL_WRITE | Access.REMOTE_READ | Access.REMOTE_WRITE)
_listeners: Final[dict[str, "CMID"]] = {}


class AddrInfo:
    """Where to listen or to connect to: an address and a port, or a service of this process."""

    def __init__(
        self,
        src: str | None = None,
        dst: str | None = None,
        src_service: str | None = None,
        dst_service: str | None = None,
        port_space: int = PS_TCP,
        flags: int = 0,
    ) -> None:
        self.src = src
        self.dst = dst
        self.src_service = src_service
        self.dst_service = dst_service
        self.port_space = port_space
        self.flags = int(flags)


class ConnParam:
    """What one side of a connection offers: READs it answers, READs it has in flight, private data."""

    def __init__(
        self,
        resources: int = 1,
        depth: int = 1,
        flow_control: int = 0,
        retry: int = 5,
        rnr_retry: int = 5,
        srq: int = 0,
        qp_num: int = 0,
        data_len: int = 0,
        data: bytes = b"",
    ) -> None:
        self.resources = resources
        self.depth = depth
        self.flow_control = flow_control
        self.retry = retry
        self.rnr_retry = rnr_retry
        self.srq = srq
        self.qp_num = qp_num
        self.data = data

    def offer(self, roce: bool) -> CmParam:
        """Return what goes to a peer of another process. roce: the device has RoCE's rules."""
        return CmParam(self.data, min(self.resources, MAX_DEPTH), min(self.depth, MAX_DEPTH), roce=roce)


class UDParam:
    """Parameters of a datagram connection, which is not emulated."""

    def __init__(self, *args: object) -> None:
        raise PyverbsRDMAError("Datagram connections are not emulated", errno.EOPNOTSUPP)


class JoinMCAttrEx(UDParam):
    """Parameters of a multicast group, which is not emulated."""


class CMEventChannel(PyverbsObject):
    """A queue of connection events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: deque[tuple[int, CMID | Wire, bytes]] = deque()


class CMEvent:
    """The next event of a channel, waited for."""

    def __init__(self, channel: CMEventChannel) -> None:
        while not channel.events:
            driver.wait_a_little()
        self.event_type, self.id, self.private_data = channel.events.popleft()

    def event_str(self) -> str:
        """Name the event."""
        return NAMES[self.event_type]

    def ack_cm_event(self) -> None:
        """Acknowledge the event; nothing waits for that here."""


class CMID(PyverbsObject):
    """A communication identifier: made from an address, on a channel, or from a connect request."""

    def __init__(
        self,
        creator: "AddrInfo | CMEventChannel | CMEvent | CMID | Wire",
        qp_init_attr: QPInitAttr | None = None,
        listen_id: "CMID | None" = None,
        port_space: int = PS_TCP,
    ) -> None:
        super().__init__()
        if port_space != PS_TCP:
            raise PyverbsRDMAError("Only connections are emulated", errno.EOPNOTSUPP)
        self.port_space = port_space
        self.event_channel: CMEventChannel | None = None
        self.info: AddrInfo | None = None
        self.qp_init_attr = qp_init_attr
        self.requests: deque[CMID | Wire] = deque()
        self.wire: Wire | None = None
        self.door: wire.Door | None = None
        self.timeout = 14
        self.peer: CMID | None = None
        self.param = ConnParam()
        self.outcome: int | None = None
        self.refusal = b""
        self.qp: QP | None = None
        self.cqs: list[CQ] = []
        self.service: str | None = None
        if isinstance(creator, CMEventChannel):
            self.event_channel = creator
        elif isinstance(creator, CMEvent):
            self.event_channel = listen_id.event_channel if listen_id is not None else None
            self._answer(creator.id)
        elif isinstance(creator, CMID | Wire):
            self._answer(creator)
        else:
            self.info = creator
        self.context = Context(name=next(iter(driver.DEVICES)))
        self.pd = PD(self.context)
        if isinstance(creator, AddrInfo) and qp_init_attr is not None and not creator.flags & PASSIVE:
            self.create_qp(qp_init_attr)

    def _answer(self, request: "CMID | Wire") -> None:
        """Become the passive end of a request."""
        if isinstance(request, Wire):
            self.wire = request
            request.tell = self._on_wire
        else:
            self.peer = request
            request.peer = self

    def _tell(self, name: str, data: bytes = b"", about: "CMID | Wire | None" = None) -> None:
        if self.event_channel is not None:
            self.event_channel.events.append((EVENTS[f"RDMA_CM_EVENT_{name}"], about or self, data))

    # ---- addresses

    def bind_addr(self, lai: AddrInfo) -> None:
        """Take the local address."""
        self.info = lai

    def resolve_addr(self, rai: AddrInfo, timeout_ms: int = 2000) -> None:
        """Take the peer's address; the event follows at once."""
        self.info = rai
        self._tell("ADDR_RESOLVED")

    def resolve_route(self, timeout_ms: int = 2000) -> None:
        """Find the way there; the event follows at once."""
        self._tell("ROUTE_RESOLVED")

    def set_option(self, level: int, optname: int, optval: int, optlen: int = 0) -> None:
        """Take an option: the code of the queue pair's timeout; others change nothing here."""
        if (int(level), int(optname)) == ACK_TIMEOUT:
            self.timeout = int(optval)

    # ---- the passive end

    def listen(self, backlog: int = 0) -> None:
        """Take connect requests to the service.

        Raises: PyverbsRDMAError EADDRINUSE when another listens there.
        """
        service = self.info.src_service if self.info is not None else None
        if service is None:
            raise PyverbsUserError("a listener needs a service")
        if service in _listeners:
            raise PyverbsRDMAError("Failed to listen", errno.EADDRINUSE)
        if service.isdecimal():
            try:
                self.door = wire.listen(self.info.src if self.info is not None else None, service, self._on_request)
            except OSError as error:
                raise PyverbsRDMAError("Failed to listen", error.errno or errno.EADDRNOTAVAIL) from error
        _listeners[service] = self
        self.service = service

    def get_request(self) -> "CMID":
        """Wait for a request and return its passive end."""
        while not self.requests:
            driver.wait_a_little()
        child = CMID(self.requests.popleft())
        if self.qp_init_attr is not None:
            child.create_qp(self.qp_init_attr)
        return child

    def accept(self, param: ConnParam | None = None) -> None:
        """Accept the request: both ends' own queue pairs go to RTS."""
        self.param = param or ConnParam()
        if self.wire is not None:
            with driver.lock:
                try:
                    reply = self.wire.ident.accept(self.param.offer(self._roce()))
                    self._attach(self.wire)
                except (MpaError, VerbsError) as error:
                    raise PyverbsRDMAError("Failed to accept", error.errno) from error
                wire.answer(self.wire, reply)
            return
        peer = self._partner()
        for one in (self, peer):
            if one.qp is not None:
                attr, _ = one.init_qp_attr(QPState.RTS)
                one.qp.to_rts(attr)
        peer.outcome = 0
        if peer.qp is None:
            peer._tell("CONNECT_RESPONSE", self.param.data)
        else:
            peer._tell("ESTABLISHED", self.param.data)
            self._tell("ESTABLISHED")

    def reject(self, private_data: bytes | None = None) -> None:
        """Refuse the request."""
        if self.wire is not None:
            with driver.lock, translated("Failed to reject"):
                wire.answer(self.wire, self.wire.ident.reject(private_data or b""))
            return
        peer = self._partner()
        peer.outcome = errno.ECONNREFUSED
        peer._tell("REJECTED", private_data or b"")

    def _partner(self) -> "CMID":
        if self.peer is None:
            raise PyverbsRDMAError("Not connected", errno.EINVAL)
        return self.peer

    # ---- the active end

    def connect(self, param: ConnParam | None = None) -> None:
        """Send a connect request; without a channel, wait for its outcome.

        Raises: PyverbsRDMAError ECONNREFUSED when it is refused or nobody listens.
        """
        self.param = param or ConnParam()
        listener = _listeners.get(self.info.dst_service or "") if self.info is not None else None
        if listener is None:
            self._dial()
        elif listener.event_channel is not None:
            listener._tell("CONNECT_REQUEST", self.param.data, about=self)
        else:
            listener.requests.append(self)
        if self.event_channel is not None:
            return
        while self.outcome is None:
            driver.wait_a_little()
        if self.outcome:
            raise PyverbsRDMAError("Failed to connect", self.outcome)

    def establish(self) -> None:
        """Complete a connection whose queue pair is the program's own."""
        if self.wire is not None:
            with driver.lock, translated("Failed to establish"):
                self.wire.ident.establish()
            return
        self._partner()._tell("ESTABLISHED")

    def disconnect(self) -> None:
        """End the connection: both queue pairs go to ERR and flush."""
        if self.wire is not None:
            with driver.lock, translated("Failed to disconnect"):
                self.wire.disconnect()
            return
        for one in (self, self.peer):
            if one is not None and one.qp is not None:
                one.qp.qp.enter_error()
            if one is not None and self.outcome != errno.ENOTCONN:
                one._tell("DISCONNECTED")
        for one in (self, self.peer):
            if one is not None:
                one.outcome = errno.ENOTCONN

    # ---- a peer of another process

    def _on_request(self, request: Wire, event: CmEvent) -> None:
        """Take what a client that came to this listener is about."""
        if event.type is not CmEventType.CONNECT_REQUEST:
            return
        if self.event_channel is not None:
            self._tell("CONNECT_REQUEST", event.private, about=request)
        else:
            self.requests.append(request)

    def _roce(self) -> bool:
        return not self.context.handle.device.profile.iwarp

    def _dial(self) -> None:
        """Connect to a port of wherever the address leads."""
        info = self.info or AddrInfo()
        ident = CmId(external=self.qp is None)
        ident.resolve_addr()
        ident.addr_found()
        ident.resolve_route()
        ident.events.clear()  # these were told when the program asked
        with driver.lock, translated("Failed to connect"):
            try:
                self.wire = wire.dial(info.dst, info.dst_service or "", ident, self.param.offer(self._roce()), self._on_wire)
            except OSError as error:
                raise PyverbsRDMAError("Failed to connect", error.errno or errno.EADDRNOTAVAIL) from error

    def _on_wire(self, connection: Wire, event: CmEvent) -> None:
        """Take an event of the connection: the queue pair follows, and the program is told."""
        self.wire = connection
        active = bool(connection.request)
        if event.type in (CmEventType.ESTABLISHED, CmEventType.CONNECT_RESPONSE):
            try:
                if active:
                    self._attach(connection)
            except PyverbsRDMAError as error:
                connection.drop()
                event = CmEvent(CmEventType.CONNECT_ERROR, error.error_code)
            self.outcome = event.status
        elif event.type is CmEventType.DISCONNECTED:
            self.outcome = errno.ENOTCONN
        else:
            self.outcome = event.status
        self._tell(event.type.name, event.private)

    def _attach(self, connection: Wire) -> None:
        """Put the identifier's queue pair, or the program's, on a connection; its own goes to RTS."""
        qp: DeviceQP | None = self.qp.qp if self.qp is not None else self.context.handle.device.qps.get(self.param.qp_num)
        if qp is None:
            raise PyverbsRDMAError("The connection has no queue pair", errno.EINVAL)
        connection.attach(qp)
        if self.qp is not None:
            attr, _ = self.init_qp_attr(QPState.RTS)
            self.qp.to_rts(attr)

    def set_local_ece(self, ece: object) -> None:
        """Raise EOPNOTSUPP: there are no enhanced connection options."""
        raise PyverbsRDMAError("Failed to set local ECE", errno.EOPNOTSUPP)

    def get_remote_ece(self) -> object:
        """Raise EOPNOTSUPP."""
        raise PyverbsRDMAError("Failed to get remote ECE", errno.EOPNOTSUPP)

    # ---- the queue pair

    def query_qp(self, attr_mask: int) -> tuple[QPAttr, QPInitAttr]:
        """Return the attributes of the identifier's queue pair and what it was made of."""
        return self._own_qp().query(attr_mask)

    def create_qp(self, qp_init_attr: QPInitAttr) -> None:
        """Create the identifier's own queue pair, with its own completion queues, in INIT."""
        cap = qp_init_attr.cap
        self.cqs = [CQ(self.context, cap.max_send_wr + 1), CQ(self.context, cap.max_recv_wr + 1)]
        init = QPInitAttr(QPType.RC, None, self.cqs[0], self.cqs[1], qp_init_attr.srq, cap)
        attr = QPAttr()
        attr.qp_access_flags = REMOTE
        self.qp = QP(self.pd, init, attr)

    @property
    def qpn(self) -> int:
        """Number of the identifier's queue pair, or of the program's."""
        return self.qp.qp_num if self.qp is not None else self.param.qp_num

    def init_qp_attr(self, qp_state: int) -> tuple[QPAttr, int]:
        """Return the attributes that bring a queue pair of this connection to a state, and their mask."""
        state = QPState(int(qp_state))
        before = {QPState.INIT: QPState.RESET, QPState.RTR: QPState.INIT, QPState.RTS: QPState.RTR}[state]
        attr = QPAttr(qp_state=state, path_mtu=MTU_1024)
        attr.qp_access_flags = REMOTE
        attr.min_rnr_timer, attr.timeout, attr.retry_cnt = 12, self.timeout, min(7, self.param.retry)
        attr.rnr_retry = min(7, self.param.rnr_retry)
        if self.peer is not None:
            peer = self.peer
            attr.dest_qp_num = attr.rq_psn = peer.qpn
            attr.sq_psn = self.qpn
            attr.max_rd_atomic = min(self.param.depth, peer.param.resources)
            attr.max_dest_rd_atomic = max(self.param.resources, min(1, peer.param.depth))
            attr.ah_attr = AHAttr(is_global=1, port_num=1, gr=GlobalRoute(dgid=peer.context.query_gid(1, 0)))
        elif self.wire is not None:
            # On a stream addresses and packet numbers mean nothing: they are the queue pair's own.
            settled = self.wire.ident.settled
            attr.dest_qp_num = attr.rq_psn = attr.sq_psn = self.qpn
            attr.max_rd_atomic = settled.ord if settled is not None else self.param.depth
            attr.max_dest_rd_atomic = settled.ird if settled is not None else self.param.resources
            attr.ah_attr = AHAttr(is_global=1, port_num=1, gr=GlobalRoute(dgid=self.context.query_gid(1, 0)))
        return attr, int(TABLE[QPType.RC][before, state][0]) | 1

    # ---- memory and traffic

    def reg_msgs(self, size: int) -> MR:
        """Register memory for messages."""
        return MR(self.pd, size, Access.LOCAL_WRITE)

    def reg_read(self, size: int) -> MR:
        """Register memory that the peer may read."""
        return MR(self.pd, size, Access.LOCAL_WRITE | Access.REMOTE_READ)

    def reg_write(self, size: int) -> MR:
        """Register memory that the peer may write."""
        return MR(self.pd, size, Access.LOCAL_WRITE | Access.REMOTE_WRITE)

    def _own_qp(self) -> QP:
        if self.qp is None:
            raise PyverbsUserError("the identifier has no queue pair of its own")
        return self.qp

    def post_recv(self, mr: MR, length: int | None = None) -> None:
        """Receive into a region."""
        self._own_qp().post_recv(RecvWR(num_sge=1, sg=[SGE(mr.buf, length or mr.length, mr.lkey)]))

    def post_send(self, mr: MR, flags: int = SendFlag.SIGNALED, length: int | None = None) -> None:
        """Send a region."""
        sge = SGE(mr.buf, length or mr.length, mr.lkey)
        self._own_qp().post_send(SendWR(opcode=Opcode.SEND, num_sge=1, sg=[sge], send_flags=flags))

    def _one_sided(self, opcode: Opcode, mr: MR, length: int, remote_addr: int, rkey: int, flags: int) -> None:
        wr = SendWR(opcode=opcode, num_sge=1, sg=[SGE(mr.buf, length, mr.lkey)], send_flags=flags)
        wr.set_wr_rdma(rkey, remote_addr)
        self._own_qp().post_send(wr)

    def post_read(self, mr: MR, length: int, remote_addr: int, rkey: int, flags: int = 0) -> None:
        """Read from the peer into a region."""
        self._one_sided(Opcode.READ, mr, length, remote_addr, rkey, flags)

    def post_write(self, mr: MR, length: int, remote_addr: int, rkey: int, flags: int = 0) -> None:
        """Write a region to the peer."""
        self._one_sided(Opcode.WRITE, mr, length, remote_addr, rkey, flags)

    def _completion(self, index: int) -> WC:
        self._own_qp()
        while True:
            count, wcs = self.cqs[index].poll(1)
            if count:
                return wcs[0]
            driver.wait_a_little()

    def get_send_comp(self) -> WC:
        """Wait for the completion of a send."""
        return self._completion(0)

    def get_recv_comp(self) -> WC:
        """Wait for the completion of a receive."""
        return self._completion(1)

    def destroy(self) -> None:
        """Stop listening and close what the identifier has."""
        if self.service is not None:
            _listeners.pop(self.service, None)
        if self.door is not None:
            self.door.close()
        if self.wire is not None:
            with driver.lock:
                self.wire.drop()
        self.context.close()
