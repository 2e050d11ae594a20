"""Trio shell. What a client does on its own account: timers when they are due, and writeback that nobody asked for.

Two rules start such writeback. By age: data that has been dirty for `DIRTY_EXPIRE_S` is sent. By amount: while more than
half of the dirty limit is held, the file that has been holding for longest is sent and committed, so that a writer
seldom has to wait at the limit itself. Neither takes room in the page cache, and timers have a task of their own, so that a
connection that is down or being made again is never waited for by what it needs. After the flusher threads of Linux
(dirty_expire, dirty_background). Owns no memory.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Final

import trio

from netfs.cache.pagecache import Mapping, PageCache
from netfs.cache.timers import Timers
from netfs.engine.park import park
from netfs.engine.writeback import END_OF_TIME, fsync, start_writeback

__all__ = ["DIRTY_EXPIRE_S", "run_background", "run_timers"]

DIRTY_EXPIRE_S: Final = 5.0


async def run_timers(timers: Timers, now: Callable[[], float]) -> None:
    """Do what is due when it is due, until cancelled; the rest is then done at once."""
    timers.serve(now)
    try:
        while True:
            due = timers.next_due()
            with trio.move_on_at(math.inf if due is None else due):
                await park(timers.changed)
            timers.run_due()
    finally:
        timers.stop()


async def run_background(cache: PageCache, now: Callable[[], float]) -> None:
    """Flush old data, and while much is held the oldest, until cancelled; what is left is then sent when the client closes."""
    while True:
        oldest = min((mapping.dirty_since for mapping in cache.holders if mapping.unsent_bytes), default=math.inf)
        if not cache.flush_wanted:
            with trio.move_on_at(oldest + DIRTY_EXPIRE_S):
                await park(cache.flusher)
        cache.flush_wanted = False
        for mapping in list(cache.holders):
            if cache.much_held:
                # What cannot be committed stays held; whoever syncs or closes learns why.
                with contextlib.suppress(Exception):
                    await fsync(mapping.host)
            elif mapping.unsent_bytes and mapping.dirty_since + DIRTY_EXPIRE_S <= now():
                mapping.dirty_since = now()
                await _send(mapping)


async def _send(mapping: Mapping) -> None:
    inode = mapping.host
    if inode.wb_lock:
        # Whoever holds it sends what is dirty now; what comes later is looked at when it is old.
        inode.probe.emit("netfs_wb_lock", inode.debug_id, "skip")
    else:
        await start_writeback(inode, 0, END_OF_TIME)
