"""Sans-IO. Freshness of a mounted volume: each record is compared with what was seen before; what was seen goes to a log.

The log may be missing: marks hold for one mount then. Owns no memory.
"""

from typing import Final, Protocol

from crypto.errors import Rollback
from crypto.freshness import Marks

__all__ = ["Freshness", "MarkLog"]

BATCH: Final = 256
"""Marks of what was only read that may wait for the next commit, or the end."""


class MarkLog(Protocol):
    """Where marks are kept from one mount to the next."""

    marks: Marks

    def commit(self) -> None:
        """Write what is waiting. Raises: OSError; it goes on waiting."""

    def close(self) -> None:
        """Write what is waiting, and close. Idempotent. Raises: OSError."""


class Freshness:
    """What a mounted volume asks before it believes a record. log: None for marks in memory only (level L0)."""

    def __init__(self, log: MarkLog | None = None) -> None:
        self.log = log
        self.marks = Marks() if log is None else log.marks

    @property
    def clock(self) -> int:
        """What to note when a record is asked for."""
        return self.marks.clock

    def observe(self, file_id: bytes, generation: int, sealed: bytes, asked: int) -> bool:
        """As `Marks.observe`; a rollback is in the log when this raises. Raises: Rollback, OSError of the log."""
        try:
            fresh = self.marks.observe(file_id, generation, sealed, asked)
        except Rollback:
            self.commit()
            raise
        if self.marks.waiting >= BATCH:
            self.commit()
        return fresh

    def committed(self, file_id: bytes, generation: int, sealed: bytes) -> None:
        """Note a record that was put, and write it to the log. Raises: OSError of the log."""
        self.marks.committed(file_id, generation, sealed)
        self.commit()

    def commit(self) -> None:
        """Write what is waiting to the log. Raises: OSError; it goes on waiting."""
        if self.log is not None:
            self.log.commit()

    def close(self) -> None:
        """Write what is waiting, and close the log. Idempotent. Raises: OSError of the log."""
        if self.log is not None:
            self.log.close()
