"""Sans-IO. What one iWARP connection keeps of what is under way: requests that wait for an answer, the message that comes in.

Memory is the work requests'.
"""

from dataclasses import dataclass
from typing import Protocol

from transport.rdma.requester import Flight
from transport.rdma.wr import RecvWR, SendWR

__all__ = ["Incoming", "Outstanding", "Watch"]


@dataclass(slots=True)
class Outstanding:
    """A READ or atomic that waits for its answer. stag, to, length: the sink of a READ; to an atomic `stag` is its request id."""

    flight: Flight
    atomic: bool
    stag: int
    to: int
    length: int
    placed: int = 0


@dataclass(slots=True)
class Incoming:
    """The SEND that is coming in, and the receive it fills."""

    recv: RecvWR
    op: int
    capacity: int
    placed: int = 0


class Watch(Protocol):
    """Who wants to know which message belongs to which work request."""

    def posted(self, wr: SendWR) -> None:
        """Take note of a request whose messages are sent behind those of the ones before it."""

    def took(self, recv: RecvWR) -> None:
        """Take note of the receive that a message of the peer has taken."""
