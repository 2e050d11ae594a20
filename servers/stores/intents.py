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


@dataclass(frozen=True, slots=True)
class Planned:
    """What a transaction makes of the intents. keys: of those it takes.

    files: all intents on each file it changes those of; a number stands for the file that so many CREATEs before it have made.
    new, dropped: the changes.
    """

    keys: list[int] = field(default_factory=list)
    files: dict[Handle | int, tuple[Intent, ...]] = field(default_factory=dict)
    new: list[tuple[Handle | int, Intent]] = field(default_factory=list)
    dropped: list[tuple[Handle | int, int]] = field(default_factory=list)


class Intents:
    """The intents on the files of a store. lock: held for each change, where calls come from several threads."""

    def __init__(self, boot: int, lock: AbstractContextManager[object] | None = None) -> None:
        """boot: makes keys of earlier starts of the server unknown ones."""
        self._lock = lock or nullcontext()
        self._files: dict[Handle, tuple[Intent, ...]] = {}
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
            for handle, intents in list(self._files.items()):
                if any(intent.session == session for intent in intents):
                    self._set(handle, tuple(_left(intents, session)))

    def may_write(self, handle: Handle, pos: int, length: int, session: int) -> bool:
        """Say whether a session may write to a range of a file's data."""
        return all(
            intent.session == session or not intent.overlaps(pos, length) for intent in self._files.get(handle, ())
        )  # fmt: skip

    def rows(self, handle: Handle, session: int) -> list[IntentRow]:
        """Return the intents on a file, as the session is told of them."""
        return [
            IntentRow(
                intent.key, intent.pos, intent.length, intent.session != NOBODY, intent.session == session, intent.record
            )
            for intent in self._files.get(handle, ())
        ]  # fmt: skip

    def plan(self, steps: Sequence[Step], session: int) -> Planned:
        """Work out what the steps make of the intents.

        Raises: EAGAIN for a range that another session has, or that was left behind; EINVAL for an intent that is not there or
        another session's, ENOLCK for too many.
        """
        planned = Planned()
        files = planned.files
        made = -1
        with self._lock:
            for step in steps:
                file = step.handle or made
                now = files.get(file, self._files.get(step.handle, ()))
                if step.kind is StepKind.CREATE:
                    made += 1
                elif step.kind in {StepKind.WRITE, StepKind.TRUNCATE}:
                    length = max(1, step.length) if step.kind is StepKind.WRITE else FAR
                    if any(intent.session != session and intent.overlaps(step.pos, length) for intent in now):
                        raise OSError(errno.EAGAIN, "another session is writing there")
                elif step.kind is StepKind.INTENT_PUT:
                    if any(intent.session != session and intent.overlaps(step.pos, step.length) for intent in now):
                        raise OSError(errno.EAGAIN, "another session is writing there")
                    if len(now) >= INTENTS_MAX:
                        raise OSError(errno.ENOLCK, "too many write intents on a file")
                    self._last_key += 1
                    intent = Intent(self._last_key, step.pos, step.length, session, step.record)
                    planned.keys.append(intent.key)
                    planned.new.append((file, intent))
                    files[file] = (*now, intent)
                elif step.kind is StepKind.INTENT_DROP:
                    kept = tuple(intent for intent in now if intent.key != step.pos or intent.session not in {session, NOBODY})
                    if len(kept) == len(now):
                        raise OSError(errno.EINVAL, "no such write intent")
                    planned.dropped.append((file, step.pos))
                    files[file] = kept
        return planned

    def done(self, planned: Planned, made: Sequence[Handle]) -> None:
        """The transaction was done, and has made these."""
        with self._lock:
            for file, intent in planned.new:
                handle = made[file] if isinstance(file, int) else file
                self._files[handle] = (*self._files.get(handle, ()), intent)
            for file, key in planned.dropped:
                handle = made[file] if isinstance(file, int) else file
                self._set(handle, tuple(intent for intent in self._files.get(handle, ()) if intent.key != key))

    def forget(self, handle: Handle) -> None:
        """A file is gone."""
        with self._lock:
            self._files.pop(handle, None)

    # ---- what lasts

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
            if len(record) != size:
                break
            with self._lock:
                self._last_key += 1
                left.append(Intent(self._last_key, pos, length, NOBODY, record))
        with self._lock:
            self._set(handle, tuple(left))

    def restarted(self, boot: int) -> "Intents":
        """Return what a server that starts again finds: what was left word of, left behind."""
        made = Intents(boot, self._lock)
        for handle, intents in self._files.items():
            made.restore(handle, self.lasting(intents))
        return made

    def _set(self, handle: Handle, intents: tuple[Intent, ...]) -> None:
        if intents:
            self._files[handle] = intents
        else:
            self._files.pop(handle, None)


def _left(intents: Iterable[Intent], session: int) -> Iterable[Intent]:
    for intent in intents:
        if intent.session != session:
            yield intent
        elif intent.record:
            yield Intent(intent.key, intent.pos, intent.length, NOBODY, intent.record)
