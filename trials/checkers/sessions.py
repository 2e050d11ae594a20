"""Sans-IO. Level 2 and 3: close-to-open and durability, for files that are used through page caches.

A session is a descriptor from its open to its close. A read of one must not find a value that is older than the newest write
that was safe (fsynced or closed without an error) before the session was opened, nor older than what its own client had
written by then. Older: it stood, for all to see, before the newer one was called. Sessions that overlap may see either. A
direct read has no cache, so for it every read is a session of its own. Crashes need no rule: what is safe is safe. Owns no
memory.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from trials.cells import HOLE
from trials.checkers.segments import Seen, Segment, damaged, pedigree, segments, settled, settled_by
from trials.history import NEVER, Failure, History, Op

__all__ = ["check_sessions"]


@dataclass(slots=True)
class _Newest:
    """The newest write among those that were done by a given tick: newest is who was called last."""

    by: list[int] = field(default_factory=list)
    newest: list[Op] = field(default_factory=list)

    @classmethod
    def of(cls, done: Iterable[tuple[int, Op]]) -> "_Newest":
        found = cls()
        for tick, op in sorted(((tick, op) for tick, op in done if tick != NEVER), key=lambda each: each[0]):
            best = found.newest[-1] if found.newest and found.newest[-1].call > op.call else op
            found.by.append(tick)
            found.newest.append(best)
        return found

    def before(self, tick: int) -> Op | None:
        """Return the newest write done before a tick."""
        at = bisect_left(self.by, tick)
        return self.newest[at - 1] if at else None


def check_sessions(history: History, file: str) -> Iterator[Failure]:
    """Yield what is wrong with a file's reads; one failure for a segment at most."""
    safe = settled(history)
    stands = settled_by(history, safe)
    yield from damaged(history, file, stands)
    opened = {op.fd: op.call for op in history.of("open")}
    for segment in segments(history, file):
        failure = _check(history, segment, safe, stands, opened)
        if failure is not None:
            yield failure


def _check(
    history: History, segment: Segment, safe: dict[int, int], stands: dict[int, int], opened: dict[int, int]
) -> Failure | None:
    published = _Newest.of((min(safe.get(op.id, NEVER), stands[op.id]), op) for op in segment.writes)
    own: dict[str, _Newest] = {}
    troubled = {op.client for op in history.ops if op.file == segment.file and not op.ok}
    called = {op.id: op.call for op in segment.writes}
    for seen in segment.reads:
        read = seen.read
        if seen.write != HOLE and (seen.write not in called or called[seen.write] > read.ret):
            return Failure("U1 unwritten data", f"{segment}: {read} found {pedigree(history, seen.write)}")
        until = -1 if seen.write == HOLE else stands[seen.write]
        newest = published.before(read.call if read.direct else opened.get(read.fd, read.call))
        if newest is not None and until < newest.call:
            return _stale(history, segment, seen, newest, safe)
        if read.client not in own:
            own[read.client] = _Newest.of(_own(segment, read.client, read.client in troubled, safe, stands))
        newest = own[read.client].before(read.call)
        if newest is not None and until < newest.call:
            return Failure(
                "U1 own write not seen",
                f"{segment}: {read} found {pedigree(history, seen.write)}, which stood before the client's own {newest}",
            )
    return None


def _own(
    segment: Segment, client: str, troubled: bool, safe: dict[int, int], stands: dict[int, int]
) -> Iterator[tuple[int, Op]]:  # fmt: skip
    """Yield what a client wrote, and from when on it must see it itself.

    troubled: an operation on the file has told it of an error, or never returned. What is not safe may then be gone from its
    cache, even before it was told.
    """
    for op in segment.writes:
        if op.client == client and op.ok and (op.id in safe or not troubled) and (not op.direct or stands[op.id] != NEVER):
            yield op.ret, op


def _stale(history: History, segment: Segment, seen: Seen, newest: Op, safe: dict[int, int]) -> Failure:
    """Say what was found, and what should have been."""
    kind = "U1 stale after open"
    if any(mark.kind == "crash" and mark.tick < seen.read.call for mark in history.marks) and newest.id in safe:
        kind = "U1 lost after crash"
    elif seen.read.client == "audit":
        kind = "U7 lost without an error"
    found = pedigree(history, seen.write)
    return Failure(kind, f"{segment}: {seen.read} found {found}, which stood before the newer {newest} was safe and closed")
