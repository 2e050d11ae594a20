"""Sans-IO. Counters and the event sink that every layer reports to; off costs one attribute test.

A `Probe` belongs to one side of a pair (one client or one server), so that the two can be told apart in one process.
Layers count with plain attribute additions; `copied()` counts a payload copy made by our own code (the cipher pass is a
transform and is not counted). The sink, when set, receives every event as a name and plain values; tracing and the
simulator's trace hash consume it; `iov/events.py` names the events and their fields. Owns no memory.
"""

from collections.abc import Callable

__all__ = ["COUNTERS", "EventSink", "Field", "Probe"]

Field = int | str | bytes
EventSink = Callable[[str, tuple[Field, ...]], None]

COUNTERS = (
    "payload_copies",
    "copied_bytes",
    "transformed_bytes",
    "requests",
    "subrequests",
    "retries",
    "messages",
    "wire_bytes",
    "syscalls",
    "work_requests",
    "sges",
    "map_calls",
    "bounce_allocations",
    "bounce_bytes",
    "hops",
)


class Probe:
    """Count what one side does and pass its events on.

    inode_ids, request_ids, call_ids: the last numbers given to what events speak of; they go on after a reset.
    """

    __slots__ = (*COUNTERS, "call_ids", "inode_ids", "request_ids", "sink")

    payload_copies: int
    copied_bytes: int
    transformed_bytes: int
    requests: int
    subrequests: int
    retries: int
    messages: int
    wire_bytes: int
    syscalls: int
    work_requests: int
    sges: int
    map_calls: int
    bounce_allocations: int
    bounce_bytes: int
    hops: int

    def __init__(self, sink: EventSink | None = None) -> None:
        self.sink = sink
        self.inode_ids = 0
        self.request_ids = 0
        self.call_ids = 0
        self.reset()

    def reset(self) -> None:
        """Set every counter to zero; the sink stays."""
        for name in COUNTERS:
            setattr(self, name, 0)

    def copied(self, length: int) -> None:
        """Count one payload copy of `length` bytes."""
        self.payload_copies += 1
        self.copied_bytes += length

    def bounced(self, length: int) -> None:
        """Count one allocation of bounce (staging) memory of `length` bytes."""
        self.bounce_allocations += 1
        self.bounce_bytes += length

    def snapshot(self) -> dict[str, int]:
        """Return all counters by name."""
        return {name: getattr(self, name) for name in COUNTERS}

    def emit(self, event: str, *fields: Field) -> None:
        """Pass an event to the sink; hot paths test `sink` themselves before they build the fields."""
        if self.sink is not None:
            self.sink(event, fields)
