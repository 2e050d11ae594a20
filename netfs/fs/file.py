"""Trio shell. File: an open descriptor, with a position, buffered or direct.

The caller's buffers are lent from a call to its return, also when it is cancelled. `read` returns `bytes` and pays one copy for
it; everything else moves data straight between the caller's memory and the folio or the transport.
"""

import errno
import io
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import trio

from iov.bvec import Buffer, byte_view
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from netfs.engine.buffered_read import buffered_read, cached_read
from netfs.engine.buffered_write import barrier, buffered_write
from netfs.engine.direct import direct_read, direct_write
from netfs.engine.mapped import map_read, map_write
from netfs.engine.park import acquire_exclusive
from netfs.engine.readahead import MAX_WINDOW, Readahead
from netfs.engine.request import Origin
from netfs.engine.writeback import fsync, resize
from netfs.errors import translate
from netfs.fs.file_attributes import FileAttributes
from netfs.fs.file_lent import FileLent
from netfs.fs.file_locks import FileLocks
from netfs.fs.file_space import FileSpace
from netfs.fs.file_xattrs import FileXattrs
from netfs.fs.inode import Inode
from netfs.fs.settling import flush
from netfs.fs.told import told
from transport.messages import Attr, FileType, Handle

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["File", "OpenMode", "parse_mode"]

MAX_POS: Final = (1 << 63) - 1
READ_ON_CHUNK: Final = 1 << 20
_DEST = Direction.DEST
_DIRECT: Final = (Origin.DIO_READ, Origin.DIO_WRITE)
_UNBUFFERED: Final = (Origin.UNBUFFERED_READ, Origin.UNBUFFERED_WRITE)


@dataclass(frozen=True, slots=True)
class OpenMode:
    """What an open mode asks for."""

    read: bool
    write: bool
    append: bool
    create: bool
    exclusive: bool
    truncate: bool


_ATTR: Final = struct.Struct("<QBIIIIqqqqq?")
_MODES: Final = {
    "r": OpenMode(read=True, write=False, append=False, create=False, exclusive=False, truncate=False),
    "w": OpenMode(read=False, write=True, append=False, create=True, exclusive=False, truncate=True),
    "a": OpenMode(read=False, write=True, append=True, create=True, exclusive=False, truncate=False),
    "x": OpenMode(read=False, write=True, append=False, create=True, exclusive=True, truncate=False),
}

_BOTH: Final = {letter: replace(mode, read=True, write=True) for letter, mode in _MODES.items()}


def parse_mode(mode: str) -> OpenMode:
    """Read a mode as Python's `open` knows it, always binary: r, w, a or x, perhaps with + and b. Raises: ValueError."""
    letters = mode.replace("b", "", 1)
    base = _MODES.get(letters[:1])
    if base is None or letters[1:] not in {"", "+"}:
        raise ValueError(f"not an open mode: {mode!r}")
    return _BOTH[letters[:1]] if letters[1:] else base


class File(FileAttributes, FileXattrs, FileSpace, FileLocks, FileLent):
    """An open file. Use it as an async context manager, or call `aclose`."""

    __slots__ = (
        "_ahead", "_attr", "_client", "_closed", "_error_mark", "_inode", "_mode", "_origins", "_owner", "_pos", "direct", "path",
        "sync",
    )  # fmt: skip

    def __init__(
        self, client: "Client", inode: Inode, path: str, mode: OpenMode, attr: Attr, *,
        direct: bool, sync: bool = False, buffers: bool = True,
    ) -> None:  # fmt: skip
        self.path = path
        # As bytes, since many files may stay open.
        self._attr = _ATTR.pack(
            attr.ino, attr.type, attr.mode, attr.nlink, attr.uid, attr.gid, attr.size, attr.atime_ns, attr.mtime_ns,
            attr.ctime_ns, attr.change, attr.sealed,
        )  # fmt: skip
        self.direct = direct or not buffers
        self.sync = sync
        self._origins = _DIRECT if direct else _UNBUFFERED
        self._client = client
        self._inode = inode
        self._mode = mode
        self._pos = 0
        self._closed = False
        self._owner = client.new_owner()
        self._error_mark = inode.wb_error.sample()
        self._ahead: Readahead | None = None

    @property
    def attr(self) -> Attr:
        """The attributes when it was opened, the caller's to change; their size is not the one to believe."""
        ino, kind, *rest = _ATTR.unpack(self._attr)
        return Attr(ino, FileType(kind), *rest)

    @property
    def size(self) -> int:
        """Bytes in the file, as far as this client knows."""
        return self._inode.sizes.i_size

    @property
    def handle(self) -> Handle:
        """What the server calls the file."""
        return self._inode.handle

    @property
    def probe(self) -> Probe:
        """What counts for its client, and whom its events are told to."""
        return self._inode.probe

    @property
    def block_size(self) -> int:
        """Bytes that are encrypted together, 1 in a file that is not encrypted."""
        return self._inode.ops.block_size

    async def strays(self) -> list[int]:
        """Return the numbers of blocks for which the server keeps bytes that are no part of the file. Cancellation: no effect."""
        self._check_open()
        try:
            return await self._inode.file_ops.strays()
        except Exception as error:
            raise translate(error, self.path, self._inode.probe) from error

    @property
    def closed(self) -> bool:
        """True after `aclose`."""
        return self._closed

    @property
    def writable(self) -> bool:
        """True when it was opened for writing."""
        return self._mode.write

    @told
    async def read(self, n: int = -1, pos: int | None = None) -> bytes:
        """Read up to `n` bytes, all that is left for -1, at `pos` or at the descriptor's position, which moves.

        Returns: fewer bytes than asked only at the end of the file, or before a part that cannot be read.
        Raises: OSError. Cancellation: no effect.
        """
        at = self._pos if pos is None else pos
        if n < 0 or n > max(self.size - at, READ_ON_CHUNK):
            # No buffer is made for bytes that are not there.
            data = await self._read_on(at, MAX_POS if n < 0 else n)
        else:
            data = await self._read_bytes(n, at)
        if pos is None:
            self._pos = at + len(data)
        return data

    async def _read_bytes(self, n: int, pos: int) -> bytes:
        if not self.direct:
            self._check_read(pos)
            await trio.lowlevel.checkpoint()
            view = await self._lent(n, pos)
            if view is not None:
                self._inode.probe.copied(len(view))
                return bytes(view)  # door: File.read returns bytes, straight out of the folio
            n = max(0, min(n, self.size - pos))
        buffer = memoryview(bytearray(n))
        it = IovIter.ubuf(_DEST, buffer)
        done = await self.read_iter(it, pos)
        while done < n and not it.count:  # an iterator holds less than a very long buffer
            it = IovIter.ubuf(_DEST, buffer[done:])
            more = await self.read_iter(it, pos + done)
            if not more:
                break
            done += more
        self._inode.probe.copied(done)
        return bytes(buffer[:done])  # door: File.read returns bytes

    async def _read_on(self, pos: int, limit: int) -> bytes:
        data = await self._read_bytes(min(limit, max(self.size - pos, 1)), pos)
        # The end is where a read says so: the file may have grown, or be larger than its size said.
        while data and len(data) < limit:
            rest = await self._read_bytes(min(limit - len(data), READ_ON_CHUNK), pos + len(data))
            if not rest:
                break
            data += rest
        return data

    @told
    async def write(self, data: Buffer, pos: int | None = None) -> int:
        """Write all of `data` at `pos`, or at the descriptor's position, which moves; at the end in append mode.

        Returns: len(data). Raises: OSError; a prefix may have been written, and the position has moved past it.
        Cancellation: a prefix may have been written.
        """
        left = byte_view(data)
        total = len(left)
        at = self._pos if pos is None else pos
        it = IovIter.ubuf(Direction.SOURCE, left)
        if not total:
            await self.write_iter(it, at)
        while len(left):
            if not it.count:  # an iterator holds less than a very long buffer
                it = IovIter.ubuf(Direction.SOURCE, left)
            done = await self.write_iter(it, at)
            left = left[done:]
            at = self._inode.sizes.i_size if self._mode.append else at + done
            if pos is None:
                self._pos = at
        return total

    @told
    async def preadv(self, buffers: Iterable[Buffer], pos: int) -> int:
        """Read at `pos` into writable buffers, in order. Returns, raises, cancellation: as `read_iter`."""
        if (
            not self.direct
            and type(buffers) is list
            and len(buffers) == 1
            and (view := byte_view(buffers[0]))
            and not view.readonly
        ):
            self._check_read(pos)
            await trio.lowlevel.checkpoint()
            self._check_read(pos)
            done = cached_read(self._inode, view, pos, self._ahead or self._read_ahead())
            if done:
                return done
        return await self.read_iter(IovIter.iovec(_DEST, buffers), pos)

    @told
    async def pwritev(self, buffers: Iterable[Buffer], pos: int) -> int:
        """Write buffers at `pos`, in order. Returns, raises, cancellation: as `write_iter`."""
        return await self.write_iter(IovIter.iovec(Direction.SOURCE, buffers), pos)

    @told
    async def read_iter(self, it: IovIter, pos: int) -> int:
        """Read at `pos` into an iterator, which is moved by what came.

        Returns: bytes; 0 at the end of the file; fewer than asked only there or where a later part failed. Memory behind them
        is as it was, but after a failure or a lost connection a direct read may have left anything in all that was lent.
        Raises: OSError of the first part; ValueError for a SOURCE iterator. Cancellation: no effect but on the memory.
        Ownership: the memory is lent until this returns or raises.
        """
        if it.direction is not _DEST:
            raise ValueError("a read needs an iterator that is a destination")
        self._check_read(pos)
        if it.count > MAX_POS - pos:
            it.truncate(MAX_POS - pos)
        try:
            if self.direct:
                return await direct_read(self._inode, it, pos, self._origins[0])
            return await buffered_read(self._inode, it, pos, self._ahead or self._read_ahead())
        except Exception as error:
            raise translate(error, self.path, self._inode.probe) from error

    @told
    async def write_iter(self, it: IovIter, pos: int) -> int:
        """Write an iterator at `pos`, at the end in append mode; it is moved by what was written.

        Returns: bytes; direct: exactly these reached the server. Fewer than asked where a later part failed.
        Raises: OSError of the first part, or one that an earlier buffered write left behind, once.
        Cancellation: a prefix may have been written.
        Ownership: the memory is lent until this returns or raises.
        """
        if it.direction is _DEST:
            raise ValueError("a write needs an iterator that is a source")
        self._check_write(pos)
        if it.count > MAX_POS - pos:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), self.path)
        append = self._mode.append
        if self._inode.own is not None:
            await self._settled()
        try:
            if self.direct:
                done = await direct_write(self._inode, it, pos, append=append, origin=self._origins[1])
            else:
                self._raise_late_error()
                done = await buffered_write(self._inode, it, pos, append=append, through=self.sync)
            if self.sync and done:
                await fsync(self._inode)
                self._raise_late_error()
            return done
        except Exception as error:
            await self._inode.file_ops.written()
            raise translate(error, self.path, self._inode.probe) from error

    @told
    async def fsync(self) -> None:
        """Make everything written to the file durable on the server.

        Raises: OSError, also of an earlier write that nobody waited for, once for each descriptor.
        Cancellation: may have happened.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        if self.holds_back:
            await self._settled()
            self._inode.uncommitted = True
        self._inode.file_ops.gather_no_more()  # a write was made durable, and not what was changed with it
        await self._made_durable(fsync(self._inode))

    @told
    async def flush(self) -> None:
        """Do as `fsync`, with fewer messages where the file is small; of attributes that were held back it is only sure that the
        server has them. What a close does.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        await self._made_durable(flush(self._client, self._inode))

    async def _made_durable(self, work: Awaitable[None]) -> None:
        try:
            await work
            self._raise_late_error()
        except Exception as error:
            await self._inode.file_ops.written()
            raise translate(error, self.path, self._inode.probe) from error

    async def barrier(self) -> None:
        """Order writes without waiting for them: what the file was given before reaches the server before what it is given after.

        Cancellation: no barrier.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        await barrier(self._inode)

    @asynccontextmanager
    async def mapped(self, pos: int, length: int, *, write: bool = False) -> AsyncIterator[memoryview]:
        """Lend the file's bytes at `pos` in place, without a copy: as many of `length` as one folio holds.

        Args: write: they may be changed; the file's other writers wait until the block ends, and the file does not grow by it.
        Raises: OSError; EINVAL for a direct descriptor, and to change what lies behind the end.
        Cancellation: no effect; what was changed is written. Ownership: the memory is lent for the length of the block.
        """
        (self._check_write if write else self._check_read)(pos)
        if self.direct:
            raise OSError(errno.EINVAL, "a direct descriptor has nothing in memory", self.path)
        if write:
            await self._settled()
        ahead = self._ahead or self._read_ahead()
        lent = map_write(self._inode, pos, length) if write else map_read(self._inode, pos, length, ahead)
        async with AsyncExitStack() as stack:
            try:
                view = await stack.enter_async_context(lent)
            except Exception as error:
                raise translate(error, self.path, self._inode.probe) from error
            yield view
        if not write:
            ahead.consumed(pos + len(view))

    @told
    async def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file to `size` bytes, by default to the position. Returns: the size. Cancellation: may have
        happened.
        """
        size = self._pos if size is None else size
        self._check_write(size)
        await trio.lowlevel.checkpoint()
        await self._settled()
        try:
            await acquire_exclusive(self._inode.lock)
            try:
                await resize(self._inode, size)
            finally:
                self._inode.lock.release_exclusive()
        except Exception as error:
            raise translate(error, self.path, self._inode.probe) from error
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position. Returns: the new one. Raises: OSError(EINVAL) for one before the start."""
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._pos, io.SEEK_END: self.size}.get(whence)
        if base is None or not 0 <= base + offset <= MAX_POS:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.path)
        self._pos = base + offset
        return self._pos

    def tell(self) -> int:
        """Return the position."""
        self._check_open()
        return self._pos

    @told
    async def aclose(self) -> None:
        """Close the descriptor; what was written through it is durable when this returns. Idempotent.

        Raises: OSError, also of an earlier write that nobody waited for; the descriptor is closed all the same.
        Cancellation: the descriptor is closed; what is not yet sent stays in the client until it closes.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        try:
            if self._mode.write:
                await self.flush()
                await self._inode.file_ops.written()
            else:
                await trio.lowlevel.checkpoint()
            if self._client.leases.locked(self._inode.handle, self._owner):
                await self._unlock()
            await self._client.keep_written(self._inode)
        finally:
            self._closed = True
            self._client.put_inode(self._inode)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        await self.aclose()

    def _read_ahead(self) -> Readahead:
        # Made at the first read, since many files may stay open.
        self._ahead = Readahead(limit=min(MAX_WINDOW, self._inode.cache.budget // 4))
        return self._ahead

    def _raise_late_error(self) -> None:
        error, self._error_mark = self._inode.wb_error.check(self._error_mark)
        if error is not None:
            raise error

    def _check_range(self, pos: int, *, write: bool) -> None:
        if write:
            self._check_write(pos)
        else:
            self._check_read(pos)

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the file is closed", self.path)

    def _check_read(self, pos: int) -> None:
        if self._closed or not self._mode.read:
            raise OSError(errno.EBADF, "the file is closed" if self._closed else "the file is not open for reading", self.path)
        if not 0 <= pos <= MAX_POS:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.path)

    def _check_write(self, pos: int) -> None:
        if self._closed or not self._mode.write:
            raise OSError(errno.EBADF, "the file is closed" if self._closed else "the file is not open for writing", self.path)
        if not 0 <= pos <= MAX_POS:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.path)
