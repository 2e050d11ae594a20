"""Sans-IO. Control points: make a work request fail, wait, vanish or place half of its bytes, on purpose and repeatably.

    control = Control.attach(device)
    control.add(fail(WcStatus.REM_ACCESS_ERR), nth=3)       the third send request that starts on the device
    control.add(rnr(2), qp=qp)                              the next one on this queue pair is told "not ready" twice
    flight = control.add(hold(), opcode=Opcode.READ)        its response waits for flight.release()

A rule applies to one request, unless its action repeats, and is spent then; `fired` counts what it did. Requests no rule matches
run as ever. A device without a `Control` pays one test. Owns no memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from transport.rdma.enums import Access
from transport.rdma.errors import VerbsError
from transport.rdma.operations import HELD, LOST, READS, gather
from transport.rdma.responder import RNR
from transport.rdma.sge import move

if TYPE_CHECKING:
    from transport.rdma.cq import CQ
    from transport.rdma.device import Device
    from transport.rdma.qp import QP
    from transport.rdma.requester import Flight, Requester
    from transport.rdma.wr import RecvWR, SendWR

__all__ = [
    "Action", "Control", "Rule", "before", "drop_request", "drop_response", "fail", "hold", "hold_completions", "partial",
    "release_completions", "rnr",
]  # fmt: skip

Action = Callable[["Requester", "SendWR", "Rule"], int | None]
"""What a rule does: the outcome of the request (see `operations`), or None to let it run."""
PIECE: Final = 256


@dataclass(slots=True)
class Rule:
    """One planned disturbance. `nth` counts matching requests down to the one it is for; `times` how often it acts."""

    action: Action
    qp: "QP | None" = None
    opcode: int | None = None
    wr_id: int | None = None
    nth: int = 1
    times: int = 1
    fired: int = 0
    held: "tuple[Requester, SendWR] | None" = None

    def matches(self, requester: "Requester", wr: "SendWR") -> bool:
        """Whether the request is the one meant; counts down."""
        if self.qp is not None and self.qp is not requester.qp:
            return False
        if (self.opcode is not None and wr.opcode != self.opcode) or (self.wr_id is not None and wr.wr_id != self.wr_id):
            return False
        if self.nth > 1:
            self.nth -= 1
            return False
        return True

    def release(self, status: int | None = None) -> None:
        """Let the response of a held request arrive: a READ or atomic is carried out now, the others were when they started."""
        assert self.held is not None, "nothing is held"
        requester, wr = self.held
        self.held = None
        flight: Flight | None = next((flight for flight in requester.flying if flight.wr is wr), None)
        if flight is None:
            return  # flushed in the meantime
        requester.moved = flight.moved
        flight.status = 0  # no longer one of the outstanding reads
        if status is None:
            status = requester.handlers[wr.opcode](requester, wr) if wr.opcode in READS else 0
        requester.answered(flight, status)


@dataclass(slots=True)
class Control:
    """The rules of one device."""

    device: "Device"
    rules: list[Rule] = field(default_factory=list)
    recv_rules: "list[tuple[QP | None, int]]" = field(default_factory=list)

    @classmethod
    def attach(cls, device: "Device") -> "Control":
        """Put a device under control."""
        device.control = cls(device)
        return device.control

    def detach(self) -> None:
        """Let the device run free again."""
        self.device.control = None

    def add(
        self,
        action: Action,
        *,
        qp: "QP | None" = None,
        opcode: int | None = None,
        wr_id: int | None = None,
        nth: int = 1,
        times: int = 1,
    ) -> Rule:
        """Plan an action for the `nth` matching request, and for `times` starts of it."""
        rule = Rule(action, qp, opcode, wr_id, nth, times)
        self.rules.append(rule)
        return rule

    def fail_receive(self, status: int, qp: "QP | None" = None) -> None:
        """Have the next receive that a message consumes complete with an error."""
        self.recv_rules.append((qp, int(status)))

    def start(self, requester: "Requester", wr: "SendWR") -> int:
        """Start a request under the rules (the device's side)."""
        for rule in self.rules:
            if rule.matches(requester, wr):
                rule.fired += 1
                rule.times -= 1
                if not rule.times:
                    self.rules.remove(rule)
                requester.moved = 0
                outcome = rule.action(requester, wr, rule)
                if outcome is not None:
                    return outcome
                break
        return requester.handlers[wr.opcode](requester, wr)

    def receive(self, qp: "QP", recv: "RecvWR") -> int:
        """Return the status forced upon a receive, or 0 (the device's side)."""
        for rule in self.recv_rules:
            if rule[0] is None or rule[0] is qp:
                self.recv_rules.remove(rule)
                return rule[1]
        return 0


def fail(status: int) -> Action:
    """Fail the request with a status before anything is moved."""
    return lambda requester, wr, rule: int(status)


def rnr(count: int = 1) -> Action:
    """Answer "receiver not ready" this many times; use with `times=count` when the sender is to be told again."""
    left = [count]

    def act(requester: "Requester", wr: "SendWR", rule: Rule) -> int | None:
        requester.find_peer()
        left[0] -= 1
        if left[0] > 0 and not rule.times:
            again = requester.qp.device.control
            assert again is not None
            rule.times = 1
            again.rules.append(rule)
        return RNR

    return act


def drop_request() -> Action:
    """Lose the request: the peer never sees it, the transport timer runs."""
    return lambda requester, wr, rule: LOST


def drop_response() -> Action:
    """Lose the answer: the peer has carried the request out, the requester's timer runs and it is sent again as a duplicate."""

    def act(requester: "Requester", wr: "SendWR", rule: Rule) -> int | None:
        psn, retries = requester.psn, requester.retry_left
        status = requester.handlers[wr.opcode](requester, wr)
        requester.psn, requester.retry_left = psn, retries
        return status if status else LOST

    return act


def hold() -> Action:
    """Keep the response back until `Rule.release`; requests behind it start as order, fence and read depth allow."""

    def act(requester: "Requester", wr: "SendWR", rule: Rule) -> int | None:
        if wr.opcode not in READS:
            status = requester.handlers[wr.opcode](requester, wr)
            if status:
                return status
        rule.held = (requester, requester.hold(wr))
        return HELD

    return act


def partial(length: int, status: int, order: Callable[[int], Sequence[int]] | None = None) -> Action:
    """Place `length` bytes of a WRITE, then fail it; `order(n)` permutes the n pieces the bytes are placed in."""

    def act(requester: "Requester", wr: "SendWR", rule: Rule) -> int | None:
        source = gather(requester, wr)
        peer = requester.find_peer()
        if source is not None and peer is not None:
            total = sum(map(len, source))
            dest = peer.responder.remote_views(wr.rkey, wr.remote_addr, total, int(Access.REMOTE_WRITE))
            if dest is not None:
                _place(dest, source, min(length, total), order)
        return int(status)

    return act


def _place(dest: list[memoryview], source: list[memoryview], length: int, order: Callable[[int], Sequence[int]] | None) -> None:
    """Copy `length` bytes, in pieces of PIECE taken in the given order."""
    flat = bytearray()
    for view in source:
        flat += view
    image = bytearray()
    for view in dest:
        image += view
    pieces = [(start, min(PIECE, len(flat) - start)) for start in range(0, len(flat), PIECE)]
    left = length
    for index in order(len(pieces)) if order is not None else range(len(pieces)):
        start, size = pieces[index]
        size = min(size, left)
        image[start : start + size] = flat[start : start + size]
        left -= size
    move(dest, [memoryview(image)[: sum(map(len, dest))]])


def before(call: Callable[[], object]) -> Action:
    """Do something just before the request runs: invalidate its region, take a queue pair to ERR, break a queue."""

    def act(requester: "Requester", wr: "SendWR", rule: Rule) -> int | None:
        call()
        return None

    return act


def hold_completions(cq: "CQ") -> None:
    """Keep completions back from now on; capacity is counted when they are released."""
    if cq.held is None:
        cq.held = []


def release_completions(cq: "CQ", order: Sequence[int] | None = None) -> None:
    """Let the completions come, permuted if asked.

    Raises: VerbsError EINVAL for an order that would swap completions of one queue of one queue pair, which no device does.
    """
    held, cq.held = cq.held or [], None
    picked = [held[index] for index in order] if order is not None else held
    last: dict[tuple[int, bool], int] = {}
    for wc, _ in picked:
        key = (wc.qp_num, wc.opcode >= 128)
        position = next(index for index, item in enumerate(held) if item[0] is wc)
        if position < last.get(key, -1):
            cq.held = held
            raise VerbsError(22, "completions of one queue stay in order")
        last[key] = position
    for wc, solicited in picked:
        cq.push(wc, solicited)
