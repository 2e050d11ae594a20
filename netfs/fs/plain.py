"""Sans-IO. Plain files: a subrequest is one READ or WRITE message, its memory the payload.

Writes are unstable and carry the boot verifier of the reply; COMMIT tells whether that boot still lives. Owns no memory: a
subrequest's is lent to the transport from issue to its reply.
"""

import struct

from crypto.errors import KeyUnavailable
from netfs.engine.events import trace_call
from netfs.engine.request import IoSubrequest
from netfs.fs.calls import ask, body_of
from netfs.fs.inode import Inode
from netfs.fs.volume import CacheIdentity, FileOps, Volume
from transport.base import Outcome, Reply, Transport
from transport.messages import Attr, AttrReply, Commit, DirEntry, EntryReply, Handle, Read, ReadReply, Truncate, Write, WriteReply

__all__ = ["PlainOps", "PlainVolume"]

MAX_IN_FLIGHT = 16
COHERENCY = struct.Struct("<QQqq")


class PlainOps(FileOps):
    """The operations table of a plain file."""

    def __init__(self, transport: Transport, handle: Handle, rsize: int, wsize: int) -> None:
        limits = transport.limits
        self.transport = transport
        self.handle = handle
        self.rsize = min(rsize, limits.max_payload)
        self.wsize = min(wsize, limits.max_payload)
        self.max_segs = limits.max_segs
        self.max_in_flight = min(MAX_IN_FLIGHT, limits.credits)

    def issue_read(self, subreq: IoSubrequest) -> None:
        """Send READ; the payload lands in the subrequest's memory."""
        it = subreq.iter

        def done(outcome: Outcome) -> None:
            body = body_of(outcome, ReadReply)
            if isinstance(body, Exception):
                subreq.terminated(0, body)
            else:
                assert isinstance(outcome, Reply)
                subreq.terminated(outcome.received, eof=body.eof)

        call = self.transport.submit(Read(self.handle, subreq.start + subreq.transferred, it.count), done, dest=it)
        if subreq.request.inode.probe.sink is not None:
            trace_call(subreq, "READ", call)
        if subreq.in_progress:
            subreq.call = call

    def issue_write(self, subreq: IoSubrequest) -> None:
        """Send WRITE with the subrequest's memory as payload."""

        def done(outcome: Outcome) -> None:
            body = body_of(outcome, WriteReply)
            if isinstance(body, Exception):
                subreq.terminated(0, body)
            else:
                subreq.verifier = body.verifier
                subreq.terminated(body.count)

        call = self.transport.submit(Write(self.handle, subreq.start + subreq.transferred), done, source=subreq.iter)
        if subreq.request.inode.probe.sink is not None:
            trace_call(subreq, "WRITE", call)
        if subreq.in_progress:
            subreq.call = call

    async def commit(self, verifier: int) -> int:
        """Send COMMIT."""
        return (await ask(self.transport, Commit(self.handle), WriteReply)).verifier

    async def resize(self, size: int) -> None:
        """Send TRUNCATE."""
        await ask(self.transport, Truncate(self.handle, size), AttrReply)

    async def revalidate(self, attr: Attr) -> int:
        """Believe the server's size. Raises: KeyUnavailable for a file that somebody encrypted, whose bytes would say nothing."""
        if attr.sealed:
            raise KeyUnavailable("the file is encrypted; its key is needed (--key-file)")
        return attr.size

    def cache_identity(self, attr: Attr, size: int) -> CacheIdentity:
        """The handle is the file, and what the server says of it changes with its content."""
        return CacheIdentity(None, self.handle, COHERENCY.pack(attr.change, attr.size, attr.mtime_ns, attr.ctime_ns), size)


class PlainVolume(Volume):
    """An export of plain files. rsize, wsize: most bytes of a READ or WRITE; the transport's limit may be lower."""

    def __init__(self, transport: Transport, rsize: int, wsize: int) -> None:
        self.transport = transport
        self.rsize = rsize
        self.wsize = wsize

    def file_ops(self, inode: Inode) -> FileOps:
        """Make the table of a file."""
        return PlainOps(self.transport, inode.handle, self.rsize, self.wsize)

    async def created(self, entry: EntryReply) -> None:
        """A plain file needs nothing."""

    async def file_size(self, handle: Handle, attr: Attr) -> int:
        """Believe the server's size."""
        return attr.size

    def entry_size(self, entry: DirEntry, asked: int) -> int:
        """Believe the server's size."""
        return entry.attr.size
