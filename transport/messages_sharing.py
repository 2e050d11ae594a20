"""Sans-IO. Message bodies of byte-range locks and leases, and of what a server tells its client. Owns no memory.

As `messages.py`, which gives these and the others their union.
"""

from dataclasses import dataclass
from typing import ClassVar

from transport.opcodes import EventKind, Handle, LeaseKind, LockKind, Op

__all__ = [
    "Await",
    "Event",
    "EventsReply",
    "Lease",
    "LeaseReply",
    "LeaseReturn",
    "Lock",
    "LockFree",
    "LockReply",
    "LockTest",
    "Recall",
    "Revoke",
    "Unlock",
]


@dataclass(slots=True)
class LockTest:
    """Ask what would keep a lock from being given. owner: any number of the client's own; length 0: to the end of the file.

    Reply: LockReply.
    """

    op: ClassVar[Op] = Op.LOCK_TEST
    handle: Handle
    owner: int
    kind: LockKind
    pos: int
    length: int


@dataclass(slots=True)
class Lock:
    """Lock a range for an owner, replacing what the owner has of it. Reply: Ack; EAGAIN while others hold some of it.

    wait: after EAGAIN the server tells LOCK_FREE when it may be worth asking again. EDEADLK: that would never come.
    reclaim: the client held it when the server stopped.
    """

    op: ClassVar[Op] = Op.LOCK
    handle: Handle
    owner: int
    kind: LockKind
    pos: int
    length: int
    wait: bool = False
    reclaim: bool = False


@dataclass(slots=True)
class Unlock:
    """Give up what an owner has locked of a range, and waits for in it. Reply: Ack."""

    op: ClassVar[Op] = Op.UNLOCK
    handle: Handle
    owner: int
    pos: int
    length: int


@dataclass(slots=True)
class Lease:
    """Ask for leases on a file, in addition to those held. Reply: LeaseReply with what is held now, perhaps less than asked.

    reclaim: the client held them when the server stopped.
    """

    op: ClassVar[Op] = Op.LEASE
    handle: Handle
    kinds: LeaseKind
    reclaim: bool = False


@dataclass(slots=True)
class LeaseReturn:
    """Keep no more than `kinds`; ends a recall. epoch: of the lease as the client knows it. Reply: Ack."""

    op: ClassVar[Op] = Op.LEASE_RETURN
    handle: Handle
    kinds: LeaseKind
    epoch: int


@dataclass(slots=True)
class Await:
    """Lend the server a callback: it answers when it has something to tell. seen: number of the last event that came.

    What the server told and the client has not said it has seen is told again, so that no event is lost with a connection.
    Reply: EventsReply.
    """

    op: ClassVar[Op] = Op.AWAIT
    seen: int = 0


@dataclass(slots=True)
class Recall:
    """Ask a client to return leases but `kinds` by LEASE_RETURN, after what it kept back has been written.

    epoch: of the lease; 0 asks for no lease, but that what was written be committed, as another client waits for that.
    """

    kind: ClassVar[EventKind] = EventKind.RECALL
    handle: Handle
    kinds: LeaseKind
    epoch: int


@dataclass(slots=True)
class Revoke:
    """Tell a client that it did not return in time and holds nothing of a file any more."""

    kind: ClassVar[EventKind] = EventKind.REVOKE
    handle: Handle
    epoch: int


@dataclass(slots=True)
class LockFree:
    """Tell a client that a lock it waits for may be free."""

    kind: ClassVar[EventKind] = EventKind.LOCK_FREE
    handle: Handle
    owner: int


Event = Recall | Revoke | LockFree


@dataclass(slots=True)
class EventsReply:
    """What happened, in order; the events are numbered on, `first` is the number of the first of them."""

    first: int
    events: list[Event]


@dataclass(slots=True)
class LockReply:
    """What is in the way of a lock; kind None: nothing. owner: 0 for another client's."""

    kind: LockKind | None
    pos: int = 0
    length: int = 0
    owner: int = 0


@dataclass(slots=True)
class LeaseReply:
    """What is held. epoch: grows with each change of it; change: the change id of the file when it was given."""

    kinds: LeaseKind
    epoch: int
    change: int
