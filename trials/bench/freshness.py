"""Trio shell. What remembering a million files takes on disk: the log of what was seen, at its longest while it is used.

Owns no payload memory.
"""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from crypto.keys import VolumeKey
from netfs.fs.seen import SeenLog, log_path
from trials.bench.figure import Figure, Pairing

__all__ = ["FIGURES"]

FILES: Final = 1_000_000
AGAIN: Final = 500_000
BATCH: Final = 1000
LIMIT_MB: Final = 64.0
MB: Final = 1e6


def longest_mb() -> float:
    """Note a million files, and half of them once more; return the greatest length of the log in MB."""
    key = VolumeKey(os.urandom(32))
    ids = os.urandom(16 * FILES)
    longest = 0
    with tempfile.TemporaryDirectory() as folder:
        log = SeenLog(log_path(Path(folder), key), key, os.urandom)
        for n in range(FILES + AGAIN):
            at = n % FILES
            log.marks.committed(ids[16 * at : 16 * at + 16], 1 + n // FILES, b"record")
            if n % BATCH == BATCH - 1:
                log.commit()
                longest = max(longest, log.path.stat().st_size)
        assert len(log.marks) == FILES
        log.close()
    return longest / MB


@asynccontextmanager
async def _disk() -> AsyncIterator[Pairing]:
    async def value() -> float:
        return await trio.to_thread.run_sync(longest_mb)

    async def limit() -> float:
        await trio.lowlevel.checkpoint()
        return LIMIT_MB

    yield Pairing(value, limit)


FIGURES: Final = (Figure("freshness.disk_1m_files", "MB", "64 MB", 1.0, _disk, lower=True, rounds=1),)
