"""Trio shell. What a pair lives in: an environment and a probe for each node, and the streams between nodes.

The real world hands out the system's clock, nonces and sockets; a simulated one (`trials.sim`) hands out its own of each, and
hashes what it sees. Owns no memory.
"""

import socket
from typing import Protocol

from iov.probe import Probe
from netfs.tracing import TraceFile
from transport.env import Env, system_env
from transport.link import ByteStream, SocketStream

__all__ = ["RealWorld", "World"]


class World(Protocol):
    """Where nodes come from; a node is named `server`, `client0`, `client1`, …"""

    def env(self, node: str) -> Env:
        """Return the environment of a node."""

    def probe(self, node: str) -> Probe:
        """Return a new probe for a node."""

    def link(self, near: str, far: str) -> tuple[ByteStream, ByteStream]:
        """Return the two ends of a byte stream between two nodes of this process."""


class RealWorld:
    """The system's clock, randomness and socketpairs. trace: where events go; label: before the names of nodes in it."""

    def __init__(self, trace: TraceFile | None = None, label: str = "") -> None:
        self._trace = trace
        self._label = label

    def env(self, node: str) -> Env:
        """Return the system's environment; all nodes share the machine."""
        del node
        return system_env()

    def probe(self, node: str) -> Probe:
        """Return a probe, which has a sink when there is a trace."""
        return Probe(self._trace.sink(self._label + node) if self._trace is not None else None)

    def link(self, near: str, far: str) -> tuple[ByteStream, ByteStream]:
        """Return a socketpair."""
        del near, far
        ours, theirs = socket.socketpair()
        return SocketStream(ours), SocketStream(theirs)
