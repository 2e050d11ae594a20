"""Trio shell. Waiting for the turn at an encrypted file.

Owns no memory.
"""

import trio

from netfs.fs.sealed_file import SealedFile

__all__ = ["Turn"]


class Turn:
    """The turn at a file, as an async context manager. Cancellation: not taken."""

    def __init__(self, sealed: SealedFile) -> None:
        self._sealed = sealed
        self._come = trio.Event()

    async def __aenter__(self) -> None:
        run = self._come.set
        self._sealed.take_turn(run)
        try:
            await self._come.wait()
        except BaseException:
            if not self._sealed.forgo_turn(run):
                self._sealed.give_turn()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._sealed.give_turn()
