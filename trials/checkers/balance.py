"""Trio shell. Conservation: what was taken for the length of a trial, and should be nothing when everybody has left.

Calls, descriptors, folios in use and staging memory of a client; regions, windows and queue pairs of a device; what the store
lent, connections, the tasks that serve them, and leases, locks and waits of sessions that are no more, of a server.
Pools, pins and verbs objects insist by themselves when they are closed, and completion queues when they are polled dry: that is
an AssertionError, U0. Owns no memory.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from netfs.fs.client import Client
from servers.server import Server
from servers.stores.memory import MemoryStore
from transport.rdma.device import Device
from transport.reconnect import SessionTransport

if TYPE_CHECKING:
    from netfs.cache.folio import Folio

__all__ = ["of_client", "of_device", "of_server"]


def of_client(client: Client) -> dict[str, int]:
    """Return what a client that has been closed still has."""
    inodes = list(client._inodes.values())
    folios: list[Folio] = [folio for inode in inodes for folio in inode.mapping.every()]
    left = {
        "descriptors": sum(inode.opens for inode in inodes),
        "requests": len(client.requests()),
        "folios": sum(bool(folio.locked or folio.writeback or folio.pins) for folio in folios),
        "staging memory": client._pool.leased,
    }
    if isinstance(client.transport, SessionTransport):
        session = client.transport._session
        left["calls"] = session.waiting
        left["channels"] = len(session.live)
    return left


def of_device(device: Device) -> dict[str, int]:
    """Return what a device whose connection is over still has."""
    return {"regions": len(device.mrs), "windows": len(device.mws), "queue pairs": len(device.qps)}


def of_server(server: Server, store: MemoryStore) -> dict[str, int]:
    """Return what a server still has for clients that have left; a session that nobody ended may keep what it had."""
    sessions, sharing = server.sessions, server.sessions.sharing
    there = frozenset(session.owner for session in sessions._sessions.values())
    return {
        "store leases": store.lent,
        "connections": server.connections,
        "sessions": sessions.connected,
        "leases": _others(sharing.leases._counts, there),
        "locks": _others(sharing.locks._counts, there),
        "waiting lockers": len(sharing.locks._waits),
        "events": _others(sharing._queues, there),
    }


def _others(owners: Iterable[int], there: frozenset[int]) -> int:
    return sum(owner not in there for owner in owners)
