"""Trio shell. The trace of a run and its hash: every task step, every event of every probe and every byte on the wire.

Equal hashes mean equal runs. A line carries the virtual time and the task that made it, named by the order of spawning, never
by an address. With `keep` the lines stay readable, to find the first one in which two runs differ; with `steps` each task step
is a line of its own as well. Entries are hashed many at a time, which costs a fraction of one by one. Owns no memory; bytes are
hashed at once and let go.
"""

import hashlib
from typing import Final

import trio

from iov.probe import EventSink, Field

__all__ = ["Trace"]

Task = trio.lowlevel.Task
MANY: Final = 1024


class Trace(trio.abc.Instrument):
    """Collect one run."""

    def __init__(self, *, keep: bool = False, steps: bool = False) -> None:
        self.steps = 0
        self._steps_too = steps
        self.lines: list[str] | None = [] if keep or steps else None
        self._hash = hashlib.blake2b(digest_size=16)
        self._wire = hashlib.blake2b(digest_size=16)
        self._entries: list[object] = []
        self._labels: dict[Task, str] = {}
        self._spawned = 0
        self._running = "-"

    def hexdigest(self) -> str:
        """Return the hash of all so far."""
        self._flush()
        both = self._hash.copy()
        both.update(self._wire.digest())
        return both.hexdigest()

    def _flush(self) -> None:
        self._hash.update(repr(self._entries).encode("utf-8", "surrogateescape"))
        self._entries.clear()

    def sink(self, node: str) -> EventSink:
        """Return the event sink for the probe of `node`."""

        def record(event: str, fields: tuple[Field, ...]) -> None:
            now = trio.current_time()
            self._entries.append((now, node, event, fields))
            if self.lines is not None:
                self.lines.append(f"{now:.9f} {self._running} {node} {event} {fields!r}")

        return record

    def record(self, text: str) -> None:
        """Add one line, stamped with the virtual time and the running task."""
        now = trio.current_time()
        self._entries.append((now, text))
        if self.lines is not None:
            self.lines.append(f"{now:.9f} {self._running} {text}")

    def wire(self, label: str, view: memoryview | bytes | bytearray) -> None:
        """Add bytes that went over the connection `label`."""
        now = trio.current_time()
        self._entries.append((now, label, len(view)))
        self._wire.update(view)
        if self.lines is not None:
            digest = hashlib.blake2b(view, digest_size=8).hexdigest()
            self.lines.append(f"{now:.9f} {self._running} wire {label} {len(view)} {digest}")

    def task_spawned(self, task: Task) -> None:
        """Name the task by the order of spawning."""
        self._labels[task] = f"{self._spawned}:{task.name.rpartition('.')[2]}"
        self._spawned += 1

    def task_exited(self, task: Task) -> None:
        """Forget the task."""
        del self._labels[task]

    def before_task_step(self, task: Task) -> None:
        """Count and hash the step."""
        self.steps += 1
        self._running = running = self._labels[task]
        entries = self._entries
        entries.append(running)
        if len(entries) > MANY:
            self._flush()
        if self._steps_too and self.lines is not None:
            self.lines.append(f"{trio.current_time():.9f} {running} step {self.steps}")
