"""Trio shell. Claims that have grown old: what was written under them is committed, so that others can write there.

Whoever writes and neither syncs nor closes would keep everybody else out for as long as the descriptor is open. What such a
commit fails with is the next commit's to tell. After the age rule of Linux writeback (dirty_expire). Owns no memory.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Final

import trio

from crypto.errors import CryptoError
from netfs.cache.waiters import WakeList
from netfs.engine.park import park
from netfs.fs.sealed_commit import SealedCommit
from transport.errors import TransportError

__all__ = ["HOLD_S", "Ageing"]

HOLD_S: Final = 5.0


class Ageing:
    """The files of a volume on which there are claims, and when they have had them for long enough."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._due: dict[SealedCommit, float] = {}
        self._changed = WakeList()

    def taken(self, commits: SealedCommit) -> None:
        """A claim was taken on a file."""
        if commits not in self._due:
            self._due[commits] = self._now() + HOLD_S
            self._changed.wake_all()

    async def run(self) -> None:
        """Commit what is due, until cancelled."""
        while True:
            with trio.move_on_at(next(iter(self._due.values()), math.inf)):
                await park(self._changed)
            for commits, due in list(self._due.items()):
                if due > self._now():
                    break
                del self._due[commits]
                if commits.has_claims:
                    with contextlib.suppress(OSError, TransportError, CryptoError):
                        await commits.relieve()
                if commits.has_claims:
                    self.taken(commits)
