"""Trio shell. Lies about answers as such: crossed, late, of an earlier question; and two clients who are shown two histories.

Memory: bodies are kept and swapped; of payloads a copy is kept, so that a reply can be given that was lent once before.
"""

from collections.abc import Awaitable
from dataclasses import replace

from iov.copy_iter import copy_from_iter
from iov.iov_iter import Direction, IovIter
from transport.base import Handler, Landing, Reply
from transport.messages import AuxRead, EntryReply, Handle, Lookup, Read, RecordGet, Request
from trials.faults.tamper import Attack, ReplyTamper, TamperStore, attack
from trials.faults.tamper_records import VolumeRollback


def payload_of(reply: Reply) -> bytes:
    """Return a copy of a reply's payload."""
    source = reply.source
    if not isinstance(source, IovIter):
        return b""
    out = bytearray(source.count)
    copy_from_iter(out, source.copy())
    return bytes(out)  # header: the malicious server's own copy


@attack
class Crossed(Attack):
    """A34."""

    ID = "A34"
    TEXT = "answer a read with the answer to another one, or with that to the same one before something was written"
    VARIANTS = ("crossed", "older", "record")

    def __init__(self, server: TamperStore, variant: str) -> None:
        super().__init__(server, variant)
        self.earlier: tuple[Reply, bytes] | None = None
        self.first: dict[tuple[Handle, int, int, type], tuple[Reply, bytes]] = {}

    def handler(self, inner: Handler) -> Handler:
        return ReplyTamper(inner, self.change)

    def change(self, request: Request, reply: Reply) -> Reply:
        """Return the answer that is given."""
        if reply.status:
            return reply
        key: tuple[Handle, int, int, type]
        if isinstance(reply.body, EntryReply) and isinstance(request, Lookup) and self.variant == "record":
            key = reply.body.handle, 0, 0, Lookup
        elif isinstance(request, RecordGet) and self.variant == "record":
            key = request.handle, 0, 0, RecordGet
        elif isinstance(request, Read | AuxRead) and isinstance(reply.source, IovIter) and self.variant != "record":
            key = request.handle, request.pos, request.length, type(request)
        else:
            return reply
        mine = replace(reply, source=None, release=None), payload_of(reply)
        theirs = self.earlier if self.variant == "crossed" else self.first.get(key)
        self.earlier = mine
        self.first.setdefault(key, mine)
        if theirs is None or not self.armed or not self.aims_at(key[0]) or theirs == mine:
            return reply
        if type(theirs[0].body) is not type(reply.body):
            return reply
        self.strike()
        if reply.release is not None:
            reply.release()
        other, payload = theirs
        length = request.length if isinstance(request, Read | AuxRead) else 0
        payload = payload[:length]
        return replace(other, source=IovIter.ubuf(Direction.SOURCE, bytearray(payload)) if payload else None)


@attack
class Fork(VolumeRollback):
    """A37."""

    ID = "A37"
    TEXT = "keep every second client in the past, while the others go on: two histories of one volume"
    VARIANTS = ("",)

    def __init__(self, server: TamperStore, variant: str) -> None:
        super().__init__(server, variant)
        self.clients = 0
        self.forked = True

    def handler(self, inner: Handler) -> Handler:
        self.clients += 1
        if self.clients % 2:
            return ForkedHandler(inner, self, behind=False)
        self.moment = self.server.moment
        return ForkedHandler(inner, self, behind=True)


class ForkedHandler:
    """What answers one client: from the past if it is one of those kept behind; only for stores that never sleep."""

    def __init__(self, inner: Handler, fork: Fork, *, behind: bool) -> None:
        self._inner = inner
        self._fork = fork
        self._behind = behind

    def admit(self, request: Request, length: int) -> Landing | int:
        """Let payload in."""
        return self._inner.admit(request, length)

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        """Answer from the history of this client."""
        fork = self._fork
        fork.armed = self._behind and fork.forked
        try:
            return self._inner.handle(request, landing)
        finally:
            fork.armed = False

    def closed(self) -> None:
        """Tell the handler."""
        self._inner.closed()
