"""Trio shell. What may go wrong on an emulated RDMA device: a plan's faults at its control points (`transport/rdma/control.py`).

Events are `wr`, for each request that a device starts, and its opcode: `send`, `send_with_inv`, `write`, `read`, `reg_mr`,
`local_inv`. Owns no memory.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from transport.base import Limits
from transport.rdma.control import (
    Action,
    Control,
    Rule,
    drop_request,
    drop_response,
    fail,
    hold_completions,
    partial,
    release_completions,
    rnr,
)
from transport.rdma.enums import Opcode, WcStatus
from transport.rdma.requester import INFINITE_RNR
from transport.rdma.wr import WC
from trials.faults.injector import Armed, Injector

if TYPE_CHECKING:
    from transport.rdma.device import Device
    from transport.rdma.qp import QP
    from transport.rdma.requester import Requester
    from transport.rdma.wr import RecvWR, SendWR

__all__ = ["FaultyControl", "control_devices"]

OFFERED: Final = Limits().max_payload
"""The most bytes that are offered at once: so far on is outside of it. Nonsense inside of it is a lie like others."""
EVENTS: Final = {int(op): op.name.lower() for op in Opcode}
STATUSES: Final = {
    "R2": WcStatus.RNR_RETRY_EXC_ERR, "R4": WcStatus.RETRY_EXC_ERR, "R5": WcStatus.REM_ACCESS_ERR, "R6": WcStatus.LOC_PROT_ERR,
    "R7": WcStatus.REM_INV_REQ_ERR, "R8": WcStatus.REM_OP_ERR, "R18": WcStatus.RETRY_EXC_ERR, "R25": WcStatus.MW_BIND_ERR,
}  # fmt: skip


class FaultyControl(Control):
    """The control of one device, whose rules are a plan's. node: the client of the connection."""

    injector: Injector
    node: str
    nursery: trio.Nursery

    def start(self, requester: "Requester", wr: "SendWR") -> int:
        """Start a request, or have it go wrong."""
        injector = self.injector
        if injector.active:
            for one in (*injector.due("device", EVENTS[wr.opcode], self.node), *injector.due("device", "wr", self.node)):
                action = self._action(one, requester, wr)
                if action is None:
                    continue
                injector.fired(one, f"{EVENTS[wr.opcode]} on {self.device.name}")
                requester.moved = 0
                outcome = action(requester, wr, Rule(action))
                if outcome is not None:
                    return outcome
                break
        return super().start(requester, wr)

    def _action(self, one: Armed, requester: "Requester", wr: "SendWR") -> Action | None:
        """Return what is to be done with a request, None where it does not apply."""
        fault, iwarp = one.fault, requester.iwarp
        status = STATUSES.get(fault.id)
        if status is not None:
            return fail(status)
        match fault.id:
            case "R1" if not iwarp:
                return self._unready(requester)
            case "R3" if not iwarp:
                return drop_response() if fault.arg("what", "answer") == "answer" else drop_request()
            case "R9":
                return self._calling(requester.qp.enter_error)
            case "R10":
                return self._calling(requester.qp.send_cq.overrun)
            case "R11" | "R12" | "R13":
                return self._calling(lambda: self._hold(requester.qp, one))
            case "R14":
                return self._calling(lambda: self._lose(requester.qp, one))
            case "R15" if wr.opcode in {Opcode.WRITE, Opcode.READ}:
                return self._calling(lambda: self._invalidate(requester, wr))
            case "R16":
                return self._calling(lambda: setattr(wr, "rkey", wr.rkey ^ 0x5A00))
            case "X8":
                return self._calling(lambda: setattr(wr, "remote_addr", wr.remote_addr + OFFERED + one.rng.randrange(1 << 20)))
            case "R24":
                return self._calling(requester.qp.enter_error)
            case "R17" | "R19" if wr.opcode == Opcode.WRITE:
                length = 1 << 30 if fault.id == "R19" else one.rng.randrange(1, 1 << 14)
                backwards: Callable[[int], list[int]] = lambda count: list(range(count))[::-1]  # noqa: E731
                return partial(length, WcStatus.RETRY_EXC_ERR, backwards)
            case "R26":
                bogus = WC(one.rng.getrandbits(62), 0, 0, requester.qp.qp_num, 0, 0, 0, 0, 0, requester.qp, 0)
                return self._calling(lambda: requester.qp.send_cq.push(bogus))
            case _:
                return None

    def _unready(self, requester: "Requester") -> Action:
        """Answer "not ready" to one that tries again, which the queue pairs of a connection do not."""
        requester.qp.attr.rnr_retry = requester.rnr_left = INFINITE_RNR
        return rnr()

    def _calling(self, call: Callable[[], object]) -> Action:
        def act(requester: "Requester", wr: "SendWR", rule: Rule) -> int | None:
            del requester, wr, rule
            call()
            return None

        return act

    def _hold(self, qp: "QP", one: Armed) -> None:
        """Keep completions back for a while."""
        cq = qp.send_cq if one.fault.id != "R12" else qp.recv_cq
        hold_completions(cq)

        async def release() -> None:
            await trio.sleep(one.fault.arg("for_s", 0.01))
            release_completions(cq)

        self.nursery.start_soon(release)

    def _lose(self, qp: "QP", one: Armed) -> None:
        """Lose the next notification; another completion comes a while later, as on a queue that is used it does."""
        qp.send_cq.lose_events += 1

        async def tell() -> None:
            await trio.sleep(one.fault.arg("for_s", 0.01))
            cq = qp.send_cq
            cq.lose_events = 0
            if cq.entries and cq.channel is not None and cq.channel.on_event is not None:
                cq.channel.events.append(cq)
                cq.channel.on_event()

        self.nursery.start_soon(tell)

    def _invalidate(self, requester: "Requester", wr: "SendWR") -> None:
        peer = requester.find_peer()
        if peer is not None:
            mr = peer.device.mrs.get(wr.rkey)
            if mr is not None and mr.fast:
                mr.invalidate()

    def receive(self, qp: "QP", recv: "RecvWR") -> int:
        """Return the status forced upon a receive."""
        for one in self.injector.due("receive", "recv", self.node):
            self.injector.fired(one)
            return int(WcStatus.LOC_LEN_ERR)
        return super().receive(qp, recv)


def control_devices(devices: "list[Device]", injector: Injector, node: str, nursery: trio.Nursery) -> None:
    """Put the devices of a connection under a plan's control, if it has faults for them."""
    if not (injector.watches("device") or injector.watches("receive")):
        return
    for device in devices:
        control = FaultyControl(device)
        control.injector, control.node, control.nursery = injector, node, nursery
        device.control = control
