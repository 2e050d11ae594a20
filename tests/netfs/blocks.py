"""A volume whose files move in whole blocks only, as encrypted ones do, and that checks every request for it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import trio

from iov.iov_iter import Direction, IovIter
from netfs.engine.request import IoSubrequest
from netfs.fs.inode import Inode
from netfs.fs.plain import PlainOps, PlainVolume
from netfs.fs.volume import FileOps
from transport.base import Transport
from transport.messages import Attr, DirEntry, EntryReply, Handle, Write


class BlockOps(PlainOps):
    """The server holds whole blocks; the real size is kept in `sizes`, as a sealed record would."""

    def __init__(self, volume: "BlockVolume", inode: Inode) -> None:
        super().__init__(volume.transport, inode.handle, (volume.rsize, volume.wsize))
        self.inode = inode
        self.volume = volume
        self.block_size = volume.block

    def check(self, subreq: IoSubrequest) -> None:
        block = self.block_size
        assert (subreq.start + subreq.transferred) % block == 0
        assert subreq.iter.count % block == 0

    def issue_read(self, subreq: IoSubrequest) -> None:
        self.check(subreq)
        size = self.inode.sizes.i_size
        assert subreq.start < size + -size % self.block_size, "a read behind the end"
        super().issue_read(subreq)

    def issue_write(self, subreq: IoSubrequest) -> None:
        self.check(subreq)
        super().issue_write(subreq)

    async def commit(self, verifier: int) -> int:
        self.volume.sizes[self.handle] = self.inode.sizes.remote_i_size
        return await super().commit(verifier)

    async def resize(self, size: int) -> None:
        with trio.CancelScope(shield=True):  # stands for one transaction
            await self.resize_in_steps(size)

    async def resize_in_steps(self, size: int) -> None:
        tail = -size % self.block_size
        await super().resize(size)
        await super().resize(size + tail)
        if tail:
            zeros = IovIter.ubuf(Direction.SOURCE, bytes(tail))
            reply = await self.transport.call(Write(self.handle, size), source=zeros)
            assert not reply.status
        self.volume.sizes[self.handle] = size

    async def opened(self, entry: EntryReply, sent: Attr | None = None, *, write: bool) -> tuple[Attr, int]:
        attr, _ = await super().opened(entry, sent, write=write)
        # Direct writes are not committed yet when another descriptor opens.
        size = max(self.volume.sizes.get(self.handle, 0), self.inode.sizes.remote_i_size if self.inode.uncommitted else 0)
        return attr, self.volume.sizes.setdefault(self.handle, size)


@dataclass
class BlockVolume(PlainVolume):
    transport: Transport
    rsize: int
    wsize: int
    block: int
    sizes: dict[Handle, int] = field(default_factory=dict)

    def file_ops(self, inode: Inode) -> FileOps:
        return BlockOps(self, inode)

    async def lookup(self, parent: Handle, name: str) -> EntryReply:
        entry = await super().lookup(parent, name)
        entry.attr.size = self.sizes.get(entry.handle, 0)
        return entry

    async def entries(self, handle: Handle) -> AsyncIterator[DirEntry]:
        async for entry in super().entries(handle):
            entry.attr.size = self.sizes.get(entry.handle, 0)
            yield entry
