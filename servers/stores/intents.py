"""Sans-IO. Write intents: ranges of files only one session may write to, and what it left word of for the case that it ends.

    live ──its transaction drops it──▶ gone
      │
      └──its session ends──▶ nothing was left word of: gone; else left behind, until a transaction of anybody drops it

While an intent is live or left behind, data writes by other sessions to its range are refused, and so are other intents on it.
What a transaction asks is planned first, so that it is refused as a whole, and done with the rest of it. Owns no memory.
"""

import errno
import struct
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from transport.messages import Handle, IntentRow, Step, StepKind

__all__ = ["Intents", "Planned"]

INTENTS_MAX: Final = 1024
"""On one file."""
NOBODY: Final = 0
FAR: Final = 1 << 64
KEYS_OF_BOOTS: Final = 1 << 22
_ASKING: Final = frozenset({StepKind.WRITE, StepKind.TRUNCATE, StepKind.INTENT_PUT})
_ROW: Final = struct.Struct("<QQI")


@dataclass(frozen=True, slots=True)
class Intent:
    """One intent. session: NOBODY when it was left behind."""

    key: int
    pos: int
    length: int
    session: int
    record: bytes

    def overlaps(self, pos: int, length: int) -> bool:
        """Say whether a range meets this one."""
        return pos < self.pos + self.length and self.pos < pos + length

    @property
    def lasting(self) -> int:
        """How many bytes have to be known of it after a restart of the server."""
        return _ROW.size + len(self.record) if self.record else 0


@dataclass(slots=True)
class _OnFile:
    """The intents on one file, by key in the order they were put, how many of each session there are, and what lasts of them."""

    by_key: dict[int, Intent] = field(default_factory=dict)
    sessions: dict[int, int] = field(default_factory=dict)
    lasting: int = 0

    def put(self, intent: Intent) -> None:
        """Add one."""
        self.by_key[intent.key] = intent
        self.sessions[intent.session] = self.sessions.get(intent.session, 0) + 1
        self.lasting += intent.lasting

    def drop(self, key: int) -> bool:
        """Take one away. Returns: true when none is left."""
        intent = self.by_key.pop(key, None)
        if intent is not None:
            self.sessions[intent.session] -= 1
            if not self.sessions[intent.session]:
                del self.sessions[intent.session]
            self.lasting -= intent.lasting
        return not self.by_key

    def covers(self, under: Intent, pos: int, end: int) -> bool:
        """Say whether a range is in one intent, or in all of its session together."""
        if under.pos <= pos and end <= under.pos + under.length:
            return True
        for intent in sorted(self.by_key.values(), key=lambda intent: intent.pos):
            if intent.session == under.session and intent.pos <= pos:
                pos = max(pos, intent.pos + intent.length)
        return pos >= end

    def keeps_out(self, session: int, pos: int, length: int, gone: Sequence[int] = ()) -> bool:
        """Say whether another session has an intent there that is not one of `gone`; most often there is no other."""
        if len(self.sessions) == (session in self.sessions):
            return False
        return any(
            intent.session != session and intent.overlaps(pos, length) and intent.key not in gone
            for intent in list(self.by_key.values())
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """What a transaction makes of the intents. keys: of those it takes.

    new, dropped: the changes, by file; a number stands for the file that so many CREATEs before it have made.
    """

    keys: list[int] = field(default_factory=list)
    new: list[tuple[Handle | int, Intent]] = field(default_factory=list)
    dropped: list[tuple[Handle | int, int]] = field(default_factory=list)


class Intents:
    """The intents on the files of a store. lock: held for each change, where calls come from several threads."""

    def __init__(self, boot: int, lock: AbstractContextManager[object] | None = None) -> None:
        """boot: makes keys of earlier starts of the server unknown ones."""
        self._lock = lock or nullcontext()
        self._files: dict[Handle, _OnFile] = {}
        self._last_key = boot % KEYS_OF_BOOTS << 40
        self._last_session = 0

    def new_session(self) -> int:
        """Return a number no session had yet."""
        with self._lock:
            self._last_session += 1
            return self._last_session

    def end_session(self, session: int) -> None:
        """End a session: what it left word of stays, what it did not ends."""
        with self._lock:
            for handle, found in list(self._files.items()):
                if session in found.sessions:
                    self._set(handle, _left(found.by_key.values(), session))

    def may_write(self, handle: Handle, pos: int, length: int, session: int, key: int = 0) -> bool:
        """Say whether a session may write to a range of a file's data.

        key: of the intent it does so under, if it names one; that and its others cover the range then.
        """
        found = self._files.get(handle)
        if found is None:
            return not key
        if key:
            under = found.by_key.get(key)
            if under is None or under.session != session or not found.covers(under, pos, pos + length):
                return False
        return not found.keeps_out(session, pos, length)

    def plan_write(self, handle: Handle, pos: int, length: int, session: int, key: int, record: bytes) -> Planned:
        """Work out the intent that comes with a write. key: as for `may_write`. Raises: EAGAIN, ENOLCK as `plan`."""
        if not self.may_write(handle, pos, length, session, key):
            raise OSError(errno.EAGAIN, "another session is writing there")
        return self.plan([Step(StepKind.INTENT_PUT, handle, pos, length, record)], session)

    def rows(self, handle: Handle, session: int) -> list[IntentRow]:
        """Return the intents on a file, as the session is told of them."""
        return [
            IntentRow(
                intent.key, intent.pos, intent.length, intent.session != NOBODY, intent.session == session, intent.record
            )
            for intent in self._on(handle)
        ]  # fmt: skip

    def plan(self, steps: Sequence[Step], session: int) -> Planned:
        """Work out what the steps make of the intents.

        Raises: EAGAIN for a range that another session has, or that was left behind; EINVAL for an intent that is not there or
        another session's, ENOLCK for too many.
        """
        planned = Planned()
        dropped: dict[tuple[Handle | int, int], None] = {}
        made = -1
        with self._lock:
            for step in steps:
                file = step.handle or made
                found = self._files.get(step.handle)
                gone = [key for other, key in dropped if other == file] if step.kind in _ASKING else []
                if step.kind is StepKind.CREATE:
                    made += 1
                elif step.kind in {StepKind.WRITE, StepKind.TRUNCATE}:
                    length = max(1, step.length) if step.kind is StepKind.WRITE else FAR
                    if found is not None and found.keeps_out(session, step.pos, length, gone):
                        raise OSError(errno.EAGAIN, "another session is writing there")
                elif step.kind is StepKind.INTENT_PUT:
                    if found is not None and found.keeps_out(session, step.pos, step.length, gone):
                        raise OSError(errno.EAGAIN, "another session is writing there")
                    if (0 if found is None else len(found.by_key)) + len(planned.new) - len(dropped) >= INTENTS_MAX:
                        raise OSError(errno.ENOLCK, "too many write intents on a file")
                    self._last_key += 1
                    intent = Intent(self._last_key, step.pos, step.length, session, step.record)
                    planned.keys.append(intent.key)
                    planned.new.append((file, intent))
                elif step.kind is StepKind.INTENT_DROP:
                    known = None if found is None else found.by_key.get(step.pos)
                    if known is None or known.session not in {session, NOBODY} or (file, step.pos) in dropped:
                        raise OSError(errno.EINVAL, "no such write intent")
                    dropped[file, step.pos] = None
        planned.dropped.extend(dropped)
        return planned

    def after(self, planned: Planned, file: Handle | int) -> list[Intent]:
        """Return all intents on a file as a transaction will leave them, the new ones last."""
        gone = {key for other, key in planned.dropped if other == file}
        with self._lock:
            kept = [] if isinstance(file, int) else [intent for intent in self._on(file) if intent.key not in gone]
        return [*kept, *(intent for other, intent in planned.new if other == file)]

    def done(self, planned: Planned, made: Sequence[Handle]) -> None:
        """The transaction was done, and has made these."""
        with self._lock:
            for file, intent in planned.new:
                handle = made[file] if isinstance(file, int) else file
                self._files.setdefault(handle, _OnFile()).put(intent)
            for file, key in planned.dropped:
                handle = made[file] if isinstance(file, int) else file
                found = self._files.get(handle)
                if found is not None and found.drop(key):
                    del self._files[handle]

    def forget(self, handle: Handle) -> None:
        """A file is gone."""
        with self._lock:
            self._files.pop(handle, None)

    # ---- what lasts

    def lasting_size(self, handle: Handle) -> int:
        """Return the length of `lasting` of the intents on a file."""
        found = self._files.get(handle)
        return 0 if found is None else found.lasting

    @staticmethod
    def lasting(intents: Iterable[Intent]) -> bytes:
        """Return what has to be known of a file's intents after a restart of the server."""
        return b"".join(
            _ROW.pack(intent.pos, intent.length, len(intent.record)) + intent.record for intent in intents if intent.record
        )  # header: sealed entries, no payload

    def restore(self, handle: Handle, lasting: bytes) -> None:
        """Take what was left behind by sessions that ended with the server. What does not parse is nobody's intent."""
        left: list[Intent] = []
        at = 0
        while len(lasting) - at >= _ROW.size:
            pos, length, size = _ROW.unpack_from(lasting, at)
            at += _ROW.size
            record = lasting[at : at + size]
            at += size
            if not size or len(record) != size:
                break  # what was being added when the power went
            with self._lock:
                self._last_key += 1
                left.append(Intent(self._last_key, pos, length, NOBODY, record))
        with self._lock:
            self._set(handle, left)

    def restarted(self, boot: int) -> "Intents":
        """Return what a server that starts again finds: what was left word of, left behind."""
        made = Intents(boot, self._lock)
        for handle, found in self._files.items():
            made.restore(handle, self.lasting(found.by_key.values()))
        return made

    def in_the_way(self, steps: Sequence[Step], session: int) -> dict[tuple[int, Handle], int]:
        """Return whose live intents on which files keep some steps out, each with its key."""
        found = {}
        for step in steps:
            if step.kind in _ASKING:
                length = FAR if step.kind is StepKind.TRUNCATE else max(1, step.length)
                for intent in self._on(step.handle):
                    if intent.session not in {session, NOBODY} and intent.overlaps(step.pos, length):
                        found[intent.session, step.handle] = intent.key
        return found

    def _on(self, handle: Handle) -> list[Intent]:
        found = self._files.get(handle)
        return [] if found is None else list(found.by_key.values())

    def _set(self, handle: Handle, intents: Iterable[Intent]) -> None:
        found = _OnFile()
        for intent in intents:
            found.put(intent)
        if found.by_key:
            self._files[handle] = found
        else:
            self._files.pop(handle, None)


def _left(intents: Iterable[Intent], session: int) -> Iterable[Intent]:
    for intent in intents:
        if intent.session != session:
            yield intent
        elif intent.record:
            yield Intent(intent.key, intent.pos, intent.length, NOBODY, intent.record)
