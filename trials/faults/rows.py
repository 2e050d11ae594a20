"""Trio shell. What a row of the catalogue is: a kind of fault, where and when it happens, and what may come of it.

A row draws faults of its kind: its triggers and arguments are written with ranges, `nth(send, 1:30)` or `(0.01, 0.5)`, out of
which a seed chooses. Owns no memory.
"""

import errno
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trials.faults.plan import Fault, PlanError, Trigger, Value

__all__ = ["LAYERS", "NONE_YET", "Row", "errnos_of"]

LAYERS: Final = {
    "P": "memory", "N": "netfs", "K": "encryption", "T": "transport", "R": "rdma", "S": "storage", "X": "malicious",
    "E": "environment",
}  # fmt: skip
NONE_YET: Final = "none yet"
_RANGE: Final = re.compile(r"([-\d.]+):([-\d.]+)")
_ERRNO: Final = re.compile(r"E\((\w+)\)")


@dataclass(frozen=True)
class Row:
    """One id. site: which place does it, NONE_YET for none. when: triggers with ranges. args: what may be said of it and the
    range or list a value is drawn from. allowed: OK, RECONN, STALE, DET, `?` or E(errno). needs: encrypt, plain, rdma, link, or
    the name of a transport; a trial without it never draws the row. side: client, when it may aim at one of them. rare: the
    seed draws it one time in so many. brings: other ids that are drawn with it, without which it would come to nothing; knobs:
    likewise. swarm: false for what no seed draws: its allowed outcome looks to a scenario like a failure, or it is for plans
    that name it.
    """

    id: str
    name: str
    site: str
    when: tuple[str, ...]
    allowed: tuple[str, ...]
    how: str
    args: Mapping[str, object] = field(default_factory=dict)
    needs: str = ""
    side: str = "client"
    rare: int = 1
    brings: tuple[str, ...] = ()
    knobs: Mapping[str, Value] = field(default_factory=dict)
    swarm: bool = True

    @property
    def layer(self) -> str:
        """The name of its layer."""
        return LAYERS[self.id[0]]

    @property
    def exists(self) -> bool:
        """Whether it can be injected."""
        return self.site != NONE_YET

    @property
    def trigger(self) -> str:
        """The triggers it is drawn with, for people."""
        return " or ".join(self.when) or NONE_YET

    def fits(self, transport: str, encrypt: bool) -> bool:
        """Whether a trial has what the fault needs."""
        kind = "rdma" if transport.startswith("rdma") else "stream"
        return all(
            {"encrypt": encrypt, "plain": not encrypt, "rdma": kind == "rdma", "link": transport != "rdma-memory"}.get(
                word, transport == word
            )
            for word in self.needs.split()
        )

    def draw(self, rng: random.Random, clients: int, reach: int) -> Fault:
        """Draw a fault. reach: operations of the trial; counts of events go up with it."""
        text = rng.choice(self.when)
        found = _RANGE.search(text)
        if found is not None:
            low, high = float(found[1]), float(found[2])
            whole = "at(" not in text and "p(" not in text
            most = high if "after_bytes" in text or "when(" in text else max(low, min(high, reach))
            value = rng.randint(int(low), int(most)) if whole else round(rng.uniform(low, high), 4)
            text = text[: found.start()] + str(value) + text[found.end() :]
        args = tuple(sorted((name, _chosen(choice, rng)) for name, choice in self.args.items()))
        target = f"client{rng.randrange(clients)}" if self.side == "client" and rng.random() < 0.7 else ""
        return Fault(self.id, Trigger.parse(text), target, args)

    @property
    def errnos(self) -> list[int]:
        """Return the errors it may be told to fail with."""
        choice: Any = self.args.get("errno", [])
        return choice if isinstance(choice, list) else [choice]

    def check(self, fault: Fault) -> None:
        """Refuse a fault that this row cannot do. Raises: PlanError."""
        if not self.exists:
            raise PlanError(f"{self.id} ({self.name}) has no injection yet")
        for name, value in fault.args:
            if name not in self.args:
                raise PlanError(f"{self.id} takes no {name}; it takes {', '.join(self.args) or 'nothing'}")
            if name == "errno" and value not in self.errnos:  # not a size: another number is another fault
                raise PlanError(f"{self.id} fails with {' or '.join(map(errno.errorcode.__getitem__, self.errnos))}, not {value}")
        kinds = {text.partition("(")[0] for text in self.when}
        events = {one.event for one in map(_example, self.when) if one.event}
        kinds |= {"before", "every", "p"} if "nth" in kinds else set()
        kinds |= {"when"} if "at" in kinds else set()
        if fault.trigger.kind not in kinds:
            raise PlanError(f"{self.id} happens {' or '.join(sorted(kinds))}, not {fault.trigger.kind}")
        if fault.trigger.event and fault.trigger.kind != "when" and fault.trigger.event not in events:
            raise PlanError(f"{self.id} knows no event {fault.trigger.event}; there are {', '.join(sorted(events))}")


def _example(text: str) -> Trigger:
    return Trigger.parse(_RANGE.sub(lambda found: found[1], text))


def _chosen(choice: Any, rng: random.Random) -> Any:
    """Choose: a tuple is a range, a list what to choose from."""
    if isinstance(choice, list):
        return rng.choice(choice)
    if isinstance(choice, tuple):
        low, high = choice
        if isinstance(low, int) and isinstance(high, int):
            return rng.randint(low, high)
        return round(rng.uniform(float(low), float(high)), 4)
    return choice


def errnos_of(allowed: tuple[str, ...]) -> frozenset[int]:
    """Return the errors that a caller may be told."""
    return frozenset(getattr(errno, name) for text in allowed for name in _ERRNO.findall(text))
