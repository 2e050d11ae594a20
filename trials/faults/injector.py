"""Trio shell. Where a plan meets the places that can do harm: who asks what goes wrong now, and the record of what did.

A place (`site`: the link, the store, the handler, a device, …) tells each event that passes it and is given the faults that are
due; it does them and says `fired`. Each fault has a random stream of its own, so that one fault more or less does not change what
the others do. Before `begin` and after `heal` nothing is due. Owns no memory.
"""

from collections.abc import Callable, Mapping, Sequence

import trio

from trials.faults.catalogue import row_of
from trials.faults.plan import Fault, Plan
from trials.sim.rng import Streams

__all__ = ["Armed", "Injector"]


class Armed:
    """A fault of the plan with its count. rng: for what it does at random. fired: how often it took effect."""

    __slots__ = ("count", "fault", "fired", "rng", "spent")

    def __init__(self, fault: Fault, index: int, streams: Streams) -> None:
        self.fault = fault
        self.rng = streams.rng(f"fault/{fault.id}/{index}")
        self.count = 0
        self.fired = 0
        self.spent = False

    def due(self, size: int) -> bool:
        """Count an event, and say whether the fault happens with it."""
        trigger = self.fault.trigger
        match trigger.kind:
            case "p":
                return self.rng.random() < trigger.value
            case "after_bytes":
                self.count += size
                self.spent = self.count >= trigger.value
                return self.spent
            case "every":
                self.count += 1
                return not self.count % int(trigger.value)
            case _:
                self.count += 1
                self.spent = self.count >= trigger.value
                return self.spent


_NONE: Sequence[Armed] = ()


class Injector:
    """The faults of one trial. record: takes a line for each that took effect; struck: is told of it.

    timed: those that happen at a moment, which `moment` waits for. states: what `when` looks at, each for a node or for none.
    """

    def __init__(
        self, plan: Plan, streams: Streams, record: Callable[[str], None], struck: Callable[[], None] = lambda: None
    ) -> None:
        self.plan = plan
        self.armed = [Armed(fault, index, streams) for index, fault in enumerate(plan)]
        self.active = self.healed = False
        self.ids: dict[str, int] = {}
        self._record = record
        self._struck = struck
        self._at: dict[tuple[str, str], list[Armed]] = {}
        self.timed: list[Armed] = []
        self.states: Mapping[str, Callable[[str], float]] = {}
        self._looking: list[tuple[Armed, trio.Event]] = []
        for one in self.armed:
            trigger = one.fault.trigger
            site = row_of(one.fault.id).site
            if trigger.kind in {"at", "when"}:
                self.timed.append(one)
            else:
                event = "bytes" if trigger.kind == "after_bytes" else trigger.event
                self._at.setdefault((site, f"{event}." if trigger.kind == "after" else event), []).append(one)

    def of(self, site: str) -> list[Armed]:
        """Return the faults of a site."""
        return [one for one in self.armed if row_of(one.fault.id).site == site]

    def timed_of(self, site: str) -> list[Armed]:
        """Return the faults of a site that happen at a moment."""
        return [one for one in self.timed if row_of(one.fault.id).site == site]

    def watches(self, site: str) -> bool:
        """Say whether anything can go wrong at a site."""
        return any(row_of(one.fault.id).site == site for one in self.armed)

    def expects(self, site: str, event: str) -> bool:
        """Say whether anything can go wrong with an event."""
        return (site, event) in self._at

    def due(self, site: str, event: str, node: str = "", size: int = 0) -> Sequence[Armed]:
        """Tell an event, and return what goes wrong with it. An `event.` with a dot is over."""
        if self._looking:
            self._look()
        waiting = self._at.get((site, event), _NONE)
        if not waiting or not self.active:
            return _NONE
        return [one for one in waiting if not one.spent and (not one.fault.target or one.fault.target == node) and one.due(size)]

    async def moment(self, one: Armed) -> None:
        """Wait until it is time for a fault that happens at a moment, or in a state; it may be too late for it then."""
        trigger = one.fault.trigger
        if trigger.kind == "at":
            await trio.sleep(trigger.value)
        else:
            event = trio.Event()
            self._looking.append((one, event))
            await event.wait()

    def _look(self) -> None:
        """Look at states, which change with events."""
        for one, event in list(self._looking):
            trigger = one.fault.trigger
            if self.states[trigger.event](one.fault.target) >= trigger.value:
                self._looking.remove((one, event))
                event.set()

    def fired(self, one: Armed, note: str = "") -> None:
        """Note that a fault took effect."""
        one.fired += 1
        self._struck()
        self.ids[one.fault.id] = self.ids.get(one.fault.id, 0) + 1
        self._record(f"fault {one.fault}{f': {note}' if note else ''}")

    def begin(self) -> None:
        """Let things go wrong, and count, from now on."""
        self.active = True
        self.healed = False
        self._record("begin")

    def heal(self) -> None:
        """Let nothing go wrong from now on."""
        self.active = False
        self.healed = True
        for _, event in self._looking:
            event.set()
        self._looking.clear()
        self._record("heal")
