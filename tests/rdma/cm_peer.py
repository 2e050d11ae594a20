"""The other process of the connection manager's tests: `python -m tests.rdma.cm_peer PORT WHAT`, which connects and does it.

It prints what it saw as JSON. WHAT: `read` and `write` reach into memory of a listener that does nothing meanwhile; `leave` sends
a message and disconnects; `ask` connects with events and tells how that ended.
"""

import json
import struct
import sys

from transport.rdma.pyverbs.cmid import CMID, NAMES, AddrInfo, CMEvent, CMEventChannel, ConnParam
from transport.rdma.pyverbs.driver import use_profile
from transport.rdma.pyverbs.qp_attr import QPCap, QPInitAttr

__all__ = ["INIT", "PLACE"]

PLACE = struct.Struct("<QI")
INIT = QPInitAttr(qp_type=2, cap=QPCap(8, 8))


def waiting(port: str, what: str) -> list[object]:
    """Connect with calls that wait, learn of a place from a message, and use it."""
    cmid = CMID(AddrInfo(dst="127.0.0.1", dst_service=port), INIT)
    hello = cmid.reg_msgs(64)
    cmid.post_recv(hello)
    cmid.connect(ConnParam(data=b"let me in"))
    mine = cmid.reg_write(4096)
    mine.write("from afar", 9)
    cmid.post_send(mine, length=9)
    seen: list[object] = [cmid.get_send_comp().status, cmid.get_recv_comp().status]
    addr, rkey = PLACE.unpack(hello.read(PLACE.size))
    if what == "read":
        cmid.post_read(mine, 4096, addr, rkey, flags=2)
        seen += [cmid.get_send_comp().status, mine.read(5).decode()]
    elif what == "write":
        cmid.post_write(mine, 4096, addr, rkey, flags=2)
        seen.append(cmid.get_send_comp().status)
        cmid.post_read(mine, 8, addr, rkey, flags=2)  # once it is answered, the write has been placed
        seen.append(cmid.get_send_comp().status)
    cmid.disconnect()
    seen.append(int(cmid._own_qp().qp_state))
    cmid.close()
    return seen


def asking(port: str) -> list[object]:
    """Connect with events; tell each, with its private data."""
    channel = CMEventChannel()
    cmid = CMID(channel)
    seen: list[object] = []
    cmid.resolve_addr(AddrInfo(dst="127.0.0.1", dst_service=port))
    cmid.resolve_route()
    cmid.create_qp(INIT)
    cmid.connect(ConnParam(data=b"may I", resources=3, depth=2))
    for _ in range(3):
        event = CMEvent(channel)
        seen += [NAMES[event.event_type].removeprefix("RDMA_CM_EVENT_"), event.private_data.decode()]
    if seen[-2] == "ESTABLISHED":
        event = CMEvent(channel)
        seen += [NAMES[event.event_type].removeprefix("RDMA_CM_EVENT_"), event.private_data.decode()]
    cmid.close()
    return seen


if __name__ == "__main__":
    use_profile(sys.argv[3] if len(sys.argv) > 3 else "connectx")
    result = asking(sys.argv[1]) if sys.argv[2] == "ask" else waiting(sys.argv[1], sys.argv[2])
    sys.stdout.write(json.dumps(result))
