"""Sans-IO. The credits of one side of an SMB-Direct connection: when a message may go, and what it grants.

Theory of operation. A message needs a receive at the other side; a credit is the promise of one. Each message grants some, so
that a side without credits hears of new ones only by a message, which needs a credit of the sender's. Two rules keep both going:

- *The last credit* goes only with a message that grants at least one (MS-SMBD 3.1.5.1): a side that could not answer would leave
  both silent for ever. So that there always is one to grant, a side posts a receive more than it grants otherwise, the reserve,
  whose credit goes with the last credit alone. Hence whoever holds a credit may use it.
- *An empty message* is sent for its grant alone when the peer holds a quarter of its credits or less, and nothing else is to be
  sent. It uses a credit itself, and is never sent because of one that is missing, or two sides would send them to and fro.

That neither deadlock nor ping-pong remains is not argued but searched: `tests/rdma/test_smbd_model.py` visits every state of two
sides with 1 to 3 credits each. Owns no memory.
"""

from transport.errors import ProtocolError

__all__ = ["MAX_CREDITS", "RESERVE", "Credits"]

RESERVE = 1
MAX_CREDITS = 0xFFFF


class Credits:
    """Counts of one side. send: what we may send; target: what the peer is to hold; granted: what it holds, as far as we know.

    posted: receives that are posted, `target + RESERVE` of them when all is quiet.
    """

    __slots__ = ("granted", "posted", "send", "target")

    def __init__(self, target: int) -> None:
        self.target = target
        self.send = 0
        self.granted = 0
        self.posted = 0

    def _grantable(self, last: bool) -> int:
        return min(self.target + RESERVE if last else self.target, self.posted) - self.granted

    @property
    def may_send(self) -> bool:
        """Whether a message may go now."""
        send = self.send
        return send > 1 or (send == 1 and self._grantable(True) > 0)

    def take(self) -> int:
        """Use a credit for a message that may go; return what it grants."""
        grant = max(0, self._grantable(self.send == 1))
        assert self.send > 1 or (self.send and grant), "the last credit goes with a grant"
        self.send -= 1
        self.granted += grant
        return grant

    def grant(self) -> int:
        """Grant what can be granted by a message that needs no credit, the answer of the negotiation."""
        grant = max(0, self._grantable(False))
        self.granted += grant
        return grant

    def received(self, granted: int) -> None:
        """Take note of a message and what it grants. Raises: ProtocolError for one that had no credit, or grants too much."""
        if not self.granted:
            raise ProtocolError("bad message: sent without a credit")
        self.granted -= 1
        self.posted -= 1
        self.gain(granted)

    def gain(self, granted: int) -> None:
        """Take note of credits granted. Raises: ProtocolError for more than there can be."""
        self.send += granted
        if self.send > MAX_CREDITS:
            raise ProtocolError(f"bad message: {self.send} credits")

    @property
    def starving(self) -> bool:
        """Whether the peer is to be sent an empty message, for its grant, if nothing else goes."""
        return self.granted <= self.target >> 2 and self._grantable(self.send == 1) > 0 and self.may_send
