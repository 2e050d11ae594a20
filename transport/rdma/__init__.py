"""The verbs device in software and the transport that runs over it."""

from transport.rdma.aio import AsyncCQ, Verbs, open_verbs
from transport.rdma.errors import VerbsError
from transport.rdma.loopback import Loopback
from transport.rdma.memory_fabric import MemoryFabric, connect_pair
from transport.rdma.profiles import CONNECTX, PROFILES, RXE, SIW, TINY, DeviceProfile

__all__ = [
    "CONNECTX",
    "PROFILES",
    "RXE",
    "SIW",
    "TINY",
    "AsyncCQ",
    "DeviceProfile",
    "Loopback",
    "MemoryFabric",
    "Verbs",
    "VerbsError",
    "connect_pair",
    "open_verbs",
]
