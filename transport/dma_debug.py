"""Sans-IO. The DMA debug mode: what a driver does wrong with a mapping becomes an error where it is done.

Seen: a second unmap, another direction or other vectors than were mapped, memory the processor changed while the device owned
it (by a checksum of the memory at each change of owner; a read cannot be seen), mappings left when the device closes.
Owns no memory. Follows kernel/dma/debug.c of Linux.
"""

import zlib
from dataclasses import dataclass

from iov.phys import PhysMemory, PhysVec
from transport.dma_vec import DmaDirection, DmaVec

__all__ = ["DmaDebug", "DmaMisuse"]


class DmaMisuse(ValueError):
    """A programmer's error in the use of a mapping."""


@dataclass(slots=True)
class _Record:
    direction: DmaDirection
    inputs: list[PhysVec]
    vecs: list[DmaVec]
    checksum: int
    device_owns: bool = True


class DmaDebug:
    """What is mapped, as the debug mode remembers it."""

    __slots__ = ("_phys", "_records")

    def __init__(self, phys: PhysMemory) -> None:
        self._phys = phys
        self._records: dict[object, _Record] = {}

    def mapped(self, key: object, direction: DmaDirection, inputs: list[PhysVec], vecs: list[DmaVec]) -> None:
        """Remember a new mapping; the device owns its memory."""
        copies = [DmaVec(vec.addr, vec.length) for vec in vecs]
        self._records[key] = _Record(direction, list(inputs), copies, self._checksum(inputs))

    def device_wrote(self) -> None:
        """Take what a device just wrote as the new contents of every mapping it may have touched."""
        for record in self._records.values():
            if record.device_owns and record.direction is not DmaDirection.TO_DEVICE:
                record.checksum = self._checksum(record.inputs)

    def check(self, key: object, direction: DmaDirection, vecs: list[DmaVec]) -> None:
        """Check that an unmap or sync names what was mapped, and that the processor kept its hands off.

        Raises: DmaMisuse saying which.
        """
        record = self._records.get(key)
        if record is None:
            raise DmaMisuse("the mapping was unmapped before")
        if direction is not record.direction:
            raise DmaMisuse(f"mapped {record.direction.name}, unmapped {direction.name}")
        if vecs != record.vecs:
            raise DmaMisuse("the vectors are not those that were mapped")
        if record.device_owns and self._checksum(record.inputs) != record.checksum:
            raise DmaMisuse("the processor wrote to memory that the device owned")

    def handed_over(self, key: object, *, to_device: bool) -> None:
        """Note a change of owner by a sync."""
        record = self._records[key]
        record.device_owns = to_device
        record.checksum = self._checksum(record.inputs)

    def unmapped(self, key: object) -> None:
        """Forget a mapping."""
        del self._records[key]

    def _checksum(self, inputs: list[PhysVec]) -> int:
        value = 0
        for vec in inputs:
            for view in self._phys.bytes_at(vec.paddr, vec.length):
                value = zlib.crc32(view, value)
        return value
