"""Sans-IO. Message bodies of sessions: joining one, numbering a call in it, fencing off a channel, ending it. Owns no memory.

As `messages.py`, which gives these and the others their union. What they are for is in `session.py`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from transport.opcodes import Op

if TYPE_CHECKING:
    from transport.messages import Body, Request

__all__ = ["Bind", "BindReply", "EndSession", "Fence", "Sequenced", "SequencedReply"]


@dataclass(slots=True)
class Bind:
    """Make this connection a channel of a session; an empty `session` asks for a new one.

    channel: the client's number for it, never used before in the session. fence: channels that are no more for the client; they
    are closed, and all they had begun has ended when the answer comes. slots: how many the client would like. Reply: BindReply.
    ESTALE: the session is not known any more, and what was under way in it will not be done again. EACCES: it is somebody
    else's. EBUSY: too many sessions or channels.
    """

    op: ClassVar[Op] = Op.BIND
    session: bytes
    channel: int
    fence: list[int]
    slots: int


@dataclass(slots=True)
class Fence:
    """Close other channels of this session; all they had begun has ended when the answer comes. Reply: Ack."""

    op: ClassVar[Op] = Op.FENCE
    channels: list[int]


@dataclass(slots=True)
class EndSession:
    """Forget the session with all that is held in it; the connection stays. Reply: Ack."""

    op: ClassVar[Op] = Op.END_SESSION


@dataclass(slots=True)
class Sequenced:
    """Do `request` once, however often this arrives: `seq` is its number in `slot`, larger than any before.

    Reply: SequencedReply, from memory if it has been done already. EINVAL: no such slot, or a number that is gone.
    """

    op: ClassVar[Op] = Op.SEQUENCED
    slot: int
    seq: int
    request: "Request"


@dataclass(slots=True)
class BindReply:
    """A session. boot: the server's start; another one than before: locks and leases are to be claimed again within `grace_ms`.

    slots: how many there are. expires_ms: the session is forgotten when it has had no channel for so long.
    """

    session: bytes
    slots: int
    boot: int
    expires_ms: int
    grace_ms: int


@dataclass(slots=True)
class SequencedReply:
    """The reply to the numbered request, which was an `of`."""

    of: Op
    body: "Body"
