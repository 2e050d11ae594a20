"""Trio shell. The leases a client holds: while it has one on a file, what it knows of the file is true without asking.

A lease is asked for with each open. With a read lease the next open asks nothing and keeps what is cached; a write lease says
the same of files that are written here. When the server asks a lease back, what is dirty is sent, what is cached is forgotten,
and the lease returned. A lease on a directory is on its names (`known.py`). A lease that was revoked, or that went with its
session, is simply gone: the next open asks. A server that was started again is asked for those there were, and what others have
changed before is forgotten. A handle lease keeps a file that was removed for as long as it is open here. Owns no memory.
"""

import errno
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import trio

from netfs.fs.calls import ask, result_of
from transport.base import Transport
from transport.errors import TransportError
from transport.messages import (
    Ack,
    Attr,
    AttrReply,
    Await,
    Compound,
    CompoundReply,
    CompoundStep,
    Create,
    EntryReply,
    Event,
    EventsReply,
    Getattr,
    Handle,
    Lease,
    LeaseKind,
    LeaseReply,
    LeaseReturn,
    Lock,
    LockFree,
    Lookup,
    Mkdir,
    Open,
    Recall,
    Result,
    Revoke,
    Unlock,
)

__all__ = ["Leases"]

LISTENING_CREDITS: Final = 2
"""Calls in flight that listening for callbacks needs: it takes one for itself all the time."""
FIRST: Final = Handle(b"\0")
"""In a compound: what its first step found or made."""
MAX_TAKEN: Final = 4096
RECLAIMED_AT_ONCE: Final = 32

AGAIN_S: Final = 1.0
"""After the server refused a callback; it may be one that has none."""

MAKE_WAY_S: Final = 0.2
"""After a commit that others waited for a write that was begun under the same claim may end before the claim does."""

POLL_S: Final = 5.0
"""Who waits for a lock asks again after so long, also when it was not called."""

_HANDLE: Final = LeaseKind.HANDLE

Forget = Callable[[Handle, bool], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Held:
    """change: the file's, when the server gave what has this epoch."""

    kinds: LeaseKind
    epoch: int
    boot: int
    change: int


class Leases:
    """What one client holds. forget: sends what is dirty of a file and forgets what is cached of it, and waits for what is in
    use if it is to.

    same: tells whether what is known of a file is still so, by the change attribute that the server has of it. is_open: whether
    it is open here.
    possible: the connection can have a call that waits for the server's callbacks, and others beside it.
    """

    def __init__(
        self, transport: Transport, forget: Forget, same: Callable[[Handle, int], bool] = lambda *_: False,
        is_open: Callable[[Handle], bool] = lambda _: False,
    ) -> None:  # fmt: skip
        self._is_open = is_open
        self._removed: dict[Handle, int] = {}
        self._nursery: trio.Nursery | None = None
        self._transport = transport
        self.possible = transport.limits.credits >= LISTENING_CREDITS
        self._forget = forget
        self._same = same
        self._held: dict[Handle, _Held] = {}
        self._told = 0
        self._taken: dict[Handle, int] = {}
        self._free: dict[tuple[Handle, int], trio.Event] = {}
        self._wanted = trio.Event()
        self._locks: list[Lock] = []
        self._sending: dict[Handle, int] = {}
        self.running = False
        self.recalls = 0

    def covers(self, handle: Handle, *, write: bool) -> bool:
        """Tell whether a file may be opened without asking."""
        held = self._believed(handle)
        return held is not None and bool(held.kinds & (LeaseKind.WRITE if write else LeaseKind.READ))

    def holding(self, handle: Handle) -> object | None:
        """Return what stands for the read lease on an object, another one when it was lost and given again; None without one."""
        held = self._believed(handle)
        return held if held is not None and held.kinds & LeaseKind.READ else None

    def owning(self, handle: Handle) -> object | None:
        """Return what stands for the write lease on a file that has a name; None without one."""
        held = self._believed(handle)
        return held if held is not None and held.kinds & LeaseKind.WRITE and handle not in self._removed else None

    def _believed(self, handle: Handle) -> "_Held | None":
        """Return what is held of a file, unless it is of a server that has been started again: that one knows nothing of it."""
        held = self._held.get(handle)
        return held if held is not None and held.boot == self._transport.boot else None

    async def look(self, parent: Handle, name: str) -> EntryReply:
        """Send LOOKUP, and with it ask for leases on the directory and on what the name stands for. Cancellation: no effect."""
        self.want()
        told = self._told
        asked = [
            CompoundStep(Lookup(parent, name)),
            CompoundStep(Lease(FIRST, LeaseKind.READ)),
            CompoundStep(Lease(parent, LeaseKind.READ)),
        ]
        results = (await ask(self._transport, Compound(asked), CompoundReply)).results
        entry = result_of(results, 0, EntryReply)
        self._take(results, 1, entry.handle, told)
        self._take(results, 2, parent, told)
        return entry

    async def find(self, parent: Handle, name: str, *, write: bool) -> tuple[EntryReply, Attr]:
        """Send LOOKUP and OPEN, and with them ask for a lease. Cancellation: no effect."""
        self.want()
        told = self._told
        kinds = LeaseKind.READ | _HANDLE | (LeaseKind.WRITE if write else LeaseKind.NONE)
        asked = [CompoundStep(Lookup(parent, name)), CompoundStep(Open(FIRST, write)), CompoundStep(Lease(FIRST, kinds))]
        results = (await ask(self._transport, Compound(asked), CompoundReply)).results
        entry = result_of(results, 0, EntryReply)
        attr = result_of(results, 1, AttrReply).attr
        self._take(results, 2, entry.handle, told)
        return entry, attr

    async def open(self, handle: Handle, *, write: bool) -> Attr:
        """Send OPEN, and with it ask for a lease. Returns: the attributes. Cancellation: may have happened."""
        self.want()
        told = self._told
        kinds = LeaseKind.READ | _HANDLE | (LeaseKind.WRITE if write else LeaseKind.NONE)
        asked = Compound([CompoundStep(Open(handle, write)), CompoundStep(Lease(handle, kinds))])
        results = (await ask(self._transport, asked, CompoundReply)).results
        attr = result_of(results, 0, AttrReply).attr
        self._take(results, 1, handle, told)
        return attr

    async def vouched(self, handle: Handle, change: int) -> Attr | None:
        """Send GETATTR, and have the server say that since the file was as of `change` nobody but this client changed it.

        Returns: None when it does not say so: there is, or was, no write lease all the time. Cancellation: no effect.
        """
        held = self._believed(handle)
        if held is None or not held.kinds & LeaseKind.WRITE or held.change != change:
            await trio.lowlevel.checkpoint()
            return None
        told, epoch = self._told, held.epoch
        # What was revoked, which this client may not have heard yet, is not held any more, or has another epoch.
        asked = Compound([CompoundStep(Getattr(handle)), CompoundStep(Lease(handle, held.kinds & ~_HANDLE))])
        results = (await ask(self._transport, asked, CompoundReply)).results
        attr = result_of(results, 0, AttrReply).attr
        reply = result_of(results, 1, LeaseReply)
        self._take(results, 1, handle, told)
        alone = reply.epoch == epoch and reply.kinds & LeaseKind.WRITE and self._believed(handle) is held
        return attr if alone else None

    async def create(self, parent: Handle, name: str, mode: int) -> tuple[EntryReply, Attr | None]:
        """Send CREATE of a new file, and with it ask for a lease and for what the directory is like then.

        Returns: also the directory's attributes, if they are worth asking for. Cancellation: may have happened.
        Raises: OSError; EAGAIN when another client was asked to give the directory back first, and nothing was done.
        """
        return await self._make(Create(parent, name, mode, True), LeaseKind.READ | LeaseKind.WRITE | _HANDLE)

    async def mkdir(self, parent: Handle, name: str, mode: int) -> tuple[EntryReply, Attr | None]:
        """Send MKDIR, and with it ask for a lease on the names in the new directory. The rest as `create`."""
        return await self._make(Mkdir(parent, name, mode), LeaseKind.READ)

    async def _make(self, request: Create | Mkdir, kinds: LeaseKind) -> tuple[EntryReply, Attr | None]:
        self.want()
        told, looking = self._told, self.holding(request.parent) is not None
        steps = [CompoundStep(request), CompoundStep(Lease(FIRST, kinds))]
        if looking:
            steps.insert(1, CompoundStep(Getattr(request.parent)))
        results = (await ask(self._transport, Compound(steps), CompoundReply)).results
        entry = result_of(results, 0, EntryReply)
        self._take(results, len(steps) - 1, entry.handle, told)
        held = self._held.get(entry.handle)
        if held is not None and held.change != entry.attr.change:  # somebody was there between the two steps
            self.drop(entry.handle)
        above = results[1].body if looking and len(results) > 1 else None
        return entry, above.attr if isinstance(above, AttrReply) else None

    def _take(self, results: Sequence[Result], step: int, handle: Handle, told: int) -> None:
        """Take what a step of a compound gave. told: events heard when it was sent; one since may have taken it away again."""
        if len(results) <= step or results[step].status:
            return
        reply = result_of(results, step, LeaseReply)
        if not self.running or not reply.kinds or self._taken.get(handle, 0) > told:
            return
        held = self._believed(handle)
        if held is None or not held.kinds & LeaseKind.READ:
            self._held[handle] = _Held(reply.kinds, reply.epoch, self._transport.boot, reply.change)
            return
        if reply.epoch != held.epoch:
            held.change = reply.change
        held.kinds, held.epoch = reply.kinds, reply.epoch

    def drop(self, handle: Handle) -> None:
        """Believe nothing of a file any more; the server learns of it when it asks."""
        self._held.pop(handle, None)

    def lost(self) -> None:
        """The session is over, and all leases with it."""
        self._held.clear()
        for event in self._free.values():
            event.set()
        self._free.clear()

    def want(self) -> None:
        """Have callbacks lent to the server from now on, if that is possible."""
        if self.possible:
            self._wanted.set()

    # ---- locks

    async def lock(self, request: Lock) -> None:
        """Lock a range, waiting for it if `request.wait`. Raises: OSError (EAGAIN, EDEADLK). Cancellation: may have happened."""
        self.want()
        key = (request.handle, request.owner)
        while True:
            freed = self._free.setdefault(key, trio.Event())
            try:
                await ask(self._transport, request, Ack)
            except OSError as error:
                if error.errno != errno.EAGAIN or not request.wait:
                    raise
            else:
                self._locks.append(replace(request, wait=False, reclaim=True))
                return
            with trio.move_on_after(POLL_S):
                await freed.wait()

    async def unlock(self, request: Unlock) -> None:
        """Give up what an owner has of a range. Cancellation: may have happened."""
        await ask(self._transport, request, Ack)
        self._locks = [lock for lock in self._locks if not _within(lock, request)]

    def locked(self, handle: Handle, owner: int) -> bool:
        """Tell whether an owner may have locks on a file."""
        return any(lock.handle == handle and lock.owner == owner for lock in self._locks)

    async def _reclaim(self, held: list[tuple[Handle, LeaseKind]]) -> None:
        """Ask a server that was started again for the locks and leases there were. Raises: TransportError."""
        for lock in list(self._locks):
            try:
                await ask(self._transport, lock, Ack)
            except (OSError, TransportError):
                self._locks.remove(lock)
        while held:
            told = self._told
            steps = [CompoundStep(Lease(handle, kinds, reclaim=True)) for handle, kinds in held[:RECLAIMED_AT_ONCE]]
            try:
                results = (await ask(self._transport, Compound(steps), CompoundReply)).results
            except OSError:
                return
            for step, result in enumerate(results):
                handle = held[step][0]
                self._take(results, step, handle, told)
                # Others could change it before this client was back.
                if result.status or not self._same(handle, result_of(results, step, LeaseReply).change):
                    await self._forgotten(handle)
            held = held[max(1, len(results)) :]  # behind the one that failed, which is gone

    async def run(self) -> None:
        """Take the server's callbacks, until cancelled or the connection is over."""
        await self._wanted.wait()
        self.running = True
        seen = 0
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while True:
                    try:
                        told = await ask(self._transport, Await(seen), EventsReply)
                    except TransportError:
                        return
                    except OSError as error:
                        held = [(handle, one.kinds) for handle, one in self._held.items()]
                        self.lost()
                        if error.errno == errno.ESTALE:
                            with suppress(TransportError):  # which the next callback will tell of
                                await self._reclaim(held)
                        else:
                            await trio.sleep(AGAIN_S)
                        seen = 0
                        continue
                    seen = max(seen, told.first + len(told.events) - 1)
                    for event in told.events:
                        self._heard(event)
                        match event:
                            case Recall(handle=handle, epoch=0):  # others wait for what was written, and is not committed
                                nursery.start_soon(self._make_way, handle)
                            case Recall():
                                self.recalls += 1
                                nursery.start_soon(self._give_back, event)
                            case Revoke(handle=handle):
                                if handle in self._held:
                                    del self._held[handle]
                                    nursery.start_soon(self._forgotten, handle)
                            case LockFree(handle=handle, owner=owner):
                                freed = self._free.pop((handle, owner), None)
                                if freed is not None:
                                    freed.set()
        finally:
            self.running = False
            self._nursery = None
            self.lost()

    def _heard(self, event: Event) -> None:
        """Note that a reply which is still on its way may give what this event takes."""
        self._told += 1
        if not isinstance(event, LockFree):
            self._taken.pop(event.handle, None)
            self._taken[event.handle] = self._told
            if len(self._taken) > MAX_TAKEN:
                del self._taken[next(iter(self._taken))]

    async def _give_back(self, recall: Recall) -> None:
        """Do what a recall asks for; only with a write lease it waits for what is dirty.

        What is dirty beside read leases of others may be waiting on the server until those are given back, as this one is to be.
        """
        handle, kinds = recall.handle, recall.kinds
        held = self._held.get(handle)
        before = LeaseKind.NONE if held is None else held.kinds
        wait = handle in self._sending or bool(before & LeaseKind.WRITE)
        outdated = held is None or bool(before & ~kinds & ~_HANDLE)
        if not self._is_open(handle):
            kinds &= ~_HANDLE
        elif before & ~kinds & _HANDLE:  # it was removed, and is used on until it is closed
            kinds |= _HANDLE
            self._removed[handle] = recall.epoch
        if held is not None:
            held.kinds &= kinds
            if not held.kinds:
                del self._held[handle]
        if outdated and wait:
            self._sending[handle] = self._sending.get(handle, 0) + 1
            try:
                await self._forgotten(handle)
            finally:
                self._sending[handle] -= 1
                if not self._sending[handle]:
                    del self._sending[handle]
        elif outdated:
            await self._forgotten(handle, wait=False)
        await self._return(handle, kinds, recall.epoch)
        if outdated and not wait:
            await self._forgotten(handle)

    async def _return(self, handle: Handle, kinds: LeaseKind, epoch: int) -> None:
        with suppress(OSError, TransportError):
            await ask(self._transport, LeaseReturn(handle, kinds, epoch), Ack)

    async def _make_way(self, handle: Handle) -> None:
        """Commit what was written to a file, and leave it to others unless it is written to again meanwhile."""
        await self._forgotten(handle)
        await trio.sleep(MAKE_WAY_S)
        await self._forgotten(handle)

    def closed(self, handle: Handle) -> None:
        """A file is open here no more; if it was removed, the server need not keep it any longer."""
        epoch = self._removed.pop(handle, None)
        if epoch is not None:
            held = self._held.pop(handle, None)
            if self._nursery is not None:
                self._nursery.start_soon(self._return, handle, LeaseKind.NONE, epoch if held is None else held.epoch)

    async def _forgotten(self, handle: Handle, wait: bool = True) -> None:
        # What could not be sent is kept, and told to who has the file open.
        with suppress(OSError, TransportError):
            await self._forget(handle, wait)


def _within(lock: Lock, given_up: Unlock) -> bool:
    """Tell whether a lock is given up as a whole."""
    if lock.handle != given_up.handle or lock.owner != given_up.owner or lock.pos < given_up.pos:
        return False
    return not given_up.length or (bool(lock.length) and lock.pos + lock.length <= given_up.pos + given_up.length)
