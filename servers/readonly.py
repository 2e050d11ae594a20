"""Sans-IO. A handler for clients that may read only: whatever may change something is EROFS, the rest goes to another handler.

What reads is listed, not what changes, so that a new operation is refused until somebody has thought of it. Memory: as that
handler has it.
"""

import errno
from collections.abc import Awaitable
from typing import Final

from transport.base import Handler, Landing, Reply
from transport.messages import (
    AuxRead,
    Await,
    Bind,
    Commit,
    Compound,
    EndSession,
    Fence,
    Getattr,
    Lease,
    LeaseKind,
    LeaseReturn,
    Lock,
    LockKind,
    LockTest,
    Lookup,
    Mount,
    Open,
    Ping,
    Read,
    Readdir,
    Readlink,
    RecordGet,
    Request,
    Seek,
    Statfs,
    Unlock,
    XattrGet,
    XattrList,
)

__all__ = ["ReadOnly"]

READING: Final = frozenset({
    Ping, Mount, Lookup, Getattr, Open, Read, Readdir, AuxRead, RecordGet, Commit, Readlink, Seek, XattrGet, XattrList, Statfs,
    LockTest, Lock, Unlock, Lease, LeaseReturn, Await, Bind, Fence, EndSession,
})  # fmt: skip


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
        if not _reads(request):
            return Reply(errno.EROFS)
        return self._handler.handle(request, landing)

    def closed(self) -> None:
        """Tell the handler."""
        self._handler.closed()


def _reads(request: Request) -> bool:
    match request:
        case Compound(steps=steps):
            return all(_reads(step.request) for step in steps)
        case Open(write=write):
            return not write
        case Lock(kind=kind):
            return kind is LockKind.READ
        case Lease(kinds=kinds):
            return not kinds & LeaseKind.WRITE
        case _:
            return type(request) in READING
