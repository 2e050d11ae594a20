"""Trio shell. pyverbs.cmid: connection management between identifiers of one process, as librdmacm has it.

Any address leads to the process's one device; a service is a listener's port. With an event channel nothing blocks but taking an
event; without one, connect and get_request wait for another thread. Datagrams and multicast are not connected. Regions made by
`reg_msgs` and its like own their memory.
"""

import errno
from collections import deque
from typing import Final

from transport.rdma.enums import Access, Opcode, QPState, QPType, SendFlag
from transport.rdma.pyverbs import cm_enums, driver
from transport.rdma.pyverbs.addr import AHAttr, GlobalRoute
from transport.rdma.pyverbs.base import PyverbsObject
from transport.rdma.pyverbs.cq import CQ, WC
from transport.rdma.pyverbs.device import Context
from transport.rdma.pyverbs.mr import MR
from transport.rdma.pyverbs.pd import PD
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError
from transport.rdma.pyverbs.qp import QP
from transport.rdma.pyverbs.qp_attr import QPAttr, QPInitAttr
from transport.rdma.pyverbs.wr import SGE, RecvWR, SendWR
from transport.rdma.qp_table import TABLE

__all__ = ["CMID", "AddrInfo", "CMEvent", "CMEventChannel", "ConnParam", "JoinMCAttrEx", "UDParam"]

EVENTS: Final = cm_enums.ENUMS["rdma_cm_event_type"]
NAMES: Final = {number: name for name, number in EVENTS.items()}
PS_TCP: Final = 0x0106
PASSIVE: Final = 1
MTU_1024: Final = 3
REMOTE: Final = int(Access.LOCAL_WRITE | Access.REMOTE_READ | Access.REMOTE_WRITE)
_listeners: Final[dict[str, "CMID"]] = {}


class AddrInfo:
    """Where to listen or to connect to; only the services matter here."""

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
        self.events: deque[tuple[int, CMID, bytes]] = deque()


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
        creator: "AddrInfo | CMEventChannel | CMEvent | CMID",
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
        self.requests: deque[CMID] = deque()
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
        elif isinstance(creator, CMID):
            self._answer(creator)
        else:
            self.info = creator
        self.context = Context(name=next(iter(driver.DEVICES)))
        self.pd = PD(self.context)
        if isinstance(creator, AddrInfo) and qp_init_attr is not None and not creator.flags & PASSIVE:
            self.create_qp(qp_init_attr)

    def _answer(self, request: "CMID") -> None:
        """Become the passive end of a request."""
        self.peer = request
        request.peer = self

    def _tell(self, name: str, data: bytes = b"", about: "CMID | None" = None) -> None:
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

    def set_option(self, level: int, optname: int, optval: object, optlen: int = 0) -> None:
        """Take an option; none changes what is emulated."""

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
        peer = self._partner()
        self.param = param or ConnParam()
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
            self.outcome = errno.ECONNREFUSED
            self._tell("REJECTED")
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
        self._partner()._tell("ESTABLISHED")

    def disconnect(self) -> None:
        """End the connection: both queue pairs go to ERR and flush."""
        for one in (self, self.peer):
            if one is not None and one.qp is not None:
                one.qp.qp.enter_error()
            if one is not None and self.outcome != errno.ENOTCONN:
                one._tell("DISCONNECTED")
        for one in (self, self.peer):
            if one is not None:
                one.outcome = errno.ENOTCONN

    # ---- the queue pair

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
        attr.min_rnr_timer, attr.timeout, attr.retry_cnt = 12, 14, min(7, self.param.retry)
        attr.rnr_retry = min(7, self.param.rnr_retry)
        if self.peer is not None:
            peer = self.peer
            attr.dest_qp_num = attr.rq_psn = peer.qpn
            attr.sq_psn = self.qpn
            attr.max_rd_atomic = min(self.param.depth, peer.param.resources)
            attr.max_dest_rd_atomic = max(self.param.resources, min(1, peer.param.depth))
            attr.ah_attr = AHAttr(is_global=1, port_num=1, gr=GlobalRoute(dgid=peer.context.query_gid(1, 0)))
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
        self.context.close()
