"""Trio shell. The leases a client holds: while it has one on a file, what it knows of the file is true without asking.

A lease is asked for with each open. With a read lease the next open asks nothing and keeps what is cached; a write lease says the
same of files that are written here. When the server asks a lease back, what is dirty is sent, what is cached is forgotten, and
the lease returned. A lease that was revoked, or that went with its session, is simply gone: the next open asks. Owns no memory.
"""

import errno
from collections.abc import Awaitable, Callable
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
    EventsReply,
    Handle,
    Lease,
    LeaseKind,
    LeaseReply,
    LeaseReturn,
    Lock,
    LockFree,
    Open,
    Recall,
    Revoke,
    Unlock,
)

__all__ = ["Leases"]

CREATED: Final = Handle(b"\0")
"""In a compound that begins with CREATE: what it made."""

AGAIN_S: Final = 1.0
"""After the server refused a callback; it may be one that has none."""

POLL_S: Final = 5.0
"""Who waits for a lock asks again after so long, also when it was not called."""

Forget = Callable[[Handle], Awaitable[None]]


@dataclass(slots=True)
class _Held:
    kinds: LeaseKind
    epoch: int


class Leases:
    """What one client holds. forget: sends what is dirty of a file and forgets what is cached of it."""

    def __init__(self, transport: Transport, forget: Forget) -> None:
        self._transport = transport
        self._forget = forget
        self._held: dict[Handle, _Held] = {}
        self._free: dict[tuple[Handle, int], trio.Event] = {}
        self._wanted = trio.Event()
        self._locks: list[Lock] = []
        self.running = False
        self.recalls = 0

    def covers(self, handle: Handle, *, write: bool) -> bool:
        """Tell whether a file may be opened without asking."""
        held = self._held.get(handle)
        return held is not None and bool(held.kinds & (LeaseKind.WRITE if write else LeaseKind.READ))

    async def open(self, handle: Handle, *, write: bool) -> Attr:
        """Send OPEN, and with it ask for a lease. Returns: the attributes. Cancellation: may have happened."""
        self.want()
        kinds = LeaseKind.READ | (LeaseKind.WRITE if write else LeaseKind.NONE)
        asked = Compound([CompoundStep(Open(handle, write)), CompoundStep(Lease(handle, kinds))])
        results = (await ask(self._transport, asked, CompoundReply)).results
        attr = result_of(results, 0, AttrReply).attr
        if len(results) > 1 and not results[1].status:
            self.given(handle, result_of(results, 1, LeaseReply))
        return attr

    async def create(self, parent: Handle, name: str, mode: int) -> tuple[EntryReply, Attr]:
        """Send CREATE and OPEN of a new file, and with them ask for a lease. Cancellation: may have happened."""
        self.want()
        lease = Lease(CREATED, LeaseKind.READ | LeaseKind.WRITE)
        steps = [CompoundStep(Create(parent, name, mode, True)), CompoundStep(Open(CREATED, True)), CompoundStep(lease)]
        results = (await ask(self._transport, Compound(steps), CompoundReply)).results
        entry = result_of(results, 0, EntryReply)
        attr = result_of(results, 1, AttrReply).attr
        if len(results) > 2 and not results[2].status:
            self.given(entry.handle, result_of(results, 2, LeaseReply))
        return entry, attr

    def given(self, handle: Handle, reply: LeaseReply) -> None:
        """Note what the server gave with an open."""
        if self.running and reply.kinds:
            self._held[handle] = _Held(reply.kinds, reply.epoch)

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
        """Have callbacks lent to the server from now on."""
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

    async def _reclaim(self) -> None:
        """Ask a server that was started again for the locks there were."""
        for lock in list(self._locks):
            try:
                await ask(self._transport, lock, Ack)
            except (OSError, TransportError):
                self._locks.remove(lock)

    async def run(self) -> None:
        """Take the server's callbacks, until cancelled or the connection is over."""
        await self._wanted.wait()
        self.running = True
        seen = 0
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        told = await ask(self._transport, Await(seen), EventsReply)
                    except TransportError:
                        return
                    except OSError as error:
                        self.lost()
                        if error.errno == errno.ESTALE:
                            await self._reclaim()
                        else:
                            await trio.sleep(AGAIN_S)
                        seen = 0
                        continue
                    seen = max(seen, told.first + len(told.events) - 1)
                    for event in told.events:
                        match event:
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
            self.lost()

    async def _give_back(self, recall: Recall) -> None:
        """Do what a recall asks for."""
        handle = recall.handle
        held = self._held.get(handle)
        if held is not None:
            held.kinds &= recall.kinds
            if not held.kinds:
                del self._held[handle]
        await self._forgotten(handle)
        with suppress(OSError, TransportError):
            await ask(self._transport, LeaseReturn(handle, recall.kinds, recall.epoch), Ack)

    async def _forgotten(self, handle: Handle) -> None:
        # What could not be sent is kept, and told to who has the file open.
        with suppress(OSError, TransportError):
            await self._forget(handle)


def _within(lock: Lock, given_up: Unlock) -> bool:
    """Tell whether a lock is given up as a whole."""
    if lock.handle != given_up.handle or lock.owner != given_up.owner or lock.pos < given_up.pos:
        return False
    return not given_up.length or (bool(lock.length) and lock.pos + lock.length <= given_up.pos + given_up.length)
