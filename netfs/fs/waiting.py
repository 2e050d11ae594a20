"""Trio shell. Waiting for what goes on by callbacks. Owns no memory."""

from collections.abc import Callable
from typing import Final

import trio

from netfs.fs.sealed_file import Then

__all__ = ["finished"]

CANCEL_WAIT_S: Final = 10


async def finished(start: Callable[[Then], None]) -> None:
    """Wait for what goes on by callbacks. Raises: the error it ended with. Cancellation: what is under way is waited for."""
    ended = trio.Event()
    errors: list[Exception] = []

    def then(error: Exception | None) -> None:
        if error is not None:
            errors.append(error)
        ended.set()

    start(then)
    try:
        await ended.wait()
    except BaseException:
        with trio.move_on_after(CANCEL_WAIT_S, shield=True):
            await ended.wait()
        raise
    if errors:
        raise errors[0]
