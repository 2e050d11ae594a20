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
from transport.messages import (
    Allocate,
    Attr,
    AttrReply,
    Commit,
    CopyRange,
    DirEntry,
    EntryReply,
    Handle,
    Punch,
    Read,
    Readlink,
    ReadReply,
    Seek,
    SeekReply,
    Symlink,
    TargetReply,
    Truncate,
    Whence,
    Write,
    WriteReply,
    XattrGet,
    XattrList,
    XattrListReply,
    XattrMode,
    XattrRemove,
    XattrReply,
    XattrSet,
)

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

    async def allocate(self, pos: int, length: int, *, keep_size: bool) -> None:
        """Send ALLOCATE."""
        await ask(self.transport, Allocate(self.handle, pos, length, keep_size), AttrReply)

    async def punch(self, pos: int, length: int) -> None:
        """Send PUNCH."""
        await ask(self.transport, Punch(self.handle, pos, length), AttrReply)

    async def copy_from(self, source: Handle, source_pos: int, pos: int, length: int) -> int:
        """Send COPY_RANGE."""
        return (await ask(self.transport, CopyRange(source, source_pos, self.handle, pos, length), WriteReply)).count

    async def seek(self, pos: int, whence: Whence, size: int) -> int:
        """Send SEEK."""
        return (await ask(self.transport, Seek(self.handle, pos, whence), SeekReply)).pos

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

    compounds = True

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

    async def symlink(self, parent: Handle, name: str, target: bytes) -> EntryReply:
        """Send SYMLINK."""
        return await ask(self.transport, Symlink(parent, name, target), EntryReply)

    async def readlink(self, handle: Handle) -> bytes:
        """Send READLINK."""
        return (await ask(self.transport, Readlink(handle), TargetReply)).target

    async def xattr_get(self, handle: Handle, name: str) -> bytes:
        """Send XATTR_GET."""
        return (await ask(self.transport, XattrGet(handle, name), XattrReply)).value

    async def xattr_set(self, handle: Handle, name: str, value: bytes, mode: XattrMode) -> None:
        """Send XATTR_SET."""
        await ask(self.transport, XattrSet(handle, name, value, mode), AttrReply)

    async def xattr_list(self, handle: Handle) -> list[str]:
        """Send XATTR_LIST."""
        return (await ask(self.transport, XattrList(handle), XattrListReply)).names

    async def xattr_remove(self, handle: Handle, name: str) -> None:
        """Send XATTR_REMOVE."""
        await ask(self.transport, XattrRemove(handle, name), AttrReply)
