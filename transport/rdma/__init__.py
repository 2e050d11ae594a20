"""The verbs device in software and the transport that runs over it."""

from transport.rdma.aio import AsyncCQ, Verbs, open_verbs
from transport.rdma.capture_fabric import capture_fabric
from transport.rdma.capture_file import open_capture
from transport.rdma.cm import ConnectionManager, Rejected, open_cm
from transport.rdma.cm_id import CmParam
from transport.rdma.errors import VerbsError
from transport.rdma.loopback import Loopback
from transport.rdma.memory_fabric import MemoryFabric, connect_pair
from transport.rdma.profiles import CONNECTX, IWARP, PROFILES, RXE, SIW, TINY, DeviceProfile

__all__ = [
    "CONNECTX",
    "IWARP",
    "PROFILES",
    "RXE",
    "SIW",
    "TINY",
    "AsyncCQ",
    "CmParam",
    "ConnectionManager",
    "DeviceProfile",
    "Loopback",
    "MemoryFabric",
    "Rejected",
    "Verbs",
    "VerbsError",
    "capture_fabric",
    "connect_pair",
    "open_capture",
    "open_cm",
    "open_verbs",
]
