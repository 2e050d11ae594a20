"""Trio shell. Bugs of transports: sessions, connections, emulated RDMA. Owns no memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import trio

from servers.sessions import Session, Sessions
from transport import session as sessions
from transport.base import Reply
from transport.framing import FrameReader
from transport.messages import BindReply, Write
from transport.rdma.client import ClientEnd
from transport.rdma.mr import MR
from transport.rdma.mr_pool import MrPool
from transport.rpc import Call, ClientConnection
from transport.session import ClientSession, ServerSlots, SlotAction, SlotState
from trials.sim.patches import Patches
from trials.zoo.bug import bug

__all__: list[str] = []


@bug("lost-retry", "transport", "sharing", kinds=("T14",))
def _lost_retry(patches: Patches) -> None:
    """A call that was under way when its connection broke is never sent again."""

    def fenced(self: ClientSession, channel: Any) -> None:
        self._held.pop(channel, None)

    patches.set(ClientSession, "fenced", fenced)


@bug("double-execution", "transport", "metadata", kinds=("T10", "T14"))
def _twice(patches: Patches) -> None:
    """A request that comes again is done again, not answered from memory."""
    begin = ServerSlots.begin

    def begun(self: ServerSlots[Any], slot: int, seq: int) -> SlotAction:
        action = begin(self, slot, seq)
        if action is SlotAction.REPLAY:
            found = self._slots[slot]
            found.state, found.answer = SlotState.RUNNING, None
            return SlotAction.EXECUTE
        return action

    patches.set(ServerSlots, "begin", begun)


@bug("credit-leak", "transport", "metadata", operations=40, credits=4)
def _credit_leak(patches: Patches) -> None:
    """A call that the server refused keeps its credit."""
    end = ClientConnection._end

    def ended(self: ClientConnection, call: Call, reply: Reply | None) -> None:
        end(self, call, reply)
        if reply is not None and reply.status:
            self._table[call.xid] = call

    patches.set(ClientConnection, "_end", ended)


@bug("slots-start-anew", "transport", "metadata", kinds=("T14", "T21"))
def _slots(patches: Patches) -> None:
    """After each new connection the client takes the session for a new one and counts its slots from the beginning."""
    bound = ClientSession.bound

    def anew(self: ClientSession, reply: BindReply, *, fresh: bool) -> None:
        bound(self, reply, fresh=fresh)
        self._next = [0] * len(self._next)

    patches.set(ClientSession, "bound", anew)


@bug("small-replies-land-short", "transport", "fsx")
def _short_landing(patches: Patches) -> None:
    """The last byte of a payload that came with its reply in one piece is not copied out."""
    land = FrameReader.land

    def landed(self: FrameReader, frame: Any, views: "list[memoryview] | None") -> bool:
        if views and len(views) == 1 and len(views[0]) > 1:
            last = views[0][-1]
            done = land(self, frame, views)
            if done and frame.payload_length == len(views[0]):
                views[0][-1] = last
            return done
        return land(self, frame, views)

    patches.set(FrameReader, "land", landed)


@bug("rdma-count-too-high", "transport", "fsx", transport="rdma-memory")
def _count(patches: Patches) -> None:
    """A reply that placed less than the memory has room for is said to have filled one byte more."""
    outcome = ClientEnd._outcome

    def counted(self: ClientEnd, call: Any, message: Any) -> Any:
        found = outcome(self, call, message)
        if isinstance(found, Reply) and call.dest is not None and 0 < found.received < call.dest.count:
            return replace(found, received=found.received + 1)
        return found

    patches.set(ClientEnd, "_outcome", counted)


@bug("regions-are-not-given-back", "transport", "stream-copy", transport="rdma-memory", operations=40, credits=2)
def _regions(patches: Patches) -> None:
    """A region whose key was invalidated does not go back into the pool: in the end calls wait for one for ever."""
    patches.set(MrPool, "give_back", lambda self, mr: None)


@bug("answers-do-not-outlive-a-restart", "transport", "metadata", kinds=("N8",))
def _forgotten(patches: Patches) -> None:
    """A server that comes back knows what it was asked, but not its answers, and does it again when it is asked again."""
    restore = ServerSlots.restore

    def restored(self: ServerSlots[Any], slot: int, seq: int, answer: Any) -> None:
        del answer
        restore(self, slot, seq, None)

    patches.set(ServerSlots, "restore", restored)


@bug("missing-fence", "transport", "racing", kinds=("T18", "T19"), keepalive_s=1.0)
def _no_fence(patches: Patches) -> None:
    """A connection that its client gave up is not cut, and writes have no number: one that was held up on it is done late, after
    the client has asked again.
    """

    async def fence(self: Sessions, session: Session, numbers: list[int]) -> bool:
        del self, session, numbers
        await trio.lowlevel.checkpoint()
        return True

    patches.set(Sessions, "_fence", fence)
    patches.set(sessions, "_REPEATABLE", sessions._REPEATABLE | {Write})


@bug("stale-rkey", "transport", "fsx", transport="rdma-memory")
def _stale_key(patches: Patches) -> None:
    """A region that is registered again gets a new key, and goes on meaning the memory it had before where that is as long."""
    map_sg = MR.map_sg
    before: dict[MR, list[memoryview]] = {}

    def mapped(self: MR, views: Sequence[memoryview], iova: int) -> int:
        length = map_sg(self, views, iova)
        old = before.get(self)
        if old is not None and sum(map(len, old)) == length:
            self.set_memory(old, iova)
        else:
            before[self] = list(views)
        return length

    patches.set(MR, "map_sg", mapped)
