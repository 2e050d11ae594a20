"""Sans-IO. Plain files: a subrequest is one READ or WRITE message, its memory the payload.

Writes are unstable and carry the boot verifier of the reply; COMMIT tells whether that boot still lives. Owns no memory: a
subrequest's is lent to the transport from issue to its reply. The last bytes of a small file, and what is changed of its
attributes with them, are one message, a stable WRITE: then nothing is left to be committed.
"""

import errno
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

from crypto.errors import KeyUnavailable
from netfs.engine.events import trace_call
from netfs.engine.request import IoSubrequest
from netfs.fs.calls import ask, body_of, result_of
from netfs.fs.inode import Inode
from netfs.fs.path import is_name
from netfs.fs.volume import CacheIdentity, Change, FileOps, Volume
from transport.base import Limits, Outcome, Reply, Transport
from transport.errors import ProtocolError, SmallerLimits
from transport.messages import (
    Ack,
    Allocate,
    Attr,
    AttrReply,
    Commit,
    Compound,
    CompoundReply,
    CompoundStep,
    CopyRange,
    Create,
    DirEntry,
    EntryReply,
    Getattr,
    Handle,
    Link,
    Lookup,
    Mkdir,
    Open,
    Punch,
    Read,
    Readdir,
    ReaddirReply,
    Readlink,
    ReadReply,
    Rename,
    RenameFlag,
    Rmdir,
    Seek,
    SeekReply,
    Setattr,
    Symlink,
    TargetReply,
    Truncate,
    Unlink,
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
WHOLE_MAX = 64 << 10
"""Most bytes that go with something else in one message."""
COHERENCY = struct.Struct("<QQqq")


@dataclass(slots=True, eq=False)
class _Gathered:
    """A write that is the last for now. pos, length: of its bytes; change: goes along; result: what became of that.

    issued: how many changes of the file there had been with it; verifier: of the boot that made all of them durable, 0 for none.
    """

    pos: int
    length: int
    change: Setattr | None
    issued: int = 0
    verifier: int = 0
    result: Attr | Exception | None = None


class PlainOps(FileOps):
    """The operations table of a plain file. wanted: most bytes of one READ and of one WRITE."""

    __slots__ = (
        "_gathered", "_issued", "_limits", "_wanted", "handle", "max_in_flight", "max_segs", "rsize", "transport", "wsize",
    )  # fmt: skip

    def __init__(self, transport: Transport, handle: Handle, wanted: tuple[int, int]) -> None:
        self.transport = transport
        self.handle = handle
        self._wanted = wanted
        self._issued = 0
        self._gathered: _Gathered | None = None
        self._go_by(transport.limits)

    def _go_by(self, limits: Limits) -> None:
        """Take the sizes from what the connection allows; with the next connection it may be something else."""
        self._limits = limits
        self.rsize, self.wsize = (min(size, limits.max_payload) for size in self._wanted)
        self.max_segs = limits.max_segs
        self.max_in_flight = min(MAX_IN_FLIGHT, limits.credits)

    def prepare_read(self, subreq: IoSubrequest) -> None:
        """See `NetfsOps`."""
        if self.transport.limits is not self._limits:
            self._go_by(self.transport.limits)
        if subreq.max_len > self.rsize:
            subreq.max_len = self.rsize

    def prepare_write(self, subreq: IoSubrequest) -> None:
        """See `NetfsOps`."""
        if self.transport.limits is not self._limits:
            self._go_by(self.transport.limits)
        if subreq.max_len > self.wsize:
            subreq.max_len = self.wsize

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
        self._issued += 1
        last = self._gathered
        pos, length = subreq.start + subreq.transferred, subreq.iter.count
        if last is not None and not last.issued and (last.pos, last.length) == (pos, length):
            last.issued = self._issued
            self._issue_last(subreq, last)
        else:
            self._issue(subreq, Write(self.handle, pos))

    def _issue(self, subreq: IoSubrequest, request: Write, last: _Gathered | None = None) -> None:
        def done(outcome: Outcome) -> None:
            body = body_of(outcome, WriteReply)
            if isinstance(body, Exception):
                subreq.terminated(0, body, retry=isinstance(body, SmallerLimits))
                return
            if last is not None and body.count == last.length:
                last.verifier = body.verifier
            subreq.verifier = body.verifier
            subreq.terminated(body.count)

        call = self.transport.submit(request, done, source=subreq.iter)
        if subreq.request.inode.probe.sink is not None:
            trace_call(subreq, "WRITE", call)
        if subreq.in_progress:
            subreq.call = call

    def _issue_last(self, subreq: IoSubrequest, last: _Gathered) -> None:
        """Send a stable WRITE, and the SETATTR that goes along as one with it."""
        write = Write(self.handle, last.pos, stable=True)
        change = last.change
        if change is None or last.length > WHOLE_MAX:
            self._issue(subreq, write, last)
            return
        steps = [CompoundStep(write, last.length), CompoundStep(change)]

        def done(outcome: Outcome) -> None:
            body = body_of(outcome, CompoundReply)
            try:
                if isinstance(body, Exception):
                    raise body
                wrote = result_of(body.results, 0, WriteReply)
            except BlockingIOError:  # another client is to give something back first, for which a WRITE by itself waits
                self._issue(subreq, write, last)
                return
            except Exception as error:  # noqa: BLE001 (it is the request's)
                subreq.terminated(0, error, retry=isinstance(error, SmallerLimits))
                return
            if wrote.count == last.length:
                last.verifier = wrote.verifier
                try:
                    last.result = result_of(body.results, 1, AttrReply).attr
                except Exception as error:  # noqa: BLE001 (`gathered` raises it)
                    last.result = None if getattr(error, "errno", 0) == errno.EAGAIN else error
            subreq.verifier = wrote.verifier
            subreq.terminated(wrote.count)

        call = self.transport.submit(Compound(steps), done, source=subreq.iter)
        if subreq.request.inode.probe.sink is not None:
            trace_call(subreq, "WRITE", call)
        if subreq.in_progress:
            subreq.call = call

    def gather(self, pos: int, length: int, change: Setattr | None) -> None:
        """See `FileOps`."""
        self._gathered = _Gathered(pos, length, change)

    def gathered(self) -> Attr | None:
        """See `FileOps`."""
        last = self._gathered
        if last is None:
            return None
        if not last.issued:
            self._gathered = None
        result, last.result = last.result, None
        if isinstance(result, Exception):
            raise result
        return result

    def gather_no_more(self) -> None:
        """See `FileOps`."""
        self._gathered = None

    async def commit(self, verifier: int) -> int:
        """Send COMMIT, unless nothing was changed since a write made all there was durable."""
        last, self._gathered = self._gathered, None
        if last is not None and last.verifier and last.issued == self._issued:
            return last.verifier
        return (await ask(self.transport, Commit(self.handle), WriteReply)).verifier

    @property
    def boot(self) -> int:
        """That of the session."""
        return self.transport.boot

    async def resize(self, size: int) -> None:
        """Send TRUNCATE."""
        self._issued += 1
        await ask(self.transport, Truncate(self.handle, size), AttrReply)

    async def allocate(self, pos: int, length: int, *, keep_size: bool) -> None:
        """Send ALLOCATE."""
        self._issued += 1
        await ask(self.transport, Allocate(self.handle, pos, length, keep_size), AttrReply)

    async def punch(self, pos: int, length: int) -> None:
        """Send PUNCH."""
        self._issued += 1
        await ask(self.transport, Punch(self.handle, pos, length), AttrReply)

    async def copy_from(self, source: Handle, source_pos: int, pos: int, length: int) -> WriteReply:
        """Send COPY_RANGE."""
        self._issued += 1
        return await ask(self.transport, CopyRange(source, source_pos, self.handle, pos, length), WriteReply)

    async def seek(self, pos: int, whence: Whence, size: int) -> int:
        """Send SEEK."""
        return (await ask(self.transport, Seek(self.handle, pos, whence), SeekReply)).pos

    async def opened(self, entry: EntryReply, sent: Attr | None = None, *, write: bool) -> tuple[Attr, int]:
        """Send OPEN and believe the server's size.

        Raises: KeyUnavailable for a file that somebody encrypted, whose bytes would say nothing.
        """
        attr = sent or (await ask(self.transport, Open(entry.handle, write), AttrReply)).attr
        if attr.sealed:
            raise KeyUnavailable("the file is encrypted; its key is needed (--key-file)")
        return attr, attr.size

    async def getattr(self) -> Attr:
        """Send GETATTR."""
        return (await ask(self.transport, Getattr(self.handle), AttrReply)).attr

    async def setattr(self, change: Setattr) -> Attr:
        """Send SETATTR."""
        return (await ask(self.transport, change, AttrReply)).attr

    async def entry(self) -> EntryReply:
        """Send GETATTR."""
        return EntryReply(self.handle, await self.getattr())

    async def set_mtime(self, mtime_ns: int) -> None:
        """Send SETATTR."""
        await ask(self.transport, Setattr(self.handle, mtime_ns=mtime_ns), AttrReply)

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
        self._sizes = rsize, wsize

    def file_ops(self, inode: Inode) -> FileOps:
        """Make the table of a file."""
        return PlainOps(self.transport, inode.handle, self._sizes)

    async def root(self, handle: Handle) -> None:
        """Any directory will do."""

    async def lookup(self, parent: Handle, name: str) -> EntryReply:
        """Send LOOKUP."""
        return await ask(self.transport, Lookup(parent, name), EntryReply)

    async def getattr(self, handle: Handle) -> Attr:
        """Send GETATTR."""
        return (await ask(self.transport, Getattr(handle), AttrReply)).attr

    async def create(self, parent: Handle, name: str, mode: int, *, exclusive: bool) -> EntryReply:
        """Send CREATE."""
        return await ask(self.transport, Create(parent, name, mode, exclusive), EntryReply)

    async def mkdir(self, parent: Handle, name: str, mode: int) -> EntryReply:
        """Send MKDIR."""
        return await ask(self.transport, Mkdir(parent, name, mode), EntryReply)

    async def symlink(self, parent: Handle, name: str, target: bytes) -> EntryReply:
        """Send SYMLINK."""
        return await ask(self.transport, Symlink(parent, name, target), EntryReply)

    async def readlink(self, entry: EntryReply) -> bytes:
        """Send READLINK."""
        return (await ask(self.transport, Readlink(entry.handle), TargetReply)).target

    async def link(self, entry: EntryReply, parent: Handle, name: str) -> EntryReply:
        """Send LINK."""
        return await ask(self.transport, Link(entry.handle, parent, name), EntryReply)

    async def unlink(self, parent: Handle, name: str) -> None:
        """Send UNLINK."""
        await ask(self.transport, Unlink(parent, name), Ack)

    async def rmdir(self, parent: Handle, name: str) -> None:
        """Send RMDIR."""
        await ask(self.transport, Rmdir(parent, name), Ack)

    async def rename(
        self, parent: Handle, name: str, new_parent: Handle, new_name: str, flags: RenameFlag = RenameFlag.NONE
    ) -> None:
        """Send RENAME."""
        await ask(self.transport, Rename(parent, name, new_parent, new_name, flags), Ack)

    async def entries(self, handle: Handle) -> AsyncIterator[DirEntry]:
        """Send READDIR as often as it takes."""
        cookie, eof = 0, False
        while not eof:
            page = await ask(self.transport, Readdir(handle, cookie), ReaddirReply)
            eof = page.eof or not page.entries
            for entry in page.entries:
                # What a listing names becomes paths, here and on the local disk of who copies it: a server is not believed.
                if entry.cookie == cookie or not is_name(entry.name):
                    raise ProtocolError(f"a listing that goes nowhere or names {entry.name!r}")
                cookie = entry.cookie
                yield entry

    async def setattr(self, entry: EntryReply, change: Setattr) -> Attr:
        """Send SETATTR."""
        return (await ask(self.transport, change, AttrReply)).attr

    async def xattr_get(self, entry: EntryReply, name: str) -> bytes:
        """Send XATTR_GET."""
        return (await ask(self.transport, XattrGet(entry.handle, name), XattrReply)).value

    async def xattr_set(self, entry: EntryReply, name: str, value: bytes, mode: XattrMode) -> Change | None:
        """Send XATTR_SET."""
        await ask(self.transport, XattrSet(entry.handle, name, value, mode), AttrReply)
        return None

    async def xattr_list(self, entry: EntryReply) -> list[str]:
        """Send XATTR_LIST."""
        return (await ask(self.transport, XattrList(entry.handle), XattrListReply)).names

    async def xattr_remove(self, entry: EntryReply, name: str) -> Change | None:
        """Send XATTR_REMOVE."""
        await ask(self.transport, XattrRemove(entry.handle, name), AttrReply)
        return None
