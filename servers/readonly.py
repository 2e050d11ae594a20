"""Sans-IO. A handler for clients that may read only: whatever may change something is EROFS, the rest goes to another handler.

What reads is listed, not what changes, so that a new operation is refused until somebody has thought of it. Memory: as that
handler has it.
"""

import errno
from collections.abc import Awaitable
from typing import Final

from transport.base import Handler, Landing, Reply
from transport.messages import AuxRead, Commit, Getattr, Lookup, Mount, Open, Ping, Read, Readdir, RecordGet, Request

__all__ = ["ReadOnly"]

READING: Final = frozenset({Ping, Mount, Lookup, Getattr, Open, Read, Readdir, AuxRead, RecordGet, Commit})


class ReadOnly:
    """A handler that lets reading through."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def admit(self, request: Request, length: int) -> Landing | int:
        """Refuse all payload: nothing that reads has any."""
        del request, length
        return errno.EROFS

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        """Do the request if it cannot change anything."""
        if type(request) not in READING or (isinstance(request, Open) and request.write):
            return Reply(errno.EROFS)
        return self._handler.handle(request, landing)

    def closed(self) -> None:
        """Tell the handler."""
        self._handler.closed()
