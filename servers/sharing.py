"""Sans-IO. What the clients of an export are told of each other: leases are recalled, waiting lockers called, in order.

Events of a session wait in a queue until its client has lent a callback, which is an AWAIT request without an answer; it is told
again what it has not said it has seen. An access that another's lease forbids waits here until that is given back or, when the
holder is too slow, revoked. The rules are `leases.py` and `locks.py`. Owns no memory.
"""

import errno
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from servers.leases import LeaseTable
from servers.locks import LockTable, span
from servers.stores.base import fail
from transport.env import Env, Signal
from transport.messages import (
    Ack,
    Allocate,
    AuxRead,
    AuxWrite,
    Await,
    CopyRange,
    Create,
    Event,
    EventsReply,
    Handle,
    Lease,
    LeaseKind,
    LeaseReply,
    Link,
    Lock,
    LockReply,
    LockTest,
    Mkdir,
    Open,
    Punch,
    Read,
    Recall,
    RecordGet,
    Rename,
    Request,
    Rmdir,
    Setattr,
    Symlink,
    Transact,
    Truncate,
    Unlink,
    Unlock,
    Write,
    XattrRemove,
    XattrSet,
)

__all__ = ["Access", "Sharing", "accesses"]

_EVENT_BITS: Final = 32
_BOOTS: Final = 1 << 30
MAX_EVENTS: Final = 64
"""Events in one answer."""
MAX_WANTED: Final = 4096
"""Files of which it is remembered who was told that others wait for what he writes."""
Access = tuple[Handle, bool]
"""A file or directory, and whether it may be changed."""


def accesses(request: Request) -> Sequence[Access]:
    """Return what a request reads or changes: the content and attributes of files, the names in directories."""
    found = _ACCESSES.get(type(request))
    return () if found is None else found(request)


_ACCESSES: Final[dict[type[Any], Callable[[Any], Sequence[Access]]]] = {
    **dict.fromkeys((Read, AuxRead, Open, RecordGet), lambda request: ((request.handle, False),)),
    **dict.fromkeys(
        (Write, AuxWrite, Truncate, Allocate, Punch, Setattr, XattrSet, XattrRemove), lambda request: ((request.handle, True),)
    ),
    **dict.fromkeys((Create, Mkdir, Symlink, Unlink, Rmdir), lambda request: ((request.parent, True),)),
    Link: lambda request: ((request.handle, True), (request.parent, True)),
    Rename: lambda request: tuple((parent, True) for parent in dict.fromkeys((request.parent, request.new_parent))),
    CopyRange: lambda request: ((request.handle, False), (request.target, True)),
    Transact: lambda request: [
        (handle, True) for handle in dict.fromkeys(h for step in request.steps for h in (step.handle, step.other)) if handle
    ],
}


class _Queue:
    """What one session is to be told. first: the number of the first event in it; waiter: set when there is something."""

    __slots__ = ("events", "first", "waiter")

    def __init__(self, first: int) -> None:
        self.events: deque[Event] = deque()
        self.first = first
        self.waiter: Signal | None = None


class Sharing:
    """Leases, locks and events of the clients of one export, by session number.

    boot: the server's start; events and leases are numbered on from it, so that who has seen others is known to be of another.
    grace_s: for how long yet nothing is given but what clients held before a restart.
    """

    def __init__(self, env: Env, boot: int = 1, grace_s: Callable[[], float] = lambda: 0.0) -> None:
        self._first = (boot % _BOOTS << _EVENT_BITS) + 1
        self._grace_s = grace_s
        self.leases = LeaseTable(self._first)
        self.locks = LockTable()
        self._env = env
        self._queues: dict[int, _Queue] = {}
        self._returned: dict[Handle, Signal] = {}
        self._wanted: dict[tuple[int, Handle], int] = {}

    # ---- accesses

    def free(self, session: int, request: Request) -> bool:
        """Tell whether nothing is in the way of a request. Any thread may ask."""
        in_the_way = self.leases.in_the_way
        return not any(in_the_way(session, handle, writes=writes) for handle, writes in accesses(request))

    async def settle(self, session: int, request: Request) -> None:
        """Have others give back what is in the way of a request, and wait for that. Cancellation: the recalls stand."""
        for handle, writes in accesses(request):
            while self.leases.in_the_way(session, handle, writes=writes):
                self._tell(self.leases.recall(session, handle, self._env.now(), writes=writes))
                deadline = self.leases.deadline(handle)
                assert deadline is not None
                returned = self._returned.setdefault(handle, self._env.signal())
                await returned.wait(deadline)
                late = self.leases.expire(handle, self._env.now())
                if late:
                    self._tell(late)
                    self._wake(handle)

    def ask(self, session: int, request: Request) -> None:
        """Have others give back what is in the way of a request, without waiting for it."""
        for handle, writes in accesses(request):
            self._tell(self.leases.recall(session, handle, self._env.now(), writes=writes))

    def want(self, writing: Mapping[tuple[int, Handle], int]) -> None:
        """Tell who keeps others out of a file by a write intent that they wait for it; of each intent, by its key, once.

        Who has never listened is not told.
        """
        for who, key in writing.items():
            queue = self._queues.get(who[0])
            if queue is not None and len(queue.events) < MAX_WANTED and self._wanted.get(who, 0) < key:
                self._wanted.pop(who, None)
                self._wanted[who] = key
                self._tell([(who[0], Recall(who[1], LeaseKind.HANDLE, 0))])
        while len(self._wanted) > MAX_WANTED:
            del self._wanted[next(iter(self._wanted))]

    # ---- leases

    def lease(self, session: int, request: Lease, change: int) -> LeaseReply:
        """Give a session leases. Raises: ENOLCK."""
        handle, kinds = request.handle, request.kinds
        if not request.reclaim and self._grace_s():
            kinds = LeaseKind.NONE
        return LeaseReply(*self.leases.grant(session, handle, kinds), change)

    def give_back(self, session: int, handle: Handle, kinds: LeaseKind, epoch: int) -> Ack:
        """Take back what a session no longer needs."""
        self.leases.give_back(session, handle, kinds, epoch)
        self._wake(handle)
        return Ack()

    def removed(self, handle: Handle) -> None:
        """A file lives on without a name: who has it open is to say when it closes it, and who has not, now."""
        self._tell(self.leases.removed(handle))

    # ---- locks

    def test_lock(self, session: int, request: LockTest) -> LockReply:
        """Say what is in the way of a lock."""
        found = self.locks.test((session, request.owner), request.handle, request.kind, *span(request.pos, request.length))
        if found is None:
            return LockReply(None)
        length = found.end - found.start if found.end < 1 << 63 else 0
        return LockReply(found.kind, found.start, length, found.owner[1] if found.owner[0] == session else 0)

    def lock(self, session: int, request: Lock) -> Ack:
        """Lock a range. Raises: EAGAIN, EDEADLK, ENOLCK, EINVAL."""
        if not request.reclaim and self._grace_s():
            raise OSError(errno.EAGAIN, "the server waits for those who had locks before it was started again")
        start, end = span(request.pos, request.length)
        self.locks.lock((session, request.owner), request.handle, request.kind, start, end, wait=request.wait)
        return Ack()

    def unlock(self, session: int, request: Unlock) -> Ack:
        """Unlock a range, and call who waits for it."""
        start, end = span(request.pos, request.length)
        self._tell(self.locks.unlock((session, request.owner), request.handle, start, end))
        return Ack()

    # ---- events

    async def events(self, session: int, request: Await) -> EventsReply:
        """Wait for what there is to tell a session; who has seen nothing is told at once where the numbers begin.

        Raises: ESTALE for who has seen what was never told: by a server before this one, and with it went leases and locks.
        Cancellation: it is told the next time.
        """
        queue = self._queue(session)
        if not request.seen:
            return EventsReply(queue.first, [])
        if not queue.first - 1 <= request.seen < queue.first + len(queue.events):
            raise fail(errno.ESTALE)
        while queue.events and queue.first <= request.seen:
            queue.events.popleft()
            queue.first += 1
        if queue.waiter is not None:  # of a connection before this one; the newer is the one that works
            waiter, queue.waiter = queue.waiter, None
            waiter.set()
        while not queue.events:
            waiter = queue.waiter = self._env.signal()
            await waiter.wait()
            if queue.waiter is not waiter:
                return EventsReply(queue.first, [])
        queue.waiter = None
        return EventsReply(queue.first, [event for _, event in zip(range(MAX_EVENTS), queue.events, strict=False)])

    def drain(self) -> None:
        """Answer every callback that was lent, with nothing: the server stops, and the sessions go on at the next one."""
        for queue in self._queues.values():
            waiter, queue.waiter = queue.waiter, None
            if waiter is not None:
                waiter.set()

    def end(self, session: int) -> None:
        """A session is over: nothing of it is in anybody's way any more."""
        for handle in self.leases.end(session):
            self._wake(handle)
        self._tell(self.locks.end(session))
        queue = self._queues.pop(session, None)
        if queue is not None and queue.waiter is not None:
            waiter, queue.waiter = queue.waiter, None
            waiter.set()

    def _queue(self, session: int) -> _Queue:
        queue = self._queues.get(session)
        if queue is None:
            queue = self._queues[session] = _Queue(self._first)
        return queue

    def _tell(self, told: "Sequence[tuple[int, Event]]") -> None:
        for session, event in told:
            queue = self._queue(session)
            queue.events.append(event)
            if queue.waiter is not None:
                queue.waiter.set()

    def _wake(self, handle: Handle) -> None:
        returned = self._returned.pop(handle, None)
        if returned is not None:
            returned.set()
