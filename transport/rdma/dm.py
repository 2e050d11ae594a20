"""Sans-IO. Device memory: bytes on the adapter, reached by 4-byte copies and through zero-based regions. The device owns them."""

import errno
from typing import TYPE_CHECKING

from transport.rdma.errors import VerbsError

if TYPE_CHECKING:
    from transport.rdma.device import Context

__all__ = ["DM"]


class DM:
    """A piece of device memory; made by `Context.alloc_dm`."""

    __slots__ = ("alive", "context", "length", "memory", "nr_mrs")

    def __init__(self, context: "Context", length: int) -> None:
        device = context.device
        if not device.profile.dm_size:
            raise VerbsError(errno.EOPNOTSUPP, "the device has no memory of its own")
        if not 1 <= length <= device.profile.dm_size:
            raise VerbsError(errno.EINVAL, "length of device memory")
        device.count_bytes("dm", length, device.profile.dm_size)
        self.context = context
        self.length = length
        self.memory = memoryview(bytearray(length))
        self.nr_mrs = 0
        self.alive = True

    def _check(self, off: int, length: int) -> None:
        if off < 0 or off % 4 or length % 4 or off + length > self.length:
            raise VerbsError(errno.EINVAL, "device memory is copied in units of 4 bytes, inside its bounds")

    def copy_to(self, off: int, data: bytes) -> None:
        """Write to the device.

        Raises: VerbsError EINVAL outside, or for an offset or length that is no multiple of 4.
        """
        self._check(off, len(data))
        self.memory[off : off + len(data)] = data

    def copy_from(self, off: int, length: int) -> bytes:
        """Read from the device; raises as `copy_to`."""
        self._check(off, length)
        return bytes(self.memory[off : off + length])  # door: a program looks at device memory

    def free(self) -> None:
        """Free the memory. Idempotent.

        Raises: VerbsError EBUSY while a region covers it.
        """
        if not self.alive:
            return
        if self.nr_mrs:
            raise VerbsError(errno.EBUSY, "a region covers the device memory")
        self.alive = False
        self.context.device.counts["dm"] -= self.length
        self.context.drop(self)
