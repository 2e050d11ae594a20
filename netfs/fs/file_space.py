"""Trio shell. What a descriptor can do with the room of its file: allocate, punch, look for holes, copy on the server.

What the page cache holds is sent before, and forgotten where it has become outdated. Where a volume cannot leave it to the
server, as an encrypted one cannot, the bytes go through the client. Memory: one staging buffer of a copy that goes that way.
"""

import errno
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from iov.iov_iter import Direction, IovIter
from netfs.engine.park import acquire_exclusive
from netfs.engine.writeback import END_OF_TIME, drop_range, flush_range, resize, settle_range
from netfs.errors import translate
from netfs.fs.inode import Inode
from transport.messages import Whence

if TYPE_CHECKING:
    from netfs.fs.file import File

__all__ = ["FileSpace"]

COPY_CHUNK: Final = 1 << 20


class FileSpace:
    """The part of `File` that changes or reads the map of a file's room."""

    __slots__ = ()
    path: str
    _inode: Inode

    def _check_range(self, pos: int, *, write: bool) -> None:
        raise NotImplementedError

    async def write_iter(self, it: IovIter, pos: int) -> int:
        """See `File`."""
        raise NotImplementedError

    @property
    def sealed(self) -> bool:
        """Whether the server has its content as ciphertext only; then it copies nothing by itself."""
        return self._inode.ops.seals

    async def _settled(self) -> None:
        raise NotImplementedError

    async def allocate(self, pos: int, length: int, *, keep_size: bool = False) -> None:
        """Reserve room for a range; the file grows to hold it unless `keep_size`.

        Raises: OSError (ENOSPC, EFBIG, EINVAL for no bytes). Cancellation: may have happened.
        """
        self._check_range(pos, write=True)
        inode = self._inode
        end = pos + length

        async def reserve() -> None:
            try:
                await inode.file_ops.allocate(pos, length, keep_size=keep_size)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP or length < 1:
                    raise
                if not keep_size and end > inode.sizes.i_size:
                    await resize(inode, end)
                return
            if not keep_size and end > inode.sizes.i_size:
                inode.sizes.resized(end)

        await self._changing(reserve, pos, pos)

    async def punch(self, pos: int, length: int) -> None:
        """Make a range read as zeros and give back its room; the size stays. Cancellation: may have happened."""
        self._check_range(pos, write=True)
        inode = self._inode
        try:
            await self._changing(lambda: inode.file_ops.punch(pos, length), pos, pos + length)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or length < 1:
                raise
            await self._fill(pos, min(length, max(0, inode.sizes.i_size - pos)))

    async def seek_data(self, pos: int) -> int:
        """Return where the next data is at or behind `pos`. Raises: OSError(ENXIO) for none. Cancellation: no effect."""
        return await self._seek(pos, Whence.DATA)

    async def seek_hole(self, pos: int) -> int:
        """Return where the next hole is at or behind `pos`, the end of the file at the latest. Raises, cancellation: as above."""
        return await self._seek(pos, Whence.HOLE)

    async def copy_from(self, source: "File", source_pos: int, pos: int, length: int) -> int:
        """Copy up to `length` bytes of another file of this client to `pos` of this one, on the server where it can.

        Returns: bytes copied; fewer than asked only at the end of the source or where a later part failed.
        Raises: OSError(EINVAL) for ranges of one file that overlap. Cancellation: some of it may have happened.
        """
        self._check_range(pos, write=True)
        source._check_range(source_pos, write=False)
        if source._inode is self._inode:
            # What the copy itself adds to the file is not copied in turn.
            length = min(length, max(0, self._inode.sizes.i_size - source_pos))
        done = 0
        while done < length:
            try:
                count = await self._copy_some(source, source_pos + done, pos + done, length - done)
            except OSError:
                if done:
                    return done
                raise
            if not count:
                break
            done += count
        return done

    async def _copy_some(self, source: "File", source_pos: int, pos: int, length: int) -> int:
        ours, theirs = self._inode, source._inode
        copied = 0

        async def copy() -> None:
            nonlocal copied
            reply = await ours.file_ops.copy_from(theirs.handle, source_pos, pos, length)
            copied = reply.count
            # The answer may be one that is remembered from before a restart: it names the boot that did it.
            ours.wrote_direct(reply.verifier)
            if copied:
                ours.sizes.wrote_server(pos + copied)

        try:
            # Safe, not only there: a restart of the server before the copy would have it copy what was there before.
            await settle_range(theirs, source_pos, source_pos + length, alone=False)
            await self._changing(copy, pos, pos + length)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        else:
            return copied
        if ours is theirs and abs(source_pos - pos) < length:
            raise translate(OSError(errno.EINVAL, "the ranges overlap"), self.path)
        buffer = bytearray(min(length, COPY_CHUNK))
        got = await source.read_iter(IovIter.ubuf(Direction.DEST, buffer), source_pos)
        ours.probe.copied(got)
        return await self.write_iter(IovIter.ubuf(Direction.SOURCE, memoryview(buffer)[:got]), pos) if got else 0

    async def _seek(self, pos: int, whence: Whence) -> int:
        self._check_range(pos, write=False)
        inode = self._inode
        try:
            await flush_range(inode, 0, END_OF_TIME)
            return await inode.file_ops.seek(pos, whence, inode.sizes.i_size)
        except Exception as error:
            raise translate(error, self.path) from error

    async def _fill(self, pos: int, length: int) -> None:
        """Write zeros, where no hole can be made."""
        zeros = memoryview(bytes(min(length, COPY_CHUNK)))
        done = 0
        while done < length:
            done += await self.write_iter(IovIter.ubuf(Direction.SOURCE, zeros[: length - done]), pos + done)

    async def _changing(self, change: Callable[[], Awaitable[None]], start: int, end: int) -> None:
        """Have the server change a range of the file, with nothing of it only here before and nothing outdated after."""
        inode = self._inode
        await self._settled()
        try:
            await acquire_exclusive(inode.lock)
            try:
                await flush_range(inode, 0, END_OF_TIME)
                await settle_range(inode, start, end)
                try:
                    await change()
                except BaseException:
                    inode.doubtful = True
                    raise
                inode.wrote_direct(inode.ops.boot)
                if inode.cookie is not None and not inode.ops.seals:
                    inode.cookie.invalidate("the server changed the file")
                if end > start:
                    await drop_range(inode, start, end)
            finally:
                inode.lock.release_exclusive()
        except Exception as error:
            raise translate(error, self.path) from error
