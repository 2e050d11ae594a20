"""Sans-IO. The states of a cookie as a literal table; names are those of fscache.

    QUIESCENT ─USE▶ LOOKING_UP ─FOUND▶ ACTIVE ◀SWAPPED─ INVALIDATING
        ▲               │ MISSING      ▲ │ └─────INVALIDATE────▲
        │               ▼              │ │
        │           CREATING ─CREATED──┘ └IDLE▶ LRU_DISCARDING
        └───────────────────────────CLOSED──────────┘

A busy state has one piece of work under way, whose end is FOUND, MISSING, CREATED, SWAPPED, CLOSED or BROKEN; what is asked for
meanwhile waits for it. WITHDRAW (the cache is closed) and RELINQUISH (the file is forgotten) close the object as IDLE does.
BROKEN, from wherever it comes, is FAILED: the file goes on without a cache until it is used anew. Owns no memory.
"""

import enum
from typing import Final

__all__ = ["BUSY", "TABLE", "Event", "State", "after"]


class State(enum.Enum):
    """Where a cookie is."""

    QUIESCENT = "quiescent"
    LOOKING_UP = "looking up"
    CREATING = "creating"
    ACTIVE = "active"
    INVALIDATING = "invalidating"
    FAILED = "failed"
    LRU_DISCARDING = "discarding"
    WITHDRAWING = "withdrawing"
    RELINQUISHING = "relinquishing"
    DROPPED = "dropped"


class Event(enum.Enum):
    """What happens to a cookie: USE, INVALIDATE, IDLE, WITHDRAW and RELINQUISH are asked for, the rest is how work ended."""

    USE = "use"
    FOUND = "found"
    MISSING = "missing"
    CREATED = "created"
    INVALIDATE = "invalidate"
    SWAPPED = "swapped"
    IDLE = "idle"
    WITHDRAW = "withdraw"
    RELINQUISH = "relinquish"
    CLOSED = "closed"
    BROKEN = "broken"


BUSY: Final = frozenset(
    {
        State.LOOKING_UP, State.CREATING, State.INVALIDATING, State.LRU_DISCARDING, State.WITHDRAWING, State.RELINQUISHING,
    }
)  # fmt: skip

TABLE: Final[dict[tuple[State, Event], State]] = {
    (State.QUIESCENT, Event.USE): State.LOOKING_UP,
    (State.QUIESCENT, Event.INVALIDATE): State.QUIESCENT,
    (State.QUIESCENT, Event.IDLE): State.QUIESCENT,
    (State.QUIESCENT, Event.WITHDRAW): State.QUIESCENT,
    (State.QUIESCENT, Event.RELINQUISH): State.DROPPED,
    (State.LOOKING_UP, Event.FOUND): State.ACTIVE,
    (State.LOOKING_UP, Event.MISSING): State.CREATING,
    (State.LOOKING_UP, Event.BROKEN): State.FAILED,
    (State.CREATING, Event.CREATED): State.ACTIVE,
    (State.CREATING, Event.BROKEN): State.FAILED,
    (State.ACTIVE, Event.USE): State.ACTIVE,
    (State.ACTIVE, Event.INVALIDATE): State.INVALIDATING,
    (State.ACTIVE, Event.IDLE): State.LRU_DISCARDING,
    (State.ACTIVE, Event.WITHDRAW): State.WITHDRAWING,
    (State.ACTIVE, Event.RELINQUISH): State.RELINQUISHING,
    (State.ACTIVE, Event.BROKEN): State.FAILED,
    (State.INVALIDATING, Event.SWAPPED): State.ACTIVE,
    (State.INVALIDATING, Event.BROKEN): State.FAILED,
    (State.FAILED, Event.USE): State.LOOKING_UP,
    (State.FAILED, Event.INVALIDATE): State.FAILED,
    (State.FAILED, Event.IDLE): State.LRU_DISCARDING,
    (State.FAILED, Event.WITHDRAW): State.WITHDRAWING,
    (State.FAILED, Event.RELINQUISH): State.RELINQUISHING,
    (State.FAILED, Event.BROKEN): State.FAILED,
    (State.LRU_DISCARDING, Event.CLOSED): State.QUIESCENT,
    (State.WITHDRAWING, Event.CLOSED): State.QUIESCENT,
    (State.RELINQUISHING, Event.CLOSED): State.DROPPED,
}


def after(state: State, event: Event) -> State:
    """Return the state an event leads to. Raises: AssertionError for an event that cannot happen there."""
    found = TABLE.get((state, event))
    assert found is not None, f"{event.name} in {state.name}"
    return found
