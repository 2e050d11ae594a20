"""Sans-IO. Memory the processor cannot touch: a device's own, reached by physical address alone.

It stands in a bvec where a view would; taking a view of it is refused, so that copies, ciphers and sockets stop at the boundary
and only a device that may talk to its peer takes it. `engine` is the owner's own copy engine, for bounces.
Ownership: the device's. Follows P2PDMA of Linux.
"""

import errno
from typing import NoReturn, SupportsIndex

__all__ = ["DeviceMemory", "Memory", "ReleasedMemory"]


class DeviceMemory:
    """A region of a device's memory at a physical address; `provider` names the device."""

    __slots__ = ("_store", "paddr", "provider")

    readonly = False

    def __init__(self, provider: str, paddr: int, length: int) -> None:
        self.provider = provider
        self.paddr = paddr
        self._store = memoryview(bytearray(length))

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, key: slice | SupportsIndex) -> NoReturn:
        raise OSError(errno.EFAULT, f"memory of device {self.provider} has no CPU mapping")

    def engine(self, off: int, length: int) -> memoryview:
        """Return the bytes as the device's copy engine, or a peer that was given their address, sees them."""
        return self._store[off : off + length]


class ReleasedMemory:
    """What a released chain node shows instead of its memory, so that use after release is refused."""

    __slots__ = ("_length",)

    readonly = False

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: slice | SupportsIndex) -> NoReturn:
        raise ValueError("use after release: the memory was given back to its owner")


Memory = memoryview | DeviceMemory | ReleasedMemory
"""What a bvec can refer to; only a view gives bytes to the processor."""
