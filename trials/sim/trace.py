"""Trio shell. The trace of a run and its hash: every task step, every event of every probe and every byte on the wire.

Equal hashes mean equal runs. A line carries the virtual time and the task that made it, named by the order of spawning, never
by an address. With `keep` the lines stay readable, to find the first one in which two runs differ; with `steps` each task step
is a line of its own as well. Owns no memory; bytes are hashed and let go.
"""

import hashlib

import trio

from iov.probe import EventSink, Field

__all__ = ["Trace"]

Task = trio.lowlevel.Task


class Trace(trio.abc.Instrument):
    """Collect one run."""

    def __init__(self, *, keep: bool = False, steps: bool = False) -> None:
        self.steps = 0
        self._steps_too = steps
        self.lines: list[str] | None = [] if keep or steps else None
        self._hash = hashlib.blake2b(digest_size=16)
        self._labels: dict[Task, bytes] = {}
        self._spawned = 0
        self._running = b"-"

    def hexdigest(self) -> str:
        """Return the hash of all so far."""
        return self._hash.hexdigest()

    def sink(self, node: str) -> EventSink:
        """Return the event sink for the probe of `node`."""

        def record(event: str, fields: tuple[Field, ...]) -> None:
            self.record(f"{node} {event} {fields!r}")

        return record

    def record(self, text: str) -> None:
        """Add one line, stamped with the virtual time and the running task."""
        line = f"{trio.current_time():.9f} {self._running.decode()} {text}"
        self._hash.update(line.encode("utf-8", "surrogateescape") + b"\n")
        if self.lines is not None:
            self.lines.append(line)

    def wire(self, label: str, view: memoryview | bytes | bytearray) -> None:
        """Add bytes that went over the connection `label`."""
        digest = hashlib.blake2b(view, digest_size=8).hexdigest()
        self.record(f"wire {label} {len(view)} {digest}")

    def task_spawned(self, task: Task) -> None:
        """Name the task by the order of spawning."""
        self._labels[task] = f"{self._spawned}:{task.name.rpartition('.')[2]}".encode()
        self._spawned += 1

    def task_exited(self, task: Task) -> None:
        """Forget the task."""
        del self._labels[task]

    def before_task_step(self, task: Task) -> None:
        """Count and hash the step."""
        self.steps += 1
        self._running = self._labels[task]
        self._hash.update(self._running)
        if self._steps_too and self.lines is not None:
            self.lines.append(f"{trio.current_time():.9f} {self._running.decode()} step {self.steps}")
