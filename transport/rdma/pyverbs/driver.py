"""Trio shell. What makes the sans-IO device a blocking one: a fabric for the process, the clock, real addresses, waiting.

pyverbs programs post and poll in one thread and name memory by real addresses: `view_at` turns an address into a view, as a
device's DMA does, and like a device believes what a registration said. Trio is not used here; the wait is a plain one.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, Final, ParamSpec, TypeVar

from transport.env import monotonic
from transport.rdma.device import Context, Device
from transport.rdma.memory_fabric import MemoryFabric
from transport.rdma.profiles import CONNECTX, PROFILES, DeviceProfile

__all__ = [
    "DEVICES", "address_of", "advance", "contexts_by_fd", "locked", "move", "next_deadline", "open_by_name", "progress", "pumps",
    "use_profile", "view_at", "wait_a_little",
]  # fmt: skip

LONGEST_WAIT_S: Final = 0.001
fabric: Final = MemoryFabric(monotonic())
DEVICES: Final[dict[str, Device]] = {}
contexts_by_fd: Final[dict[int, object]] = {}
"""Contexts by the inode of their command descriptor, so that a duplicate of it opens the same device."""
_pause: Final = threading.Event()
pumps: Final[list[Callable[[], None]]] = []
"""What moves bytes of connections to other processes, if there are any."""
lock = threading.RLock()
"""Held by whoever is inside the device: a program's thread, or the one that serves connections."""
Owner = TypeVar("Owner")
P = ParamSpec("P")
R = TypeVar("R")


def locked(fn: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """Have a method that does not wait hold the lock."""

    @wraps(fn)
    def call(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with lock:
            return fn(self, *args, **kwargs)

    return call


def view_at(addr: int, length: int) -> memoryview:
    """Return the bytes at a real address; a wrong one is as deadly as in C."""
    return memoryview((ctypes.c_char * length).from_address(addr)).cast("B")


def address_of(buffer: bytearray | memoryview) -> int:
    """Return the real address of a writable buffer."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def add_device(name: str, profile: DeviceProfile) -> Device:
    """Plug another device into the process's fabric."""
    device = fabric.add_device(name, profile)
    device.resolver = view_at
    DEVICES[name] = device
    return device


def use_profile(name: str) -> None:
    """Replace the device of the process by one of a named profile (`rxe`, `siw`, `connectx`, `tiny`)."""
    DEVICES.clear()
    add_device("emu0", PROFILES[name])


def open_by_name(name: str) -> Context | None:
    """Open a device of the process."""
    device = DEVICES.get(name)
    return None if device is None else device.open()


def inode_of(fd: int) -> int:
    """Return what identifies a command descriptor however often it was duplicated."""
    return os.fstat(fd).st_ino


def advance() -> None:
    """Let the device's timers run, and what connections there are move."""
    with lock:
        fabric.advance(monotonic())
        move()


def next_deadline() -> float | None:
    """Return when a timer of the device is due, by the monotonic clock, or None."""
    return fabric.next_deadline()


def move() -> None:
    """Have connections move what they can; the caller holds the lock."""
    for pump in pumps:
        pump()


def progress() -> None:
    """Wake who waits: something has moved."""
    _pause.set()


def _after_fork() -> None:
    global lock  # noqa: PLW0603 - another thread may have held it when the process was forked
    lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def wait_a_little() -> None:
    """Sleep until a timer is due, at most a moment: another thread may post meanwhile."""
    deadline = fabric.next_deadline()
    delay = LONGEST_WAIT_S if deadline is None else min(LONGEST_WAIT_S, max(0.0, deadline - monotonic()))
    _pause.wait(delay)
    _pause.clear()
    advance()


add_device("emu0", CONNECTX)
