"""Sans-IO. Leases: what each session may do by itself with a file, and what it is asked to give back when another comes.

    nothing ──LEASE──► held ──another's access──► recalled ──LEASE_RETURN──► less held, or nothing
                                                     └────── too late ─────► nothing (revoked)

A read lease goes with other read leases; a write lease is alone. What reads asks write leases of others down to read, what
changes a file asks all of others away; a handle lease is in nobody's way, and keeps a file that loses its last name until the
last of them is given back. A lease is never asked away for a lease: who comes second is given less. A lease on a directory is on
its names. What is given anew has an epoch that nothing had before: an answer to a recall takes only what the recall was about.
Time is the caller's. Owns no memory. After NFSv4.1 delegations (RFC 8881, 10.4) and SMB leases.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from servers.stores.base import fail
from transport.messages import Event, Handle, LeaseKind, Recall, Revoke

__all__ = ["LEASE_TIMEOUT_S", "MAX_LEASES", "LeaseTable"]

LEASE_TIMEOUT_S: Final = 10.0
"""How long a client may take to give back; longer, and what it kept back is lost to it."""
MAX_LEASES: Final = 16384
"""Files one session may hold leases on."""

_NONE, _READ, _WRITE = LeaseKind.NONE, LeaseKind.READ, LeaseKind.WRITE
_CACHING: Final = _READ | _WRITE
_HANDLE: Final = LeaseKind.HANDLE
Told = tuple[int, Event]
"""A session, and what to tell it."""


@dataclass(slots=True)
class _Held:
    """What one session holds of a file. left: what a recall leaves it, while one is under way, and until when it has time."""

    kinds: LeaseKind
    epoch: int
    left: LeaseKind | None = None
    deadline: float = 0.0


class LeaseTable:
    """The leases on the files of one export, by session number. first: the epoch of the first one that is given.

    closed: told of a file whose last handle lease has gone.
    """

    def __init__(self, first: int = 1) -> None:
        self._epochs = count(first)
        self._files: dict[Handle, dict[int, _Held]] = {}
        self._counts: dict[int, int] = {}
        self.closed: Callable[[Handle], None] = lambda _: None

    def __bool__(self) -> bool:
        """Tell whether there is any lease."""
        return bool(self._files)

    def grant(self, session: int, handle: Handle, kinds: LeaseKind) -> tuple[LeaseKind, int]:
        """Give what can be given beside what others hold, in addition to what is held. Returns: what is held, and its epoch.

        Raises: ENOLCK for more files than one session may hold leases on.
        """
        holders = self._files.get(handle, {})
        mine = holders.get(session)
        if mine is not None and mine.left is not None:
            return mine.kinds & mine.left, mine.epoch  # first it gives back what it is asked for
        others = _NONE
        for holder, held in holders.items():
            if holder != session:
                others |= held.kinds
        if others & _WRITE:
            kinds &= ~_CACHING
        elif others & _READ:
            kinds &= ~_WRITE
        if mine is None:
            if not kinds:
                return _NONE, 0
            if self._counts.get(session, 0) >= MAX_LEASES:
                raise fail(errno.ENOLCK)
            self._counts[session] = self._counts.get(session, 0) + 1
            mine = self._files.setdefault(handle, {})[session] = _Held(kinds, next(self._epochs))
        elif kinds & ~mine.kinds:
            mine.kinds |= kinds
            mine.epoch = next(self._epochs)
        return mine.kinds, mine.epoch

    def give_back(self, session: int, handle: Handle, kinds: LeaseKind, epoch: int) -> None:
        """Keep no more than `kinds`; of another epoch, as when the client has not seen yet what it was given, no effect."""
        mine = self._files.get(handle, {}).get(session)
        if mine is None or epoch != mine.epoch:
            return
        before = mine.kinds
        mine.kinds &= kinds
        if mine.left is not None and not mine.kinds & ~mine.left:
            mine.left = None
        if not mine.kinds:
            self._drop(session, handle)
        if before & ~mine.kinds & _HANDLE and not self.is_open(handle):
            self.closed(handle)

    def is_open(self, handle: Handle) -> bool:
        """Tell whether a client may have a file open. Reads the table alone, as `in_the_way`."""
        holders = self._files.get(handle)
        return holders is not None and any(held.kinds & _HANDLE for held in list(holders.values()))

    def removed(self, handle: Handle) -> list[Told]:
        """Ask for the handle leases on a file that has no name any more: who has it open keeps its own until it closes."""
        holders = self._files.get(handle, {}).items()
        return [(s, Recall(handle, held.kinds & ~_HANDLE, held.epoch)) for s, held in holders if held.kinds & _HANDLE]

    def in_the_way(self, session: int, handle: Handle, *, writes: bool) -> bool:
        """Tell whether what others hold forbids an access. Reads the table alone, so that any thread may ask."""
        holders = self._files.get(handle)
        if holders is None:
            return False
        forbidden = _CACHING if writes else _WRITE
        return any(held.kinds & forbidden for holder, held in list(holders.items()) if holder != session)

    def recall(self, session: int, handle: Handle, now: float, *, writes: bool) -> list[Told]:
        """Ask others for what forbids an access, where they were not asked yet. Returns: what to tell whom."""
        told: list[Told] = []
        left = ~_CACHING if writes else ~_WRITE
        for holder, held in self._files.get(handle, {}).items():
            if holder == session or not held.kinds & ~left:
                continue
            keep = held.kinds & left if held.left is None else held.left & left
            if keep == held.left:
                continue
            if held.left is None:
                held.deadline = now + LEASE_TIMEOUT_S
            held.left = keep
            told.append((holder, Recall(handle, keep, held.epoch)))
        return told

    def expire(self, handle: Handle, now: float) -> list[Told]:
        """Revoke what should have been given back by now. Returns: what to tell whom."""
        late = [(s, held) for s, held in self._files.get(handle, {}).items() if held.left is not None and held.deadline <= now]
        for session, held in late:
            self._drop(session, handle)
            if held.kinds & _HANDLE and not self.is_open(handle):
                self.closed(handle)
        return [(session, Revoke(handle, held.epoch)) for session, held in late]

    def deadline(self, handle: Handle) -> float | None:
        """Return when the next of a file's recalls is overdue."""
        return min((held.deadline for held in self._files.get(handle, {}).values() if held.left is not None), default=None)

    def held(self, session: int, handle: Handle) -> LeaseKind:
        """Return what a session holds of a file."""
        mine = self._files.get(handle, {}).get(session)
        return _NONE if mine is None else mine.kinds

    def end(self, session: int) -> list[Handle]:
        """Take all of a session's leases away, when it is over. Returns: the files."""
        files = [handle for handle, holders in self._files.items() if session in holders] if session in self._counts else []
        for handle in files:
            kinds = self._files[handle][session].kinds
            self._drop(session, handle)
            if kinds & _HANDLE and not self.is_open(handle):
                self.closed(handle)
        return files

    def _drop(self, session: int, handle: Handle) -> None:
        holders = self._files[handle]
        del holders[session]
        if not holders:
            del self._files[handle]
        self._counts[session] -= 1
        if not self._counts[session]:
            del self._counts[session]
