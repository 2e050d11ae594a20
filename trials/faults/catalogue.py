"""Trio shell. The catalogue of faults: one row for each kind, and plans drawn from it.

`netfs faults list` shows it. A swarm draws a random subset of layers, of kinds in them and of knobs, so that most trials leave
most faults out and each combination comes about. Owns no memory.
"""

import math
import random
from collections.abc import Collection, Iterable
from typing import Final

from trials.faults.plan import Fault, Plan, PlanError, Value
from trials.faults.rows import LAYERS, Row, errnos_of
from trials.faults.rows_attacks import ATTACKED
from trials.faults.rows_client import CLIENT
from trials.faults.rows_network import NETWORK
from trials.faults.rows_rdma import RDMA
from trials.faults.rows_storage import STORAGE

__all__ = ["KNOBS", "LAYERS", "ROWS", "allowed_errnos", "check_fault", "check_knob", "draw_plan", "row_of"]

ROWS: Final[dict[str, Row]] = {
    row.id: row
    for row in sorted(
        (*CLIENT, *ATTACKED, *NETWORK, *RDMA, *STORAGE), key=lambda row: ("PNKTRSXE".index(row.id[0]), int(row.id[1:]))
    )
}
KNOBS: Final[dict[str, tuple[Value, ...]]] = {
    "rsize": (4096, 16384, 65536),
    "wsize": (4096, 16384, 65536),
    "cache_bytes": (0, 65536, 262144),
    "credits": (1, 2, 3, 4),
    "channels": (2, 3),
    "timeout_s": (5.0, 15.0),
    "keepalive_s": (1.0, 3.0),
    "leases": (0, 1),
    "slice": (200, 600, 1500),
    "capacity": (4096, 20000),
    "max_sge": (1, 2, 6),
    "rd_atom": (1, 2),
    "offload": (1,),
}
"""Settings that are unusual on purpose, and the values a seed chooses from."""
DEFAULT_INTENSITY: Final = 3


def row_of(name: str) -> Row:
    """Return the row of an id. Raises: PlanError."""
    row = ROWS.get(name)
    if row is None:
        raise PlanError(f"no fault {name}; see netfs faults list")
    return row


def check_fault(fault: Fault) -> None:
    """Refuse what the catalogue does not know. Raises: PlanError."""
    row_of(fault.id).check(fault)


def check_knob(name: str, value: object) -> None:
    """Refuse a knob that is none. Raises: PlanError."""
    if name not in KNOBS:
        raise PlanError(f"no knob {name}; there are {', '.join(KNOBS)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or math.isnan(value):
        raise PlanError(f"knob {name} is a number that is not negative, not {value!r}")


def allowed_errnos(ids: Iterable[str]) -> frozenset[int]:
    """Return the errors that callers may be told of faults."""
    return frozenset().union(*(errnos_of(row_of(name).allowed) for name in ids))


def draw_plan(
    rng: random.Random, *, transport: str, encrypt: bool, clients: int, reach: int, layers: Collection[str] = tuple(LAYERS),
    intensity: int = DEFAULT_INTENSITY, stale: bool = False,
) -> Plan:  # fmt: skip
    """Draw a plan that a trial can bear. reach: operations of one client. layers: letters. intensity: most kinds of a layer.

    stale: the scenario bears to be shown an old state where nobody can know better.
    """
    faults: list[Fault] = []
    knobs = {name: rng.choice(values) for name, values in KNOBS.items() if rng.random() < 0.15}
    for letter in LAYERS:
        rows = [
            row for row in ROWS.values()
            if row.id[0] == letter and row.exists and row.fits(transport, encrypt)
            and (row.swarm or (stale and "STALE" in row.allowed))
        ]  # fmt: skip
        wanted = rng.random() < 0.5
        chosen = rng.sample(rows, min(len(rows), rng.randint(1, intensity)))
        if not wanted or letter not in layers:
            continue
        for row in chosen:
            if row.rare == 1 or rng.random() < 1 / row.rare:
                faults += [row.draw(rng, clients, reach) for _ in range(rng.choice((1, 1, 2)))]
                faults += [ROWS[name].draw(rng, clients, reach) for name in row.brings if ROWS[name].fits(transport, encrypt)]
                knobs |= row.knobs
    return Plan(tuple(faults), tuple(sorted(knobs.items())))
