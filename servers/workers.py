"""Trio shell. A few threads for what may sleep on a disk; they take work and give results back many at a time.

A hop to a thread and back costs more than most of the work. While a thread is busy, work gathers; the next free one takes a
share of it at once, does it in the store's batch, which makes all of it durable together (group commit), and wakes the loop
once. So under load the price of a hop and of a disk's flush is shared. Owns no payload memory.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar, runtime_checkable

import trio

__all__ = ["MAX_BATCH", "THREADS", "Workers"]

T = TypeVar("T")
log: Final = logging.getLogger(__name__)
THREADS: Final = 4
MAX_BATCH: Final = 32


@runtime_checkable
class Durable(Protocol):
    """Work that has to hear, in its thread and before anybody else does, that what it did could not be made durable."""

    def not_durable(self, error: OSError) -> None: ...


class _Item(Generic[T]):
    """One piece of work, from when it was asked for until its result is taken."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.done = trio.Event()
        self.result: list[T] = []
        self.error: BaseException | None = None


class Workers:
    """Threads for the length of a block. batch: what work is done in, and what makes it durable when it ends.

    batches: how often a thread took work.
    """

    def __init__(self, batch: Callable[[], AbstractContextManager[None]], threads: int = THREADS) -> None:
        self.batches = 0
        self._batch = batch
        self._ready = threading.Condition()
        self._queue: deque[_Item[Any]] = deque()
        self._closed = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._threads = [threading.Thread(target=self._serve, name=f"netfs-worker-{n}", daemon=True) for n in range(threads)]

    async def run(self, work: Callable[[], T], /) -> T:
        """Do some work in a thread.

        Raises: what it raised; OSError when it could not be made durable.
        Cancellation: before it was taken, it does not happen; later it is waited for and has happened.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        item = _Item(work)
        with self._ready:
            assert not self._closed, "the workers have ended"
            self._queue.append(item)
            self._ready.notify()
        try:
            await item.done.wait()
        except trio.Cancelled:
            if not self._withdraw(item):
                with trio.CancelScope(shield=True):  # until the disk answers, as a thread cannot be stopped
                    await item.done.wait()
            raise
        if item.error is not None:
            raise item.error
        return item.result[0]

    def __enter__(self) -> Self:
        self._token = trio.lowlevel.current_trio_token()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _withdraw(self, item: _Item[Any]) -> bool:
        with self._ready:
            try:
                self._queue.remove(item)
            except ValueError:
                return False
            return True

    def _serve(self) -> None:
        """Be one thread."""
        while items := self._take():
            try:
                with self._batch():
                    for item in items:
                        try:
                            item.result.append(item.work())
                        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
                            item.error = error
            except OSError as error:
                for item in items:
                    _not_durable(item, error)
            assert self._token is not None
            try:
                self._token.run_sync_soon(_deliver, items)
            except trio.RunFinishedError:
                return

    def _take(self) -> list[_Item[Any]]:
        """Wait for work. Returns: a fair share of what has gathered; nothing at the end."""
        with self._ready:
            while not self._queue and not self._closed:
                self._ready.wait()
            count = max(1, min(MAX_BATCH, len(self._queue) // len(self._threads)))
            items = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
            self.batches += bool(items)
            return items


def _not_durable(item: _Item[Any], error: OSError) -> None:
    if item.error is not None:
        return
    item.error = error
    if isinstance(item.work, Durable):
        try:
            item.work.not_durable(error)
        except OSError as worse:
            log.warning("trouble notes error=%s", worse.strerror)


def _deliver(items: list[_Item[Any]]) -> None:
    for item in items:
        item.done.set()
