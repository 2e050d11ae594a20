"""Trio shell. Who is connected to a server: its name and rights, since when, and how its connection is ended. Owns no memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from transport.trust import Grant

__all__ = ["Client", "Clients"]


@dataclass(eq=False)
class Client:
    """A connection. principal: its key's fingerprint, "" for one without; grant: what the key gives, None: everything."""

    peer: str
    principal: str
    grant: "Grant | None"
    since: float
    scope: trio.CancelScope

    def told(self, now: float) -> dict[str, object]:
        """Return what may be told of it."""
        grant = self.grant
        return {
            "peer": self.peer,
            "name": grant.name if grant is not None else None,
            "key": self.principal or None,
            "rights": "ro" if grant is not None and grant.read_only else "rw",
            "export": grant.export if grant is not None else None,
            "seconds": round(now - self.since, 3),
        }


class Clients:
    """The connections there are, in the order in which they came."""

    def __init__(self) -> None:
        self._all: dict[Client, None] = {}

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._all))

    def of(self, principal: str) -> int:
        """Return how many connections somebody has."""
        return sum(client.principal == principal for client in self._all)

    def add(self, client: Client) -> None:
        """Note a connection."""
        self._all[client] = None

    def remove(self, client: Client) -> None:
        """Note its end."""
        self._all.pop(client, None)
