"""Trio shell. Portal: one thread runs Trio for all who call from threads without it, and keeps their clients open.

A call waits until its task in the portal has ended. A caller that is interrupted (Ctrl-C) cancels the task and still waits for
its end, so that the memory it lent is nobody else's when the call returns. After a fork the child begins with a thread of its
own.
"""

import atexit
import io
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, Protocol, TypeVar

import trio

__all__ = ["Held", "Portal", "close_at_exit", "portal"]

T = TypeVar("T")
SIGNAL_S: Final = 0.5
EXIT_TIMEOUT_S: Final = 30
"""At the interpreter's exit: how long dirty data may take to reach the server."""


class Closable(Protocol):
    """A file."""

    def close(self) -> None: ...


class Portal:
    """A thread that runs Trio, started by the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._stop: trio.Event | None = None
        self._thread: threading.Thread | None = None
        self._held: dict[Held, None] = {}

    @property
    def closed(self) -> bool:
        """True once the thread has ended."""
        return self._thread is not None and not self._thread.is_alive()

    def call(self, run: Callable[[], Awaitable[T]]) -> T:
        """Run an async function in the portal. Returns and raises what it does; RuntimeError after `close`.

        Cancellation: an exception in the waiting thread cancels the function and is raised when that has ended.
        """
        if threading.current_thread() is self._thread:  # as when the garbage collector closes a file there
            raise RuntimeError("the portal does not wait for itself")
        token = self._started()
        ended: Future[T] = Future()
        scope = trio.CancelScope()
        try:
            token.run_sync_soon(partial(self._begin, run, ended, scope))
            while not ended.done():  # a signal that comes just before a wait does not end it: look again now and then
                wait((ended,), SIGNAL_S)
            return ended.result()
        except BaseException:
            if not ended.done():  # it is this thread that was interrupted, at whatever point
                token.run_sync_soon(partial(_give_up, ended, scope))
                ended.exception()
            raise

    def close(self) -> None:
        """End every client that is held, and the thread."""
        thread, token, stop = self._thread, self._token, self._stop
        if thread is None or token is None or stop is None or not thread.is_alive():
            return
        token.run_sync_soon(stop.set)
        thread.join(EXIT_TIMEOUT_S)

    def _begin(self, run: Callable[[], Awaitable[T]], ended: "Future[T]", scope: trio.CancelScope) -> None:
        assert self._nursery is not None
        ended.set_running_or_notify_cancel()
        self._nursery.start_soon(_ended, run, ended, scope)

    def _started(self) -> trio.lowlevel.TrioToken:
        if _exiting:
            raise RuntimeError("the portal is closed: the program ends")
        with self._lock:
            if self._token is None:
                ready = threading.Event()
                self._thread = threading.Thread(target=trio.run, args=(self._main, ready), name="netfs portal", daemon=True)
                self._thread.start()
                ready.wait()
            assert self._token is not None
            return self._token

    async def _main(self, ready: threading.Event) -> None:
        self._stop = trio.Event()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            ready.set()
            await self._stop.wait()
            with trio.move_on_after(EXIT_TIMEOUT_S):
                for held in tuple(self._held):
                    await held.aclose()
            nursery.cancel_scope.cancel()


async def _ended(run: Callable[[], Awaitable[T]], ended: "Future[T]", scope: trio.CancelScope) -> None:
    try:
        with scope:
            ended.set_result(await run())
            return
        ended.set_exception(InterruptedError("cancelled by its caller"))
    except trio.Cancelled:
        ended.set_exception(RuntimeError("the portal is closed"))
        raise
    except BaseException as error:  # noqa: BLE001 (it is the caller's)
        ended.set_exception(error)


def _give_up(ended: "Future[T]", scope: trio.CancelScope) -> None:
    scope.cancel()
    if not ended.running() and not ended.done():  # it never came to be run
        ended.set_exception(InterruptedError("interrupted"))


class Held:
    """An async context manager held open by a task of its own, so that any call may use what it gives. `open` comes first."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._stop: trio.Event | None = None
        self._closed: trio.Event | None = None
        self._failed: Exception | None = None

    async def open(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter the manager. Raises: what entering raises. Cancellation: not entered."""
        nursery = self._portal._nursery
        assert nursery is not None
        value: T = await nursery.start(self._hold, manager)
        return value

    async def aclose(self) -> None:
        """Leave the manager. Raises: what leaving raises. Idempotent."""
        if self._stop is None or self._closed is None:
            return
        self._stop.set()
        await self._closed.wait()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    async def _hold(
        self, manager: AbstractAsyncContextManager[T], *, task_status: "trio.TaskStatus[T]" = trio.TASK_STATUS_IGNORED
    ) -> None:
        entered = False
        self._stop, self._closed = trio.Event(), trio.Event()
        try:
            async with manager as value:
                entered = True
                self._portal._held[self] = None
                task_status.started(value)
                await self._stop.wait()
        except Exception as error:
            if not entered:
                raise
            self._failed = error
        finally:
            self._portal._held.pop(self, None)
            self._closed.set()


_portal = Portal()


_exiting = False
_at_exit_first: weakref.WeakSet[Closable] = weakref.WeakSet()


def close_at_exit(file: Closable) -> None:
    """Have something closed at the interpreter's exit, while there is still a portal, if nobody has closed it before."""
    _at_exit_first.add(file)


def portal() -> Portal:
    """Return this process's portal, a new one after the last was closed."""
    global _portal  # noqa: PLW0603 (one for the process)
    if _portal.closed:
        _portal = Portal()
    return _portal


def _after_fork() -> None:
    global _portal  # noqa: PLW0603 (a child has no thread of its parent's)
    _portal = Portal()
    _at_exit_first.clear()  # the parent's


os.register_at_fork(after_in_child=_after_fork)


def _at_exit() -> None:
    global _exiting  # noqa: PLW0603 (from here on nothing is begun)
    # Text before the bytes it is written as: what is wrapped is closed with its wrapper.
    for file in sorted(_at_exit_first, key=lambda file: not isinstance(file, io.TextIOBase)):
        try:
            file.close()
        except (OSError, RuntimeError) as error:
            sys.stderr.write(f"netfs: {error}\n")  # nobody is left to be told
    _exiting = True
    _portal.close()  # whichever it is by then


atexit.register(_at_exit)
