"""Trio shell. The only place where the request library waits: a task parks once per request and is woken by the collector.

No task, nursery or event is made for a request or a subrequest. Cancelling a parked caller abandons its request; the caller
leaves when the last subrequest has ended, because only then is its memory its own again. Owns no memory.
"""

from collections.abc import Callable
from typing import NoReturn

import trio
from trio.lowlevel import Abort, current_task, reschedule, wait_task_rescheduled

from netfs.cache.folio import Folio
from netfs.cache.waiters import WakeList
from netfs.engine.collect import advance, stage_next
from netfs.engine.events import ended, trace_rreq
from netfs.engine.locking import IoLock
from netfs.engine.request import IoRequest

__all__ = ["acquire_exclusive", "acquire_shared", "park", "park_at", "run_request"]


class _Waiter:
    """The caller of one request."""

    __slots__ = ("finished", "launched", "raise_cancel", "rreq", "task")

    def __init__(self, rreq: IoRequest) -> None:
        self.rreq = rreq
        self.finished = False
        self.launched = False
        self.task: trio.lowlevel.Task | None = None
        self.raise_cancel: Callable[[], NoReturn] | None = None

    def wake(self) -> None:
        self.finished = True
        if self.task is not None:
            reschedule(self.task)

    def part_launched(self) -> None:
        self.launched = True
        if self.task is not None and self.raise_cancel is None:
            task, self.task = self.task, None
            reschedule(task)

    def abort(self, raise_cancel: Callable[[], NoReturn]) -> Abort:
        task, self.task = self.task, None
        trace_rreq(self.rreq, "S-ABNDN")
        self.rreq.abandon()
        if self.finished:
            return Abort.SUCCEEDED
        self.task, self.raise_cancel = task, raise_cancel
        return Abort.FAILED


async def run_request(rreq: IoRequest) -> None:
    """Issue a request and wait until it has ended; `transferred` and `error` then say how.

    Cancellation: before the first issue no effect; later the request is abandoned, and unless it was complete all the same,
    Cancelled leaves when all its memory is back.
    """
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
    except BaseException:
        ended(rreq)
        raise
    waiter = _Waiter(rreq)
    rreq.wake = waiter.wake
    advance(rreq)
    if waiter.finished:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return
    if rreq.sequential and rreq.inode.ops.stages_writes and not rreq.all_queued:
        await _wait_staging(waiter)
    else:
        waiter.task = current_task()
        await wait_task_rescheduled(waiter.abort)
    if waiter.raise_cancel is not None and rreq.transferred < rreq.length:
        waiter.raise_cancel()


async def _wait_staging(waiter: _Waiter) -> None:
    """Wait as `run_request` does, and whenever a part has gone out, prepare the next."""
    rreq = waiter.rreq
    rreq.launched = waiter.part_launched
    while not waiter.finished:
        # The transport sends when this task waits; only then is there a time to be used.
        await trio.lowlevel.cancel_shielded_checkpoint()
        waiter.launched = False
        stage_next(rreq)
        if waiter.finished:
            return
        waiter.task = current_task()
        await wait_task_rescheduled(waiter.abort)


async def park(waiters: WakeList) -> None:
    """Wait for the next `wake_all`. Cancellation: no effect."""
    task = current_task()

    def wake() -> None:
        reschedule(task)

    def abort(_: Callable[[], NoReturn]) -> Abort:
        waiters.discard(wake)
        return Abort.SUCCEEDED

    waiters.add(wake)
    await wait_task_rescheduled(abort)


async def park_at(folio: Folio) -> None:
    """Wait until something about a folio changes; it is not evicted meanwhile. Cancellation: no effect."""
    folio.pins += 1
    try:
        await park(folio.waiters)
    finally:
        folio.mapping.cache.unpin(folio)


async def acquire_shared(lock: IoLock) -> None:
    """Take a share of an inode's lock; checkpoints only when it has to wait."""
    while not lock.try_shared():
        await park(lock.waiters)


async def acquire_exclusive(lock: IoLock) -> None:
    """Take an inode's lock whole; checkpoints only when it has to wait. Cancellation: not taken."""
    if lock.try_exclusive():
        return
    lock.wanted += 1
    try:
        while not lock.try_exclusive():
            await park(lock.waiters)
    finally:
        lock.wanted -= 1
        if not lock.exclusive:
            lock.waiters.wake_all()
