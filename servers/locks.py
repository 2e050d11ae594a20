"""Sans-IO. Byte-range locks, advisory as those of fcntl: who has locked what of a file, who waits for whom.

An owner is a session and a number of the client's own. Its locks do not conflict with each other: a new one replaces what the
owner has of the range, splitting and joining as POSIX says. Who would wait for itself, through others, gets EDEADLK. Owns no
memory. After fs/locks.c of Linux (posix_lock_inode, posix_test_lock).
"""

import errno
from dataclasses import dataclass
from typing import Final

from servers.stores.base import SIZE_MAX, fail
from transport.messages import Handle, LockFree, LockKind

__all__ = ["MAX_LOCKS", "LockTable", "Owner", "Range"]

MAX_LOCKS: Final = 1024
"""Ranges one session may have locked."""
Owner = tuple[int, int]
"""Session and number."""


@dataclass(frozen=True, slots=True)
class Range:
    """[start, end) of a file, locked by an owner."""

    owner: Owner
    kind: LockKind
    start: int
    end: int

    def overlaps(self, start: int, end: int) -> bool:
        """Tell whether a byte is in both."""
        return self.start < end and start < self.end


def span(pos: int, length: int) -> tuple[int, int]:
    """Return the range of a request, whose length 0 means to the end. Raises: EINVAL, EOVERFLOW."""
    if pos < 0 or length < 0:
        raise fail(errno.EINVAL)
    if pos + length > SIZE_MAX:
        raise fail(errno.EOVERFLOW)
    return pos, pos + length if length else SIZE_MAX + 1


class LockTable:
    """The locks on the files of one export."""

    def __init__(self) -> None:
        self._files: dict[Handle, list[Range]] = {}
        self._waits: dict[Owner, tuple[Handle, Range]] = {}
        self._counts: dict[int, int] = {}

    def test(self, owner: Owner, handle: Handle, kind: LockKind, start: int, end: int) -> Range | None:
        """Return the first lock of others in the way of one."""
        for held in self._files.get(handle, ()):
            if held.owner != owner and held.overlaps(start, end) and LockKind.WRITE in (kind, held.kind):
                return held
        return None

    def lock(self, owner: Owner, handle: Handle, kind: LockKind, start: int, end: int, *, wait: bool) -> None:
        """Lock a range. wait: note that the owner waits, when it cannot.

        Raises: EAGAIN while another's lock is in the way, EDEADLK when waiting would be for ever, ENOLCK for too many.
        """
        wanted = Range(owner, kind, start, end)
        if self.test(owner, handle, kind, start, end) is not None:
            self._waits.pop(owner, None)
            if wait:
                if self._closes_a_circle(owner, handle, wanted):
                    raise fail(errno.EDEADLK)
                self._waits[owner] = (handle, wanted)
            raise fail(errno.EAGAIN)
        if self._counts.get(owner[0], 0) >= MAX_LOCKS:
            raise fail(errno.ENOLCK)
        self._waits.pop(owner, None)
        self._replace(handle, owner, start, end, wanted)

    def unlock(self, owner: Owner, handle: Handle, start: int, end: int) -> list[tuple[int, LockFree]]:
        """Give up what an owner has of a range, and waits for in it. Returns: who waits for what has become free."""
        waited = self._waits.get(owner)
        if waited is not None and waited[0] == handle and waited[1].overlaps(start, end):
            del self._waits[owner]
        if not any(held.owner == owner and held.overlaps(start, end) for held in self._files.get(handle, ())):
            return []
        self._replace(handle, owner, start, end, None)
        return self._freed(handle, start, end)

    def end(self, session: int) -> list[tuple[int, LockFree]]:
        """Give up all that a session has locked, when it is over. Returns: who waits for what has become free."""
        for owner in [owner for owner in self._waits if owner[0] == session]:
            del self._waits[owner]
        freed: list[tuple[int, LockFree]] = []
        for handle in [h for h, held in self._files.items() if any(each.owner[0] == session for each in held)]:
            gone = [held for held in self._files[handle] if held.owner[0] == session]
            self._put(handle, [held for held in self._files[handle] if held.owner[0] != session])
            freed += self._freed(handle, min(held.start for held in gone), max(held.end for held in gone))
        return freed

    def of(self, handle: Handle) -> list[Range]:
        """Return the locks on a file, in order."""
        return list(self._files.get(handle, ()))

    # ---- inside

    def _freed(self, handle: Handle, start: int, end: int) -> list[tuple[int, LockFree]]:
        """Return the waiting whose lock could be given now; each is told once, and asks again."""
        free = [
            owner
            for owner, (where, wanted) in self._waits.items()
            if where == handle
            and wanted.overlaps(start, end)
            and self.test(owner, handle, wanted.kind, wanted.start, wanted.end) is None
        ]
        for owner in free:
            del self._waits[owner]
        return [(owner[0], LockFree(handle, owner[1])) for owner in free]

    def _closes_a_circle(self, owner: Owner, handle: Handle, wanted: Range) -> bool:
        """Tell whether somebody whom the owner would wait for waits for the owner, at whatever distance."""
        seen: list[Owner] = []
        due = [(handle, wanted)]
        while due:
            where, want = due.pop()
            for held in self._files.get(where, ()):
                other = held.owner
                if other == want.owner or not held.overlaps(want.start, want.end) or LockKind.WRITE not in (want.kind, held.kind):
                    continue
                if other == owner:
                    return True
                if other not in seen:
                    seen.append(other)
                    if other in self._waits:
                        due.append(self._waits[other])
        return False

    def _replace(self, handle: Handle, owner: Owner, start: int, end: int, new: Range | None) -> None:
        """Put a range, or nothing, in the place of what the owner has of [start, end); neighbours of one kind are joined."""
        kept: list[Range] = []
        for held in self._files.get(handle, ()):
            if held.owner != owner:
                kept.append(held)
            elif new is not None and held.kind is new.kind and held.start <= new.end and new.start <= held.end:
                new = Range(owner, new.kind, min(held.start, new.start), max(held.end, new.end))
            elif not held.overlaps(start, end):
                kept.append(held)
            else:
                if held.start < start:
                    kept.append(Range(owner, held.kind, held.start, min(held.end, start)))
                if held.end > end:
                    kept.append(Range(owner, held.kind, max(held.start, end), held.end))
        if new is not None:
            kept.append(new)
        self._put(handle, kept)

    def _put(self, handle: Handle, ranges: list[Range]) -> None:
        before = self._files.pop(handle, ())
        if ranges:
            self._files[handle] = sorted(ranges, key=_place)
        for held, step in ((before, -1), (ranges, 1)):
            for each in held:
                session = each.owner[0]
                self._counts[session] = self._counts.get(session, 0) + step
                if not self._counts[session]:
                    del self._counts[session]


def _place(held: Range) -> tuple[int, int, Owner]:
    return held.start, held.end, held.owner
