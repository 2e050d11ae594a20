"""Trio shell. Planted bugs: small patches of product code that are let loose by name for the length of a trial.

A bug says where it lives and where it is hunted: a stock scenario, which knows nothing of it, a transport, whether files are
encrypted, and how many seeds are enough. Owns no memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from trials.faults.plan import Value
from trials.pairs import TransportName
from trials.sim.patches import Patches

__all__ = ["BUGS", "Bug", "bug", "bugs", "planted"]

Plant = Callable[[Patches], None]


@dataclass(frozen=True, slots=True)
class Bug:
    """One planted bug. layer: the package it is in. first: the first seed of its window, in which `seeds` are enough.

    operations: of each client. plant: makes the patch. kinds: ids of faults, of which a few are drawn for each seed; knobs:
    settings. So a window finds its bug whatever else the catalogue gets.
    """

    name: str
    text: str
    layer: str
    plant: Plant
    scenario: str
    transport: TransportName = "stream"
    encrypt: bool = False
    clients: int = 2
    operations: int = 20
    first: int = 0
    seeds: int = 40
    kinds: tuple[str, ...] = ()
    knobs: tuple[tuple[str, Value], ...] = ()


BUGS: Final[dict[str, Bug]] = {}


def bug(
    name: str, layer: str, scenario: str, *, transport: TransportName = "stream", encrypt: bool = False, clients: int = 2,
    operations: int = 20, first: int = 0, seeds: int = 40, kinds: tuple[str, ...] = (), **knobs: Value,
) -> Callable[[Plant], Plant]:  # fmt: skip
    """Add a bug to the table; the docstring of the patch says what is wrong."""

    def added(plant: Plant) -> Plant:
        assert name not in BUGS and plant.__doc__, f"{name} twice, or without a word of explanation"
        text = plant.__doc__.strip()
        settings = tuple(sorted(knobs.items()))
        BUGS[name] = Bug(
            name, text, layer, plant, scenario, transport, encrypt, clients, operations, first, seeds, kinds, settings
        )  # fmt: skip
        return plant

    return added


def bugs() -> dict[str, Bug]:
    """Return all bugs by name."""
    from trials.zoo import engine, sealing, server, wire  # noqa: F401, PLC0415 - they fill the table

    return BUGS


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Let a bug loose for the length of a block; none for an empty name. Raises: ValueError in one line that names all."""
    with Patches() as patches:
        if name:
            table = bugs()
            if name not in table:
                raise ValueError(f"no bug {name}; there are {', '.join(table)}")
            table[name].plant(patches)
        yield
